/* The steps other than mounts: namespaces, ids, sockets, limits, privileges. */
#include "steps.h"

#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/keyctl.h>
#include <linux/sched/types.h>
#include <linux/seccomp.h>

#include "syscalls.h"

int step_setns(struct operation *operation, const struct plan *plan)
{
	int descriptor = take_descriptor(operation, plan);

	return syscall_setns(descriptor, (int)take_number(operation));
}

int step_join(struct operation *operation, const struct plan *plan)
{
	/* 0 is the writer. To move another process the kernel first stops all forks and exits,
	 * which takes 5 to 16 ms after some idle time; a thread that moves itself does not need
	 * that lock (Linux 6.0). Permission was checked when the runtime opened the file. */
	return write(take_descriptor(operation, plan), "0", 1) == 1 ? 0 : -1;
}

int step_keyring(void)
{
	if (syscall_keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL) >= 0)
		return 0;
	/* A kernel without keyrings: the runtime has no keys to protect. */
	return errno == ENOSYS ? 0 : -1;
}

int step_session(void)
{
	return setsid() < 0 ? -1 : 0;
}

int step_hostname(struct operation *operation)
{
	const char *name = take(operation);

	ABOUT(name);
	return sethostname(name, strlen(name));
}

int step_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	/* netdevice(7) accepts any socket; every supported kernel has AF_UNIX. */
	int any = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	ABOUT("lo");
	if (any < 0 || ioctl(any, SIOCGIFFLAGS, &request))
		return -1;
	request.ifr_flags |= IFF_UP;
	if (ioctl(any, SIOCSIFFLAGS, &request))
		return -1;
	return close(any);
}

int step_selinux(struct operation *operation)
{
	/* Set here, since it needs the host's /proc; fork(2) inherits it and execve(2) resets it.
	 * thread-self, since it is an attribute of the thread: proc_pid_attr(5). */
	static const char attribute[] = "/proc/thread-self/attr/exec";
	const char *context = take(operation);
	size_t size = strlen(context) + 1;
	int file = open(attribute, O_WRONLY | O_CLOEXEC);

	ABOUT(attribute);
	if (file < 0)
		return -1;
	ABOUT(context);
	if (write(file, context, size) != (ssize_t)size)
		return -1;
	return close(file);
}

int step_groups(struct operation *operation)
{
	static gid_t groups[GROUPS_MAX]; /* unwritten pages take no memory */
	const char *list = take(operation);
	size_t count = 0;

	ABOUT(list);
	while (*list) {
		const char *word;
		size_t length = next_in_list(&list, &word);
		uint64_t gid = 0;

		parse_number(word, length, UINT32_MAX, &gid);
		groups[count++] = (gid_t)gid;
	}
	return setgroups(count, groups);
}

int step_gid(struct operation *operation)
{
	const char *text = operation->next;
	gid_t gid = (gid_t)take_number(operation);

	ABOUT(text);
	return setresgid(gid, gid, gid);
}

static struct __user_cap_header_struct capability_header(void)
{
	return (struct __user_cap_header_struct){ .version = _LINUX_CAPABILITY_VERSION_3 };
}

/* Later steps need capabilities. A change from uid 0 to another clears all sets; with KEEPCAPS the
 * permitted set stays, capabilities(7). execve clears the flag. */
static int set_user(uid_t real, uid_t saved)
{
	struct __user_cap_header_struct header = capability_header();
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (prctl(PR_SET_KEEPCAPS, 1) || setresuid(real, real, saved))
		return -1;
	if (syscall_capget(&header, data))
		return -1;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		data[i].effective = data[i].permitted;
	return syscall_capset(&header, data);
}

static uid_t payload_uid;

int step_uid(struct operation *operation)
{
	const char *text = operation->next;

	payload_uid = (uid_t)take_number(operation);
	ABOUT(text);
	return set_user(payload_uid, payload_uid);
}

/*
 * A process may lower the limits, the priority and the scheduling policy of all processes of its
 * user, whatever their capabilities are. RLIMIT_CPU ends even a PID 1, and an init with the idle
 * policy on a busy machine neither reports nor can be killed. So init gets a user that no manifest
 * can name. prlimit(2) requires all three ids to be the caller's; the saved id differs, so a
 * payload with CAP_SETUID is refused, too. (EINVAL: a user namespace without these ids.)
 */
int assume_init_user(void)
{
	const uid_t init_uid = (uid_t)-2;

	ABOUT("user ", decimal(init_uid));
	return set_user(init_uid, init_uid - 1) && errno != EINVAL ? -1 : 0;
}

int restore_user(void)
{
	ABOUT("user ", decimal(payload_uid));
	return set_user(payload_uid, payload_uid);
}

/*
 * The kernel records the caller of socketpair(2) as the peer of both ends (SO_PEERCRED,
 * SO_PEERPIDFD, unix(7)). Called by the runtime, it would give the payload a pidfd of the runtime.
 */
int step_console(struct operation *operation, const struct plan *plan)
{
	int descriptor = take_descriptor(operation, plan), pair[2];

	ABOUT("the console's socket pair");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -1;
	if (dup3(pair[1], descriptor, O_CLOEXEC) < 0 || close(pair[1]))
		return -1;
	return pair[0];
}

/*
 * A socket of any family belongs to the network namespace in which it was created: netdevice(7)
 * calls on it read, and with CAP_NET_ADMIN change, the interfaces of that namespace. So init
 * creates the payload's sockets in the container's namespace; the runtime binds them.
 */
int step_socket(struct operation *operation, const struct plan *plan)
{
	int descriptor = take_descriptor(operation, plan);
	int made = socket(AF_UNIX, (int)take_number(operation) | SOCK_CLOEXEC, 0);

	ABOUT("a socket");
	if (made < 0 || dup3(made, descriptor, O_CLOEXEC) < 0)
		return -1;
	return made;
}

int step_cgroupns(void)
{
	if (!syscall_unshare(CLONE_NEWCGROUP))
		return 0;
	/* EINVAL: a kernel without cgroups, so there is nothing to hide. */
	return errno == EINVAL ? 0 : -1;
}

/*
 * The requested number may be in use by a descriptor of a later operation, which is moved to a
 * higher number first. Numbers are assigned in rising order, so no assigned one is replaced.
 */
int step_fd(struct operation *operation, const struct plan *plan)
{
	int64_t index = take_integer(operation);
	int number = (int)take_number(operation);
	int *descriptors = plan->descriptors;

	ABOUT("descriptor ", decimal((uint64_t)number));
	for (size_t i = 0; i < plan->descriptor_count; i++) {
		if (descriptors[i] != number || (int64_t)i == index)
			continue;
		descriptors[i] = fcntl(number, F_DUPFD_CLOEXEC, number + 1);
		if (descriptors[i] < 0)
			return -1;
	}
	if (descriptors[index] == number) /* dup2 would keep its close-on-exec flag */
		return fcntl(number, F_SETFD, 0);
	return dup2(descriptors[index], number) < 0 ? -1 : 0;
}

/* Clients see the caller of listen(2) as their peer, unix(7). It must be the payload with its ids:
 * otherwise clients get the runtime's pidfd and user 0. */
int step_listen(struct operation *operation, const struct plan *plan)
{
	int descriptor = take_descriptor(operation, plan);

	ABOUT("a socket");
	return listen(descriptor, (int)take_number(operation));
}

int step_rlimit(struct operation *operation)
{
	const char *name = operation->next;
	int resource = (int)take_number(operation);
	uint64_t limit[2];

	ABOUT("resource ", name);
	limit[0] = take_limit(operation);
	limit[1] = take_limit(operation);
	return syscall_prlimit64(0, resource, limit, NULL);
}

int step_sched(struct operation *operation)
{
	struct sched_attr attributes = { .size = sizeof attributes };
	const char *name = take(operation);
	int32_t value = (int32_t)take_integer(operation);

	ABOUT(name);
	attributes.sched_policy = (uint32_t)parse_policy(name);
	if (attributes.sched_policy == SCHED_FIFO || attributes.sched_policy == SCHED_RR)
		attributes.sched_priority = (uint32_t)value;
	else
		attributes.sched_nice = value;
	return syscall_sched_setattr(0, &attributes, 0);
}

int step_no_new_privs(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static int set_bounding_set(uint64_t mask)
{
	for (unsigned int capability = 0; capability < 64; capability++) {
		int present = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
		bool kept = mask >> capability & 1;

		if (present == kept)
			continue;
		ABOUT("capability ", decimal(capability));
		if (kept) { /* capset(2) ignores unknown ones */
			errno = present < 0 ? EINVAL : EPERM;
			return -1;
		}
		if (present < 0) {
			if (errno != EINVAL)
				return -1;
			if (!(mask >> capability)) /* unknown, and so are those above it */
				break;
		} else if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)) {
			return -1;
		}
	}
	return 0;
}

/*
 * The bounding set first, since it needs CAP_SETPCAP. The ambient set last, since it can only
 * contain permitted and inheritable capabilities; lowering the inheritable set has lowered it.
 */
int step_caps(uint64_t mask)
{
	struct __user_cap_header_struct header = capability_header();
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	unsigned int capability;

	if (set_bounding_set(mask))
		return -1;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		uint32_t half = (uint32_t)(mask >> 32 * i);

		data[i] = (struct __user_cap_data_struct){ half, half, half };
	}
	ABOUT("the permitted set");
	if (syscall_capset(&header, data))
		return -1;
	for (capability = 0; capability < 64; capability++) {
		ABOUT("ambient capability ", decimal(capability));
		if (mask >> capability & 1 &&
		    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))
			return -1;
	}
	return 0;
}

/*
 * With CAP_SYS_PTRACE, pidfd_getfd(2) copies descriptors of any process with a known pidfd; the
 * kernel does not check its PID namespace. SO_PEERPIDFD and SCM_PIDFD give a pidfd of the peer of a
 * Unix socket: for example of the runtime, which has the host's files open.
 *
 * The call has the same number on all architectures that one kernel supports (x86-64 and i386,
 * arm64 and arm), except for the bit that x32 sets. So the filter does not check the architecture.
 * A filter on the number alone costs almost nothing: the kernel (5.11) caches in a bitmap which
 * calls it allows. SPEC_ALLOW: before Linux 5.16 a filter without it would also enable mitigations
 * that slow the payload down.
 */
#define GETFD_NUMBER 438
#if defined __NR_pidfd_getfd && (__NR_pidfd_getfd & ~0x40000000) != GETFD_NUMBER
#error "pidfd_getfd has another number here"
#endif

int step_deny_getfd(void)
{
	static const struct sock_filter instructions[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~0x40000000U), /* __X32_SYSCALL_BIT */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, GETFD_NUMBER, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {
		.len = sizeof instructions / sizeof instructions[0],
		.filter = (struct sock_filter *)(uintptr_t)instructions,
	};

	return syscall_seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
}

static struct sock_filter filter_instructions[BPF_MAXINSNS];
static struct sock_fprog filter = { .filter = filter_instructions };

int read_filter(struct operation *operation, const struct plan *plan)
{
	int descriptor = take_descriptor(operation, plan);
	ssize_t size = pread(descriptor, filter_instructions, sizeof filter_instructions, 0);

	ABOUT("the filter");
	if (size < 0)
		return -1;
	filter.len = (unsigned short)((size_t)size / sizeof filter_instructions[0]);
	return 0;
}

int install_filter(void)
{
	ABOUT("the filter");
	return syscall_seccomp(SECCOMP_SET_MODE_FILTER, 0, &filter);
}

int step_seccomp(struct operation *operation, const struct plan *plan)
{
	return read_filter(operation, plan) ? -1 : install_filter();
}

void await_shield(struct progress *shared)
{
	/* The kernel's timespec; musl's differs on 32-bit machines. */
	const long timeout[] = { 0, 10000000 };

	/* If init ends instead, the kernel kills this process: pid_namespaces(7). The timeout is
	 * for a FUTEX_WAKE that fails. */
	while (!__atomic_load_n(&shared->shielded, __ATOMIC_ACQUIRE))
		syscall(__NR_futex, &shared->shielded, FUTEX_WAIT, 0, timeout);
}

void announce_shield(struct progress *shared)
{
	__atomic_store_n(&shared->shielded, 1, __ATOMIC_RELEASE);
	syscall(__NR_futex, &shared->shielded, FUTEX_WAKE, 1);
}

int change_descriptors(unsigned int first, unsigned int last, unsigned int flags)
{
	enum { GAP = 1024 };

	if (!syscall_close_range(first, last, flags))
		return 0;
	/* EINVAL: the call is of Linux 5.9, the flag of 5.11. EPERM: an outer seccomp filter that
	 * is older than the call. */
	if (errno != ENOSYS && errno != EINVAL && errno != EPERM)
		return -1;
	/* The kernel assigns the lowest free number, and only 0 to 3 are inherited from the
	 * runtime: no descriptor follows a gap this wide. (All numbers: a million calls on some
	 * hosts.) */
	for (unsigned int number = first, gap = 0; number <= last && gap < GAP; number++) {
		int result = flags & CLOSE_RANGE_CLOEXEC ?
				     fcntl((int)number, F_SETFD, FD_CLOEXEC) :
				     close((int)number);

		gap = result ? gap + 1 : 0;
	}
	return 0;
}
