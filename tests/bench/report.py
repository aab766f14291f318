"""What the comparison says: values, the machine's facts, and docs/comparison.md made of them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.bench.sides import lacking_capabilities, summary
from tests.system import host
from tests.system.harness import IN_VM

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/comparison.md"
COMMAND = "make compare"
SLOWER = "Where we need more:"
EVEN = 1.05
"""A ratio up to this is no difference that a sentence could explain."""

PREFACE = f"""\
# Beside Northstar 0.9.2
Made by `{COMMAND}` (root; cargo >= 1.74; some 15 minutes once the crates are built), which replaces
this page. The crate `northstar-runtime` 0.9.2 is started by a program of a few lines
(`tests/interop/src/bin/runtime.rs`, release build, no log), ours as the installed command. Both run
at the same time with the same configuration and the same packages, and take turns request by
request over a plain socket client, so that a slow moment of the machine hits both. Ratios count,
below 1 we need less; the times themselves are this machine's. Each request was preceded by 10 ms of
rest, but for those in bursts (ident, list, inspect).
"""

WHY = {
    "boot with 50 packages to the first answer": "The interpreter and its modules are most of it:"
    " what is left would need an interpreter that starts with modules in memory already.",
}
"""For each row in which we are slower: why, and what would mend it."""


class Row(msgspec.Struct):
    """What was measured of one thing: values by side."""

    what: str
    unit: str
    values: dict[str, list[float]]

    def median(self, side: str) -> float:
        return summary(self.values[side])[0]

    @property
    def ratio(self) -> float:
        return self.median("ours") / self.median("peer")


class Result(msgspec.Struct):
    """What was measured on one machine."""

    facts: dict[str, str]
    rows: list[Row]


def peer() -> Path:
    """Return the program that is made of the peer's crate."""
    directory = os.environ.get("NORTHSTAR_COMPARE")
    if directory is None:
        raise SystemExit(f"error: NORTHSTAR_COMPARE does not say where it is; run: {COMMAND}")
    program = Path(directory) / "runtime"
    if not program.exists():
        raise SystemExit(f"error: there is no {program}; run: {COMMAND}")
    return program


def facts() -> dict[str, str]:
    """Return what this machine is."""
    processor = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = 2 if host.cgroup_roots() == [Path("/sys/fs/cgroup")] else 1
    return {
        "machine": "QEMU, software emulation" if IN_VM else "the development machine",
        "processors": f"{os.cpu_count()} x {processor}",
        "memory": f"{memory:.1f} GiB",
        "kernel": f"{platform.release()}, cgroup v{version}",
        "0.9.2 runs as": "another user than root, since root lacks capabilities here"
        if lacking_capabilities()
        else "root",
        "Python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def run(arguments: list[str], *, in_vm: bool) -> Result:
    """Measure in another process, here or in the virtual machine."""
    place = "in the virtual machine" if in_vm else "on this machine"
    print(f"Measuring {place}", file=sys.stderr, flush=True)
    program = f"NORTHSTAR_COMPARE={os.environ['NORTHSTAR_COMPARE']}"
    measure = [sys.executable, "-m", "tests.bench.compare", "--json", *arguments]
    command = ["env", program, *measure]
    if in_vm:
        command = ["scripts/vm", "--timeout", "3000", "--", *command]
    # The virtual machine has one stream: what is said on the way, and in the end the result.
    last = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for last in process.stdout:
            if not last.startswith("{"):
                print(last, end="", file=sys.stderr, flush=True)
    if process.returncode != 0:
        raise SystemExit(f"error: nothing was measured {place}, see above")
    return msgspec.json.decode(last, type=Result)


def render(result: Result) -> str:
    """Return one machine's section."""
    lines = [f"## {result.facts['machine'].capitalize()}", ""]
    lines += [f"- {name}: {value}" for name, value in result.facts.items() if name != "machine"]
    lines += [
        "",
        "| work | n | ours, median | p95 | 0.9.2, median | p95 | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows = [row for row in result.rows if set(row.values) == {"ours", "peer"}]
    for row in rows:
        cells = [row.what, str(len(row.values["ours"]))]
        for side in ("ours", "peer"):
            median, p95 = summary(row.values[side])
            several = len(row.values[side]) > 1
            cells += [f"{_number(median)} {row.unit}", _number(p95) if several else ""]
        lines.append(f"| {' | '.join([*cells, f'{row.ratio:.2f}'])} |")
    lines += _slower(rows)
    for row in result.rows:
        if row not in rows:
            lines += [
                "",
                f"| {row.what} | n | median | p95 | ours / this |",
                "|---|--:|--:|--:|--:|",
            ]
            for side, values in row.values.items():
                median, p95 = summary(values)
                name = "0.9.2" if side == "peer" else side
                ratio = row.median("ours") / median
                lines.append(
                    f"| {name} | {len(values)} | {_number(median)} {row.unit} | {_number(p95)} "
                    f"| {ratio:.2f} |"
                )
    return "\n".join(lines) + "\n"


def _slower(rows: list[Row]) -> list[str]:
    lines = [f"- {row.what}: {WHY.get(row.what, '')}" for row in rows if row.ratio > EVEN]
    return ["", SLOWER, "", *lines] if lines else []


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def write(results: list[Result]) -> int:
    """Write the document; return the exit code: 1 if a slower row has no reason."""
    DOCUMENT.write_text("\n".join([PREFACE, *map(render, results)]))
    print(DOCUMENT.read_text())
    unexplained = {
        row.what
        for result in results
        for row in result.rows
        if set(row.values) == {"ours", "peer"} and row.ratio > EVEN and row.what not in WHY
    }
    for what in sorted(unexplained):
        print(f"error: we are slower, and report.WHY does not say why: {what}", file=sys.stderr)
    return 1 if unexplained else 0
