"""Notifies the service manager of readiness and shutdown, and feeds its watchdog."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping

from northstar.linux import notify
from northstar.model import sentence

log = logging.getLogger("northstar.runtime")


class Manager:
    """The service manager that started the runtime, if any. Failures are warnings."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Take NOTIFY_SOCKET and the watchdog's variables from the environment."""
        environment = os.environ if environment is None else environment
        self._target: str | bytes | None = None
        self._interval: float | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        try:
            if value := environment.get("NOTIFY_SOCKET"):
                self._target = notify.address(value)
                self._interval = notify.watchdog_interval(environment, os.getpid())
        except ValueError as error:
            log.warning("The service manager's environment is not usable: %s", sentence(error))

    def ready(self) -> None:
        """Report readiness, and from now on notify the watchdog within each of its intervals.

        A timer of the event loop does this, so a blocked event loop is detected.
        """
        self._send("READY=1")
        if self._interval is not None:
            self._notify_watchdog()

    def stopping(self) -> None:
        """Report the shutdown. The watchdog is still notified: a shutdown may take long."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Stop notifying the watchdog."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _notify_watchdog(self) -> None:
        assert self._interval is not None
        self._send("WATCHDOG=1")
        # Half of it, as sd_watchdog_enabled(3) advises.
        loop = asyncio.get_running_loop()
        self._watchdog = loop.call_later(self._interval / 2, self._notify_watchdog)

    def _send(self, state: str) -> None:
        if self._target is None:
            return
        try:
            notify.send(state, self._target)
        except OSError as error:
            log.warning("Cannot send %s to the service manager: %s", state, sentence(error))
