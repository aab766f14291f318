"""Random events on a registry: invariants that hold after any events in any order."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from northstar import core
from northstar.api import RefusedError, notification
from northstar.core import actions, events
from northstar.core.actions import Action
from northstar.core.events import Event
from northstar.manifest import Manifest
from northstar.model import Container, Exited, Signalled
from tests.unit.core.worlds import World, manifest, resource, uses

MANIFESTS = (
    manifest(Container.parse("app:1.0.0"), mounts=uses("lib")),
    manifest(Container.parse("app:2.0.0"), mounts=uses("lib", "other")),
    manifest(Container.parse("other:1.0.0"), mounts=uses("app"), autostart="critical"),
    manifest(Container.parse("plain:1.0.0"), autostart="relaxed"),
    manifest(Container.parse("plain:2.0.0")),
    resource(Container.parse("lib:1.0.0")),
    resource(Container.parse("lib:2.0.0")),
)
CONTAINERS = tuple(one.container for one in MANIFESTS)
KNOWN = st.sampled_from(CONTAINERS)
APPS = st.sampled_from([one.container for one in MANIFESTS if one.init is not None])
INDEX = st.integers(0, 7)
WELL = st.sampled_from((True, True, True, True, True, False))
RESULTS = st.lists(st.tuples(INDEX, WELL), max_size=8)
"""Which of the actions in progress end, and whether they succeed."""
Results = list[tuple[int, bool]]


class Registry(RuleBasedStateMachine):
    """Simulates the runtime: gives requests, and reports results of actions, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.open: list[Action] = []
        """Actions that were decided and have no result yet."""
        self.alive: set[Container] = set()
        """Containers whose payload was executed and that have not exited."""
        self.asked: set[Container] = set()
        """Containers with a request in progress: `Complete` was not decided."""
        self.subscribed: dict[Container, str] = {}
        """The state of each container according to the notifications."""
        self.before_shutdown = 0
        """Requests until the shutdown may begin: after it nearly every request is refused."""

    @initialize(missing=st.sets(KNOWN, max_size=1), later=st.integers(5, 60))
    def load(self, missing: set[Container], later: int) -> None:
        for one in MANIFESTS:
            if one.container not in missing:
                self.world.load(one)
                self.subscribed[one.container] = "installed"
        self.before_shutdown = later

    # Requests of clients. Each is followed by results: most requests need several actions.

    def request(self, event: events.Request, results: Results) -> None:
        self.before_shutdown -= 1
        if event.container not in self.asked:  # the runtime queues others
            self.asked.add(event.container)
            if not self.give(event):
                self.asked.remove(event.container)
        for index, well in results:
            self.end(index, well)

    @rule(container=KNOWN, results=RESULTS)
    def mount(self, container: Container, results: Results) -> None:
        self.request(events.MountRequested(container), results)

    @rule(container=KNOWN, results=RESULTS)
    def umount(self, container: Container, results: Results) -> None:
        self.request(events.UmountRequested(container), results)

    @rule(container=APPS, boot=st.booleans(), results=RESULTS)
    def start(self, container: Container, boot: bool, results: Results) -> None:
        cause = core.Cause.BOOT if boot else core.Cause.CLIENT
        self.request(events.StartRequested(container, cause=cause), results)

    @rule(container=APPS, number=st.sampled_from((1, 9, 15)), results=RESULTS)
    def kill(self, container: Container, number: int, results: Results) -> None:
        self.request(events.KillRequested(container, number), results)

    @rule(container=KNOWN, wipe=st.booleans(), results=RESULTS)
    def uninstall(self, container: Container, wipe: bool, results: Results) -> None:
        self.request(events.UninstallRequested(container, wipe), results)

    @rule(one=APPS, other=APPS, results=RESULTS)
    def wipe_and_start_another_version(
        self, one: Container, other: Container, results: Results
    ) -> None:
        # By separate requests a start hardly ever comes during a data wipe of its name.
        if one.name == other.name:
            self.request(events.UninstallRequested(one, wipe=True), [])
            self.request(events.StartRequested(other), results)

    @rule(one=st.sampled_from(MANIFESTS), repository=st.sampled_from(("one", "two")), well=WELL)
    def install(self, one: Manifest, repository: str, well: bool) -> None:
        if self.give(events.PackageVerified(repository, one.container, 100)):
            stored = events.PackageStored(repository, one)
            self.give(stored if well else events.StoreFailed(repository, one.container))

    # Results of actions.

    @precondition(lambda self: self.open)
    @rule(results=RESULTS)
    def end_some(self, results: Results) -> None:
        for index, well in results:
            self.end(index, well)

    def end(self, index: int, well: bool) -> None:
        if self.open:
            action = self.open.pop(index % len(self.open))
            self.give(self.ending(action, well))

    def ending(self, action: Action, well: bool) -> Event:
        match action:
            case actions.Mount(c):
                return events.ImageMounted(c) if well else events.MountFailed(c, "why")
            case actions.Umount(c):
                return events.ImageUnmounted(c) if well else events.UmountFailed(c, "why")
            case actions.Launch(c, _, resources):
                # All images that it needs are mounted.
                needed = [self.world.entry(one) for one in (c, *resources.values())]
                assert {e.image for e in needed} == {core.Image.MOUNTED}
                if well:
                    self.alive.add(c)
                return events.Executed(c, 42) if well else events.StartFailed(c, "why")
            case actions.SendSignal(c, _):
                return events.SignalSent(c)
            case actions.Release(c):
                return events.Released(c)
            case actions.RemovePackage(c):
                return events.PackageRemoved(c) if well else events.RemovalFailed(c, "why")
            case actions.WipeData(c):
                if well:
                    self.give(events.DataDetached(c))
                return events.DataWiped(c) if well else events.WipeFailed(c, "why")
            case _:
                raise AssertionError(action)

    @precondition(lambda self: self.alive)
    @rule(index=INDEX, status=st.sampled_from((Exited(0), Exited(1), Signalled(9))))
    def exit(self, index: int, status: Exited | Signalled) -> None:
        container = sorted(self.alive)[index % len(self.alive)]
        self.alive.remove(container)
        self.give(events.ProcessExited(container, status))

    # The shutdown.

    @precondition(lambda self: self.before_shutdown <= 0 and not self.world.state.stopping)
    @rule()
    def begin_shutdown(self) -> None:
        self.give(events.ShutdownBegan())

    @precondition(lambda self: self.world.state.stopping)
    @rule(number=st.sampled_from((15, 9)))
    def signal_all(self, number: int) -> None:
        self.give(events.SignalAll(number))

    @precondition(lambda self: self.world.state.stopping and not self.open)
    @rule()
    def umount_all(self) -> None:
        self.give(events.UmountAll())

    def give(self, event: Event) -> bool:
        """Give an event, and return whether it was accepted."""
        before = self.world.state
        result = self.world.step(event)
        if isinstance(result, core.Refused):
            assert self.world.state is before
            assert str(RefusedError(result.error))
            return False
        for action in result.actions:
            self.decided(action)
        return True

    def decided(self, action: Action) -> None:
        match action:
            case actions.Publish(notification=note):
                self.notified(note)
            case actions.Complete(container):
                # Each request is answered once.
                self.asked.remove(container)
            case actions.Fail() | actions.Log() | actions.PublishState():
                pass
            case _:
                same = [a for a in self.open if type(a) is type(action)]
                if not isinstance(action, actions.SendSignal):
                    assert action.container not in [a.container for a in same]
                self.open.append(action)

    def notified(self, note: notification.Notification) -> None:
        match note:
            case notification.Install(container):
                assert container not in self.subscribed
                self.subscribed[container] = "installed"
            case notification.Started(container):
                assert self.subscribed[container] == "installed"
                self.subscribed[container] = "started"
            case notification.Exit(container, _):
                assert self.subscribed[container] == "started"
                self.subscribed[container] = "installed"
            case notification.Uninstall(container):
                assert self.subscribed.pop(container) == "installed"

    # Invariants.

    @property
    def entries(self) -> list[core.Entry]:
        return list(self.world.state.containers.values())

    @invariant()
    def one_version_of_a_name_runs(self) -> None:
        active = [e for e in self.entries if e.run is not None]
        assert {e.container.name: e.container for e in active} == self.world.state.running
        assert len(active) == len(self.world.state.running)

    @invariant()
    def users_agree_with_the_resources_of_runs(self) -> None:
        users: dict[Container, set[Container]] = {}
        for entry in self.entries:
            for used in entry.run.resources.values() if entry.run is not None else ():
                users.setdefault(used, set()).add(entry.container)
        assert users == self.world.state.users

    @invariant()
    def used_images_are_mounted_and_not_being_removed(self) -> None:
        for entry in self.entries:
            if entry.run is None or not entry.run.launched:
                continue
            for used in (entry.container, *entry.run.resources.values()):
                assert self.world.entry(used).image is core.Image.MOUNTED
                assert self.world.entry(used).state is not core.ContainerState.REMOVING

    @invariant()
    def used_data_is_not_wiped(self) -> None:
        for entry in self.entries:
            if entry.run is not None and entry.run.launched:
                assert not self.world.state.is_wiping(entry.container.name)

    @invariant()
    def phases_agree_with_runs(self) -> None:
        idle = (
            core.ContainerState.INSTALLED,
            core.ContainerState.FAILED,
            core.ContainerState.REMOVING,
        )
        for entry in self.entries:
            assert (entry.run is None) is (entry.state in idle)
            assert (entry.wanted is core.Wanted.UP) <= (entry.run is not None)
            removing = entry.operation is core.Operation.UNINSTALL
            assert (entry.state is core.ContainerState.REMOVING) is removing
            starting = entry.operation is core.Operation.START
            assert (entry.state is core.ContainerState.STARTING) is starting

    @invariant()
    def images_in_transition_have_an_action(self) -> None:
        moving = {
            core.Image.MOUNTING: {a.container for a in self.open if isinstance(a, actions.Mount)},
            core.Image.UNMOUNTING: {
                a.container for a in self.open if isinstance(a, actions.Umount)
            },
        }
        for image, containers in moving.items():
            assert containers == {e.container for e in self.entries if e.image is image}

    @invariant()
    def each_request_in_progress_has_an_action(self) -> None:
        # Without an action in progress no request could ever be completed.
        if not self.open:
            assert not self.asked

    @invariant()
    def repositories_contain_what_is_installed(self) -> None:
        stored = [c for r in self.world.state.repositories.values() for c in r.packages]
        assert sorted(stored) == sorted(self.world.state.containers)

    @invariant()
    def notifications_agree_with_the_registry(self) -> None:
        known = {e.container: "started" if e.has_process else "installed" for e in self.entries}
        assert known == self.subscribed


Registry.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    # Without `explain`, which traces each line and takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
# A failing example is shrunk for up to 5 minutes; the assertion is reported after that.
TestRegistry = pytest.mark.timeout(600)(Registry.TestCase)
