"""The state of an update: its phase, which is stored, and the steps that are left in it."""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from northstar.manifest import DataPolicy
from northstar.model import Container


class Phase(enum.Enum):
    """How far an update is: what a boot must do with it. The value is stored."""

    STAGED = "staged"
    """The new version may be stored, and is not started: a boot removes it."""
    TRIAL = "trial"
    """The new version is tried: a boot begins the trial again, `tries` times at most."""
    COMMIT = "commit"
    """The trial was passed: a boot removes the old version."""
    ROLLBACK = "rollback"
    """The trial has failed: a boot restores the data, and removes the new version."""


class UpdateStep(enum.Enum):
    """A step of a phase. Each can be done again: a power cut may have come after it."""

    RECORD = "record"
    """Write the phase to the state file."""
    STORE = "store"
    """Rename the new package into the repository."""
    MOUNT = "mount"
    """Mount the new image, to verify it."""
    STOP_OLD = "stop_old"
    SNAPSHOT = "snapshot"
    """Copy the persistent data."""
    TRY = "try"
    """Start the new version; it must become ready, and stay so for the window."""
    REMOVE_OLD = "remove_old"
    STOP_NEW = "stop_new"
    RESTORE = "restore"
    """Put the copy of the persistent data in its place."""
    REMOVE_NEW = "remove_new"
    DISCARD = "discard"
    """Remove the copy of the persistent data."""
    START_OLD = "start_old"
    FORGET = "forget"
    """Remove the phase from the state file."""


class Record(msgspec.Struct, frozen=True):
    """What the state file contains of an update.

    Attributes:
        repository: the identifier of the repository of both versions.
        old: the version that is replaced.
        new: the version that replaces it.
        data: what happens with the persistent data.
        phase: the phase.
        tries: in `TRIAL`: the boots, or the first start, that began a trial so far.
        reason: in `ROLLBACK`: why the trial has failed.
    """

    repository: str
    old: Container
    new: Container
    data: DataPolicy
    phase: Phase
    tries: int = 0
    reason: str = ""


class Update(msgspec.Struct, frozen=True):
    """An update in progress.

    Attributes:
        record: what is stored of it, or will be by the step `RECORD`.
        steps: the steps that are left, the present one first; never empty.
        begun: the present step was begun.
        result: of the present step: None if it is not known yet, empty after a success, else the
            reason of the failure.
        runs: in `TRY` and `START_OLD`: number of the run before the start.
        due: in `TRY`: the end of the window. Else the time at which the present step, which has
            failed, is done again. In ns of CLOCK_MONOTONIC; None without.
        failure: what its client is answered at the end; None for a success.
        answered: its client was answered.
    """

    record: Record
    steps: tuple[UpdateStep, ...]
    begun: bool = False
    result: str | None = None
    runs: int = 0
    due: int | None = None
    failure: str | None = None
    answered: bool = False

    @property
    def step(self) -> UpdateStep:
        """The present step."""
        return self.steps[0]


def active(update: Update) -> Container | None:
    """Return the version that may be started now by a client, the boot or its restart policy.

    None if there is none: the steps `TRY` and `START_OLD` start a version themselves.
    """
    record, steps = update.record, update.steps
    if record.phase is Phase.COMMIT:
        return record.new
    if record.phase is Phase.TRIAL:
        return None
    if record.phase is Phase.STAGED and UpdateStep.FORGET not in steps:
        return record.old if update.step in OLD_RUNS else None
    return None if UpdateStep.START_OLD in steps else record.old


OLD_RUNS: Final = frozenset((UpdateStep.RECORD, UpdateStep.STORE, UpdateStep.MOUNT))
"""Steps of `STAGED` before the old version is stopped."""
