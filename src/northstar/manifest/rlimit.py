"""`rlimits`: resource limits of the payload. See getrlimit(2)."""

from __future__ import annotations

import enum

import msgspec

from northstar.manifest.kinds import U64, Choice, Integer
from northstar.manifest.records import MapOf, Record


class RlimitResource(enum.Enum):
    """A resource; the value is its name in manifests, RLIMIT_ and the upper-case name in C."""

    AS = "as"
    CORE = "core"
    CPU = "cpu"
    DATA = "data"
    FSIZE = "fsize"
    LOCKS = "locks"
    MEMLOCK = "memlock"
    MSGQUEUE = "msgqueue"
    NICE = "nice"
    NOFILE = "nofile"
    NPROC = "nproc"
    RSS = "rss"
    RTPRIO = "rtprio"
    RTTIME = "rttime"
    SIGPENDING = "sigpending"
    STACK = "stack"

    @property
    def number(self) -> int:
        """The kernel's number on this machine: five of them are others on MIPS and Alpha."""
        import resource

        # The one that the module lacks is 10 everywhere (include/uapi/asm-generic/resource.h).
        if self is RlimitResource.LOCKS:
            return 10
        # Not getattr: the interpreter would remember each of these strings, in one of 4096 places.
        number: int = vars(resource)[f"RLIMIT_{self.name}"]
        return number


class Rlimit(msgspec.Struct, frozen=True):
    """Limits in the resource's own unit; None is unlimited."""

    soft: int | None = None
    hard: int | None = None


_LIMIT = Integer(0, U64, "a limit")

RLIMITS = MapOf(
    Choice(RlimitResource, "a resource with a limit"),
    Record(Rlimit, {"soft": _LIMIT, "hard": _LIMIT}, always=("soft", "hard"), ignore_unknown=True),
)
