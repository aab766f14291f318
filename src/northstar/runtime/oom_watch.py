"""Reports memory events of a container to subscribers and the log."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from northstar.api import notification
from northstar.model import Container
from northstar.runtime.notifications import Notifications

if TYPE_CHECKING:
    from northstar.cgroups import OomMonitor

log = logging.getLogger("northstar.runtime")


class OomWatch:
    """Watches a container's monitor in the event loop, from `begin` to `close`.

    It begins after the container has started, so that subscribers receive no memory event before
    the start. Earlier events are not lost: the monitor stays readable.
    """

    def __init__(
        self, container: Container, monitor: OomMonitor, notifications: Notifications
    ) -> None:
        self._container = container
        self._monitor = monitor
        self._notifications = notifications
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        """Report from the next iteration of the event loop on.

        Raises:
            OSError: the event loop cannot watch the monitor.
        """
        self._loop.add_reader(self._monitor.fileno(), self._report)

    def _report(self) -> None:
        events = self._monitor.read()
        if events is None:
            return
        if events.out_of_memory:
            log.warning("Process %s is out of memory", self._container)
        memory = notification.Memory(
            low=events.low,
            high=events.high,
            max=events.max,
            oom=events.oom,
            oom_kill=events.oom_kill,
        )
        self._notifications.publish(notification.CGroup(self._container, memory))

    def close(self) -> None:
        """Report pending events, and stop."""
        # An out-of-memory kill often ends the container: both descriptors become readable together.
        self._report()
        self._loop.remove_reader(self._monitor.fileno())
        self._monitor.close()
