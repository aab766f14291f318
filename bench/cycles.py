"""Runs bench/cycles.c, the client that makes cycles of requests on many containers in parallel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from bench.contest import Contestant

SOURCE: Final = Path(__file__).with_name("cycles.c")

KINDS: Final = (("start", "kill"), ("start", "kill", "umount"), ("mount", "umount"))
"""The steps of each kind of cycle."""


class Load(NamedTuple):
    """What a run of the client did.

    Attributes:
        cycles: the complete cycles of all containers.
        seconds: from the first request to the last answer.
        processor: processor time of the client in seconds.
    """

    cycles: int
    seconds: float
    processor: float


def compiled(directory: Path) -> Path:
    """Compile the client in `directory`, and return its path."""
    program = directory / "cycles"
    compiler = shutil.which("gcc") or "cc"
    options = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *options, "-o", program, SOURCE], check=True)
    return program


def run(program: Path, contestant: Contestant, steps: tuple[str, ...], seconds: float) -> Load:
    """Make cycles on all apps of a side for some seconds."""
    words = [str(contestant.runtime.socket), str(seconds), ",".join(steps), *contestant.apps]
    done = subprocess.run([str(program), *words], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{contestant.runtime.name}: the client of the cycles has failed")
    cycles, taken, processor = done.stdout.split()
    return Load(int(cycles), float(taken), float(processor))
