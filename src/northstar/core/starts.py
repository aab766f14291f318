"""Starts: from a request to the execution of the payload.

A container holds its resources from the start request to the end of its run: meanwhile they can be
neither unmounted nor uninstalled.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

from msgspec.structs import replace

from northstar.api import RefusedError, error, notification
from northstar.api.status import ContainerState, Wanted
from northstar.core import events, order, probes, runs
from northstar.core.actions import Complete, Launch, Log, Publish
from northstar.core.choice import choose_command, choose_resources
from northstar.core.requests import SHUTTING_DOWN, entry_of, refuse_if_replaced
from northstar.core.transitions import answer, complete, enter, mount
from northstar.core.values import (
    NO_CONTAINERS,
    Cause,
    Deferred,
    Draft,
    Entry,
    Image,
    Operation,
    Run,
    State,
    without,
)
from northstar.core.verdict import End, recent
from northstar.manifest import Autostart, Command, Resource
from northstar.model import Container, Name, cut

_BY_THE_RUNTIME: Final = frozenset((Cause.BOOT, Cause.AUTOMATIC, Cause.ROLLBACK))
"""Causes of starts whose failure no client receives."""

_NOT_DUE: Final = frozenset((Cause.BOOT, Cause.UPDATE, Cause.ROLLBACK))
"""Causes of starts that no wait and no back-off has requested."""

_BY_AN_UPDATE: Final = frozenset((Cause.UPDATE, Cause.ROLLBACK))


def refuse_if_running(state: State, entry: Entry) -> None:
    """Refuse a start while a version of the container starts or runs.

    Raises:
        RefusedError: names that version.
    """
    running = state.running.get(entry.container.name)
    if running is not None:
        raise RefusedError(error.StartContainerStarted(running))


def start_requested(draft: Draft, event: events.StartRequested) -> None:
    """Begin a start, or wait for containers of `after`."""
    if event.cause is Cause.CLIENT:
        _begin(draft, event)
        return
    container = event.container
    if event.cause not in _NOT_DUE and not _is_due(draft.state, container):
        # It was started, stopped or uninstalled meanwhile.
        draft.act(Complete(container))
        return
    try:
        refuse_if_running(draft.state, entry_of(draft.state, container))
        if event.cause not in _BY_AN_UPDATE:
            refuse_if_replaced(draft.state, container)
        _refuse_if_stopping(draft.state, container)
    except RefusedError as refused:
        # Not an attempt that the policy could repeat.
        _log_failure(draft, container, refused.error)
        entry = draft.state.containers.get(container)
        if entry is not None and entry.manifest.autostart is Autostart.CRITICAL:
            runs.fail_runtime(draft, refused.error)
        draft.act(Complete(container, refused.error))
        return
    _end_other_version(draft, container)
    if event.cause is not Cause.RESTART and _waits(draft, container):
        draft.act(Complete(container))
        return
    try:
        _begin(draft, event)
    except RefusedError as refused:
        _refused(draft, event, refused.error)


def _is_due(state: State, container: Container) -> bool:
    entry = state.containers.get(container)
    return entry is not None and entry.due


def _refuse_if_stopping(state: State, container: Container) -> None:
    if state.stopping:
        raise RefusedError(error.StartContainerFailed(container, SHUTTING_DOWN))


def _waits(draft: Draft, container: Container) -> bool:
    """Put a container that must wait for others into the state waiting."""
    entry = draft.state.containers[container]
    names = order.waits_for(draft.state, entry)
    if not names:
        return False
    reason = f"for {', '.join(names)}"
    enter(draft, container, ContainerState.WAITING, reason, wanted=Wanted.UP, due=False)
    return True


def _begin(draft: Draft, event: events.StartRequested) -> None:
    """Choose command and resources, hold the resources, and mount the missing images.

    Raises:
        RefusedError: nothing has changed.
    """
    container = event.container
    entry = entry_of(draft.state, container)
    refuse_if_running(draft.state, entry)
    if event.cause not in _BY_AN_UPDATE:
        refuse_if_replaced(draft.state, container)
    command = _command(entry, event)
    _refuse_if_stopping(draft.state, container)
    resources = choose_resources(draft.state, entry.manifest)
    if event.cause in _BY_THE_RUNTIME:
        order.log_warnings(draft, entry)
    _end_other_version(draft, container)
    _enter_starting(draft, event.cause, entry, Run(command, resources, event.cause))
    draft.set(running={**draft.state.running, container.name: container})
    _add_user(draft, container, resources.values())
    _continue_start(draft, container)


def _command(entry: Entry, event: events.StartRequested) -> Command:
    repeated = (Cause.AUTOMATIC, Cause.RESTART, Cause.ROLLBACK)
    if event.cause in repeated and entry.history.command is not None:
        return entry.history.command
    return choose_command(entry.manifest, event.init, event.arguments, event.environment)


def _end_other_version(draft: Draft, container: Container) -> None:
    """End the back-off or the wait of another version: at most one version of a name is wanted."""
    other = draft.state.pending.get(container.name)
    if other is not None and other != container:
        reason = f"{container} is started"
        enter(draft, other, ContainerState.INSTALLED, reason, wanted=Wanted.DOWN)


def _enter_starting(draft: Draft, cause: Cause, entry: Entry, run: Run | None) -> None:
    history = replace(entry.history, runs=entry.history.runs + 1, text=None)
    if run is not None:
        history = replace(history, command=run.command)
    if cause is not Cause.AUTOMATIC:
        history = replace(history, restarts=0, in_a_row=0)
    elif entry.history.runs:
        # Not the end of a wait at boot, before the first run.
        history = replace(
            history,
            restarts=history.restarts + 1,
            in_a_row=history.in_a_row + 1,
            recent=_with_now(entry, draft.now),
        )
    enter(
        draft,
        entry.container,
        ContainerState.STARTING,
        wanted=Wanted.UP,
        operation=Operation.START,
        run=run,
        history=history,
    )


def _with_now(entry: Entry, now: int) -> tuple[int, ...]:
    restart = entry.service.restart
    if restart is None or restart.limit is None:
        return ()
    return (*recent(entry, now), now)


def _refused(draft: Draft, event: events.StartRequested, failure: error.Error) -> None:
    """Treat the refusal of a start that the runtime requested as a start that has failed."""
    entry = draft.state.containers[event.container]
    _enter_starting(draft, event.cause, entry, None)
    _failed(draft, event.container, failure, event.cause)


def _add_user(draft: Draft, user: Container, resources: Collection[Container]) -> None:
    if not resources:
        return
    users = dict(draft.state.users)
    for resource in resources:
        users[resource] = users.get(resource, NO_CONTAINERS) | {user}
    draft.set(users=users)


def _continue_start(draft: Draft, container: Container) -> None:
    """Continue a start: mount missing images; launch or fail when no image is in transition."""
    entry = draft.state.containers[container]
    run = entry.run
    if entry.state is not ContainerState.STARTING or run is None or run.launched:
        return
    if run.failure is None:
        mount(draft, (container, *sorted(set(run.resources.values()))))
    states = {draft.state.containers[c].image for c in (container, *run.resources.values())}
    if not states.isdisjoint((Image.MOUNTING, Image.UNMOUNTING)):
        return
    if run.failure is not None:
        _fail_start(draft, container, run.failure)
    elif not draft.state.is_wiping(container.name):
        draft.change(container, run=replace(run, launched=True))
        draft.act(Launch(container, run.command, run.resources))


def _pending_starts(draft: Draft, image: Container) -> list[Container]:
    """Return the starts that need an image and are not launched."""
    needing = {image, *draft.state.users_of(image)}
    entries = (draft.state.containers[container] for container in sorted(needing))
    return [e.container for e in entries if e.run is not None and not e.run.launched]


def image_settled(draft: Draft, image: Container) -> None:
    """Continue the starts that waited for an image in transition."""
    for container in _pending_starts(draft, image):
        _continue_start(draft, container)


def image_failed(draft: Draft, image: Container, reason: str) -> None:
    """Record why an image could not be mounted, for each start that needs it."""
    for container in _pending_starts(draft, image):
        run = draft.state.containers[container].run
        if run is not None and run.failure is None:
            failure = error.StartContainerFailed(container, cut(reason))
            draft.change(container, run=replace(run, failure=failure))


def keep_installed(draft: Draft, container: Container, failure: error.Error) -> None:
    """Answer a failed uninstall. The data is not wiped: a start that waited for that continues."""
    enter(draft, container, ContainerState.INSTALLED, str(failure))
    draft.set(wiping=without(draft.state.wiping, container))
    complete(draft, container, Operation.UNINSTALL, failure)
    data_settled(draft, container.name)


def data_settled(draft: Draft, name: Name) -> None:
    """Continue a start that waited for the removal of persistent data under its name."""
    waiting = draft.state.running.get(name)
    if waiting is not None:
        _continue_start(draft, waiting)


def executed(draft: Draft, event: events.Executed) -> None:
    """Record that the payload runs: it is ready, unless its manifest says when it is."""
    container = event.container
    if not _is_launched(draft, container):
        return
    entry = draft.state.containers[container]
    assert entry.run is not None
    took = (draft.now - entry.since) / 1e9
    draft.act(
        Log(logging.INFO, f"Started {container} ({event.pid}) in {took:.3f}s"),
        Publish(notification.Started(container)),
    )
    run = replace(entry.run, pid=event.pid, executed=draft.now)
    ready = entry.service.ready
    if ready is None:
        runs.enter_ready(draft, container, run=run)
    else:
        deadline = None if draft.state.stopping else draft.now + ready.timeout
        enter(draft, container, ContainerState.RUNNING, deadline=deadline, run=run)
        if probes.of_readiness(ready) is not None and not draft.state.stopping:
            probes.begin(draft, container)
    complete(draft, container, Operation.START)
    answer(draft, container, Deferred.RESTART)


def start_failed(draft: Draft, event: events.StartFailed) -> None:
    """Answer a start whose launch failed."""
    if _is_launched(draft, event.container):
        failure = error.StartContainerFailed(event.container, cut(event.reason))
        _fail_start(draft, event.container, failure)


def directory_missing(draft: Draft, event: events.DirectoryMissing) -> None:
    """Answer a start whose resource lacks a directory; the error names the resource's version."""
    container = event.container
    if not _is_launched(draft, container):
        return
    entry = draft.state.containers[container]
    mount = entry.manifest.mounts[event.target]
    assert isinstance(mount, Resource)
    assert entry.run is not None
    version = str(entry.run.resources[event.target].version)
    failure = error.StartContainerMissingResource(container, mount.name, version)
    _fail_start(draft, container, failure)


def _is_launched(draft: Draft, container: Container) -> bool:
    entry = draft.state.containers.get(container)
    if entry is None or entry.state is not ContainerState.STARTING:
        return False
    return entry.run is not None and entry.run.launched


def _fail_start(draft: Draft, container: Container, failure: error.Error) -> None:
    run = runs.end_run(draft, container)
    _failed(draft, container, failure, run.cause)


def _failed(draft: Draft, container: Container, failure: error.Error, cause: Cause) -> None:
    """Log and answer a start that failed, after its end; the verdict decides what follows."""
    _log_failure(draft, container, failure)
    if cause is Cause.RESTART:
        answer(draft, container, Deferred.RESTART, failure)
    reason = failure.error if isinstance(failure, error.StartContainerFailed) else str(failure)
    end = End(f"start failed: {reason}", failed=True, heard=cause not in _BY_THE_RUNTIME)
    runs.finish(draft, container, end, failure)
    complete(draft, container, Operation.START, failure)


def _log_failure(draft: Draft, container: Container, failure: error.Error) -> None:
    draft.act(Log(logging.WARNING, f"Cannot start {container}: {failure}"))
