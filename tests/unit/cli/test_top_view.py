"""What nstar top shows, and what its keys do; usage of two samples."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.api import ContainerData, ContainerState, Status, Wanted
from northstar.api.log import LogLine, LogLost, LogStream
from northstar.api.response import Process
from northstar.cli import usage
from northstar.cli.tables import cells
from northstar.cli.top_view import LOG_LINES, Act, Command, Follow, LogView, Verb, View
from northstar.cli.usage import Usage, measured, size
from northstar.client.usage import Statistics
from northstar.model import Container

A, B, C = (Container.parse(f"{name}:1.0.0") for name in "abc")
READY = Status(Wanted.UP, ContainerState.READY, 0, "", 1, 2, None, None, None)


def one(container: Container, cpu: float | None = None, memory: int = 0, pids: int = 1) -> Usage:
    used = Statistics(memory_bytes=memory, pids=pids)
    return Usage(container, 7, 10**9, used, cpu, READY)


def view(*rows: Usage) -> View:
    made = View()
    made.update(rows or [one(A, 1, 3, 9), one(B, 3, 2, 5), one(C, 2, 1, 7)])
    return made


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]


def names(shown: View) -> list[str]:
    return [line[2] for line in shown.lines(24, 80, False)[2:5]]


def selected(shown: View) -> str:
    [line] = [line for line in shown.lines(24, 80, False)[2:] if line.startswith("> ")]
    return line[2]


def test_the_screen() -> None:
    shown = view(one(A, 12.34, 3 << 20), one(B, None, 512))
    assert shown.lines(8, 80, False) == [
        "2 of 2 apps run  CPU 12.3 %  memory 3.0MiB  by CPU",
        "  NAME  VERSION  STATE  CPU %  MEMORY  LIMIT  PIDS  RESTARTS  UPTIME",
        "> a     1.0.0    ready   12.3  3.0MiB      -     1         2  1s",
        "  b     1.0.0    ready      -    512B      -     1         2  1s",
        "",
        "",
        "",
        "q quit  s stop  k kill  r restart  l log  c by CPU  m by memory  p by PIDs",
    ]
    coloured = shown.lines(8, 80, True)
    assert plain(coloured)[3:] == shown.lines(8, 80, False)[3:]
    assert coloured[2].startswith("\x1b[32;7m> a ")
    assert coloured[3].startswith("\x1b[32m  b ")


@pytest.mark.parametrize(
    ("key", "order"), [("c", "bca"), ("m", "abc"), ("p", "acb"), ("n", "abc"), ("t", "abc")]
)
def test_sorted(key: str, order: str) -> None:
    shown = view()
    shown.press(key)
    assert "".join(names(shown)) == order


def test_the_selection_stays_with_its_container() -> None:
    shown = view()
    assert selected(shown) == "b"
    shown.press("c")
    shown.update([one(A, 9), one(B, 3)])
    # None was selected: the first one is.
    assert selected(shown) == "a"
    shown.press("down")
    assert selected(shown) == "b"
    shown.update([one(A, 1), one(B, 3), one(C, 5)])
    assert selected(shown) == "b"
    shown.update([one(A, 1), one(C, 5)])
    assert selected(shown) == "a"
    shown.update([])
    assert shown.press("s") is None
    assert shown.press("l") is None


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 10, 30])
def test_the_selected_one_is_in_sight(rows: int) -> None:
    containers = [Container.parse(f"n{number:02}:1.0.0") for number in range(20)]
    shown = view(*(one(container) for container in containers))
    for key in [*25 * ["down"], *3 * ["page up"], "end", *25 * ["up"], "page down", "home"]:
        shown.press(key)
        lines = shown.lines(rows, 80, False)
        assert len(lines) <= rows
        if rows > 4:
            assert sum(line.startswith("> ") for line in lines) == 1


@pytest.mark.parametrize(("key", "verb"), [("s", "stop"), ("k", "kill"), ("r", "restart")])
def test_an_action_is_confirmed(key: str, verb: str) -> None:
    shown = view()
    assert shown.press(key) is None
    assert shown.lines(24, 80, False)[-2] == f"{verb} b:1.0.0? y: yes, any other key: no"
    # The next key answers, whatever it means otherwise.
    assert shown.press("q") is None
    assert shown.lines(24, 80, False)[-2] == ""
    shown.press(key)
    shown.update([one(A, 9), one(B, 3)])
    assert shown.press("y") == Act(Verb(verb), B)


def test_other_wishes() -> None:
    shown = view()
    assert shown.press("q") is Command.QUIT
    assert shown.press("interrupt") is Command.INTERRUPT
    assert shown.press("suspend") is Command.SUSPEND
    assert shown.press("l") == Follow(B)
    assert shown.press("x") is None
    shown.log = LogView(B)
    assert shown.press("s") is None
    assert shown.press("interrupt") is Command.INTERRUPT
    assert shown.press("q") is Command.END_LOG


def test_a_log() -> None:
    log = LogView(A)
    for number in range(LOG_LINES + 5):
        stream = LogStream.STDERR if number % 2 else LogStream.STDOUT
        log.add(LogLine(A, 1, 1_500_000_000, stream, f"line\t{number}\x1b[2J", "cursor"))
    log.add(LogLost(A, 1, 77))
    assert log.lines(5, 80, False) == [
        "log of a:1.0.0",
        r"00:00:01.500 line       1003\x1b[2J",
        r"00:00:01.500 line       1004\x1b[2J",
        "(77 bytes lost)",
        "q back",
    ]
    assert log.lines(5, 80, True)[1].startswith("\x1b[33m")
    assert log.lines(LOG_LINES + 2, 80, False)[1].split()[2].startswith("6\\")


@given(
    texts=st.lists(st.text(max_size=100), max_size=20),
    keys=st.lists(st.sampled_from(["down", "up", "s", "c", "m", "end", "x"]), max_size=6),
    rows=st.integers(1, 30),
    columns=st.integers(1, 120),
    colour=st.booleans(),
)
def test_no_line_is_wider_than_the_screen(
    texts: list[str], keys: list[str], rows: int, columns: int, colour: bool
) -> None:
    containers = [Container.parse(f"{'n' * (1 + at * 3)}:1.{at}.0") for at in range(len(texts))]
    shown = view(*(one(container, at) for at, container in enumerate(containers)))
    log = LogView(A)
    for text in texts:
        shown.message = text
        log.add(LogLine(A, 1, 0, LogStream.STDOUT, text.replace("\n", " "), ""))
    for key in keys:
        shown.press(key)
    for lines in (shown.lines(rows, columns, colour), log.lines(rows, columns, colour)):
        assert 1 <= len(lines) <= rows
        assert all(cells(line) <= columns for line in plain(lines))


# Usage


def data(pid: int, uptime_ns: int, cpu_ns: int) -> ContainerData:
    statistics = {"cpuacct": {"usage": cpu_ns}}
    return ContainerData({}, "r", True, Process(pid, uptime_ns, statistics))


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        ((7, 10**9, 0), (7, 3 * 10**9, 10**9), 50.0),
        ((7, 10**9, 0), (7, 3 * 10**9, 4 * 10**9), 200.0),
        ((7, 10**9, 5), (7, 2 * 10**9, 4), 0.0),  # the kernel has corrected its counter
        ((7, 10**9, 0), (8, 3 * 10**9, 10**9), None),  # restarted
        ((7, 10**9, 0), (7, 10**9, 10**9), None),
        (None, (7, 10**9, 10**9), None),
    ],
)
def test_percentages(before: Any, after: Any, percent: float | None) -> None:
    earlier = None if before is None else measured(A, data(*before), None, None)
    found = measured(A, data(*after), None, earlier)
    assert found.cpu_percent == percent
    assert (found.pid, found.used.cpu_ns) == (after[0], after[2])


def test_one_that_does_not_run() -> None:
    found = measured(A, ContainerData({}, "r", True, None), READY, one(A))
    assert found == Usage(A, None, None, Statistics(), None, READY)
    assert usage.row(found) == ("a", "1.0.0", "ready", "-", "-", "-", "-", "2", "-")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0KiB"),
        (1536, "1.5KiB"),
        (102_400, "100KiB"),
        (1_048_575, "1.0MiB"),
        (12_897_484, "12.3MiB"),
        (2**60, "1048576TiB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text
