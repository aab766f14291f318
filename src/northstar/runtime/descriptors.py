"""Opens the descriptors that a launch plan names.

`plan.descriptors` is the only list of them. A name is a kind; some kinds have an argument after a
colon: `stdout`, `socket:web`, `tasks:0`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import msgspec

from northstar.launch.plan import LaunchPlan
from northstar.linux import mountinfo, netns, open_tree
from northstar.manifest import Io, Manifest, NamedNetwork, Output
from northstar.model import LaunchError
from northstar.runtime.null_device import reopen
from northstar.runtime.running import HeldResources

if TYPE_CHECKING:
    from northstar.cgroups import Cgroup
    from northstar.launch.seccomp import Filter

_DISCARD: Final = Io(stdout=Output.DISCARD, stderr=Output.DISCARD)


class Source(msgspec.Struct, eq=False):
    """What the openers of one launch need.

    Attributes:
        manifest: the container's manifest.
        cgroup: its cgroup, already created.
        system_calls: its filter, if any.
        null: a private descriptor of the null device, closed after the launch.
        held: contains its log, if it has one.
        passed: closes descriptors that only the launcher needs.
        readers: read ends of the output pipes, by `stdout` and `stderr`.
    """

    manifest: Manifest
    cgroup: Cgroup
    system_calls: Filter | None
    null: int
    held: HeldResources
    passed: ExitStack
    readers: dict[str, int] = {}

    def close_later(self, descriptor: int) -> int:
        """Close a descriptor after it is passed to the launcher."""
        self.passed.callback(os.close, descriptor)
        return descriptor


def _null(source: Source, argument: str) -> int:  # noqa: ARG001
    return source.null


def _stdout(source: Source, argument: str) -> int:
    return _output(source, "stdout", (source.manifest.io or _DISCARD).stdout, argument)


def _stderr(source: Source, argument: str) -> int:
    return _output(source, "stderr", (source.manifest.io or _DISCARD).stderr, argument)


def _output(source: Source, stream: str, output: Output, argument: str) -> int:
    if output is Output.DISCARD:
        return _null(source, argument)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # Both: init alone reads it, and the payload alone writes to it.
    source.readers[stream] = source.close_later(reader)
    return source.close_later(writer)


def _read_end(source: Source, argument: str) -> int:
    return source.readers[argument]  # `stdout` and `stderr` are opened before


def _ring(source: Source, argument: str) -> int:  # noqa: ARG001
    assert source.held.log is not None, "the plan has a log, and the manifest discards its output"
    return source.held.log.memfd


def _bell(source: Source, argument: str) -> int:  # noqa: ARG001
    assert source.held.log is not None
    return source.held.log.bell


def _cgroup(source: Source, argument: str) -> int:  # noqa: ARG001
    directory = source.cgroup.into_fd()
    assert directory is not None, "the plan enters a cgroup of version 2, and the host has none"
    return source.close_later(directory)


def _tasks(source: Source, argument: str) -> int:
    return source.close_later(source.cgroup.open_tasks(int(argument)))


def _image(source: Source, argument: str) -> int:
    path = source.held.mounts[int(argument)]
    return source.close_later(open_tree.clone(path))


def _network(source: Source, argument: str) -> int:  # noqa: ARG001
    network = source.manifest.network
    assert isinstance(network, NamedNetwork)
    try:
        return source.close_later(netns.open_named(network.name))
    except OSError as failure:
        step = f"enter the network namespace {network.name}"
        path = failure.filename or ""
        hint = None
        if failure.errno == errno.EINVAL:
            with contextlib.suppress(OSError):
                hint = _why_no_network(network.name, path)
        raise LaunchError(step, path, failure.errno or 0, hint=hint) from failure


def _why_no_network(name: str, path: str) -> str:
    """Return why the runtime sees no network namespace at `path`, and what to do.

    ip-netns(8) mounts the namespace on an ordinary file. A mount in the host's mount namespace
    reaches the runtime's mount namespace only by propagation, from a shared mount.
    """
    on = mountinfo.containing(path)
    if on is None or any(field.startswith(("shared:", "master:")) for field in on.fields):
        return f"no namespace is mounted on this file: ip netns add {name}"
    return (
        "no namespace is mounted on this file as the runtime sees it, and it sees no mount that "
        f"the host makes after the start of the runtime, since {on.mount_point} is private: "
        f"restart the runtime, or run `mount --make-shared {on.mount_point}` before its start"
    )


def _seccomp(source: Source, argument: str) -> int:  # noqa: ARG001
    assert source.system_calls is not None
    return source.close_later(source.system_calls.open())


_OPENERS: Final[Mapping[str, Callable[[Source, str], int]]] = {
    "stdin": _null,
    "stdout": _stdout,
    "stderr": _stderr,
    # Placeholders: init replaces these by sockets that it creates, see Init.take_socket.
    "console": _null,
    "socket": _null,
    "cgroup": _cgroup,
    "tasks": _tasks,
    "image": _image,
    "netns": _network,
    "seccomp": _seccomp,
    "ring": _ring,
    "bell": _bell,
    "output": _read_end,
}


@contextlib.contextmanager
def opened(
    plan: LaunchPlan,
    manifest: Manifest,
    cgroup: Cgroup,
    system_calls: Filter | None,
    null: int,
    held: HeldResources,
) -> Iterator[dict[str, int]]:
    """Open all descriptors of a plan, by name; at the end close those that were passed on.

    Args:
        plan: names the descriptors.
        manifest: the container's manifest.
        cgroup: the container's cgroup.
        system_calls: the filter, if the manifest has one.
        null: the runtime's null device.
        held: contains its log, if it has one.

    Raises:
        LaunchError, OSError: one cannot be opened.
    """
    with ExitStack() as passed:
        own_null = reopen(null)
        passed.callback(os.close, own_null)
        source = Source(manifest, cgroup, system_calls, own_null, held, passed)
        descriptors = {}
        for name in plan.descriptors:
            kind, _, argument = name.partition(":")
            descriptors[name] = _OPENERS[kind](source, argument)
        yield descriptors
