"""The connection and the output of a command of `nstar`. Does not import click."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from northstar.api import response
from northstar.cli.common import CommandError
from northstar.client import ConnectError, MissingFeatureError, RefusedError, RejectedError
from northstar.client.blocking import Client
from northstar.model import printable, printable_json

CANNOT_CONNECT: Final = 3
"""Exit code: no runtime listens at the URL."""

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds to wait for an answer."""


class Session:
    """The options before the command; it makes the connection when a command needs it."""

    def __init__(
        self, url: str, json_lines: bool, timeout: float, chosen: str | None = None
    ) -> None:
        """Prepare; `chosen` says why the URL is used, if no option gives it."""
        self.url = url
        self.chosen = chosen
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
            raise self.cannot_connect(error) from None
        with client:
            try:
                yield client
            except RefusedError as error:
                if self.json_lines:
                    raise  # more requests would be among the lines of the command
                from northstar.cli.refusals import refused

                raise refused(client, error) from None
            except MissingFeatureError as error:
                hint = "it is an older version: update the runtime of that device"
                raise CommandError(error.message, hint=hint) from None

    def cannot_connect(self, error: ConnectError) -> CommandError:
        """Return the failure of a command that no runtime answers."""
        error = ConnectError(error.url, error.reason, self.chosen)
        hint = f"{error.hint} (--url or NORTHSTAR_URL)"
        return CommandError(error.message, hint=hint, exit_code=CANNOT_CONNECT)

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

    def raise_failures(self, client: Client, results: Iterable[object]) -> None:
        """Raise the reasons of all failures among the results of a request, if there are any."""
        failures = [one for one in results if isinstance(one, response.Failed)]
        if not failures:
            return
        if self.json_lines:
            raise CommandError("; ".join(f"{one.container}: {one.error}" for one in failures))
        from northstar.cli.refusals import failed

        raise failed(client, [(one.container, one.error) for one in failures])

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
