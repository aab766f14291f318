"""The connection and the output of a command of `nstar`. Does not import click."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Final

from northstar.cli.common import CommandError
from northstar.client import ConnectError, RejectedError
from northstar.client.blocking import Client
from northstar.model import printable, printable_json

CANNOT_CONNECT: Final = 3
"""Exit code: no runtime listens at the URL."""

DEFAULT_URL: Final = "tcp://localhost:4200"

URL_VARIABLE: Final = "NORTHSTAR_URL"
"""Environment variable with the URL."""

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds to wait for an answer."""


class Session:
    """The options before the command; it makes the connection when a command needs it."""

    def __init__(self, url: str, json_lines: bool, timeout: float) -> None:
        self.url = url
        self.json_lines = json_lines
        self.timeout = timeout

    @contextlib.contextmanager
    def connect(self, *, subscribe: bool = False, extended: bool = True) -> Iterator[Client]:
        """Connect, for one command."""
        trace = write_line if self.json_lines else None
        try:
            client = Client.connect(
                self.url,
                subscribe=subscribe,
                extended=extended,
                timeout=self.timeout,
                trace=trace,
            )
        except ConnectError as error:
            raise CommandError(
                error.message,
                hint=f"{error.hint} (--url or NORTHSTAR_URL)",
                exit_code=CANNOT_CONNECT,
            ) from None
        with client:
            yield client

    @contextlib.contextmanager
    def connect_subscribed_if_permitted(self) -> Iterator[Client]:
        """Connect, with a subscription to notifications if that is permitted."""
        with contextlib.ExitStack() as stack:
            try:
                client = stack.enter_context(self.connect(subscribe=True))
            except RejectedError:
                client = stack.enter_context(self.connect())
            yield client

    @contextlib.contextmanager
    def progress(self, file: str) -> Iterator[Callable[[int, int], None] | None]:
        """Draw the progress of an upload, on a terminal; elsewhere yield None."""
        if self.json_lines or not sys.stderr.isatty():
            yield None
            return
        from northstar.cli.progress import progress

        with progress(os.path.basename(file)) as advance:
            yield advance

    def show(self, text: str, *, lines: bool = False) -> None:
        """Print a result of one line, or several (`lines`); nothing with the option --json."""
        if not self.json_lines:
            print(printable(text, lines=lines))


def write_line(line: bytes) -> None:
    """Print a line that was exchanged with the runtime."""
    if sys.stdout.isatty():
        line = printable_json(line.decode(errors="backslashreplace")).encode()
    # At once: the reader may wait for a notification.
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
