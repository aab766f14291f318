"""Updates as a model: all power cuts, failures and behaviours, by enumeration of the steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from northstar.core import events
from northstar.core.update_values import Phase
from northstar.manifest import DataPolicy, Manifest
from northstar.model import Container, Exited, Signalled
from northstar.model.notify import NotifyMessage
from tests.unit.core.device import REPOSITORY, SECOND, Behaviour, Device, Disk, PowerCut, copied
from tests.unit.core.worlds import manifest

OLD, NEW = Container.parse("app:1.0.0"), Container.parse("app:1.1.0")
WINDOW = 60 * SECOND
TRIES = 2

FINE = Behaviour()
BEHAVIOURS = {
    "fine": FINE,
    "finished": Behaviour(ends=(Exited(0), SECOND)),
    "image": Behaviour(mount_fails=True),
    "program": Behaviour(launch_fails=True),
    "crash": Behaviour(ends=(Exited(1), SECOND)),
    "late": Behaviour(ends=(Signalled(11), WINDOW - SECOND // 10)),
    "hangs": Behaviour(says=(NotifyMessage(trigger=True), SECOND)),
}
GOOD = ("fine", "finished")


def versions(data: DataPolicy, *, autostart: bool = True) -> dict[Container, Manifest]:
    service = {
        "restart": {"policy": "on-failure"},
        "update": {"window": "60s", "tries": TRIES, "data": data.value},
        "notify": "/run/notify",
    }
    options = {"autostart": "relaxed"} if autostart else {}
    return {c: manifest(c, service=service, **options) for c in (OLD, NEW)}


class Run:
    """One update on a device, over any number of power cuts."""

    def __init__(self, data: DataPolicy, behaviour: str) -> None:
        self.data = data
        self.behaviour = behaviour
        self.manifests = versions(data)
        self.disk = Disk({OLD})

    def device(
        self,
        cut: int | None = None,
        fails: Callable[[str, int], bool] = lambda _what, _count: False,
    ) -> Device:
        behaviours = {OLD: FINE, NEW: BEHAVIOURS[self.behaviour]}
        return Device(
            self.disk, self.manifests, behaviours, cut=cut, fails=fails, check=self.check_data
        )

    def check_data(self, device: Device, container: Container) -> None:
        """A version must not start on data that a newer one has written, if there was a copy."""
        if self.data is DataPolicy.SNAPSHOT and container == OLD:
            assert device.disk.data in (None, OLD), (
                "the old version runs on the data of the new one"
            )

    def begin(
        self,
        cut: int | None = None,
        fails: Callable[[str, int], bool] = lambda _what, _count: False,
    ) -> Device:
        """Boot, and request the update; the power is cut `cut` actions after the request."""
        device = self.device(fails=fails)
        device.boot()
        assert device.running == {OLD}
        if cut is not None:
            device._cut = device.moments + cut
        refused = device.give(events.UpdateVerified(REPOSITORY, self.manifests[NEW], 100))
        assert refused is None
        return device

    def check_end(self, device: Device, expected: Container | None = None) -> Container:
        """Exactly one version is left, with the right data, and nothing of the update."""
        disk = device.disk
        assert disk.record is None
        assert device.state.updates == {}
        assert len(disk.files) == 1, disk
        (left,) = disk.files
        assert expected in (None, left)
        assert disk.copy is None
        assert disk.floors == sorted(disk.floors)
        assert disk.floor == (NEW.version if left == NEW else None)
        if left == NEW and self.behaviour == "finished":
            assert device.running == set()
        else:
            assert device.running == {left}
        if self.data is DataPolicy.SNAPSHOT:
            assert disk.data == left
        return left


def expected(behaviour: str) -> Container:
    return NEW if behaviour in GOOD else OLD


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("data", DataPolicy)
def test_without_a_power_cut(data: DataPolicy, behaviour: str) -> None:
    run = Run(data, behaviour)
    device = run.begin()
    device.run()
    run.check_end(device, expected(behaviour))
    (answer,) = device.answers
    if behaviour in GOOD:
        assert answer is None
    else:
        assert str(answer).startswith(
            "app:1.1.0 is not installed: "
            if behaviour == "image"
            else "rolled back to app:1.0.0: app:1.1.0: "
        )


def cuts(run: Run, limit: int = 10**6) -> Iterator[Device]:
    """Yield the device after each power cut at which the update was not at its end."""
    start = copied(run.disk)
    for cut in itertools.count():
        assert cut < limit
        run.disk = copied(start)
        device = run.begin(cut)
        try:
            device.run()
        except PowerCut:
            yield device
        else:
            return


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("data", DataPolicy)
def test_a_power_cut_at_each_moment(data: DataPolicy, behaviour: str) -> None:
    run = Run(data, behaviour)
    phases = set()
    count = 0
    for device in cuts(run):
        record = device.disk.record
        phases.add(None if record is None else record.phase)
        again = run.device()
        again.boot()
        again.run()
        left = run.check_end(again)
        assert left == OLD or behaviour in GOOD
        if record is not None and record.phase is Phase.COMMIT:
            assert left == NEW
        count += 1
    assert count > 15
    assert phases >= {None, Phase.STAGED}
    if behaviour != "image":
        assert phases == {None, *Phase} - (
            {Phase.ROLLBACK} if behaviour in GOOD else {Phase.COMMIT}
        )


@pytest.mark.parametrize("behaviour", ["fine", "crash"])
@pytest.mark.parametrize("data", DataPolicy)
def test_power_cuts_at_each_two_moments(data: DataPolicy, behaviour: str) -> None:
    run = Run(data, behaviour)
    count = 0
    for device in cuts(run):
        first = copied(device.disk)
        for cut in itertools.count():
            run.disk = copied(first)
            again = run.device(cut)
            try:
                again.boot()
                again.run()
            except PowerCut:
                pass
            else:
                break
            count += 1
            last = run.device()
            last.boot()
            last.run()
            run.check_end(last)
    assert count > 400


@pytest.mark.parametrize("data", DataPolicy)
def test_power_that_fails_in_each_trial_ends_in_a_rollback(data: DataPolicy) -> None:
    run = Run(data, "fine")
    device = run.begin()
    device.run(until=lambda: device.running == {NEW})
    for trial in range(1, TRIES + 1):
        assert device.disk.record is not None
        assert device.disk.record.tries == trial
        assert device.running == {NEW}
        device = run.device()
        device.boot()
    assert device.running == {OLD}
    device.run()
    run.check_end(device, OLD)


KINDS = ("mount", "umount", "launch", "remove", "store", "record", "copy", "restore", "discard")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behaviour", ["fine", "crash"])
@pytest.mark.parametrize("data", DataPolicy)
def test_each_action_fails_once(data: DataPolicy, behaviour: str, kind: str) -> None:
    for number in itertools.count(1):
        met = False

        def fails(what: str, count: int, number: int = number) -> bool:
            nonlocal met
            found = what == kind and count == number
            met |= found
            return found

        run = Run(data, behaviour)
        device = run.device(fails=fails)
        device.boot()
        device.run()
        if device.running != {OLD}:  # the failure was at the boot, before the update
            assert met
            continue
        assert device.give(events.UpdateVerified(REPOSITORY, run.manifests[NEW], 100)) is None
        device.run()
        assert len(device.answers) == 1
        if not met:
            break
        disk = device.disk
        if kind == "remove" and disk.files == {OLD, NEW}:
            # The old version could not be removed after the commit: the next boot starts the newer.
            assert disk.record is None
            assert disk.floor == NEW.version
            assert device.running == {NEW}
        elif kind == "discard" and disk.copy is not None:
            assert device.running == {*disk.files}
        elif kind == "umount" and disk.files == {OLD, NEW}:
            assert device.running == {NEW}
        else:
            run.check_end(device)
    assert number <= 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behaviour", ["fine", "crash"])
@pytest.mark.parametrize("data", DataPolicy)
def test_each_action_fails_from_some_time_on_until_a_power_cut(
    data: DataPolicy, behaviour: str, kind: str
) -> None:
    for number in itertools.count(1):
        met = False

        def fails(what: str, count: int, number: int = number) -> bool:
            nonlocal met
            found = what == kind and count >= number
            met |= found
            return found

        run = Run(data, behaviour)
        device = run.device()
        device.boot()
        device._fails = fails
        assert device.give(events.UpdateVerified(REPOSITORY, run.manifests[NEW], 100)) is None
        device.run()
        assert len(device.answers) == 1
        if not met:
            break
        # The disk works again after a boot.
        last = run.device()
        last.boot()
        last.run()
        if last.disk.files == {OLD, NEW}:
            assert kind in ("remove", "umount")
            assert last.disk.record is None
            assert last.running == {NEW}
        elif kind == "discard" and last.disk.copy is not None:
            assert last.disk.record is None
        else:
            run.check_end(last)
