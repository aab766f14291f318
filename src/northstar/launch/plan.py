"""Plans the start of a container as a list of operations, without side effects.

`build` is pure: it makes a `LaunchPlan` of manifest, request, host facts and resources. The
operations are those of launcher/plan.def; the C program performs them in order and reports the
first that fails.
"""

from __future__ import annotations

import posixpath
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from northstar.launch.plan_ops import PLAN_VERSION, Op
from northstar.linux import mount as lm
from northstar.manifest import (
    Bind,
    Capability,
    Command,
    ConnectProbe,
    Dev,
    Manifest,
    MountOption,
    NamedNetwork,
    Output,
    Persist,
    Proc,
    Resource,
    Rlimit,
    RlimitResource,
    SchedBatch,
    SchedDeadline,
    SchedFifo,
    SchedIdle,
    SchedOther,
    SchedPolicy,
    SchedRoundRobin,
    Service,
    Sockets,
    SocketType,
    Sysfs,
    Tmpfs,
)
from northstar.model import DEVICE_LINKS, DEVICE_NODES, HostError, LaunchError, Name

HOSTNAME_MAX: Final = 64
"""Longest host name in bytes: __NEW_UTS_LEN, uname(2)."""

DESCRIPTORS_MAX: Final = 252
"""Most descriptors of one launch: SCM_MAX_FD (unix(7)) less the plan itself."""

NOTIFY_SOCKET: Final = "socket"
"""Name of the notify socket in the directory that `service.notify` names."""

BACKLOG: Final = 128
"""Most clients that wait on a container's socket to be accepted: listen(2)."""


_DESCRIPTIONS: Final = {
    Op.CLONE: "clone the namespaces",
    Op.SETNS: "enter the network namespace",
    Op.JOIN: "join the cgroup",
    Op.KEYRING: "join a new session keyring",
    Op.SESSION: "become a session leader",
    Op.HOSTNAME: "set the host name {0}",
    Op.LOOPBACK: "bring the loopback interface up",
    Op.SELINUX: "set the SELinux exec context {0}",
    Op.ENTER: "enter the {2} namespace",
    Op.ATTACH: "attach the image mounted at {1}",
    Op.ROOT: "enter the image mounted at {0}",
    Op.BIND: "bind {0}{1} on {2}",
    Op.FILESYSTEM: "mount {0} on {2}",
    Op.DEV: "create /dev on {0}",
    Op.PIVOT: "change to the new root",
    Op.GROUPS: "set the supplementary groups {0}",
    Op.GID: "set the group id {0}",
    Op.UID: "set the user id {0}",
    Op.CONSOLE: "create the console",
    Op.SOCKET: "create a socket",
    Op.LOG: "create the log of its output",
    Op.AWAIT: "wait for the runtime",
    Op.CGROUPNS: "unshare the cgroup namespace",
    Op.PAYLOAD: "fork the payload",
    Op.FD: "pass descriptor {1}",
    Op.LISTEN: "listen on a socket",
    Op.TERMINAL: "set the controlling terminal",
    Op.RLIMIT: "set resource limit {0} to {1} (soft) and {2} (hard)",
    Op.SCHED: "set the scheduling policy {0} with {1}",
    Op.NO_NEW_PRIVS: "set no_new_privs",
    Op.DENY_GETFD: "refuse pidfd_getfd to a payload with CAP_SYS_PTRACE",
    Op.CAPS: "set the capabilities {0}",
    Op.SECCOMP: "install the seccomp filter",
    Op.EXEC: "execute {0}",
}


NAMESPACES: Final = {
    "net": lm.CLONE_NEWNET,
    "uts": lm.CLONE_NEWUTS,
    "ipc": lm.CLONE_NEWIPC,
    "cgroup": lm.CLONE_NEWCGROUP,
    "mnt": lm.CLONE_NEWNS,
    "pid": lm.CLONE_NEWPID,
}
"""Names in /proc/PID/ns (namespaces(7)), in the order in which an exec plan enters them."""

_NAMESPACE_NAMES: Final = {str(flag): name for name, flag in NAMESPACES.items()}


class Operation(msgspec.Struct, frozen=True):
    """One step of a launch, with its arguments as the C program takes them."""

    op: Op
    arguments: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the step as a phrase that follows `cannot`: `mount tmpfs on /tmp`."""
        name = _NAMESPACE_NAMES.get(self.arguments[1]) if self.op is Op.ENTER else None
        return _DESCRIPTIONS[self.op].format(*self.arguments, name)

    def encode(self) -> bytes:
        """Encode the operation: u32 op, u32 length, NUL-terminated strings."""
        text = "\0".join((*self.arguments, "")).encode()
        return struct.pack("<II", self.op, len(text)) + text


class LaunchPlan(msgspec.Struct, frozen=True):
    """The operations of one start, and the names of the descriptors they refer to.

    Attributes:
        operations: in the order in which they are performed.
        descriptors: names of the descriptors to pass, in order; the n-th (from 0) has index n + 1
            in the plan, since index 0 is the plan itself.
    """

    operations: tuple[Operation, ...]
    descriptors: tuple[str, ...]

    @property
    def attaches(self) -> bool:
        """Whether it attaches its images, and so needs none in the launcher's mount namespace."""
        return image_descriptor(0) in self.descriptors

    def encode(self) -> bytes:
        """Encode the plan: the version word and the operations."""
        head = struct.pack("<I", PLAN_VERSION)
        return head + b"".join(operation.encode() for operation in self.operations)


class HostFacts(msgspec.Struct, frozen=True):
    """Properties of this machine that a plan depends on.

    Attributes:
        capabilities: the runtime's permitted set, as a mask of 1 << number (capabilities(7)).
        into_cgroup: init is cloned into a v2 cgroup, with the descriptor `cgroup`.
        joins: number of v1 cgroups that init joins, with the descriptors `tasks:0`, `tasks:1`...
        selinux: SELinux is enabled.
        attach: the kernel copies a mount to another mount namespace: open_tree(2), Linux 5.2.
        in_root: the kernel looks up paths in another root: openat2(2), Linux 5.6.
        rlimits: original soft and hard limits that the runtime has changed for itself.
    """

    capabilities: int
    into_cgroup: bool = False
    joins: int = 0
    selinux: bool = False
    attach: bool = False
    in_root: bool = True
    rlimits: Mapping[RlimitResource, Rlimit] = {}


class ContainerPaths(msgspec.Struct, frozen=True):
    """Host paths of one container.

    Attributes:
        root: mount point of its image.
        persist: its persistent data directory.
        sockets: the directory of all Unix sockets.
        notify: the directory of its notify socket.
        resources: mount points of the resources' images, by the targets of the resource mounts.
    """

    root: str
    persist: str
    sockets: str
    notify: str
    resources: Mapping[str, str] = {}

    @property
    def images(self) -> tuple[str, ...]:
        """The mount points of all images, each once."""
        return tuple(dict.fromkeys((self.root, *self.resources.values())))


def refuse_unsupported(manifest: Manifest, facts: HostFacts) -> None:
    """Refuse a manifest with capabilities that the runtime lacks, or probes that it cannot do.

    Raises:
        HostError: with what is missing.
    """
    missing = [c for c in manifest.capabilities if not facts.capabilities >> c.number & 1]
    if missing:
        raise HostError(
            f"the manifest asks for {', '.join(sorted(c.value for c in missing))}, "
            "which the runtime itself does not have",
            hint="remove it from the manifest or start the runtime with it",
        )
    if not facts.in_root and manifest.service is not None:
        _refuse_unix_probes(manifest.service)


def _refuse_unix_probes(service: Service) -> None:
    for field, section in (("ready", service.ready), ("health", service.health)):
        probe = section.probe if section is not None else None
        if isinstance(probe, ConnectProbe) and probe.address.startswith("unix:"):
            raise HostError(
                f"service.{field}.probe: connecting to a Unix socket in the container needs "
                "openat2(2), and this kernel is older than Linux 5.6",
                hint="use a probe `exec`, or a newer kernel",
            )


def environment(manifest: Manifest, own: Mapping[str, str]) -> dict[str, str]:
    """Return the payload's environment: `own`, and the variables that the runtime adds."""
    numbers = dict(descriptor_numbers(manifest))
    added = identity(manifest)
    if "console" in numbers:
        added["NORTHSTAR_CONSOLE"] = str(numbers["console"])
    for name in sorted(manifest.sockets):
        added[f"NORTHSTAR_SOCKET_{name}"] = str(numbers[socket_descriptor(name)])
    return {**own, **added, **_supervision(manifest)}


def identity(manifest: Manifest) -> dict[str, str]:
    """Return the variables that each process which the runtime executes in a container has."""
    return {
        "NORTHSTAR_NAME": str(manifest.name),
        "NORTHSTAR_VERSION": str(manifest.version),
        "NORTHSTAR_CONTAINER": str(manifest.container),
    }


def _supervision(manifest: Manifest) -> dict[str, str]:
    """Return the variables of sd_notify(3) and sd_watchdog_enabled(3).

    There is no WATCHDOG_PID: without it each process of the container finds the watchdog enabled,
    and each may send.
    """
    target = _notify_target(manifest)
    if target is None:
        return {}
    added = {"NOTIFY_SOCKET": f"{target}/{NOTIFY_SOCKET}"}
    if manifest.service is not None and manifest.service.watchdog is not None:
        # Zero microseconds would be an error of sd_watchdog_enabled(3).
        added["WATCHDOG_USEC"] = str(max(1, manifest.service.watchdog // 1000))
    return added


def _notify_target(manifest: Manifest) -> str | None:
    if manifest.service is None or manifest.service.notify is None:
        return None
    return _normal(manifest.service.notify)


def descriptor_numbers(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of each descriptor of the payload: from 0, without gaps."""
    names = ["stdin", "stdout", "stderr"]
    if manifest.console is not None:
        names.append("console")
    names += [socket_descriptor(name) for name in sorted(manifest.sockets)]
    return ((name, number) for number, name in enumerate(names))


def socket_descriptor(name: str) -> str:
    """Return the plan's name for the descriptor of the manifest's socket `name`."""
    return f"socket:{name}"


def output_descriptor(stream: str) -> str:
    """Return the plan's name for the read end of the pipe `stdout` or `stderr`."""
    return f"output:{stream}"


def logged_streams(manifest: Manifest) -> list[str]:
    """Return which of `stdout` and `stderr` the manifest does not discard."""
    if manifest.io is None:
        return []
    outputs = {"stdout": manifest.io.stdout, "stderr": manifest.io.stderr}
    return [stream for stream, output in outputs.items() if output is not Output.DISCARD]


def image_descriptor(number: int) -> str:
    """Return the plan's name for a copy of the mount at `ContainerPaths.images[number]`."""
    return f"image:{number}"


def tasks_descriptor(number: int) -> str:
    """Return the plan's name for the descriptor of a v1 cgroup's `tasks` file."""
    return f"tasks:{number}"


def build(
    manifest: Manifest,
    command: Command,
    paths: ContainerPaths,
    facts: HostFacts,
    groups: Sequence[int] = (),
) -> LaunchPlan:
    """Plan the start of a container.

    Args:
        manifest: the container's manifest.
        command: the command to execute.
        paths: the container's host paths.
        facts: properties of this machine.
        groups: the ids of the supplementary groups.

    Raises:
        HostError: the runtime lacks a capability of the manifest.
        LaunchError: a part of the manifest can never work.
    """
    refuse_unsupported(manifest, facts)
    passed = dict(descriptor_numbers(manifest))
    descriptors = list(passed)
    if facts.into_cgroup:
        descriptors.append("cgroup")
    descriptors += map(tasks_descriptor, range(facts.joins))
    if isinstance(manifest.network, NamedNetwork):
        descriptors.append("netns")
    if manifest.seccomp is not None:
        descriptors.append("seccomp")
    logged = logged_streams(manifest)
    if logged:
        descriptors += ["ring", "bell", *map(output_descriptor, logged)]
    # With very many images a launcher in the runtime's mount namespace does without their copies.
    if facts.attach and len(descriptors) + len(paths.images) <= DESCRIPTORS_MAX:
        descriptors += map(image_descriptor, range(len(paths.images)))
    if len(descriptors) > DESCRIPTORS_MAX:
        raise LaunchError(
            f"pass {len(descriptors)} descriptors",
            reason=f"at most {DESCRIPTORS_MAX} can be passed: declare fewer sockets",
        )
    index = {name: str(number) for number, name in enumerate(descriptors, start=1)}

    operations = [
        _clone(manifest, index),
        *_namespaces(manifest, index, paths, facts),
        *_mounts(manifest, paths),
        Operation(Op.PIVOT),
        Operation(Op.GID, (str(manifest.gid),)),
        Operation(Op.UID, (str(manifest.uid),)),
        Operation(Op.GROUPS, (",".join(map(str, groups)),)),
        *_sockets(manifest, index),
        *_log(index),
        Operation(Op.AWAIT),
        Operation(Op.CGROUPNS),
        Operation(Op.PAYLOAD),
        *(Operation(Op.FD, (index[name], str(number))) for name, number in passed.items()),
        *_listening(manifest, index),
        *restrictions(manifest, index, facts),
        _exec(manifest, command),
    ]
    return LaunchPlan(tuple(operations), tuple(descriptors))


def _clone(manifest: Manifest, index: Mapping[str, str]) -> Operation:
    flags = lm.CLONE_NEWNS | lm.CLONE_NEWPID | lm.CLONE_NEWIPC | lm.CLONE_NEWUTS
    if manifest.network is None:
        flags |= lm.CLONE_NEWNET
    return Operation(Op.CLONE, (str(flags), index.get("cgroup", "-1")))


def _namespaces(
    manifest: Manifest, index: Mapping[str, str], paths: ContainerPaths, facts: HostFacts
) -> Iterator[Operation]:
    if "netns" in index:
        yield Operation(Op.SETNS, (index["netns"], str(lm.CLONE_NEWNET)))
    # Early, so that init's own usage is accounted.
    for number in range(facts.joins):
        yield Operation(Op.JOIN, (index[tasks_descriptor(number)],))
    yield Operation(Op.KEYRING)
    yield Operation(Op.SESSION)
    yield Operation(Op.HOSTNAME, (hostname(manifest.name),))
    if manifest.network is None:
        yield Operation(Op.LOOPBACK)
    yield from selinux(manifest, facts)
    for number, path in enumerate(paths.images):
        if image_descriptor(number) in index:
            yield Operation(Op.ATTACH, (index[image_descriptor(number)], path))
    yield Operation(Op.ROOT, (paths.root,))


def selinux(manifest: Manifest, facts: HostFacts) -> Iterator[Operation]:
    """Yield the operation that sets the manifest's SELinux context, where SELinux is enabled."""
    if facts.selinux and manifest.selinux is not None and manifest.selinux.exec is not None:
        yield Operation(Op.SELINUX, (manifest.selinux.exec,))


def hostname(name: Name) -> str:
    """Return the container's host name: its name, truncated to the kernel's limit."""
    return name[:HOSTNAME_MAX]


_READ_ONLY: Final = lm.MOUNT_ATTR_RDONLY
_NO_DEVICES: Final = lm.MOUNT_ATTR_NODEV
_HARMLESS: Final = lm.MOUNT_ATTR_NOSUID | lm.MOUNT_ATTR_NODEV | lm.MOUNT_ATTR_NOEXEC

_ATTRIBUTES: Final = {
    MountOption.NOEXEC: lm.MOUNT_ATTR_NOEXEC,
    MountOption.NOSUID: lm.MOUNT_ATTR_NOSUID,
    MountOption.NODEV: lm.MOUNT_ATTR_NODEV,
}


def mount_order(targets: Iterable[str]) -> list[str]:
    """Return the targets, parents first."""
    return sorted(targets, key=lambda target: _normal(target).split("/"))


def _normal(target: str) -> str:
    # normpath keeps two leading slashes, which have a special meaning in POSIX but not on Linux.
    path = posixpath.normpath("/" + target.lstrip("/"))
    return "" if path == "/" else path


def _mounts(manifest: Manifest, paths: ContainerPaths) -> Iterator[Operation]:
    notify = _notify_target(manifest)
    for key in mount_order([*manifest.mounts, *([] if notify is None else [notify])]):
        target = _normal(key) or "/"
        match manifest.mounts.get(key):
            case Bind(host=host, options=options):
                if not host.startswith("/"):
                    raise LaunchError(f"bind {host} on {key}", reason="it is no absolute path")
                attributes = _attributes(options)
                if MountOption.RW not in options:
                    attributes |= _READ_ONLY
                recursive = "recursive" if MountOption.REC in options else ""
                yield _bind("", host, target, attributes, "optional", recursive)
            case Resource(dir=directory, options=options):
                attributes = _attributes(options) | _READ_ONLY | _NO_DEVICES
                yield _bind(paths.resources[key], directory, target, attributes)
            case Persist():
                attributes = lm.MOUNT_ATTR_NOSUID | _NO_DEVICES
                yield _bind("", paths.persist, target, attributes)
            case Sockets():
                yield _bind("", paths.sockets, target, _HARMLESS | _READ_ONLY)
            case Tmpfs(size=size):
                yield _filesystem("tmpfs", target, _HARMLESS, "mode=1777", f"size={size}")
            case Proc():
                yield _filesystem("proc", target, _HARMLESS | _READ_ONLY)
            case Sysfs():
                yield _filesystem("sysfs", target, _HARMLESS | _READ_ONLY)
            case Dev():
                yield _dev(target)
            case None:
                yield _bind("", paths.notify, target, _HARMLESS | _READ_ONLY)


def _attributes(options: frozenset[MountOption]) -> int:
    return sum(_ATTRIBUTES.get(option, 0) for option in options)


def _bind(root: str, source: str, target: str, attributes: int, *flags: str) -> Operation:
    words = ",".join(flag for flag in flags if flag)
    return Operation(Op.BIND, (root, source, target, str(attributes), "0", words))


def _filesystem(fstype: str, target: str, attributes: int, *options: str) -> Operation:
    source = "none" if fstype == "tmpfs" else fstype
    return Operation(Op.FILESYSTEM, (fstype, source, target, str(attributes), *options))


def _dev(target: str) -> Operation:
    nodes = (f"c {node.name} {node.major} {node.minor}" for node in DEVICE_NODES)
    links = (f"l {name} {to}" for name, to in DEVICE_LINKS)
    attributes = _READ_ONLY | lm.MOUNT_ATTR_NOSUID | lm.MOUNT_ATTR_NOEXEC
    return Operation(Op.DEV, (target, str(attributes), *nodes, *links))


_SOCKET_TYPES: Final = {
    SocketType.STREAM: socket.SOCK_STREAM,
    SocketType.DATAGRAM: socket.SOCK_DGRAM,
    SocketType.SEQ_PACKET: socket.SOCK_SEQPACKET,
}


def _sockets(manifest: Manifest, index: Mapping[str, str]) -> Iterator[Operation]:
    # By init: a socket shows its creator, and belongs to its creator's network namespace.
    if manifest.console is not None:
        yield Operation(Op.CONSOLE, (index["console"],))
    for name, config in sorted(manifest.sockets.items()):
        number = str(int(_SOCKET_TYPES[config.type]))
        yield Operation(Op.SOCKET, (index[socket_descriptor(name)], number))


def _log(index: Mapping[str, str]) -> Iterator[Operation]:
    if "ring" in index:
        pipes = (index.get(output_descriptor(stream), "-1") for stream in ("stdout", "stderr"))
        yield Operation(Op.LOG, (index["ring"], index["bell"], *pipes))


def _listening(manifest: Manifest, index: Mapping[str, str]) -> Iterator[Operation]:
    # By the payload's process: the kernel shows clients the caller of listen(2) as their peer.
    for name, config in sorted(manifest.sockets.items()):
        if config.type is not SocketType.DATAGRAM:
            yield Operation(Op.LISTEN, (index[socket_descriptor(name)], str(BACKLOG)))


def restrictions(
    manifest: Manifest, index: Mapping[str, str], facts: HostFacts
) -> Iterator[Operation]:
    """Yield what restricts each process that the runtime executes in a container.

    Args:
        manifest: the container's manifest.
        index: of the plan's descriptors, by their names; `seccomp` if there is a filter.
        facts: properties of this machine.

    Raises:
        LaunchError: the kernel has no such scheduling.
    """
    for limited, limit in {**facts.rlimits, **manifest.rlimits}.items():
        values = ("unlimited" if v is None else str(v) for v in (limit.soft, limit.hard))
        yield Operation(Op.RLIMIT, (str(limited.number), *values))
    if manifest.sched is not None:
        yield Operation(Op.SCHED, _scheduling(manifest.sched.policy))
    yield Operation(Op.NO_NEW_PRIVS)
    if Capability.CAP_SYS_PTRACE in manifest.capabilities:
        # Independent of the manifest's seccomp: the call would open the host's files, see docs.
        yield Operation(Op.DENY_GETFD)
    mask = sum(1 << capability.number for capability in manifest.capabilities)
    yield Operation(Op.CAPS, (f"{mask:#x}",))
    # Last, so that the filter must allow execve only.
    if "seccomp" in index:
        yield Operation(Op.SECCOMP, (index["seccomp"],))


def _scheduling(policy: SchedPolicy) -> tuple[str, str]:
    match policy:
        case SchedOther(nice):
            return "other", str(nice)
        case SchedBatch(nice):
            return "batch", str(nice)
        case SchedFifo(priority):
            return "fifo", str(priority)
        case SchedRoundRobin(priority):
            return "round_robin", str(priority)
        case SchedIdle():
            return "idle", "0"
        case SchedDeadline():
            raise LaunchError(
                "set the scheduling policy deadline",
                reason="a manifest has no runtime, deadline and period for it",
            )


def _exec(manifest: Manifest, command: Command) -> Operation:
    argv = (command.init, *command.arguments)
    return execution(argv, environment(manifest, command.environment))


def execution(argv: Sequence[str], env: Mapping[str, str]) -> Operation:
    """Return the operation that executes `argv[0]`, a path in the container."""
    pairs = (f"{name}={value}" for name, value in env.items())
    # No search in PATH: a relative path starts at the container's working directory, its root.
    path = "/" + argv[0].lstrip("/")
    return Operation(Op.EXEC, (path, str(len(argv)), *argv, *pairs))
