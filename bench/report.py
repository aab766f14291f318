"""The result of the comparison: values, facts of the machine, and docs/comparison.md."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from bench import targets
from bench.console import summary
from bench.inputs import APPS, BURST, PARALLEL
from bench.sides import lacking_capabilities
from tests.system import host
from tests.system.harness import IN_VM

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/comparison.md"
COMMAND = "make compare"
SLOWER = "Where our runtime needs more:"
SHORT = "Rows that fall short of [the target](targets.md):"
UNMEASURED = "Targets that were not measured:"
EVEN = 1.05
"""A ratio up to this counts as equal, and needs no reason."""

PREFACE = f"""\
# Comparison with Northstar 0.9.2
`{COMMAND}` writes this page (root; cargo >= 1.74; about 15 minutes once the crates are built, 5 of
them on the machine itself). `make interop` compares the answers of both.

A program of a few lines (`tests/interop/src/bin/runtime.rs`, release build, no log) starts the
crate `northstar-runtime` 0.9.2; our runtime is the installed command, with compiled modules. Both
run at the same time with the same configuration and packages, and take turns request by request
over a plain socket client, so that a slow moment of the machine affects both. Before each request
both are idle for 10 ms, except in bursts (ident, list, inspect).

- *with its log*: the program `northstar` of 0.9.2 with its log, and our command with its log, both
  into a file. `nstar` of 0.9.2 is its program too.
- *cycle*: the time of all cycles together, divided by their number, in 8 seconds. Each app has a
  subscribed client that starts it, waits for its start, ends it by SIGTERM, and waits for its exit,
  as the stress tool of 0.9.2 does. One C program (`bench/cycles.c`) is all these clients.
- *of 500*: one runtime after the other, since no other containers should run. Growth is the ratio
  of the median starts of one runtime; the column "ratio" compares the growth of both.
- *memory* counts a page that the processes of one side share once, and a page that other programs
  share in full, as on a device without these. *memory (PSS)* is the proportional set size: a page
  that other programs share, here the interpreter of the measurement, counts in part. Payloads are
  not counted.

Only ratios are meaningful; below 1 our runtime needs less. On a busy machine the ratio of the
least times, and processor time, are more reliable than the medians. [Targets](targets.md) apply to
the machine itself.
"""

_INTERPRETED = (
    "The system calls are the same. Our code around them is interpreted, and each request passes"
    " to a thread and back. This dominates in short requests and in software emulation. Fewer"
    " thread switches would help, but then one slow disk would delay all clients."
)
_SMALL = (
    "About 40 us of interpreted code for reading, checking and answering. Only a compiled loop and"
    " codec would help; thousands of requests per second are possible."
)
_FORKED = (
    "Interpreted code, and a program that is executed for each container; Northstar 0.9.2 forks"
    " itself instead, and keeps a part of its memory in each. Waiting launchers would help."
)
_VERIFIED = (
    " A signed image is also checked before the mount: a block is read, and dm-verity must report"
    " a valid device."
)
_MODULES = (
    "The interpreter and its modules, once. Fewer modules would help; each container needs less"
    " than a fifth of the memory of one under Northstar 0.9.2."
)
_ALL_PROCESSES = "The same; less with many containers."
_LOADED = (
    "Most of it is the interpreter and its modules. Loading fewer modules before the first answer"
    " would help; beyond that, only an interpreter that starts with its modules in memory."
)
WHY = {
    "mount, signed (dm-verity)": _INTERPRETED + _VERIFIED,
    "start, image not mounted, signed (dm-verity)": _INTERPRETED + _VERIFIED,
    "mount": _INTERPRETED,
    "umount": _INTERPRETED,
    "start, image mounted": _INTERPRETED,
    "start, image not mounted": _INTERPRETED,
    "kill -9 to the exit notification": _INTERPRETED,
    "ident": _SMALL,
    f"list of {APPS}": _SMALL,
    "inspect, not running": _SMALL,
    "inspect, running": _SMALL,
    "install of 20 MB into memory": "The bytes arrive in pieces of 200 KB, each a new object of"
    " the event loop; reading into one buffer would help.",
    f"{PARALLEL} starts at once, mounted": _INTERPRETED,
    f"{PARALLEL} kills at once, to the last exit": "One thread processes all exits in sequence;"
    " the runtime and the helper of Northstar 0.9.2 share two processors.",
    f"memory of the runtime and helpers, {PARALLEL} running": _MODULES,
    f"memory (PSS) of the runtime and helpers, {APPS} running": _MODULES,
    "memory (PSS) of the runtime and helpers, 500 running": _MODULES,
    f"memory of all processes, {PARALLEL} running": _ALL_PROCESSES,
    f"memory (PSS) of all processes, {APPS} running": _ALL_PROCESSES,
    f"boot with {APPS} packages to the first answer": _LOADED,
    f"boot with {APPS} packages to the first answer, with its log": _LOADED,
    "boot with 1,000 packages to the first answer, with its log": _LOADED,
    "growth of a start from the first 20 to the last 20 of 500": "Our starts are shorter, so the"
    " same growth in the kernel's part (mounts, cgroups, loop devices) is a larger part of them.",
    "processor time of such a life": _FORKED,
    f"processor time of {BURST} of each of these four": _SMALL,
    f"processor time of all that, {PARALLEL} apps": _FORKED,
    f"processor time of a start-kill cycle, {APPS} apps in parallel": _FORKED,
    f"processor time of a start-kill-umount cycle, {APPS} apps in parallel": _FORKED,
    f"processor time of a mount-umount cycle, {APPS} apps in parallel": _INTERPRETED,
    "processor time of such an installation": "As for the duration; includes the uninstall.",
}
"""For each row in which our runtime needs more: the reason, and what would help."""

_SIGNED = re.compile(r", signed.*")


def why(what: str) -> str | None:
    """Return the reason for a row; for signed packages by default that of unsigned ones."""
    return WHY.get(what) or WHY.get(_SIGNED.sub("", what))


class Row(msgspec.Struct):
    """One measurement: values by side."""

    what: str
    unit: str
    values: dict[str, list[float]]

    def median(self, side: str) -> float:
        return summary(self.values[side])[0]

    @property
    def ratio(self) -> float:
        return self.median("ours") / self.median("reference")

    @property
    def least(self) -> float:
        """The ratio of the best times, which other programs affect least."""
        return min(self.values["ours"]) / min(self.values["reference"])

    @property
    def compared(self) -> bool:
        """Whether it compares exactly the two runtimes."""
        return set(self.values) == {"ours", "reference"}

    @property
    def slower(self) -> bool:
        return self.compared and max(self.ratio, self.least) > EVEN

    @property
    def worse(self) -> bool:
        """Whether the median and the least are worse, which one disturbance rarely causes."""
        return self.compared and min(self.ratio, self.least) > EVEN


class Result(msgspec.Struct):
    """All measurements on one machine.

    Attributes:
        groups: the measured groups whose targets apply, none for a virtual machine.
        tree: whether the other side is another tree of ours.
    """

    facts: dict[str, str]
    rows: list[Row]
    groups: list[str] = []
    tree: bool = False

    @property
    def other(self) -> str:
        """The name of the other side in tables."""
        return "other tree" if self.tree else "0.9.2"

    def short(self) -> list[str]:
        """Return a line for each target that is not met."""
        lines = []
        for row in self.rows:
            for target in targets.of_row(row.what, self.groups):
                value = target.value(row)
                if value is not None and target.short(value):
                    lines.append(
                        f"- *{row.what}*: {target.measure.value} {_number(value)},"
                        f" wanted {_number(target.wanted)}"
                    )
        return lines

    def unmeasured(self) -> list[str]:
        """Return a line for each target of a measured group without a value."""
        rows = {row.what: row for row in self.rows}
        return [
            f"- *{target.what}*: {target.measure.value}"
            for target in targets.TARGETS
            if target.group in self.groups
            and (target.what not in rows or target.value(rows[target.what]) is None)
        ]

    def worse(self) -> list[str]:
        """Return a line for each row in which our runtime is worse than another tree of it."""
        return [
            f"- *{row.what}*: ratio {row.ratio:.2f}, of the least {row.least:.2f}"
            for row in self.rows
            if self.tree and row.worse
        ]


def reference() -> Path:
    """Return the program with the crate of Northstar 0.9.2."""
    directory = os.environ.get("NORTHSTAR_COMPARE")
    if directory is None:
        raise SystemExit(f"error: NORTHSTAR_COMPARE is not set; run: {COMMAND}")
    program = Path(directory) / "runtime"
    if not program.exists():
        raise SystemExit(f"error: {program} does not exist; run: {COMMAND}")
    return program


def facts(tree: Path | None) -> dict[str, str]:
    """Return facts of this machine; `tree` is another tree of ours in place of 0.9.2."""
    processor = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = 2 if host.cgroup_roots() == [Path("/sys/fs/cgroup")] else 1
    found = {
        "machine": "In the virtual machine (QEMU, software emulation)"
        if IN_VM
        else "On the machine itself",
        "processors": f"{os.cpu_count()} x {processor}",
        "memory": f"{memory:.1f} GiB",
        "kernel": f"{platform.release()}, cgroup v{version}",
        "Python": f"{platform.python_version()}, modules compiled before the measurement",
    }
    if tree is not None:
        return {**found, "other tree": str(tree)}
    user = "a user other than root, since root lacks capabilities here"
    return {**found, "0.9.2 runs as": user if lacking_capabilities() else "root"}


def run(arguments: list[str], *, in_vm: bool) -> Result:
    """Measure in another process, here or in the virtual machine."""
    place = "in the virtual machine" if in_vm else "on this machine"
    print(f"Measuring {place}", file=sys.stderr, flush=True)
    program = f"NORTHSTAR_COMPARE={os.environ['NORTHSTAR_COMPARE']}"
    measure = [sys.executable, "-m", "bench.compare", "--json", *arguments]
    command = ["env", program, *measure]
    if in_vm:
        command = ["scripts/vm", "--timeout", "3000", "--", *command]
    # The virtual machine has one stream: progress lines, and at the end the result.
    last, load = "", os.getloadavg()[0]
    # Ctrl-C reaches the measuring process too, which ends its runtimes first.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for last in process.stdout:
                if not last.startswith("{"):
                    print(last, end="", file=sys.stderr, flush=True)
    finally:
        signal.signal(signal.SIGINT, before)
    if process.returncode != 0:
        raise SystemExit(f"error: nothing was measured {place}, see above")
    result = msgspec.json.decode(last, type=Result)
    result.facts["load of the whole machine before"] = f"{load:.1f}"
    return result


def render(result: Result) -> str:
    """Return one machine's section."""
    lines = [f"## {result.facts['machine']}", ""]
    lines += [f"- {name}: {value}" for name, value in result.facts.items() if name != "machine"]
    rows = [row for row in result.rows if row.compared]
    if rows:
        lines += _compared(result, rows)
    lines += _slower([] if result.tree else rows)
    alone = [row for row in result.rows if set(row.values) == {"ours"}]
    if alone:
        lines += ["", "| our runtime alone | n | median | p95 | wanted |", "|---|--:|--:|--:|--:|"]
    for row in alone:
        lines.append(f"| {row.what} | {_values(row, 'ours')} | {_wanted(result, row)} |")
    for row in result.rows:
        if row not in rows and row not in alone:
            lines += _beside_others(result, row)
    for words, found in (
        (SHORT, result.short()),
        (UNMEASURED, result.unmeasured()),
        ("Where our runtime is worse than the other tree:", result.worse()),
    ):
        lines += ["", words, "", *found] if found else []
    return "\n".join(lines) + "\n"


def _compared(result: Result, rows: list[Row]) -> list[str]:
    sides = f"ours, median | p95 | {result.other}, median | p95"
    lines = ["", f"| work | n | {sides} | ratio | of the least | wanted |", f"|---|{'--:|' * 8}"]
    for row in rows:
        cells = [row.what, str(len(row.values["ours"]))]
        several = len(row.values["ours"]) > 1
        for side in ("ours", "reference"):
            median, p95 = summary(row.values[side])
            cells += [f"{_number(median)} {row.unit}", _number(p95) if several else ""]
        cells += [f"{row.ratio:.2f}", f"{row.least:.2f}" if several else "", _wanted(result, row)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _beside_others(result: Result, row: Row) -> list[str]:
    lines = [
        "",
        f"| {row.what} | n | median | p95 | ours / this |",
        "|---|--:|--:|--:|--:|",
    ]
    for side in row.values:
        name = result.other if side == "reference" else side
        ratio = row.median("ours") / row.median(side)
        lines.append(f"| {name} | {_values(row, side)} | {ratio:.2f} |")
    wanted = _wanted(result, row)
    return [*lines, "", f"Wanted: {wanted}."] if wanted else lines


def _values(row: Row, side: str) -> str:
    median, p95 = summary(row.values[side])
    return f"{len(row.values[side])} | {_number(median)} {row.unit} | {_number(p95)}"


def _wanted(result: Result, row: Row) -> str:
    return ", ".join(target.words for target in targets.of_row(row.what, result.groups))


def _slower(rows: list[Row]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.slower:
            reasons.setdefault(why(row.what) or "", []).append(row.what)
    lines = [f"- *{'; '.join(names)}*: {reason}" for reason, names in reasons.items()]
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
        if row.slower and why(row.what) is None
    }
    for what in sorted(unexplained):
        print(
            f"error: our runtime is slower, and report.WHY has no reason: {what}", file=sys.stderr
        )
    return 1 if unexplained else 0
