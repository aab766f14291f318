"""What is compared on two running runtimes; `GROUPS` of bench/compare.py lists all groups."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

from bench import cycles, single
from bench.console import kill, mounts, start
from bench.contest import IDLE, Contest, Contestant, Turn, in_turn, processor_time
from bench.inputs import APPS, BURST, PARALLEL
from bench.sides import environment
from bench.targets import BARE
from tests.system.harness import IN_VM

TURN_SECONDS = 2.0
"""Seconds of cycles before it is the other side's turn."""


def lives(contest: Contest) -> None:
    """Measure the requests in a container's life, one at a time; in the VM also a signed one."""
    rounds, both = contest.rounds.life, contest.both
    with processor_time("such a life", both, rounds):
        for contestant in in_turn(rounds, both):
            life(contestant, contestant.apps[0], "")
    if IN_VM:
        for contestant in both:
            contestant.console.install(contest.packages.signed.read_bytes(), "signed")
        with processor_time("such a life, signed", both, rounds):
            for contestant in in_turn(rounds, both):
                life(contestant, "signed:1.0.0", ", signed (dm-verity)")
        for contestant in both:  # as many are installed as without
            contestant.console.request({"uninstall": {"container": "signed:1.0.0", "wipe": True}})


def life(contestant: Contestant, app: str, words: str) -> None:
    """Measure one life."""
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


def bursts(contest: Contest) -> None:
    """Measure small requests while one app runs."""
    rounds, both = contest.rounds.bursts, contest.both
    for contestant in both:
        contestant.start(contestant.apps[0])
    with processor_time(f"{BURST} of each of these four", both, rounds):
        for contestant in in_turn(rounds, both):
            burst(contestant)
    for contestant in both:
        contestant.end(contestant.apps[0])
        contestant.umount(contestant.apps[0])


def burst(contestant: Contestant) -> None:
    """Measure small requests, one at a time, without a pause."""
    for what, request in (
        ("ident", "ident"),
        (f"list of {APPS}", "list"),
        ("inspect, not running", {"inspect": {"container": contestant.apps[1]}}),
        ("inspect, running", {"inspect": {"container": contestant.apps[0]}}),
    ):
        call = partial(contestant.console.request, request)
        for _ in range(BURST):
            contestant.turn.time(what, call)


def installs(contest: Contest) -> None:
    """Measure an install of 20 MB into memory."""
    package = contest.packages.big.read_bytes()
    with processor_time("such an installation", contest.both, contest.rounds.installs):
        for contestant in in_turn(contest.rounds.installs, contest.both):
            call = partial(contestant.console.install, package, "plain")
            contestant.turn.time("install of 20 MB into memory", call)
            contestant.console.request({"uninstall": {"container": "big:1.0.0", "wipe": True}})


def parallel(contest: Contest) -> None:
    """Measure requests on `PARALLEL` apps at once."""
    rounds, both = contest.rounds.parallel, contest.both
    with processor_time(f"all that, {PARALLEL} apps", both, rounds):
        for contestant in in_turn(rounds, both):
            at_once(contestant)


def at_once(contestant: Contestant) -> None:
    """Measure requests on some apps at once, each from a separate client."""
    with contextlib.ExitStack() as stack:
        clients = [
            (stack.enter_context(contestant.runtime.console()), app) for app in contestant.some
        ]

        def all_at_once(request: Callable[[str], object]) -> None:
            for console, app in clients:
                console.send(request(app))
            for console, _ in clients:
                console.response()

        def end() -> None:
            all_at_once(kill)
            for app in contestant.some:
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


def memory(contest: Contest) -> None:
    """Measure the memory while `PARALLEL` apps run, and while all run."""
    for contestant in contest.both:
        for app in contestant.some:
            contestant.start(app)
        itself, everything = contestant.runtime.memory()
        for words, kilobytes in (
            ("the runtime and helpers", itself),
            ("each init", (everything - itself) / PARALLEL),
            ("all processes", everything),
        ):
            contestant.turn.note(f"memory of {words}, {PARALLEL} running", "MB", kilobytes / 1024)
        for app in contestant.apps[PARALLEL:]:
            contestant.start(app)
    # Afterwards: on both sides as many processes run that may share pages.
    for contestant in contest.both:
        proportional(contestant.turn, contestant.runtime.proportional(), APPS)
    for contestant in contest.both:
        for app in contestant.apps:
            contestant.end(app)
            contestant.umount(app)


def proportional(turn: Turn, sizes: tuple[int, int], running: int | str) -> None:
    """Record proportional set sizes in KiB."""
    for words, kilobytes in zip(("the runtime and helpers", "all processes"), sizes, strict=True):
        turn.note(f"memory (PSS) of {words}, {running} running", "MB", kilobytes / 1024)


def bare_starts(contest: Contest) -> None:
    """Measure a start without a mount, next to programs that never mount an image."""
    with single.programs(contest.directory, contest.packages.root) as others:
        beside_others(contest, others)


def beside_others(contest: Contest, others: Mapping[str, single.Program]) -> None:
    what, both = "a start, nothing to mount", contest.both
    for contestant in both:
        contestant.console.request(mounts("mount", contestant.apps[0]))
    for number in range(contest.rounds.life):
        turns: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
            (c.runtime.name, partial(c.start, c.apps[0]), partial(c.end, c.apps[0])) for c in both
        ]
        turns += [(name, other.start, other.end) for name, other in others.items()]
        for name, begin, end in turns if number % 2 else reversed(turns):
            time.sleep(IDLE)
            Turn(contest.rows, name).time(what, begin)
            end()
    # The table lists our runtime first.
    values = contest.rows[what].values
    contest.rows[what].values = {name: values[name] for name in ("ours", "reference", *others)}
    for contestant in both:
        contestant.umount(contestant.apps[0])


def commands(contest: Contest) -> None:
    """Measure `nstar ident` as a command, beside an interpreter that does nothing."""
    turns: list[tuple[str, list[str]]] = []
    for side, contestant in zip(contest.found, contest.both, strict=True):
        if (nstar := side.programs.nstar) is not None:
            url = f"unix://{contestant.runtime.socket}"
            turns.append((side.name, [str(nstar), "-u", url, "ident"]))
    turns.append((BARE, [sys.executable, "-c", "pass"]))
    for number in range(contest.rounds.commands + 1):
        for name, command in turns if number % 2 else reversed(turns):
            call = partial(
                subprocess.run,
                command,
                stdout=subprocess.DEVNULL,
                check=True,
                env=environment(logging=True),
            )
            time.sleep(IDLE)
            if number:
                Turn(contest.rows, name).time("`nstar ident` as a command", call)
            else:  # loads the programs from the disk
                call()
    row = contest.rows["`nstar ident` as a command"]
    row.values = {name: row.values[name] for name, _ in turns}


def cycle_rates(contest: Contest) -> None:
    """Measure cycles of requests on all apps in parallel, as the stress tool of 0.9.2 does."""
    program = cycles.compiled(contest.directory)
    turns = max(1, round(contest.rounds.cycles / TURN_SECONDS))
    load: dict[str, list[cycles.Load]] = {}
    with contextlib.ExitStack() as stack:
        for contestant in contest.both:
            stack.enter_context(contestant.disconnected())
        for steps in cycles.KINDS:
            seen: dict[str, list[cycles.Load]] = {}
            before = [contestant.runtime.processor_time() for contestant in contest.both]
            for contestant in in_turn(turns, contest.both):
                seconds = contest.rounds.cycles / turns
                made = cycles.run(program, contestant, steps, seconds)
                seen.setdefault(contestant.runtime.name, []).append(made)
            for contestant, used in zip(contest.both, before, strict=True):
                parts = seen[contestant.runtime.name]
                load.setdefault(contestant.runtime.name, []).extend(parts)
                number = sum(part.cycles for part in parts)
                what = f"{'-'.join(steps)} cycle, {APPS} apps in parallel"
                taken = sum(part.seconds for part in parts) * 1e3 / number
                contestant.turn.note(what, "ms", taken)
                processor = contestant.runtime.processor_time() - used
                contestant.turn.note(f"processor time of a {what}", "ms", processor / number)
                if steps[-1] != "umount":
                    with contestant.runtime.console() as console:
                        console.request(mounts("umount", *contestant.apps))
    shares = {
        name: sum(part.processor for part in parts) / sum(part.seconds for part in parts)
        for name, parts in load.items()
    }
    ours, theirs = (f"{shares[name]:.0%}" for name in ("ours", "reference"))
    contest.facts["client of the cycles"] = f"{ours} of a processor, beside the other {theirs}"
