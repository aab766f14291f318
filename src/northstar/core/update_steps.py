"""The steps of an update: how each begins, and by what its result is recognised.

A step that is not in `OBSERVE` ends by an event that reports its result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from northstar.api.status import ContainerState, Wanted
from northstar.core import stops
from northstar.core.actions import (
    CopyData,
    DiscardData,
    RequestStart,
    RequestUninstall,
    RestoreData,
    SetUpdateTimer,
    StorePackage,
    WriteRecord,
)
from northstar.core.transitions import enter, mount
from northstar.core.update_values import Phase, Update, UpdateStep
from northstar.core.values import PENDING, Cause, Draft, Entry, Image
from northstar.manifest import Manifest, RestartPolicy
from northstar.manifest import Update as Options
from northstar.model import Container, Exited

_S = UpdateStep
_DEFAULT: Final = Options()


def options(manifest: Manifest) -> Options:
    """Return how a version is tried."""
    service = manifest.service
    return _DEFAULT if service is None or service.update is None else service.update


def put(draft: Draft, update: Update) -> None:
    """Replace an update."""
    draft.set(updates={**draft.state.updates, update.record.new.name: update})


def _begin_record(draft: Draft, update: Update) -> None:
    record = update.record
    floor = record.new.version if record.phase is Phase.COMMIT else None
    draft.act(WriteRecord(record.new.name, record, floor))


def _begin_store(draft: Draft, update: Update) -> None:
    draft.act(StorePackage(update.record.new))


def _begin_mount(draft: Draft, update: Update) -> None:
    mount(draft, (update.record.new,))


def _begin_stop_old(draft: Draft, update: Update) -> None:
    _stop(draft, update.record.old, f"replaced by {update.record.new}")


def _begin_stop_new(draft: Draft, update: Update) -> None:
    _stop(draft, update.record.new, "rolled back")


def _stop(draft: Draft, container: Container, reason: str) -> None:
    entry = draft.state.containers.get(container)
    if entry is None:
        return
    if entry.state in PENDING:
        enter(draft, container, ContainerState.INSTALLED, reason, wanted=Wanted.DOWN)
    elif entry.has_process:
        stops.begin_stop(draft, container, reason, wanted=Wanted.DOWN)


def _begin_snapshot(draft: Draft, update: Update) -> None:
    draft.act(CopyData(update.record.new.name))


def _begin_try(draft: Draft, update: Update) -> None:
    _request_start(draft, update, update.record.new, Cause.UPDATE)


def _begin_start_old(draft: Draft, update: Update) -> None:
    _request_start(draft, update, update.record.old, Cause.ROLLBACK)


def _request_start(draft: Draft, update: Update, container: Container, cause: Cause) -> None:
    entry = draft.state.containers.get(container)
    if entry is not None:
        put(draft, replace(update, runs=entry.history.runs))
        draft.act(RequestStart(container, cause))


def _begin_remove_old(draft: Draft, update: Update) -> None:
    _remove(draft, update.record.old)


def _begin_remove_new(draft: Draft, update: Update) -> None:
    _remove(draft, update.record.new)


def _remove(draft: Draft, container: Container) -> None:
    if container in draft.state.containers:
        draft.act(RequestUninstall(container))


def _begin_restore(draft: Draft, update: Update) -> None:
    draft.act(RestoreData(update.record.new.name))


def _begin_discard(draft: Draft, update: Update) -> None:
    draft.act(DiscardData(update.record.new.name))


def _begin_forget(draft: Draft, update: Update) -> None:
    draft.act(WriteRecord(update.record.new.name, None))


BEGIN: Final[dict[UpdateStep, Callable[[Draft, Update], None]]] = {
    _S.RECORD: _begin_record,
    _S.STORE: _begin_store,
    _S.MOUNT: _begin_mount,
    _S.STOP_OLD: _begin_stop_old,
    _S.SNAPSHOT: _begin_snapshot,
    _S.TRY: _begin_try,
    _S.REMOVE_OLD: _begin_remove_old,
    _S.STOP_NEW: _begin_stop_new,
    _S.RESTORE: _begin_restore,
    _S.REMOVE_NEW: _begin_remove_new,
    _S.DISCARD: _begin_discard,
    _S.START_OLD: _begin_start_old,
    _S.FORGET: _begin_forget,
}


def _observe_store(draft: Draft, update: Update) -> str | None:
    return "" if update.record.new in draft.state.containers else None


def _observe_mount(draft: Draft, update: Update) -> str | None:
    entry = draft.state.containers.get(update.record.new)
    if entry is None:
        return "its package was removed"
    return "" if entry.image is Image.MOUNTED else None


def _observe_stop_old(draft: Draft, update: Update) -> str | None:
    return _observe_stop(draft, update.record.old, f"replaced by {update.record.new}")


def _observe_stop_new(draft: Draft, update: Update) -> str | None:
    return _observe_stop(draft, update.record.new, "rolled back")


def _observe_stop(draft: Draft, container: Container, reason: str) -> str | None:
    entry = draft.state.containers.get(container)
    if entry is None or (entry.run is None and entry.state not in PENDING):
        return ""
    if entry.wanted is Wanted.UP:
        # It was being started when the step began.
        _stop(draft, container, reason)
    return None


def _observe_try(draft: Draft, update: Update) -> str | None:
    """Return an empty text when the trial is passed, and the reason when it has failed."""
    new = update.record.new
    entry = draft.state.containers.get(new)
    if entry is None:
        return "its package was removed"
    if entry.history.runs == update.runs:
        return None
    match entry.state:
        case ContainerState.WAITING | ContainerState.STARTING | ContainerState.RUNNING:
            return None
        case ContainerState.READY if entry.run is not None and entry.run.status is None:
            if update.due is None:
                due = draft.now + options(entry.manifest).window
                put(draft, replace(update, due=due))
                draft.act(SetUpdateTimer(new.name, due))
                return None
            return "" if draft.now >= update.due else None
        case ContainerState.INSTALLED | ContainerState.FAILED if _has_succeeded(entry):
            return ""
        case ContainerState.UNHEALTHY:
            return f"unhealthy: {entry.reason}" if entry.reason else "unhealthy"
        case ContainerState.INSTALLED | ContainerState.FAILED | ContainerState.BACKOFF:
            return entry.reason or "it was stopped"
    # It stops, or is being cleaned up: its end tells why.
    return None


def _has_succeeded(entry: Entry) -> bool:
    """Return whether a container has ended by itself, with code 0, and is not to run always."""
    restart = entry.service.restart
    always = restart is not None and restart.policy is RestartPolicy.ALWAYS
    return entry.history.last == Exited(0) and entry.reason == "exit 0" and not always


def _observe_removed_old(draft: Draft, update: Update) -> str | None:
    return "" if update.record.old not in draft.state.containers else None


def _observe_removed_new(draft: Draft, update: Update) -> str | None:
    return "" if update.record.new not in draft.state.containers else None


def _observe_start_old(draft: Draft, update: Update) -> str | None:
    entry = draft.state.containers.get(update.record.old)
    if entry is None:
        return "its package is gone"
    if entry.state is ContainerState.WAITING:
        return ""
    if entry.history.runs == update.runs or entry.state is ContainerState.STARTING:
        return None
    if entry.has_process and entry.run is not None and entry.run.status is None:
        return ""
    return entry.reason or "it has ended"


OBSERVE: Final[dict[UpdateStep, Callable[[Draft, Update], str | None]]] = {
    _S.STORE: _observe_store,
    _S.MOUNT: _observe_mount,
    _S.STOP_OLD: _observe_stop_old,
    _S.STOP_NEW: _observe_stop_new,
    _S.TRY: _observe_try,
    _S.REMOVE_OLD: _observe_removed_old,
    _S.REMOVE_NEW: _observe_removed_new,
    _S.START_OLD: _observe_start_old,
}
