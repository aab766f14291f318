"""The targets of `make compare`; `python -m bench.targets` writes their table in docs/targets.md.

Targets are ratios measured beside Northstar 0.9.2 on the same machine at the same time, except
where a row says otherwise. They apply to the machine itself: an emulated one has none.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.inputs import APPS

if TYPE_CHECKING:
    from bench.report import Row

DOCUMENT: Final = Path(__file__).parents[1] / "docs/targets.md"

BARE: Final = "python -c pass"
"""The column with the time of the interpreter of our commands, which does nothing."""


class Measure(Enum):
    """What is compared with the target."""

    RATIO = "ratio"
    LEAST = "of the least"
    OURS = "ours"
    OURS_AT_LEAST = "ours, at least"
    BARE = f"ours / `{BARE}`"

    @property
    def higher(self) -> bool:
        """Whether a higher value is better."""
        return self is Measure.OURS_AT_LEAST


class Target(NamedTuple):
    """A target.

    Attributes:
        group: the group of measurements of bench/compare.py.
        what: the row.
        wanted: the limit: the highest value that meets the target, or the lowest.
        measure: the value to compare.
        note: words for the table.
    """

    group: str
    what: str
    wanted: float
    measure: Measure = Measure.RATIO
    note: str = ""

    def value(self, row: Row) -> float | None:
        """Return the value to compare, None if a side of it was not measured."""
        needed = {"ours"}
        if self.measure in (Measure.RATIO, Measure.LEAST):
            needed.add("reference")
        elif self.measure is Measure.BARE:
            needed.add(BARE)
        if not needed <= row.values.keys():
            return None
        if self.measure is Measure.RATIO:
            return row.ratio
        if self.measure is Measure.LEAST:
            return row.least
        if self.measure is Measure.BARE:
            return row.median("ours") / row.median(BARE)
        return row.median("ours")

    def short(self, value: float) -> bool:
        """Whether a value, rounded as in the tables, falls short."""
        shown = round(value, 2)
        return shown < self.wanted if self.measure.higher else shown > self.wanted

    @property
    def words(self) -> str:
        """The limit in a table, in which the row is named."""
        number = f"{self.wanted:.2f}" if self.wanted < 10 else f"{self.wanted:.0f}"
        return number if self.measure is Measure.RATIO else f"{self.measure.value} {number}"


TARGETS: Final = (
    Target("life", "start, image not mounted", 0.15),
    Target("life", "start, image mounted", 0.28),
    Target("life", "start, image mounted", 1.0, Measure.LEAST),
    Target("life", "mount", 0.07),
    Target("life", "umount", 1.1),
    Target("life", "kill -9 to the exit notification", 1.1),
    Target("bursts", "ident", 1.25),
    Target("bursts", "inspect, not running", 1.25),
    Target("bursts", f"list of {APPS}", 1.0),
    Target("cycles", f"start-kill cycle, {APPS} apps in parallel", 0.5, note="2 x as many"),
    Target("cycles", f"start-kill-umount cycle, {APPS} apps in parallel", 0.17, note="6 x"),
    Target("cycles", f"mount-umount cycle, {APPS} apps in parallel", 0.05, note="20 x"),
    Target(
        "boots",
        f"boot with {APPS} packages to the first answer",
        3.0,
        note="beside the bare crate, which has no command line and no log",
    ),
    Target("boots", f"boot with {APPS} packages to the first answer, with its log", 1.3),
    Target("boots", "boot with 1,000 packages to the first answer, with its log", 0.3),
    Target("memory", f"memory (PSS) of all processes, {APPS} running", 0.85),
    Target("many", "memory (PSS) of all processes, 500 running", 0.35),
    Target("many", "growth of a start from the first 20 to the last 20 of 500", 1.15, Measure.OURS),
    Target("many", "inspect, running, each of 500", 0.5),
    Target(
        "commands",
        "`nstar ident` as a command",
        4.0,
        Measure.BARE,
        note="60 ms where that takes 15 ms",
    ),
    Target("output", "output of a container, lines of 80 bytes", 50, Measure.OURS_AT_LEAST, "MB/s"),
)


def of_row(what: str, groups: list[str]) -> list[Target]:
    """Return the targets of a row, if its group is among `groups`."""
    return [target for target in TARGETS if target.what == what and target.group in groups]


def table() -> str:
    """Return the table of docs/targets.md."""
    lines = ["| row of `make compare` | `--only` | target | |", "|---|---|---|---|"]
    lines += [
        f"| {target.what} | {target.group} | {target.words} | {target.note} |" for target in TARGETS
    ]
    return "\n".join(lines) + "\n"


BEGIN: Final = "<!-- `python -m bench.targets` writes this table -->\n"
END: Final = "<!-- end of the table -->\n"


def written(text: str) -> str:
    """Return the document with the present table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
