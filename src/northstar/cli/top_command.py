"""The command `nstar top`, loaded on first use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Final

import click

from northstar.api import Status, response
from northstar.api.feature import SERVICE
from northstar.cli import usage
from northstar.cli.common import CommandError, colours
from northstar.cli.nstar_session import Session
from northstar.cli.parameters import DurationType
from northstar.cli.screen import Keys, Screen
from northstar.cli.top_view import Act, Command, Follow, LogView, Verb, View, Wish
from northstar.cli.usage import Usage
from northstar.client import ConnectError, NoAnswerError, RefusedError
from northstar.client.asynchronous import Client
from northstar.model import Container, NorthstarError

_INTERVAL: Final = 2.0
"""Seconds between two samples, by default."""

_FIRST_INTERVAL: Final = 0.3
"""Seconds between the first two: percentages need both."""

_ESCAPE_DELAY: Final = 0.05
"""Seconds in which the rest of a key's sequence arrives, at 9600 baud too."""

_LOG_DELAY: Final = 0.05
"""Seconds between two drawings of a log: a fast writer must not keep the terminal busy."""

_LOG_BEGIN: Final = 200
"""Lines of a log that are shown at first."""

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@click.command()
@click.option(
    "-i",
    "--interval",
    type=DurationType(),
    default=_INTERVAL,
    metavar="TIME",
    help="Time between two samples, as 2s (the default) or 500ms.",
)
@click.pass_obj
def top(session: Session, interval: float) -> int:
    """Show what apps use on the full screen, and stop, kill or restart them.

    Arrow keys select an app. s stops it, k kills it, r restarts it, all after a question; l shows
    its log, which needs the permission `logs`. c, m, p, t and n sort by processor, memory,
    processes, restarts and name. q ends.
    """
    if session.json_lines or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError(
            "top needs a terminal for input and output", hint="use nstar stats", exit_code=2
        )
    if os.environ.get("TERM", "dumb") == "dumb":
        raise CommandError(
            "top cannot be shown on a terminal without cursor control (TERM=dumb)",
            hint="use nstar stats --watch",
            exit_code=2,
        )
    return asyncio.run(_run(session, interval))


async def _run(session: Session, interval: float) -> int:
    try:
        client = await Client.connect(session.url, timeout=session.timeout)
    except ConnectError as error:
        raise session.cannot_connect(error) from None
    async with client:
        with Screen() as screen:
            return await _Top(session, client, screen, interval).run()


class _Top:
    """The running command: one task each for the samples, for an action and for a log."""

    def __init__(self, session: Session, client: Client, screen: Screen, interval: float) -> None:
        self._session = session
        self._client = client
        self._screen = screen
        self._interval = interval
        self._view = View()
        self._keys = Keys()
        self._flush: asyncio.TimerHandle | None = None
        self._drawing: asyncio.TimerHandle | None = None
        self._colour = colours(sys.stdout)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log: asyncio.Task[None] | None = None
        self._sample_now = asyncio.Event()

    async def run(self) -> int:
        """Show the screen until the user, a signal or an error ends it; return the exit code.

        Raises:
            NorthstarError: the connection has ended, or a request is not permitted.
        """
        for number in _ENDING:
            # An ignored signal stays ignored, such as SIGHUP with nohup(1).
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._end, 128 + number)
        self._loop.add_signal_handler(signal.SIGWINCH, self._draw)
        self._loop.set_exception_handler(lambda _, context: self._fail(context.get("exception")))
        self._loop.add_reader(0, self._read)
        self._spawn(self._sample())
        try:
            return await self._ended
        finally:
            self._loop.remove_reader(0)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        """An error that a task does not expect ends the command."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)

    def _fail(self, error: BaseException | None) -> None:
        """End with an error, which is reported when the terminal is restored."""
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _draw(self) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
            self._drawing = None
        rows, columns = self._screen.size()
        try:
            self._screen.draw(self._view.lines(rows, columns, self._colour))
        except OSError:
            # The terminal is gone. SIGHUP follows, except for a parent that ignores it.
            self._end(128 + signal.SIGHUP)

    # Samples

    async def _sample(self) -> None:
        before: dict[Container, Usage] = {}
        interval = min(_FIRST_INTERVAL, self._interval)
        while True:
            try:
                async with asyncio.timeout(self._session.timeout):
                    rows = await self._measure(before)
            except TimeoutError:
                raise NoAnswerError(
                    f"the runtime did not answer within {self._session.timeout:g} s"
                ) from None
            self._view.update(rows)
            self._draw()
            before = {one.container: one for one in rows}
            self._sample_now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._sample_now.wait()
            interval = self._interval

    async def _measure(self, before: dict[Container, Usage]) -> list[Usage]:
        """Return the usage of all apps."""
        client = self._client
        states: dict[Container, Status] = {}
        if SERVICE in client.features:
            results = await client.status()
            states = {
                one.container: one.status for one in results if isinstance(one, response.StatusOk)
            }
        found = []
        for container in await client.list():
            try:
                data = await client.inspect(container)
            except RefusedError:
                continue  # uninstalled meanwhile
            if data.manifest.get("init") is not None:
                found.append(
                    usage.measured(container, data, states.get(container), before.get(container))
                )
        return found

    # Keys

    def _read(self) -> None:
        try:
            data = os.read(0, 1024)
        except OSError:
            data = b""
        if not data:
            self._end(128 + signal.SIGHUP)  # the terminal is gone
            return
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self._press(self._keys.feed(data))
        if self._keys.pending:
            self._flush = self._loop.call_later(
                _ESCAPE_DELAY, lambda: self._press(self._keys.flush())
            )

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            self._do(self._view.press(key))
        self._draw()

    def _do(self, wish: Wish) -> None:
        match wish:
            case Command.QUIT:
                self._end(0)
            case Command.INTERRUPT:
                self._end(128 + signal.SIGINT)
            case Command.SUSPEND:
                self._suspend()
            case Command.END_LOG:
                self._end_log()
            case Follow(container):
                self._view.log = LogView(container)
                self._log = self._spawn(self._follow(self._view.log))
            case Act():
                self._view.message = f"{wish.container}: {wish.verb.value} ..."
                self._spawn(self._act(wish))

    def _suspend(self) -> None:
        """Do what Ctrl-Z does elsewhere, with the terminal as it was."""
        self._screen.leave()
        # The whole job, as the terminal does it; it returns when the job is continued.
        os.kill(0, signal.SIGTSTP)
        try:
            self._screen.enter()
        except OSError:
            self._end(128 + signal.SIGHUP)  # the terminal is gone

    # Actions and logs have connections of their own: their answers may take long.

    async def _act(self, act: Act) -> None:
        container = act.container
        try:
            client = await Client.connect(self._session.url, timeout=self._session.timeout)
            async with client:
                if act.verb is Verb.STOP:
                    killed = (await client.stop(container)).killed
                    text = f"stopped {container}{', by SIGKILL' if killed else ''}"
                elif act.verb is Verb.KILL:
                    await client.kill(container, signal.SIGKILL)
                    text = f"sent SIGKILL to {container}"
                elif SERVICE in client.features:
                    await client.restart(container)
                    text = f"restarted {container}"
                else:
                    await client.stop(container)
                    await client.start(container)
                    text = f"restarted {container}"
        except NorthstarError as error:
            text = error.message
        self._view.message = text
        self._sample_now.set()
        self._draw()

    async def _follow(self, view: LogView) -> None:
        try:
            client = await Client.connect(self._session.url, timeout=self._session.timeout)
            async with (
                client,
                contextlib.aclosing(
                    client.logs(view.container, follow=True, lines=_LOG_BEGIN)
                ) as entries,
            ):
                async for entry in entries:
                    view.add(entry)
                    self._draw_soon()
                view.note = "the log has ended; q back"
        except NorthstarError as error:
            view.note = f"{error.message}; q back"
        self._draw()

    def _draw_soon(self) -> None:
        """Draw in a moment, once for all changes until then."""
        if self._drawing is None:
            self._drawing = self._loop.call_later(_LOG_DELAY, self._draw)

    def _end_log(self) -> None:
        self._view.log = None
        if self._log is not None:
            self._log.cancel()
            self._log = None
