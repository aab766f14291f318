"""Tokens, with a clock that the test controls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.api import TokenResult
from northstar.api.shape import TOKEN_SIZE
from northstar.runtime.console.tokens import (
    OUTSIDE,
    Tokens,
    container_party,
    named_party,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.7

    def __call__(self) -> float:
        return self.now


def test_results_over_the_life_of_a_token() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    token = tokens.create("a", "b", b"shared")
    assert len(token) == TOKEN_SIZE
    assert token[:8] == (1000).to_bytes(8)
    for now, result in {
        999.9: TokenResult.FUTURE,
        1000.0: TokenResult.OK,
        1060.9: TokenResult.OK,
        1061.0: TokenResult.EXPIRED,
        1e9: TokenResult.EXPIRED,
    }.items():
        clock.now = now
        assert tokens.verify(token, "a", "b", b"shared", 60.0) is result


def test_a_token_is_valid_for_its_whole_validity() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    clock.now = 1000.99
    token = tokens.create("a", "b", b"")
    clock.now = 1001.01
    assert tokens.verify(token, "a", "b", b"", 1.0) is TokenResult.OK


def test_time_is_checked_before_the_signature() -> None:
    clock = Clock()
    tokens = Tokens(clock)
    forged = bytes(32)
    for stamp, result in {
        2**64 - 1: TokenResult.FUTURE,
        0: TokenResult.EXPIRED,
        1000: TokenResult.INVALID,
    }.items():
        token = stamp.to_bytes(8) + forged
        assert tokens.verify(token, "a", "b", b"", 60.0) is result


@pytest.mark.parametrize(
    ("user", "target", "shared"),
    [("x", "bc", b"d"), ("a", "x", b"d"), ("a", "bc", b"x"), ("ab", "c", b"d"), ("a", "b", b"cd")],
)
def test_all_parts_are_bound(user: str, target: str, shared: bytes) -> None:
    tokens = Tokens(Clock())
    token = tokens.create("a", "bc", b"d")
    assert tokens.verify(token, "a", "bc", b"d", 60.0) is TokenResult.OK
    assert tokens.verify(token, user, target, shared, 60.0) is TokenResult.INVALID


@given(st.integers(0, 39), st.integers(1, 255))
def test_any_changed_byte_is_detected(position: int, flip: int) -> None:
    clock = Clock()
    tokens = Tokens(clock)
    token = bytearray(tokens.create("a", "b", b"c"))
    token[position] ^= flip
    assert tokens.verify(bytes(token), "a", "b", b"c", 60.0) is not TokenResult.OK


@given(st.text())
def test_no_name_stands_for_a_container_named_extern(name: str) -> None:
    assert named_party(name) != container_party("extern")
    assert (named_party(name) == OUTSIDE) == (name == "extern")
    assert container_party(name) != OUTSIDE


def test_each_run_has_a_new_key() -> None:
    clock = Clock()
    token = Tokens(clock).create("a", "b", b"")
    assert Tokens(clock).verify(token, "a", "b", b"", 60.0) is TokenResult.INVALID
