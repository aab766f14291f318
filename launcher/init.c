/* init, PID 1 of a container. The launcher (launcher.c) clones it. */
#include <endian.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "launcher.h"
#include "output.h"
#include "steps.h"
#include "syscalls.h"

static struct output output = NO_OUTPUT;

/* ---- init: set the container up ---- */

/*
 * LAUNCHED must be the first report. The launcher writes a byte to this pipe after it has sent it.
 * If the launcher is killed before, the runtime does not have init's pid. So init reports FAILED,
 * and the kernel adds the sender's pid: unix(7), SCM_CREDENTIALS.
 */
static int launched_pipe = -1;

static void await_launched_report(void)
{
	int error = errno;
	ssize_t length;
	char byte;

	if (launched_pipe < 0)
		return;
	do
		length = read(launched_pipe, &byte, 1);
	while (length < 0 && errno == EINTR);
	close(launched_pipe);
	launched_pipe = -1;
	if (length != 1)
		fail_step(STEP_LAUNCH, "the launcher has died", EPIPE);
	errno = error;
}

/* The runtime sends nothing after GO; other messages are dropped. */
bool stream_has_ended(void)
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
 * Besides the stream's end, for a process that hangs in a system call. A change of ids clears the
 * setting, so it is repeated after each. It does not cover a parent that has already exited, so the
 * stream is checked too.
 */
static void die_with_runtime(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (runtime_is_gone())
		exit_silently();
}

static int make_socket(struct operation *operation)
{
	struct operation arguments = *operation;
	int index = (int)take_integer(&arguments);
	int runtime_end = operation->number == OP_CONSOLE ? step_console(operation, &plan) :
							    step_socket(operation, &plan);

	if (runtime_end < 0)
		return -1;
	await_launched_report();
	send_report(REPORT_MADE, 0, index, runtime_end);
	return close(runtime_end);
}

static int await_go(void)
{
	uint32_t word = 0;
	ssize_t length;

	die_with_runtime();
	await_launched_report();
	send_report(REPORT_READY, 0, 0, -1);
	do
		length = recv(SOCKET, &word, sizeof word, MSG_TRUNC);
	while (length < 0 && errno == EINTR);
	if (length <= 0)
		exit_silently();
	if (length == sizeof word && le32toh(word) == GO)
		return 0;
	errno = EPROTO;
	return -1;
}

static int join_cgroup(void)
{
	int file;

	if (cgroup_to_join < 0)
		return 0;
	ABOUT("cgroup.procs");
	file = openat(cgroup_to_join, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	if (file < 0 || write(file, "0", 1) != 1)
		return -1;
	return close(file);
}

static int bind_or_skip(struct operation *operation)
{
	int result = step_bind(operation);

	if (result != 1)
		return result;
	await_launched_report();
	send_report(REPORT_SKIPPED, 0, 0, -1);
	return 0;
}

static int set_up(struct operation *operation)
{
	switch (operation->number) {
	case OP_CLONE:
		return join_cgroup(); /* the launcher has done the clone itself */
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
	case OP_ATTACH:
		return step_attach(operation, &plan);
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
	case OP_LOG:
		return step_log(operation, &plan, &output);
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
 * A signal to the container's process group is meant for the payload, but reaches init as well.
 * Ignored signals are dropped on arrival, so they cannot fill a queue. SIGCHLD is blocked except in
 * ppoll, which it interrupts. (KILL and STOP cannot be ignored. The kernel drops them if a process
 * of the container sends them to PID 1; from outside, only the runtime sends them.)
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

/* ---- init: watch the payload ---- */

/* Closes all descriptors but these; -1 stands for none. */
static int close_others(const int kept[], size_t count)
{
	unsigned int next = 0;

	for (;;) {
		int lowest = INT_MAX;

		for (size_t i = 0; i < count; i++)
			if (kept[i] >= (int)next && kept[i] < lowest)
				lowest = kept[i];
		if (lowest == INT_MAX)
			return change_descriptors(next, UINT_MAX, 0);
		if (lowest > (int)next && change_descriptors(next, (unsigned int)lowest - 1, 0))
			return -1;
		next = (unsigned int)lowest + 1;
	}
}

/*
 * Drops everything that a payload could exploit: after the fork, init keeps the socket, the pipe,
 * the output pipes and the bell, no capabilities and no plan. The payload's process waits for this
 * before its execve.
 */
static void shield(int pipe, struct progress *shared)
{
	const int kept[] = { SOCKET, pipe, output.ring.bell, output.pipes[0], output.pipes[1] };

	set_progress(NO_OPERATION, STEP_SHIELD);
	if (step_no_new_privs() || step_caps(0))
		fail();
	ABOUT("descriptors");
	if (close_others(kept, sizeof kept / sizeof kept[0]))
		fail();
	release_plan();
	announce_shield(shared);
}

/*
 * The pipe ends on execve and on death; this distinguishes them. setpgid(2) on a child fails with
 * EACCES after the child's execve (EPERM if the child has created a session since), also for a
 * zombie. Trap: execve closes the pipe before setpgid fails (15 ms earlier on Linux 6.1). So a
 * successful setpgid proves a death only if the child was a zombie before the call.
 */
enum verdict { UNDECIDED, EXECUTED, DIED };

static enum verdict exec_verdict(pid_t child)
{
	siginfo_t ended = { .si_pid = 0 };

	waitid(P_PID, (id_t)child, &ended, WEXITED | WNOHANG | WNOWAIT);
	if (setpgid(child, getpgrp()) < 0 && (errno == EACCES || errno == EPERM))
		return EXECUTED;
	return ended.si_pid == child ? DIED : UNDECIDED;
}

static noreturn void report_death(pid_t child, struct progress *shared_progress)
{
	int status = 0;

	progress = shared_progress;
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
		output_end(&output);
		set_progress(NO_OPERATION, WIFSIGNALED(status) ? 1 : 0);
		send_report(REPORT_EXITED, 0,
			    WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), -1);
		_exit(0); /* the kernel kills the other processes of the PID namespace */
	}
}

/*
 * The main loop of init after the fork. A turn is short, whatever the payload writes. Nothing is
 * reaped before the payload's execve, since exec_verdict needs the zombie. init exits when the
 * payload exits, or when the stream ends (the runtime is gone). It must not exit otherwise: the
 * kernel then kills the whole PID namespace.
 */
static noreturn void watch(pid_t child, int pipe, struct progress *shared_progress)
{
	struct pollfd sources[] = {
		{ .fd = SOCKET, .events = POLLIN },
		{ .fd = pipe, .events = POLLIN },
		{ .fd = output.pipes[0], .events = POLLIN },
		{ .fd = output.pipes[1], .events = POLLIN },
	};
	const struct timespec soon = { .tv_nsec = 1000000 };
	/* A pipe of the default size takes longer to fill, unless whole pages are written. */
	const struct timespec rest = { .tv_nsec = 200000 };
	enum verdict verdict = UNDECIDED;
	bool deciding = false, resting = false;
	sigset_t none;

	sigemptyset(&none);
	for (;;) {
		const struct timespec *most = resting ? &rest : deciding ? &soon : NULL;

		if (verdict == EXECUTED)
			reap(child);
		if (ppoll(sources, resting ? 2 : 2 + STREAMS, most, &none) < 0)
			continue; /* SIGCHLD */
		if (sources[0].revents && stream_has_ended())
			exit_silently();
		resting = !resting && output_move(&output, sources + 2);
		if (sources[1].fd >= 0 && sources[1].revents) {
			close(pipe);
			sources[1].fd = -1; /* ignored by poll(2) */
			deciding = true;
		}
		if (!deciding)
			continue;
		verdict = exec_verdict(child);
		if (verdict == DIED)
			report_death(child, shared_progress);
		if (verdict == UNDECIDED)
			continue;
		deciding = false;
		munmap(shared_progress, sizeof *shared_progress);
		report_plain(REPORT_STARTED, child);
	}
}

/*
 * Lowers the bounding set to that of the payload, which inherits it: a capability less costs a copy of
 * the credentials, and the payload's process waits for shield(). A failure is left to its own CAPS.
 */
static void lower_bounding_set(struct operation operation)
{
	uint64_t mask;

	while (next_operation(&plan, &operation) && operation.number != OP_CAPS)
		continue;
	mask = take_number(&operation);
	for (int capability = 0; capability < 64; capability++)
		if (!(mask >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
			break; /* EINVAL: it is unknown, and so are those above it */
}

/*
 * init, PID 1 of the container: performs the plan up to PAYLOAD and forks. It reports READY when
 * the container is set up and waits for GO; meanwhile the runtime can move it into cgroups.
 */
noreturn void init(int launched)
{
	struct operation operation = before_first(&plan);
	struct progress *shared_progress;
	int pipes[2];
	pid_t child;

	launched_pipe = launched;
	/* First: while init has it, the runtime does not see the end of the launcher. */
	if (request_socket >= 0) {
		close(request_socket);
		request_socket = -1;
		stream_lost = exit_silently;
	}
	prctl(PR_SET_NAME, "northstar-init");
	ignore_signals();
	umask(0);
	die_with_runtime();
	while (next_operation(&plan, &operation) && operation.number != OP_PAYLOAD) {
		set_progress(operation.index, operation.number);
		if (set_up(&operation)) {
			await_launched_report();
			fail();
		}
	}
	/* Before the fork, so that the payload can access init at no time. The change of ids resets
	 * the parent death signal and the dumpable flag, so both are set after it. The payload
	 * becomes dumpable again by its execve. */
	set_progress(NO_OPERATION, STEP_SHIELD);
	if (assume_init_user())
		fail();
	lower_bounding_set(operation);
	die_with_runtime();
	set_progress(NO_OPERATION, STEP_FORK);
	shared_progress = mmap(NULL, sizeof *shared_progress, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared_progress == MAP_FAILED || prctl(PR_SET_DUMPABLE, 0) || pipe2(pipes, O_CLOEXEC))
		fail();
	shared_progress->index = progress->index; /* the child may die before it sets them */
	shared_progress->number = progress->number;
	descriptors[plan.descriptor_count++] = pipes[1];
	child = fork();
	if (child < 0)
		fail();
	if (child == 0)
		payload(&plan, operation, shared_progress);
	shield(pipes[0], shared_progress);
	watch(child, pipes[0], shared_progress);
}
