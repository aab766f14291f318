"""The command `nstar stats`, loaded on first use."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import click

from northstar.api import Status, Wanted, response
from northstar.api.feature import SERVICE
from northstar.cli import tables, usage
from northstar.cli.common import CommandError, colours
from northstar.cli.nstar_session import Session
from northstar.cli.parameters import ContainerType, DurationType, format_option
from northstar.cli.usage import Usage
from northstar.client import PermissionDeniedError
from northstar.client.blocking import Client
from northstar.model import Container, Name

INTERVAL: Final = 1.0
"""Seconds between two samples, by default."""


@click.command()
@click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Continue: update the table on a terminal, elsewhere print it again and again.",
)
@click.option(
    "-i",
    "--interval",
    type=DurationType(),
    default=INTERVAL,
    metavar="TIME",
    help="Time between two samples, as 1s (the default) or 500ms.",
)
@format_option()
@click.argument("containers", type=ContainerType(), metavar="[CONTAINER..]", nargs=-1)
@click.pass_obj
def stats(
    session: Session,
    watch: bool,
    interval: float,
    as_json: bool | None,
    containers: tuple[Container | Name, ...],
) -> None:
    """Show what containers use: processor, memory, processes and restarts.

    Without CONTAINER these are all that run or are to run. CPU is the processor time in the
    interval, in percent of one processor. `nstar top` is the same as a full screen, with keys.
    """
    with session.connect() as client:
        sampler = Sampler(client, client.resolve(*containers))
        sampler.sample()
        show = _printer(session, watch, as_json)
        while True:
            time.sleep(interval)
            show(sampler.sample())
            if not watch:
                break
    if sampler.refused:
        raise CommandError(sampler.refused)


class Sampler:
    """Measures the usage of containers on a connection.

    Attributes:
        refused: why containers that were asked for are missing from the last sample; or empty.
    """

    def __init__(self, client: Client, targets: Sequence[Container] = ()) -> None:
        """Without targets, all containers that run or are to run are measured."""
        self.refused = ""
        self._client = client
        self._targets = targets
        self._before: dict[Container, Usage] = {}

    def sample(self) -> list[Usage]:
        """Return the usage, with percentages since the call before."""
        targets = self._targets or sorted(self._client.list())
        states = self._states()
        found = []
        reasons = []
        for container, answer in zip(targets, self._client.inspect_all(targets), strict=True):
            if isinstance(answer, response.ContainerData):
                before = self._before.get(container)
                found.append(usage.measured(container, answer, states.get(container), before))
            elif isinstance(answer, PermissionDeniedError):
                raise answer
            elif self._targets:
                reasons.append(str(answer))
            # Else it was uninstalled meanwhile.
        self.refused = "; ".join(reasons)
        self._before = {one.container: one for one in found}
        return [one for one in found if self._targets or _is_shown(one)]

    def _states(self) -> dict[Container, Status]:
        if SERVICE not in self._client.features:
            return {}
        # All of them: one request, in which no container can be refused.
        results = self._client.status()
        return {one.container: one.status for one in results if isinstance(one, response.StatusOk)}


def _is_shown(one: Usage) -> bool:
    """Return whether a container runs, or is to run: one in backoff shows its restarts."""
    return one.pid is not None or (one.status is not None and one.status.wanted is Wanted.UP)


def _printer(
    session: Session, watch: bool, as_json: bool | None
) -> Callable[[Sequence[Usage]], None]:
    """Return the function that shows a sample."""
    if session.json_lines:
        return lambda _: None
    if as_json:
        return _emit
    if not watch or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return _print
    from northstar.cli.live import Live

    display = Live(sys.stdout)

    def draw(found: Sequence[Usage]) -> None:
        rows = [usage.row(one) for one in found]
        width, colour = tables.terminal_width(), colours(sys.stdout)
        display.draw(tables.drawn(usage.COLUMNS, rows, usage.styles(found), width, colour))

    return draw


def _print(found: Sequence[Usage]) -> None:
    rows = [usage.row(one) for one in found]
    tables.print_table(usage.COLUMNS, rows, usage.styles(found))
    sys.stdout.flush()


def _emit(found: Sequence[Usage]) -> None:
    from northstar.cli import json_output, json_values

    json_output.emit([json_values.used(one) for one in found])
