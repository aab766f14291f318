"""Messages of services: sd_notify(3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.model import printable
from northstar.model.notify import MESSAGE_SIZE_MAX, NOTHING, STATUS_MAX, NotifyMessage, parse


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"READY=1", NotifyMessage(ready=True)),
        (b"STOPPING=1", NotifyMessage(stopping=True)),
        (b"WATCHDOG=1", NotifyMessage(watchdog=True)),
        (b"WATCHDOG=trigger", NotifyMessage(trigger=True)),
        (b"STATUS=Loading 3 of 7", NotifyMessage(status="Loading 3 of 7")),
        (b"STATUS=a=b", NotifyMessage(status="a=b")),
        (b"STATUS=", NotifyMessage(status="")),
        (b"EXTEND_TIMEOUT_USEC=5000000", NotifyMessage(extend=5 * 10**9)),
        (b"EXTEND_TIMEOUT_USEC=0", NotifyMessage(extend=0)),
        (b"EXTEND_TIMEOUT_USEC=18446744073709551615", NotifyMessage(extend=(2**64 - 1) * 1000)),
        (b"READY=1\nSTATUS=up\nWATCHDOG=1\n", NotifyMessage(True, False, True, False, "up")),
        (b"READY=1\r\nWATCHDOG=1", NotifyMessage(ready=True, watchdog=True)),
        (b"READY=1\0", NotifyMessage(ready=True)),
        (b"MAINPID=7\nREADY=1\nFDSTORE=1", NotifyMessage(ready=True)),
    ],
)
def test_known_fields(data: bytes, message: NotifyMessage) -> None:
    assert parse(data) == message


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\n\n", b"=", b"=1", b"READY", b"READY=", b"READY=0", b"READY=11", b"READY=1 "),
        *(b" READY=1", b"ready=1", b"READY =1", b"READY= 1", b"STOPPING=0", b"STOPPING=true"),
        *(b"WATCHDOG=", b"WATCHDOG=0", b"WATCHDOG=Trigger", b"WATCHDOG_USEC=5", b"STATUS", b"\xff"),
        *(b"EXTEND_TIMEOUT_USEC=", b"EXTEND_TIMEOUT_USEC=-1", b"EXTEND_TIMEOUT_USEC=1.5"),
        *(b"EXTEND_TIMEOUT_USEC=18446744073709551616", b"EXTEND_TIMEOUT_USEC=" + b"9" * 4000),
        *(b"EXTEND_TIMEOUT_USEC=\xd9\xa3", b"EXTEND_TIMEOUT_USEC=0x10", b"EXTEND_TIMEOUT_USEC=+1"),
        *(b"MAINPID=1", b"RELOADING=1", b"BARRIER=1", b"FDSTORE=1\nFDNAME=a", b"ERRNO=2"),
        *(b"READY=1\0\0", b"READY=1\0\n", b"A=\0\nREADY=1", b"READY=1" + b"\n" * MESSAGE_SIZE_MAX),
    ],
)
def test_all_else_is_ignored(data: bytes) -> None:
    assert parse(data) == NOTHING


def test_of_two_states_the_last_counts_and_of_other_fields_the_first() -> None:
    assert parse(b"READY=1\nSTOPPING=1") == NotifyMessage(stopping=True)
    assert parse(b"STOPPING=1\nREADY=1") == NotifyMessage(ready=True)
    assert parse(b"STATUS=a\nSTATUS=b") == NotifyMessage(status="a")
    assert parse(b"WATCHDOG=1\nWATCHDOG=trigger") == NotifyMessage(watchdog=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"x" * STATUS_MAX, "x" * STATUS_MAX),
        (b"x" * (STATUS_MAX + 1), "x" * STATUS_MAX),
        # No part of a character is left at the cut.
        (b"x" * (STATUS_MAX - 1) + "é".encode(), "x" * (STATUS_MAX - 1)),
        ("\U0001f600".encode() * 65, "\U0001f600" * 64),
        # An incomplete character at the end of a shorter text is escaped like other bytes.
        (b"a\xc3", r"a\xc3"),
        (b"\xff\x1b[2J\t\xe2\x80\xae", r"\xff\x1b[2J" + "\t" + r"\u202e"),
    ],
)
def test_the_status_is_cut_and_escaped(value: bytes, text: str) -> None:
    assert parse(b"STATUS=" + value).status == text


@given(st.binary(max_size=MESSAGE_SIZE_MAX + 10))
def test_any_bytes(data: bytes) -> None:
    check(parse(data))


lines = st.one_of(
    st.sampled_from([b"READY=1", b"STOPPING=1", b"WATCHDOG=1", b"WATCHDOG=trigger", b"\0", b"\r"]),
    st.binary(max_size=300).map(lambda value: b"STATUS=" + value),
    st.binary(max_size=25).map(lambda value: b"EXTEND_TIMEOUT_USEC=" + value),
    st.integers(-1, 2**65).map(lambda value: b"EXTEND_TIMEOUT_USEC=%d" % value),
    st.binary(max_size=20),
)


@given(st.lists(lines, max_size=20).map(b"\n".join))
def test_any_lines(data: bytes) -> None:
    check(parse(data))


def check(message: NotifyMessage) -> None:
    """Assert what holds for each message."""
    assert not (message.ready and message.stopping)
    assert not (message.watchdog and message.trigger)
    assert message.extend is None or 0 <= message.extend < 2**64 * 1000
    if message.status is not None:
        assert message.status == printable(message.status)
        assert len(message.status) <= 4 * STATUS_MAX


@dataclass
class Expected:
    """A message that is built from known fields, and what must be read from it."""

    lines: list[bytes] = field(default_factory=list)
    fields: dict[str, object] = field(default_factory=dict)


@st.composite
def known(draw: st.DrawFn) -> Expected:
    expected = Expected()
    if state := draw(st.sampled_from(["", "ready", "stopping"])):
        expected.lines.append(f"{state.upper()}=1".encode())
        expected.fields[state] = True
    if draw(st.booleans()):
        expected.lines.append(b"WATCHDOG=1")
        expected.fields["watchdog"] = True
    if draw(st.booleans()):
        text = draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100))
        expected.lines.append(f"STATUS={text}".encode())
        expected.fields["status"] = text
    if draw(st.booleans()):
        microseconds = draw(st.integers(0, 2**64 - 1))
        expected.lines.append(b"EXTEND_TIMEOUT_USEC=%d" % microseconds)
        expected.fields["extend"] = microseconds * 1000
    others = st.from_regex(rb"[A-Z]{1,5}_[A-Z]{1,5}=[ -~]{0,10}", fullmatch=True)
    expected.lines += draw(st.lists(others, max_size=5))
    expected.lines = draw(st.permutations(expected.lines))
    return expected


@given(known())
def test_known_fields_in_any_order_among_others(expected: Expected) -> None:
    assert parse(b"\n".join(expected.lines)) == NotifyMessage(**expected.fields)  # type: ignore[arg-type]


@given(known())
def test_the_text_for_the_log_is_a_message_too(expected: Expected) -> None:
    message = NotifyMessage(**expected.fields)  # type: ignore[arg-type]
    assert str(message).isprintable()
    words, status, text = str(message).partition("STATUS=")
    assert parse(words.replace(" ", "\n").encode() + status.encode() + text.encode()) == message
