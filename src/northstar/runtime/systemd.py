"""The service manager: told when we are up, when we end, and that we still live."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping

from northstar.linux import notify

log = logging.getLogger("northstar.runtime")


class Manager:
    """Speaks to the service manager that started us, if one did. Failures are warnings."""

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
            log.warning("The service manager's environment is not usable: %s", error)

    def ready(self) -> None:
        """We are up; from now on, say within each watchdog interval that we live.

        That the event loop gets there is the proof of life.
        """
        self._send("READY=1")
        if self._interval is not None:
            self._alive()

    def stopping(self) -> None:
        """We begin to end. The watchdog still hears from us: an end may take its time."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Say nothing more."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _alive(self) -> None:
        assert self._interval is not None
        self._send("WATCHDOG=1")
        # Half of it, as sd_watchdog_enabled(3) advises.
        loop = asyncio.get_running_loop()
        self._watchdog = loop.call_later(self._interval / 2, self._alive)

    def _send(self, state: str) -> None:
        if self._target is None:
            return
        try:
            notify.send(state, self._target)
        except OSError as error:
            log.warning("The service manager does not hear %s: %s", state, error)
