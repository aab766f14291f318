"""Compares our runtime with Northstar 0.9.2: the same packages, the same requests, in turn.

    make compare                                        both machines, writes docs/comparison.md
    .venv/bin/python -m bench.compare --native    prints the tables of this machine only

Both runtimes run at the same time and take turns request by request, so that a change of the
machine's speed affects both. The first one alternates with each round. Only ratios are meaningful.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from bench import report, single
from bench.report import Row
from bench.sides import (
    BURST,
    PARALLEL,
    Console,
    Packages,
    Runtime,
    Side,
    kill,
    mounts,
    pack,
    sides,
    start,
)
from tests.system.harness import IN_VM

T = TypeVar("T")

IDLE = 0.01
"""Idle time of a runtime before a measured request, in seconds."""


class Rounds(NamedTuple):
    """How often each measurement is made on each side."""

    life: int
    parallel: int
    bursts: int
    installs: int
    boots: int


FULL = Rounds(life=100, parallel=15, bursts=20, installs=15, boots=11)
IN_EMULATION = Rounds(life=30, parallel=5, bursts=4, installs=5, boots=3)
SMOKE = Rounds(life=2, parallel=1, bursts=1, installs=1, boots=1)
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


class Contestant(NamedTuple):
    """A side's runtime, its measurements, a subscribed client, and its installed packages."""

    runtime: Runtime
    turn: Turn
    console: Console
    apps: list[str]

    def start(self, app: str) -> None:
        self.console.request(start(app))

    def end(self, app: str) -> None:
        """Kill an app, and wait for its exit."""
        self.console.request(kill(app))
        self.console.wait_exit(app)

    def umount(self, app: str) -> None:
        self.console.request(mounts("umount", app))


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


def measure(reference: Path, rounds: Rounds) -> list[Row]:
    """Make all measurements; return the rows."""
    rows: dict[str, Row] = {}
    with (
        tempfile.TemporaryDirectory(prefix="northstar-compare-") as name,
        sides(reference) as found,
        contextlib.ExitStack() as stack,
    ):
        directory = Path(name)
        (work := directory / "packages").mkdir()
        say("packing")
        packages = pack(work)
        repositories = {"plain": 'type = "mem"'}
        if IN_VM:
            repositories["signed"] = f'type = "mem"\nkey = "{packages.key}"'
        both = []
        for side in found:
            runtime = stack.enter_context(Runtime(side, directory / side.name, repositories))
            console = stack.enter_context(runtime.console(subscribe=True))
            apps = [
                console.install(path.read_bytes(), "plain") for path in packages.apps[:PARALLEL]
            ]
            both.append(Contestant(runtime, Turn(rows, side.name), console, apps))

        say("one request at a time")
        with processor_time("such a life", both, rounds.life):
            for contestant in in_turn(rounds.life, both):
                life(contestant, contestant.apps[0], "")
        if IN_VM:
            say("the same with a signed package")
            for contestant in both:
                contestant.console.install(packages.signed.read_bytes(), "signed")
            with processor_time("such a life, signed", both, rounds.life):
                for contestant in in_turn(rounds.life, both):
                    life(contestant, "signed:1.0.0", ", signed (dm-verity)")
        say("bursts of requests")
        for contestant in both:
            contestant.start(contestant.apps[0])
        with processor_time(f"{BURST} of each of these four", both, rounds.bursts):
            for contestant in in_turn(rounds.bursts, both):
                burst(contestant)
        for contestant in both:
            contestant.end(contestant.apps[0])
            contestant.umount(contestant.apps[0])
        say("installations")
        package = packages.big.read_bytes()
        with processor_time("such an installation", both, rounds.installs):
            for contestant in in_turn(rounds.installs, both):
                install(contestant, package)
        say(f"{PARALLEL} at once")
        with processor_time(f"all that, {PARALLEL} apps", both, rounds.parallel):
            for contestant in in_turn(rounds.parallel, both):
                parallel(contestant)
        for contestant in both:
            memory(contestant)
        if not IN_VM:
            say("single starts")
            with single.programs(directory, packages.root) as others:
                bare_starts(rows, rounds.life, both, others)
        say("boots")
        for side in in_turn(1, found):  # loads the programs from the disk
            boot(Turn({}, side.name), side, directory, packages)
        for side in in_turn(rounds.boots, found):
            boot(Turn(rows, side.name), side, directory, packages)
    return list(rows.values())


def bare_starts(
    rows: dict[str, Row],
    rounds: int,
    both: list[Contestant],
    others: Mapping[str, single.Program],
) -> None:
    """Measure a start without a mount, next to programs that never mount an image."""
    what = "a start, nothing to mount"
    for contestant in both:
        contestant.console.request(mounts("mount", contestant.apps[0]))
    for number in range(rounds):
        turns: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
            (c.runtime.name, partial(c.start, c.apps[0]), partial(c.end, c.apps[0])) for c in both
        ]
        turns += [(name, other.start, other.end) for name, other in others.items()]
        for name, begin, end in turns if number % 2 else reversed(turns):
            time.sleep(IDLE)
            Turn(rows, name).time(what, begin)
            end()
    # The table lists our runtime first.
    values = rows[what].values
    rows[what].values = {name: values[name] for name in ("ours", "reference", *others)}
    for contestant in both:
        contestant.umount(contestant.apps[0])


def life(contestant: Contestant, app: str, words: str) -> None:
    """Measure the requests in a container's life, one at a time."""
    for what, call in (
        ("mount", lambda: contestant.console.request(mounts("mount", app))),
        ("start, image mounted", lambda: contestant.start(app)),
        ("kill -9 to the exit notification", lambda: contestant.end(app)),
        ("umount", lambda: contestant.umount(app)),
        ("start, image not mounted", lambda: contestant.start(app)),
    ):
        time.sleep(IDLE)
        contestant.turn.time(what + words, call)
    contestant.end(app)
    contestant.umount(app)


def burst(contestant: Contestant) -> None:
    """Measure small requests, one at a time, without a pause."""
    for what, request in (
        ("ident", "ident"),
        (f"list of {PARALLEL}", "list"),
        ("inspect, not running", {"inspect": {"container": contestant.apps[1]}}),
        ("inspect, running", {"inspect": {"container": contestant.apps[0]}}),
    ):
        call = partial(contestant.console.request, request)
        for _ in range(BURST):
            contestant.turn.time(what, call)


def install(contestant: Contestant, package: bytes) -> None:
    """Measure an install of 20 MB into memory."""
    call = partial(contestant.console.install, package, "plain")
    contestant.turn.time("install of 20 MB into memory", call)
    contestant.console.request({"uninstall": {"container": "big:1.0.0", "wipe": True}})


def parallel(contestant: Contestant) -> None:
    """Measure requests on all apps at once, each from a separate client."""
    with contextlib.ExitStack() as stack:
        clients = [
            (stack.enter_context(contestant.runtime.console()), app) for app in contestant.apps
        ]

        def all_at_once(request: Callable[[str], object]) -> None:
            for console, app in clients:
                console.send(request(app))
            for console, _ in clients:
                console.response()

        def end() -> None:
            all_at_once(kill)
            for app in contestant.apps:
                contestant.console.wait_exit(app)

        for what, call in (
            ("starts at once, not mounted", lambda: all_at_once(start)),
            ("kills at once, to the last exit", end),
            ("starts at once, mounted", lambda: all_at_once(start)),
        ):
            time.sleep(IDLE)
            contestant.turn.time(f"{PARALLEL} {what}", call)
        end()
        all_at_once(lambda app: mounts("umount", app))


def memory(contestant: Contestant) -> None:
    """Measure the memory while all apps run."""
    for app in contestant.apps:
        contestant.start(app)
    itself, everything = contestant.runtime.memory()
    for words, kilobytes in (
        ("the runtime and helpers", itself),
        ("each init", (everything - itself) / PARALLEL),
        ("all processes", everything),
    ):
        contestant.turn.note(f"memory of {words}, {PARALLEL} running", "MB", kilobytes / 1024)
    for app in contestant.apps:
        contestant.end(app)
        contestant.umount(app)


def boot(turn: Turn, side: Side, directory: Path, packages: Packages) -> None:
    """Measure the time from the start of the program to the first answer."""
    repositories = {"fs": f'type = {{ fs = {{ dir = "{packages.apps[0].parent}" }} }}'}
    home = directory / "boot"
    begun = time.perf_counter()
    with Runtime(side, home, repositories) as runtime:
        with runtime.console() as console:
            listed = json.loads(console.request("list"))["response"]["list"]
            taken = (time.perf_counter() - begun) * 1e3
        assert len(listed) == len(packages.apps)
    shutil.rmtree(home)
    turn.note(f"boot with {len(listed)} packages to the first answer", "ms", taken)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--native", action="store_true", help="print tables of this machine")
    where.add_argument("--json", action="store_true", help="print values as JSON")
    parser.add_argument("--smoke", action="store_true", help="the shortest possible run")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("error: run this as root: it starts two container runtimes")
    reference = report.reference()
    rounds = SMOKE if options.smoke else IN_EMULATION if IN_VM else FULL
    if options.json or options.native:
        result = report.Result(report.facts(), measure(reference, rounds))
        print(
            msgspec.json.encode(result).decode() if options.json else report.render(result),
            flush=True,
        )
        return
    smoke = ["--smoke"] if options.smoke else []
    sys.exit(report.write([report.run(smoke, in_vm=False), report.run(smoke, in_vm=True)]))


if __name__ == "__main__":
    main()
