"""Makes the values of `json_output` of the runtime's answers. Pure."""

from __future__ import annotations

from northstar.api import notification
from northstar.api.notification import Notification
from northstar.api.response import ContainerData, KeysOk
from northstar.api.status import Status
from northstar.cli import json_output
from northstar.cli.dates import date
from northstar.cli.json_output import (
    ContainerStatus,
    ContainerUsage,
    Ended,
    KeyList,
    ListedContainer,
    Notified,
)
from northstar.cli.usage import Usage
from northstar.model import Container, Exited, ExitStatus
from northstar.model.status import signal_name


def listed(
    container: Container, data: ContainerData | None, status: Status | None
) -> ListedContainer:
    """Return the value of a container in `list`; without data that which is known."""
    process = None if data is None else data.process
    is_app = data is not None and data.manifest.get("init") is not None
    return ListedContainer(
        container=str(container),
        name=str(container.name),
        version=str(container.version),
        repository=None if data is None else data.repository,
        type=None if data is None else "app" if is_app else "resource",
        mounted=None if data is None else data.mounted,
        pid=None if process is None else process.pid,
        uptime_ns=None if process is None else process.uptime_ns,
        state=status.state.value if status is not None and is_app else None,
        last_exit=None if status is None else ended(status.last),
    )


def of_status(container: Container, status: Status) -> ContainerStatus:
    """Return the value of a container in `status`."""
    return ContainerStatus(
        container=str(container),
        name=str(container.name),
        version=str(container.version),
        wanted=status.wanted.value,
        state=status.state.value,
        since_ns=status.since,
        reason=status.reason,
        run=status.run,
        restarts=status.restarts,
        next_ns=status.next,
        text=status.text,
        last_exit=ended(status.last),
    )


def ended(status: ExitStatus | None) -> Ended | None:
    """Return the value of an exit status."""
    if status is None:
        return None
    if isinstance(status, Exited):
        return Ended(status.code, None, None)
    return Ended(None, status.signal, signal_name(status.signal))


def notified(message: Notification, nanoseconds: int) -> Notified | None:
    """Return the value of a notification; None for one that a plain connection does not have.

    Args:
        message: the notification.
        nanoseconds: when it was received, since 1970.
    """
    when = date(nanoseconds)
    match message:
        case notification.Started(container):
            return Notified(when, "started", str(container), None, None)
        case notification.Install(container):
            return Notified(when, "install", str(container), None, None)
        case notification.Uninstall(container):
            return Notified(when, "uninstall", str(container), None, None)
        case notification.Exit(container, status):
            return Notified(when, "exit", str(container), ended(status), None)
        case notification.CGroup(container, memory):
            counts = json_output.MemoryEvents(
                memory.low, memory.high, memory.max, memory.oom, memory.oom_kill
            )
            return Notified(when, "memory", str(container), None, counts)
        case notification.Shutdown():
            return Notified(when, "shutdown", None, None, None)
        case _:
            return None


def key_list(found: KeysOk) -> KeyList:
    """Return the value of a key list."""
    keys = tuple(json_output.Key(key.id, key.use.value) for key in found.keys)
    return KeyList(found.repository, found.version, keys)


def used(usage: Usage) -> ContainerUsage:
    """Return the value of a container in `stats`; the percentage has one decimal."""
    counters, status = usage.used, usage.status
    percent = usage.cpu_percent
    return ContainerUsage(
        container=str(usage.container),
        name=str(usage.container.name),
        version=str(usage.container.version),
        state=None if status is None else status.state.value,
        cpu_percent=None if percent is None else round(percent, 1),
        cpu_ns=counters.cpu_ns,
        memory_bytes=counters.memory_bytes,
        memory_limit_bytes=counters.memory_limit_bytes,
        pids=counters.pids,
        pids_limit=counters.pids_limit,
        restarts=None if status is None else status.restarts,
        uptime_ns=usage.uptime_ns,
    )
