"""Measures the supervision of containers; run as root: python -m bench.services [DELAY ...]

A client starts and kills one container, beside 50 quiet ones and beside 50 that crash again and
again, with these delays before each restart (by default 10ms, 100ms and 1s). Quiet and crashing
phases take turns on one runtime, since the speed of a shared machine changes. docs/faults.md
contains the bound.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.runtime import connect, cpu_time, exits, row, timed, times
from northstar import npk
from northstar.api.response import StatusOk
from northstar.client import blocking
from tests.system.harness import RuntimeProcess, manifest

PAYLOAD = (
    "#include <unistd.h>\nint main(int n, char **v) { (void)v; while (n < 2) pause(); return 1; }\n"
)
APPS = 50
PHASES = 8
STARTS = 30
SETTLE = 1.5
"""Seconds after the start of 50 containers: the burst of restarts is over."""


def compiled(directory: Path) -> Path:
    """Compile the payload: it pauses, or with an argument it exits with 1."""
    source, program = directory / "payload.c", directory / "root/payload"
    source.write_text(PAYLOAD)
    program.parent.mkdir()
    compiler = shutil.which("musl-gcc") or "gcc"
    subprocess.run([compiler, "-static", "-Os", "-o", program, source], check=True)
    return program


def packages(directory: Path, delay: str) -> Iterator[Path]:
    """Pack `APPS` apps that are restarted after `delay`, and one that is not restarted."""
    root = compiled(directory).parent
    restart = {"policy": "always", "delay": delay, "max_delay": delay}
    for number in range(APPS + 1):
        text = directory / "manifest.yaml"
        service = {"restart": restart} if number < APPS else {}
        text.write_text(manifest(f"app{number:02}", service=service))
        out = directory / f"out{number}"
        out.mkdir()
        npk.pack(text, root, out)
        yield from out.iterdir()


def restarts(client: blocking.Client, apps: list[str]) -> int:
    """Return the number of runs of these apps so far."""
    results = client.status(*apps)
    return sum(result.status.run for result in results if isinstance(result, StatusOk))


def measure(directory: Path, delay: str) -> None:
    """Measure with one delay, on a new runtime."""
    runtime = RuntimeProcess(
        directory, environment={"NORTHSTAR_LOG": "runtime=warn,container=warn"}
    ).start(wait=False)
    try:
        with connect(runtime) as client:
            apps = [str(client.install(package, "mem")) for package in packages(directory, delay)]
            run_phases(runtime, client, apps, delay)
        runtime.stop()
    finally:
        runtime.close()


def run_phases(
    runtime: RuntimeProcess, client: blocking.Client, apps: list[str], delay: str
) -> None:
    """Measure in phases, with quiet and with crashing apps in turn, and print the rows."""
    seen: dict[str, list[float]] = {"quiet": [], "crashing": []}
    runs = 0
    busy = cpu = 0.0
    for number in range(2 * PHASES):
        kind = ("quiet", "crashing")[number % 2]
        for app in apps[:-1]:
            client.start(app, arguments=("crash",) if kind == "crashing" else ())
        time.sleep(SETTLE)
        before, used, begun = restarts(client, apps[:-1]), cpu_time(runtime.pid), time.monotonic()
        seen[kind] += starts(runtime, apps[-1])
        if kind == "crashing":
            busy += time.monotonic() - begun
            runs += restarts(client, apps[:-1]) - before
            cpu += cpu_time(runtime.pid) - used
        for app in apps[:-1]:
            client.stop(app, timeout=0.001)
    for kind, found in seen.items():
        times(f"start beside {APPS} {kind} ones, delay {delay}", found)
    medians = [statistics.median(seen[kind]) for kind in ("quiet", "crashing")]
    row(
        f"the same, ratio of the medians, delay {delay}",
        f"{medians[1] / medians[0]:7.2f}   {runs / busy:.1f} restarts /s   "
        f"CPU {cpu / busy * 100:.0f} %",
    )


def starts(runtime: RuntimeProcess, app: str) -> list[float]:
    """Start and kill a container some times, and return the seconds of each start."""
    seen = []
    with runtime.client(subscribe=True) as client:
        ended = exits(client)
        for _ in range(STARTS):
            time.sleep(0.01)
            seen.append(timed(lambda: client.start(app)))
            client.kill(app, 9)
            while next(ended) != app:
                continue
    return seen


def main() -> None:
    """Measure with the given delays."""
    print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    for delay in sys.argv[1:] or ("1s", "100ms", "10ms"):
        with tempfile.TemporaryDirectory(prefix="northstar-bench-") as directory:
            measure(Path(directory), delay)


if __name__ == "__main__":
    main()
