"""Compares the core with the model of the soak: each answer and notification that the core decides.

    compare = Replay(clusters)
    compare.feed(event, core.step(state, event, now))

Model and core share no code. The events come from a random test, or from a real runtime whose calls
of the core were recorded (soak/recorded.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from northstar import core
from northstar.api import notification
from northstar.core import actions, events
from northstar.core.actions import Action
from northstar.core.events import Event
from northstar.model import Container
from soak.checker import Checker, Violation
from soak.model import OK, UNEXPECTED, Answer, Cluster, Operation, Program, answer_of

Decided = tuple[Action, ...] | core.Refused
"""What the core decides: actions, of which only `Complete` and `Publish` matter here."""

_Request = (
    events.MountRequested
    | events.UmountRequested
    | events.StartRequested
    | events.KillRequested
    | events.UninstallRequested
    | events.PackageVerified
)
"""The requests of clients of 0.9.2. The packages of the soak have no `service`."""
_FAILURES: Final = (
    events.MountFailed
    | events.UmountFailed
    | events.StartFailed
    | events.StoreFailed
    | events.RemovalFailed
    | events.WipeFailed
)


class Replay:
    """A checker for each cluster, which receives the events and the decisions of the core.

    Attributes:
        answers: number of compared answers and refusals.
        notifications: number of compared notifications.
    """

    def __init__(self, clusters: Iterable[Cluster]) -> None:
        self.answers = 0
        self.notifications = 0
        self._checkers = [Checker(cluster) for cluster in clusters]
        self._of = {c: one for one in self._checkers for c in one.cluster.containers}
        self._requests: dict[str, Operation] = {}
        self._installs: dict[str, Operation] = {}
        self._stopping = False

    def feed(self, event: Event, decided: Decided) -> None:
        """Compare one step of the core.

        Raises:
            Violation: the model does not allow the decision.
        """
        if isinstance(decided, core.Refused):
            self._refused(event, answer_of(decided.error))
            return
        self._accepted(event)
        for action in decided:
            self._decided(action)
        match event:
            case events.PackageStored(manifest=manifest):
                container = str(manifest.container)
                self._answered(container, self._installs.pop(container), OK)
            case events.StoreFailed(container=stored):
                # The runtime answers a failed store, not the core.
                self._answered(stored, self._installs.pop(str(stored)), UNEXPECTED)

    def inspect(self, state: core.State) -> None:
        """Compare the state of the core: containers installed, mounted, or with a process.

        Raises:
            Violation: the model does not allow the state.
        """
        for checker in self._checkers:
            installed = {str(c) for c in state.containers} & set(checker.cluster.containers)
            self._ask_and_answer(checker, Operation("list"), ("list", frozenset(installed)))
        for entry in state.containers.values():
            if entry.image is core.Image.UNMOUNTING:
                continue  # the unmount can still fail
            mounted = entry.image is core.Image.MOUNTED
            answer = ("inspect", entry.repository, mounted, entry.has_process)
            checker = self._checker(entry.container)
            self._ask_and_answer(checker, self._about("inspect", entry.container), answer)

    def settle(self, *, idle: bool) -> None:
        """Check that every request is answered.

        Args:
            idle: nothing is installed, and every notification was published.

        Raises:
            Violation: the model expects more.
        """
        if missing := {**self._requests, **self._installs}:
            raise Violation(f"requests without an answer: {missing}")
        for checker in self._checkers:
            checker.settle(idle=idle)

    def _checker(self, container: object) -> Checker:
        return self._of[str(container)]

    def _about(self, kind: str, container: Container, **fields: object) -> Operation:
        number = self._checker(container).cluster.containers.index(str(container))
        return Operation(kind, number, lenient=self._stopping, **fields)  # type: ignore[arg-type]

    def _operation(self, event: _Request) -> Operation:
        """Return the operation of the model for a request on a container."""
        match event:
            case events.MountRequested(container):
                return self._about("mount", container)
            case events.UmountRequested(container):
                return self._about("umount", container)
            case events.StartRequested(container, init, arguments, environment):
                given = tuple(environment.items())
                program = Program("recorded", arguments, init=init, environment=given)
                return self._about("start", container, program=program)
            case events.KillRequested(container, number):
                return self._about("kill", container, signal=number)
            case events.UninstallRequested(container, wipe):
                return self._about("uninstall", container, wipe=wipe)
            case events.PackageVerified(repository, container):
                return self._about("install", container, repository=repository)

    def _refused(self, event: Event, answer: Answer) -> None:
        if isinstance(event, _Request):
            self.answers += 1
            checker = self._checker(event.container)
            self._ask_and_answer(checker, self._operation(event), answer)
        elif isinstance(event, events.InstallRequested | events.PackageGrew):
            # No container is known yet: any checker can judge the repository.
            unknown = Operation("install", repository=event.repository, lenient=self._stopping)
            self._ask_and_answer(self._checkers[0], unknown, answer)
        else:
            raise Violation(f"an observation was refused: {event}, {answer}")

    def _accepted(self, event: Event) -> None:
        if not isinstance(event, _Request):
            self._observe(event)
            return
        operation = self._operation(event)
        container = str(event.container)
        self._checker(container).ask(operation)
        known = self._installs if operation.kind == "install" else self._requests
        if container in known:
            raise Violation(f"{operation} was accepted during {known[container]}")
        known[container] = operation

    def _observe(self, event: Event) -> None:
        """Pass an observation to the checkers."""
        match event:
            case events.PackageLoaded(repository, manifest):
                checker = self._checker(manifest.container)
                number = checker.cluster.containers.index(str(manifest.container))
                checker.possible = {
                    one._replace(state=one.state.at(number, repository)) for one in checker.possible
                }
            case events.ProcessExited(container, status):
                ended = self._about("end", container, status=str(status))
                self._ask_and_answer(self._checker(container), ended, OK)
            case events.ShutdownBegan():
                self._stopping = True
                for checker in self._checkers:
                    checker.ending = True
                for operation in (*self._requests.values(), *self._installs.values()):
                    operation.lenient = True
            case _ if isinstance(event, _FAILURES):
                self._allow_failures(event.container)

    def _allow_failures(self, container: Container) -> None:
        """Allow failures of the requests on this container, and of starts, which may use it."""
        checker = self._checker(container)
        for other, operation in (*self._requests.items(), *self._installs.items()):
            is_start = operation.kind == "start" and self._checker(other) is checker
            operation.lenient |= is_start or other == str(container)

    def _decided(self, action: Action) -> None:
        match action:
            case actions.Complete(container, error):
                operation = self._requests.pop(str(container), None)
                if operation is None:
                    raise Violation(f"an answer without a request: {action}")
                self._answered(container, operation, OK if error is None else answer_of(error))
            case actions.Publish(message):
                self.notifications += 1
                assert not isinstance(message, notification.CGroup | notification.Shutdown)
                status = str(message.status) if isinstance(message, notification.Exit) else ""
                kind = type(message).__name__.lower()
                about = str(message.container)
                self._checker(about).announce(kind, about, status)

    def _answered(self, container: object, operation: Operation, answer: Answer) -> None:
        self.answers += 1
        self._checker(container).answer(operation, answer)

    def _ask_and_answer(self, checker: Checker, operation: Operation, answer: Answer) -> None:
        checker.ask(operation)
        checker.answer(operation, answer)
