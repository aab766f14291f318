"""Manifests: the values, the reader of YAML, JSON and TOML, the writer, and the JSON Schema.

Each section of the manifest is described in a module: a frozen struct whose annotations have kind
and description of each field (see `northstar.schema`). Reader, writer and schema are made from it.
"""

from northstar.manifest.autostart import Autostart
from northstar.manifest.capabilities import Capability
from northstar.manifest.cgroups import (
    Blkio,
    Cgroups,
    Cpu,
    Memory,
    Pids,
    ThrottleDevice,
    WeightDevice,
)
from northstar.manifest.command import Command
from northstar.manifest.console import Console
from northstar.manifest.io import Io, Output
from northstar.manifest.load import (
    Report,
    check,
    dumps,
    from_builtins,
    loads,
    loads_with_warnings,
    schema,
    to_builtins,
)
from northstar.manifest.manifest import RESERVED_ENV, Manifest
from northstar.manifest.mount import (
    Bind,
    Dev,
    Mount,
    MountOption,
    MountOptions,
    Persist,
    Proc,
    Resource,
    Sockets,
    Sysfs,
    Tmpfs,
)
from northstar.manifest.network import HostNetwork, NamedNetwork, Network
from northstar.manifest.rlimit import Rlimit, RlimitResource
from northstar.manifest.sched import (
    Sched,
    SchedBatch,
    SchedDeadline,
    SchedFifo,
    SchedIdle,
    SchedOther,
    SchedPolicy,
    SchedRoundRobin,
)
from northstar.manifest.seccomp import (
    Seccomp,
    SeccompProfile,
    SyscallAny,
    SyscallArgs,
    SyscallRule,
)
from northstar.manifest.selinux import Selinux
from northstar.manifest.socket import Socket, SocketType

__all__ = [
    "RESERVED_ENV",
    "Autostart",
    "Bind",
    "Blkio",
    "Capability",
    "Cgroups",
    "Command",
    "Console",
    "Cpu",
    "Dev",
    "HostNetwork",
    "Io",
    "Manifest",
    "Memory",
    "Mount",
    "MountOption",
    "MountOptions",
    "NamedNetwork",
    "Network",
    "Output",
    "Persist",
    "Pids",
    "Proc",
    "Report",
    "Resource",
    "Rlimit",
    "RlimitResource",
    "Sched",
    "SchedBatch",
    "SchedDeadline",
    "SchedFifo",
    "SchedIdle",
    "SchedOther",
    "SchedPolicy",
    "SchedRoundRobin",
    "Seccomp",
    "SeccompProfile",
    "Selinux",
    "Socket",
    "SocketType",
    "Sockets",
    "SyscallAny",
    "SyscallArgs",
    "SyscallRule",
    "Sysfs",
    "ThrottleDevice",
    "Tmpfs",
    "WeightDevice",
    "check",
    "dumps",
    "from_builtins",
    "loads",
    "loads_with_warnings",
    "schema",
    "to_builtins",
]
