"""The two runtimes with the packages, and the rows in which each records its measurements."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from bench.console import kill, mounts, start
from bench.inputs import APPS, PARALLEL, Packages, pack, pack_apps
from bench.report import Row
from bench.sides import Runtime, Side
from tests.system.harness import IN_VM

T = TypeVar("T")

IDLE = 0.01
"""Idle time of a runtime before a measured request, in seconds."""


class Rounds(NamedTuple):
    """How often each measurement is made on each side.

    Attributes:
        apps: number of installed apps.
        cycles: seconds of each kind of cycles.
        many: number of containers that run at once.
        packages: number of packages of the large boot, of which `many` are used.
    """

    life: int
    parallel: int
    bursts: int
    installs: int
    boots: int
    commands: int = 30
    cycles: float = 8.0
    many: int = 500
    packages: int = 1000
    output: int = 3
    apps: int = APPS


FULL = Rounds(life=100, parallel=15, bursts=20, installs=15, boots=11)
IN_EMULATION = Rounds(life=30, parallel=5, bursts=4, installs=5, boots=3)
SMOKE = Rounds(
    1, 1, 1, 1, 1, commands=1, cycles=0.1, many=3, packages=3, output=1, apps=3
)  # fmt: skip
"""Checks only that the measurement works."""


def say(words: str) -> None:
    """Print the progress."""
    print(f"  {words}", file=sys.stderr, flush=True)


class Turn:
    """Records the measurements of one side."""

    def __init__(self, rows: dict[str, Row], name: str) -> None:
        self._rows = rows
        self._name = name

    def note(self, what: str, unit: str, value: float) -> None:
        """Add a value to a row."""
        row = self._rows.setdefault(what, Row(what, unit, {}))
        row.values.setdefault(self._name, []).append(value)

    def time(self, what: str, call: Callable[[], object]) -> None:
        """Add the duration of a call, in ms."""
        begun = time.perf_counter()
        call()
        self.note(what, "ms", (time.perf_counter() - begun) * 1e3)


class Contestant:
    """A side's runtime, its measurements, a subscribed client, and its installed packages.

    Attributes:
        apps: all installed apps.
        some: the first `PARALLEL` of them.
    """

    def __init__(self, runtime: Runtime, turn: Turn, packages: Packages) -> None:
        self.runtime = runtime
        self.turn = turn
        self.console = runtime.console(subscribe=True)
        try:
            self.apps = [self.console.install(app.read_bytes(), "plain") for app in packages.apps]
        except BaseException:
            self.console.close()
            raise
        self.some = self.apps[:PARALLEL]

    @contextlib.contextmanager
    def disconnected(self) -> Iterator[None]:
        """Close the client for the block: a subscriber that does not read would be closed."""
        self.console.close()
        yield
        self.console = self.runtime.console(subscribe=True)

    def close(self) -> None:
        """Close the client."""
        self.console.close()

    def start(self, app: str) -> None:
        self.console.request(start(app))

    def end(self, app: str) -> None:
        """Kill an app, and wait for its exit."""
        self.console.request(kill(app))
        self.console.wait_exit(app)

    def umount(self, *apps: str) -> None:
        self.console.request(mounts("umount", *apps))


class Contest:
    """Two sides, and what is measured.

    Attributes:
        found: our side and the other one.
        directory: an empty directory.
        rounds: how often to measure.
        rows: the measurements.
        facts: facts to report beside them.
    """

    def __init__(self, found: list[Side], directory: Path, rounds: Rounds) -> None:
        self.found = found
        self.directory = directory
        self.rounds = rounds
        self.rows: dict[str, Row] = {}
        self.facts: dict[str, str] = {}
        self._stack = contextlib.ExitStack()
        self._both: list[Contestant] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    @cached_property
    def packages(self) -> Packages:
        """The packages, which are packed at their first use."""
        say("packing")
        (work := self.directory / "packages").mkdir()
        return pack(work, self.rounds.apps)

    @cached_property
    def thousand(self) -> Path:
        """The directory of the packages of the large boot."""
        say(f"packing {self.rounds.packages} packages")
        (work := self.directory / "thousand").mkdir()
        return pack_apps(work, self.rounds.packages)[1]

    @property
    def both(self) -> list[Contestant]:
        """The running runtimes of both sides, which are started at their first use."""
        if not self._both:
            repositories = {"plain": 'type = "mem"'}
            if IN_VM:
                repositories["signed"] = f'type = "mem"\nkey = "{self.packages.key}"'
            for side in self.found:
                home = self.directory / side.name
                runtime = self._stack.enter_context(Runtime(side, home, repositories))
                contestant = Contestant(runtime, self.turn(side), self.packages)
                self._stack.callback(contestant.close)
                self._both.append(contestant)
        return self._both

    def end(self) -> None:
        """Stop both runtimes: what follows starts others."""
        self._both = []
        self._stack.close()

    def turn(self, side: Side) -> Turn:
        """Return what records the measurements of a side."""
        return Turn(self.rows, side.name)


def in_turn(rounds: int, both: list[T]) -> Iterator[T]:
    """Yield the sides in turn, each `rounds` times; the first one alternates."""
    for number in range(rounds):
        yield from both if number % 2 else reversed(both)


@contextlib.contextmanager
def processor_time(what: str, both: list[Contestant], times: int) -> Iterator[None]:
    """Record the processor time of each side in the block, divided by `times`.

    Unlike durations it does not depend on the load of the machine.
    """
    before = [contestant.runtime.processor_time() for contestant in both]
    yield
    for contestant, used in zip(both, before, strict=True):
        taken = contestant.runtime.processor_time() - used
        contestant.turn.note(f"processor time of {what}", "ms", taken / times)
