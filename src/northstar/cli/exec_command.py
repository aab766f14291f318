"""The command `nstar exec`. It is loaded on first use."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

import click

from northstar.api.stream import Resize, Signal, StdinEnd
from northstar.cli.common import CommandError
from northstar.cli.nstar_commands import container_argument
from northstar.cli.nstar_session import Session
from northstar.client import process as shared
from northstar.client.blocking_process import Process
from northstar.model import Container, Exited, Name

ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals that are forwarded to the process."""

KEYS: Final = (signal.SIGINT, signal.SIGQUIT)
"""Those of them that keys send: with -it the others end this program."""

PATIENCE: Final = 3
"""After so many of them the command ends, and with its connection the process."""


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Send stdin; without it there is none.")
@click.option(
    "-t", "--tty", "terminal", is_flag=True, help="Give it a terminal, as shells and editors need."
)
@click.option(
    "-e", "--env", "variables", metavar="NAME=VALUE", multiple=True, help="Set a variable."
)
@container_argument
@click.argument("command", metavar="COMMAND [ARG]..", nargs=-1, required=True)
@click.pass_obj
def exec_(
    session: Session,
    interactive: bool,
    terminal: bool,
    variables: tuple[str, ...],
    container: Container | Name,
    command: tuple[str, ...],
) -> int:
    """Execute a program in a running container, beside its payload.

    COMMAND is the path of a program in the container. Options after CONTAINER are its arguments.

    The exit code is that of the program, or 128 + N if signal N ended it. SIGINT, SIGTERM, SIGHUP
    and SIGQUIT are sent to the program; with -it keys such as Ctrl-C are.
    """
    environment = _environment(variables)
    size = None
    if terminal:
        if not os.isatty(0):
            raise click.UsageError("-t needs a terminal on stdin; for other input use -i alone")
        size = _size()
        if "TERM" in os.environ:
            environment.setdefault("TERM", os.environ["TERM"])
    with session.connect() as client, contextlib.ExitStack() as stack:
        waker = stack.enter_context(_signals(KEYS if interactive and terminal else ENDING))
        process = stack.enter_context(
            client.exec(container, command, environment, stdin=interactive, tty=size)
        )
        if terminal and interactive:
            stack.enter_context(_raw(0))
        _Relay(process, waker, interactive, terminal, quiet=session.json_lines).run()
        status = process.wait()
    return status.code if isinstance(status, Exited) else 128 + status.signal


def _environment(variables: tuple[str, ...]) -> dict[str, str]:
    environment = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{variable!r} is not NAME=VALUE", param_hint="'-e'")
        environment[name] = value
    return environment


def _size() -> tuple[int, int]:
    """Return rows and columns of the terminal on stdin."""
    columns, rows = os.get_terminal_size(0)
    return rows, columns


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Set a terminal to raw mode, and restore its mode at the end, whatever happens."""
    before = termios.tcgetattr(descriptor)
    try:
        # TCSANOW: with flow control (Ctrl-S) its output may never drain.
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


@contextlib.contextmanager
def _signals(forwarded: Sequence[signal.Signals]) -> Iterator[int]:
    """Report signals, and SIGWINCH, on a descriptor: one byte with the number for each.

    Ignored ones stay ignored, such as SIGHUP with nohup(1).
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {}
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        for number in (signal.SIGWINCH, *forwarded):
            found = signal.getsignal(number)
            if found is not signal.SIG_IGN or number == signal.SIGWINCH:
                before[number] = found
                signal.signal(number, _reported)
        yield reading
    finally:
        for number, found in before.items():
            signal.signal(number, found)
        signal.set_wakeup_fd(previous)
        os.close(reading)
        os.close(writing)


def _reported(number: int, frame: FrameType | None) -> None:
    """Python writes the number to the descriptor."""


class _Relay:
    """Moves input, output and signals between this program and a process.

    Nothing is read that cannot be passed on: so each reader holds up its writer.
    """

    def __init__(
        self, process: Process, waker: int, interactive: bool, terminal: bool, *, quiet: bool
    ) -> None:
        """Begin; `quiet`: the output is not written."""
        self._process = process
        self._waker = waker
        self._interactive = interactive
        self._terminal = terminal
        self._quiet = quiet
        self._output = memoryview(b"")
        self._target = 1
        self._ending = 0

    def run(self) -> None:
        """Return when the process has ended, and its output is written.

        Raises:
            BrokenPipeError: stdout is a pipe that nobody reads any more.
            CommandError: enough signals were sent.
        """
        while self._next_output() or not self._process.ended:
            self._wait_and_move()

    def _next_output(self) -> bool:
        while not self._output:
            found = self._process.next_output()
            if found is None:
                return False
            stream, data = found
            if not self._quiet:
                self._target = 2 if stream == shared.STDERR else 1
                self._output = memoryview(data)
        return True

    def _wait_and_move(self) -> None:
        """Wait for anything that can be moved, and move it."""
        process, poll = self._process, select.poll()
        poll.register(self._waker, select.POLLIN)
        unsent = process.unsent
        if self._output:
            poll.register(self._target, select.POLLOUT)
        receiving = 0 if self._output else select.POLLIN
        if receiving or unsent:
            poll.register(process.fileno(), receiving | (select.POLLOUT if unsent else 0))
        if self._interactive and not unsent and not process.ended:
            poll.register(0, select.POLLIN)
        ready = dict(poll.poll())
        if self._waker in ready:
            self._take_signals()
        connection = ready.get(process.fileno(), 0)
        if connection & select.POLLOUT:
            process.flush()
        if receiving and connection & ~select.POLLOUT:
            process.receive()
        if self._output and self._target in ready:
            self._write()
        if 0 in ready:
            self._read()

    def _write(self) -> None:
        try:
            # A pipe that is ready takes so much without waiting: signals are not held up.
            size = os.write(self._target, self._output[: select.PIPE_BUF])
        except BlockingIOError:
            return  # another program has made it non-blocking, and was faster
        except OSError as error:
            if self._target == 1 or error.errno not in (errno.EPIPE, errno.EIO):
                raise
            size = len(self._output)  # nobody reads stderr
        self._output = self._output[size:]

    def _read(self) -> None:
        try:
            data = os.read(0, shared.PIECE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that was hung up
                raise
            data = b""
        if data:
            for message in shared.pieces(data):
                self._process.queue(message)
        else:
            self._interactive = False
            if self._terminal:
                raise CommandError("the terminal on stdin was closed")
            self._process.queue(StdinEnd())
        self._process.flush()

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._waker, 256):
                if number == signal.SIGWINCH:
                    if self._terminal:
                        self._process.queue(Resize(*_size()))
                elif number in ENDING:
                    self._forward(number)
        self._process.flush()

    def _forward(self, number: int) -> None:
        self._ending += 1
        if self._ending >= PATIENCE:
            # It waits behind input that the process does not read, or is ignored.
            raise CommandError(
                f"the program did not end by {PATIENCE - 1} signals: its connection is closed, "
                "which kills it",
                exit_code=128 + number,
            )
        self._process.queue(Signal(number))
