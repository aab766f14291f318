"""What is compared on runtimes of their own: boots, many containers; and output of ours alone."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from bench import output
from bench.console import Console, start
from bench.contest import IDLE, Contest, Turn, in_turn, say
from bench.groups import proportional
from bench.inputs import APPS
from bench.runtime import connect
from bench.sides import Runtime, Side
from tests.system.harness import IN_VM

MANY = "500"
"""Of the containers of `many`, in the names of rows."""
EDGE = 20
"""Number of the first and of the last starts."""


def boots(contest: Contest) -> None:
    """Measure boots with `APPS` packages; natively also with the log, and with 1,000 packages."""
    apps = contest.packages.apps[0].parent
    few = f"boot with {APPS} packages to the first answer"
    boots_of(contest, few, apps, contest.rounds.boots)
    if IN_VM:
        return
    boots_of(contest, f"{few}, with its log", apps, contest.rounds.boots, logging=True)
    what = "boot with 1,000 packages to the first answer, with its log"
    rounds = max(contest.rounds.boots // 3, 1)
    boots_of(contest, what, contest.thousand, rounds, logging=True)


def boots_of(
    contest: Contest, what: str, packages: Path, rounds: int, *, logging: bool = False
) -> None:
    """Measure boots with a directory of packages."""
    say(what)
    found = [side for side in contest.found if not logging or side.programs.logging is not None]
    for side in in_turn(1, found):  # loads the programs and packages from the disk
        boot(side, contest.directory, packages, logging=logging)
    for side in in_turn(rounds, found):
        taken = boot(side, contest.directory, packages, logging=logging)
        contest.turn(side).note(what, "ms", taken)


def boot(side: Side, directory: Path, packages: Path, *, logging: bool) -> float:
    """Return the time from the start of the program to the first answer, in ms."""
    home = directory / "boot"
    begun = time.perf_counter()
    with (
        Runtime(side, home, stored(packages), logging=logging) as runtime,
        runtime.console() as console,
    ):
        number = len(containers(console))
        taken = (time.perf_counter() - begun) * 1e3
        assert number == len(list(packages.iterdir()))
    shutil.rmtree(home)
    return taken


def stored(packages: Path) -> dict[str, str]:
    """Return the repository with a directory of packages."""
    return {"fs": f'type = {{ fs = {{ dir = "{packages}" }} }}'}


def containers(console: Console) -> list[str]:
    """Return the installed containers in order."""
    found: list[str] = sorted(json.loads(console.request("list"))["response"]["list"])
    return found


def many(contest: Contest) -> None:
    """Measure starts, memory and requests while many containers run.

    One side after the other, so that no others run beside them.
    """
    (packages := contest.directory / "many").mkdir()
    for package in sorted(contest.thousand.iterdir())[: contest.rounds.many]:
        os.link(package, packages / package.name)
    for side in contest.found:
        say(f"{contest.rounds.many} containers, {side.name}")
        home = contest.directory / f"many-{side.name}"
        with Runtime(side, home, stored(packages)) as runtime, runtime.console() as console:
            beside_many(contest.turn(side), runtime, console)


def beside_many(turn: Turn, runtime: Runtime, console: Console) -> None:
    """Start all apps, and measure the first and last starts, and then the other values."""
    apps = containers(console)
    first, last = set(apps[:EDGE]), set(apps[-EDGE:])
    times = {}
    for app in apps:
        if app in first or app in last:
            time.sleep(IDLE)
        begun = time.perf_counter()
        console.request(start(app))
        times[app] = (time.perf_counter() - begun) * 1e3
    medians = []
    for words, some in (("first", apps[:EDGE]), ("last", apps[-EDGE:])):
        for app in some:
            turn.note(f"start, the {words} {EDGE} of {MANY}", "ms", times[app])
        medians.append(statistics.median(times[app] for app in some))
    what = f"growth of a start from the first {EDGE} to the last {EDGE} of {MANY}"
    turn.note(what, "x", medians[1] / medians[0])
    for app in apps:
        call = partial(console.request, {"inspect": {"container": app}})
        turn.time(f"inspect, running, each of {MANY}", call)
    proportional(turn, runtime.proportional(), MANY)


def outputs(contest: Contest) -> None:
    """Measure how fast a container can print lines that nobody reads; only our runtime."""
    with tempfile.TemporaryDirectory(dir=contest.directory) as name:
        bench = output.Bench(Path(name), "warn")
        try:
            with connect(bench.runtime, subscribe=True) as client:
                app = bench.install(client, "writer")
                for _ in range(contest.rounds.output):
                    rate = output.one_writer(bench, client, app, 80)
                    Turn(contest.rows, "ours").note(
                        "output of a container, lines of 80 bytes", "MB/s", rate
                    )
        finally:
            bench.close()
