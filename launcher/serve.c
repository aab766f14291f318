/*
 * The launcher that stays. A program that is executed for each container costs more than the clone
 * of its init: the kernel copies the runtime's descriptors, hundreds where hundreds of containers
 * run, and closes them again. This process has three.
 *
 * In a mount namespace of its own, made before any image is mounted, it has none of the images, and
 * so no clone copies them. The mounts of the host are slaves there as in the runtime's namespace:
 * what the host mounts later appears in both.
 *
 * It serves one request at a time, and keeps nothing of it: no descriptor, no plan. So an init, its
 * clone, has nothing of another container.
 */
#include <endian.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "launcher.h"
#include "steps.h"
#include "syscalls.h"

/*
 * Receives a request. SOCKET becomes its stream. A request without a stream ends this process: the
 * runtime relies on a report, or on the end of the launcher.
 */
static int receive_request(void)
{
	uint32_t count;
	ssize_t size, length;
	char *bytes;
	int error;

	do
		size = recv(request_socket, &count, sizeof count, MSG_PEEK | MSG_TRUNC);
	while (size < 0 && errno == EINTR);
	if (size == 0)
		_exit(0); /* the end of the runtime */
	if (size < 0)
		fail_step(STEP_RECEIVE, "a request", errno);
	set_progress(NO_OPERATION, STEP_RECEIVE);
	ABOUT("the plan");
	size -= (ssize_t)sizeof count;
	bytes = size > 0 ? allocate_plan((size_t)size) : NULL;
	error = errno;
	plan.start = bytes;
	plan.end = bytes ? bytes + size : NULL;
	length = receive_message(request_socket, &count, bytes, bytes ? (size_t)size : 0);
	if (plan.descriptor_count == 0)
		fail_step(STEP_RECEIVE, "a request without a stream", EPROTO);
	fcntl(descriptors[0], F_SETFL, O_RDWR); /* blocking, as in main() */
	if (dup2(descriptors[0], SOCKET) < 0)
		fail_step(STEP_RECEIVE, "the stream of a request", errno);
	close(descriptors[0]);
	descriptors[0] = -1;
	if (size > 0 && !bytes) {
		errno = error;
		return -1;
	}
	if (length > 0 && bytes && count == plan.descriptor_count)
		return 0;
	ABOUT("a request must be a count, a plan, and as many descriptors");
	errno = EPROTO;
	return -1;
}

static int serve_request(void)
{
	if (receive_request() || check())
		return -1;
	if (!is_exec_plan(&plan))
		return launch();
	ABOUT("a request with an exec plan");
	errno = EINVAL;
	return -1;
}

/* Closes all that the request has brought. SOCKET stays in use, so that no descriptor of the next
 * request gets its number. */
static void release_request(void)
{
	for (size_t i = 0; i < plan.descriptor_count; i++)
		if (descriptors[i] >= 0)
			close(descriptors[i]);
	if (plan.start)
		release_plan();
	if (dup2(request_socket, SOCKET) < 0)
		exit_silently();
}

/* The runtime has given up this container. This process serves the others. */
static void drop_report(void)
{
	if (errno != EPIPE && errno != ECONNRESET)
		exit_silently();
}

noreturn void serve(bool own_namespace)
{
	sigset_t all;

	/* The signals of a terminal or a service manager are for the runtime. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "nstar-launcher");
	request_socket = fcntl(SOCKET, F_DUPFD_CLOEXEC, SOCKET + 1);
	if (request_socket < 0)
		fail_step(STEP_RECEIVE, "the socket", errno);
	/* Without the namespace it clones the runtime's: slower, and otherwise the same. */
	stream_lost = drop_report;
	own_namespace = own_namespace && syscall_unshare(CLONE_NEWNS) == 0;
	report_plain(REPORT_SERVING, own_namespace);
	for (;;) {
		if (serve_request())
			send_report(REPORT_FAILED, errno, 0, -1);
		release_request();
	}
}
