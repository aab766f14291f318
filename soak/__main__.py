"""Run random requests and faults against a runtime for a long time: python -m soak --seed 1

Needs root. See docs/soak.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from soak.checker import Violation
from soak.memory import compare
from soak.plan import Plan
from soak.soak import Soak
from tests.system.conftest import PAYLOAD, compile_static

TAIL = 40


def plan() -> Plan:
    """Return the parameters of the command line."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=6, help="1: every run is the same")
    parser.add_argument("--faults", type=float, default=0.02, help="fraction of the operations")
    parser.add_argument("--restarts", type=int, default=10, help="in the first third")
    parser.add_argument("--round", type=int, default=1000, help="operations between two checks")
    parser.add_argument("--stall", type=float, default=20.0, help="the runtime's stream timeout")
    return Plan(**vars(parser.parse_args()))


def main() -> int:
    """Run, and return the exit code."""
    chosen = plan()
    print(
        f"seed {chosen.seed}, {chosen.operations} operations, {chosen.clients} clients", flush=True
    )
    directory = Path(tempfile.mkdtemp(prefix="northstar-soak-"))
    payload = compile_static(PAYLOAD, directory / "payload")
    home = directory / "runtime"
    home.mkdir()
    soak = Soak(chosen, home, payload)
    for number in (signal.SIGINT, signal.SIGTERM):
        # The clean-up runs also where the shell ignores SIGINT.
        signal.signal(number, signal.default_int_handler)
    try:
        asyncio.run(soak.run(lambda line: print(line, flush=True)))
    except Violation as violation:
        print(*soak.history, "", sep="\n")
        print(*soak.runtime.text().splitlines()[-TAIL:], "", sep="\n")
        print(f"VIOLATION at step {soak.done}, seed {chosen.seed}: {violation}")
        print(f"the runtime's directory is kept: {directory}")
        return 1
    for name, count in sorted({**soak.counts, **soak.faults}.items()):
        print(f"{count:8} {name}")
    print(f"{soak.done} operations, {soak.counts.total()} requests, {soak.faults.total()} faults")
    shutil.rmtree(directory)
    grown = False
    for text, grows in compare(soak.memory):
        print(f"{text}: IT GROWS" if grows else text)
        grown |= grows
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
