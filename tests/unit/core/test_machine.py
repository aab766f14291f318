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
from northstar.model.notify import NotifyMessage
from tests.unit.core.worlds import (
    ALWAYS,
    NOTIFY,
    ON_FAILURE,
    SECOND,
    World,
    manifest,
    resource,
    uses,
)

LIMITED = {"policy": "on-failure", "limit": 2, "interval": "30s", "max_delay": "3s"}
MANIFESTS = (
    manifest(Container.parse("app:1.0.0"), mounts=uses("lib")),
    manifest(Container.parse("app:2.0.0"), mounts=uses("lib", "other")),
    manifest(Container.parse("other:1.0.0"), mounts=uses("app"), autostart="critical"),
    manifest(Container.parse("plain:1.0.0"), autostart="relaxed"),
    manifest(Container.parse("plain:2.0.0")),
    resource(Container.parse("lib:1.0.0")),
    resource(Container.parse("lib:2.0.0")),
    manifest(
        Container.parse("limited:1.0.0"),
        autostart="critical",
        service={"restart": LIMITED, "after": ["watched"]},
    ),
    manifest(Container.parse("limited:2.0.0"), mounts=uses("lib"), service=ALWAYS),
    manifest(
        Container.parse("watched:1.0.0"),
        service={**ON_FAILURE, **NOTIFY, "watchdog": "5s", "stop": {"timeout": "3s"}},
    ),
    manifest(Container.parse("last:1.0.0"), service={"after": ["limited", "app"], **ALWAYS}),
)
LIMIT, INTERVAL = 2, 30 * SECOND
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
        self.queued: list[events.StartRequested] = []
        """Starts that the core has requested."""
        self.deferred: set[tuple[Container, core.Deferred]] = set()
        """Requests that are answered later."""
        self.timers: dict[Container, int] = {}
        """The time of each deadline that was set."""
        self.reported: dict[Container, core.Entry] = {}
        """The container after its last reported change."""
        self.restarts: dict[Container, list[int]] = {}
        """Times of the automatic restarts."""
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
        self.submit(event)
        for index, well in results:
            self.end(index, well)
        self.start_queued()

    def submit(self, event: events.Request) -> None:
        if event.container not in self.asked:  # the runtime queues others
            self.asked.add(event.container)
            if not self.give(event):
                self.asked.remove(event.container)

    def start_queued(self) -> None:
        """Give the starts that the core has requested, unless another request is in progress."""
        for event in self.queued[:]:
            if event.container not in self.asked:
                self.queued.remove(event)
                before = self.world.state
                self.submit(event)
                if self.world.state.containers.get(event.container) is not None:
                    self.check_automatic_start(event, before)

    def check_automatic_start(self, event: events.StartRequested, before: core.State) -> None:
        container = event.container
        old, new = before.containers[container], self.world.entry(container)
        if old.state is new.state or new.history.runs == old.history.runs:
            return
        assert not before.stopping
        if event.cause is core.Cause.AUTOMATIC and old.history.runs:
            times = self.restarts.setdefault(container, [])
            times.append(self.world.now)
            if new.service.restart is not None and new.service.restart.limit is not None:
                recent = [when for when in times if self.world.now - when < INTERVAL]
                assert len(recent) <= LIMIT

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

    @rule(container=APPS, results=RESULTS)
    def stop(self, container: Container, results: Results) -> None:
        self.request(events.StopRequested(container), results)

    @rule(container=APPS, results=RESULTS)
    def restart(self, container: Container, results: Results) -> None:
        self.request(events.RestartRequested(container), results)

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

    # Supervision.

    @precondition(lambda self: self.alive)
    @rule(
        index=INDEX,
        message=st.builds(
            NotifyMessage,
            ready=st.booleans(),
            stopping=WELL.map(lambda well: not well),
            watchdog=st.booleans(),
            trigger=WELL.map(lambda well: not well),
            extend=st.none() | st.integers(0, 10**13),
        ),
    )
    def notify(self, index: int, message: NotifyMessage) -> None:
        self.give(events.Notified(sorted(self.alive)[index % len(self.alive)], message))

    @precondition(lambda self: self.timers)
    @rule()
    def reach_the_next_deadline(self) -> None:
        container = min(self.timers, key=lambda one: (self.timers[one], one))
        when = self.timers.pop(container)
        self.world.now = max(self.world.now, when - SECOND)
        self.give(events.DeadlineReached(container))
        self.start_queued()

    # The shutdown.

    @precondition(lambda self: self.before_shutdown <= 0 and not self.world.state.stopping)
    @rule()
    def begin_shutdown(self) -> None:
        self.give(events.ShutdownBegan())

    @precondition(lambda self: self.world.state.stopping)
    @rule()
    def stop_all(self) -> None:
        self.give(events.StopAll(2 * SECOND))

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
            case actions.Defer(container, request):
                self.asked.remove(container)
                self.deferred.add((container, request))
            case actions.Answer(container, request):
                self.deferred.remove((container, request))
            case actions.RequestStart(container, cause):
                self.queued.append(events.StartRequested(container, cause=cause))
            case actions.SetDeadline(container, when):
                self.timers.pop(container, None)
                if when is not None:
                    self.timers[container] = when
            case actions.PublishState(entry):
                self.reported[entry.container] = entry
            case actions.Fail() | actions.Log():
                pass
            case _:
                # There are no updates here, so each of the others is on a container.
                same = [a for a in self.open if type(a) is type(action)]
                if not isinstance(action, actions.SendSignal):
                    container = getattr(action, "container")  # noqa: B009
                    assert container not in [getattr(a, "container") for a in same]  # noqa: B009
                self.open.append(action)

    def notified(self, note: notification.Notification) -> None:
        match note:
            case notification.Install(container):
                self.reported.pop(container, None)
                self.restarts.pop(container, None)
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
    def states_agree_with_runs(self) -> None:
        state = core.ContainerState
        without = (state.INSTALLED, state.FAILED, state.REMOVING, state.WAITING, state.BACKOFF)
        pending = (state.WAITING, state.BACKOFF)
        for entry in self.entries:
            assert (entry.run is None) is (entry.state in without)
            if entry.wanted is core.Wanted.UP:
                assert entry.run is not None or entry.state in pending
            assert (entry.state in pending) <= (entry.wanted is core.Wanted.UP)
            removing = entry.operation is core.Operation.UNINSTALL
            assert (entry.state is state.REMOVING) is removing
            starting = entry.operation is core.Operation.START
            assert (entry.state is state.STARTING) is starting

    @invariant()
    def one_version_of_a_name_is_wanted(self) -> None:
        wanted = [e.container.name for e in self.entries if e.wanted is core.Wanted.UP]
        assert len(wanted) == len(set(wanted))

    @invariant()
    def pending_containers_are_known_and_hold_nothing(self) -> None:
        state = core.ContainerState
        waiting = [e for e in self.entries if e.state in (state.WAITING, state.BACKOFF)]
        pending = self.world.state.pending
        assert {e.container.name: e.container for e in waiting} == pending
        assert pending.keys().isdisjoint(self.world.state.running)
        assert not pending or not self.world.state.stopping

    @invariant()
    def deadlines_exist_in_the_states_that_have_one(self) -> None:
        state = core.ContainerState
        stopping = self.world.state.stopping
        for entry in self.entries:
            supervised = entry.service.watchdog is not None and not stopping
            expected = {
                state.BACKOFF: True,
                state.RUNNING: not stopping,
                state.READY: supervised,
                state.STOPPING: entry.deadline is not None,
            }.get(entry.state, False)
            if entry.run is not None and (entry.run.killed or entry.run.status is not None):
                expected = False
            assert (entry.deadline is not None) is expected

    @invariant()
    def a_timer_is_set_for_each_deadline(self) -> None:
        for entry in self.entries:
            if entry.deadline is None:
                assert entry.container not in self.timers
            elif not entry.due:
                assert self.timers[entry.container] <= entry.deadline

    @invariant()
    def what_is_due_was_requested(self) -> None:
        for entry in self.entries:
            if entry.due:
                assert entry.container in {event.container for event in self.queued}

    @invariant()
    def a_wait_ends(self) -> None:
        # With no start on its way, and no request for a start, nothing would ever end it.
        state = core.ContainerState
        on_its_way = (state.WAITING, state.STARTING, state.RUNNING)
        for entry in self.entries:
            if entry.state is state.WAITING and not entry.due:
                assert any(
                    e.container.name in entry.service.after and e.state in on_its_way
                    for e in self.entries
                )

    @invariant()
    def deferred_requests_are_answered_in_time(self) -> None:
        found = {(e.container, request) for e in self.entries for request in e.deferred}
        assert found == self.deferred
        for entry in self.entries:
            if core.Deferred.STOP in entry.deferred:
                assert entry.has_process
            if core.Deferred.RESTART in entry.deferred:
                assert entry.wanted is core.Wanted.UP

    @invariant()
    def each_change_is_reported(self) -> None:
        for entry in self.entries:
            last = self.reported.get(entry.container)
            known = (core.ContainerState.INSTALLED, core.Wanted.DOWN)
            if last is not None:
                known = (last.state, last.wanted)
            assert known == (entry.state, entry.wanted)

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
