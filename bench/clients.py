"""Measures how much clients slow each other; run as root: python -m bench.clients [NUISANCE ...]

One client starts and kills a container repeatedly, while a nuisance (tests/system/nuisances.py)
runs for some tenths of a second and is stopped for as long, alternately. So both medians come from
the same machine state. The nuisance runs at nice 19, so the measurement shows the work that it
causes in the runtime, not its processor time.

A row contains the median and the 95th percentile of a start (request to answer, image mounted)
without and with the nuisance, and the ratio of the medians. The target is at most 1.25.
"""

from __future__ import annotations

import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from bench.runtime import Bench, row, timed
from tests.system import nuisances

ROUNDS: Final = 12
STARTS: Final = 10
PAUSE: Final = 0.1
"""Seconds after a change, until earlier work is complete."""

IDLE: Final = 0.005
"""Seconds between two starts."""


class Latency(NamedTuple):
    """Durations of all starts in seconds, without and with a nuisance."""

    quiet: list[float]
    loud: list[float]

    @property
    def ratio(self) -> float:
        """The ratio of the median starts, with and without a nuisance."""
        return statistics.median(self.loud) / statistics.median(self.quiet)


def measure(bench: Bench, name: str, package: Path, rounds: int = ROUNDS) -> Latency:
    """Start a container without and with a nuisance, alternately."""
    found = Latency([], [])
    with nuisances.started(name, bench.runtime.url, package) as process:
        for _ in range(rounds):
            for seen, number in ((found.quiet, signal.SIGSTOP), (found.loud, signal.SIGCONT)):
                os.kill(process.pid, number)
                time.sleep(PAUSE)
                for _ in range(STARTS):
                    time.sleep(IDLE)
                    seen.append(timed(lambda: bench.client.start(bench.apps[0])))
                    bench.kill(bench.apps[0])
    return found


def options() -> dict[str, str]:
    """Return the options of the runtime."""
    return {"permissions": str(list(nuisances.PERMITTED))}


def main() -> None:
    """Measure with the named nuisances, or with all."""
    print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    for name in sys.argv[1:] or nuisances.NUISANCES:
        with tempfile.TemporaryDirectory(prefix="northstar-bench-") as directory:
            home = Path(directory)
            with Bench(home, 1, **options()) as bench:
                (package,) = (home / "packages").iterdir()
                found = measure(bench, name, package)
            medians = [statistics.median(seen) * 1e3 for seen in found]
            tails = [sorted(seen)[int(len(seen) * 0.95)] * 1e3 for seen in found]
            row(
                name,
                f"quiet {medians[0]:6.2f} (p95 {tails[0]:6.2f}) ms   "
                f"loud {medians[1]:6.2f} (p95 {tails[1]:6.2f}) ms   ratio {found.ratio:5.2f}",
            )


if __name__ == "__main__":
    main()
