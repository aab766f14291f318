"""Probes: which one applies, and when it begins. `supervision` decides what their results mean.

At most one probe of a container is in progress. The next one begins some time after its end, so a
slow probe never overlaps with itself.
"""

from __future__ import annotations

import zlib
from typing import Final

from northstar.api.status import ContainerState
from northstar.core.actions import StartProbe
from northstar.core.values import Draft, Entry
from northstar.manifest import NotifyProbe, Probe, Ready
from northstar.model import Container

_SECOND: Final = 10**9

READY_INTERVAL: Final = _SECOND
"""Time in ns from the end of a probe of the readiness to the next one."""

READY_TIMEOUT: Final = 5 * _SECOND
"""A probe of the readiness has failed after this time, in ns."""

SPREAD: Final = 4
"""The first probe of the health comes up to `interval / SPREAD` later than `interval` after ready:
else the probes of all containers that became ready at boot would begin together."""


def of_readiness(ready: Ready | None) -> Probe | None:
    """Return the probe that decides the readiness; None if nothing or a message decides it."""
    return None if ready is None or isinstance(ready.probe, NotifyProbe) else ready.probe


def first_of_health(entry: Entry, now: int) -> int | None:
    """Return when the first probe of the health begins, if a container becomes ready at `now`.

    It depends on the name of the container, and on nothing random: `step` is a pure function.
    """
    health = entry.service.health
    if health is None:
        return None
    spread = health.interval // SPREAD
    # A checksum, since `hash` of a text differs from process to process.
    return now + health.interval + zlib.crc32(str(entry.container).encode()) * spread // 2**32


def begin(draft: Draft, container: Container) -> None:
    """Begin the probe that applies in the state of a container."""
    entry = draft.state.containers[container]
    if entry.state is ContainerState.RUNNING:
        probe, timeout = of_readiness(entry.service.ready), READY_TIMEOUT
    else:
        assert entry.service.health is not None
        probe, timeout = entry.service.health.probe, entry.service.health.timeout
    assert probe is not None
    draft.change(container, next_probe=None, probing=True)
    draft.act(StartProbe(container, probe, timeout))
