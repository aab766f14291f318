"""What the comparison says: values, the machine's facts, and docs/comparison.md made of them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from bench.sides import BURST, PARALLEL, lacking_capabilities, summary
from tests.system import host
from tests.system.harness import IN_VM

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/comparison.md"
COMMAND = "make compare"
SLOWER = "Where we need more:"
EVEN = 1.05
"""A ratio up to this is no difference that a sentence could explain."""

PREFACE = f"""\
# Beside Northstar 0.9.2
Made by `{COMMAND}` (root; cargo >= 1.74; some 5 minutes once the crates are built), which replaces
this page. What both answer is compared by `make interop`.

The crate `northstar-runtime` 0.9.2 is started by a program of a few lines
(`tests/interop/src/bin/runtime.rs`, release build, no log), ours as the installed command. Both run
at the same time with the same configuration and the same packages, and take turns request by
request over a plain socket client, so that a slow moment of the machine hits both. Each request was
preceded by 10 ms of rest, but for those in bursts (ident, list, inspect).

Ratios count, below 1 we need less; the times themselves are this machine's. On a busy machine the
ratio of the least times, and processor time, say more than the medians.
"""

_INTERPRETED = (
    "The system calls are the same. Around them our side of a request is interpreted and crosses"
    " into a thread and back, which weighs most where the work itself is short, and in software"
    " emulation. Fewer crossings would mend it, at the price that one slow disk would hold up all"
    " clients."
)
_SMALL = (
    "Some 40 us of interpreted code for reading, checking and answering. Only a compiled loop and"
    " codec would mend it; it leaves room for thousands of requests a second."
)
_FORKED = (
    "Interpreted code, and a program that is executed for each container, where the peer forks"
    " itself and keeps a part of its memory in each. Programs that wait would mend the latter."
)
_VERIFIED = (
    " A signed image is also tried before it is mounted: a block is read, and dm-verity must call"
    " itself valid."
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
    f"list of {PARALLEL}": _SMALL,
    "inspect, not running": _SMALL,
    "inspect, running": _SMALL,
    "install of 20 MB into memory": "The bytes come in pieces of 200 KB, each a new object of the"
    " event loop's; reading into one buffer of our own would mend it.",
    f"{PARALLEL} starts at once, mounted": _INTERPRETED,
    f"{PARALLEL} kills at once, to the last exit": "One thread interprets what the exits of all"
    " mean, one after the other; the peer's runtime and helper share two processors.",
    f"memory of the runtime and helpers, {PARALLEL} running": "The interpreter and its modules,"
    " once. Fewer modules would mend some of it; each container costs less than a fifth of the"
    " peer's.",
    f"memory of all processes, {PARALLEL} running": "The same; with many containers it is less.",
    "boot with 50 packages to the first answer": "The interpreter and its modules are most of it."
    " Loading fewer of them before the first answer would mend some; the rest needs an interpreter"
    " that starts with its modules in memory.",
    "processor time of such a life": _FORKED,
    f"processor time of {BURST} of each of these four": _SMALL,
    f"processor time of all that, {PARALLEL} apps": _FORKED,
    "processor time of such an installation": "As for its time, with the uninstall.",
}
"""For each row in which we need more: why, and what would mend it."""

_SIGNED = re.compile(r", signed.*")


def why(what: str) -> str | None:
    """Return the reason for a row; for signed packages the usual one unless they have their own."""
    return WHY.get(what) or WHY.get(_SIGNED.sub("", what))


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

    @property
    def least(self) -> float:
        """The ratio of the best times: what no other program's moment is in."""
        return min(self.values["ours"]) / min(self.values["peer"])

    @property
    def compared(self) -> bool:
        """The two take part in it and nobody else."""
        return set(self.values) == {"ours", "peer"}

    @property
    def slower(self) -> bool:
        return self.compared and max(self.ratio, self.least) > EVEN


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
        "machine": "In the virtual machine (QEMU, software emulation)"
        if IN_VM
        else "On the machine itself",
        "processors": f"{os.cpu_count()} x {processor}",
        "memory": f"{memory:.1f} GiB",
        "kernel": f"{platform.release()}, cgroup v{version}",
        "0.9.2 runs as": "another user than root, since root lacks capabilities here"
        if lacking_capabilities()
        else "root",
        "Python": platform.python_version(),
    }


def run(arguments: list[str], *, in_vm: bool) -> Result:
    """Measure in another process, here or in the virtual machine."""
    place = "in the virtual machine" if in_vm else "on this machine"
    print(f"Measuring {place}", file=sys.stderr, flush=True)
    program = f"NORTHSTAR_COMPARE={os.environ['NORTHSTAR_COMPARE']}"
    measure = [sys.executable, "-m", "bench.compare", "--json", *arguments]
    command = ["env", program, *measure]
    if in_vm:
        command = ["scripts/vm", "--timeout", "3000", "--", *command]
    # The virtual machine has one stream: what is said on the way, and in the end the result.
    last, load = "", os.getloadavg()[0]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for last in process.stdout:
            if not last.startswith("{"):
                print(last, end="", file=sys.stderr, flush=True)
    if process.returncode != 0:
        raise SystemExit(f"error: nothing was measured {place}, see above")
    result = msgspec.json.decode(last, type=Result)
    result.facts["load of the whole machine before"] = f"{load:.1f}"
    return result


def render(result: Result) -> str:
    """Return one machine's section."""
    lines = [f"## {result.facts['machine']}", ""]
    lines += [f"- {name}: {value}" for name, value in result.facts.items() if name != "machine"]
    lines += [
        "",
        "| work | n | ours, median | p95 | 0.9.2, median | p95 | ratio | of the least |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows = [row for row in result.rows if row.compared]
    for row in rows:
        cells = [row.what, str(len(row.values["ours"]))]
        several = len(row.values["ours"]) > 1
        for side in ("ours", "peer"):
            median, p95 = summary(row.values[side])
            cells += [f"{_number(median)} {row.unit}", _number(p95) if several else ""]
        cells += [f"{row.ratio:.2f}", f"{row.least:.2f}" if several else ""]
        lines.append(f"| {' | '.join(cells)} |")
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
        print(f"error: we are slower, and report.WHY does not say why: {what}", file=sys.stderr)
    return 1 if unexplained else 0
