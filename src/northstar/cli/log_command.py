"""The command `nstar logs`, loaded on first use."""

from __future__ import annotations

import contextlib
import heapq
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import click

from northstar.api.log import Log, LogLine, LogStream
from northstar.cli.common import colours
from northstar.cli.dates import date
from northstar.cli.nstar_session import Session, write_line
from northstar.cli.parameters import ContainerType, DurationType
from northstar.client.blocking import Client
from northstar.client.reading import BOTH
from northstar.model import Container, Name, printable

_NAMES: Final = {LogStream.STDOUT: "out", LogStream.STDERR: "err"}
_COLOURS: Final = {LogStream.STDOUT: 36, LogStream.STDERR: 33}
"""Cyan and yellow of ECMA-48, "Select Graphic Rendition"."""


class _StreamsType(click.ParamType[tuple[LogStream, ...]]):
    """`out`, `err`, or both with a comma."""

    name = "streams"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[LogStream, ...]:
        """Parse it."""
        if isinstance(value, tuple):
            return value
        streams = {name: stream for stream, name in _NAMES.items()}
        found = []
        for word in value.split(","):
            if word not in streams:
                self.fail(f"{word!r} is not a stream (out or err)", param, ctx)
            found.append(streams[word])
        return tuple(found)


class _Options(NamedTuple):
    """Which lines are wanted; see `Client.logs`."""

    since: float | None
    lines: int | None
    streams: tuple[LogStream, ...]


class _Printer:
    """Prints the messages of logs."""

    def __init__(self, session: Session, targets: Sequence[Container], *, follow: bool) -> None:
        self._session = session
        self._follow = follow
        # The names are shown if there are several.
        self._width = max(len(str(one)) for one in targets) if len(targets) > 1 else 0
        self._colours = colours(sys.stdout)
        self._runs: dict[Container, int] = {}

    def show(self, entry: Log) -> None:
        """Print a line or a gap; before it a line if another run begins."""
        if not self._session.json_lines:
            run = self._runs.setdefault(entry.container, entry.run)
            if run != entry.run:
                self._runs[entry.container] = entry.run
                self._print(self._prefix(entry) + f"... run {entry.run} ...")
            self._print(self._text(entry))

    def _prefix(self, entry: Log) -> str:
        return f"{entry.container!s:{self._width}} " if self._width else ""

    def _text(self, entry: Log) -> str:
        if not isinstance(entry, LogLine):
            return self._prefix(entry) + f"({entry.lost} bytes lost)"
        stream = _NAMES[entry.stream]
        if self._colours:
            stream = f"\x1b[{_COLOURS[entry.stream]}m{stream}\x1b[0m"
        text = printable(entry.text)
        return f"{date(entry.time)} {self._prefix(entry)}{stream}  {text}"

    def _print(self, text: str) -> None:
        # At once: the reader may wait for it.
        print(text, flush=self._follow)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with later output, over restarts.")
@click.option("-n", "lines", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option(
    "--since", type=DurationType(), metavar="TIME", help="Only lines of the last TIME, as 10m."
)
@click.option(
    "--streams",
    type=_StreamsType(),
    default=BOTH,
    metavar="STREAMS",
    help="Only these streams: out, err, or out,err (the default).",
)
@click.argument("containers", type=ContainerType(), metavar="CONTAINER..", nargs=-1, required=True)
@click.pass_obj
def logs(
    session: Session,
    follow: bool,
    lines: int | None,
    since: float | None,
    streams: tuple[LogStream, ...],
    containers: tuple[Container | Name, ...],
) -> None:
    """Print the output of containers: of the last run that ended, and of the present one.

    Only the newest output is kept. Where older output was overwritten before it was read, a line
    says how much. The lines of several containers are sorted by their times.
    """
    options = _Options(since, lines, streams)
    with session.connect() as client:
        targets = tuple(dict.fromkeys(client.resolve(*containers)))
        printer = _Printer(session, targets, follow=follow)
        if len(targets) == 1:
            for entry in client.logs(targets[0], follow=follow, **options._asdict()):
                printer.show(entry)
            return
        begun = time.monotonic()
        cursors = _show_sorted(session, client, targets, options, printer)
    if follow:
        if since is not None:
            options = options._replace(since=since + time.monotonic() - begun)
        _follow(session, cursors, options, printer)


def _show_sorted(
    session: Session,
    first: Client,
    targets: Sequence[Container],
    options: _Options,
    printer: _Printer,
) -> dict[Container, str | None]:
    """Print what is there now; return the cursor of each container's last line."""
    cursors: dict[Container, str | None] = dict.fromkeys(targets)
    with contextlib.ExitStack() as stack:
        # One connection each: on the same one, the logs would come one after the other.
        clients = [first, *(stack.enter_context(session.connect()) for _ in targets[1:])]
        logs = [
            _timed(client.logs(target, **options._asdict()))
            for client, target in zip(clients, targets, strict=True)
        ]
        for _, entry in heapq.merge(*logs, key=lambda timed: timed[0]):
            printer.show(entry)
            if isinstance(entry, LogLine):
                cursors[entry.container] = entry.cursor
    return cursors


def _timed(entries: Iterator[Log]) -> Iterator[tuple[int, Log]]:
    """Add a time to each message; a gap gets that of the line before it."""
    last = 0
    for entry in entries:
        if isinstance(entry, LogLine):
            last = max(last, entry.time)
        yield last, entry


def _follow(
    session: Session, cursors: dict[Container, str | None], options: _Options, printer: _Printer
) -> None:
    """Print what comes behind the cursors, as it comes."""
    import asyncio

    from northstar.client.asynchronous import Client as AsyncClient

    trace = write_line if session.json_lines else None

    async def follow(container: Container, cursor: str | None) -> None:
        # Behind the cursor everything is wanted.
        lines = options.lines if cursor is None else None
        client = await AsyncClient.connect(session.url, timeout=session.timeout, trace=trace)
        async with (
            client,
            contextlib.aclosing(
                client.logs(
                    container,
                    follow=True,
                    cursor=cursor,
                    since=options.since,
                    lines=lines,
                    streams=options.streams,
                )
            ) as entries,
        ):
            async for entry in entries:
                printer.show(entry)

    async def follow_all() -> None:
        tasks = [asyncio.ensure_future(follow(*one)) for one in cursors.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(follow_all())
