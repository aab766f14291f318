/*
 * The supervisor of a debug command. It kills the command and all its descendants when the runtime
 * ends, also when the runtime is killed.
 *
 * A debug command runs in the runtime's mount namespace and keeps its mounts busy. A parent death
 * signal alone (PR_SET_PDEATHSIG, prctl(2)) does not reach the command's children, and the runtime
 * cannot set it without forking the interpreter. A PID namespace would hide the container from the
 * command. So this process is the command's parent and a child subreaper: orphaned descendants
 * become its children, in any session or process group.
 *
 * Descriptor 3 is a SOCK_SEQPACKET socket to the runtime. A message from the runtime is a signal
 * number for the command (u32, little endian). The end of the stream means SIGKILL. The only
 * message to the runtime is the errno of a failed execve or fork (u32).
 */
#include <endian.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "steps.h"
#include "syscalls.h"

static void wake(int number)
{
	(void)number;
}

static noreturn void report_errno(int error)
{
	uint32_t message = htole32((uint32_t)error);

	send(SOCKET, &message, sizeof message, MSG_NOSIGNAL);
	_exit(127);
}

static noreturn void become_command(char **command, pid_t supervisor)
{
	/* If the supervisor is killed, the command is killed. It may be dead already, so check. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != supervisor)
		_exit(127);
	fcntl(SOCKET, F_SETFD, FD_CLOEXEC);
	default_signals();
	execvp(command[0], command);
	report_errno(errno);
}

/* The kernel's directory entry, getdents(2). readdir(3) would link malloc into the program. */
struct entry {
	uint64_t inode;
	int64_t offset;
	uint16_t length;
	uint8_t type;
	char name[];
};

/* Parses a decimal number up to a space or the end; 0 if the text is not a number. */
static pid_t parse_pid(const char *text)
{
	pid_t number = 0;

	for (; *text >= '0' && *text <= '9' && number < 1 << 24; text++)
		number = number * 10 + (*text - '0');
	return *text == '\0' || *text == ' ' ? number : 0;
}

/* The parent of a process by proc_pid_stat(5), 0 if the process is gone. Its name may contain `)`,
 * so the last one counts. */
static pid_t parent_of(int processes, const char *pid)
{
	char content[512], *after_name;
	ssize_t length = -1;
	int file, directory = openat(processes, pid, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (directory < 0)
		return 0;
	file = openat(directory, "stat", O_RDONLY | O_CLOEXEC);
	close(directory);
	if (file >= 0) {
		length = read(file, content, sizeof content - 1);
		close(file);
	}
	content[length > 0 ? length : 0] = '\0';
	after_name = strrchr(content, ')');
	return after_name && strlen(after_name) > 4 ? parse_pid(after_name + 4) : 0; /* ") S PPID " */
}

/*
 * Sends a signal to all children. A child keeps its pid until it is reaped, so no other process is
 * signalled. /proc/PID/task/TID/children does not exist on every kernel (CONFIG_PROC_CHILDREN).
 */
static void signal_children(int number)
{
	/* Not static: each init would have the pages of its own data laid out around it. */
	_Alignas(struct entry) char entries[8192];
	int processes = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pid_t self = getpid();
	long length;

	if (processes < 0)
		_exit(1); /* the command is killed by its parent death signal */
	while ((length = syscall(__NR_getdents64, processes, entries, sizeof entries)) > 0) {
		const struct entry *entry;
		pid_t pid;

		for (long at = 0; at < length; at += entry->length) {
			entry = (const struct entry *)(const void *)(entries + at);
			pid = parse_pid(entry->name);
			if (pid > 0 && parent_of(processes, entry->name) == self)
				kill(pid, number);
		}
	}
	close(processes);
}

/* Reaps ended children; exits after the last one. */
static void reap_children(void)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
		continue;
	if (pid < 0 && errno == ECHILD)
		_exit(0);
}

/*
 * The children of a killed process become children of this one: repeats until none is left. Reaps
 * first: usually the only child has ended, and reading the state of each process on the machine, to
 * find others, takes longer than all else that a probe does.
 */
noreturn void kill_children(void)
{
	for (;;) {
		reap_children();
		signal_children(SIGKILL);
		waitpid(-1, NULL, __WALL);
	}
}

noreturn void supervise(char **command)
{
	struct sigaction child_ended = { .sa_handler = wake };
	struct pollfd stream = { .fd = SOCKET, .events = POLLIN };
	pid_t supervisor = getpid(), child;
	sigset_t all, all_but_child;

	prctl(PR_SET_NAME, "northstar-debug");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	/* All signals are blocked, since a terminal sends them to the whole process group. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigaction(SIGCHLD, &child_ended, NULL);
	all_but_child = all;
	sigdelset(&all_but_child, SIGCHLD);
	child = fork();
	if (child < 0)
		report_errno(errno);
	if (child == 0)
		become_command(command, supervisor);
	for (;;) {
		uint32_t number = 0;
		ssize_t length;

		reap_children();
		if (ppoll(&stream, 1, NULL, &all_but_child) < 0)
			continue; /* SIGCHLD */
		length = recv(SOCKET, &number, sizeof number, MSG_DONTWAIT);
		if (length == sizeof number)
			signal_children((int)le32toh(number));
		else if (length >= 0 || (errno != EAGAIN && errno != EINTR))
			kill_children();
	}
}
