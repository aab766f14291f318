"""How much of each thing a manifest may have: the bounds, each with its reason.

A manifest is at most 1 MiB, which is room for 45 000 names. Whatever has a price for each of its
entries (a line of a log, a system call at each start) has a bound here. A manifest above one is
refused with the path, the count and the bound.
"""

from __future__ import annotations

from typing import Final

# Texts, in bytes.

PATH_MAX: Final = 4096
"""Longest path: PATH_MAX of linux/limits.h, no system call takes a longer one."""

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
"""Longest name of a system call. All of Linux have less than 32."""

CGROUP_VALUE_MAX: Final = 4096
"""Longest value for a file of a cgroup: a page, kernfs takes no more at once (fs/kernfs/file.c)."""

CONTEXT_MAX: Final = 65535
"""Longest SELinux context: as in Northstar 0.9.2."""

# Entries.

ARGUMENTS_MAX: Final = 4096
"""Most arguments of init. The kernel takes more (ARG_MAX), but each is copied several times at each
start, and a longer list belongs into a file of the package."""

ENV_MAX: Final = 64
"""Most environment variables: as in Northstar 0.9.2."""

SUPPL_GROUPS_MAX: Final = 64
"""Most supplementary groups: as in Northstar 0.9.2."""

MOUNTS_MAX: Final = 256
"""Most mounts. Each takes up to a millisecond of each start, and a missing source is reported."""

SOCKETS_MAX: Final = 252
"""Most sockets: SCM_MAX_FD (unix(7)) less the launch plan. No start could pass more."""

SYSCALLS_MAX: Final = 1024
"""Most system calls that are allowed by name. libseccomp knows some 500 names, those of all
architectures together."""

SYSCALL_VALUES_MAX: Final = 50
"""Most values of an argument of a system call: as in Northstar 0.9.2."""

CGROUP_ATTRS_MAX: Final = 64
"""Most raw files of a controller. The controller with most files, memory of version 1, has 40."""

BLOCK_DEVICES_MAX: Final = 64
"""Most block devices in one list. Each is a write into a cgroup's file at each start."""
