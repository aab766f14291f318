"""Tables: lines fit into the terminal, words stay whole, columns are dropped by importance."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from northstar.cli import listing, progress, status_table, tables, usage
from northstar.cli.live import Live
from northstar.cli.tables import Column, cells, layout, pad, shorten, wrap
from northstar.model import printable

texts = st.text(max_size=70).map(printable).map(lambda text: text.replace("\t", " "))
words = st.text("abcdefä界\u0301-:.", min_size=1, max_size=64)
TABLES = {"list": listing.COLUMNS, "status": status_table.COLUMNS, "stats": usage.COLUMNS}


@pytest.mark.parametrize(
    ("text", "width"),
    [("", 0), ("app", 3), ("ä", 1), ("界", 2), ("a\u0301", 1), ("아브", 4), ("\uff21", 2)],
)
def test_the_width_of_characters(text: str, width: int) -> None:
    assert cells(text) == width


@given(text=texts, width=st.integers(0, 80))
def test_shortened(text: str, width: int) -> None:
    short = shorten(text, width)
    assert cells(short) <= width
    assert short == text or text.startswith(short.rstrip("."))
    assert (short == text) == (cells(text) <= width)


@given(text=texts, width=st.integers(1, 80))
def test_wrapped_text_keeps_its_words(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cells(line) <= width for line in lines)
    assert " ".join(lines).split() == [shorten(word, width) for word in text.split()]


@st.composite
def any_table(draw: Any) -> tuple[list[Column], list[list[str]]]:
    """Columns of any kind with rows of cells: words, or sentences in columns of text."""
    count = draw(st.integers(1, 7))
    columns = [
        Column(
            draw(st.text("ABC", min_size=1, max_size=9)),
            draw(st.integers(0, 3)),
            draw(st.booleans()),
            at > 0 and draw(st.booleans()),
        )
        for at in range(count)
    ]
    sentences = st.lists(words, max_size=8).map(" ".join)
    rows = [
        [draw(sentences if column.text else words) for column in columns]
        for _ in range(draw(st.integers(0, 4)))
    ]
    return columns, rows


@given(table=any_table(), width=st.integers(1, 200))
@example(table=([Column("A"), Column("B")], [["x" * 64, "y" * 64]]), width=40)
def test_any_table_fits_and_breaks_no_word(
    table: tuple[list[Column], list[list[str]]], width: int
) -> None:
    columns, rows = table
    header, groups = layout(columns, rows, width)
    lines = [header, *(line for group in groups for line in group)]
    assert all(cells(line) <= width for line in lines)
    for row, group in zip(rows, groups, strict=True):
        known = {word for cell in row for word in cell.split()}
        # A word is whole, or it says that it is not. Only a word that is longer than what the
        # terminal has room for is shortened.
        for word in " ".join(group).split():
            stem = word.rstrip(".")
            assert word in known or (
                any(one.startswith(stem) for one in known) and (word != stem or width < 4)
            )


@given(table=any_table())
def test_without_limit_everything_is_shown(table: tuple[list[Column], list[list[str]]]) -> None:
    columns, rows = table
    header, groups = layout(columns, rows, None)
    assert header.split() == [column.title for column in columns]
    assert [[line.split() for line in group] for group in groups] == [
        [" ".join(row).split()] for row in rows
    ]


ROW = ("app", "1.0.0", "apps", "app", "yes", "4711", "1h 2m", "ready", "exit 1, 0.3s ago")


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (200, "Name Version Repository Type Mounted PID Uptime State Last exit"),
        (75, "Name Version Type Mounted PID Uptime State Last exit"),
        (60, "Name Version PID Uptime State Last exit"),
        (40, "Name Version PID Uptime State"),
        (20, "Name Version State"),
        (13, "Name Version"),
        (12, "Name"),
    ],
)
def test_a_narrow_list_drops_the_least_important_columns(width: int, titles: str) -> None:
    header, [[line]] = layout(listing.COLUMNS, [ROW], width)
    assert " ".join(header.split()) == titles
    assert line.startswith("app   1.0.0" if width > 12 else "app")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("length", [1, 10, 40, 64])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_names_of_any_length(name: str, length: int, width: int) -> None:
    columns = TABLES[name]
    row = ["n" * length, *("x" * len(column.title) for column in columns[1:])]
    header, [[line, *_]] = layout(columns, [row], width)
    assert cells(header) <= width
    shown = line.split()[0]
    assert shown == row[0] or (length >= 40 > width - 4 and shown.endswith("..."))
    essential = [column.title for column in columns if column.drop == 0]
    assert all(title in header for title in essential)


def test_a_text_is_continued_below_its_column() -> None:
    columns = (Column("NAME"), Column("REASON", drop=1, text=True))
    header, [lines] = layout(columns, [["app", "exit 1 (next start in 29.9s)"]], 30)
    assert [header, *lines] == [
        "NAME  REASON",
        "app   exit 1 (next start in",
        "      29.9s)",
    ]


def test_numbers_and_wide_names_are_aligned() -> None:
    columns = (Column("NAME"), Column("PIDS", right=True), Column("X"))
    header, groups = layout(columns, [["界界", "7", "a"], ["é", "1234567", "b"]], 80)
    assert [header, *(line for [line] in groups)] == [
        "NAME     PIDS  X",
        "界界        7  a",
        "é     1234567  b",
    ]


def test_colours() -> None:
    columns = (Column("NAME"), Column("STATE"))
    rows = [["a", "ready"], ["b", "off"]]
    assert tables.drawn(columns, rows, [tables.GREEN, None], 80, True) == [
        "\x1b[1mNAME  STATE\x1b[0m",
        "\x1b[32ma     ready\x1b[0m",
        "b     off",
    ]
    assert tables.drawn(columns, rows, [tables.GREEN, None], 80, False) == [
        "NAME  STATE",
        "a     ready",
        "b     off",
    ]


@given(text=texts, width=st.integers(0, 80), right=st.booleans())
def test_padded(text: str, width: int, right: bool) -> None:
    padded = pad(text, width, right=right)
    assert cells(padded) == max(width, cells(text))
    assert padded.strip(" ") == text.strip(" ")


# Progress


@given(
    name=texts,
    done=st.integers(0, 2**40),
    rest=st.integers(0, 2**40),
    seconds=st.floats(0, 1e6),
    width=st.integers(1, 200),
)
def test_a_progress_bar_fits(name: str, done: int, rest: int, seconds: float, width: int) -> None:
    assert cells(progress.line(name, done, done + rest, seconds, width)) < width


def test_a_progress_bar() -> None:
    def line(width: int) -> str:
        return progress.line("hello.npk", 3_100_000, 12_400_000, 0.5, width)

    assert line(80) == "hello.npk  [#######                       ]  3.1/12.4 MB  6.2 MB/s"
    assert line(60) == "hello.npk  [#######                       ]  3.1/12.4 MB"
    assert line(40) == "hello.npk  3.1/12.4 MB"
    assert line(20) == "3.1/12.4 MB"
    assert progress.line("e", 0, 0, 0, 80) == f"e  [{30 * '#'}]  0.0/0.0 MB"


# Lines that are replaced


@pytest.fixture
def display() -> Any:
    pyte = pytest.importorskip("pyte")
    screen = pyte.Screen(30, 6)
    screen.set_mode(pyte.modes.LNM)
    return screen, pyte.Stream(screen)


def test_lines_are_replaced_in_place(display: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    screen, stream = display

    class Terminal:
        def write(self, text: str) -> None:
            stream.feed(text)

        def flush(self) -> None:
            pass

        def fileno(self) -> int:
            return 1

    size: Callable[[int], os.terminal_size] = lambda _: os.terminal_size((30, 6))  # noqa: E731
    monkeypatch.setattr(os, "get_terminal_size", size)
    live = Live(Terminal())  # type: ignore[arg-type]
    stream.feed("$ command\n")
    full = "x" * 30
    for lines, shown in (
        (["one", "two", full], ["$ command", "one", "two", full]),
        (["1", "2"], ["$ command", "1", "2"]),
        (["1", "2", "3"], ["$ command", "1", "2", "3"]),
        ([str(number) for number in range(9)], ["0", "1", "2", "3", "(5 more lines)"]),
        (["end"], ["end"]),
    ):
        live.draw(lines)
        assert [line.rstrip() for line in screen.display if line.strip()] == shown
