"""Common code of the three commands: it prints errors as sentences, and sets the exit code.

Exit codes: 0 success; 1 failed or refused; 2 usage; 128 + N ended by signal N; a command adds
others with `CommandError`. Tracebacks are printed only with NORTHSTAR_DEBUG=1.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

from northstar.cli import inherited
from northstar.model import InternalError, NorthstarError, printable, sentence

if TYPE_CHECKING:
    # click is a tenth of the start-up time of the runtime, which does not need it.
    import click

FAILED: Final = 1
"""Exit code: the command failed, or was refused."""

_HANDLED: Final = (signal.SIGTERM, signal.SIGHUP)

_RED: Final = 31
_YELLOW: Final = 33
_CYAN: Final = 36
"""Colours of ECMA-48, "Select Graphic Rendition"."""


class CommandError(NorthstarError):
    """A failure with an exit code.

    Attributes:
        exit_code: the exit code of the command.
    """

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = FAILED) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class _Terminated(BaseException):
    """A termination signal. As an exception, like KeyboardInterrupt, it runs all cleanup code."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(
    command: click.Command, ignorable: Collection[signal.Signals] = inherited.USER_SIGNALS
) -> NoReturn:
    """Run a command with the arguments of this process, and end the process.

    Args:
        command: the command to run.
        ignorable: signals that stay ignored if the parent ignored them.
    """
    run_function(lambda program, arguments: execute(command, arguments, program), ignorable)


def run_function(
    function: Callable[[str, Sequence[str]], int], ignorable: Collection[signal.Signals]
) -> NoReturn:
    """Run a function with the name and the arguments of this process, and end the process.

    Args:
        function: returns the exit code; its exceptions are reported as those of a command.
        ignorable: signals that stay ignored if the parent ignored them.
    """
    try:
        inherited.open_standard_streams()
    except OSError as error:
        sys.exit(_report(error))
    inherited.reset_dispositions(ignorable)
    for number in _HANDLED:
        # An ignored signal stays ignored, such as SIGHUP with nohup(1).
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)
    inherited.unblock_signals()
    inherited.keep_own_access()
    # File names may be any bytes; printing one must not fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    program = os.path.basename(sys.argv[0]) or "northstar"

    def interruptible() -> int:
        sys.unraisablehook = _raise_again
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return function(program, sys.argv[1:])

    code = _exit_code(interruptible)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # The result is known: an interrupt during the exit of the interpreter, which restores the
        # default dispositions, must not change it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Output that cannot be written is dropped. Python would try again at exit, and exit with 120.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)
    sys.exit(code)


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception was lost in a callback of the interpreter."""
    lost = unraisable.exc_value
    if isinstance(lost, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(lost, _Terminated):
        number = lost.number
    else:
        sys.__unraisablehook__(unraisable)
        return

    def send() -> None:
        time.sleep(0.01)
        os.kill(os.getpid(), number)

    # Not here: the handler would raise in this hook, and that exception would be lost too.
    import threading

    threading.Thread(target=send, daemon=True).start()


def _exit_code(function: Callable[[], int]) -> int:
    """Call a function and return its exit code, or that of its exception, which is reported."""
    try:
        code = function()
        # Here, not at exit, so that a full disk or a closed pipe is reported.
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except _Terminated as error:
        return 128 + error.number
    except Exception as error:
        return _report(error)
    return code


def invoke(command: click.Command, arguments: Sequence[str], program: str) -> int:
    """Run a command and return its exit code; errors are printed on stderr."""
    return _exit_code(lambda: execute(command, arguments, program))


def execute(command: click.Command, arguments: Sequence[str], program: str) -> int:
    """Run a command and return its exit code; only click's own errors are printed.

    If the command's function returns an integer, that is its exit code.

    click's `main` is not used: it treats every EPIPE as a closed stdout, and prints tracebacks.
    """
    import click

    try:
        code = _complete(command, program)
        if code is not None:
            return code
        with command.make_context(program, list(arguments)) as context:
            result = command.invoke(context)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is None:
            # An option without its value: with a context, the error shows the usage.
            error = click.UsageError(error.message, click.Context(command, info_name=program))
        with contextlib.suppress(OSError):  # as in _print_message
            error.show()
        return error.exit_code
    except click.Abort:
        return 128 + signal.SIGINT


def warn(message: str) -> None:
    """Print a warning on stderr; the command continues."""
    _print_message("warning", _YELLOW, message)


def colours(stream: io.TextIOBase | object) -> bool:
    """Return whether to colour output to `stream`: a terminal, without NO_COLOR (no-color.org)."""
    is_terminal = getattr(stream, "isatty", None)
    return is_terminal is not None and is_terminal() and not os.environ.get("NO_COLOR")


def _report(error: Exception) -> int:
    """Print an error and return the exit code."""
    if os.environ.get("NORTHSTAR_DEBUG") == "1":
        with contextlib.suppress(OSError):
            traceback.print_exception(error)
    if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):
        # The reader closed the pipe (`| head`): drop the buffered output.
        _discard(sys.stdout)
        return 128 + signal.SIGPIPE
    if isinstance(error, NorthstarError) and not isinstance(error, InternalError):
        _print_message("error", _RED, error.message)
        if error.hint:
            _print_message("hint", _CYAN, error.hint)
        return getattr(error, "exit_code", FAILED)
    if isinstance(error, OSError):
        _print_message("error", _RED, _describe(error))
        hint = _next_step(error)
        if hint is not None:
            _print_message("hint", _CYAN, hint)
        return FAILED
    _print_message("error", _RED, f"this is a bug in northstar ({type(error).__name__}: {error})")
    _print_message("hint", _CYAN, "please report it, with what NORTHSTAR_DEBUG=1 shows")
    return FAILED


def _discard(stream: io.TextIOBase | TextIO) -> None:
    """Redirect a standard stream to /dev/null, including its buffered data."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


_NEXT_STEPS: Final = {
    errno.EACCES: "check its permissions, or run this as its owner or as root",
    errno.EEXIST: "choose another name, or remove it",
    errno.EISDIR: "name a file, not a directory",
    errno.ENOENT: "check the path",
    errno.ENOSPC: "make room on its file system",
    errno.ENOTDIR: "a part of the path is a file: check the path",
    errno.EPERM: "run this as root",
    errno.EROFS: "choose a path on a file system that can be written",
    errno.ELOOP: "a symbolic link of the path refers to itself: check the path",
    errno.ENAMETOOLONG: "choose a shorter path",
}
"""The next step for errors of files that the user has named."""


def _next_step(error: OSError) -> str | None:
    if error.errno == errno.ENOENT and not _has_working_directory():
        return "the working directory was removed: change to another one"
    if error.errno is None or error.filename is None:
        return "make room on the file system of the output" if error.errno == errno.ENOSPC else None
    return _NEXT_STEPS.get(error.errno)


def _describe(error: OSError) -> str:
    """Return an OSError as `path: reason`."""
    if error.filename is None and error.errno == errno.EBADF and not _stdout_is_writable():
        return "stdout is closed, or is not open for writing"
    return sentence(error)


def _stdout_is_writable() -> bool:
    return fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _print_message(kind: str, colour: int, message: str) -> None:
    label = f"\x1b[{colour}m\x1b[1m{kind}:\x1b[0m" if colours(sys.stderr) else f"{kind}:"
    # If stderr is closed or full, only the exit code reports the error. print(file=None) would
    # write to stdout.
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        print(label, printable(message), file=sys.stderr, flush=True)


def _is_closed(stream: object) -> bool:
    """Return whether a stream is a pipe without reader: else EPIPE comes from another file."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # type: ignore[attr-defined]
        return any(events & select.POLLERR for _, events in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


def completion_variable(program: str) -> str:
    """Return the environment variable with which a shell requests completions."""
    return f"_{program}_COMPLETE".replace("-", "_").replace(".", "_").upper()


def _complete(command: click.Command, program: str) -> int | None:
    """Print completions if a shell requests them; return None otherwise."""
    variable = completion_variable(program)
    instruction = os.environ.get(variable)
    if not instruction:
        return None
    from northstar.cli.completion import respond

    return respond(command, program, variable, instruction)


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    raise _Terminated(number)
