"""The commands of `nstar` for supervision. They are loaded on first use."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

import click

from northstar.api import notification, response
from northstar.api.status import Status
from northstar.cli import status_table
from northstar.cli.common import CommandError
from northstar.cli.nstar_commands import container_argument, describe
from northstar.cli.nstar_session import Session
from northstar.cli.parameters import ContainerType, DurationType, format_option
from northstar.cli.phrases import ended
from northstar.client import (
    NoAnswerError,
    NotReachedError,
    StillRunningError,
    WaitTimeoutError,
)
from northstar.client.blocking import Client
from northstar.model import Container, Exited, ExitStatus, Name

TIMED_OUT: Final = 124
"""Exit code of `wait` after its timeout, as of timeout(1)."""

_REFRESH: Final = 1.0
"""Longest time between two updates of the table on a terminal, in seconds."""

_PAUSE: Final = 0.1
"""Shortest time between two updates of the table on a terminal, in seconds."""


@click.command()
@container_argument
@click.pass_obj
def restart(session: Session, container: Container | Name) -> None:
    """Stop a container if it runs, and start it."""
    with session.connect() as client:
        restarted = client.restart(container, kill_timeout=session.timeout)
        session.show(f"restarted {restarted}")


@click.command()
@click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Continue: update the table on a terminal, elsewhere print a line for each change.",
)
@format_option()
@click.argument("containers", type=ContainerType(), metavar="[CONTAINER..]", nargs=-1)
@click.pass_obj
def status(
    session: Session,
    watch: bool,
    as_json: bool | None,
    containers: tuple[Container | Name, ...],
) -> None:
    """Show what is wanted of containers, and their states.

    Without CONTAINER all installed containers are shown.
    """
    if not watch:
        with session.connect() as client:
            results = client.status(*containers)
            found = [one for one in results if isinstance(one, response.StatusOk)]
            if as_json:
                from northstar.cli import json_output, json_values

                json_output.emit(
                    [json_values.of_status(one.container, one.status) for one in found]
                )
            elif not session.json_lines:
                status_table.show(found)
            session.raise_failures(client, results)
        return
    with session.connect(subscribe=True) as client:
        show = _emit_state if as_json else _print_state
        if (
            as_json
            or session.json_lines
            or not sys.stdout.isatty()
            or os.environ.get("TERM") == "dumb"
        ):
            _print_changes(session, client, containers, show)
        else:
            _redraw(client, containers)


def _print_changes(
    session: Session,
    client: Client,
    containers: tuple[Container | Name, ...],
    show: Callable[[Session, Container, Status], None],
) -> None:
    """Print a line for each container, then one for each change."""
    results = client.latest_status(*containers)
    session.raise_failures(client, results)
    for result in results:
        assert isinstance(result, response.StatusOk)
        show(session, result.container, result.status)
    watched = {result.container for result in results} if containers else None
    for message in client.notifications():
        if isinstance(message, notification.State) and (
            watched is None or message.container in watched
        ):
            show(session, message.container, message.status)


def _print_state(session: Session, container: Container, status: Status) -> None:
    session.show(describe(notification.State(container, status)))
    # At once: the reader may wait for it.
    sys.stdout.flush()


def _emit_state(_: Session, container: Container, status: Status) -> None:
    from northstar.cli import json_output, json_values

    json_output.emit(json_values.of_status(container, status))


def _redraw(client: Client, containers: tuple[Container | Name, ...]) -> None:
    """Show the table, and update it until the runtime shuts down."""
    targets = client.resolve(*containers)
    update = status_table.live()
    while True:
        update(client.latest_status(*targets))
        if not _wait_for_change(client.notifications(timeout=_REFRESH)):
            return
        time.sleep(_PAUSE)


def _wait_for_change(changes: Iterator[notification.Notification]) -> bool:
    """Wait for a notification, or a timeout; return False if the runtime shuts down."""
    try:
        change = next(changes, None)
    except NoAnswerError:
        return True
    return change is not None and not isinstance(change, notification.Shutdown)


@click.command()
@click.option(
    "--for",
    "goal",
    type=click.Choice(["started", "ready", "exit"]),
    default="exit",
    show_default=True,
    help="What to wait for.",
)
@click.option(
    "--timeout",
    type=DurationType(),
    metavar="TIME",
    help="Longest wait, as 5s or 1m 30s; without it there is no limit.",
)
@container_argument
@click.pass_obj
def wait(session: Session, container: Container | Name, goal: str, timeout: float | None) -> int:
    """Wait until a container has started, is ready, or exits.

    For an exit, the exit code is that of the container, or 128 + N if signal N ended it. After
    the timeout it is 124.
    """
    with session.connect(subscribe=True) as client:
        [resolved] = client.resolve(container)
        try:
            if goal == "exit":
                return _show_exit(session, resolved, client.wait(resolved, timeout))
            wait_for = client.wait_ready if goal == "ready" else client.wait_started
            wait_for(resolved, timeout)
        except (StillRunningError, WaitTimeoutError) as error:
            hint = error.hint or "wait longer (--timeout), or see nstar status"
            raise CommandError(error.message, hint=hint, exit_code=TIMED_OUT) from None
        except NotReachedError as error:
            hint = f"start it first (nstar start {container})"
            raise CommandError(error.message, hint=hint) from None
        session.show(f"{resolved} is {goal}")
        return 0


def _show_exit(session: Session, container: Container, status: ExitStatus) -> int:
    session.show(f"{container} {ended(status)}")
    return status.code if isinstance(status, Exited) else 128 + status.signal
