"""`capabilities`: the Linux capabilities of the payload. See capabilities(7)."""

from __future__ import annotations

import enum

from northstar.schema.records import ListOf
from northstar.schema.variants import Choice


class Capability(enum.Enum):
    """A Linux capability; the value is its name.

    In the order of their numbers in include/uapi/linux/capability.h, which start at 0, have no gaps
    and never change.
    """

    CAP_CHOWN = "CAP_CHOWN"
    CAP_DAC_OVERRIDE = "CAP_DAC_OVERRIDE"
    CAP_DAC_READ_SEARCH = "CAP_DAC_READ_SEARCH"
    CAP_FOWNER = "CAP_FOWNER"
    CAP_FSETID = "CAP_FSETID"
    CAP_KILL = "CAP_KILL"
    CAP_SETGID = "CAP_SETGID"
    CAP_SETUID = "CAP_SETUID"
    CAP_SETPCAP = "CAP_SETPCAP"
    CAP_LINUX_IMMUTABLE = "CAP_LINUX_IMMUTABLE"
    CAP_NET_BIND_SERVICE = "CAP_NET_BIND_SERVICE"
    CAP_NET_BROADCAST = "CAP_NET_BROADCAST"
    CAP_NET_ADMIN = "CAP_NET_ADMIN"
    CAP_NET_RAW = "CAP_NET_RAW"
    CAP_IPC_LOCK = "CAP_IPC_LOCK"
    CAP_IPC_OWNER = "CAP_IPC_OWNER"
    CAP_SYS_MODULE = "CAP_SYS_MODULE"
    CAP_SYS_RAWIO = "CAP_SYS_RAWIO"
    CAP_SYS_CHROOT = "CAP_SYS_CHROOT"
    CAP_SYS_PTRACE = "CAP_SYS_PTRACE"
    CAP_SYS_PACCT = "CAP_SYS_PACCT"
    CAP_SYS_ADMIN = "CAP_SYS_ADMIN"
    CAP_SYS_BOOT = "CAP_SYS_BOOT"
    CAP_SYS_NICE = "CAP_SYS_NICE"
    CAP_SYS_RESOURCE = "CAP_SYS_RESOURCE"
    CAP_SYS_TIME = "CAP_SYS_TIME"
    CAP_SYS_TTY_CONFIG = "CAP_SYS_TTY_CONFIG"
    CAP_MKNOD = "CAP_MKNOD"
    CAP_LEASE = "CAP_LEASE"
    CAP_AUDIT_WRITE = "CAP_AUDIT_WRITE"
    CAP_AUDIT_CONTROL = "CAP_AUDIT_CONTROL"
    CAP_SETFCAP = "CAP_SETFCAP"
    CAP_MAC_OVERRIDE = "CAP_MAC_OVERRIDE"
    CAP_MAC_ADMIN = "CAP_MAC_ADMIN"
    CAP_SYSLOG = "CAP_SYSLOG"
    CAP_WAKE_ALARM = "CAP_WAKE_ALARM"
    CAP_BLOCK_SUSPEND = "CAP_BLOCK_SUSPEND"
    CAP_AUDIT_READ = "CAP_AUDIT_READ"
    CAP_PERFMON = "CAP_PERFMON"
    CAP_BPF = "CAP_BPF"
    CAP_CHECKPOINT_RESTORE = "CAP_CHECKPOINT_RESTORE"

    @property
    def number(self) -> int:
        """The kernel's number, 0 to 40."""
        return _NUMBERS[self]


_NUMBERS = {capability: number for number, capability in enumerate(Capability)}

CAPABILITIES = ListOf(
    frozenset,
    Choice(Capability, "a capability", hint="capabilities(7) lists them"),
    unique=True,
    order=_NUMBERS.__getitem__,
)
