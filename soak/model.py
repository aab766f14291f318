"""What the runtime may answer and announce: a state machine for a few containers.

Requests of several clients overlap, so the model has many possible states at a time (checker.py).
This module defines the transitions from one of them: each request is a few steps, the runtime may
take a step of any request at any time, and a process may exit at any time after its cause. An
answer or a notification that no order of steps can produce is a violation.

The steps follow the contract and allow all that it allows. A start or an unmount in progress is a
separate state, since other clients can observe it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from northstar.api.error import Error
from northstar.model import Container, Signalled

Answer = tuple[object, ...]
"""What a client receives, as ("ok",), ("refused", "UmountBusy", "a:1.0.0"), ("list", {...})."""

Note = tuple[str, str, frozenset[str]]
"""A notification: kind, container, and for an exit the statuses that are possible."""

OK: Final[Answer] = ("ok",)
BEGIN: Final = "begin"
NO_STATUS: Final[frozenset[str]] = frozenset()

IGNORED: Final = frozenset({17, 18, 19, 23, 28})
"""Signals that end no process by default: CHLD, CONT, STOP (which stops), URG, WINCH."""

_SHUTDOWN: Final = frozenset({str(Signalled(15)), str(Signalled(9))})


class Cluster(NamedTuple):
    """Containers that affect each other: versions of a few names, and the resources they use.

    Attributes:
        containers: their ids; elsewhere a container is its index in this tuple.
        uses: the name of the resource that an app needs, by the app's name.
        resources: names that are resources.
    """

    containers: tuple[str, ...]
    uses: dict[str, str]
    resources: frozenset[str]

    def name(self, number: int) -> str:
        """Return the name of a container, without its version."""
        return self.containers[number].partition(":")[0]

    def newest(self, name: str, among: Callable[[int], bool]) -> int | None:
        """Return the newest version of a name for which `among` is true."""
        found = [n for n, c in enumerate(self.containers) if self.name(n) == name and among(n)]
        return max(found, key=lambda n: Container.parse(self.containers[n]), default=None)


class Program(NamedTuple):
    """What a start runs.

    Attributes:
        label: its name in the report.
        arguments: those of the test payload.
        ends: statuses with which it may exit without a signal from outside.
        init: the init of the start request.
        environment: the variables of the start request.
    """

    label: str
    arguments: tuple[str, ...]
    ends: frozenset[str] = NO_STATUS
    init: str | None = None
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def reserved(self) -> bool:
        """Whether it sets a variable that only the runtime may set."""
        return any(name.startswith("NORTHSTAR_") for name, _ in self.environment)

    @property
    def missing(self) -> bool:
        """Whether the image lacks the program."""
        return self.init == "/nothing"


class Run(NamedTuple):
    """The container that is starting or running under a name.

    Attributes:
        container: its number.
        running: its start is complete.
        resources: the containers that it uses.
        ends: the statuses with which it may exit now.
    """

    container: int
    running: bool
    resources: frozenset[int]
    ends: frozenset[str]


class State(NamedTuple):
    """One possible state of a cluster.

    Attributes:
        where: the repository of each container, empty if it is not installed.
        mounted: the mounted containers.
        runs: by name.
        locked: containers with an operation in progress.
        reserved: containers of installs that are accepted and not announced yet.
        removing: containers with an uninstall in progress: no start may begin to use them.
        unmounting: containers with an unmount in progress.
    """

    where: tuple[str, ...]
    mounted: frozenset[int] = frozenset()
    runs: tuple[tuple[str, Run], ...] = ()
    locked: frozenset[int] = frozenset()
    reserved: frozenset[int] = frozenset()
    removing: frozenset[int] = frozenset()
    unmounting: frozenset[int] = frozenset()

    def run(self, name: str) -> Run | None:
        """Return the container that starts or runs under a name."""
        return next((run for other, run in self.runs if other == name), None)

    def with_run(self, name: str, run: Run | None) -> State:
        """Return the state in which `run` has the name, or no container has it."""
        others = tuple(pair for pair in self.runs if pair[0] != name)
        return self._replace(runs=tuple(sorted((*others, (name, run)))) if run else others)

    def at(self, number: int, repository: str) -> State:
        """Return the state in which a container is in `repository`."""
        where = (*self.where[:number], repository, *self.where[number + 1 :])
        return self._replace(where=where)

    def user(self, number: int) -> int | None:
        """Return the user of a container: itself if it runs, or one whose resource it is."""
        for _, run in self.runs:
            if run.running and run.container == number:
                return number
        return next((run.container for _, run in self.runs if number in run.resources), None)


class Operation:
    """A request, or an event from outside ("strike", "end").

    Attributes:
        kind: its name.
        container: its number in the cluster, -1 for no container.
        lenient: it may fail, since the runtime lacks descriptors or shuts down.
        abandoned: no client waits for an answer; the request may also never reach the runtime.
    """

    __slots__ = (
        "abandoned",
        "container",
        "kind",
        "lenient",
        "number",
        "program",
        "repository",
        "signal",
        "status",
        "wipe",
    )

    def __init__(
        self,
        kind: str,
        container: int = -1,
        *,
        repository: str = "",
        wipe: bool = False,
        signal: int = 0,
        status: str = "",
        program: Program | None = None,
        lenient: bool = False,
        abandoned: bool = False,
    ) -> None:
        self.number = 0
        self.kind = kind
        self.container = container
        self.repository = repository
        self.wipe = wipe
        self.signal = signal
        self.status = status
        self.program = program
        self.lenient = lenient
        self.abandoned = abandoned

    def __repr__(self) -> str:
        words = [f"#{self.number} {self.kind}", str(self.container)]
        words += [self.repository] * bool(self.repository) + ["wipe"] * self.wipe
        words += [str(self.signal)] * bool(self.signal) + [self.status] * bool(self.status)
        words += [self.program.label] if self.program else []
        words += ["lenient"] * self.lenient + ["abandoned"] * self.abandoned
        return " ".join(words)


Step = tuple[State, str | Answer, Note | None]
"""The state afterwards, the next phase of the operation (or its answer), the notification."""


def refused(error: str, container: str = "") -> Answer:
    """Return a refusal with this error, which names a container or none."""
    return ("refused", error, container) if container else ("refused", error)


def answer_of(error: Error) -> Answer:
    """Return a refusal with an error of the wire."""
    return refused(type(error).__name__, str(getattr(error, "container", "")))


UNEXPECTED: Final = refused("Unexpected")


def steps(
    cluster: Cluster, state: State, operation: Operation, phase: str, *, shutdown: bool
) -> Iterator[Step]:
    """Yield each step that the runtime may take now for an operation; none if it must wait."""
    for after, then, note in _STEPS[operation.kind](cluster, state, operation, phase):
        yield after, then, note
        if shutdown and note is not None and note[0] == "install":
            # A package that is stored once the shutdown has begun is not announced.
            yield after, then, None
    if operation.lenient and phase == BEGIN and operation.kind in _MAY_LACK:
        about = cluster.containers[operation.container] if operation.kind == "start" else ""
        yield state, refused(_MAY_LACK[operation.kind], about), None


_MAY_LACK: Final = {
    **dict.fromkeys(("install", "uninstall", "mount", "umount", "inspect", "kill"), "Unexpected"),
    "start": "StartContainerFailed",
}
"""Errors of requests while the runtime lacks descriptors, or shuts down."""


def ends(cluster: Cluster, state: State, *, shutdown: bool) -> Iterator[tuple[State, Note]]:
    """Yield each exit that is possible now; in a shutdown also by its signals."""
    for name, run in state.runs:
        statuses = run.ends | (_SHUTDOWN if shutdown else NO_STATUS)
        if run.running and statuses:
            note = ("exit", cluster.containers[run.container], statuses)
            yield state.with_run(name, None), note


def unmounted(state: State) -> Iterator[State]:
    """Yield each unmount that is possible now in a shutdown."""
    for number in state.mounted:
        if state.user(number) is None:
            yield state._replace(mounted=state.mounted - {number})


def restarted(state: State) -> State:
    """Return the state after the runtime was restarted: what the directory contains."""
    return State(tuple(where if where == "fs" else "" for where in state.where))


def _unlocked(state: State, number: int) -> State:
    return state._replace(
        locked=state.locked - {number},
        removing=state.removing - {number},
        unmounting=state.unmounting - {number},
    )


def _known(cluster: Cluster, state: State, operation: Operation) -> Answer | None:
    """Return the refusal of a container that is not installed."""
    if state.where[operation.container]:
        return None
    return refused("InvalidContainer", cluster.containers[operation.container])


def _install(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    number = operation.container
    note = ("install", cluster.containers[number], NO_STATUS) if number >= 0 else None
    if phase == "reserved":
        done = state.at(number, operation.repository)
        done = done._replace(reserved=state.reserved - {number})
        yield done, OK, note
        if operation.lenient:
            yield state._replace(reserved=state.reserved - {number}), UNEXPECTED, None
    elif operation.repository == "nope":
        yield state, refused("InvalidRepository"), None
    elif operation.repository == "full" or number < 0:
        yield state, UNEXPECTED, None
    elif state.where[number] or number in state.reserved:
        yield state, refused("InstallDuplicate", cluster.containers[number]), None
    elif operation.repository == "mem":
        yield state.at(number, "mem"), OK, note
    else:
        yield state._replace(reserved=state.reserved | {number}), "reserved", None


def _uninstall(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    number = operation.container
    if phase == BEGIN:
        if unknown := _known(cluster, state, operation):
            yield state, unknown, None
        elif number in state.locked:
            return
        elif (user := state.user(number)) is not None:
            yield state, refused("UmountBusy", cluster.containers[user]), None
        elif operation.wipe and (run := state.run(cluster.name(number))) is not None:
            # All versions share the data.
            yield state, refused("UmountBusy", cluster.containers[run.container]), None
        else:
            held = state._replace(locked=state.locked | {number})
            yield held._replace(removing=state.removing | {number}), "removing", None
        return
    if phase == "wiping":
        yield state, OK, None
        if operation.lenient:
            yield state, UNEXPECTED, None
        return
    if number in state.mounted:
        yield state._replace(mounted=state.mounted - {number}), phase, None
    else:
        gone = _unlocked(state.at(number, ""), number)
        note = ("uninstall", cluster.containers[number], NO_STATUS)
        yield gone, "wiping" if operation.wipe else OK, note
    if operation.lenient:
        yield _unlocked(state, number), UNEXPECTED, None


def _mount(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    number = operation.container
    if phase == BEGIN:
        if unknown := _known(cluster, state, operation):
            yield state, unknown, None
        elif number in state.locked:
            return
        elif number in state.mounted:
            yield state, refused("InvalidContainer", cluster.containers[number]), None
        else:
            yield state._replace(locked=state.locked | {number}), "mounting", None
        return
    yield _unlocked(state._replace(mounted=state.mounted | {number}), number), OK, None
    if operation.lenient:
        yield _unlocked(state, number), UNEXPECTED, None


def _umount(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    number = operation.container
    if phase == BEGIN:
        if unknown := _known(cluster, state, operation):
            yield state, unknown, None
            return
        if number in state.locked:
            return
        user = state.user(number)
        if number not in state.mounted:
            yield state, refused("UmountBusy", cluster.containers[number]), None
        if user is not None:
            # Also while the start of the user is still mounting it.
            yield state, refused("UmountBusy", cluster.containers[user]), None
        elif number in state.mounted:
            held = state._replace(locked=state.locked | {number})
            yield held._replace(unmounting=state.unmounting | {number}), "unmounting", None
        return
    yield _unlocked(state._replace(mounted=state.mounted - {number}), number), OK, None
    if operation.lenient:
        yield _unlocked(state, number), UNEXPECTED, None


def _start(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    number = operation.container
    name = cluster.name(number)
    run = state.run(name)
    if phase == "mounting":
        assert run is not None
        yield from _launch(cluster, state, operation, run)
        return
    program = operation.program
    assert program is not None
    if unknown := _known(cluster, state, operation):
        yield state, unknown, None
    elif run is not None:
        running = cluster.containers[run.container]
        yield state, refused("StartContainerStarted", running), None
    elif number in state.locked:
        return
    elif program.reserved:
        yield state, refused("InvalidArguments"), None
    elif name in cluster.resources and program.init is None:
        yield state, refused("StartContainerResource", cluster.containers[number]), None
    else:
        resources: frozenset[int] = frozenset()
        if name in cluster.uses:
            match = cluster.newest(
                cluster.uses[name], lambda n: bool(state.where[n]) and n not in state.removing
            )
            if match is None:
                missing = refused("StartContainerMissingResource", cluster.containers[number])
                yield state, missing, None
                return
            resources = frozenset({match})
        begun = state.with_run(name, Run(number, False, resources, program.ends))
        yield begun._replace(locked=state.locked | {number}), "mounting", None


def _launch(cluster: Cluster, state: State, operation: Operation, run: Run) -> Iterator[Step]:
    """Yield the steps of a start in progress: it mounts its images, then launches."""
    number = operation.container
    name = cluster.name(number)
    wanted = {number, *run.resources}
    for each in wanted - state.mounted - state.unmounting:
        yield state._replace(mounted=state.mounted | {each}), "mounting", None
    failed = refused("StartContainerFailed", cluster.containers[number])
    undone = _unlocked(state.with_run(name, None), number)
    assert operation.program is not None
    if wanted <= state.mounted and not wanted & state.unmounting:
        if operation.program.missing:
            yield undone, failed, None
        else:
            started = _unlocked(state.with_run(name, run._replace(running=True)), number)
            yield started, OK, ("started", cluster.containers[number], NO_STATUS)
    if operation.lenient:
        yield undone, failed, None


def _kill(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    del phase
    number = operation.container
    name = cluster.name(number)
    run = state.run(name)
    if not 1 <= operation.signal <= 31:
        yield state, UNEXPECTED, None
    elif unknown := _known(cluster, state, operation):
        yield state, unknown, None
    elif number in state.locked:
        return
    elif run is None or not run.running or run.container != number:
        yield state, refused("StopContainerNotStarted", cluster.containers[number]), None
    else:
        yield _signalled(state, name, run, operation.signal), OK, None


def _strike(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    """A signal from the host, without a request."""
    del phase
    name = cluster.name(operation.container)
    run = state.run(name)
    if run is not None and run.running and run.container == operation.container:
        state = _signalled(state, name, run, operation.signal)
    yield state, OK, None


def _end(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    """An observed exit: only an exit with this status may be announced."""
    del phase
    name = cluster.name(operation.container)
    run = state.run(name)
    if run is not None and run.running and run.container == operation.container:
        state = state.with_run(name, run._replace(ends=frozenset({operation.status})))
    yield state, OK, None


def _signalled(state: State, name: str, run: Run, signal: int) -> State:
    if signal in IGNORED:
        return state
    return state.with_run(name, run._replace(ends=run.ends | {str(Signalled(signal))}))


def _inspect(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    del phase
    number = operation.container
    if unknown := _known(cluster, state, operation):
        yield state, unknown, None
        return
    run = state.run(cluster.name(number))
    process = run is not None and run.running and run.container == number
    yield state, ("inspect", state.where[number], number in state.mounted, process), None


def _list(cluster: Cluster, state: State, operation: Operation, phase: str) -> Iterator[Step]:
    del operation, phase
    installed = frozenset(
        c for c, where in zip(cluster.containers, state.where, strict=True) if where
    )
    yield state, ("list", installed), None


_STEPS: Final[dict[str, Callable[[Cluster, State, Operation, str], Iterator[Step]]]] = {
    "install": _install,
    "uninstall": _uninstall,
    "mount": _mount,
    "umount": _umount,
    "start": _start,
    "kill": _kill,
    "strike": _strike,
    "end": _end,
    "inspect": _inspect,
    "list": _list,
}
