"""The keys of a terminal, and a screen that leaves the terminal as it was."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.cli.screen import Keys, Screen, Size

KEYS = {
    b"q": "q",
    b"\x03": "interrupt",
    b"\x1a": "suspend",
    b"\r": "enter",
    b"\n": "enter",
    b"\x1b[A": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
}
OTHERS = (b"\x00", b"\xc3\xa9", b"\x1b[15~", b"\x1b[1;5C", b"\x1bOP")
"""Input without meaning: NUL, an umlaut, F5, Ctrl-Right, F1."""


@pytest.mark.parametrize("data", KEYS)
def test_keys(data: bytes) -> None:
    keys = Keys()
    assert keys.feed(data) == [KEYS[data]]
    assert not keys.pending


@given(
    parts=st.lists(st.sampled_from((*KEYS, *OTHERS)), max_size=8),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_keys_that_arrive_in_pieces(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    keys = Keys()
    found = []
    begin = 0
    for end in sorted({min(cut, len(data)) for cut in cuts} | {len(data)}):
        found += keys.feed(data[begin:end])
        begin = end
    assert found == [KEYS[part] for part in parts if part in KEYS]
    assert not keys.pending


@given(chunks=st.lists(st.binary(max_size=20), max_size=10))
def test_any_input(chunks: list[bytes]) -> None:
    keys = Keys()
    for chunk in chunks:
        for key in keys.feed(chunk):
            assert key in KEYS.values() or key in ("escape", "redraw") or key.isprintable()
    keys.flush()
    assert not keys.pending


def test_escape_alone() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.pending
    assert keys.flush() == ["escape"]
    assert keys.feed(b"q") == ["q"]
    assert keys.feed(b"\x1bq") == ["escape", "q"]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    local, remote = os.openpty()
    yield local, remote
    os.close(local)
    os.close(remote)


def test_the_terminal_is_restored(terminal: tuple[int, int]) -> None:
    local, remote = terminal
    before = termios.tcgetattr(remote)
    screen = Screen(remote, remote)

    def use() -> None:
        with screen:
            assert termios.tcgetattr(remote) != before
            screen.draw(["one", "two"])
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        use()
    assert termios.tcgetattr(remote) == before
    screen.leave()
    shown = b""
    while not shown.endswith(b"1049l"):
        shown += os.read(local, 4096)
    assert shown.startswith(b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[Kone")
    assert shown.endswith(b"\x1b[Jtwo\x1b[?7h\x1b[?25h\x1b[?1049l")


def test_the_size_of_a_terminal(terminal: tuple[int, int]) -> None:
    _, remote = terminal
    screen = Screen(remote, remote)
    assert screen.size() == Size(24, 80)  # a new one has none
    termios.tcsetwinsize(remote, (12, 40))
    assert screen.size() == Size(12, 40)


def test_no_terminal_is_an_os_error() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="ioctl"):
            Screen(reader, writer).enter()
    finally:
        os.close(reader)
        os.close(writer)
