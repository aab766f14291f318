"""The core and the model of the soak agree: random events, and the judgement of each decision."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from northstar import core
from northstar.api import error, notification
from northstar.core import actions, events
from northstar.core.actions import Action
from northstar.core.events import Event
from northstar.manifest import Manifest, loads
from northstar.model import Container, Exited, Signalled
from soak import world
from soak.checker import Violation
from soak.model import Cluster
from soak.replay import Decided, Replay
from tests.system.harness import manifest

CLUSTERS = world.clusters(0)
GROUP = {Container.parse(c): cluster for cluster in CLUSTERS for c in cluster.containers}
KINDS = ("install", "install", "start", "start", "kill", "mount", "umount", "uninstall")
REPOSITORIES = (*["mem", "fs"] * 4, "nope", "full")
SIGNALS = (9, 15, 15, 2, 1, 18)
STATUSES = (Exited(0), Exited(7), Signalled(9), Signalled(11))
FAILING = 0.15


def manifest_of(container: Container, cluster: Cluster) -> Manifest:
    fields = world.fields(cluster, container.name)
    return loads(manifest(container.name, str(container.version), **fields))


MANIFESTS = {container: manifest_of(container, cluster) for container, cluster in GROUP.items()}


def unchanged(decided: Decided) -> Decided:
    return decided


RESULTLESS = actions.Publish | actions.PublishState | actions.SetDeadline | actions.Log
"""Actions that end in no event."""


class Runtime:
    """Gives the core random events as a runtime does, and each decision to the comparison.

    Attributes:
        state: the core's.
        open: actions whose end was not reported.
        alive: containers with a payload that has not exited.
        busy: containers with a request in progress.
        storing: containers whose package is verified and not stored, with its repository.
        falsify: changes a decision before it is compared.
    """

    def __init__(
        self, chance: random.Random, falsify: Callable[[Decided], Decided] = unchanged
    ) -> None:
        self.chance = chance
        self.falsify = falsify
        self.replay = Replay(CLUSTERS)
        self.state = core.State(
            repositories={
                "mem": core.Repository(),
                "fs": core.Repository(),
                "full": core.Repository(capacity_num=0),
            }
        )
        self.now = 0
        self.open: list[Action] = []
        self.alive: set[Container] = set()
        self.busy: set[Container] = set()
        self.storing: dict[Container, str] = {}

    def give(self, event: Event) -> bool:
        """Give an event to the core, and compare its decision; return whether it is accepted."""
        self.now += 1_000_000
        result = core.step(self.state, event, self.now)
        decided = self.falsify(result if isinstance(result, core.Refused) else result.actions)
        self.replay.feed(event, decided)
        if isinstance(result, core.Refused):
            return False
        self.state = result.state
        for action in result.actions:
            if isinstance(action, actions.Complete):
                self.busy.discard(action.container)
            elif not isinstance(action, RESULTLESS):
                self.open.append(action)
        return True

    def request(self, event: events.Request) -> None:
        if event.container not in self.busy:
            self.busy.add(event.container)
            if not self.give(event):
                self.busy.discard(event.container)

    def any_request(self) -> None:
        container = self.chance.choice(sorted(GROUP))
        match self.chance.choice(KINDS):
            case "install":
                self.install(container)
            case "start":
                program = world.program(self.chance, str(container))
                environment = dict(program.environment)
                self.request(
                    events.StartRequested(container, program.init, program.arguments, environment)
                )
            case "kill":
                self.request(events.KillRequested(container, self.chance.choice(SIGNALS)))
            case "mount":
                self.request(events.MountRequested(container))
            case "umount":
                self.request(events.UmountRequested(container))
            case "uninstall":
                self.request(events.UninstallRequested(container, self.chance.random() < 0.5))

    def install(self, container: Container) -> None:
        repository = self.chance.choice(REPOSITORIES)
        accepted = self.give(events.InstallRequested(repository, 100))
        if accepted and self.give(events.PackageVerified(repository, container, 100)):
            self.storing[container] = repository
            if repository == "mem":
                self.stored(well=True)  # nothing happens between these two

    def stored(self, *, well: bool) -> None:
        container, repository = self.storing.popitem()
        if well:
            self.give(events.PackageStored(repository, MANIFESTS[container]))
        else:
            self.give(events.StoreFailed(repository, container))

    def end_action(self, *, well: bool) -> None:
        action = self.open.pop(self.chance.randrange(len(self.open)))
        match action:
            case actions.Mount(c):
                self.give(events.ImageMounted(c) if well else events.MountFailed(c, "why"))
            case actions.Umount(c):
                self.give(events.ImageUnmounted(c) if well else events.UmountFailed(c, "why"))
            case actions.Launch(c, command):
                if well and command.init != "/nothing":
                    self.alive.add(c)
                    self.give(events.Executed(c, 42))
                else:
                    self.give(events.StartFailed(c, "why"))
            case actions.SendSignal(c):
                self.give(events.SignalSent(c))
            case actions.Release(c):
                self.give(events.Released(c))
            case actions.RemovePackage(c):
                self.give(events.PackageRemoved(c) if well else events.RemovalFailed(c, "why"))
            case actions.WipeData(c):
                if well or self.chance.random() < 0.5:
                    self.give(events.DataDetached(c))
                self.give(events.DataWiped(c) if well else events.WipeFailed(c, "why"))
            case _:
                raise AssertionError(action)

    def exit(self) -> None:
        container = self.chance.choice(sorted(self.alive))
        self.alive.remove(container)
        self.give(events.ProcessExited(container, self.chance.choice(STATUSES)))

    def any_event(self) -> None:
        """Give a request, or report how something ends."""
        chance = self.chance.random()
        well = self.chance.random() >= FAILING
        if self.open and chance < 0.45:
            self.end_action(well=well)
        elif self.storing and chance < 0.55:
            self.stored(well=well)
        elif self.alive and chance < 0.65:
            self.exit()
        else:
            self.any_request()
        self.replay.inspect(self.state)

    def drain(self) -> None:
        """Report the end of all that is in progress."""
        while self.storing:
            self.stored(well=True)
        while self.open:
            self.end_action(well=True)

    def uninstall_all(self) -> None:
        self.drain()
        for container in sorted(self.alive):
            self.request(events.KillRequested(container, 9))
        while self.alive:
            self.exit()
        self.drain()
        for container in sorted(self.state.containers):
            self.request(events.UninstallRequested(container, wipe=True))
        self.drain()

    def shut_down(self) -> None:
        self.give(events.ShutdownBegan())
        for _ in range(10):
            self.any_event()
        for number in (15, 9):
            self.give(events.SignalAll(number))
            self.drain()
        while self.alive:
            self.exit()
        self.drain()
        self.give(events.UmountAll())
        self.drain()


def play(runtime: Runtime, number: int = 60) -> Replay:
    """Play random events to their end: everything is uninstalled."""
    for _ in range(number):
        runtime.any_event()
    runtime.uninstall_all()
    runtime.replay.settle(idle=True)
    return runtime.replay


@settings(max_examples=60, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_the_model_allows_what_the_core_decides(chance: random.Random) -> None:
    play(Runtime(chance))


@settings(max_examples=40, deadline=None)
@given(chance=st.randoms(use_true_random=False), number=st.integers(0, 40))
def test_the_model_allows_what_the_core_decides_in_a_shutdown(
    chance: random.Random, number: int
) -> None:
    runtime = Runtime(chance)
    for _ in range(number):
        runtime.any_event()
    runtime.shut_down()
    runtime.replay.settle(idle=False)


def test_a_long_sequence_compares_answers_and_notifications_of_all_kinds() -> None:
    seen: set[str] = set()

    def note(decided: Decided) -> Decided:
        if isinstance(decided, core.Refused):
            seen.add(type(decided.error).__name__)
        else:
            published = [a.notification for a in decided if isinstance(a, actions.Publish)]
            failed = [a.error for a in decided if isinstance(a, actions.Complete) and a.error]
            seen.update(type(one).__name__ for one in (*published, *failed))
        return decided

    replay = play(Runtime(random.Random(1), note), 3000)
    assert replay.answers > 1000
    assert replay.notifications > 300
    assert seen == {
        "Exit",
        "Install",
        "InstallDuplicate",
        "InvalidArguments",
        "InvalidContainer",
        "InvalidRepository",
        "Started",
        "StartContainerFailed",
        "StartContainerMissingResource",
        "StartContainerResource",
        "StartContainerStarted",
        "StopContainerNotStarted",
        "UmountBusy",
        "Unexpected",
        "Uninstall",
    }


def without(kind: type[Action]) -> Callable[[Action], tuple[Action, ...]]:
    return lambda action: () if isinstance(action, kind) else (action,)


def twice(action: Action) -> tuple[Action, ...]:
    return (action, action) if isinstance(action, actions.Publish) else (action,)


def always_successful(action: Action) -> tuple[Action, ...]:
    return (
        (actions.Complete(action.container),) if isinstance(action, actions.Complete) else (action,)
    )


def failed_without_a_failure(action: Action) -> tuple[Action, ...]:
    if isinstance(action, actions.Complete) and action.error is None:
        return (msgspec.structs.replace(action, error=error.Unexpected("why")),)
    return (action,)


def another_status(action: Action) -> tuple[Action, ...]:
    if isinstance(action, actions.Publish) and isinstance(action.notification, notification.Exit):
        message = notification.Exit(action.notification.container, Exited(99))
        return (actions.Publish(message),)
    return (action,)


@pytest.mark.parametrize(
    "falsify",
    [
        pytest.param(without(actions.Publish), id="no notification"),
        pytest.param(without(actions.Complete), id="no answer"),
        pytest.param(twice, id="a notification twice"),
        pytest.param(always_successful, id="success for a failure"),
        pytest.param(failed_without_a_failure, id="failure for a success"),
        pytest.param(another_status, id="another exit status"),
    ],
)
def test_a_wrong_decision_is_a_violation(
    falsify: Callable[[Action], tuple[Action, ...]],
) -> None:
    def falsified(decided: Decided) -> Decided:
        if isinstance(decided, core.Refused):
            return decided
        return tuple(itertools.chain.from_iterable(map(falsify, decided)))

    with pytest.raises(Violation):
        play(Runtime(random.Random(1), falsified), 300)


def test_a_wrong_refusal_is_a_violation() -> None:
    def falsified(decided: Decided) -> Decided:
        if isinstance(decided, core.Refused) and isinstance(decided.error, error.UmountBusy):
            return core.Refused(error.InvalidContainer(decided.error.container))
        return decided

    with pytest.raises(Violation):
        play(Runtime(random.Random(1), falsified), 300)
