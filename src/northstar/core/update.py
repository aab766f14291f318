"""Updates: a new version is tried, and is kept or removed. See `update_values` for the phases.

An update is a list of steps. `after` begins the present step, and looks after each event whether
it has ended. Most results are observed: a step that stops a container has ended when the container
has no process, whatever ended it. So nothing is decided by the order in which events arrive.

A shutdown counts as a power cut: no step begins any more, and the next boot goes on by the phase in
the state file.
"""

from __future__ import annotations

import logging
from typing import Final

from msgspec.structs import replace

from northstar.api import RefusedError, error, notification
from northstar.api.notification import UpdatePhase
from northstar.api.status import Wanted
from northstar.core import events, packages
from northstar.core.actions import (
    CompleteUpdate,
    Log,
    Publish,
    SetUpdateTimer,
    WriteRecord,
)
from northstar.core.choice import choose_resources
from northstar.core.requests import SHUTTING_DOWN, below_floor, refuse_if_stopping
from northstar.core.update_steps import BEGIN, OBSERVE, options, put
from northstar.core.update_values import Phase, Record, Update, UpdateStep
from northstar.core.values import Cause, Draft, Entry, State, without
from northstar.manifest import DataPolicy, Manifest
from northstar.model import Container, Name

_S = UpdateStep

RETRY: Final = 10 * 10**9
"""Time in ns after which a failed step that must not be left out is done again."""

# ---- The request


def requested(draft: Draft, event: events.UpdateRequested) -> None:
    """Refuse an update if its repository is unknown or full."""
    refuse_if_stopping(draft.state)
    packages.refuse_if_full(draft.state, event.repository, event.size)


def verified(draft: Draft, event: events.UpdateVerified) -> None:
    """Begin an update with a package that is received and verified, if nothing is against it.

    Raises:
        RefusedError: says what is against it; nothing was touched.
    """
    refuse_if_stopping(draft.state)
    manifest, new = event.manifest, event.manifest.container
    problem = _problem(draft.state, event)
    if problem is not None:
        raise RefusedError(error.Unexpected(problem))
    old = _wanted(draft.state, new.name)
    assert old is not None
    after = () if manifest.service is None else manifest.service.after
    packages.reserve(draft, event.repository, new, event.size, after)
    record = Record(event.repository, old.container, new, options(manifest).data, Phase.STAGED)
    snapshot = _if_snapshot(record, _S.SNAPSHOT)
    put(draft, Update(record, (_S.RECORD, _S.STORE, _S.MOUNT, _S.STOP_OLD, *snapshot)))
    draft.act(Log(logging.INFO, f"Update of {old.container} to {new}: received and verified"))


def _problem(state: State, event: events.UpdateVerified) -> str | None:
    """Return why an update cannot begin; None if it can."""
    manifest, new = event.manifest, event.manifest.container
    name = new.name
    if not manifest.is_app:
        return f"{new} is a resource, which has no health: install it, apps use it at their start"
    if name in state.updates:
        return f"{name} is being updated already, to {state.updates[name].record.new}"
    old = _wanted(state, name)
    if old is None:
        return (
            f"{name} is not wanted up, so a new version cannot be tried: start it, or install and "
            "uninstall"
        )
    if old.repository != event.repository:
        return f"{old.container} is in the repository {old.repository}, not in {event.repository}"
    if new.version <= old.container.version:
        return f"{new} is not newer than {old.container}"
    if state.is_wiping(name):
        return f"the data of {name} is being wiped"
    return below_floor(state, new) or _unstartable(state, manifest) or event.problem


def _unstartable(state: State, manifest: Manifest) -> str | None:
    """Return why a start of this app would be refused."""
    try:
        choose_resources(state, manifest)
    except RefusedError as refused:
        return str(refused.error)
    return None


def _wanted(state: State, name: Name) -> Entry | None:
    """Return the version of a name that is wanted up."""
    container = state.running.get(name) or state.pending.get(name)
    entry = None if container is None else state.containers[container]
    return entry if entry is not None and entry.wanted is Wanted.UP else None


# ---- The boot


def loaded(draft: Draft, event: events.RecordsLoaded) -> None:
    """Take over what the state file contains; the packages are loaded already.

    Steps are planned by the phase; starts come with those of the boot.
    """
    draft.set(floors=event.floors, booting=True)
    for name, record in event.records.items():
        present = [c for c in (record.old, record.new) if c in draft.state.containers]
        if not present:
            text = f"The update of {record.old} to {record.new} is dropped: both packages are gone"
            draft.act(Log(logging.WARNING, text), WriteRecord(name, None))
            continue
        put(draft, _resumed(draft, record))


def _resumed(draft: Draft, record: Record) -> Update:
    state, old, new = draft.state, record.old, record.new
    cleaned = (_S.REMOVE_NEW, _S.DISCARD, _S.FORGET)
    match record.phase:
        case Phase.STAGED if old in state.containers:
            _log(draft, record, "was interrupted before the trial, and is undone")
            return Update(record, cleaned, answered=True)
        case Phase.COMMIT if new in state.containers:
            _log(draft, record, "was committed, and is completed")
            return Update(record, (_S.REMOVE_OLD, _S.DISCARD, _S.FORGET), answered=True)
        case Phase.TRIAL if old not in state.containers:
            _log(draft, record, f"cannot be rolled back any more: {old} is gone")
            return Update(_next(record, Phase.COMMIT), (_S.RECORD, _S.FORGET), answered=True)
        case Phase.TRIAL if new in state.containers:
            tries = options(state.containers[new].manifest).tries
            if record.tries < tries:
                again = replace(record, tries=record.tries + 1)
                _log(draft, record, f"was interrupted, and is tried again ({again.tries}/{tries})")
                return Update(again, (_S.RECORD, _S.TRY), answered=True)
            reason = f"it was interrupted {record.tries} times"
            return _rolling_back(draft, record, reason, answered=True)
        case Phase.TRIAL:
            return _rolling_back(draft, record, f"{new} is gone", answered=True)
        case Phase.STAGED | Phase.ROLLBACK if old not in state.containers:
            _log(draft, record, f"ends: {old} is gone")
            return Update(record, (_S.DISCARD, _S.FORGET), answered=True)
        case Phase.COMMIT:
            _log(draft, record, f"was committed, but {new} is gone")
            return Update(record, (_S.DISCARD, _S.FORGET), answered=True)
    _log(draft, record, "had failed, and is rolled back")
    return Update(record, _rollback_steps(record)[1:], answered=True)


def booted(draft: Draft, event: events.BootOrdered) -> None:  # noqa: ARG001
    """The starts of the boot were requested, those of updates too."""
    draft.set(booting=False)


def unsettled(state: State) -> bool:
    """Return whether an update must do something before the apps of the boot can start."""
    return state.booting and any(
        update.step not in (_S.TRY, _S.START_OLD) and update.due is None
        for update in state.updates.values()
        if update.record.phase is not Phase.COMMIT
    )


def starting(state: State) -> list[Container]:
    """Return the versions that updates start now, with `autostart` or without."""
    found = []
    for update in state.updates.values():
        version = {_S.TRY: update.record.new, _S.START_OLD: update.record.old}.get(update.step)
        if version is not None and version in state.containers:
            found.append(version)
    return found


def boot_cause(state: State, container: Container) -> Cause:
    """Return what requests the start of a container at boot."""
    update = state.updates.get(container.name)
    if update is not None and update.step is _S.TRY:
        return Cause.UPDATE
    if update is not None and update.step is _S.START_OLD:
        return Cause.ROLLBACK
    return Cause.BOOT


# ---- Results


def record_written(draft: Draft, event: events.RecordWritten) -> None:
    """The state file contains the record, or has no record any more."""
    _result(draft, event.name, {_S.RECORD, _S.FORGET}, "")


def record_failed(draft: Draft, event: events.RecordFailed) -> None:
    """The state file could not be written."""
    _result(draft, event.name, {_S.RECORD, _S.FORGET}, event.reason)


def data_step_ended(draft: Draft, event: events.DataStepEnded) -> None:
    """Persistent data was copied, restored or the copy removed; or that has failed."""
    _result(draft, event.name, {_S.SNAPSHOT, _S.RESTORE, _S.DISCARD}, event.reason)


def before(draft: Draft, event: events.Event) -> None:
    """Note a start that a step has requested, before it is processed."""
    if isinstance(event, events.StartRequested) and event.cause in (Cause.UPDATE, Cause.ROLLBACK):
        _start_begun(draft, event.container)


def after(draft: Draft, event: events.Event) -> None:
    """Go on with the updates after any event."""
    _take_result(draft, event)
    _advance_all(draft)


def _take_result(draft: Draft, event: events.Event) -> None:
    """Take the results of steps from events that have other handlers too."""
    match event:
        case events.MountFailed(container, reason):
            _result_on(draft, container, {_S.MOUNT}, reason)
        case events.StoreFailed(_, container, reason):
            _result_on(draft, container, {_S.STORE}, reason)
        case events.RemovalFailed(container, reason) | events.UmountFailed(container, reason):
            _result_on(draft, container, {_S.REMOVE_OLD, _S.REMOVE_NEW}, reason)
        case events.ShutdownBegan():
            _began_shutdown(draft)


def time_reached(draft: Draft, event: events.UpdateTimeReached) -> None:
    """The window has ended, or a failed step is done again. `after` finds out which."""
    update = draft.state.updates.get(event.name)
    if update is not None and update.due is not None and draft.now < update.due:
        draft.act(SetUpdateTimer(event.name, update.due))


def _start_begun(draft: Draft, container: Container) -> None:
    """The start of a step `TRY` or `START_OLD` was requested."""
    update = draft.state.updates.get(container.name)
    if update is not None and update.step in (_S.TRY, _S.START_OLD) and not update.begun:
        runs = draft.state.containers[container].history.runs
        put(draft, replace(update, begun=True, runs=runs))


def _result_on(draft: Draft, container: Container, steps: set[UpdateStep], reason: str) -> None:
    update = draft.state.updates.get(container.name)
    if update is not None:
        record = update.record
        if container == (record.old if update.step is _S.REMOVE_OLD else record.new):
            _result(draft, container.name, steps, reason)


def _result(draft: Draft, name: Name, steps: set[UpdateStep], reason: str) -> None:
    update = draft.state.updates.get(name)
    if update is not None and update.begun and update.step in steps:
        put(draft, replace(update, result=reason))


# ---- The steps


def _began_shutdown(draft: Draft) -> None:
    """Answer the clients: the next boot goes on."""
    for update in draft.state.updates.values():
        what = "is undone" if update.record.phase is Phase.STAGED else "goes on"
        text = f"{SHUTTING_DOWN}: the update to {update.record.new} {what} at its next start"
        _answer(draft, update, text)


def _advance_all(draft: Draft) -> None:
    """Begin and end steps, as far as possible now."""
    if draft.state.stopping:
        return
    for name in tuple(draft.state.updates):
        while _advance(draft, name):
            pass


def _advance(draft: Draft, name: Name) -> bool:
    """Do the next thing for an update; return whether there may be more to do."""
    update = draft.state.updates.get(name)
    if update is None:
        return False
    if not update.begun:
        if update.due is not None and draft.now < update.due:
            return False
        if draft.state.booting and update.step in (_S.TRY, _S.START_OLD):
            return False
        put(draft, replace(update, begun=True, result=None, due=None))
        BEGIN[update.step](draft, draft.state.updates[name])
        return True
    result = update.result
    if result is None:
        observe = OBSERVE.get(update.step)
        result = None if observe is None else observe(draft, update)
    if result is None:
        return False
    # Observing may have changed it: the window.
    update = draft.state.updates[name]
    if result:
        _failed(draft, update, result)
    else:
        _succeeded(draft, update)
    return True


# ---- What follows a step


def _succeeded(draft: Draft, update: Update) -> None:
    record, name = update.record, update.record.new.name
    if update.step is _S.RECORD:
        _publish(draft, record, record.phase.value, record.reason)
        if record.phase is Phase.COMMIT:
            draft.set(floors={**draft.state.floors, name: record.new.version})
            _log(draft, record, "is committed")
    if update.step is _S.FORGET:
        _end(draft, update)
        return
    rest = update.steps[1:]
    if rest:
        put(draft, replace(update, steps=rest, begun=False, result=None, due=None))
    elif record.phase is Phase.STAGED:
        trial = replace(_next(record, Phase.TRIAL), tries=1)
        put(draft, replace(update, record=trial, **_fresh(_S.RECORD, _S.TRY)))
    else:
        assert record.phase is Phase.TRIAL, f"{record.phase} has no last step but FORGET"
        steps = (_S.RECORD, _S.REMOVE_OLD, *_if_snapshot(record, _S.DISCARD), _S.FORGET)
        committed = _next(record, Phase.COMMIT)
        put(draft, replace(update, record=committed, **_fresh(*steps)))


def _failed(draft: Draft, update: Update, reason: str) -> None:
    record, step = update.record, update.step
    what = f"{step.value.replace('_', ' ')}: {reason}"
    if record.phase is Phase.STAGED and _S.FORGET not in update.steps:
        _undo(draft, update, reason)
    elif step is _S.RECORD and record.phase is Phase.TRIAL and record.tries <= 1:
        _undo(draft, replace(update, record=_next(record, Phase.STAGED)), reason)
    elif step is _S.TRY:
        put(draft, _rolling_back(draft, record, reason, answered=update.answered))
    elif step in (_S.REMOVE_OLD, _S.DISCARD):
        # The boot would start the new version anyway, and remove the copy.
        draft.act(Log(logging.WARNING, f"Update of {record.old} to {record.new}: {what}"))
        put(draft, replace(update, **_fresh(*update.steps[1:])))
    elif step is _S.START_OLD:
        failure = f"{update.failure or ''}; {record.old} does not start: {reason}"
        put(draft, replace(update, failure=failure, **_fresh(*update.steps[1:])))
    else:
        _retry(draft, update, what)


def _retry(draft: Draft, update: Update, what: str) -> None:
    """Do a step again later that must not be left out: a boot would go wrong without it."""
    record, steps = update.record, update.steps
    draft.act(Log(logging.ERROR, f"Update of {record.old} to {record.new}: {what}"))
    text = f"{update.failure}; {what}" if update.failure else what
    if update.step is _S.REMOVE_NEW and _S.START_OLD in steps:
        # The old version need not wait for it.
        steps = (_S.START_OLD, _S.REMOVE_NEW, *(s for s in steps[1:] if s is not _S.START_OLD))
        put(draft, replace(update, failure=text, **_fresh(*steps)))
        return
    due = draft.now + RETRY
    put(draft, replace(update, begun=False, result=None, due=due))
    draft.act(SetUpdateTimer(record.new.name, due))
    _answer(
        draft, draft.state.updates[record.new.name], f"{text}; it is done again until it succeeds"
    )


def _undo(draft: Draft, update: Update, reason: str) -> None:
    """Remove what was made before the trial; start the old version if it was stopped."""
    record = update.record
    if record.new not in draft.state.containers:
        packages.release_reserved(draft, record.repository, record.new)
    steps = [_S.REMOVE_NEW, *_if_snapshot(record, _S.DISCARD), _S.FORGET]
    failure = f"{record.new} is not installed: {reason}"
    if update.record.phase is Phase.STAGED and not _old_is_up(draft, record):
        steps.insert(0, _S.START_OLD)
        failure = f"rolled back to {record.old}: {record.new}: {reason}"
    _log(draft, record, f"has failed: {reason}", logging.WARNING)
    put(draft, replace(update, record=record, failure=failure, **_fresh(*steps)))


def _old_is_up(draft: Draft, record: Record) -> bool:
    entry = draft.state.containers.get(record.old)
    return entry is not None and entry.wanted is Wanted.UP


def _rolling_back(draft: Draft, record: Record, reason: str, *, answered: bool) -> Update:
    _log(draft, record, f"has failed: {reason}", logging.WARNING)
    back = replace(_next(record, Phase.ROLLBACK), reason=reason)
    failure = f"rolled back to {record.old}: {record.new}: {reason}"
    return Update(back, _rollback_steps(back), failure=failure, answered=answered)


def _if_snapshot(record: Record, step: UpdateStep) -> tuple[UpdateStep, ...]:
    """Return a step that only an update with a snapshot of the data has."""
    return (step,) if record.data is DataPolicy.SNAPSHOT else ()


def _rollback_steps(record: Record) -> tuple[UpdateStep, ...]:
    restore = _if_snapshot(record, _S.RESTORE)
    return (_S.RECORD, _S.STOP_NEW, *restore, _S.REMOVE_NEW, _S.START_OLD, _S.FORGET)


def _end(draft: Draft, update: Update) -> None:
    record = update.record
    outcome = "committed" if record.phase is Phase.COMMIT else "rolled_back"
    if record.phase is Phase.STAGED:
        outcome = "refused"
    _publish(draft, record, outcome, record.reason or update.failure or "")
    _log(draft, record, f"has ended: {outcome.replace('_', ' ')}")
    _answer(draft, update, update.failure)
    draft.set(updates=without(draft.state.updates, record.new.name))


def _answer(draft: Draft, update: Update, failure: str | None) -> None:
    if update.answered:
        return
    reason = None if failure is None else error.Unexpected(failure)
    draft.act(CompleteUpdate(update.record.new, update.record.old, reason))
    put(draft, replace(update, answered=True))


def _publish(draft: Draft, record: Record, phase: str, reason: str) -> None:
    published = UpdatePhase(phase, record.old, reason)
    draft.act(Publish(notification.Update(record.new, published)))


def _next(record: Record, phase: Phase) -> Record:
    return replace(record, phase=phase, tries=0, reason="")


def _fresh(*steps: UpdateStep) -> dict[str, object]:
    return {"steps": steps, "begun": False, "result": None, "due": None, "runs": 0}


def _log(draft: Draft, record: Record, text: str, level: int = logging.INFO) -> None:
    draft.act(Log(level, f"The update of {record.old} to {record.new} {text}"))
