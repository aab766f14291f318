"""Runs: from the execution of the payload to the end of the clean-up."""

from __future__ import annotations

import logging
from typing import Any

from msgspec.structs import replace

from northstar.api import error, notification
from northstar.api.status import ContainerState
from northstar.core import events, order, probes
from northstar.core.actions import Fail, Log, Publish, Release
from northstar.core.transitions import after_ready, answer, enter
from northstar.core.update_values import Phase
from northstar.core.values import Cause, Deferred, Draft, Run, without
from northstar.core.verdict import End, exit_reason, verdict
from northstar.manifest import Autostart
from northstar.model import Container


def enter_ready(draft: Draft, container: Container, **changes: Any) -> None:
    """Record that a container is ready. From now on its watchdog and its health count."""
    entry = draft.state.containers[container]
    watchdog, deadline, first = entry.service.watchdog, None, None
    if not draft.state.stopping:
        deadline = None if watchdog is None else draft.now + watchdog
        first = probes.first_of_health(entry, draft.now)
    enter(draft, container, ContainerState.READY, deadline=deadline, next_probe=first, **changes)


def process_exited(draft: Draft, event: events.ProcessExited) -> None:
    """Release what the container holds. Until then it counts as in use."""
    container, status = event.container, event.status
    entry = draft.state.containers.get(container)
    if entry is None or entry.run is None or not entry.has_process or entry.run.status is not None:
        return
    uptime = (draft.now - entry.run.executed) / 1e9
    critical = (
        entry.manifest.autostart is Autostart.CRITICAL
        and entry.service.restart is None
        and not draft.state.stopping
    )
    draft.act(
        Log(
            logging.ERROR if critical else logging.INFO,
            f"{'Critical process' if critical else 'Process'} {container} exited "
            f"after {uptime:.3f}s with status {status}",
        ),
    )
    history = entry.history
    if entry.state is ContainerState.READY:
        history = after_ready(entry, draft.now)
    run = replace(entry.run, status=status, oom=event.oom)
    # The verdict follows the clean-up. Until then the state is that of the end.
    enter(draft, container, entry.state, run=run, history=history)
    draft.act(Release(container))


def released(draft: Draft, event: events.Released) -> None:
    """Announce the exit; the verdict decides what follows."""
    container = event.container
    entry = draft.state.containers.get(container)
    status = entry.run.status if entry is not None and entry.run is not None else None
    if entry is None or status is None:
        return
    run = end_run(draft, container)
    draft.change(container, history=replace(entry.history, last=status))
    draft.act(
        # The exit is logged already. Other tools look for this line.
        Log(logging.DEBUG, f"Container {container} exited with status {status}"),
        Publish(notification.Exit(container, status)),
    )
    reason = run.fault or exit_reason(status, oom=run.oom)
    end = End(reason, status, failed=bool(run.fault))
    finish(draft, container, end, error.CriticalContainer(container, status))
    answer(draft, container, Deferred.STOP, killed=run.killed)


def end_run(draft: Draft, container: Container) -> Run:
    """Release the name and the resources of a run, and return it. `finish` must follow."""
    run = draft.state.containers[container].run
    assert run is not None
    draft.change(container, run=None)
    draft.set(running=without(draft.state.running, container.name))
    if run.resources:
        users = dict(draft.state.users)
        for resource in set(run.resources.values()):
            users[resource] = users[resource] - {container}
            if not users[resource]:
                del users[resource]
        draft.set(users=users)
    return run


def finish(draft: Draft, container: Container, end: End, failure: error.Error) -> None:
    """Carry out the verdict on a run that has ended.

    Args:
        draft: the step.
        container: the container; it holds nothing.
        end: how the run ended.
        failure: the error with which a critical container ends the runtime.
    """
    entry = draft.state.containers[container]
    update = draft.state.updates.get(container.name)
    decided = verdict(
        entry,
        end,
        draft.now,
        shutdown=draft.state.stopping,
        trial=update is not None and update.record.phase is Phase.TRIAL,
    )
    enter(
        draft,
        container,
        decided.state,
        decided.reason,
        wanted=decided.wanted,
        deadline=decided.start,
    )
    if decided.ends_runtime and update is None:
        fail_runtime(draft, failure)
    if decided.start == draft.now:
        order.request_start(draft, container, Cause.RESTART)


def fail_runtime(draft: Draft, failure: error.Error) -> None:
    """End the runtime: a critical container has failed. Only the first failure counts."""
    if not draft.state.stopping and not draft.state.failed:
        draft.set(failed=True)
        draft.act(Fail(failure))
