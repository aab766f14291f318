/*
 * The program in the containers of the attack tests: the payload of the other system tests with
 * more commands. The table `attacks` below lists them.
 */
#define main payload_main
#include "../payload.c"
#undef main

#include <elf.h>
#include <limits.h>
#include <net/if.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/shm.h>
#include <sys/user.h>
#include <sys/xattr.h>

/* ---- Changing the user ---- */

/* become UID GID: needs CAP_SETUID and CAP_SETGID; keeps capabilities where possible. */
static void do_become(char **arguments)
{
	uid_t uid = (uid_t)strtoul(arguments[0], NULL, 0);
	gid_t gid = (gid_t)strtoul(arguments[1], NULL, 0);
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0, 0, 0 }, { 0, 0, 0 } };

	if (setresgid(gid, gid, gid) || prctl(PR_SET_KEEPCAPS, 1) || setresuid(uid, uid, uid))
		return result("become", arguments[0], -1);
	syscall(SYS_capget, &header, data);
	data[0].effective = data[0].permitted;
	data[1].effective = data[1].permitted;
	result("become", arguments[0], syscall(SYS_capset, &header, data));
}

/* userns: create a user namespace, with mount, network and cgroup namespaces owned by it. */
static void do_userns(char **arguments)
{
	(void)arguments;
	result("userns", "",
	       unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWCGROUP));
}

/* ---- init ---- */

/* on-init WHAT: a system call that is permitted on another process of the same user */
static void do_on_init(char **arguments)
{
	const char *what = arguments[0];
	struct rlimit limit = { 1, 1 };
	struct sched_param parameters = { 0 };
	unsigned long processors = 1;
	long value, pidfd = syscall(SYS_pidfd_open, 1, 0);
	struct iovec local = { (char[8]){ 0 }, 8 }, remote = { (void *)0x400000, 8 };

	if (!strcmp(what, "cpu-limit"))
		value = syscall(SYS_prlimit64, 1, RLIMIT_CPU, &limit, NULL);
	else if (!strcmp(what, "stack-limit"))
		value = syscall(SYS_prlimit64, 1, RLIMIT_STACK, &limit, NULL);
	else if (!strcmp(what, "nice"))
		value = setpriority(PRIO_PROCESS, 1, 19);
	else if (!strcmp(what, "idle"))
		value = syscall(SYS_sched_setscheduler, 1, SCHED_IDLE, &parameters);
	else if (!strcmp(what, "affinity"))
		value = syscall(SYS_sched_setaffinity, 1, sizeof processors, &processors);
	else if (!strcmp(what, "ioprio")) /* 1: IOPRIO_WHO_PROCESS, 3: the idle class */
		value = syscall(SYS_ioprio_set, 1, 1, 3 << 13);
	else if (!strcmp(what, "seize"))
		value = ptrace(PTRACE_SEIZE, 1, NULL, NULL);
	else if (!strcmp(what, "attach"))
		value = ptrace(PTRACE_ATTACH, 1, NULL, NULL);
	else if (!strcmp(what, "vm-read"))
		value = syscall(SYS_process_vm_readv, 1, &local, 1, &remote, 1, 0);
	else if (!strcmp(what, "vm-write"))
		value = syscall(SYS_process_vm_writev, 1, &local, 1, &remote, 1, 0);
	else if (!strcmp(what, "take-descriptor"))
		value = syscall(SYS_pidfd_getfd, pidfd, 3, 0);
	else if (!strcmp(what, "setns"))
		value = setns((int)pidfd, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC);
	else if (!strcmp(what, "move-pages"))
		value = syscall(SYS_move_pages, 1, 0UL, NULL, NULL, NULL, 0);
	else if (!strcmp(what, "signal"))
		value = syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	else if (!strcmp(what, "group"))
		value = setpgid(1, getpid());
	else
		_exit(96);
	result("on-init", what, value);
	close((int)pidfd);
}

/*
 * Makes a traced process that is stopped in a system call make another one; returns the kernel's
 * result. x86-64 stops after the instruction, arm64 at it.
 */
static long call_as(pid_t pid, long number, unsigned long first, unsigned long second,
		    unsigned long third)
{
	struct user_regs_struct before, registers;
	struct iovec set = { &before, sizeof before };
	int status;

	if (ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &set))
		return -1;
	registers = before;
	set.iov_base = &registers;
#if defined __x86_64__
	registers.orig_rax = (unsigned long)-1; /* no restart of the interrupted call */
	registers.rip -= 2;
	registers.rax = (unsigned long)number;
	registers.rdi = first;
	registers.rsi = second;
	registers.rdx = third;
	registers.r10 = registers.r8 = registers.r9 = 0;
#elif defined __aarch64__
	registers.regs[8] = (unsigned long)number;
	registers.regs[0] = first;
	registers.regs[1] = second;
	registers.regs[2] = third;
	registers.regs[3] = registers.regs[4] = registers.regs[5] = 0;
#else
#error "how are system calls made here?"
#endif
	if (ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &set) ||
	    ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) || waitpid(pid, &status, __WALL) != pid ||
	    ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &set))
		return -1;
	set.iov_base = &before;
	ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &set);
#if defined __x86_64__
	return (long)registers.rax;
#else
	return (long)registers.regs[0];
#endif
}

/* Makes it send bytes from its memory on descriptor 3. */
static long send_as(pid_t pid, unsigned long address, size_t size)
{
	return call_as(pid, SYS_sendto, 3, address, size);
}

/* forge HEX...: traces init (CAP_SYS_PTRACE) and makes it send messages of these bytes. */
static void do_forge(char **arguments)
{
	struct user_regs_struct registers;
	struct iovec set = { &registers, sizeof registers };
	int status;

	/* Init has reported STARTED by then, and waits in its last system call, as send_as needs. */
	usleep(500 * 1000);
	if (ptrace(PTRACE_SEIZE, 1, NULL, NULL) || ptrace(PTRACE_INTERRUPT, 1, NULL, NULL) ||
	    waitpid(1, &status, __WALL) != 1 || ptrace(PTRACE_GETREGSET, 1, NT_PRSTATUS, &set))
		return result("forge", "", -1);
	for (; *arguments; arguments++) {
		unsigned char message[4096];
		size_t size = 0;

		for (const char *digit = *arguments; digit[0] && digit[1]; digit += 2) {
			unsigned int byte = 0;

			sscanf(digit, "%2x", &byte);
			message[size++] = (unsigned char)byte;
		}
		/* Far below its stack pointer, in memory that it does not use. */
#if defined __x86_64__
		unsigned long address = registers.rsp - 8192;
#else
		unsigned long address = registers.sp - 8192;
#endif
		struct iovec local = { message, size }, remote = { (void *)address, size };

		if (process_vm_writev(1, &local, 1, &remote, 1, 0) < 0)
			return result("forge", "", -1);
		result("forge", *arguments, send_as(1, address, size));
	}
	ptrace(PTRACE_DETACH, 1, NULL, NULL);
}

/* hogs N: start that many busy processes on processor 0, each in a new session. */
static void do_hogs(char **arguments)
{
	unsigned long processors = 1;

	for (int count = atoi(arguments[0]); count > 0; count--) {
		if (fork() == 0) {
			setsid();
			syscall(SYS_sched_setaffinity, 0, sizeof processors, &processors);
			for (;;)
				continue;
		}
	}
	result("hogs", arguments[0], 0);
}

/* ---- The process at the other end of a socket ---- */

#ifndef SO_PASSPIDFD /* unix(7), Linux 6.5 */
#define SO_PASSPIDFD 76
#define SO_PEERPIDFD 77
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04
#endif
#ifndef SYS_process_mrelease /* Linux 5.15; the number is the same on all architectures */
#define SYS_process_mrelease 448
#endif

static int other = -1; /* the last pidfd from `peer` or `sender` */

/* peer FD: SO_PEERCRED and SO_PEERPIDFD; keeps the pidfd, and returns its result. */
static void do_peer(char **arguments)
{
	struct ucred who = { -1, (uid_t)-1, (gid_t)-1 };
	socklen_t size = sizeof who, length = sizeof other;
	int error = 0, fd = atoi(arguments[0]);

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size);
	other = -1;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &other, &length))
		error = errno;
	printf("{\"do\": \"peer\", \"on\": \"%d\", \"result\": %d, \"errno\": %d, \"pid\": %d, "
	       "\"self\": %d, \"uid\": %d, \"gid\": %d}\n",
	       fd, error ? -1 : 0, error, who.pid, getpid(), (int)who.uid, (int)who.gid);
	fflush(stdout);
}

/* peer-of PATH: the same for a new connection to a stream socket */
static void do_peer_of(char **arguments)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int stream = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char number[16];

	strncpy(address.sun_path, arguments[0], sizeof address.sun_path - 1);
	if (connect(stream, (struct sockaddr *)&address, sizeof address))
		return result("peer-of", arguments[0], -1);
	result("peer-of", arguments[0], 0);
	snprintf(number, sizeof number, "%d", stream);
	do_peer((char *[]){ number, NULL });
}

/* sender FD LINE: a pidfd of the sender of the answer, by SO_PASSPIDFD and SCM_PIDFD */
static void do_sender(char **arguments)
{
	char text[65536];
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { text, sizeof text };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof control };
	int fd = atoi(arguments[0]), yes = 1;
	struct cmsghdr *header;

	other = -1;
	if (setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &yes, sizeof yes) ||
	    dprintf(fd, "%s\n", arguments[1]) < 0 || recvmsg(fd, &message, 0) <= 0)
		return result("sender", arguments[0], -1);
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_type == SCM_PIDFD)
		memcpy(&other, CMSG_DATA(header), sizeof other);
	errno = ENODATA;
	result("sender", arguments[0], other < 0 ? -1 : 0);
}

/* Returns how many descriptors pidfd_getfd(2), called in this way, can copy. */
static long take_descriptors(long (*call)(int pidfd, int number))
{
	long taken = 0;
	int error = 0;

	for (int number = 0; number < 256; number++) {
		long got = call(other, number);

		if (got >= 0) {
			taken++;
			close((int)got);
		} else if (errno != EBADF) {
			error = errno;
		}
	}
	errno = error;
	return taken ? taken : -1;
}

static long getfd(int pidfd, int number)
{
	return syscall(SYS_pidfd_getfd, pidfd, number, 0);
}

#ifdef __x86_64__
static long getfd_x32(int pidfd, int number)
{
	return syscall(0x40000000 | SYS_pidfd_getfd, pidfd, number, 0);
}

static long getfd_i386(int pidfd, int number)
{
	long value;

	__asm__ volatile("int $0x80"
			 : "=a"(value)
			 : "a"(438), "b"(pidfd), "c"(number), "d"(0)
			 : "memory", "r8", "r9", "r10", "r11");
	value = (int)value;
	if (value >= 0)
		return value;
	errno = (int)-value;
	return -1;
}
#endif

/* Opens a file handle of pidfs, which is not bound to a PID namespace (Linux 6.14). */
static long open_by_handle(void)
{
	struct {
		struct file_handle head;
		unsigned char rest[MAX_HANDLE_SZ];
	} handle = { { MAX_HANDLE_SZ, 0 }, { 0 } };
	int mount;

	if (name_to_handle_at(other, "", &handle.head, &mount, AT_EMPTY_PATH))
		return -1;
	return open_by_handle_at(other, &handle.head, O_RDONLY | O_CLOEXEC);
}

/* on-peer WHAT: a system call on the pidfd */
static void do_on_peer(char **arguments)
{
	const char *what = arguments[0];
	struct iovec part = { &other, sizeof other };
	siginfo_t ended;
	long value = -1;

	if (!strcmp(what, "descriptors"))
		value = take_descriptors(getfd);
#ifdef __x86_64__
	else if (!strcmp(what, "descriptors-x32"))
		value = take_descriptors(getfd_x32);
	else if (!strcmp(what, "descriptors-i386"))
		value = take_descriptors(getfd_i386);
#endif
	else if (!strcmp(what, "signal"))
		value = syscall(SYS_pidfd_send_signal, other, SIGKILL, NULL, 0);
	else if (!strcmp(what, "signal-0"))
		value = syscall(SYS_pidfd_send_signal, other, 0, NULL, 0);
	else if (!strcmp(what, "setns"))
		value = setns(other, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC);
	else if (!strcmp(what, "setns-net"))
		value = setns(other, CLONE_NEWNET);
	else if (!strcmp(what, "namespace")) { /* PIDFD_GET_MNT_NAMESPACE, Linux 6.11 */
		value = ioctl(other, _IO(0xFF, 3), 0);
		if (value >= 0)
			value = setns((int)value, 0);
	} else if (!strcmp(what, "page-out")) /* 21: MADV_PAGEOUT */
		value = syscall(SYS_process_madvise, other, &part, 1, 21, 0);
	else if (!strcmp(what, "release"))
		value = syscall(SYS_process_mrelease, other, 0);
	else if (!strcmp(what, "wait"))
		value = waitid(3, (id_t)other, &ended, WEXITED | WNOHANG); /* 3: P_PIDFD */
	else if (!strcmp(what, "handle"))
		value = open_by_handle();
	else
		_exit(96);
	result("on-peer", what, value);
}

/* ---- Descriptors ---- */

/* on-fd FD WHAT: a system call that the owner of a file may make */
static void do_on_fd(char **arguments)
{
	int fd = atoi(arguments[0]);
	const char *what = arguments[1];
	char path[64];
	long value;

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (!strcmp(what, "chmod"))
		value = fchmod(fd, 0);
	else if (!strcmp(what, "chown"))
		value = fchown(fd, 1000, 1000);
	else if (!strcmp(what, "chmod-path"))
		value = chmod(path, 0);
	else if (!strcmp(what, "chown-path"))
		value = chown(path, 1000, 1000);
	else if (!strcmp(what, "times"))
		value = futimens(fd, NULL);
	else if (!strcmp(what, "lock"))
		value = flock(fd, LOCK_EX | LOCK_NB);
	else if (!strcmp(what, "nonblock"))
		value = fcntl(fd, F_SETFL, O_NONBLOCK);
	else if (!strcmp(what, "flags"))
		value = fcntl(fd, F_GETFL);
	else if (!strcmp(what, "acl")) /* any attribute at all */
		value = fsetxattr(fd, "trusted.northstar", "x", 1, 0);
	else if (!strcmp(what, "parent"))
		value = openat(fd, "..", O_PATH | O_CLOEXEC);
	else if (!strcmp(what, "tty"))
		value = ioctl(fd, TIOCSTI, "x");
	else
		_exit(96);
	printf("{\"do\": \"on-fd\", \"on\": \"%d %s\", \"result\": %ld, \"errno\": %d}\n", fd, what,
	       value, value < 0 ? errno : 0);
	fflush(stdout);
}

/* ---- Files ---- */

static long tried, opened;

/* Prints a path that could be written to; the test has a list of the permitted ones. */
static void writable(const char *how, const char *path)
{
	opened++;
	result(how, path, 0);
}

/* Changes nothing on success: it only opens files, and sets modes to their present value. */
static void try_to_write(const char *path)
{
	char inside[PATH_MAX + 16];
	struct stat file;
	int fd;

	if (lstat(path, &file))
		return;
	tried++;
	if (!S_ISLNK(file.st_mode) && !chmod(path, file.st_mode & 07777))
		writable("chmod", path);
	if (S_ISREG(file.st_mode)) {
		fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0)
			writable("open", path);
		close(fd);
	} else if (S_ISDIR(file.st_mode)) {
		snprintf(inside, sizeof inside, "%s/.attack", path);
		fd = open(inside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd >= 0)
			writable("create", path);
		close(fd);
		unlink(inside);
	}
}

static void walk(const char *path, int depth)
{
	char inside[PATH_MAX];
	struct stat file;
	DIR *directory;

	try_to_write(path);
	if (lstat(path, &file) || !S_ISDIR(file.st_mode) || depth > 40)
		return;
	directory = opendir(path);
	if (!directory)
		return;
	for (struct dirent *entry; (entry = readdir(directory));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (snprintf(inside, sizeof inside, "%s/%s", strcmp(path, "/") ? path : "",
			     entry->d_name) < (int)sizeof inside)
			walk(inside, depth + 1);
	}
	closedir(directory);
}

/* walk PATH: try to write to everything below it; the result is the number of attempts. */
static void do_walk(char **arguments)
{
	tried = opened = 0;
	walk(arguments[0], 0);
	result("walk", arguments[0], tried);
}

/* same A B: 0 if both paths lead to the same file, 1 if they don't */
static void do_same(char **arguments)
{
	struct stat a, b;

	if (stat(arguments[0], &a) || stat(arguments[1], &b))
		return result("same", arguments[0], -1);
	result("same", arguments[0], a.st_dev != b.st_dev || a.st_ino != b.st_ino);
}

/* climb: `..` from the root and the working directory; 0 if it stays at the root */
static void do_climb(char **arguments)
{
	struct stat root, top;
	int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	(void)arguments;
	for (int level = 0; level < 50; level++) {
		int up = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

		close(fd);
		fd = up;
	}
	if (stat("/", &root) || fstat(fd, &top) || fchdir(fd))
		return result("climb", "", -1);
	close(fd);
	result("climb", "", root.st_dev != top.st_dev || root.st_ino != top.st_ino);
}

/* handle: open the root by its file handle, outside of any mount (open_by_handle_at(2)) */
static void do_handle(char **arguments)
{
	struct {
		struct file_handle head;
		unsigned char rest[MAX_HANDLE_SZ];
	} handle = { { MAX_HANDLE_SZ, 0 }, { 0 } };
	int mount, root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long value = name_to_handle_at(root, ".", &handle.head, &mount, 0);

	(void)arguments;
	if (value == 0)
		value = open_by_handle_at(root, &handle.head, O_RDONLY | O_CLOEXEC);
	result("handle", "", value);
	close(root);
}

/* replace DIRECTORY: change or replace the entry `socket` of a directory in each way */
static void do_replace(char **arguments)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "mine" };
	struct timespec times[2] = { { 1, 0 }, { 1, 0 } };
	int mine = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (chdir(arguments[0]))
		return result("replace", "chdir", -1);
	result("replace", "bind", bind(mine, (struct sockaddr *)&address, sizeof address));
	result("replace", "unlink", unlink("socket"));
	result("replace", "rename", rename("socket", "other"));
	result("replace", "rename-out", rename("socket", "/tmp/socket"));
	result("replace", "exchange", syscall(SYS_renameat2, AT_FDCWD, "socket", AT_FDCWD,
					      "/tmp/socket", 2 /* RENAME_EXCHANGE */));
	result("replace", "link", link("socket", "other"));
	result("replace", "link-out", link("socket", "/tmp/socket"));
	result("replace", "symlink", symlink("/payload", "other"));
	result("replace", "mkdir", mkdir("other", 0777));
	result("replace", "mknod", mknod("other", S_IFSOCK | 0666, 0));
	result("replace", "open", open("other", O_CREAT | O_RDWR | O_CLOEXEC, 0666));
	result("replace", "chmod", chmod("socket", 0));
	result("replace", "chown", chown("socket", 1000, 1000));
	result("replace", "utime", utimensat(AT_FDCWD, "socket", times, 0));
	result("replace", "xattr", setxattr("socket", "trusted.northstar", "x", 1, 0));
	result("replace", "chmod-directory", chmod(".", 0777));
	result("replace", "chown-directory", chown(".", 1000, 1000));
	result("replace", "rmdir", rmdir(arguments[0]));
	result("replace", "rename-directory", rename(arguments[0], "/tmp/directory"));
	if (chdir("/"))
		_exit(95);
	close(mine);
}

/* terminal: open the controlling terminal, and insert a keystroke (TIOCSTI) */
static void do_terminal(char **arguments)
{
	int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);

	(void)arguments;
	result("terminal", "", tty < 0 ? -1 : ioctl(tty, TIOCSTI, "x"));
}

/* ---- Other ways to the host ---- */

/* abstract NAME: connect to an abstract Unix socket; they belong to a network namespace */
static void do_abstract(char **arguments)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int any = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t length = strlen(arguments[0]);

	memcpy(address.sun_path + 1, arguments[0], length);
	result("abstract", arguments[0],
	       connect(any, (struct sockaddr *)&address,
		       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)));
	close(any);
}

/* shared-memory KEY, messages KEY: System V objects that exist */
static void do_shared_memory(char **arguments)
{
	result("shared-memory", arguments[0], shmget(atoi(arguments[0]), 0, 0));
}

static void do_messages(char **arguments)
{
	result("messages", arguments[0], msgget(atoi(arguments[0]), 0));
}

/* key SERIAL: read a key of which only its number is known (11: KEYCTL_READ) */
static void do_key(char **arguments)
{
	char content[64];

	result("key", arguments[0],
	       syscall(SYS_keyctl, 11, atoi(arguments[0]), content, sizeof content));
}

/* addresses FD: those in the network namespace of a socket of any family, netdevice(7) */
static void do_addresses(char **arguments)
{
	struct ifreq found[64];
	struct ifconf all = { .ifc_len = sizeof found, .ifc_req = found };
	int fd = atoi(arguments[0]);
	long value = ioctl(fd, SIOCGIFCONF, &all);

	printf("{\"do\": \"addresses\", \"on\": \"%d\", \"result\": %ld, \"errno\": %d, ", fd,
	       value, value < 0 ? errno : 0);
	printf("\"addresses\": [");
	for (int i = 0; value == 0 && i < all.ifc_len / (int)sizeof found[0]; i++) {
		struct sockaddr_in address;

		memcpy(&address, &found[i].ifr_addr, sizeof address);
		printf("%s%u", i ? ", " : "", ntohl(address.sin_addr.s_addr));
	}
	printf("]}\n");
	fflush(stdout);
}

/* down FD: set the loopback interface of that namespace down (CAP_NET_ADMIN) */
static void do_down(char **arguments)
{
	struct ifreq request = { .ifr_name = "lo" };

	result("down", arguments[0], ioctl(atoi(arguments[0]), SIOCSIFFLAGS, &request));
}

/* raw-socket: packets of any kind need CAP_NET_RAW */
static void do_raw_socket(char **arguments)
{
	(void)arguments;
	result("raw-socket", "", socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
}

/* ---- Load on the runtime ---- */

/* rights FD TIMES: send as many descriptors as a message can hold */
static void do_rights(char **arguments)
{
	enum { MOST = 253 }; /* SCM_MAX_FD, unix(7) */
	union {
		char bytes[CMSG_SPACE(MOST * sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { "\n", 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof control };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int times = atoi(arguments[1]);
	long last = 0;

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(MOST * sizeof(int));
	for (int i = 0; i < MOST; i++)
		((int *)CMSG_DATA(header))[i] = 0;
	/* musl's sendmsg refuses so much control data. Its structures are the kernel's. */
	while (times-- > 0 && last >= 0)
		last = syscall(SYS_sendmsg, atoi(arguments[0]), &message, MSG_NOSIGNAL);
	result("rights", arguments[0], last);
}

/* garbage BYTES: write bytes of all values, without newlines; 0: without end */
static void do_garbage(char **arguments)
{
	static unsigned char piece[4096];
	long bytes = atol(arguments[0]);

	for (size_t i = 0; i < sizeof piece; i++)
		piece[i] = (unsigned char)(i * 7 + i / 256);
	for (size_t i = 0; i < sizeof piece; i++)
		if (piece[i] == '\n')
			piece[i] = 0x1b;
	for (long sent = 0; !bytes || sent < bytes; sent += (long)sizeof piece)
		if (write(1, piece, sizeof piece) < 0)
			_exit(98);
	putchar('\n');
	result("garbage", arguments[0], 0);
}

/* deaf FD: send requests without end, and read no answer */
static void do_deaf(char **arguments)
{
	static const char request[] = "{\"request\":\"list\"}\n";
	long sent = 0, length;

	while ((length = send(atoi(arguments[0]), request, sizeof request - 1,
			      MSG_NOSIGNAL | MSG_DONTWAIT)) > 0)
		sent += length;
	result("deaf", arguments[0], sent);
}

/* abandon: leave an orphaned grandchild in a new session. */
static void do_abandon(char **arguments)
{
	pid_t child = fork();

	(void)arguments;
	if (child == 0) {
		setsid();
		if (fork() == 0)
			do_pause(arguments);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	result("abandon", "", child);
}

/* ---- Processes that appear in the container ---- */

static void print_link(const char *name, const char *path)
{
	char target[PATH_MAX] = "";

	if (readlink(path, target, sizeof target - 1) < 0)
		strcpy(target, "?");
	printf(", \"%s\": ", name);
	json_string(target);
}

static void print_status(pid_t pid, const char *field)
{
	char path[64], line[256];
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, field, strlen(field))) {
			line[strcspn(line, "\n")] = '\0';
			printf(", \"%s\": ", field);
			json_string(line + strlen(field) + 2);
		}
	if (file)
		fclose(file);
}

/* Tries to change the file that a process executes (CVE-2019-5736); the errnos, 0 for success. */
static void print_attack_on_program(const char *path)
{
	int file = open(path, O_RDWR | O_CLOEXEC);
	int writing = file < 0 ? errno : 0, truncating, mode;

	if (file >= 0)
		close(file);
	truncating = truncate(path, 0) ? errno : 0;
	mode = chmod(path, 0) ? errno : 0;
	printf(", \"write\": %d, \"truncate\": %d, \"chmod\": %d", writing, truncating, mode);
}

/* Whether call_as is possible: the process is stopped in a system call, not elsewhere. */
static bool is_in_call(pid_t pid)
{
	struct user_regs_struct registers;
	struct iovec set = { &registers, sizeof registers };

	if (ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &set))
		return false;
#if defined __x86_64__
	return (ptrace(PTRACE_PEEKTEXT, pid, registers.rip - 2, NULL) & 0xffff) == 0x050f;
#else
	return (ptrace(PTRACE_PEEKTEXT, pid, registers.pc, NULL) & 0xffffffff) == 0xd4000001;
#endif
}

/* Prints what the process itself finds about its descriptors: the results of lseek, getdents and
 * listen, which differ between files, directories, pipes and sockets. */
static void print_own_descriptors(pid_t pid)
{
	printf(", \"own\": {\"-1\": []");
	for (unsigned long fd = 0; fd < 64; fd++)
		if (call_as(pid, SYS_fcntl, fd, F_GETFD, 0) >= 0)
			printf(", \"%lu\": [%ld, %ld, %ld]", fd,
			       call_as(pid, SYS_lseek, fd, 0, SEEK_CUR),
			       call_as(pid, SYS_getdents64, fd, 0, 0),
			       call_as(pid, SYS_listen, fd, 0, 0));
	printf("}");
}

static void inspect(pid_t pid, bool early)
{
	char path[64], target[64];
	struct dirent *entry;
	DIR *directory;

	printf("{\"do\": \"hunt\", \"on\": \"\", \"pid\": %d", (int)pid);
	for (int i = 0; i < 3; i++) {
		static const char *const links[] = { "exe", "cwd", "root" };

		snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, links[i]);
		print_link(links[i], path);
	}
	print_status(pid, "CapEff");
	print_status(pid, "CapPrm");
	print_status(pid, "CapInh");
	print_status(pid, "CapBnd");
	print_status(pid, "NoNewPrivs");
	print_status(pid, "Uid");
	print_status(pid, "Groups");
	snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
	print_attack_on_program(path);
	if (early && is_in_call(pid))
		print_own_descriptors(pid);
	printf(", \"fds\": {\"-1\": \"\"");
	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(target, sizeof target, "%.40s/%.10s", path, entry->d_name);
		print_link(entry->d_name, target);
	}
	if (directory)
		closedir(directory);
	printf("}}\n");
	fflush(stdout);
}

/* sibling COUNT: clones children of this process's parent, which pause. */
static void do_sibling(char **arguments)
{
	long pid = 0;

	for (int left = atoi(arguments[0]); left > 0; left--) {
		pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0UL, 0UL, 0UL, 0UL);
		if (pid == 0)
			do_pause(arguments);
	}
	result("sibling", arguments[0], pid);
}

/* hunt COUNT: traces (CAP_SYS_PTRACE) that many processes, each as soon as it exists: the kernel
 * assigns the pids of a namespace in rising order. */
static void do_hunt(char **arguments)
{
	pid_t next = getpid() + 1;

	for (long left = atol(arguments[0]); left > 0;) {
		char path[64], target[PATH_MAX];
		pid_t pid = 0;
		ssize_t length;
		int status;

		for (pid_t guess = next; guess < next + 16; guess++)
			if (!ptrace(PTRACE_SEIZE, guess, NULL, NULL)) {
				pid = guess;
				break;
			}
		if (!pid)
			continue;
		next = pid + 1;
		if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) ||
		    waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
			continue;
		snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
		length = readlink(path, target, sizeof target - 1);
		target[length > 0 ? length : 0] = '\0';
		inspect(pid, strstr(target, "northstar-init") != NULL);
		ptrace(PTRACE_DETACH, pid, NULL, NULL);
		left--;
	}
	result("hunted", arguments[0], 0);
}

static void attack(char **words);

/* child COMMAND...: run it in a child */
static void do_child(char **arguments)
{
	pid_t child = fork();

	if (child == 0) {
		attack(arguments);
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

static const struct command attacks[] = {
	{ "become", do_become, 2 },
	{ "userns", do_userns, 0 },
	{ "on-init", do_on_init, 1 },
	{ "forge", do_forge, 1 },
	{ "child", do_child, 1 },
	{ "hunt", do_hunt, 1 },
	{ "sibling", do_sibling, 1 },
	{ "hogs", do_hogs, 1 },
	{ "peer", do_peer, 1 },
	{ "peer-of", do_peer_of, 1 },
	{ "sender", do_sender, 2 },
	{ "on-peer", do_on_peer, 1 },
	{ "on-fd", do_on_fd, 2 },
	{ "walk", do_walk, 1 },
	{ "same", do_same, 2 },
	{ "climb", do_climb, 0 },
	{ "handle", do_handle, 0 },
	{ "replace", do_replace, 1 },
	{ "terminal", do_terminal, 0 },
	{ "abstract", do_abstract, 1 },
	{ "shared-memory", do_shared_memory, 1 },
	{ "messages", do_messages, 1 },
	{ "key", do_key, 1 },
	{ "raw-socket", do_raw_socket, 0 },
	{ "addresses", do_addresses, 1 },
	{ "down", do_down, 1 },
	{ "rights", do_rights, 2 },
	{ "garbage", do_garbage, 1 },
	{ "deaf", do_deaf, 1 },
	{ "abandon", do_abandon, 0 },
};

static void attack(char **words)
{
	if (!run_of(attacks, sizeof attacks / sizeof attacks[0], words))
		run(words);
}

int main(int argc, char **argv)
{
	return run_all(argc, argv, attack);
}
