"""Draw the diagrams of docs/diagrams: python -m website.diagrams.

That of a container's states is drawn from the table of the core: a change without a place in the
layout below is an error, and so is a place without a change. A test compares the files.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from northstar.api.status import ContainerState
from northstar.core.transition_table import TRANSITIONS

DIRECTORY: Final = Path(__file__).resolve().parents[1] / "docs/diagrams"

_STYLE: Final = """\
<style>
text { font: 14px sans-serif; fill: #222; text-anchor: middle; }
.small { font-size: 12px; fill: #555; }
.start { text-anchor: start; }
rect { fill: #eef2fb; stroke: #3b5aa8; stroke-width: 1.5; }
.group { fill: none; stroke: #888; stroke-dasharray: 5 4; }
.zone { fill: #f6f6f6; stroke: #888; }
path { fill: none; stroke: #444; stroke-width: 1.5; marker-end: url(#tip); }
circle { fill: #222; }
.end { fill: #fff; stroke: #222; stroke-width: 4; }
</style>
<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" \
orient="auto"><polygon points="0,0 10,5 0,10" fill="#444"/></marker></defs>
"""


class LayoutError(Exception):
    """The layout and the table of the core differ."""


def svg(width: int, height: int, title: str, parts: list[str]) -> str:
    """Return a diagram. Its background is white, also on a dark page."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n<title>{escape(title)}</title>\n'
    )
    ground = f'<rect width="{width}" height="{height}" style="fill: #fff; stroke: none"/>\n'
    return head + _STYLE + ground + "\n".join(parts) + "\n</svg>\n"


def box(x: int, y: int, width: int, height: int, *lines: str, kind: str = "") -> str:
    """Return a box around a point, with lines of text; those behind the first one are small."""
    name = f' class="{kind}"' if kind else ""
    left, top = x - width // 2, y - height // 2
    found = [f'<rect{name} x="{left}" y="{top}" width="{width}" height="{height}" rx="7"/>']
    if kind:
        return found[0] + "".join(
            f'\n<text class="small start" x="{left + 10}" y="{top + 18}">{escape(line)}</text>'
            for line in lines
        )
    first = y + 5 - 8 * (len(lines) - 1)
    for number, line in enumerate(lines):
        small = ' class="small"' if number else ""
        found.append(f'<text{small} x="{x}" y="{first + 17 * number}">{escape(line)}</text>')
    return "\n".join(found)


def arrow(route: str, label: str = "", x: int = 0, y: int = 0) -> str:
    """Return an arrow along a path of SVG, with a label at a point."""
    text = f'\n<text class="small" x="{x}" y="{y}">{escape(label)}</text>' if label else ""
    return f'<path d="{route}"/>{text}'


_S = ContainerState
_AT: Final = {
    _S.FAILED: (150, 75),
    _S.WAITING: (150, 165),
    _S.INSTALLED: (150, 255),
    _S.BACKOFF: (150, 345),
    _S.REMOVING: (150, 455),
    _S.STARTING: (520, 165),
    _S.RUNNING: (690, 75),
    _S.READY: (690, 210),
    _S.UNHEALTHY: (690, 345),
    _S.STOPPING: (870, 210),
}
_IDLE: Final = (_S.FAILED, _S.WAITING, _S.INSTALLED, _S.BACKOFF)
_ACTIVE: Final = (_S.STARTING, _S.RUNNING, _S.READY, _S.UNHEALTHY, _S.STOPPING)

_GROUPS: Final = (
    (_IDLE, _S.STARTING, "M255,150 H467", "start, restart, boot;", 340, 144),
    (_IDLE, _S.REMOVING, "M150,385 V435", "uninstall", 185, 412),
    (_ACTIVE, _S.FAILED, "M430,75 H207", "failure, no restart", 340, 69),
    (_ACTIVE, _S.INSTALLED, "M430,255 H207", "success, or not wanted", 340, 249),
    (_ACTIVE, _S.BACKOFF, "M430,345 H207", "another run follows", 340, 339),
)
"""Changes from all states of a group to another state, drawn as one arrow."""

_SINGLE: Final = {
    (_S.INSTALLED, _S.WAITING): arrow("M165,235 V187"),
    (_S.WAITING, _S.INSTALLED): arrow("M135,185 V233"),
    (_S.FAILED, _S.WAITING): arrow("M150,95 V143"),
    (_S.BACKOFF, _S.INSTALLED): arrow("M150,325 V277"),
    (_S.BACKOFF, _S.WAITING): arrow("M97,345 C62,330 62,180 95,165"),
    (_S.STARTING, _S.RUNNING): arrow("M545,145 L637,88", "executed", 566, 108),
    (_S.STARTING, _S.READY): arrow("M573,178 L635,198"),
    (_S.RUNNING, _S.READY): arrow("M690,95 V188", "ready", 712, 145),
    (_S.RUNNING, _S.STOPPING): arrow("M745,85 L850,188"),
    (_S.READY, _S.STOPPING): arrow("M745,210 H815", "stop", 780, 204),
    (_S.READY, _S.UNHEALTHY): arrow("M680,230 V323"),
    (_S.UNHEALTHY, _S.READY): arrow("M705,325 V232"),
    (_S.UNHEALTHY, _S.STOPPING): arrow("M745,335 L850,232"),
    (_S.REMOVING, _S.INSTALLED): arrow(
        "M205,450 C300,430 300,290 207,264", "uninstall failed", 325, 420
    ),
}
"""The other changes."""


def states() -> str:
    """Return the diagram of a container's states.

    Raises:
        LayoutError: a change has no place, or a place has no change.
    """
    table = {(row.before, row.after) for row in TRANSITIONS}
    grouped = {(before, after) for group, after, *_ in _GROUPS for before in group}
    drawn = grouped | _SINGLE.keys()
    if drawn != table or set(_AT) != set(_S):
        differ = sorted(f"{a.value} -> {b.value}" for a, b in drawn ^ table)
        raise LayoutError(f"change the layout: {', '.join(differ) or 'a state has no place'}")
    parts = [
        box(150, 210, 210, 350, "no process", kind="group"),
        box(685, 210, 510, 350, "starting, or with a process", kind="group"),
        '<circle cx="30" cy="255" r="7"/>',
        arrow("M37,255 H93"),
        '<circle class="end" cx="30" cy="455" r="6"/>',
        arrow("M95,455 H40"),
        '<text class="small" x="340" y="166">the wait or delay ends</text>',
        *(arrow(route, label, x, y) for _, _, route, label, x, y in _GROUPS),
        *_SINGLE.values(),
        *(box(x, y, 110, 40, state.value) for state, (x, y) in _AT.items()),
    ]
    return svg(960, 490, "The states of a container", parts)


def parts() -> str:
    """Return the diagram of the parts and what connects them."""
    shapes = [
        box(480, 210, 400, 290, "northstar, the runtime: one process", kind="zone"),
        box(900, 210, 220, 290, "a container", kind="zone"),
        box(120, 105, 170, 50, "nstar", "commands"),
        box(120, 190, 170, 50, "programs", "with the Python clients"),
        box(120, 275, 170, 50, "clients of 0.9.2", "the same protocol"),
        box(360, 190, 130, 60, "console", "socket, permissions"),
        box(560, 190, 150, 60, "core", "decides what happens"),
        box(360, 305, 130, 60, "repositories", "packages, keys"),
        box(560, 305, 150, 60, "executor", "mounts, cgroups, logs"),
        box(900, 125, 170, 50, "init", "PID 1, from this project"),
        box(900, 215, 170, 50, "payload", "the program of the app"),
        box(900, 305, 170, 50, "image", "read only, verified"),
        box(120, 420, 170, 50, "sextant", "on the build machine"),
        box(360, 420, 150, 50, "package (.npk)", "image and manifest"),
        box(900, 420, 210, 50, "launcher", "C: clones init, then ends"),
        arrow("M205,105 C260,105 260,180 293,183"),
        arrow("M205,190 H293"),
        arrow("M205,275 C260,275 260,200 293,197"),
        arrow("M425,190 H483"),
        arrow("M560,220 V273", "actions", 590, 250),
        arrow("M485,305 H427"),
        arrow("M205,420 H283"),
        arrow("M360,395 V337", "install", 385, 372),
        arrow("M580,335 C580,400 600,420 793,420", "plan", 690, 412),
        arrow("M900,395 V357", "clones init", 940, 380),
        arrow("M900,150 V188", "starts", 926, 174),
        arrow("M813,125 C740,125 750,300 637,303", "status, output", 735, 120),
        arrow("M900,280 V242"),
    ]
    return svg(1030, 470, "The parts of Northstar for Python", shapes)


FILES: Final = {"states.svg": states, "parts.svg": parts}
"""The files of docs/diagrams, and what draws them."""

if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for name, draw in FILES.items():
        (DIRECTORY / name).write_text(draw())
