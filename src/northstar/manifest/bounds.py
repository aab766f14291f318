"""Bounds on the lengths and numbers of a manifest's parts, each with its reason.

A manifest of the maximum size, 1 MiB, has room for 45 000 names. Each list whose entries cost
something (a line in the log, a system call at each start) has a bound here. A manifest that exceeds
a bound is refused; the error names the path, the count and the bound.
"""

from __future__ import annotations

from typing import Final

# Texts, in bytes.

PATH_MAX: Final = 4096
"""Longest path: PATH_MAX of linux/limits.h; system calls refuse longer ones."""

FILE_NAME_MAX: Final = 255
"""Longest name of a file: NAME_MAX of linux/limits.h."""

INIT_MAX: Final = PATH_MAX
"""Longest path of init."""

ARGUMENT_MAX: Final = 128 * 1024
"""Longest argument of init: MAX_ARG_STRLEN, execve(2)."""

ENV_NAME_MAX: Final = 64
"""Longest name of an environment variable: as in Northstar 0.9.2."""

ENV_VALUE_MAX: Final = 1024
"""Longest value of an environment variable: as in Northstar 0.9.2."""

SUPPL_GROUP_MAX: Final = 64
"""Longest name of a supplementary group: as in Northstar 0.9.2."""

SYSCALL_NAME_MAX: Final = 64
"""Longest name of a system call. Those of Linux are shorter than 32."""

CGROUP_VALUE_MAX: Final = 4096
"""Longest value for a file of a cgroup: a page, the maximum of kernfs (fs/kernfs/file.c)."""

CONTEXT_MAX: Final = 65535
"""Longest SELinux context: as in Northstar 0.9.2."""

NOTIFY_MAX: Final = 100
"""Longest path of the notify directory: the 108 bytes of sun_path, see unix(7), without `/socket`
and a NUL."""

# Durations in ns, sizes in bytes.

SERVICE_DURATION_MAX: Final = 365 * 86400 * 10**9
"""Longest duration of the supervision: longer ones are mistakes, and sums fit into 64 bit."""

LOG_SIZE_MIN: Final = 64 * 1024
"""Smallest log: a pipe's capacity, pipe(7)."""

LOG_SIZE: Final = 256 * 1024
"""Size of a log whose manifest does not give one."""

LOG_SIZE_MAX: Final = 16 * 1024 * 1024
"""Largest log. It is memory of the container."""

LOG_SIZE_MULTIPLE: Final = 4096
"""A log consists of whole pages."""

# Numbers.

RESTART_FACTOR_MAX: Final = 10
"""Largest factor between two delays: with more, the second restart already takes the maximum."""

RESTART_LIMIT_MAX: Final = 1000
"""Most restarts in an interval. The runtime keeps the time of each."""

PROBE_FAILURES_MAX: Final = 1000
"""Most failures in a row before a container is unhealthy."""

UPDATE_TRIES_MAX: Final = 100
"""Most boots in which a new version is tried."""

# Entries.

ARGUMENTS_MAX: Final = 4096
"""Most arguments of init. The kernel accepts more (ARG_MAX), but each start copies each argument
several times. A longer list should be a file in the package."""

ENV_MAX: Final = 64
"""Most environment variables: as in Northstar 0.9.2."""

SUPPL_GROUPS_MAX: Final = 64
"""Most supplementary groups: as in Northstar 0.9.2."""

MOUNTS_MAX: Final = 256
"""Most mounts. Each takes up to a millisecond at each start, and can cause a line in the log."""

SOCKETS_MAX: Final = 252
"""Most sockets: SCM_MAX_FD (unix(7)) minus one, since the launch plan is passed along with them."""

SYSCALLS_MAX: Final = 1024
"""Most system calls that are allowed by name. libseccomp has about 500 names, for all
architectures together."""

SYSCALL_VALUES_MAX: Final = 50
"""Most values of an argument of a system call: as in Northstar 0.9.2."""

CGROUP_ATTRS_MAX: Final = 64
"""Most raw files of a controller. The memory controller of cgroup v1 has the most files, 40."""

BLOCK_DEVICES_MAX: Final = 64
"""Most block devices in one list. Each start writes a line into a file of the cgroup for each."""

AFTER_MAX: Final = 64
"""Most containers that a start waits for."""
