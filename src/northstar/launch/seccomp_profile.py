"""The lists of `profile: default`, as data. docs/seccomp.md explains them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from northstar.linux.seccomp import SCMP_ARCH_AARCH64, SCMP_ARCH_X86_64
from northstar.manifest.capabilities import Capability


class Architecture(NamedTuple):
    """An architecture that filters are supported on.

    Attributes:
        token: its identifier in struct seccomp_data, SCMP_ARCH_*.
        newer_from: the first number after its own table; from there on all architectures share
            the numbers of new system calls.
    """

    token: int
    newer_from: int


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "x86_64": Architecture(SCMP_ARCH_X86_64, 335),  # after rseq; unistd_64.h
    "aarch64": Architecture(SCMP_ARCH_AARCH64, 295),  # after kexec_file_load; asm-generic/unistd.h
}
"""By their names in uname(2)."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names of 32-bit architectures are not in these lists: their calls are always killed. A name that
# one of the two architectures lacks has no effect there.
BASE: Final = _names(
    """
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir
    chmod chown clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range
    connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
    execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir
    fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait
    futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents
    getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname
    getsockopt gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup
    io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lgetxattr link linkat listen listmount listxattr listxattrat
    llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
    modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
    mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
    pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease
    process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget
    semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid
    setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat
    shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socket socketpair splice stat
    statfs statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill
    time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime
    utimensat utimes vfork vmsplice wait4 waitid write writev
    """
)
"""Allowed to every container, with any arguments."""

CLONE_NAMESPACES: Final = 0x7E020000
"""The flags of clone(2) that create namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER,
NEWPID and NEWNET. Without CAP_SYS_ADMIN none of these bits may be set in argument 0."""

PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""The allowed arguments of personality(2): PER_LINUX, PER_LINUX32, both also with UNAME26, and the
query of the current value."""

BY_CAPABILITY: Final[Mapping[Capability, frozenset[str]]] = {
    capability: _names(names)
    for capability, names in {
        Capability.CAP_SYS_ADMIN: "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick "
        "lookup_dcookie mount move_mount name_to_handle_at open_tree perf_event_open quotactl "
        "setdomainname sethostname setns syslog umount umount2 unshare",
        Capability.CAP_SYS_PTRACE: "kcmp process_madvise",
        Capability.CAP_SYS_NICE: "get_mempolicy mbind set_mempolicy",
        Capability.CAP_SYS_TIME: "settimeofday stime clock_settime",
        Capability.CAP_SYS_MODULE: "init_module finit_module delete_module",
        Capability.CAP_SYS_RAWIO: "iopl ioperm",
        Capability.CAP_SYSLOG: "syslog",
        Capability.CAP_SYS_BOOT: "reboot",
        Capability.CAP_SYS_CHROOT: "chroot",
        Capability.CAP_SYS_PACCT: "acct",
        Capability.CAP_SYS_TTY_CONFIG: "vhangup",
        Capability.CAP_DAC_READ_SEARCH: "open_by_handle_at",
    }.items()
}
"""Allowed only to containers with the capability, with any arguments."""

REFUSED: Final = _names("io_uring_setup io_uring_enter io_uring_register pidfd_getfd")
"""Known calls that the profile never allows (pidfd_getfd: see step_deny_getfd in
launcher/steps.c). Only calls of the shared numbers are listed, to distinguish them from calls that
are newer than the profile; all older calls are known."""

KNOWN: Final = BASE.union(*BY_CAPABILITY.values(), REFUSED)
"""Every call that the profile decides. Newer calls are answered with ENOSYS."""
