"""The JSON values that nstar prints with `--format json`.

Only these classes describe them: docs/reference/json-output.md is generated from their docstrings,
and a test compares them with real output. Members may be added; those that exist keep their names
and meanings. All texts of a container or a client are contained as they are, escaped by JSON's
rules.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import msgspec

from northstar.api.response import ContainerData


class Ended(msgspec.Struct, frozen=True):
    """How a run ended: either a code or a signal.

    Attributes:
        code: the exit code, 0 to 255; null after a signal.
        signal: the number of the signal that ended it; null after an exit.
        signal_name: its name, such as `SIGKILL`; null after an exit.
    """

    code: int | None
    signal: int | None
    signal_name: str | None


class Ident(msgspec.Struct, frozen=True):
    """The identity of nstar for this runtime.

    Attributes:
        container: the name and version of the container in which nstar runs; `extern:0.0.0` outside
            of containers.
    """

    container: str


class Repository(msgspec.Struct, frozen=True):
    """A repository.

    Attributes:
        name: its name in the runtime's configuration.
    """

    name: str


class ListedContainer(msgspec.Struct, frozen=True):
    """An installed container. What nstar is not permitted to see is null.

    Attributes:
        container: its name and version, as `app:1.0.0`.
        name: its name.
        version: its version.
        repository: the repository of its package.
        type: `app`, or `resource` if it has no program.
        mounted: whether its image is mounted.
        pid: PID of its init in the host's PID namespace; null if it does not run.
        uptime_ns: nanoseconds since its start; null if it does not run.
        state: its state, see `nstar status`; null for a resource, and if the runtime reports none.
        last_exit: how its last run ended; null if none has ended.
    """

    container: str
    name: str
    version: str
    repository: str | None
    type: Literal["app", "resource"] | None
    mounted: bool | None
    pid: int | None
    uptime_ns: int | None
    state: str | None
    last_exit: Ended | None


class ContainerStatus(msgspec.Struct, frozen=True):
    """The status of a container.

    Attributes:
        container: its name and version, as `app:1.0.0`.
        name: its name.
        version: its version.
        wanted: `up` or `down`.
        state: `installed`, `waiting`, `starting`, `running`, `ready`, `unhealthy`, `stopping`,
            `backoff`, `failed` or `removing`.
        since_ns: nanoseconds in this state.
        reason: why it is in this state, as a phrase; empty if there is nothing to say.
        run: number of the present or last run; 0 before the first.
        restarts: number of automatic restarts since the last start request.
        next_ns: nanoseconds until the next start, in `backoff`; else null.
        text: the text that the app sent as STATUS=, see sd_notify(3); null without one.
        last_exit: how the last run ended; null if none has ended.
    """

    container: str
    name: str
    version: str
    wanted: str
    state: str
    since_ns: int
    reason: str
    run: int
    restarts: int
    next_ns: int | None
    text: str | None
    last_exit: Ended | None


class MemoryEvents(msgspec.Struct, frozen=True):
    """Counters of memory.events (cgroup v2). With cgroup v1 only `oom` is set, to 1.

    Attributes:
        low: how often memory was reclaimed although usage was below `memory.low`.
        high: how often processes were throttled because usage was above `memory.high`.
        max: how often usage was about to exceed `memory.max`.
        oom: how often an allocation was about to fail.
        oom_kill: number of processes that the kernel's out-of-memory killer killed.
    """

    low: int | None
    high: int | None
    max: int | None
    oom: int | None
    oom_kill: int | None


class Notified(msgspec.Struct, frozen=True):
    """A notification of the runtime.

    Attributes:
        time: when nstar received it, in UTC: `2026-12-01T09:30:00.123Z`.
        event: `started`, `exit`, `install`, `uninstall`, `memory` (a memory limit was met) or
            `shutdown` (of the runtime).
        container: the container's name and version; null for `shutdown`.
        exit: for `exit` how the run ended; else null.
        memory: for `memory` the counters since the start; else null.
    """

    time: str
    event: Literal["started", "exit", "install", "uninstall", "memory", "shutdown"]
    container: str | None
    exit: Ended | None
    memory: MemoryEvents | None


class Key(msgspec.Struct, frozen=True):
    """A key of a repository's list.

    Attributes:
        id: the first 16 hex digits of the SHA-256 of the public key.
        use: `install` for all packages, `load` for packages that are in the repository already.
    """

    id: str
    use: str


class KeyList(msgspec.Struct, frozen=True):
    """The key list of a repository.

    Attributes:
        repository: the name of the repository.
        version: the version of the list.
        keys: the keys.
    """

    repository: str
    version: int
    keys: tuple[Key, ...]


class ContainerUsage(msgspec.Struct, frozen=True):
    """What a container uses. All is null if it does not run, or if its cgroups do not count it.

    Attributes:
        container: its name and version, as `app:1.0.0`.
        name: its name.
        version: its version.
        state: its state, see `nstar status`; null if the runtime reports none.
        cpu_percent: processor time in the interval, in percent of one processor: 200.0 if two were
            busy.
        cpu_ns: processor time since the start, in nanoseconds.
        memory_bytes: memory in use, with its part of the page cache.
        memory_limit_bytes: the limit of its memory; null without a limit.
        pids: number of processes and threads.
        pids_limit: the limit of their number; null without a limit.
        restarts: number of automatic restarts since the last start request; null if the runtime
            does not count them.
        uptime_ns: nanoseconds since the start.
    """

    container: str
    name: str
    version: str
    state: str | None
    cpu_percent: float | None
    cpu_ns: int | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    pids: int | None
    pids_limit: int | None
    restarts: int | None
    uptime_ns: int | None


class Output(msgspec.Struct, frozen=True):
    """What a command prints.

    Attributes:
        type: of a value.
        stream: whether values follow each other, one per line; else there is exactly one.
    """

    type: Any
    stream: bool = False


OUTPUTS: Final = {
    "list": Output(tuple[ListedContainer, ...]),
    "repositories": Output(tuple[Repository, ...]),
    "inspect CONTAINER": Output(ContainerData),
    "status": Output(tuple[ContainerStatus, ...]),
    "status --watch": Output(ContainerStatus, stream=True),
    "notifications": Output(Notified, stream=True),
    "ident": Output(Ident),
    "keys REPOSITORY": Output(KeyList),
    "stats": Output(tuple[ContainerUsage, ...]),
    "stats --watch": Output(tuple[ContainerUsage, ...], stream=True),
}
"""The commands with `--format json`, and their values."""


def emit(value: Any, *, indent: int | None = None) -> None:
    """Print a value in a line, or indented, at once: the reader may wait for it.

    It is ASCII, so that no text of it controls a terminal or depends on the locale. msgspec's own
    encoder has no such form, and refuses the lone surrogates that a JSON text may contain.
    """
    print(json.dumps(msgspec.to_builtins(value), indent=indent), flush=True)
