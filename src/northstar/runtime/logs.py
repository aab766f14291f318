"""The log of the runtime and its containers: lines on stderr.

No logging call waits for the reader of the log (`writer.py`). This includes what Python itself
writes to sys.stderr: warnings, uncaught exceptions, errors of logging. `capture_streams` redirects
them to the log.

Two loggers have a level: `northstar` for the runtime, `northstar.container` for all containers
together. A logger for each container would never be freed, and the dots in its version would create
a hierarchy of loggers. So the container is an attribute of the record.
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
"""Names in NORTHSTAR_LOG, and the loggers that they denote."""

_DEFAULTS: Final = {"runtime": logging.INFO, "container": logging.DEBUG}
_CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the end of the process waits for buffered lines to be written."""

TRACEBACK_MAX: Final = 200
"""Most lines of a traceback. A recursion has as many in Python, and chained causes add more."""

_LOSS_PAUSE: Final = 10.0
"""Minimum seconds between two lines about lost output of containers."""

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
        level: level of the runtime's log; overrides NORTHSTAR_LOG.
        environment: of the process.
        descriptor: where the lines are written.

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
    """Yield a function that logs its first `most` messages and counts further ones.

    At the end one line reports that count. There may be ten thousand similar messages, for example
    about bad files in a repository.

    Args:
        level: level of the lines.
        more: format of the last line; its first argument is the count.
        args: further arguments of `more`.
        most: the number of messages that are logged.
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
    """Logs lines under a container's name.

    Not a logging.LoggerAdapter: it looks up the caller of every line, and costs twice as much. The
    caller of a container's lines is always the same.
    """

    __slots__ = ("_name",)

    def __init__(self, container: Container) -> None:
        self._name = str(container)

    def enabled(self, level: int) -> bool:
        """Return whether lines of this level are logged."""
        return _container_logger.isEnabledFor(level)

    def log(self, level: int, message: str, *args: object) -> None:
        """Log a line."""
        if _container_logger.isEnabledFor(level):
            record = logging.LogRecord(_container_logger.name, level, "", 0, message, args, None)
            record.container = self._name
            _container_logger.handle(record)


def is_journal(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Return whether the descriptor is the journal's stream: JOURNAL_STREAM in systemd.exec(5)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False


class Handler(logging.Handler):
    """Writes records as lines. Never waits for the reader."""

    def __init__(self, out: Writer, *, journal: bool) -> None:
        """Write to `out`, in the format of systemd's journal or with time and level."""
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

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - name in logging
        """Write a line instead of a record that could not be formatted.

        The inherited method prints a traceback to sys.stderr, and waits for its reader.
        """
        error = sys.exc_info()[1]
        text = f"a message of {record.name} cannot be written: {type(error).__name__}\n"
        self._out.write(text.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Write buffered lines, for a bounded time; called at the exit of the process."""
        self._out.close(_CLOSE_TIMEOUT)
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
        # Any message may contain a file name that is not UTF-8.
        return (text + "\n").encode(errors="backslashreplace")

    def _prefix(self, record: logging.LogRecord) -> str:
        name = getattr(record, "container", None) or record.name.removeprefix("northstar.")
        if self._journal:
            return f"<{_priority(record.levelno)}>{name}: "
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        return f"{stamp}.{int(record.msecs):03}Z {level:<5} {name}: "

    def _lost(self, lost: Loss) -> bytes:
        size = f"{lost.writes} lines ({lost.bytes} bytes)"
        text = f"{size} of this log are missing here: {_LOSS_REASON}"
        return self._lines(
            logging.LogRecord("northstar.runtime", logging.WARNING, "", 0, text, None, None)
        )


_LOSS_REASON: Final = "they could not be written, or not fast enough"


class _OutputLoss:
    """Logs lost output of containers that print to the runtime's stdout (`inherit`).

    Nothing is inserted into the stream itself, which may contain binary data.
    """

    def __init__(self) -> None:
        self._lost = Loss(0, 0)
        self._next = 0.0

    def note(self, lost: Loss) -> bytes:
        """Log the loss, at most once per `_LOSS_PAUSE`; otherwise add it to the next report."""
        self._lost = self._lost.plus(lost)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LOSS_PAUSE
            self.report()
        return b""

    def report(self) -> None:
        """Log the losses that are not logged yet."""
        if self._lost.writes:
            text = "stdout: %d bytes of containers are lost: %s"
            log.warning(text, self._lost.bytes, _LOSS_REASON)
            self._lost = Loss(0, 0)


def capture_streams() -> None:
    """Prevent this process from waiting for a reader of stdout or stderr.

    Python's sys.stderr waits for its reader, and is replaced. Warnings and uncaught exceptions
    become log records; other text that is printed to sys.stderr is written unchanged.
    """
    loss = _OutputLoss()
    out = writer.shared(1)
    out.note = loss.note
    # atexit runs this before the handler of logging, registered earlier: it may log a last line.
    atexit.register(loss.report)
    atexit.register(out.close, _CLOSE_TIMEOUT)
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
    """Parse NORTHSTAR_LOG: `LOGGER=LEVEL` or, for both loggers, `LEVEL`; separated by commas."""
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
