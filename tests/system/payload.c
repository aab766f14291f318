/*
 * The program in the test containers: runs commands in sequence, separated by `;`:
 *
 *     payload kill 1 TERM 5 \; exit 3
 *
 * Each result is one JSON object on a line of stdout. A failed command prints its errno, and the
 * next one runs: the tests decide what must fail. The program exits with 0 after the last command.
 * The table `commands` below lists all.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/capability.h>

extern char **environ;
static char **all_arguments;

/* ---- JSON ---- */

static void json_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			printf("\\u00%02x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void json_strings(const char *name, char **strings)
{
	printf("\"%s\": [", name);
	for (int i = 0; strings[i]; i++) {
		if (i)
			printf(", ");
		json_string(strings[i]);
	}
	printf("]");
}

/* {"do": "open", "on": "/etc", "result": -1, "errno": 2}; errno is 0 on success */
static void result(const char *what, const char *on, long value)
{
	int error = value < 0 ? errno : 0;

	printf("{\"do\": \"%s\", \"on\": ", what);
	json_string(on);
	printf(", \"result\": %ld, \"errno\": %d}\n", value, error);
	fflush(stdout);
}

/* ---- State of this process ---- */

static void print_descriptors(void)
{
	bool first = true;

	printf("\"fds\": {");
	for (int fd = 0; fd < 1024; fd++) {
		struct stat file;
		const char *kind = "other";

		if (fstat(fd, &file))
			continue;
		if (S_ISCHR(file.st_mode))
			kind = "char";
		else if (S_ISFIFO(file.st_mode))
			kind = "pipe";
		else if (S_ISSOCK(file.st_mode))
			kind = "socket";
		else if (S_ISREG(file.st_mode))
			kind = "file";
		else if (S_ISDIR(file.st_mode))
			kind = "dir";
		printf("%s\"%d\": \"%s\"", first ? "" : ", ", fd, kind);
		first = false;
	}
	printf("}");
}

static void print_ids(void)
{
	uid_t uid[3];
	gid_t gid[3], groups[64];
	int count = getgroups(64, groups);

	getresuid(&uid[0], &uid[1], &uid[2]);
	getresgid(&gid[0], &gid[1], &gid[2]);
	printf("\"pid\": %d, \"ppid\": %d, \"sid\": %d, \"pgid\": %d, ", getpid(), getppid(),
	       getsid(0), getpgrp());
	printf("\"uids\": [%u, %u, %u], \"gids\": [%u, %u, %u], \"groups\": [", uid[0], uid[1],
	       uid[2], gid[0], gid[1], gid[2]);
	for (int i = 0; i < count; i++)
		printf("%s%u", i ? ", " : "", groups[i]);
	printf("]");
}

static void print_capabilities(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
	uint64_t bounding = 0, ambient = 0;

	syscall(SYS_capget, &header, data);
	for (unsigned long i = 0; i < 64; i++) {
		if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1)
			bounding |= 1ULL << i;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1)
			ambient |= 1ULL << i;
	}
#define WHOLE(set) ((unsigned long long)data[1].set << 32 | data[0].set)
	printf("\"caps\": {\"effective\": %llu, \"permitted\": %llu, \"inheritable\": %llu, "
	       "\"bounding\": %llu, \"ambient\": %llu}",
	       WHOLE(effective), WHOLE(permitted), WHOLE(inheritable),
	       (unsigned long long)bounding, (unsigned long long)ambient);
}

static void print_signals(void)
{
	uint64_t mask = 0;
	bool first = true;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof mask);
	printf("\"blocked\": %llu, \"not_default\": [", (unsigned long long)mask);
	for (int number = 1; number <= 64; number++) {
		struct {
			void (*handler)(int);
			unsigned long rest[5];
		} action = { SIG_DFL, { 0 } };

		syscall(SYS_rt_sigaction, number, NULL, &action, sizeof mask);
		if (action.handler == SIG_DFL)
			continue;
		printf("%s%d", first ? "" : ", ", number);
		first = false;
	}
	printf("]");
}

static void print_limits(void)
{
	printf("\"rlimits\": {");
	for (int resource = 0; resource < 16; resource++) {
		struct rlimit limit = { 0, 0 };

		getrlimit(resource, &limit);
		printf("%s\"%d\": [%lld, %lld]", resource ? ", " : "", resource,
		       (long long)limit.rlim_cur, (long long)limit.rlim_max);
	}
	struct sched_param parameters = { 0 };
	long policy = syscall(SYS_sched_getscheduler, 0);
	syscall(SYS_sched_getparam, 0, &parameters);
	printf("}, \"policy\": %ld, \"priority\": %d, \"nice\": %d", policy,
	       parameters.sched_priority, getpriority(PRIO_PROCESS, 0));
}

/* self: everything about this process, in one object. */
static void do_self(char **arguments)
{
	struct utsname names;
	char cwd[4096] = "";
	mode_t mask = umask(0);

	(void)arguments;
	umask(mask);
	uname(&names);
	printf("{\"do\": \"self\", ");
	json_strings("args", all_arguments);
	printf(", ");
	json_strings("env", environ);
	printf(", ");
	print_descriptors();
	printf(", ");
	print_ids();
	printf(", ");
	print_capabilities();
	printf(", ");
	print_signals();
	printf(", ");
	print_limits();
	printf(", \"no_new_privs\": %d, \"seccomp\": %d, \"umask\": %u, \"hostname\": ",
	       prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP, 0, 0, 0, 0),
	       (unsigned)mask);
	json_string(names.nodename);
	printf(", \"cwd\": ");
	json_string(getcwd(cwd, sizeof cwd) ? cwd : "");
	printf("}\n");
	fflush(stdout);
}

/* mounts: one object for each line of /proc/self/mounts. */
static void do_mounts(char **arguments)
{
	static char line[8192];
	FILE *file = fopen("/proc/self/mounts", "re");

	(void)arguments;
	if (!file)
		return result("mounts", "/proc/self/mounts", -1);
	while (fgets(line, sizeof line, file)) {
		char *rest = line;
		char *fields[] = { strsep(&rest, " "), strsep(&rest, " "), strsep(&rest, " "),
				   strsep(&rest, " "), NULL };

		printf("{\"do\": \"mounts\", ");
		json_strings("mount", fields);
		printf("}\n");
	}
	fclose(file);
	fflush(stdout);
}

/* ---- Exits, signals and pauses ---- */

static int signal_number(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} names[] = { { "KILL", SIGKILL }, { "TERM", SIGTERM }, { "STOP", SIGSTOP },
		      { "CONT", SIGCONT }, { "INT", SIGINT },	{ "HUP", SIGHUP },
		      { "SEGV", SIGSEGV }, { "CHLD", SIGCHLD }, { "USR1", SIGUSR1 } };

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (!strcmp(name, names[i].name))
			return names[i].number;
	return atoi(name);
}

static void do_exit(char **arguments)
{
	_exit(atoi(arguments[0]));
}

/* raise SIG: send a signal to this process. */
static void do_raise(char **arguments)
{
	int number = signal_number(arguments[0]);

	syscall(SYS_kill, getpid(), number);
	result("raise", arguments[0], 0);
}

/* ready [TEXT]: print this line; the tests wait for it. */
static void do_ready(char **arguments)
{
	result("ready", arguments[0] ? arguments[0] : "", 0);
}

static void do_pause(char **arguments)
{
	(void)arguments;
	for (;;)
		pause();
}

static void do_sleep(char **arguments)
{
	double seconds = atof(arguments[0]);
	struct timespec time = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };

	while (nanosleep(&time, &time) && errno == EINTR)
		continue;
}

static void print_signal(int number)
{
	char line[64];
	int length = snprintf(line, sizeof line, "{\"do\": \"signal\", \"on\": \"%d\"}\n", number);

	if (write(1, line, (size_t)length) < 0)
		_exit(99);
}

static void handle(char **numbers, void (*handler)(int))
{
	struct sigaction action = { .sa_handler = handler };

	for (; *numbers; numbers++)
		sigaction(signal_number(*numbers), &action, NULL);
}

/* ignore SIG..., catch SIG... (prints each caught signal) */
static void do_ignore(char **arguments)
{
	handle(arguments, SIG_IGN);
}

static void do_catch(char **arguments)
{
	handle(arguments, print_signal);
}

static sigset_t signals_of(char **numbers)
{
	sigset_t set;

	for (sigemptyset(&set); *numbers; numbers++)
		sigaddset(&set, signal_number(*numbers));
	return set;
}

/* block SIG..., await SIG...: a signal that comes after `block` ends `await`, now or later */
static void do_block(char **arguments)
{
	sigset_t set = signals_of(arguments);

	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void do_await(char **arguments)
{
	sigset_t set = signals_of(arguments);
	int number = 0;

	sigwait(&set, &number);
}

/* ---- Other processes ---- */

/* kill PID SIG [TIMES] */
static void do_kill(char **arguments)
{
	int pid = atoi(arguments[0]), number = signal_number(arguments[1]);
	int times = arguments[2] ? atoi(arguments[2]) : 1;
	long last = 0;

	while (times-- > 0)
		last = kill(pid, number);
	result("kill", arguments[0], last);
}

/* storm PID FIRST LAST TIMES: send each signal of a range, except STOP and KILL, TIMES times */
static void do_storm(char **arguments)
{
	int pid = atoi(arguments[0]), first = atoi(arguments[1]), last = atoi(arguments[2]);

	for (int times = atoi(arguments[3]); times > 0; times--)
		for (int number = first; number <= last; number++)
			if (number != SIGKILL && number != SIGSTOP)
				syscall(SYS_kill, pid, number);
	result("storm", arguments[0], 0);
}

static void sigqueue_burst(int pid, int number, int times)
{
	long last = 0;
	union sigval value = { 0 };

	while (times-- > 0)
		if (sigqueue(pid, number, value))
			last = -1;
	result("queue", "", last);
}

/* queue PID SIG TIMES: send it with a value; each takes a place in the queue (sigqueue(3)) */
static void do_queue(char **arguments)
{
	sigqueue_burst(atoi(arguments[0]), signal_number(arguments[1]), atoi(arguments[2]));
}

/* orphans N: N children whose own children outlive them and end after 0 to 9 ms. */
static void do_orphans(char **arguments)
{
	int count = atoi(arguments[0]);

	for (int i = 0; i < count; i++) {
		pid_t child = fork();

		if (child == 0) {
			if (fork() == 0)
				usleep((useconds_t)(i % 10) * 1000);
			_exit(i % 256);
		}
		waitpid(child, NULL, 0);
	}
	result("orphans", arguments[0], count);
}

/* alone: wait until no other process but init is left in the namespace, zombies included. */
static void do_alone(char **arguments)
{
	int others = 0;

	(void)arguments;
	for (int round = 0; round < 500; round++) {
		DIR *directory = opendir("/proc");

		if (!directory)
			return result("alone", "/proc", -1);
		others = 0;
		for (struct dirent *entry; (entry = readdir(directory));)
			if (atoi(entry->d_name) > 1 && atoi(entry->d_name) != getpid())
				others++;
		closedir(directory);
		if (!others)
			break;
		usleep(10000);
	}
	result("alone", "", others);
}

/* fork: a child runs the remaining commands, and this process pauses for ever. */
static void do_fork(char **arguments)
{
	pid_t child = fork();

	(void)arguments;
	if (child > 0)
		do_pause(arguments);
	if (child < 0)
		result("fork", "", -1);
}

static void do_session(char **arguments)
{
	(void)arguments;
	result("session", "", setsid());
}

/* bomb: fork until fork(2) fails; the children pause. */
static void do_bomb(char **arguments)
{
	long children = 0;
	pid_t child;

	while ((child = fork()) > 0)
		children++;
	if (child == 0)
		do_pause(arguments);
	printf("{\"do\": \"bomb\", \"on\": \"\", \"result\": %ld, \"errno\": %d}\n", children, errno);
	fflush(stdout);
}

/* memory MIB: allocate and touch it. */
static void do_memory(char **arguments)
{
	size_t size = (size_t)atol(arguments[0]) << 20;
	volatile char *memory = malloc(size); /* volatile: the compiler must not drop the writes */

	for (size_t at = 0; memory && at < size; at += 4096)
		memory[at] = 1;
	result("memory", arguments[0], memory ? 0 : -1);
}

/* flood BYTES: write that many to stdout, in lines of 100 bytes; 0: without end. */
static void do_flood(char **arguments)
{
	char line[100];
	long bytes = atol(arguments[0]);

	memset(line, 'x', sizeof line - 1);
	line[sizeof line - 1] = '\n';
	for (long sent = 0; !bytes || sent < bytes; sent += (long)sizeof line)
		if (write(1, line, sizeof line) < 0)
			_exit(98);
	result("flood", arguments[0], 0);
}

/* ---- Files, sockets and refused system calls ---- */

/* say TEXT: print it to stdout; cry TEXT: to stderr */
static void do_say(char **arguments)
{
	puts(arguments[0]);
	fflush(stdout);
}

static void do_cry(char **arguments)
{
	fprintf(stderr, "%s\n", arguments[0]);
}

/* fill PATH BYTES: write that many to a new file, 64 KiB each; the result is the number written. */
static void do_fill(char **arguments)
{
	static char piece[65536];
	long wanted = atol(arguments[1]), written = 0;
	int file = open(arguments[0], O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	ssize_t length = file < 0 ? -1 : 1;

	while (length > 0 && written < wanted) {
		length = write(file, piece, sizeof piece);
		if (length > 0)
			written += length;
	}
	printf("{\"do\": \"fill\", \"on\": ");
	json_string(arguments[0]);
	printf(", \"result\": %ld, \"errno\": %d}\n", written, length < 0 ? errno : 0);
	fflush(stdout);
	if (file >= 0)
		close(file);
}

/* console LINE: send it to NORTHSTAR_CONSOLE, read a line; empty at the end of the stream */
static void do_console(char **arguments)
{
	static char text[65536];
	const char *number = getenv("NORTHSTAR_CONSOLE");
	int console = number ? atoi(number) : -1;
	size_t have = 0;

	if (dprintf(console, "%s\n", arguments[0]) < 0)
		return result("console", arguments[0], -1);
	while (have < sizeof text - 1 && read(console, text + have, 1) == 1 && text[have] != '\n')
		have++;
	text[have] = '\0';
	printf("{\"do\": \"console\", \"on\": ");
	json_string(arguments[0]);
	printf(", \"result\": %zu, \"errno\": 0, \"text\": ", have);
	json_string(text);
	printf("}\n");
	fflush(stdout);
}

static void socket_option(const char *what, const char *number, int option)
{
	int value = -1;
	socklen_t length = sizeof value;

	if (getsockopt(atoi(number), SOL_SOCKET, option, &value, &length))
		value = -1;
	result(what, number, value);
}

/* socket FD: its SO_TYPE, SO_ACCEPTCONN and SO_PASSCRED */
static void do_socket(char **arguments)
{
	socket_option("type", arguments[0], SO_TYPE);
	socket_option("listening", arguments[0], SO_ACCEPTCONN);
	socket_option("passcred", arguments[0], SO_PASSCRED);
}

/* put FD TEXT: write to a descriptor */
static void do_put(char **arguments)
{
	result("put", arguments[0],
	       write(atoi(arguments[0]), arguments[1], strlen(arguments[1])));
}

static void do_read(char **arguments)
{
	char text[4096];
	int file = open(arguments[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);

	if (length < 0)
		return result("read", arguments[0], -1);
	close(file);
	text[length] = '\0';
	printf("{\"do\": \"read\", \"on\": ");
	json_string(arguments[0]);
	printf(", \"result\": %zd, \"errno\": 0, \"text\": ", length);
	json_string(text);
	printf("}\n");
	fflush(stdout);
}

/* write PATH TEXT: creates the file. */
static void do_write(char **arguments)
{
	int file = open(arguments[0], O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
	ssize_t length = file < 0 ? -1 : write(file, arguments[1], strlen(arguments[1]));

	result("write", arguments[0], length);
	if (file >= 0)
		close(file);
}

static void do_stat(char **arguments)
{
	struct stat file;

	if (lstat(arguments[0], &file))
		return result("stat", arguments[0], -1);
	printf("{\"do\": \"stat\", \"on\": ");
	json_string(arguments[0]);
	printf(", \"result\": 0, \"errno\": 0, \"mode\": %u, \"uid\": %u, \"gid\": %u, \"size\": %lld, "
	       "\"device\": [%u, %u]}\n",
	       file.st_mode, file.st_uid, file.st_gid, (long long)file.st_size,
	       major(file.st_rdev), minor(file.st_rdev));
	fflush(stdout);
}

static void do_list(char **arguments)
{
	DIR *directory = opendir(arguments[0]);

	if (!directory)
		return result("list", arguments[0], -1);
	printf("{\"do\": \"list\", \"on\": ");
	json_string(arguments[0]);
	printf(", \"result\": 0, \"errno\": 0, \"names\": [");
	bool first = true;
	for (struct dirent *entry; (entry = readdir(directory));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (!first)
			printf(", ");
		json_string(entry->d_name);
		first = false;
	}
	printf("]}\n");
	fflush(stdout);
	closedir(directory);
}

static void do_readlink(char **arguments)
{
	char text[4096];
	ssize_t length = readlink(arguments[0], text, sizeof text - 1);

	if (length < 0)
		return result("readlink", arguments[0], -1);
	text[length] = '\0';
	printf("{\"do\": \"readlink\", \"on\": ");
	json_string(arguments[0]);
	printf(", \"result\": %zd, \"errno\": 0, \"text\": ", length);
	json_string(text);
	printf("}\n");
	fflush(stdout);
}

static void do_exec(char **arguments)
{
	execv(arguments[0], arguments);
	result("exec", arguments[0], -1);
}

static void do_connect(char **arguments) /* PORT on 127.0.0.1 */
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[0])) };
	int any = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	result("connect", arguments[0], connect(any, (struct sockaddr *)&address, sizeof address));
	close(any);
}

static void do_unix(char **arguments) /* connect to the stream socket at PATH */
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int any = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, arguments[0], sizeof address.sun_path - 1);
	result("unix", arguments[0], connect(any, (struct sockaddr *)&address, sizeof address));
	close(any);
}

/* try NAME [ARGUMENT]: make a system call that the kernel may refuse to a container. */
static void do_try(char **arguments)
{
	const char *name = arguments[0], *on = arguments[1] ? arguments[1] : "";
	struct iovec local = { &(char[8]){ 0 }, 8 }, remote = { (void *)0x400000, 8 };
	long value;

	errno = 0;
	if (!strcmp(name, "mount"))
		value = mount("none", on, "tmpfs", 0, NULL);
	else if (!strcmp(name, "remount"))
		value = mount(NULL, on, NULL, MS_REMOUNT | MS_BIND, NULL);
	else if (!strcmp(name, "umount"))
		value = umount2(on, MNT_DETACH);
	else if (!strcmp(name, "mknod"))
		value = mknod(on, S_IFCHR | 0666, makedev(1, 3));
	else if (!strcmp(name, "chroot"))
		value = chroot(on);
	else if (!strcmp(name, "setuid"))
		value = setuid((uid_t)atoi(on));
	else if (!strcmp(name, "setns"))
		value = setns(open(on, O_RDONLY | O_CLOEXEC), 0);
	else if (!strcmp(name, "unshare"))
		value = unshare(CLONE_NEWNS);
	else if (!strcmp(name, "unshare-user"))
		value = unshare(CLONE_NEWUSER);
	else if (!strcmp(name, "sethostname"))
		value = sethostname(on, strlen(on));
	else if (!strcmp(name, "ptrace"))
		value = ptrace(PTRACE_SEIZE, atoi(on), NULL, NULL);
	else if (!strcmp(name, "vm-read"))
		value = syscall(SYS_process_vm_readv, atoi(on), &local, 1, &remote, 1, 0);
	else if (!strcmp(name, "keyctl-search")) /* 10: KEYCTL_SEARCH, -3: the session keyring */
		value = syscall(SYS_keyctl, 10, -3, "user", on, 0);
	else if (!strcmp(name, "chmod"))
		value = chmod(on, 04755);
	else if (!strcmp(name, "personality"))
		value = syscall(SYS_personality, strtoul(on, NULL, 0));
	else if (!strcmp(name, "number")) /* any system call, by number, with zeros */
		value = syscall(atol(on), 0, 0, 0, 0, 0, 0);
	else
		_exit(96);
	result(name, on, value);
}

/* ---- System calls under a filter ---- */

/* The result of a call in a child; the call may kill the child. */
struct outcome {
	long value;
	int error;
};

static void print_outcome(const char *what, char **arguments, const struct outcome *outcome, int status)
{
	printf("{\"do\": \"%s\", \"on\": \"", what);
	for (int i = 0; arguments[i]; i++)
		printf("%s%s", i ? " " : "", arguments[i]);
	printf("\", \"result\": %ld, \"errno\": %d, \"signal\": %d}\n", outcome->value,
	       outcome->value < 0 ? outcome->error : 0, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	fflush(stdout);
}

static void in_child(const char *what, char **arguments, long (*make)(const long *))
{
	struct outcome *outcome = mmap(NULL, sizeof *outcome, PROT_READ | PROT_WRITE,
				       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long numbers[7] = { 0 };
	int status = 0;

	for (int i = 0; i < 7 && arguments[i]; i++)
		numbers[i] = (long)strtoull(arguments[i], NULL, 0);
	pid_t child = fork();
	if (child == 0) {
		long value = make(numbers);
		int error = errno;

		if (numbers[0] == SYS_clone && value == 0) /* the child of that clone */
			_exit(0);
		*outcome = (struct outcome){ value, error };
		_exit(0);
	}
	waitpid(child, &status, 0);
	print_outcome(what, arguments, outcome, status);
	munmap(outcome, sizeof *outcome);
}

static long make_call(const long *n)
{
	return syscall(n[0], n[1], n[2], n[3], n[4], n[5], n[6]);
}

/* Makes a call as a 32-bit program does. */
static long make_foreign_call(const long *n)
{
	long value = -ENOSYS;

#ifdef __x86_64__
	__asm__ volatile("int $0x80" : "=a"(value) : "a"(n[0]), "b"(n[1]), "c"(n[2]), "d"(n[3])
			 : "memory");
#endif
	errno = value < 0 ? (int)-value : 0;
	return value < 0 ? -1 : value;
}

/* call NUMBER [ARGUMENTS]: make it in a child; `signal` is the one that killed it, or 0. */
static void do_call(char **arguments)
{
	in_child("call", arguments, make_call);
}

static void do_foreign(char **arguments)
{
	in_child("foreign", arguments, make_foreign_call);
}

#include "notify.c"

struct command {
	const char *name;
	void (*run)(char **arguments);
	int least; /* arguments */
};

static const struct command commands[] = {
	{ "self", do_self, 0 },	      { "mounts", do_mounts, 0 },   { "exit", do_exit, 1 },
	{ "raise", do_raise, 1 },     { "ready", do_ready, 0 },	    { "pause", do_pause, 0 },
	{ "sleep", do_sleep, 1 },     { "ignore", do_ignore, 1 },   { "catch", do_catch, 1 },
	{ "block", do_block, 1 },     { "await", do_await, 1 },
	{ "kill", do_kill, 2 },	      { "storm", do_storm, 4 },	    { "queue", do_queue, 3 },
	{ "orphans", do_orphans, 1 }, { "alone", do_alone, 0 },	    { "fork", do_fork, 0 },
	{ "session", do_session, 0 }, { "bomb", do_bomb, 0 },	    { "memory", do_memory, 1 },
	{ "flood", do_flood, 1 },     { "say", do_say, 1 },	    { "cry", do_cry, 1 },
	{ "put", do_put, 2 },	      { "read", do_read, 1 },	      { "write", do_write, 2 },	    { "stat", do_stat, 1 },
	{ "list", do_list, 1 },	      { "readlink", do_readlink, 1 }, { "exec", do_exec, 1 },
	{ "connect", do_connect, 1 }, { "try", do_try, 1 },	    { "fill", do_fill, 2 },
	{ "console", do_console, 1 }, { "socket", do_socket, 1 },
	{ "unix", do_unix, 1 },
	{ "call", do_call, 1 },	      { "foreign", do_foreign, 1 },
	{ "notify", do_notify, 1 },   { "notify-open", do_notify_open, 1 },
	{ "notify-size", do_notify_size, 2 }, { "notify-flood", do_notify_flood, 2 },
	{ "notify-rubbish", do_notify_rubbish, 1 }, { "notify-every", do_notify_every, 2 },
};

/* Runs one command, if the table has it; its arguments end with NULL. */
static int run_of(const struct command *table, size_t length, char **words)
{
	int count = 0;

	while (words[count])
		count++;
	for (size_t i = 0; i < length; i++)
		if (!strcmp(words[0], table[i].name) && count > table[i].least) {
			table[i].run(words + 1);
			return 1;
		}
	return 0;
}

static void run(char **words)
{
	if (run_of(commands, sizeof commands / sizeof commands[0], words))
		return;
	fprintf(stderr, "payload: no command %s with these arguments\n", words[0]);
	_exit(97);
}

/* Runs each command of the arguments, which are separated by `;`. */
static int run_all(int argc, char **argv, void (*run_one)(char **words))
{
	static char *kept[1024]; /* the loop below splits argv in place */
	char **word = argv + 1;

	for (int i = 0; i < argc && i < 1023; i++)
		kept[i] = argv[i];
	all_arguments = kept;
	while (*word) {
		char **end = word;

		while (*end && strcmp(*end, ";"))
			end++;
		bool last = !*end;
		*end = NULL;
		if (end > word)
			run_one(word);
		word = last ? end : end + 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	return run_all(argc, argv, run);
}
