"""Measures probes; run as root: python -m bench.probes [CONTAINERS [KIND ...]]

Containers (by default 200) are probed each second, by `exec` (a static program that ends at once)
and by `connect` (to a port at which nobody listens). The rows are the interval that is reached,
from one probe to the next one in the same container, and the processor
time: of the runtime, and of the whole machine. docs/services.md contains the results.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.runtime import connect, cpu_time, row
from northstar import npk
from tests.system.harness import RuntimeProcess, manifest, wait_until

PAYLOAD: Final = (
    "#include <unistd.h>\nint main(int n, char **v) { (void)v; while (n < 2) pause(); return 3; }\n"
)
CONTAINERS: Final = 200
SECONDS: Final = 20.0
PROBES: Final[dict[str, dict[str, Any]]] = {
    "exec": {"exec": ["/payload", "check"]},
    "tcp": {"connect": "tcp:80"},
    "unix": {"connect": "unix:/absent"},
    "none": {},
}
_FAILURES: Final = 1000


def packages(directory: Path, kind: str, number: int) -> Iterator[Path]:
    """Pack apps whose health is probed each second."""
    source, program = directory / "payload.c", directory / "root/payload"
    source.write_text(PAYLOAD)
    program.parent.mkdir()
    compiler = shutil.which("musl-gcc") or "gcc"
    subprocess.run([compiler, "-static", "-Os", "-o", program, source], check=True)
    probe = PROBES[kind]
    # Each probe fails, so the log has a line for each. That costs the runtime some microseconds.
    health = {"probe": probe, "interval": "1s", "failures": _FAILURES, "action": "none"}
    service = {"health": health} if probe else {}
    for count in range(number):
        text = directory / "manifest.yaml"
        text.write_text(manifest(f"app{count:03}", service=service))
        out = directory / f"out{count}"
        out.mkdir()
        npk.pack(text, program.parent, out)
        yield from out.iterdir()


def busy() -> float:
    """Return the processor time that all processes and the kernel have used, in seconds."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def counted(runtime: RuntimeProcess) -> int:
    """Return the number of probes so far."""
    return len(re.findall(r"Probe of \S+ has failed", runtime.text()))


def measure(directory: Path, kind: str, number: int) -> None:
    """Measure one kind of probe, on a new runtime."""
    runtime = RuntimeProcess(directory, environment={"NORTHSTAR_LOG": "runtime=info"}).start()
    try:
        with connect(runtime) as client:
            for package in packages(directory, kind, number):
                client.start(client.install(package, "mem"))
            if PROBES[kind]:
                # The first probe of the last one comes at most 1.25 s after its start.
                wait_until(lambda: counted(runtime) > number, "all are probed", 60.0)
            report(runtime, kind, number)
        runtime.stop()
    finally:
        runtime.close()


def report(runtime: RuntimeProcess, kind: str, number: int) -> None:
    """Measure for `SECONDS`, and print the rows."""
    probes, used, all_used = counted(runtime), cpu_time(runtime.pid), busy()
    begun = time.monotonic()
    time.sleep(SECONDS)
    took = time.monotonic() - begun
    used, all_used = cpu_time(runtime.pid) - used, busy() - all_used
    probes = counted(runtime) - probes
    what = f"{number} containers, probes by {kind}"
    if probes:
        row(f"{what}: interval", f"{number * took / probes:7.2f} s   {probes / took:.1f} probes /s")
        row(f"{what}: runtime, each", f"{used / probes * 1e3:7.2f} ms")
        row(f"{what}: all, each", f"{all_used / probes * 1e3:7.2f} ms")
    row(f"{what}: runtime", f"{used / took * 100:7.1f} % of one processor")
    row(f"{what}: all", f"{all_used / took * 100:7.1f} % of one processor")


def main() -> None:
    """Measure with the given number of containers, and the given kinds of probes."""
    print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    number = int(sys.argv[1]) if len(sys.argv) > 1 else CONTAINERS
    for kind in sys.argv[2:] or PROBES:
        with tempfile.TemporaryDirectory(prefix="northstar-bench-") as directory:
            measure(Path(directory), kind, number)


if __name__ == "__main__":
    main()
