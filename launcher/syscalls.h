/*
 * System calls that the C library lacks, or wraps in a way that is wrong for PID 1. Each is
 * syscall_NAME() with the kernel's arguments. If the headers lack its number it fails with ENOSYS,
 * as on a kernel that lacks the call: callers handle one error for both.
 *
 * Structures and constants come from the kernel's headers, never from <sys/mount.h> or <sched.h>,
 * which define some of the same names.
 */
#ifndef NORTHSTAR_SYSCALLS_H
#define NORTHSTAR_SYSCALLS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#ifndef MNT_DETACH /* umount2(2); only <sys/mount.h> has it */
#define MNT_DETACH 2
#endif

#define NO_SYSCALL (errno = ENOSYS, -1)

static inline int syscall_clone3(struct clone_args *arguments, size_t size)
{
#ifdef __NR_clone3
	return (int)syscall(__NR_clone3, arguments, size);
#else
	(void)arguments, (void)size;
	return NO_SYSCALL;
#endif
}

static inline int syscall_openat2(int directory, const char *path, struct open_how *how,
				  size_t size)
{
#ifdef __NR_openat2
	return (int)syscall(__NR_openat2, directory, path, how, size);
#else
	(void)directory, (void)path, (void)how, (void)size;
	return NO_SYSCALL;
#endif
}

static inline int syscall_open_tree(int directory, const char *path, unsigned int flags)
{
#ifdef __NR_open_tree
	return (int)syscall(__NR_open_tree, directory, path, flags);
#else
	(void)directory, (void)path, (void)flags;
	return NO_SYSCALL;
#endif
}

static inline int syscall_move_mount(int from, const char *from_path, int to, const char *to_path,
				     unsigned int flags)
{
#ifdef __NR_move_mount
	return (int)syscall(__NR_move_mount, from, from_path, to, to_path, flags);
#else
	(void)from, (void)from_path, (void)to, (void)to_path, (void)flags;
	return NO_SYSCALL;
#endif
}

static inline int syscall_mount_setattr(int directory, const char *path, unsigned int flags,
					struct mount_attr *attributes, size_t size)
{
#ifdef __NR_mount_setattr
	return (int)syscall(__NR_mount_setattr, directory, path, flags, attributes, size);
#else
	(void)directory, (void)path, (void)flags, (void)attributes, (void)size;
	return NO_SYSCALL;
#endif
}

static inline int syscall_fsopen(const char *type, unsigned int flags)
{
#ifdef __NR_fsopen
	return (int)syscall(__NR_fsopen, type, flags);
#else
	(void)type, (void)flags;
	return NO_SYSCALL;
#endif
}

static inline int syscall_fsconfig(int context, unsigned int command, const char *key,
				   const void *value, int auxiliary)
{
#ifdef __NR_fsconfig
	return (int)syscall(__NR_fsconfig, context, command, key, value, auxiliary);
#else
	(void)context, (void)command, (void)key, (void)value, (void)auxiliary;
	return NO_SYSCALL;
#endif
}

static inline int syscall_fsmount(int context, unsigned int flags, unsigned int attributes)
{
#ifdef __NR_fsmount
	return (int)syscall(__NR_fsmount, context, flags, attributes);
#else
	(void)context, (void)flags, (void)attributes;
	return NO_SYSCALL;
#endif
}

static inline int syscall_mount(const char *source, const char *target, const char *type,
				unsigned long flags, const void *data)
{
	return (int)syscall(__NR_mount, source, target, type, flags, data);
}

static inline int syscall_umount2(const char *target, int flags)
{
	return (int)syscall(__NR_umount2, target, flags);
}

static inline int syscall_pivot_root(const char *new_root, const char *put_old)
{
	return (int)syscall(__NR_pivot_root, new_root, put_old);
}

static inline int syscall_setns(int descriptor, int type)
{
	return (int)syscall(__NR_setns, descriptor, type);
}

static inline int syscall_unshare(unsigned long flags)
{
	return (int)syscall(__NR_unshare, flags);
}

static inline int syscall_keyctl(int operation, const void *argument)
{
	return (int)syscall(__NR_keyctl, operation, argument);
}

static inline int syscall_close_range(unsigned int first, unsigned int last, unsigned int flags)
{
#ifdef __NR_close_range
	return (int)syscall(__NR_close_range, first, last, flags);
#else
	(void)first, (void)last, (void)flags;
	return NO_SYSCALL;
#endif
}

static inline int syscall_capget(struct __user_cap_header_struct *header,
				 struct __user_cap_data_struct *data)
{
	return (int)syscall(__NR_capget, header, data);
}

static inline int syscall_capset(struct __user_cap_header_struct *header,
				 const struct __user_cap_data_struct *data)
{
	return (int)syscall(__NR_capset, header, data);
}

/* musl's sched_setscheduler(3) always fails; sched_setattr(2) also sets the nice value. */
static inline int syscall_sched_setattr(pid_t pid, const void *attributes, unsigned int flags)
{
	return (int)syscall(__NR_sched_setattr, pid, attributes, flags);
}

/* Limits have 64 bits, independent of the C library's rlim_t. */
static inline int syscall_prlimit64(pid_t pid, int resource, const uint64_t limit[2], void *old)
{
	return (int)syscall(__NR_prlimit64, pid, resource, limit, old);
}

static inline int syscall_seccomp(unsigned int operation, unsigned int flags,
				  const struct sock_fprog *program)
{
	return (int)syscall(__NR_seccomp, operation, flags, program);
}

/*
 * The C libraries reserve a few real-time signals and refuse to change them, but a payload must
 * start with the default disposition of all 64. The order of the members of the kernel's struct
 * sigaction depends on the architecture; the handler comes first on all but MIPS, and the others
 * are zero here.
 */
#ifdef __mips__
#error "the kernel's struct sigaction starts with the flags here"
#endif
static inline int syscall_rt_sigaction_plain(int signal, void (*handler)(int))
{
	struct {
		void (*handler)(int);
		unsigned long zero[2];
		uint64_t mask[2];
	} action = { .handler = handler };
	return (int)syscall(__NR_rt_sigaction, signal, &action, NULL, (size_t)8);
}

#endif
