/*
 * northstar-init: from the runtime's request to a container that runs. Three processes:
 *
 *   launcher   spawned by the runtime. Checks the plan, clones init into the new namespaces, ends.
 *   init       PID 1 of the container. Sets the container up, waits for the runtime's word, forks
 *              the payload, gives up all privileges; then reaps, watches and reports.
 *   payload    becomes the container's program, after it has dropped what that must not have
 *              (payload.c).
 *
 * They speak to the runtime over one socket, descriptor 3; plan.def says what. Nothing is printed.
 */
#include <endian.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <linux/close_range.h>

#include "steps.h"
#include "syscalls.h"

enum { PLAN_BYTES_MAX = 16 << 20 };

static struct plan plan;

/* [descriptor_count] is the payload's end of the pipe that tells of its exec. */
static int descriptors[DESCRIPTORS_MAX + 1];

/* The sanitizer watches over the ends of what is allocated, not of what is mapped. */
#ifdef __SANITIZE_ADDRESS__
static const char *map_file(int file, size_t size)
{
	char *copy = malloc(size);

	return copy && pread(file, copy, size, 0) == (ssize_t)size ? copy : NULL;
}

static void release_plan(void)
{
	free((void *)(uintptr_t)plan.start);
}
#else
static const char *map_file(int file, size_t size)
{
	void *start = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);

	return start == MAP_FAILED ? NULL : start;
}

static void release_plan(void)
{
	munmap((void *)(uintptr_t)plan.start, (size_t)(plan.end - plan.start));
}
#endif

/* ---- init: setting up ---- */

/*
 * While it is open, the launcher may not have reported LAUNCHED yet, and nothing may be said before.
 * It writes a byte when it has. If it is killed instead, the runtime does not know of this process,
 * which then says so: who has sent a message is told by the kernel, unix(7), SCM_CREDENTIALS.
 */
static int launcher_speaks = -1;

static void let_launcher_speak(void)
{
	int error = errno;
	ssize_t length;
	char byte;

	if (launcher_speaks < 0)
		return;
	do
		length = read(launcher_speaks, &byte, 1);
	while (length < 0 && errno == EINTR);
	close(launcher_speaks);
	launcher_speaks = -1;
	if (length != 1)
		fail_step(STEP_LAUNCH, "the launcher has died", EPIPE);
	errno = error;
}

/* The runtime has nothing to say after GO; what it says all the same is dropped. */
static bool stream_has_ended(void)
{
	char dropped[64];
	ssize_t length = recv(SOCKET, dropped, sizeof dropped, MSG_DONTWAIT);

	return length == 0 || (length < 0 && errno != EAGAIN && errno != EINTR);
}

static bool runtime_is_gone(void)
{
	struct pollfd stream = { .fd = SOCKET };

	return poll(&stream, 1, 0) > 0 && stream.revents & (POLLHUP | POLLERR);
}

/*
 * The second line after the stream's end, for when this process hangs in a system call. A change
 * of ids clears it, so it is set after each. Whoever was gone before is not noticed by it: look.
 */
static void die_with_runtime(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (runtime_is_gone())
		give_up();
}

static int make_socket(struct operation *operation)
{
	struct operation arguments = *operation;
	int index = (int)take_integer(&arguments);
	int runtimes = operation->number == OP_CONSOLE ? step_console(operation, &plan) :
							 step_socket(operation, &plan);

	if (runtimes < 0)
		return -1;
	let_launcher_speak();
	send_report(REPORT_MADE, 0, index, runtimes);
	return close(runtimes);
}

static int await_go(void)
{
	uint32_t word = 0;
	ssize_t length;

	die_with_runtime();
	let_launcher_speak();
	send_report(REPORT_READY, 0, 0, -1);
	do
		length = recv(SOCKET, &word, sizeof word, MSG_TRUNC);
	while (length < 0 && errno == EINTR);
	if (length <= 0)
		give_up();
	if (length == sizeof word && le32toh(word) == GO)
		return 0;
	errno = EPROTO;
	return -1;
}

/* Where the kernel cannot clone into a cgroup (before Linux 5.7) init goes there by itself. */
static int late_cgroup = -1;

static int join_late(void)
{
	int file;

	if (late_cgroup < 0)
		return 0;
	ABOUT("cgroup.procs");
	file = openat(late_cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	if (file < 0 || write(file, "0", 1) != 1)
		return -1;
	return close(file);
}

static int bind_or_skip(struct operation *operation)
{
	int result = step_bind(operation);

	if (result != 1)
		return result;
	let_launcher_speak();
	send_report(REPORT_SKIPPED, 0, 0, -1);
	return 0;
}

static int set_up(struct operation *operation)
{
	switch (operation->number) {
	case OP_CLONE:
		return join_late(); /* the rest is done: we are its result */
	case OP_SETNS:
		return step_setns(operation, &plan);
	case OP_JOIN:
		return step_join(operation, &plan);
	case OP_KEYRING:
		return step_keyring();
	case OP_SESSION:
		return step_session();
	case OP_HOSTNAME:
		return step_hostname(operation);
	case OP_LOOPBACK:
		return step_loopback();
	case OP_SELINUX:
		return step_selinux(operation);
	case OP_ROOT:
		return step_root(operation);
	case OP_BIND:
		return bind_or_skip(operation);
	case OP_FILESYSTEM:
		return step_filesystem(operation);
	case OP_DEV:
		return step_dev(operation);
	case OP_PIVOT:
		return step_pivot();
	case OP_GROUPS:
		return step_groups(operation);
	case OP_GID:
		return step_gid(operation);
	case OP_UID:
		return step_uid(operation);
	case OP_CONSOLE:
	case OP_SOCKET:
		return make_socket(operation);
	case OP_AWAIT:
		return await_go();
	case OP_CGROUPNS:
		return step_cgroupns();
	}
	errno = ENOSYS;
	return -1;
}

static void interrupt(int number)
{
	(void)number;
}

/*
 * A signal to the container's process group is for the payload, but reaches init as well. Ignored
 * ones are dropped on arrival, so no burst of them can fill a queue. SIGCHLD must only interrupt
 * ppoll: it is blocked otherwise. (KILL and STOP cannot be ignored; from inside, the kernel keeps
 * them away from PID 1, and only the runtime can send them from outside.)
 */
static void ignore_signals(void)
{
	struct sigaction child = { .sa_handler = interrupt };
	sigset_t blocked;

	for (int number = 1; number <= LAST_SIGNAL; number++)
		syscall_rt_sigaction_plain(number, SIG_IGN);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_SETMASK, &blocked, NULL);
	sigaction(SIGCHLD, &child, NULL);
}

/* ---- init: watching over the payload ---- */

/*
 * After the fork init needs nothing any more, so it holds nothing that a payload could want: one
 * descriptor besides the pipe, no capabilities, no plan. The payload waits for this before it execs.
 */
static void shield(int pipe, struct progress *shared)
{
	set_progress(NO_OPERATION, STEP_SHIELD);
	if (step_no_new_privs() || step_caps(0))
		fail();
	ABOUT("descriptors");
	if (change_descriptors(0, SOCKET - 1, 0) ||
	    (pipe > SOCKET + 1 && change_descriptors(SOCKET + 1, (unsigned int)pipe - 1, 0)) ||
	    change_descriptors((unsigned int)pipe + 1, UINT_MAX, 0))
		fail();
	release_plan();
	announce_shield(shared);
}

/*
 * The pipe has ended: exec, or death? A process group can only be set before exec, setpgid(2): for
 * a child that has executed the kernel answers EACCES (EPERM if it has made a session since), also
 * when it is dead already, as long as it is not reaped. An exec may close the pipe well before it
 * counts as one (15 ms were seen on Linux 6.1), so success is only final for the dead,
 * and whether it is dead is asked first.
 */
enum verdict { UNDECIDED, EXECUTED, DIED };

static enum verdict judge(pid_t child)
{
	siginfo_t ended = { .si_pid = 0 };

	waitid(P_PID, (id_t)child, &ended, WEXITED | WNOHANG | WNOWAIT);
	if (setpgid(child, getpgrp()) < 0 && (errno == EACCES || errno == EPERM))
		return EXECUTED;
	return ended.si_pid == child ? DIED : UNDECIDED;
}

static noreturn void report_death(pid_t child, struct progress *last_words)
{
	int status = 0;

	progress = last_words;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		continue;
	if (progress->error || !WIFSIGNALED(status)) {
		errno = progress->error ? progress->error : EPROTO;
		fail();
	}
	send_report(REPORT_FAILED, 0, WTERMSIG(status), -1);
	_exit(1);
}

static void reap(pid_t child)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
		if (pid != child)
			continue;
		set_progress(NO_OPERATION, WIFSIGNALED(status) ? 1 : 0);
		send_report(REPORT_EXITED, 0,
			    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), -1);
		_exit(0); /* and the kernel ends whatever is left in the namespace */
	}
}

/*
 * init, once the payload's process is forked. Until it has executed, nothing is reaped (see above).
 * It ends with the payload, or with the stream: then the runtime is gone. When PID 1 ends, the
 * kernel kills everything in its namespace, so nothing here may end for another reason.
 */
static noreturn void watch(pid_t child, int pipe, struct progress *last_words)
{
	struct pollfd sources[] = {
		{ .fd = SOCKET, .events = POLLIN },
		{ .fd = pipe, .events = POLLIN },
	};
	const struct timespec soon = { .tv_nsec = 1000000 };
	enum verdict verdict = UNDECIDED;
	bool judging = false;
	sigset_t none;

	sigemptyset(&none);
	for (;;) {
		if (verdict == EXECUTED)
			reap(child);
		if (ppoll(sources, 2, judging ? &soon : NULL, &none) < 0)
			continue; /* SIGCHLD */
		if (sources[0].revents && stream_has_ended())
			give_up();
		if (sources[1].fd >= 0 && sources[1].revents) {
			close(pipe);
			sources[1].fd = -1; /* poll(2) passes over it */
			judging = true;
		}
		if (!judging)
			continue;
		verdict = judge(child);
		if (verdict == DIED)
			report_death(child, last_words);
		if (verdict == UNDECIDED)
			continue;
		judging = false;
		munmap(last_words, sizeof *last_words);
		report_plain(REPORT_STARTED, child);
	}
}

/*
 * init, PID 1 of the container: does the plan up to PAYLOAD and forks. It reports READY when the
 * container is made and waits for GO, so the runtime can put it into cgroups meanwhile.
 */
static noreturn void init(int launcher)
{
	struct operation operation = before_first(&plan);
	struct progress *last_words;
	int pipes[2];
	pid_t child;

	launcher_speaks = launcher;
	prctl(PR_SET_NAME, "northstar-init");
	ignore_signals();
	umask(0);
	die_with_runtime();
	while (next_operation(&plan, &operation) && operation.number != OP_PAYLOAD) {
		set_progress(operation.index, operation.number);
		if (set_up(&operation)) {
			let_launcher_speak();
			fail();
		}
	}
	/* Before the fork, so that there is no moment at which the payload could get at init. Its own
	 * execve makes the payload dumpable again. The change of ids undoes both calls that follow. */
	set_progress(NO_OPERATION, STEP_SHIELD);
	if (step_aside())
		fail();
	die_with_runtime();
	set_progress(NO_OPERATION, STEP_FORK);
	last_words = mmap(NULL, sizeof *last_words, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (last_words == MAP_FAILED || prctl(PR_SET_DUMPABLE, 0) || pipe2(pipes, O_CLOEXEC))
		fail();
	last_words->index = progress->index; /* it may die before it has said a word */
	last_words->number = progress->number;
	descriptors[plan.descriptor_count++] = pipes[1];
	child = fork();
	if (child < 0)
		fail();
	if (child == 0)
		payload(&plan, operation, last_words);
	/* The end that is watched lies above the socket, whatever was free. */
	pipes[0] = fcntl(pipes[0], F_DUPFD_CLOEXEC, SOCKET + 1);
	if (pipes[0] < 0)
		fail();
	shield(pipes[0], last_words);
	watch(child, pipes[0], last_words);
}

/* ---- The launcher ---- */

/* Receives the descriptors: u32 count, and that many by SCM_RIGHTS. The first is the plan. */
static void receive(void)
{
	uint32_t count = 0;
	union {
		char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = { &count, sizeof count };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control,
	};
	struct cmsghdr *header;
	ssize_t length;

	do
		length = recvmsg(SOCKET, &message, MSG_CMSG_CLOEXEC);
	while (length < 0 && errno == EINTR);
	if (length == 0)
		give_up();
	if (length < 0)
		fail_step(STEP_RECEIVE, "the first message", errno);
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
		size_t size = header->cmsg_len - CMSG_LEN(0);

		plan.descriptor_count = size / sizeof(int);
		memcpy(descriptors, CMSG_DATA(header), size);
	}
	if (length != sizeof count || plan.descriptor_count == 0 ||
	    message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || le32toh(count) != plan.descriptor_count)
		fail_step(STEP_RECEIVE, "the first message is not a count and that many descriptors",
			  EPROTO);
	plan.descriptors = descriptors;
}

/* Maps the plan. Sealed, so what was checked cannot become something else afterwards. */
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

/*
 * Clones init. Its parent is the runtime (CLONE_PARENT), which gets its exit status, and the pidfd
 * with the report. The pipe tells init that the report is made.
 */
static void launch(void)
{
	struct operation operation = before_first(&plan);
	struct clone_args arguments = { 0 };
	int told[2], pidfd = -1, cgroup;
	pid_t pid;

	next_operation(&plan, &operation);
	set_progress(operation.index, operation.number);
	arguments.flags = take_number(&operation) | CLONE_PARENT | CLONE_PIDFD;
	arguments.pidfd = (uintptr_t)&pidfd;
	cgroup = take_descriptor(&operation, &plan);
	if (cgroup >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = (unsigned int)cgroup;
	}
	if (pipe2(told, O_CLOEXEC))
		fail();
	pid = syscall_clone3(&arguments, sizeof arguments);
	if (pid < 0 && cgroup >= 0 && (errno == E2BIG || errno == EINVAL)) {
		late_cgroup = cgroup;
		arguments.flags &= ~(uint64_t)CLONE_INTO_CGROUP;
		arguments.cgroup = 0;
		pid = syscall_clone3(&arguments, sizeof arguments);
	}
	if (pid < 0)
		fail();
	if (pid == 0) {
		close(told[1]);
		init(told[0]);
	}
	set_progress(NO_OPERATION, 0);
	send_report(REPORT_LAUNCHED, 0, pid, pidfd);
	if (write(told[1], "", 1) != 1) /* init is dead already, which its pidfd tells */
		give_up();
}

/*
 * The launcher: spawned by the runtime with a socket as descriptor 3 and nothing else. It ends when
 * init is cloned, with 0, or has reported why it is not, with 1. With arguments it is the supervisor
 * of the command that they are.
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
	/* Whatever the runtime does with its own end, this one waits. */
	fcntl(SOCKET, F_SETFL, O_RDWR);
	receive();
	map_plan();
	set_progress(NO_OPERATION, STEP_PLAN);
	if (!check_plan(&plan, &progress->what)) {
		errno = EINVAL;
		fail();
	}
	launch();
	return 0;
}
