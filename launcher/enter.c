/*
 * Executes one more process in a running container. Three processes:
 *
 *   launcher   stays outside of all namespaces and cgroups of the container. It is the parent of the
 *              process: reports STARTED and EXITED, and kills it when the stream ends. It has the
 *              container's user, no capability, and only the socket and two pipes.
 *   helper     joins the cgroups, enters the namespaces, takes on the container's restrictions, closes
 *              everything, and only then clones the process, as a child of the launcher
 *              (CLONE_PARENT). setns(2) does not change the PID namespace of its caller, so the helper
 *              itself is not visible in the container.
 *   process    is visible in the container from its first instruction. It executes the program.
 *
 * A payload with CAP_SYS_PTRACE can control the process from the moment it appears (CVE-2016-9962).
 * So it is created with nothing that the payload lacks: no descriptor but 0, 1, 2 and two pipes, no
 * capability, no memory with values that the launcher trusts. The socket to the runtime was created
 * in the host's network namespace, and descriptors are copied by a clone: this is why the process
 * cannot be a copy of the launcher itself.
 */
#include <endian.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "steps.h"
#include "syscalls.h"

/* Shared by the launcher's processes. */
struct shared {
	struct progress *progress; /* also of the process: the launcher trusts no value in it */
	pid_t *made; /* the process's pid; of launcher and helper only */
	int gone[2]; /* ends on the process's execve or death */
	int go[2]; /* a byte: the runtime has a pidfd of the process */
};

static sigset_t all_signals, all_but_child;

static void wake(int number)
{
	(void)number;
}

/* All signals are blocked, except SIGCHLD in ppoll(2), which it interrupts. */
static void block_signals(void)
{
	struct sigaction child_ended = { .sa_handler = wake };

	sigfillset(&all_signals);
	sigprocmask(SIG_SETMASK, &all_signals, NULL);
	sigaction(SIGCHLD, &child_ended, NULL);
	all_but_child = all_signals;
	sigdelset(&all_but_child, SIGCHLD);
}

/* ---- The process ---- */

static noreturn void process(const struct plan *plan, const struct shared *shared, char **arguments,
			     char **environment)
{
	struct operation operation = before_first(plan);
	struct pollfd go = { .fd = shared->go[0], .events = POLLIN };
	char byte;

	/* The signals are blocked, so read(2) is not interrupted. */
	if (read(shared->go[0], &byte, 1) != 1)
		_exit(1); /* the launcher has ended */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (poll(&go, 1, 0) != 0)
		_exit(1);
	if (setsid() < 0)
		fail_payload();
	default_signals();
	while (next_operation(plan, &operation)) {
		set_progress(operation.index, operation.number);
		if ((operation.number == OP_TERMINAL && ioctl(STDIN_FILENO, TIOCSCTTY, 0)) ||
		    (operation.number == OP_SECCOMP && install_filter()))
			fail_payload();
	}
	/* `operation` is EXEC, the last one; the filter may allow no other call than execve. */
	ABOUT(operation.next);
	execve(take(&operation), arguments, environment);
	fail_payload();
}

/* ---- The helper ---- */

/* Closes all descriptors from `first` on, except two. */
static int close_all_but(unsigned int first, int one, int other)
{
	unsigned int low = (unsigned int)(one < other ? one : other);
	unsigned int high = (unsigned int)(one < other ? other : one);

	ABOUT("descriptors");
	if ((low > first && change_descriptors(first, low - 1, 0)) ||
	    (high > low + 1 && change_descriptors(low + 1, high - 1, 0)) ||
	    change_descriptors(high + 1, UINT_MAX, 0))
		return -1;
	return 0;
}

/* Everything that needs the container's files, the plan's descriptors or memory: once in the
 * namespaces, and before the limits. */
static int prepare(const struct plan *plan, char ***arguments, char ***environment)
{
	struct operation operation = before_first(plan);

	while (next_operation(plan, &operation)) {
		set_progress(operation.index, operation.number);
		if (operation.number == OP_SECCOMP && read_filter(&operation, plan))
			return -1;
	}
	/* setns(2) has set root and working directory to the root of the mount namespace. A working
	 * directory that stayed on the host would be the way out (CVE-2024-21626). */
	ABOUT("/");
	if (chdir("/") || check_program(operation.next))
		return -1;
	*arguments = argument_vectors(operation, environment);
	return *arguments ? 0 : -1;
}

static int perform(struct operation *operation, const struct plan *plan)
{
	switch (operation->number) {
	case OP_JOIN:
		return step_join(operation, plan);
	case OP_KEYRING:
		return step_keyring();
	case OP_SELINUX:
		return step_selinux(operation);
	case OP_ENTER:
		return step_setns(operation, plan);
	case OP_GROUPS:
		return step_groups(operation);
	case OP_GID:
		return step_gid(operation);
	case OP_UID:
		return step_uid(operation);
	case OP_FD:
		return step_fd(operation, plan);
	case OP_RLIMIT:
		return step_rlimit(operation);
	case OP_SCHED:
		return step_sched(operation);
	case OP_NO_NEW_PRIVS:
		return step_no_new_privs();
	case OP_DENY_GETFD:
		return step_deny_getfd();
	case OP_CAPS:
		return step_caps(take_number(operation));
	case OP_TERMINAL:
	case OP_SECCOMP:
	case OP_EXEC:
		return 0; /* in the process */
	}
	errno = ENOSYS;
	return -1;
}

static noreturn void helper(const struct plan *plan, struct shared *shared, pid_t launcher)
{
	struct operation operation = before_first(plan);
	struct clone_args clone = { .flags = CLONE_PARENT };
	char **arguments = NULL, **environment = NULL;
	bool closed = false;
	pid_t pid;

	progress = shared->progress;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != launcher)
		_exit(1);
	close(SOCKET);
	close(shared->gone[0]);
	close(shared->go[1]);
	umask(022);
	while (next_operation(plan, &operation)) {
		if (operation.number >= OP_GROUPS && !arguments &&
		    prepare(plan, &arguments, &environment))
			fail_payload();
		set_progress(operation.index, operation.number);
		if (operation.number >= OP_RLIMIT && !closed) {
			if (close_all_but(STDERR_FILENO + 1, shared->gone[1], shared->go[0]))
				fail_payload();
			closed = true;
		}
		if (perform(&operation, plan))
			fail_payload();
		if (operation.number == OP_UID) /* the change of ids has cleared it */
			prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	/* Last, since each change of ids or capabilities sets it again: fs.suid_dumpable, proc(5).
	 * Without CAP_SYS_PTRACE no process of the container can attach; execve(2) allows it. */
	set_progress(NO_OPERATION, STEP_FORK);
	if (prctl(PR_SET_DUMPABLE, 0) || madvise(shared->made, sizeof *shared->made, MADV_DONTFORK))
		fail_payload();
	pid = syscall_clone3(&clone, sizeof clone);
	if (pid < 0)
		fail_payload();
	if (pid == 0)
		process(plan, shared, arguments, environment);
	*shared->made = pid;
	_exit(0);
}

/* ---- The launcher ---- */

/* Kills the process, if it is not reaped yet, with its group, and all other children. A process of
 * another user (CAP_SETUID) is killed by the runtime, or by the end of the container. */
static noreturn void end(pid_t child, struct shared *shared)
{
	close(shared->go[1]);
	if (child > 0) {
		kill(-child, SIGKILL);
		kill(child, SIGKILL);
	}
	kill_children();
}

/* Of lost(). */
static struct {
	pid_t child;
	struct shared *shared;
} watched;

/* The runtime has closed the stream. Without the launcher, which must reap the process, it would stay
 * a zombie until the host's init reaps it, and the container could not end before. */
static void lost(void)
{
	end(watched.child, watched.shared);
}

/*
 * Reports a failure of the helper or of the process, whose progress it has left in shared memory. A
 * payload may have changed that meanwhile, so each value is checked.
 */
static noreturn void report_failure(const siginfo_t *ended, pid_t child, struct shared *shared)
{
	struct progress *own = progress;

	memcpy(own, shared->progress, sizeof *own);
	own->what.at[sizeof own->what.at - 1] = '\0';
	if (own->error > 0)
		send_report(REPORT_FAILED, own->error, 0, -1);
	else if (ended->si_code != CLD_EXITED)
		send_report(REPORT_FAILED, 0, ended->si_status, -1);
	else
		send_report(REPORT_FAILED, EPROTO, 0, -1);
	end(child, shared);
}

/* Waits for the end of the helper; returns the pid of the process. */
static pid_t await_clone(pid_t helper, struct shared *shared)
{
	struct pollfd stream = { .fd = SOCKET, .events = POLLIN };
	siginfo_t ended = { .si_pid = 0 };

	for (;;) {
		waitid(P_PID, (id_t)helper, &ended, WEXITED | WNOHANG);
		if (ended.si_pid == helper)
			break;
		if (ppoll(&stream, 1, NULL, &all_but_child) > 0 && stream_has_ended())
			end(0, shared);
	}
	if (ended.si_code != CLD_EXITED || ended.si_status != 0 || *shared->made <= 0)
		report_failure(&ended, 0, shared);
	return *shared->made;
}

/* The state of the process. PF_FORKNOEXEC is the 7th field after its name in proc_pid_stat(5). */
enum verdict { UNDECIDED, EXECUTED, DIED };

/*
 * The pipe `gone` ends on execve and on death; this distinguishes them. For the payload setpgid(2)
 * does, but the process has its own session, so here that fails before its execve too. The kernel
 * clears PF_FORKNOEXEC (linux/sched.h, unchanged since Linux 2.6) in a successful execve, and keeps
 * the flags of a zombie.
 */
static enum verdict exec_verdict(pid_t child, int stat)
{
	const uint64_t fork_no_exec = 0x40;
	siginfo_t ended = { .si_pid = 0 };
	char content[1024], *field;
	ssize_t length;
	uint64_t flags = 0;

	waitid(P_PID, (id_t)child, &ended, WEXITED | WNOHANG | WNOWAIT);
	length = pread(stat, content, sizeof content - 1, 0);
	content[length > 0 ? length : 0] = '\0';
	field = strrchr(content, ')'); /* the name may contain it, too */
	for (int i = 0; field && i < 7; i++) {
		field = strchr(field, ' ');
		if (field)
			field++;
	}
	if (field && parse_number(field, strcspn(field, " "), UINT64_MAX, &flags) &&
	    !(flags & fork_no_exec))
		return EXECUTED;
	return ended.si_pid == child ? DIED : UNDECIDED;
}

/*
 * Takes the container's ids, which permit to kill the process, and nothing else. No parent death
 * signal: the launcher must survive the runtime, to reap the process. Unless the process is reaped,
 * the kernel does not end the container's PID namespace.
 */
static int drop_privileges(const struct plan *plan)
{
	struct operation operation = before_first(plan);

	while (next_operation(plan, &operation)) {
		set_progress(operation.index, operation.number);
		if (operation.number >= OP_GROUPS && operation.number <= OP_UID &&
		    perform(&operation, plan))
			return -1;
	}
	set_progress(NO_OPERATION, STEP_HELPER);
	return step_no_new_privs() || step_caps(0) || prctl(PR_SET_DUMPABLE, 0) ? -1 : 0;
}

static void await_go(pid_t child, struct shared *shared)
{
	uint32_t word = 0;

	if (recv(SOCKET, &word, sizeof word, MSG_TRUNC) != sizeof word || le32toh(word) != GO)
		end(child, shared);
	/* A failure: the process has ended, which the main loop notices. */
	if (write(shared->go[1], "", 1) != 1)
		return;
}

/*
 * Reports the end of the process without reaping it: the runtime signals its group by number, which
 * stays valid until the runtime has read the report, and closes the stream. Other children exist only
 * if the process has cloned them with CLONE_PARENT; they are reaped, since a zombie would delay the
 * end of the PID namespace.
 */
static bool report_end(pid_t child)
{
	siginfo_t ended;

	for (;;) {
		ended.si_pid = 0;
		if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT | __WALL) ||
		    ended.si_pid == 0)
			return false;
		if (ended.si_pid == child)
			break;
		waitpid(ended.si_pid, NULL, WNOHANG | __WALL);
	}
	watched.child = 0; /* its number must not be used any more */
	set_progress(NO_OPERATION, ended.si_code == CLD_EXITED ? 0 : 1);
	send_report(REPORT_EXITED, 0, ended.si_status, -1);
	return true;
}

static noreturn void watch(pid_t child, int stat, struct shared *shared)
{
	struct pollfd sources[] = {
		{ .fd = SOCKET, .events = POLLIN },
		{ .fd = shared->gone[0], .events = POLLIN },
	};
	const struct timespec soon = { .tv_nsec = 1000000 };
	enum verdict verdict = UNDECIDED;
	bool deciding = false, ended = false;
	siginfo_t death = { .si_pid = 0 };

	for (;;) {
		if (verdict == EXECUTED && !ended)
			ended = report_end(child);
		if (ppoll(sources, 2, deciding ? &soon : NULL, &all_but_child) < 0)
			continue; /* SIGCHLD */
		if (sources[0].revents && stream_has_ended())
			end(ended ? 0 : child, shared);
		if (sources[1].fd >= 0 && sources[1].revents) {
			close(sources[1].fd);
			sources[1].fd = -1;
			deciding = true;
		}
		if (!deciding)
			continue;
		verdict = exec_verdict(child, stat);
		if (verdict == UNDECIDED)
			continue;
		deciding = false;
		close(stat);
		if (verdict == DIED) {
			waitid(P_PID, (id_t)child, &death, WEXITED | WNOHANG | WNOWAIT);
			report_failure(&death, child, shared);
		}
		munmap(shared->progress, sizeof *shared->progress);
		report_plain(REPORT_STARTED, child);
	}
}

static void *map_shared(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/* Creates a pipe with numbers above the socket's: lower ones are passed to the process. */
static int make_pipe(int ends[2])
{
	int low[2];

	if (pipe2(low, O_CLOEXEC))
		return -1;
	for (int i = 0; i < 2; i++) {
		ends[i] = fcntl(low[i], F_DUPFD_CLOEXEC, SOCKET + 1);
		close(low[i]);
	}
	return ends[0] < 0 || ends[1] < 0 ? -1 : 0;
}

static int open_stat(pid_t child)
{
	char path[40] = "/proc/";

	strcat(strcat(path, decimal((uint64_t)child)), "/stat");
	ABOUT(path);
	return open(path, O_RDONLY | O_CLOEXEC);
}

noreturn void enter(struct plan *plan)
{
	struct shared shared = { 0 };
	pid_t launcher = getpid(), entered, child;
	int stat;

	prctl(PR_SET_NAME, "northstar-exec");
	block_signals();
	set_progress(NO_OPERATION, STEP_HELPER);
	shared.progress = map_shared(sizeof *shared.progress);
	shared.made = map_shared(sizeof *shared.made);
	if (!shared.progress || !shared.made || make_pipe(shared.gone) || make_pipe(shared.go))
		fail();
	entered = fork();
	if (entered < 0)
		fail();
	if (entered == 0)
		helper(plan, &shared, launcher);
	watched.shared = &shared;
	stream_lost = lost;
	close(shared.gone[1]);
	close(shared.go[0]);
	/* The namespaces, too: otherwise they would outlive the container. */
	if (close_all_but(SOCKET + 1, shared.gone[0], shared.go[1]) ||
	    change_descriptors(0, SOCKET - 1, 0)) {
		send_report(REPORT_FAILED, errno, 0, -1);
		end(0, &shared);
	}
	child = watched.child = await_clone(entered, &shared);
	stat = open_stat(child);
	if (stat < 0 || drop_privileges(plan)) {
		send_report(REPORT_FAILED, errno, 0, -1);
		end(child, &shared);
	}
	release_plan();
	report_plain(REPORT_FORKED, child);
	await_go(child, &shared);
	watch(child, stat, &shared);
}
