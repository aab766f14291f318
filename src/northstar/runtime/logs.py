"""The log: what the runtime and its containers report, one line each, on stderr.

Nothing waits for the reader of the log (`writer.py`). That includes what Python itself writes to
sys.stderr when something goes wrong: warnings, exceptions that nobody catches, errors of logging.
`capture_streams` has them logged.

There are two loggers to set a level for: `northstar` for the runtime, `northstar.container` for
all containers together. A logger for each container would never be freed, and the dots of its
version would make a family of it; so the container is an attribute of the record.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final

from northstar.model import ConfigurationError, Container, cut, printable, quote
from northstar.model.text import MESSAGE_MAX, NAMED_MAX
from northstar.runtime import writer
from northstar.runtime.writer import Loss, Writer

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

TRACEBACK_MAX: Final = 200
"""Most lines of a traceback: Python prints that many of a recursion, and more of its causes."""

_LOSS_PAUSE: Final = 10.0
"""Seconds between two lines about lost output of containers."""

log = logging.getLogger("northstar.runtime")
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


@contextlib.contextmanager
def first_few(
    level: int, more: str, *args: object, most: int = NAMED_MAX
) -> Iterator[Callable[..., None]]:
    """Give what logs the first lines of a kind and counts the rest, which are logged as a number.

    There may be ten thousand of them: bad files in a repository, for example.

    Args:
        level: of the lines.
        more: the last line; its first argument is how many more there are.
        args: its other arguments.
        most: how many lines are logged.
    """
    count = 0

    def line(message: str, *values: object) -> None:
        nonlocal count
        count += 1
        if count <= most:
            log.log(level, message, *values)

    try:
        yield line
    finally:
        if count > most:
            log.log(level, more, count - most, *args)


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
        out.note = self._lost

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self._out.write(self._lines(record))
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Write in place of a record that it could not be written.

        The one of logging prints a traceback to sys.stderr, and waits for its reader.
        """
        error = sys.exc_info()[1]
        text = f"a message of {record.name} cannot be written: {type(error).__name__}\n"
        self._out.write(text.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Give what waits time to be written; called at the exit of the process."""
        self._out.close(_PATIENCE)
        super().close()

    def _lines(self, record: logging.LogRecord) -> bytes:
        prefix = self._prefix(record)
        text = prefix + printable(cut(record.getMessage()))
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info).split("\n")
            if len(trace) > TRACEBACK_MAX:
                left_out = len(trace) - TRACEBACK_MAX
                trace[TRACEBACK_MAX // 2 : -TRACEBACK_MAX // 2] = [f"({left_out} lines left out)"]
            text += "".join(f"\n{prefix}{printable(cut(line))}" for line in trace)
        # A file name of a foreign encoding may stand in any message.
        return (text + "\n").encode(errors="backslashreplace")

    def _prefix(self, record: logging.LogRecord) -> str:
        name = getattr(record, "container", None) or record.name.removeprefix("northstar.")
        if self._journal:
            return f"<{_priority(record.levelno)}>{name}: "
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        return f"{stamp}.{int(record.msecs):03}Z {level:<5} {name}: "

    def _lost(self, lost: Loss) -> bytes:
        text = f"{lost.writes} lines ({lost.bytes} bytes) of this log are missing here: {_WHY}"
        return self._lines(
            logging.LogRecord("northstar.runtime", logging.WARNING, "", 0, text, None, None)
        )


_WHY: Final = "they could not be written, or not fast enough"


class _OutputLoss:
    """Logs what containers lost that print to the runtime's stdout (`inherit`).

    Nothing is inserted into the stream itself, which may be no text.
    """

    def __init__(self) -> None:
        self._lost = Loss(0, 0)
        self._next = 0.0

    def note(self, lost: Loss) -> bytes:
        """Log the loss, if the last line about one is not too near; else with the next one."""
        self._lost = self._lost.plus(lost)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LOSS_PAUSE
            self.report()
        return b""

    def report(self) -> None:
        """Log what is not logged yet."""
        if self._lost.writes:
            log.warning("stdout: %d bytes of containers are lost: %s", self._lost.bytes, _WHY)
            self._lost = Loss(0, 0)


def capture_streams() -> None:
    """Have nothing in this process wait for a reader of stdout or stderr any more.

    sys.stderr waits for its reader. Warnings and exceptions that nobody catches become records;
    the rest that is printed there, such as the last sentence of a command, is written as it is.
    """
    loss = _OutputLoss()
    out = writer.shared(1)
    out.note = loss.note
    # Before that of logging, which was registered earlier: its last line may be about a loss.
    atexit.register(loss.report)
    atexit.register(out.close, _PATIENCE)
    sys.stderr = _Stderr(writer.shared(2), 2)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


class _Stderr(io.TextIOBase):
    """A sys.stderr that never waits."""

    def __init__(self, out: Writer, descriptor: int) -> None:
        self._out = out
        self._descriptor = descriptor
        self._line = ""

    def write(self, text: str) -> int:
        # print() writes its arguments one by one.
        self._line += text
        if "\n" in text or len(self._line) > MESSAGE_MAX:
            self.flush()
        return len(text)

    def flush(self) -> None:
        line, self._line = self._line, ""
        self._out.write(line.encode(errors="backslashreplace"))

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.error("Uncaught exception", exc_info=(kind, error, trace))


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    error = unraisable.exc_value or unraisable.exc_type()
    what = unraisable.err_msg or "Exception ignored in"
    log.error("%s %r", what, unraisable.object, exc_info=(type(error), error, error.__traceback__))


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value or arguments.exc_type()
    name = arguments.thread.name if arguments.thread is not None else "a thread"
    log.error("Uncaught exception in %s", name, exc_info=(type(error), error, error.__traceback__))


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
                f"NORTHSTAR_LOG: there is no logger {quote(name)}",
                hint=f"write as in runtime=info,container=debug ({', '.join(LOGGERS)})",
            )
        levels |= dict.fromkeys(names, _level(level))
    return levels


def _level(text: str) -> int:
    if text.lower() not in LEVELS:
        raise ConfigurationError(
            f"{quote(text)} is not a log level", hint=f"use one of {', '.join(LEVELS)}"
        )
    return LEVELS[text.lower()]
