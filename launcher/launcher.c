/*
 * northstar-init starts a container. Three processes:
 *
 *   launcher   spawned by the runtime. Checks the plan and clones init into the new namespaces. It
 *              exits then; or it stays, and does so for each request (serve.c).
 *   init       PID 1 of the container. Sets the container up, waits for GO, forks the payload and
 *              drops all privileges; then reaps orphans, watches the payload and reports its exit
 *              (init.c).
 *   payload    restricts itself and executes the container's program (payload.c).
 *
 * With an exec plan it executes one more process in a running container (enter.c).
 *
 * They communicate with the runtime over one socket, descriptor 3; plan.def defines the messages.
 * Nothing is printed.
 */
#include "launcher.h"

#include <endian.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "steps.h"
#include "syscalls.h"

enum { PLAN_BYTES_MAX = 16 << 20 };

struct plan plan = { .descriptors = descriptors };
int descriptors[DESCRIPTORS_MAX + 1];
int cgroup_to_join = -1;
int request_socket = -1;

/* The address sanitizer checks the bounds of allocations, not of mappings. */
#ifdef __SANITIZE_ADDRESS__
char *allocate_plan(size_t size)
{
	return malloc(size);
}

static const char *map_file(int file, size_t size)
{
	char *copy = malloc(size);

	return copy && pread(file, copy, size, 0) == (ssize_t)size ? copy : NULL;
}

void release_plan(void)
{
	free((void *)(uintptr_t)plan.start);
}
#else
char *allocate_plan(size_t size)
{
	char *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return start == MAP_FAILED ? NULL : start;
}

static const char *map_file(int file, size_t size)
{
	void *start = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);

	return start == MAP_FAILED ? NULL : start;
}

void release_plan(void)
{
	munmap((void *)(uintptr_t)plan.start, (size_t)(plan.end - plan.start));
}
#endif

ssize_t receive_message(int socket, uint32_t *word, void *bytes, size_t size)
{
	union {
		char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
		struct cmsghdr align;
	} buffer;
	struct iovec parts[] = { { word, sizeof *word }, { bytes, size } };
	struct msghdr message = {
		.msg_iov = parts,
		.msg_iovlen = 2,
		.msg_control = &buffer,
		.msg_controllen = sizeof buffer,
	};
	struct cmsghdr *header;
	ssize_t length;

	*word = 0;
	plan.descriptor_count = 0;
	do
		length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (length < 0 && errno == EINTR);
	if (length <= 0)
		return length;
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
		size_t passed = header->cmsg_len - CMSG_LEN(0);

		plan.descriptor_count = passed / sizeof(int);
		memcpy(descriptors, CMSG_DATA(header), passed);
	}
	*word = le32toh(*word);
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		errno = EPROTO;
		return -1;
	}
	return length;
}

/* Receives a u32 count, and as many descriptors by SCM_RIGHTS: the first is the plan. Or SERVE. */
static void receive(void)
{
	uint32_t count, own_namespace = 0;
	ssize_t length = receive_message(SOCKET, &count, &own_namespace, sizeof own_namespace);

	if (length == 0)
		exit_silently();
	if (length < 0 && errno != EPROTO)
		fail_step(STEP_RECEIVE, "the first message", errno);
	if (length == 2 * sizeof count && count == SERVE && plan.descriptor_count == 0)
		serve(own_namespace);
	if (length != sizeof count || plan.descriptor_count == 0 || count != plan.descriptor_count)
		fail_step(STEP_RECEIVE, "the first message must be a count and as many descriptors",
			  EPROTO);
}

/* Maps the plan. The seals ensure that it does not change after the check. */
static void map_plan(void)
{
	const int wanted = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
	int seals = fcntl(descriptors[0], F_GET_SEALS);
	struct stat file;
	size_t size;

	if (seals < 0 || (seals & wanted) != wanted)
		fail_step(STEP_RECEIVE, "the plan is not sealed", seals < 0 ? errno : EINVAL);
	if (fstat(descriptors[0], &file))
		fail_step(STEP_RECEIVE, "the plan", errno);
	if (file.st_size == 0 || file.st_size > PLAN_BYTES_MAX)
		fail_step(STEP_PLAN, "the plan is empty or larger than 16 MiB", EINVAL);
	size = (size_t)file.st_size;
	plan.start = map_file(descriptors[0], size);
	if (!plan.start)
		fail_step(STEP_RECEIVE, "the plan", errno);
	plan.end = plan.start + size;
}

int check(void)
{
	set_progress(NO_OPERATION, STEP_PLAN);
	if (check_plan(&plan, &progress->what))
		return 0;
	errno = EINVAL;
	return -1;
}

/*
 * Clones init. Its parent is the runtime (CLONE_PARENT), which reaps it, and receives the pidfd
 * with the report. A byte in the pipe notifies init that the report is sent; without the byte init
 * ends.
 */
int launch(void)
{
	struct operation operation = before_first(&plan);
	struct clone_args arguments = { 0 };
	int launched[2], pidfd = -1, cgroup, error;
	pid_t pid;

	next_operation(&plan, &operation);
	set_progress(operation.index, operation.number);
	arguments.flags = take_number(&operation) | CLONE_PARENT | CLONE_PIDFD;
	arguments.pidfd = (uintptr_t)&pidfd;
	cgroup = take_descriptor(&operation, &plan);
	cgroup_to_join = -1;
	if (cgroup >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = (unsigned int)cgroup;
	}
	if (pipe2(launched, O_CLOEXEC))
		return -1;
	pid = syscall_clone3(&arguments, sizeof arguments);
	if (pid < 0 && cgroup >= 0 && (errno == E2BIG || errno == EINVAL)) {
		cgroup_to_join = cgroup;
		arguments.flags &= ~(uint64_t)CLONE_INTO_CGROUP;
		arguments.cgroup = 0;
		pid = syscall_clone3(&arguments, sizeof arguments);
	}
	if (pid == 0) {
		close(launched[1]);
		init(launched[0]);
	}
	if (pid > 0) {
		set_progress(NO_OPERATION, 0);
		send_report(REPORT_LAUNCHED, 0, pid, pidfd);
		/* A byte that cannot be sent: init is dead, and the runtime sees it by the pidfd. */
		(void)!write(launched[1], "", 1);
		close(pidfd);
	}
	error = errno;
	close(launched[0]);
	close(launched[1]);
	errno = error;
	return pid < 0 ? -1 : 0;
}

/*
 * The launcher: spawned by the runtime with a socket as descriptor 3 and no other descriptor. It
 * exits with 0 after it has cloned init, and with 1 after a failure. With arguments it is the
 * supervisor of the command that they form (supervise.c).
 */
int main(int count, char **arguments)
{
	static const char usage[] =
		"northstar-init is a part of the Northstar runtime, which starts it with a socket as "
		"descriptor 3; start a container with `nstar start`\n";
	int type = 0;
	socklen_t size = sizeof type;

	if (getsockopt(SOCKET, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_SEQPACKET)
		return write(STDERR_FILENO, usage, sizeof usage - 1) < 0 ? 3 : 2;
	if (count > 1)
		supervise(arguments + 1);
	/* Blocking, independent of O_NONBLOCK on the runtime's end. */
	fcntl(SOCKET, F_SETFL, O_RDWR);
	receive();
	map_plan();
	if (check())
		fail();
	if (is_exec_plan(&plan))
		enter(&plan);
	if (launch())
		fail();
	return 0;
}
