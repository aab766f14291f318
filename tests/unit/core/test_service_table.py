"""Every event in every state of a supervised container, by a table.

The container `app` is restarted on failure, comes after `broker`, and reports that it is ready.
An event without a row changes nothing. `test_table.py` has the containers without `service`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from northstar import core
from northstar.core import actions, events
from northstar.core.events import Event
from northstar.model import Container, Exited, InternalError
from northstar.model.notify import NotifyMessage
from tests.unit.core.test_table import describe, kind
from tests.unit.core.worlds import (
    ALWAYS,
    APP,
    FAILED,
    NEWER,
    NOTIFY,
    ON_FAILURE,
    READY,
    SECOND,
    World,
    manifest,
    uses,
)

BROKER = Container.parse("broker:1.0.0")
SERVICE = {
    **ON_FAILURE,
    **NOTIFY,
    "after": ["broker"],
    "watchdog": "30s",
    "stop": {"signal": "INT"},
}
BOOT = events.StartRequested(APP, cause=core.Cause.BOOT)
AUTOMATIC = events.StartRequested(APP, cause=core.Cause.AUTOMATIC)


def idle() -> World:
    return World().load(
        manifest(APP, service=SERVICE),
        manifest(NEWER, service=ALWAYS),
        manifest(BROKER, service=NOTIFY),
    )


def mounted() -> World:
    return idle().also(events.MountRequested(APP), events.ImageMounted(APP))


def without_its_resource() -> World:
    return World().load(manifest(APP, service=SERVICE, mounts=uses("absent")))


def waiting() -> World:
    return mounted().also(events.StartRequested(BROKER), BOOT)


def due() -> World:
    """The broker could not be started: nothing to wait for any more."""
    return waiting().also(events.MountFailed(BROKER, "why"))


def starting() -> World:
    return mounted().also(events.StartRequested(APP))


def starting_by_the_runtime() -> World:
    return mounted().also(BOOT)


def running() -> World:
    return starting().also(events.Executed(APP, 42))


def ready() -> World:
    return running().also(events.Notified(APP, READY))


def stopping() -> World:
    return ready().also(events.StopRequested(APP))


def stopping_by_itself() -> World:
    return ready().also(events.Notified(APP, NotifyMessage(stopping=True)))


def unhealthy() -> World:
    there = ready()
    there.at_deadline(APP)
    return there


PROBED = {
    **ON_FAILURE,
    "ready": {"probe": {"connect": "tcp:80"}},
    "health": {"probe": {"exec": ["/bin/check"]}, "failures": 1},
    "notify": "/run/notify",
    "watchdog": "30s",
}


def probed(**health: str) -> World:
    """Return a world in which the readiness of the container is probed."""
    service = {**PROBED, "health": {**PROBED["health"], **health}}
    there = World().load(manifest(APP, service=service), manifest(NEWER, service=ALWAYS))
    there.also(events.MountRequested(APP), events.ImageMounted(APP))
    return there.also(events.StartRequested(APP), events.Executed(APP, 42))


def probed_for_its_readiness() -> World:
    return probed()


def not_ready_by_its_probe() -> World:
    return probed().also(events.ProbeFailed(APP, "why"))


def ready_by_its_probe() -> World:
    return probed().also(events.ProbeSucceeded(APP))


def probed_for_its_health() -> World:
    there = ready_by_its_probe()
    there.at_probe(APP)
    return there


def shown_as_unhealthy() -> World:
    """It stays unhealthy, and the next probe is in progress."""
    there = probed(action="none").also(events.ProbeSucceeded(APP))
    there.at_probe(APP)
    there.also(events.ProbeFailed(APP, "why"))
    there.at_probe(APP)
    return there


def failing_while_shown_as_unhealthy() -> World:
    return shown_as_unhealthy().also(events.ProcessExited(APP, FAILED))


def killed() -> World:
    there = stopping()
    there.at_deadline(APP)
    return there


def restarting() -> World:
    return ready().also(events.RestartRequested(APP))


def failing() -> World:
    return ready().also(events.ProcessExited(APP, FAILED))


def failing_before_it_is_ready() -> World:
    return running().also(events.ProcessExited(APP, FAILED))


def succeeding() -> World:
    return ready().also(events.ProcessExited(APP, Exited(0)))


def backing_off() -> World:
    return failing().also(events.Released(APP))


def backing_off_after_the_broker_started() -> World:
    there = backing_off().also(events.StartRequested(BROKER))
    there.at_deadline(APP)
    return there


def failed() -> World:
    return starting().also(events.StartFailed(APP, "why"))


def removing() -> World:
    return idle().also(events.UninstallRequested(APP))


def stopped_while_it_restarts() -> World:
    return restarting().also(events.StopRequested(APP))


def shutting_down() -> World:
    return ready().also(events.ShutdownBegan())


EVENTS: dict[str, Event] = {
    "start": events.StartRequested(APP),
    "start at boot": BOOT,
    "automatic start": AUTOMATIC,
    "start of 2.0.0": events.StartRequested(NEWER),
    "mount": events.MountRequested(APP),
    "umount": events.UmountRequested(APP),
    "uninstall": events.UninstallRequested(APP),
    "stop": events.StopRequested(APP),
    "restart": events.RestartRequested(APP),
    "kill TERM": events.KillRequested(APP, 15),
    "kill INT": events.KillRequested(APP, 2),
    "kill HUP": events.KillRequested(APP, 1),
    "mounted": events.ImageMounted(APP),
    "executed": events.Executed(APP, 42),
    "start failed": events.StartFailed(APP, "why"),
    "READY=1": events.Notified(APP, READY),
    "STOPPING=1": events.Notified(APP, NotifyMessage(stopping=True)),
    "WATCHDOG=1": events.Notified(APP, NotifyMessage(watchdog=True)),
    "WATCHDOG=trigger": events.Notified(APP, NotifyMessage(trigger=True)),
    "EXTEND": events.Notified(APP, NotifyMessage(extend=90 * SECOND)),
    "broker fails": events.MountFailed(BROKER, "why"),
    "deadline": events.DeadlineReached(APP),
    "probe succeeds": events.ProbeSucceeded(APP),
    "probe fails": events.ProbeFailed(APP, "why"),
    "probe lacks": events.ProbeLacking(APP, "why"),
    "exit 1": events.ProcessExited(APP, FAILED),
    "exit 0": events.ProcessExited(APP, Exited(0)),
    "released": events.Released(APP),
    "removed": events.PackageRemoved(APP),
    "removal failed": events.RemovalFailed(APP, "why"),
    "shutdown": events.ShutdownBegan(),
    "stop all": events.StopAll(2 * SECOND),
    "signal all": events.SignalAll(9),
}
REQUESTS = [
    name
    for name, event in EVENTS.items()
    if isinstance(event, events.Request) and event.container == APP
]

BUSY = dict.fromkeys(REQUESTS, "internal error")
"""Requests that the runtime queues, since another one on the container is in progress."""

NOT_STARTED = "refused stop_container_not_started"
RUNS = {
    "start": "refused start_container_started",
    "start of 2.0.0": "refused start_container_started",
    "mount": "refused invalid_container",
    "umount": "refused umount_busy",
    "uninstall": "refused umount_busy",
}
"""Requests that are refused while the container runs."""

TABLE: dict[Callable[[], World], dict[str, str]] = {
    idle: {
        "start": "starting up start: Mount",
        "start at boot": "starting up start: Mount",
        "automatic start": "installed down -: Complete",
        "start of 2.0.0": "installed down -: Mount app:2.0.0",
        "mount": "installed down mount: Mount",
        "umount": "refused umount_busy",
        "uninstall": "removing down uninstall: RemovePackage",
        "stop": "installed down -: Complete",
        "restart": "starting up start: Mount",
        "kill TERM": NOT_STARTED,
        "kill INT": NOT_STARTED,
        "kill HUP": NOT_STARTED,
        "shutdown": "installed down -:",
        "stop all": "installed down -:",
    },
    waiting: {
        "start": "starting up start: Launch",
        "start at boot": "waiting up -: Complete",
        "automatic start": "waiting up -: Complete",
        "start of 2.0.0": "installed down -: Mount app:2.0.0",
        "mount": "refused invalid_container",
        "umount": "waiting up umount: Umount",
        "uninstall": "removing down uninstall: Umount",
        "stop": "installed down -: Complete",
        "restart": "starting up start: Launch",
        "kill TERM": "installed down -: Complete",
        "kill INT": "installed down -: Complete",
        "kill HUP": NOT_STARTED,
        "broker fails": "waiting up -: Complete broker:1.0.0 start_container_failed, RequestStart",
        "shutdown": "installed down -:",
        "stop all": "waiting up -:",
    },
    due: {
        "start": "starting up start: Launch",
        "start at boot": "starting up start: Launch",
        "automatic start": "starting up start: Launch",
        "start of 2.0.0": "installed down -: Mount app:2.0.0",
        "mount": "refused invalid_container",
        "umount": "waiting up umount: Umount",
        "uninstall": "removing down uninstall: Umount",
        "stop": "installed down -: Complete",
        "restart": "starting up start: Launch",
        "kill TERM": "installed down -: Complete",
        "kill INT": "installed down -: Complete",
        "kill HUP": NOT_STARTED,
        "shutdown": "installed down -:",
        "stop all": "waiting up -:",
    },
    starting: BUSY
    | {
        "start of 2.0.0": "refused start_container_started",
        "executed": "running up -: Publish, SetDeadline, Complete",
        "start failed": "failed down -: Complete start_container_failed",
        "shutdown": "starting up start:",
        "stop all": "starting up start:",
    },
    starting_by_the_runtime: BUSY
    | {
        "start of 2.0.0": "refused start_container_started",
        "executed": "running up -: Publish, SetDeadline, Complete",
        "start failed": "backoff up -: SetDeadline, Complete start_container_failed",
        "shutdown": "starting up start:",
        "stop all": "starting up start:",
    },
    running: RUNS
    | {
        "start at boot": "running up -: Complete start_container_started",
        "automatic start": "running up -: Complete",
        "stop": "stopping down -: SetDeadline, SendSignal, Defer",
        "restart": "stopping up -: SetDeadline, SendSignal, Defer",
        "kill TERM": "stopping down kill: SetDeadline, SendSignal",
        "kill INT": "stopping down kill: SetDeadline, SendSignal",
        "kill HUP": "running up kill: SendSignal",
        "READY=1": "ready up -: SetDeadline",
        "STOPPING=1": "stopping up -: SetDeadline",
        "WATCHDOG=trigger": "stopping up -: SetDeadline, SendSignal",
        "EXTEND": "running up -:",
        "deadline": "stopping up -: SetDeadline, SendSignal",
        "exit 1": "running up -: SetDeadline, Release",
        "exit 0": "running up -: SetDeadline, Release",
        "shutdown": "running up -: SetDeadline",
        "stop all": "stopping down -: SetDeadline, SendSignal",
        "signal all": "stopping down -: SetDeadline, SendSignal",
    },
    ready: RUNS
    | {
        "start at boot": "ready up -: Complete start_container_started",
        "automatic start": "ready up -: Complete",
        "stop": "stopping down -: SetDeadline, SendSignal, Defer",
        "restart": "stopping up -: SetDeadline, SendSignal, Defer",
        "kill TERM": "stopping down kill: SetDeadline, SendSignal",
        "kill INT": "stopping down kill: SetDeadline, SendSignal",
        "kill HUP": "ready up kill: SendSignal",
        "STOPPING=1": "stopping up -: SetDeadline",
        "WATCHDOG=1": "ready up -:",
        "WATCHDOG=trigger": "stopping up -: SetDeadline, SetDeadline, SendSignal",
        "deadline": "stopping up -: SetDeadline, SetDeadline, SendSignal",
        "exit 1": "ready up -: SetDeadline, Release",
        "exit 0": "ready up -: SetDeadline, Release",
        "shutdown": "ready up -: SetDeadline",
        "stop all": "stopping down -: SetDeadline, SendSignal",
        "signal all": "stopping down -: SetDeadline, SendSignal",
    },
    stopping: RUNS
    | {
        "start at boot": "stopping down -: Complete start_container_started",
        "automatic start": "stopping down -: Complete",
        "stop": "stopping down -: Defer",
        "restart": "stopping up -: Defer",
        "kill TERM": "stopping down kill: SendSignal",
        "kill INT": "stopping down kill: SendSignal",
        "kill HUP": "stopping down kill: SendSignal",
        "deadline": "stopping down -: SetDeadline, SendSignal",
        "exit 1": "stopping down -: SetDeadline, Release",
        "exit 0": "stopping down -: SetDeadline, Release",
        "shutdown": "stopping down -:",
        "stop all": "stopping down -:",
        "signal all": "stopping down -: SendSignal, SetDeadline",
    },
    stopping_by_itself: RUNS
    | {
        "start at boot": "stopping up -: Complete start_container_started",
        "automatic start": "stopping up -: Complete",
        "stop": "stopping down -: SendSignal, Defer",
        "restart": "stopping up -: SendSignal, Defer",
        "kill TERM": "stopping down kill: SendSignal",
        "kill INT": "stopping down kill: SendSignal",
        "kill HUP": "stopping up kill: SendSignal",
        "deadline": "stopping up -: SetDeadline, SendSignal",
        "exit 1": "stopping up -: SetDeadline, Release",
        "exit 0": "stopping up -: SetDeadline, Release",
        "shutdown": "stopping up -:",
        "stop all": "stopping down -: SendSignal",
        "signal all": "stopping down -: SendSignal, SetDeadline",
    },
    unhealthy: RUNS
    | {
        "start at boot": "stopping up -: Complete start_container_started",
        "automatic start": "stopping up -: Complete",
        "stop": "stopping down -: Defer",
        "restart": "stopping up -: Defer",
        "kill TERM": "stopping down kill: SendSignal",
        "kill INT": "stopping down kill: SendSignal",
        "kill HUP": "stopping up kill: SendSignal",
        "deadline": "stopping up -: SetDeadline, SendSignal",
        "exit 1": "stopping up -: SetDeadline, Release",
        "exit 0": "stopping up -: SetDeadline, Release",
        "shutdown": "stopping up -:",
        "stop all": "stopping down -:",
        "signal all": "stopping down -: SendSignal, SetDeadline",
    },
    probed_for_its_readiness: RUNS
    | {
        "start at boot": "running up -: Complete start_container_started",
        "automatic start": "running up -: Complete",
        "stop": "stopping down -: EndProbe, SetDeadline, SendSignal, Defer",
        "restart": "stopping up -: EndProbe, SetDeadline, SendSignal, Defer",
        "kill TERM": "stopping down kill: EndProbe, SetDeadline, SendSignal",
        "kill INT": "stopping down kill: EndProbe, SetDeadline, SendSignal",
        "kill HUP": "running up kill: SendSignal",
        "STOPPING=1": "stopping up -: EndProbe, SetDeadline",
        "WATCHDOG=trigger": "stopping up -: EndProbe, SetDeadline, SendSignal",
        "EXTEND": "running up -:",
        "deadline": "stopping up -: EndProbe, SetDeadline, SendSignal",
        "probe succeeds": "ready up -: SetDeadline",
        "probe fails": "running up -: SetDeadline",
        "probe lacks": "running up -: SetDeadline",
        "exit 1": "running up -: EndProbe, SetDeadline, Release",
        "exit 0": "running up -: EndProbe, SetDeadline, Release",
        "shutdown": "running up -: EndProbe, SetDeadline",
        "stop all": "stopping down -: EndProbe, SetDeadline, SendSignal",
        "signal all": "stopping down -: EndProbe, SetDeadline, SendSignal",
    },
    not_ready_by_its_probe: RUNS
    | {
        "start at boot": "running up -: Complete start_container_started",
        "automatic start": "running up -: Complete",
        "stop": "stopping down -: SetDeadline, SendSignal, Defer",
        "restart": "stopping up -: SetDeadline, SendSignal, Defer",
        "kill TERM": "stopping down kill: SetDeadline, SendSignal",
        "kill INT": "stopping down kill: SetDeadline, SendSignal",
        "kill HUP": "running up kill: SendSignal",
        "STOPPING=1": "stopping up -: SetDeadline",
        "WATCHDOG=trigger": "stopping up -: SetDeadline, SendSignal",
        "EXTEND": "running up -:",
        "deadline": "stopping up -: SetDeadline, SendSignal",
        "exit 1": "running up -: SetDeadline, Release",
        "exit 0": "running up -: SetDeadline, Release",
        "shutdown": "running up -: SetDeadline",
        "stop all": "stopping down -: SetDeadline, SendSignal",
        "signal all": "stopping down -: SetDeadline, SendSignal",
    },
    ready_by_its_probe: RUNS
    | {
        "start at boot": "ready up -: Complete start_container_started",
        "automatic start": "ready up -: Complete",
        "stop": "stopping down -: SetDeadline, SendSignal, Defer",
        "restart": "stopping up -: SetDeadline, SendSignal, Defer",
        "kill TERM": "stopping down kill: SetDeadline, SendSignal",
        "kill INT": "stopping down kill: SetDeadline, SendSignal",
        "kill HUP": "ready up kill: SendSignal",
        "STOPPING=1": "stopping up -: SetDeadline",
        "WATCHDOG=1": "ready up -:",
        "WATCHDOG=trigger": "stopping up -: SetDeadline, SetDeadline, SendSignal",
        "deadline": "stopping up -: SetDeadline, SetDeadline, SendSignal",
        "exit 1": "ready up -: SetDeadline, Release",
        "exit 0": "ready up -: SetDeadline, Release",
        "shutdown": "ready up -: SetDeadline",
        "stop all": "stopping down -: SetDeadline, SendSignal",
        "signal all": "stopping down -: SetDeadline, SendSignal",
    },
    probed_for_its_health: RUNS
    | {
        "start at boot": "ready up -: Complete start_container_started",
        "automatic start": "ready up -: Complete",
        "stop": "stopping down -: EndProbe, SetDeadline, SendSignal, Defer",
        "restart": "stopping up -: EndProbe, SetDeadline, SendSignal, Defer",
        "kill TERM": "stopping down kill: EndProbe, SetDeadline, SendSignal",
        "kill INT": "stopping down kill: EndProbe, SetDeadline, SendSignal",
        "kill HUP": "ready up kill: SendSignal",
        "STOPPING=1": "stopping up -: EndProbe, SetDeadline",
        "WATCHDOG=1": "ready up -:",
        "WATCHDOG=trigger": "stopping up -: EndProbe, SetDeadline, SetDeadline, SendSignal",
        "deadline": "stopping up -: EndProbe, SetDeadline, SetDeadline, SendSignal",
        "probe succeeds": "ready up -: SetDeadline",
        "probe fails": "stopping up -: SetDeadline, SetDeadline, SendSignal",
        "probe lacks": "ready up -: SetDeadline",
        "exit 1": "ready up -: EndProbe, SetDeadline, Release",
        "exit 0": "ready up -: EndProbe, SetDeadline, Release",
        "shutdown": "ready up -: EndProbe, SetDeadline",
        "stop all": "stopping down -: EndProbe, SetDeadline, SendSignal",
        "signal all": "stopping down -: EndProbe, SetDeadline, SendSignal",
    },
    shown_as_unhealthy: RUNS
    | {
        "start at boot": "unhealthy up -: Complete start_container_started",
        "automatic start": "unhealthy up -: Complete",
        "stop": "stopping down -: EndProbe, SetDeadline, SendSignal, Defer",
        "restart": "stopping up -: EndProbe, SetDeadline, SendSignal, Defer",
        "kill TERM": "stopping down kill: EndProbe, SetDeadline, SendSignal",
        "kill INT": "stopping down kill: EndProbe, SetDeadline, SendSignal",
        "kill HUP": "unhealthy up kill: SendSignal",
        "STOPPING=1": "stopping up -: EndProbe, SetDeadline",
        "WATCHDOG=1": "unhealthy up -:",
        "WATCHDOG=trigger": "stopping up -: EndProbe, SetDeadline, SendSignal",
        "deadline": "stopping up -: EndProbe, SetDeadline, SendSignal",
        "probe succeeds": "ready up -:",
        "probe fails": "unhealthy up -:",
        "probe lacks": "unhealthy up -:",
        "exit 1": "unhealthy up -: EndProbe, SetDeadline, Release",
        "exit 0": "unhealthy up -: EndProbe, SetDeadline, Release",
        "shutdown": "unhealthy up -: EndProbe, SetDeadline",
        "stop all": "stopping down -: EndProbe, SetDeadline, SendSignal",
        "signal all": "stopping down -: EndProbe, SetDeadline, SendSignal",
    },
    failing_while_shown_as_unhealthy: RUNS
    | {
        "start at boot": "unhealthy up -: Complete start_container_started",
        "automatic start": "unhealthy up -: Complete",
        "stop": "unhealthy down -: Defer",
        "restart": "unhealthy up -: Defer",
        "kill TERM": "unhealthy down kill: SendSignal",
        "kill INT": "unhealthy down kill: SendSignal",
        "kill HUP": "unhealthy up kill: SendSignal",
        "released": "backoff up -: Publish, SetDeadline",
        "shutdown": "unhealthy up -:",
        "stop all": "unhealthy up -:",
        "signal all": "unhealthy down -: SendSignal",
    },
    killed: RUNS
    | {
        "start at boot": "stopping down -: Complete start_container_started",
        "automatic start": "stopping down -: Complete",
        "stop": "stopping down -: Defer",
        "restart": "stopping up -: Defer",
        "kill TERM": "stopping down kill: SendSignal",
        "kill INT": "stopping down kill: SendSignal",
        "kill HUP": "stopping down kill: SendSignal",
        "exit 1": "stopping down -: Release",
        "exit 0": "stopping down -: Release",
        "shutdown": "stopping down -:",
        "stop all": "stopping down -:",
        "signal all": "stopping down -: SendSignal",
    },
    restarting: RUNS
    | {
        "start at boot": "stopping up -: Complete start_container_started",
        "automatic start": "stopping up -: Complete",
        "stop": "stopping down -: Answer unexpected, Defer",
        "restart": "stopping up -: Defer",
        "kill TERM": "stopping down kill: Answer unexpected, SendSignal",
        "kill INT": "stopping down kill: Answer unexpected, SendSignal",
        "kill HUP": "stopping up kill: SendSignal",
        "deadline": "stopping up -: SetDeadline, SendSignal",
        "exit 1": "stopping up -: SetDeadline, Release",
        "exit 0": "stopping up -: SetDeadline, Release",
        "shutdown": "stopping down -: Answer unexpected",
        "stop all": "stopping down -: Answer unexpected",
        "signal all": "stopping down -: Answer unexpected, SendSignal, SetDeadline",
    },
    failing: RUNS
    | {
        "start at boot": "ready up -: Complete start_container_started",
        "automatic start": "ready up -: Complete",
        "stop": "ready down -: Defer",
        "restart": "ready up -: Defer",
        "kill TERM": "ready down kill: SendSignal",
        "kill INT": "ready down kill: SendSignal",
        "kill HUP": "ready up kill: SendSignal",
        "released": "backoff up -: Publish, SetDeadline",
        "shutdown": "ready up -:",
        "stop all": "ready up -:",
        "signal all": "ready down -: SendSignal",
    },
    failing_before_it_is_ready: RUNS
    | {
        "start at boot": "running up -: Complete start_container_started",
        "automatic start": "running up -: Complete",
        "stop": "running down -: Defer",
        "restart": "running up -: Defer",
        "kill TERM": "running down kill: SendSignal",
        "kill INT": "running down kill: SendSignal",
        "kill HUP": "running up kill: SendSignal",
        "released": "backoff up -: Publish, SetDeadline",
        "shutdown": "running up -:",
        "stop all": "running up -:",
        "signal all": "running down -: SendSignal",
    },
    succeeding: RUNS
    | {
        "start at boot": "ready up -: Complete start_container_started",
        "automatic start": "ready up -: Complete",
        "stop": "ready down -: Defer",
        "restart": "ready up -: Defer",
        "kill TERM": "ready down kill: SendSignal",
        "kill INT": "ready down kill: SendSignal",
        "kill HUP": "ready up kill: SendSignal",
        "released": "installed down -: Publish",
        "shutdown": "ready up -:",
        "stop all": "ready up -:",
        "signal all": "ready down -: SendSignal",
    },
    backing_off: {
        "start": "starting up start: SetDeadline, Launch",
        "start at boot": "starting up start: SetDeadline, Launch",
        "automatic start": "backoff up -: Complete",
        "start of 2.0.0": "installed down -: SetDeadline, Mount app:2.0.0",
        "mount": "refused invalid_container",
        "umount": "backoff up umount: Umount",
        "uninstall": "removing down uninstall: SetDeadline, Umount",
        "stop": "installed down -: SetDeadline, Complete",
        "restart": "starting up start: SetDeadline, Launch",
        "kill TERM": "installed down -: SetDeadline, Complete",
        "kill INT": "installed down -: SetDeadline, Complete",
        "kill HUP": NOT_STARTED,
        "deadline": "backoff up -: RequestStart",
        "shutdown": "installed down -: SetDeadline",
        "stop all": "backoff up -:",
    },
    backing_off_after_the_broker_started: {
        "start": "starting up start: SetDeadline, Launch",
        "start at boot": "waiting up -: SetDeadline, Complete",
        "automatic start": "waiting up -: SetDeadline, Complete",
        "start of 2.0.0": "installed down -: SetDeadline, Mount app:2.0.0",
        "mount": "refused invalid_container",
        "umount": "backoff up umount: Umount",
        "uninstall": "removing down uninstall: SetDeadline, Umount",
        "stop": "installed down -: SetDeadline, Complete",
        "restart": "starting up start: SetDeadline, Launch",
        "kill TERM": "installed down -: SetDeadline, Complete",
        "kill INT": "installed down -: SetDeadline, Complete",
        "kill HUP": NOT_STARTED,
        "broker fails": "backoff up -: Complete broker:1.0.0 start_container_failed",
        "shutdown": "installed down -: SetDeadline",
        "stop all": "backoff up -:",
    },
    failed: {
        "start": "starting up start: Launch",
        "start at boot": "starting up start: Launch",
        "automatic start": "failed down -: Complete",
        "start of 2.0.0": "failed down -: Mount app:2.0.0",
        "mount": "refused invalid_container",
        "umount": "failed down umount: Umount",
        "uninstall": "removing down uninstall: Umount",
        "stop": "failed down -: Complete",
        "restart": "starting up start: Launch",
        "kill TERM": NOT_STARTED,
        "kill INT": NOT_STARTED,
        "kill HUP": NOT_STARTED,
        "shutdown": "failed down -:",
        "stop all": "failed down -:",
    },
    removing: BUSY
    | {
        "start of 2.0.0": "removing down uninstall: Mount app:2.0.0",
        "removed": "gone: Publish, Complete",
        "removal failed": "installed down -: Complete unexpected",
        "shutdown": "removing down uninstall:",
        "stop all": "removing down uninstall:",
    },
    stopped_while_it_restarts: RUNS
    | {
        "start at boot": "stopping down -: Complete start_container_started",
        "automatic start": "stopping down -: Complete",
        "stop": "stopping down -: Defer",
        "restart": "stopping up -: Defer",
        "kill TERM": "stopping down kill: SendSignal",
        "kill INT": "stopping down kill: SendSignal",
        "kill HUP": "stopping down kill: SendSignal",
        "deadline": "stopping down -: SetDeadline, SendSignal",
        "exit 1": "stopping down -: SetDeadline, Release",
        "exit 0": "stopping down -: SetDeadline, Release",
        "shutdown": "stopping down -:",
        "stop all": "stopping down -:",
        "signal all": "stopping down -: SendSignal, SetDeadline",
    },
    shutting_down: {
        "start": "refused start_container_started",
        "start at boot": "ready up -: Complete start_container_started",
        "automatic start": "ready up -: Complete",
        "start of 2.0.0": "refused start_container_started",
        "mount": "refused unexpected",
        "umount": "refused unexpected",
        "uninstall": "refused unexpected",
        "stop": "stopping down -: SetDeadline, SendSignal, Defer",
        "restart": "refused start_container_failed",
        "kill TERM": "stopping down kill: SendSignal",
        "kill INT": "stopping down kill: SendSignal",
        "kill HUP": "ready up kill: SendSignal",
        "STOPPING=1": "stopping up -: SetDeadline",
        "exit 1": "ready up -: Release",
        "exit 0": "ready up -: Release",
        "stop all": "stopping down -: SetDeadline, SendSignal",
        "signal all": "stopping down -: SendSignal",
    },
    without_its_resource: {
        "start": "refused start_container_missing_resource",
        "start at boot": "backoff up -: SetDeadline, Complete start_container_missing_resource",
        "automatic start": "installed down -: Complete",
        "start of 2.0.0": "refused invalid_container",
        "mount": "installed down mount: Mount",
        "umount": "refused umount_busy",
        "uninstall": "removing down uninstall: RemovePackage",
        "stop": "installed down -: Complete",
        "restart": "refused start_container_missing_resource",
        "kill TERM": NOT_STARTED,
        "kill INT": NOT_STARTED,
        "kill HUP": NOT_STARTED,
        "shutdown": "installed down -:",
        "stop all": "installed down -:",
    },
}


def outcome(there: World, name: str) -> str:
    """Describe the result of an event, in the notation of the table."""
    event = EVENTS[name]
    before = there.state
    if name == "deadline" and (deadline := there.entry(APP).deadline) is not None:
        there.now = deadline - SECOND
    try:
        result = there.step(event)
    except InternalError:
        return "internal error"
    if isinstance(result, core.Refused):
        assert there.state is before
        return f"refused {kind(result.error)}"
    if result.state == before and not result.actions:
        return "ignored"
    entry = result.state.containers.get(APP)
    words = ["gone"]
    if entry is not None:
        operation = entry.operation.value if entry.operation is not None else "-"
        words = [entry.state.value, entry.wanted.value, operation]
    skipped = (actions.PublishState, actions.Log)
    done = ", ".join(describe(a) for a in result.actions if not isinstance(a, skipped))
    return f"{' '.join(words)}: {done}".replace(f" {APP}", "").rstrip()


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("situation", TABLE, ids=lambda situation: situation.__name__)
def test_event(situation: Callable[[], World], name: str) -> None:
    expected = TABLE[situation].get(name, "ignored")
    assert outcome(situation(), name) == expected


def test_every_request_is_in_every_row() -> None:
    for situation, row in TABLE.items():
        assert set(REQUESTS) <= row.keys(), situation.__name__


def test_every_state_is_in_the_table() -> None:
    states = {situation().entry(APP).state for situation in TABLE}
    assert states == set(core.ContainerState)
