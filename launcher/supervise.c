/*
 * The supervisor of a debug command. It ends the command, and every process that the command has
 * made, when the runtime ends, however that ends.
 *
 * A debug command runs in the runtime's mount namespace and holds its mounts. A parent death signal
 * alone (PR_SET_PDEATHSIG, prctl(2)) does not reach the command's own children, and the runtime
 * cannot set it without forking the interpreter. A PID namespace would hide the container from the
 * command. So this process is the command's parent and a child subreaper: what loses its parent
 * becomes a child of this process, in whatever session or process group it is.
 *
 * Descriptor 3 is a SOCK_SEQPACKET socket to the runtime. A message to this process is the number of
 * a signal for the command (u32, little endian). The end of the stream means SIGKILL. The only
 * message to the runtime is the errno of an execve or fork that failed (u32).
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
	sigset_t none;

	/* If the supervisor is killed, the command ends as well. It may be dead already: look. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != supervisor)
		_exit(127);
	fcntl(SOCKET, F_SETFD, FD_CLOEXEC);
	for (int number = 1; number <= LAST_SIGNAL; number++)
		syscall_rt_sigaction_plain(number, SIG_DFL); /* refused for KILL and STOP only */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execvp(command[0], command);
	report_errno(errno);
}

/* An entry as the kernel writes it, getdents(2). readdir(3) would bring malloc into the program. */
struct entry {
	uint64_t inode;
	int64_t offset;
	uint16_t length;
	uint8_t type;
	char name[];
};

/* A decimal number, 0 if the text is something else. */
static pid_t number_of(const char *text)
{
	pid_t number = 0;

	for (; *text >= '0' && *text <= '9' && number < 1 << 24; text++)
		number = number * 10 + (*text - '0');
	return *text == '\0' || *text == ' ' ? number : 0;
}

/* The parent of a process by proc_pid_stat(5), 0 if it is gone. Its name may hold any character. */
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
	return after_name && strlen(after_name) > 4 ? number_of(after_name + 4) : 0; /* ") S PPID " */
}

/*
 * Sends a signal to all children. A child keeps its number until it is waited for, so no other
 * process can be hit. The file `children` of /proc is not in every kernel (CONFIG_PROC_CHILDREN).
 */
static void signal_children(int number)
{
	/* Not static: each init would have the pages of its own data laid out around it. */
	_Alignas(struct entry) char entries[8192];
	int processes = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pid_t self = getpid();
	long length;

	if (processes < 0)
		_exit(1); /* the command's parent death signal is all that is left */
	while ((length = syscall(__NR_getdents64, processes, entries, sizeof entries)) > 0) {
		const struct entry *entry;
		pid_t pid;

		for (long at = 0; at < length; at += entry->length) {
			entry = (const struct entry *)(const void *)(entries + at);
			pid = number_of(entry->name);
			if (pid > 0 && parent_of(processes, entry->name) == self)
				kill(pid, number);
		}
	}
	close(processes);
}

/* Waits for what has ended; the end of the last child is the end of this process. */
static void reap_children(void)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
		continue;
	if (pid < 0 && errno == ECHILD)
		_exit(0);
}

/* The children of a killed process become ours when it dies, so this goes on until none is left. */
static noreturn void kill_children(void)
{
	for (;;) {
		signal_children(SIGKILL);
		waitpid(-1, NULL, __WALL);
		reap_children();
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
	/* Blocked signals do nothing: those of a terminal reach the whole process group. */
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
