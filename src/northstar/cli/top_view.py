"""What `nstar top` shows, and what its keys mean. Pure: the command itself is in `top_command`."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from northstar.api.log import Log, LogLine, LogStream
from northstar.cli import tables, usage
from northstar.cli.dates import date
from northstar.cli.tables import BOLD, RED, REVERSE, YELLOW, pad, painted, shorten
from northstar.cli.usage import Usage
from northstar.model import Container, printable

LOG_LINES: Final = 1000
"""Most lines of a log that are kept."""

_FRAME: Final = 4
"""Rows that are no containers: the summary, the header, the message and the keys."""

_MARK: Final = "> "


class Verb(enum.Enum):
    """What is done to a container; the value is its text in a question."""

    STOP = "stop"
    KILL = "kill"
    RESTART = "restart"


class Act(NamedTuple):
    """A request of the user for a container."""

    verb: Verb
    container: Container


class Follow(NamedTuple):
    """Show the log of a container."""

    container: Container


class Command(enum.Enum):
    """The other requests of the user."""

    QUIT = "quit"
    INTERRUPT = "interrupt"
    SUSPEND = "suspend"
    END_LOG = "end of the log"


Wish = Act | Follow | Command | None

_ACTIONS: Final = {"s": Verb.STOP, "k": Verb.KILL, "r": Verb.RESTART}


class _Sort(NamedTuple):
    name: str
    key: Callable[[Usage], float]


_SORTS: Final = {
    "c": _Sort("CPU", lambda one: one.cpu_percent or 0),
    "m": _Sort("memory", lambda one: one.used.memory_bytes or 0),
    "p": _Sort("PIDs", lambda one: one.used.pids or 0),
    "t": _Sort("restarts", lambda one: 0 if one.status is None else one.status.restarts),
    "n": _Sort("name", lambda _: 0),
}
"""The keys that sort. All but the name sort downwards, and equal ones by name."""

_KEYS: Final = (
    "q quit",
    "s stop",
    "k kill",
    "r restart",
    "l log",
    *(f"{key} by {sort.name}" for key, sort in _SORTS.items()),
)


class LogView:
    """The last lines of a container's log."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.note = ""
        self._lines: deque[tuple[str, int | None]] = deque(maxlen=LOG_LINES)

    def add(self, entry: Log) -> None:
        """Add a message of the log."""
        if isinstance(entry, LogLine):
            colour = YELLOW if entry.stream is LogStream.STDERR else None
            text = f"{date(entry.time)[11:-1]} {entry.text}"
            self._lines.append((printable(text.expandtabs()), colour))
        else:
            self._lines.append((f"({entry.lost} bytes lost)", RED))

    def lines(self, rows: int, columns: int, colour: bool) -> list[str]:
        """Return the screen: as many of the last lines as it has room for."""
        title = shorten(f"log of {self.container}", columns)
        room = max(rows - 2, 0)
        shown = [*self._lines][-room:] if room else []
        body = [
            painted(shorten(text, columns), *([style] if colour and style else []))
            for text, style in shown
        ]
        body += [""] * (room - len(body))
        note = shorten(self.note or "q back", columns)
        return [painted(title, BOLD) if colour else title, *body, note][: max(rows, 1)]


class View:
    """The state of the screen.

    Attributes:
        message: the result of the last action, or what prevents the next sample.
        log: the log that is shown instead of the table.
    """

    def __init__(self) -> None:
        self.message = ""
        self.log: LogView | None = None
        self._rows: list[Usage] = []
        self._sort = _SORTS["c"]
        self._selected: Container | None = None
        self._position = 0
        self._moved = False
        self._first = 0
        self._page = 1
        self._question: Act | None = None

    def update(self, rows: Sequence[Usage]) -> None:
        """Take a new sample. The selection stays with its container."""
        self._rows = [*rows]
        self._arrange()

    def _arrange(self) -> None:
        key = self._sort.key
        self._rows.sort(key=lambda one: (-key(one), one.container))
        for at, one in enumerate(self._rows):
            if one.container == self._selected and self._moved:
                self._position = at
                return
        # The one at this place, if the user has selected none, or if it was uninstalled.
        self._select(self._position)

    def _select(self, position: int) -> None:
        self._position = max(0, min(position, len(self._rows) - 1))
        self._selected = self._rows[self._position].container if self._rows else None

    # Keys

    def press(self, key: str) -> Wish:
        """Process a key; return what the program has to do."""
        if key == "interrupt":
            return Command.INTERRUPT
        if key == "suspend":
            return Command.SUSPEND
        if self.log is not None:
            return Command.END_LOG if key in ("q", "l", "escape", "enter") else None
        if self._question is not None:
            question, self._question = self._question, None
            self.message = ""
            return question if key in ("y", "Y") else None
        if key == "q":
            return Command.QUIT
        if key in _SORTS:
            self._sort = _SORTS[key]
            self._arrange()
        elif self._selected is not None and key in _ACTIONS:
            self._question = Act(_ACTIONS[key], self._selected)
        elif self._selected is not None and key in ("l", "enter"):
            return Follow(self._selected)
        else:
            self._move(key)
        return None

    def _move(self, key: str) -> None:
        steps = {
            "up": -1,
            "down": 1,
            "page up": -self._page,
            "page down": self._page,
            "home": -len(self._rows),
            "end": len(self._rows),
        }
        if key in steps:
            self._moved = True
            self._select(self._position + steps[key])

    # The screen

    def lines(self, rows: int, columns: int, colour: bool) -> list[str]:
        """Return the lines of the screen: at most `rows`, none wider than `columns` cells."""
        if self.log is not None:
            return self.log.lines(rows, columns, colour)
        page = self._page = max(rows - _FRAME, 1)
        # The selected one is in sight.
        lowest = self._position - page + 1
        self._first = max(min(self._first, self._position, len(self._rows) - page), lowest, 0)
        body = self._table(page, columns, colour)
        body += [""] * (page + 1 - len(body))
        question = self._question
        if question is not None:
            note = f"{question.verb.value} {question.container}? y: yes, any other key: no"
        else:
            note = self.message
        note = shorten(printable(note), columns)
        if colour and question is not None:
            note = painted(note, BOLD)
        shown = [shorten(self._summary(), columns), *body, note, _fitting(_KEYS, columns)]
        return shown[: max(rows, 1)]

    def _summary(self) -> str:
        running = [one for one in self._rows if one.pid is not None]
        percents = [one.cpu_percent for one in running if one.cpu_percent is not None]
        cpu = f"{sum(percents):.1f} %" if percents else tables.NONE
        memory = usage.size(sum(one.used.memory_bytes or 0 for one in running))
        return (
            f"{len(running)} of {len(self._rows)} apps run  CPU {cpu}  memory {memory}  "
            f"by {self._sort.name}"
        )

    def _table(self, page: int, columns: int, colour: bool) -> list[str]:
        """Return the header, and the rows of this page, of which one is selected."""
        # The layout is that of all rows, so that scrolling does not change it.
        room = max(columns - len(_MARK), 1)
        cells = [usage.row(one) for one in self._rows]
        header, groups = tables.layout(usage.COLUMNS, cells, room)
        lines = [shorten(" " * len(_MARK) + header, columns)]
        if colour:
            lines[0] = painted(lines[0], BOLD)
        styles = usage.styles(self._rows)
        for at in range(self._first, min(self._first + page, len(self._rows))):
            selected = at == self._position
            mark = _MARK if selected else " " * len(_MARK)
            text = shorten(mark + groups[at][0], columns)
            style = styles[at]
            codes = [] if style is None else [style]
            if selected:
                text = pad(text, columns)
                codes.append(REVERSE)
            lines.append(painted(text, *codes) if colour else text.rstrip())
        return lines


def _fitting(words: Sequence[str], columns: int) -> str:
    """Return as many of the words as there is room for."""
    text = ""
    for word in words:
        longer = f"{text}  {word}" if text else word
        if len(longer) > columns:
            break
        text = longer
    return text
