"""Requests and the status during an update, and what refuses one before it begins."""

from __future__ import annotations

from typing import Any

import pytest

from northstar import core
from northstar.api import error
from northstar.core import events
from northstar.core.update_values import Phase, Record, Update, UpdateStep
from northstar.manifest import DataPolicy, Manifest
from northstar.model import Container, Name, Version
from tests.unit.core.device import REPOSITORY, SECOND, Behaviour, Device, Disk
from tests.unit.core.worlds import manifest

OLD, NEW, OTHER = (Container.parse(f"app:1.{minor}.0") for minor in (0, 1, 2))
APP = Name("app")


def device(*stored: Container, **options: Any) -> Device:
    """Return a device that has booted with these versions; the first is started."""
    manifests = {c: app(c, **options) for c in (OLD, NEW, OTHER)}
    made = Device(Disk(set(stored)), manifests, dict.fromkeys(manifests, Behaviour()))
    made.boot()
    made.request(events.StartRequested(stored[0]))
    made.pump()
    return made


def app(container: Container, **options: Any) -> Manifest:
    return manifest(container, service={"update": {"window": "60s"}}, **options)


def begin(device: Device, made: Manifest | None = None, problem: str | None = None) -> str | None:
    """Begin the update to the new version; return the refusal."""
    refused = device.give(events.UpdateVerified(REPOSITORY, made or app(NEW), 100, problem))
    return None if refused is None else str(refused)


def reason(device: Device, container: Container) -> str:
    return core.status_of(device.state, container, device.now).reason


def test_the_status_says_what_happens() -> None:
    on_trial = device(OLD)
    assert begin(on_trial) is None
    on_trial.pump()
    assert reason(on_trial, OLD) == f"being replaced by {NEW}"
    assert reason(on_trial, NEW) == "on trial for 60s"
    on_trial.run()
    assert reason(on_trial, NEW) == ""
    assert OLD not in on_trial.state.containers


@pytest.mark.parametrize("phase", Phase)
def test_the_reason_of_each_phase(phase: Phase) -> None:
    here = device(OLD, NEW)
    record = Record(REPOSITORY, OLD, NEW, DataPolicy.KEEP, phase)
    update = Update(record, (UpdateStep.RECORD,))
    entries = here.state.containers
    status = core.status_of_entry
    old = status(entries[OLD], here.now, update).reason
    new = status(entries[NEW], here.now, update).reason
    back = phase is Phase.ROLLBACK
    assert old == ("" if back else f"being replaced by {NEW}")
    assert new == ("rolled back" if back else f"replaces {OLD}")
    assert status(entries[NEW], here.now).reason == ""


def test_the_data_is_not_wiped_meanwhile() -> None:
    here = device(OLD, OTHER)
    # A third version is older than none of both: this one is only stored.
    assert begin(here) is None
    here.pump()
    here.give(events.StopRequested(NEW))
    wipe = here.give(events.UninstallRequested(OTHER, wipe=True))
    assert wipe is not None


def test_no_update_during_a_wipe() -> None:
    here = device(OLD, OTHER)
    here.state = core.State(
        **{f: getattr(here.state, f) for f in here.state.__struct_fields__ if f != "wiping"},
        wiping={OTHER: True},
    )
    assert begin(here) == "the data of app is being wiped"


def test_a_version_without_its_resource() -> None:
    mount = {"type": "resource", "name": "lib", "version": "1", "dir": "/"}
    refused = begin(device(OLD), manifest(NEW, mounts={"/x": mount}))
    assert refused is not None
    assert "lib" in refused


def test_the_problem_of_the_host_comes_last() -> None:
    assert begin(device(OLD), problem="no room") == "no room"
    assert begin(device(OLD), app(OLD), "no room") == f"{OLD} is not newer than {OLD}"


@pytest.mark.parametrize("recorded", [False, True])
def test_a_version_below_the_floor_that_an_update_removes(recorded: bool) -> None:
    state = core.State(
        repositories={REPOSITORY: core.Repository(anti_downgrade=True)},
        floors={APP: Version(1, 1, 0)},
    )
    event = events.PackageLoaded(REPOSITORY, app(OLD), 100, recorded)
    result = core.step(state, event, SECOND)
    if recorded:
        assert isinstance(result, core.Changed)
    else:
        assert isinstance(result, core.Refused)
        assert isinstance(result.error, error.Unexpected)
