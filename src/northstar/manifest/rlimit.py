"""`rlimits`: resource limits of the payload. See getrlimit(2)."""

import enum
from typing import Annotated

import msgspec

from northstar.schema.records import Field, MapOf, Record
from northstar.schema.scalars import U64, Integer
from northstar.schema.variants import Choice


class RlimitResource(enum.Enum):
    """A resource. The value is its name in manifests; in C the name is RLIMIT_ and upper case."""

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
        """The kernel's number on this machine. Five numbers differ on MIPS and Alpha."""
        import resource

        # The module lacks this one. It is 10 everywhere (include/uapi/asm-generic/resource.h).
        if self is RlimitResource.LOCKS:
            return 10
        # Not getattr, whose cache in the interpreter (4096 entries) would keep each of the strings.
        number: int = vars(resource)[f"RLIMIT_{self.name}"]
        return number


_LIMIT = Integer(0, U64, "a limit", unit="the unit of the resource, see getrlimit(2)")


class Rlimit(msgspec.Struct, frozen=True):
    """Limits of a resource."""

    soft: Annotated[
        int | None,
        Field(_LIMIT, "The limit that the kernel enforces.", "unlimited", always=True, example=256),
    ] = None
    hard: Annotated[
        int | None,
        Field(
            _LIMIT,
            "Maximum to which the payload can set the soft limit.",
            "unlimited",
            always=True,
            example=1024,
        ),
    ] = None


RLIMITS = MapOf(
    Choice(RlimitResource, "a resource with a limit"), Record(Rlimit, ignore_unknown=True)
)
