"""State changes that several events share. `enter` is the only one of state and wanted."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from northstar.api import error
from northstar.api.status import ContainerState, Wanted
from northstar.core.actions import (
    Answer,
    Complete,
    EndProbe,
    Log,
    Mount,
    PublishState,
    SetDeadline,
    Umount,
)
from northstar.core.requests import SHUTTING_DOWN
from northstar.core.values import (
    PENDING,
    Deferred,
    Draft,
    Entry,
    History,
    Image,
    Operation,
    without,
)
from northstar.model import Container


def enter(
    draft: Draft,
    container: Container,
    state: ContainerState,
    reason: str = "",
    *,
    wanted: Wanted | None = None,
    deadline: int | None = None,
    **changes: Any,
) -> None:
    """Put a container into a state, and report it if this or what is wanted changes.

    A probe in progress is ended, and none will begin unless `changes` has `next_probe`.

    Args:
        draft: the step.
        container: the container.
        state: its state from now on; it may be in it already.
        reason: why it enters the state. If it is in it already, its reason stays.
        wanted: what is wanted from now on; None for no change.
        deadline: when the state ends by itself, in ns of CLOCK_MONOTONIC.
        changes: other fields of the entry.
    """
    before = draft.state.containers[container]
    changes.update(state=state, wanted=wanted or before.wanted, deadline=deadline)
    changes.setdefault("next_probe", None)
    if before.probing:
        changes["probing"] = False
        draft.act(EndProbe(container))
    if state is not before.state:
        changes.update(since=draft.now, reason=reason, due=False, reserved=False)
        if before.state is ContainerState.READY and before.run is not None:
            # Not after the clean-up: `runs.process_exited` has decided it at the exit.
            changes["history"] = after_ready(before, draft.now)
    draft.change(container, **changes)
    entry = draft.state.containers[container]
    if entry.timer != before.timer:
        draft.act(SetDeadline(container, entry.timer))
    if state is before.state and entry.wanted is before.wanted:
        return
    if state is not before.state:
        draft.moved = True
        _update_pending(draft, before, entry)
    _report(draft, before, entry)
    if entry.wanted is Wanted.DOWN and Deferred.RESTART in entry.deferred:
        # A state that it was in already has the reason of the restart.
        why = reason if state is not before.state and reason else "it was stopped meanwhile"
        why = SHUTTING_DOWN if draft.state.stopping else why
        refusal = error.Unexpected(f"{container} is not started again: {why}")
        answer(draft, container, Deferred.RESTART, refusal)


def after_ready(entry: Entry, now: int) -> History:
    """Return the history of a container that was ready until `now`, in ns of CLOCK_MONOTONIC."""
    restart = entry.service.restart
    if restart is None or now - entry.since < restart.reset_after:
        return entry.history
    return replace(entry.history, in_a_row=0)


def _update_pending(draft: Draft, before: Entry, entry: Entry) -> None:
    name = entry.container.name
    if entry.state in PENDING:
        draft.set(pending={**draft.state.pending, name: entry.container})
    elif before.state in PENDING:
        draft.set(pending=without(draft.state.pending, name))


def _report(draft: Draft, before: Entry, entry: Entry) -> None:
    if entry.manifest.service is not None:
        draft.act(Log(logging.INFO, _line(before, entry, draft.now)))
    draft.act(PublishState(entry))


def _line(before: Entry, entry: Entry, now: int) -> str:
    line = f"State of {entry.container}: {entry.state.value}"
    if entry.reason:
        line += f" ({entry.reason})"
    if entry.state is ContainerState.BACKOFF and entry.deadline is not None:
        line += f", next start in {(entry.deadline - now) / 1e9:.1f}s"
    if entry.state is before.state:
        line += f", wanted {entry.wanted.value}"
    return line


def extend(draft: Draft, container: Container, deadline: int) -> None:
    """Change the deadline of a container in its state.

    A later one is not set now, but by `supervision.deadline_reached` at the earlier one: an app
    that reports each second that it is alive must not cost a new timer each second.
    """
    _reset_timer(draft, container, deadline=deadline)


def plan_probe(draft: Draft, container: Container, when: int) -> None:
    """Set the time of the next probe of a container in its state, in ns of CLOCK_MONOTONIC."""
    _reset_timer(draft, container, next_probe=when)


def _reset_timer(draft: Draft, container: Container, **changes: int) -> None:
    before = draft.state.containers[container].timer
    draft.change(container, **changes)
    timer = draft.state.containers[container].timer
    assert timer is not None
    if before is None or timer < before:
        draft.act(SetDeadline(container, timer))


def complete(
    draft: Draft, container: Container, operation: Operation, failure: error.Error | None = None
) -> None:
    """Answer the current request on a container, if it is of the given kind."""
    entry = draft.state.containers[container]
    if entry.operation is operation:
        draft.change(container, operation=None)
        draft.act(Complete(container, failure))


def answer(
    draft: Draft,
    container: Container,
    request: Deferred,
    failure: error.Error | None = None,
    *,
    killed: bool = False,
) -> None:
    """Answer the deferred requests of a kind on a container, if there are any."""
    entry = draft.state.containers[container]
    if request in entry.deferred:
        draft.change(container, deferred=entry.deferred - {request})
        draft.act(Answer(container, request, failure, killed))


def mount(draft: Draft, containers: Iterable[Container]) -> None:
    """Mount those images that are neither mounted nor in transition."""
    for container in containers:
        if draft.state.containers[container].image is Image.UNMOUNTED:
            draft.change(container, image=Image.MOUNTING)
            draft.act(Mount(container))


def umount(draft: Draft, container: Container) -> None:
    """Unmount a mounted image that is not in use."""
    draft.change(container, image=Image.UNMOUNTING)
    draft.act(Umount(container))
