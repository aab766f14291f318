"""Untrusted text in messages: cut, quoted, counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.api import error
from northstar.model import (
    Container,
    InvalidValueError,
    Name,
    NorthstarError,
    Version,
    VersionReq,
    cut,
    listed,
    quote,
)
from northstar.model.text import MESSAGE_MAX, NAMED_MAX, VALUE_MAX

LONG = "é" * 2**20


@given(st.text(), st.integers(2, 30))
def test_cut(text: str, most: int) -> None:
    result = cut(text, most)
    if len(text) <= most:
        assert result == text
    else:
        assert len(result) <= most + len(f"...({len(text)} characters)...")
        assert result.startswith(text[: most // 2])
        assert result.endswith(text[-(most // 2) :])


@given(st.text(max_size=200))
def test_quote(text: str) -> None:
    result = quote(text)
    assert result.isprintable()
    assert len(result) <= 10 * VALUE_MAX + 2
    if len(text) <= VALUE_MAX:
        assert result == repr(text)


def test_listed() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed("abcde") == "a, b, c, d, e"
    assert listed(dict.fromkeys("abcdefg", 1)) == "a, b, c, d, e, 2 more"
    assert len(listed([LONG] * 45)) < NAMED_MAX * 400


@pytest.mark.parametrize("parse", [Name, Version.parse, VersionReq.parse, Container.parse])
@pytest.mark.parametrize("text", [LONG, f"{LONG}:1.0.0", f"a:{LONG}", "\x1b" * 2**20])
def test_an_error_does_not_quote_a_megabyte(parse: object, text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse(text)  # type: ignore[operator]
    assert len(str(caught.value)) < 1000


def test_no_error_is_longer_than_a_message() -> None:
    failure = NorthstarError(f"cannot open {LONG}: No such file")
    assert len(str(failure)) < MESSAGE_MAX + 100
    assert str(failure).startswith("cannot open éé")
    assert str(failure).endswith("éé: No such file")
    assert len(str(error.InvalidRepository(LONG))) < 200
