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
from northstar.manifest.service import (
    NOTIFY_ENV,
    ConnectProbe,
    DataPolicy,
    ExecProbe,
    Health,
    HealthAction,
    Log,
    NotifyProbe,
    Probe,
    Ready,
    Restart,
    RestartPolicy,
    Service,
    Stop,
    Update,
)
from northstar.manifest.socket import Socket, SocketType

__all__ = [
    "NOTIFY_ENV",
    "RESERVED_ENV",
    "Autostart",
    "Bind",
    "Blkio",
    "Capability",
    "Cgroups",
    "Command",
    "ConnectProbe",
    "Console",
    "Cpu",
    "DataPolicy",
    "Dev",
    "ExecProbe",
    "Health",
    "HealthAction",
    "HostNetwork",
    "Io",
    "Log",
    "Manifest",
    "Memory",
    "Mount",
    "MountOption",
    "MountOptions",
    "NamedNetwork",
    "Network",
    "NotifyProbe",
    "Output",
    "Persist",
    "Pids",
    "Probe",
    "Proc",
    "Ready",
    "Report",
    "Resource",
    "Restart",
    "RestartPolicy",
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
    "Service",
    "Socket",
    "SocketType",
    "Sockets",
    "Stop",
    "SyscallAny",
    "SyscallArgs",
    "SyscallRule",
    "Sysfs",
    "ThrottleDevice",
    "Tmpfs",
    "Update",
    "WeightDevice",
    "check",
    "dumps",
    "from_builtins",
    "loads",
    "loads_with_warnings",
    "schema",
    "to_builtins",
]
