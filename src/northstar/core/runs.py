"""Runs: from a start request to the end of the clean-up.

A container holds its resources from the start request to the end of its run: meanwhile they can be
neither unmounted nor uninstalled.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection
from typing import Final

from msgspec.structs import replace

from northstar.api import RefusedError, error, notification
from northstar.core import events
from northstar.core.actions import Complete, Fail, Launch, Log, Publish, Release, SendSignal
from northstar.core.choice import choose_command, choose_resources
from northstar.core.requests import SHUTTING_DOWN, entry_of
from northstar.core.transitions import complete, mount
from northstar.core.values import (
    NO_CONTAINERS,
    Draft,
    Entry,
    Image,
    Operation,
    Phase,
    Run,
    State,
    Wanted,
    without,
)
from northstar.manifest import Autostart, Resource
from northstar.model import Container, Exited, cut, signal_name

ENDING: Final = frozenset((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
"""Signals that end a container. Apps may handle other signals: SIGHUP often reloads."""


def refuse_if_running(state: State, entry: Entry) -> None:
    """Refuse a start while a version of the container starts or runs.

    Raises:
        RefusedError: names that version.
    """
    running = state.running.get(entry.container.name)
    if running is not None:
        raise RefusedError(error.StartContainerStarted(running))


def start_requested(draft: Draft, event: events.StartRequested) -> None:
    """Choose command and resources, hold the resources, and mount the missing images."""
    try:
        _begin_start(draft, event)
    except RefusedError as refused:
        if not event.boot:
            raise
        _log_failure(draft, event.container, refused.error, boot=True)
        draft.act(Complete(event.container, refused.error))


def _begin_start(draft: Draft, event: events.StartRequested) -> None:
    container = event.container
    entry = entry_of(draft.state, container)
    refuse_if_running(draft.state, entry)
    command = choose_command(entry.manifest, event.init, event.arguments, event.environment)
    if draft.state.stopping:
        raise RefusedError(error.StartContainerFailed(container, SHUTTING_DOWN))
    resources = choose_resources(draft.state, entry.manifest)
    run = Run(command, resources, event.boot)
    draft.change(
        container, phase=Phase.STARTING, wanted=Wanted.UP, operation=Operation.START, run=run
    )
    draft.set(running={**draft.state.running, container.name: container})
    _add_user(draft, container, resources.values())
    _continue_start(draft, container)


def _add_user(draft: Draft, user: Container, resources: Collection[Container]) -> None:
    users = dict(draft.state.users)
    for resource in resources:
        users[resource] = users.get(resource, NO_CONTAINERS) | {user}
    draft.set(users=users)


def _continue_start(draft: Draft, container: Container) -> None:
    """Continue a start: mount missing images; launch or fail when no image is in transition."""
    entry = draft.state.containers[container]
    run = entry.run
    if entry.phase is not Phase.STARTING or run is None or run.launched:
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
    draft.change(container, phase=Phase.INSTALLED)
    draft.set(wiping=without(draft.state.wiping, container))
    complete(draft, container, Operation.UNINSTALL, failure)
    data_settled(draft, container)


def data_settled(draft: Draft, container: Container) -> None:
    """Continue a start that waited for the removal of persistent data under its name."""
    waiting = draft.state.running.get(container.name)
    if waiting is not None:
        _continue_start(draft, waiting)


def executed(draft: Draft, event: events.Executed) -> None:
    """Record that the payload runs."""
    container = event.container
    if not _is_launched(draft, container):
        return
    entry = draft.state.containers[container]
    assert entry.run is not None
    took = (draft.now - entry.since) / 1e9
    run = replace(entry.run, pid=event.pid, executed=draft.now)
    draft.change(container, phase=Phase.RUNNING, run=run)
    draft.act(
        Log(logging.INFO, f"Started {container} ({event.pid}) in {took:.3f}s"),
        Publish(notification.Started(container)),
    )
    complete(draft, container, Operation.START)


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
    if entry is None or entry.phase is not Phase.STARTING:
        return False
    return entry.run is not None and entry.run.launched


def _fail_start(draft: Draft, container: Container, failure: error.Error) -> None:
    run = _end_run(draft, container)
    _log_failure(draft, container, failure, run.boot)
    complete(draft, container, Operation.START, failure)


def _log_failure(draft: Draft, container: Container, failure: error.Error, boot: bool) -> None:
    """Log why a start failed. At boot, the failure of a critical container ends the runtime."""
    draft.act(Log(logging.WARNING, f"Cannot start {container}: {failure}"))
    entry = draft.state.containers.get(container)
    if boot and entry is not None and entry.manifest.autostart is Autostart.CRITICAL:
        _fail_runtime(draft, failure)


def _end_run(draft: Draft, container: Container) -> Run:
    """Release the name and the resources; the container is down, and wanted down."""
    run = draft.state.containers[container].run
    assert run is not None
    draft.change(container, phase=Phase.INSTALLED, wanted=Wanted.DOWN, run=None)
    draft.set(running=without(draft.state.running, container.name))
    users = dict(draft.state.users)
    for resource in set(run.resources.values()):
        users[resource] = users[resource] - {container}
        if not users[resource]:
            del users[resource]
    draft.set(users=users)
    return run


def kill_requested(draft: Draft, event: events.KillRequested) -> None:
    """Send a signal to a container that has a process."""
    container = event.container
    entry = entry_of(draft.state, container)
    if not entry.has_process:
        raise RefusedError(error.StopContainerNotStarted(container))
    draft.change(container, operation=Operation.KILL)
    send_signal(draft, container, event.number)


def send_signal(draft: Draft, container: Container, number: int) -> None:
    """Send a signal to a container that has a process; signals in `ENDING` begin its stop."""
    if number in ENDING:
        draft.change(container, phase=Phase.STOPPING, wanted=Wanted.DOWN)
    draft.act(
        Log(logging.INFO, f"Killing {container} with {signal_name(number)}"),
        SendSignal(container, number),
    )


def signal_sent(draft: Draft, event: events.SignalSent) -> None:
    """Answer the kill request."""
    if event.container in draft.state.containers:
        complete(draft, event.container, Operation.KILL)


def process_exited(draft: Draft, event: events.ProcessExited) -> None:
    """Release what the container holds. Until then it counts as in use."""
    container, status = event.container, event.status
    entry = draft.state.containers.get(container)
    if entry is None or entry.run is None or not entry.has_process or entry.run.status is not None:
        return
    uptime = (draft.now - entry.run.executed) / 1e9
    critical = entry.manifest.autostart is Autostart.CRITICAL and not draft.state.stopping
    draft.change(container, phase=Phase.STOPPING, run=replace(entry.run, status=status))
    draft.act(
        Log(
            logging.ERROR if critical else logging.INFO,
            f"{'Critical process' if critical else 'Process'} {container} exited "
            f"after {uptime:.3f}s with status {status}",
        ),
        Release(container),
    )


def released(draft: Draft, event: events.Released) -> None:
    """Announce the exit; end the runtime if the container is critical and failed."""
    container = event.container
    entry = draft.state.containers.get(container)
    status = entry.run.status if entry is not None and entry.run is not None else None
    if entry is None or status is None:
        return
    _end_run(draft, container)
    draft.act(
        # The exit is logged already. Other tools look for this line.
        Log(logging.DEBUG, f"Container {container} exited with status {status}"),
        Publish(notification.Exit(container, status)),
    )
    if entry.manifest.autostart is Autostart.CRITICAL and status != Exited(0):
        _fail_runtime(draft, error.CriticalContainer(container, status))


def _fail_runtime(draft: Draft, failure: error.Error) -> None:
    if not draft.state.stopping and not draft.state.failed:
        draft.set(failed=True)
        draft.act(Fail(failure))
