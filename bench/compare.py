"""Compares our runtime with Northstar 0.9.2: the same packages, the same requests, in turn.

    make compare                                        both machines, writes docs/comparison.md
    .venv/bin/python -m bench.compare --native          prints the tables of this machine only
    .venv/bin/python -m bench.compare --only boots,bursts          only these, in a minute
    .venv/bin/python -m bench.compare --against TREE    another tree of ours in place of 0.9.2

Both runtimes run at the same time and take turns request by request, so that a change of the
machine's speed affects both. The first one alternates with each round. Only ratios are meaningful.
The report names the rows that fall short of their target (bench/targets.py).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from bench import boots, groups, report
from bench.contest import FULL, IN_EMULATION, SMOKE, Contest, Rounds, say
from bench.report import Result
from bench.sides import compile_modules, sides
from tests.system.harness import IN_VM


class Group(NamedTuple):
    """Measurements that can be selected.

    Attributes:
        words: what is measured, for the progress.
        measure: makes the measurements.
        shared: whether it uses the two runtimes that run side by side; else it starts its own.
        emulated: whether it is part of the smaller selection in the virtual machine.
    """

    words: str
    measure: Callable[[Contest], None]
    shared: bool = True
    emulated: bool = True


GROUPS = {
    "life": Group("one request at a time", groups.lives),
    "bursts": Group("bursts of requests", groups.bursts),
    "installs": Group("installations", groups.installs),
    "parallel": Group("requests at once", groups.parallel),
    "memory": Group("memory", groups.memory),
    "starts": Group("single starts", groups.bare_starts, emulated=False),
    "commands": Group("commands", groups.commands, emulated=False),
    "cycles": Group("cycles in parallel", groups.cycle_rates, emulated=False),
    "boots": Group("boots", boots.boots, shared=False),
    "many": Group("many containers", boots.many, shared=False, emulated=False),
    "output": Group("output", boots.outputs, shared=False, emulated=False),
}
"""All measurements in order: those that share the two runtimes come first."""


def measure(reference: Path, rounds: Rounds, selected: list[str]) -> Result:
    """Make the selected measurements.

    Args:
        reference: as for `sides`.
        rounds: how often.
        selected: names of groups.
    """
    tree = reference if reference.is_dir() else None
    compile_modules(Path(sys.executable))
    if tree is not None:
        compile_modules(tree / ".venv/bin/python")
    with (
        tempfile.TemporaryDirectory(prefix="northstar-compare-") as name,
        sides(reference) as found,
        Contest(found, Path(name), rounds) as contest,
    ):
        for key, group in GROUPS.items():
            if key in selected:
                if not group.shared:
                    contest.end()
                say(group.words)
                begun = time.monotonic()
                group.measure(contest)
                say(f"({time.monotonic() - begun:.0f} s)")
    facts = {**report.facts(tree), **contest.facts}
    with_targets = [] if IN_VM or tree is not None else selected
    return Result(facts, list(contest.rows.values()), with_targets, tree is not None)


def only(words: str) -> list[str]:
    """Return the names of groups in a list that is separated by commas.

    Raises:
        argparse.ArgumentTypeError: for an unknown name.
    """
    names = words.split(",")
    if unknown := sorted(set(names) - set(GROUPS)):
        known = ", ".join(GROUPS)
        raise argparse.ArgumentTypeError(f"no group {', '.join(unknown)}; groups: {known}")
    return names


def tree(words: str) -> Path:
    """Return the directory of another tree of ours.

    Raises:
        argparse.ArgumentTypeError: if it has no virtual environment with our command.
    """
    directory = Path(words).resolve()
    if not (directory / ".venv/bin/northstar").exists():
        raise argparse.ArgumentTypeError(
            f"{directory}/.venv/bin/northstar does not exist; run `make .venv/.run` there"
        )
    return directory


def interrupted(number: int, _: object) -> NoReturn:
    """Stop the measurement, which ends its runtimes; further signals do not disturb that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("interrupted, ending the runtimes")
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--native", action="store_true", help="print tables of this machine")
    where.add_argument("--json", action="store_true", help="print values as JSON")
    where.add_argument("--against", type=tree, metavar="TREE", help="compare with this tree")
    parser.add_argument("--only", type=only, metavar="GROUP,..", help=", ".join(GROUPS))
    parser.add_argument("--smoke", action="store_true", help="the shortest possible run")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a row falls short")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("error: run this as root: it starts two container runtimes")
    reference = options.against or report.reference()
    if not (options.json or options.native or options.against or options.only):
        smoke = ["--smoke"] if options.smoke else []
        results = [report.run(smoke, in_vm=False), report.run(smoke, in_vm=True)]
        code = report.write(results)
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupted)
        rounds = SMOKE if options.smoke else IN_EMULATION if IN_VM else FULL
        every = [name for name, group in GROUPS.items() if group.emulated or not IN_VM]
        results = [measure(reference, rounds, options.only or every)]
        text = msgspec.json.encode(results[0]).decode() if options.json else None
        print(text or report.render(results[0]), flush=True)
        code = 0
    failed = any(found.short() or found.unmeasured() or found.worse() for found in results)
    sys.exit(1 if options.strict and failed else code)


if __name__ == "__main__":
    main()
