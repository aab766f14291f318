"""The log: what the runtime and its containers say, one line each, on stderr.

There are two loggers to set a level for: `northstar` for the runtime, `northstar.container` for
all containers together. A logger for each container would never be freed, and the dots of its
version would make a family of it; so the container is an attribute of the record.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Final

from northstar.model import ConfigurationError, Container, printable
from northstar.runtime import writer
from northstar.runtime.writer import Writer

LEVELS: Final = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}

LOGGERS: Final = {"runtime": "northstar", "container": "northstar.container"}
"""Names in NORTHSTAR_LOG, and the loggers that they mean."""

_DEFAULTS: Final = {"runtime": logging.INFO, "container": logging.DEBUG}
_PATIENCE: Final = 1.0
"""Seconds for what waits to be written when the process ends."""

_container_logger: Final = logging.getLogger(LOGGERS["container"])


def setup(
    level: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    descriptor: int = 2,
) -> None:
    """Log to a descriptor from now on; replaces an earlier setup.

    Args:
        level: of the runtime's log, above what NORTHSTAR_LOG says.
        environment: of the process.
        descriptor: where to.

    Raises:
        ConfigurationError: a level or logger is unknown.
    """
    environment = os.environ if environment is None else environment
    levels = _DEFAULTS | _levels(environment.get("NORTHSTAR_LOG", ""))
    if level is not None:
        levels["runtime"] = _level(level)
    handler = Handler(writer.shared(descriptor), journal=is_journal(descriptor, environment))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    for name, number in levels.items():
        logging.getLogger(LOGGERS[name]).setLevel(number)


class ContainerLog:
    """A log whose lines are printed under the container's name.

    No logging.LoggerAdapter, which looks for the caller of every line and costs twice as much:
    the caller of what a container prints is always the same.
    """

    __slots__ = ("_name",)

    def __init__(self, container: Container) -> None:
        self._name = str(container)

    def enabled(self, level: int) -> bool:
        """Tell whether lines of this level are printed."""
        return _container_logger.isEnabledFor(level)

    def log(self, level: int, message: str, *args: object) -> None:
        """Log a line."""
        if _container_logger.isEnabledFor(level):
            record = logging.LogRecord(_container_logger.name, level, "", 0, message, args, None)
            record.container = self._name
            _container_logger.handle(record)


def is_journal(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Tell whether the descriptor is the journal's stream: JOURNAL_STREAM in systemd.exec(5)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False


class Handler(logging.Handler):
    """Writes records as lines. Never waits for whoever reads them."""

    def __init__(self, out: Writer, *, journal: bool) -> None:
        """Write to `out`, in the form for systemd's journal or for people."""
        super().__init__()
        self._out = out
        self._journal = journal
        out.note = self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self._out.write(self._lines(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Give what waits a last chance; called at the exit of the process."""
        self._out.close(_PATIENCE)
        super().close()

    def _lines(self, record: logging.LogRecord) -> bytes:
        prefix = self._prefix(record)
        text = prefix + printable(record.getMessage())
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            text += "".join(f"\n{prefix}{printable(line)}" for line in trace.split("\n"))
        # A file name of a foreign encoding may stand in any message.
        return (text + "\n").encode(errors="backslashreplace")

    def _prefix(self, record: logging.LogRecord) -> str:
        name = getattr(record, "container", None) or record.name.removeprefix("northstar.")
        if self._journal:
            return f"<{_priority(record.levelno)}>{name}: "
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        return f"{stamp}.{int(record.msecs):03}Z {level:<5} {name}: "

    def _dropped(self, count: int) -> bytes:
        text = f"{count} lines were dropped here: they were not read fast enough"
        return self._lines(
            logging.LogRecord("northstar.runtime", logging.WARNING, "", 0, text, None, None)
        )


def _priority(level: int) -> int:
    """Return the number of syslog(3) for a level."""
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def _levels(text: str) -> dict[str, int]:
    """Read NORTHSTAR_LOG: `LOGGER=LEVEL` or, for both, `LEVEL`; joined by commas."""
    levels: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, level = part.rpartition("=")
        names = [name] if equals else list(LOGGERS)
        if names[0] not in LOGGERS:
            raise ConfigurationError(
                f"NORTHSTAR_LOG: there is no logger {name!r}",
                hint=f"write as in runtime=info,container=debug ({', '.join(LOGGERS)})",
            )
        levels |= dict.fromkeys(names, _level(level))
    return levels


def _level(text: str) -> int:
    if text.lower() not in LEVELS:
        raise ConfigurationError(
            f"{text!r} is not a log level", hint=f"use one of {', '.join(LEVELS)}"
        )
    return LEVELS[text.lower()]
