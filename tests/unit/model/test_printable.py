"""Untrusted text in lines of a log and on terminals."""

from __future__ import annotations

import json
import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from northstar.model import printable, printable_json

UNSAFE = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in UNSAFE and character != "\t"


def test_characters_are_escaped_by_category() -> None:
    """Unassigned code points between format characters may be escaped too."""
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        shown = printable(character)
        if is_unsafe(character):
            assert shown == ascii(character)[1:-1], hex(number)
        elif shown != character:
            assert unicodedata.category(character) == "Cn", hex(number)


def test_examples() -> None:
    assert printable("plain ä\n\tü", lines=True) == "plain ä\n\tü"
    assert printable("plain ä\n\tü") == "plain ä\\n\tü"
    hostile = "\x1b[2J\r\x00\u202e\udc80\x9b\U000e0041"
    shown = "\\x1b[2J\\r\\x00\\u202e\\udc80\\x9b\\U000e0041"
    assert printable(hostile) == printable(hostile, lines=True) == shown


@given(st.text())
def test_printable_text_is_one_line_and_unchanged(text: str) -> None:
    shown = printable(text)
    assert len(f"{shown}|".splitlines()) == 1
    assert not any(map(is_unsafe, shown))
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\u202e\u2028\x7f\U000e0041")))
def test_json_stays_the_same_value(text: str) -> None:
    shown = printable_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert not any(map(is_unsafe, shown))
