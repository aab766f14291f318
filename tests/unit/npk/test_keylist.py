"""Key lists: their form, their signatures, and which list may follow which."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from northstar.model import VerificationError
from northstar.npk import key as keys
from northstar.npk import keylist
from northstar.npk.keylist import KeyList, ListedKey, Use

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
"""Seeds."""
PUBLIC = [keys.public_key(bytes([number]) * 32) for number in range(1, 20)]


def install(*seeds: bytes) -> list[ListedKey]:
    return [ListedKey(keys.public_key(seed), Use.INSTALL) for seed in seeds]


def signed(version: int, listed: list[ListedKey], *seeds: bytes) -> KeyList:
    value = keylist.create(version, listed)
    for seed in seeds:
        value = keylist.sign(value, seed)
    return value


def text(**changes: str) -> bytes:
    entry = f"  - {{key: {base64.b64encode(PUBLIC[0]).decode()}, use: install}}\n"
    parts = {"version": "version: 1\n", "keys": "keys:\n", "entries": entry, "line": "---\n"}
    parts |= {"signatures": "signatures:\n"} | changes
    return "".join(parts.values()).encode()


LISTS = st.builds(
    lambda version, chosen, retired: keylist.create(
        version,
        [
            ListedKey(PUBLIC[n], Use.LOAD if n in retired and n != chosen[0] else Use.INSTALL)
            for n in chosen
        ],
    ),
    st.integers(1, keylist.VERSION_MAX),
    st.lists(st.integers(0, 18), min_size=1, max_size=keylist.KEYS_MAX, unique=True),
    st.sets(st.integers(0, 18)),
)


@given(LISTS, st.lists(st.sampled_from([A, B, C]), max_size=3))
def test_round_trip(value: KeyList, seeds: list[bytes]) -> None:
    for seed in seeds:
        value = keylist.sign(value, seed)
    document = keylist.render(value)
    assert keylist.parse(document) == value
    assert keylist.render(keylist.parse(document)) == document
    public = {keys.public_key(seed) for seed in seeds}
    assert set(value.signers(PUBLIC)) == public
    assert len(value.signatures) == len(public)


def test_the_form() -> None:
    value = signed(2, [*install(A), ListedKey(PUBLIC[1], Use.LOAD)], A)
    key, other = (base64.b64encode(public).decode() for public in PUBLIC[:2])
    first = (
        f"version: 2\nkeys:\n  - {{key: {key}, use: install}}\n  - {{key: {other}, use: load}}\n"
    ).encode()
    identifier = hashlib.sha256(PUBLIC[0]).hexdigest()[:16]
    signature = base64.b64encode(keys.sign(A, first)).decode()
    assert keylist.render(value) == (
        first + f"---\nsignatures:\n  - {{id: {identifier}, signature: {signature}}}\n".encode()
    )
    assert value.signed == first
    assert value.with_use(Use.LOAD) == (PUBLIC[1],)


@settings(max_examples=500)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_in_words(document: bytes) -> None:
    with pytest.raises(VerificationError):
        keylist.parse(document)


@given(st.data())
def test_a_changed_list_is_refused_or_loses_its_signature(data: st.DataObject) -> None:
    value = signed(2, install(A, B), A)
    document = bytearray(keylist.render(value))
    position = data.draw(st.integers(0, len(document) - 1))
    document[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = keylist.parse(bytes(document))
    except VerificationError:
        return
    assert changed.signed == value.signed or not changed.signers(PUBLIC)


KEY = base64.b64encode(PUBLIC[0]).decode()
SMALL_ORDER = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "two documents"),
        (text(line=""), "two documents"),
        (b"\n---\nsignatures:\n", "begins with `version: N`"),
        (text(version=""), "begins with `version: N`"),
        (text(version="version: 0\n"), "N from 1"),
        (text(version="version: 01\n"), "N from 1"),
        (text(version="version: 4294967296\n"), "N from 1 to 4294967295"),
        (text(keys=""), "the second line of a key list is `keys:`"),
        (text(entries=""), "has 1 to 16 keys, and not 0"),
        (text(entries=f"  - {{key: {KEY}, use: load}}\n"), "at least one key for install"),
        (text(entries=f"  - {{key: {KEY}, use: sign}}\n"), "the use sign is unknown"),
        (text(entries=f"  - {{key: {KEY}, use: install}}\n" * 2), "is listed twice"),
        (text(entries=f"  - {{key: {KEY[:-4]}, use: install}}\n"), "not the base64 of 32 bytes"),
        (text(entries=f"  - {{key: {SMALL_ORDER}, use: install}}\n"), "not an Ed25519 public key"),
        (text(entries="  - {use: install}\n"), "is not expected there"),
        (text(entries="  - &a {key: x, use: install}\n"), "is not expected there"),
        (text(signatures=""), "begins with `signatures:`"),
        (text(signatures="signatures:\n  - {id: 12, signature: x}\n"), "is not expected there"),
        (
            text(signatures=f"signatures:\n  - {{id: {'0' * 16}, signature: {KEY}}}\n"),
            "not the base64 of 64 bytes",
        ),
        (
            text(
                signatures="signatures:\n"
                + f"  - {{id: {'0' * 16}, signature: {base64.b64encode(bytes(64)).decode()}}}\n" * 2
            ),
            "two signatures of",
        ),
        (text(signatures="signatures:\n" + "\n" * keylist.SIZE_MAX), "at most 16384 bytes"),
    ],
)
def test_refused(document: bytes, reason: str) -> None:
    with pytest.raises(VerificationError, match=reason):
        keylist.parse(document)


def test_at_most_sixteen_keys() -> None:
    keylist.create(1, [ListedKey(key, Use.INSTALL) for key in PUBLIC[:16]])
    with pytest.raises(VerificationError, match="1 to 16 keys, and not 17"):
        keylist.create(1, [ListedKey(key, Use.INSTALL) for key in PUBLIC[:17]])


OLD = signed(3, install(A))


def test_a_list_of_the_next_version_with_both_signatures_follows() -> None:
    keylist.check_successor(OLD, signed(4, install(B), A, B))
    keylist.check_successor(OLD, signed(4, install(A, B), A))


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (signed(3, install(A), A), "version 3 cannot follow version 3: version 4 must"),
        (signed(5, install(A), A), "version 5 cannot follow version 3: version 4 must"),
        (signed(4, install(B), B), "no valid signature by an install key of the current list"),
        (signed(4, install(B), A), "no valid signature by an install key of the new list itself"),
        (signed(4, install(B), C), "the current list"),
        (signed(4, install(A)), "the current list"),
    ],
)
def test_a_list_that_may_not_follow(new: KeyList, reason: str) -> None:
    with pytest.raises(VerificationError, match=reason):
        keylist.check_successor(OLD, new)


def test_a_retired_key_cannot_sign_a_list() -> None:
    retired = [*install(A), ListedKey(keys.public_key(B), Use.LOAD)]
    with pytest.raises(VerificationError, match="the current list"):
        keylist.check_successor(signed(1, retired), signed(2, install(B), B))
    with pytest.raises(VerificationError, match="the new list itself"):
        keylist.check_successor(signed(1, install(B)), signed(2, retired, B))


def test_a_signature_of_another_list_does_not_count() -> None:
    other = signed(4, install(A), A).signatures
    new = signed(4, install(A, B))._replace(signatures=other)
    with pytest.raises(VerificationError, match="no valid signature"):
        keylist.check_successor(OLD, new)


CHAIN = [signed(4, install(A, B), A), signed(5, install(B), A, B), signed(6, install(C), B, C)]


def test_a_chain_is_followed_to_its_end() -> None:
    assert keylist.follow(OLD, []) == (OLD, None)
    assert keylist.follow(OLD, CHAIN) == (CHAIN[2], None)


def test_a_chain_that_is_broken_in_the_middle_ends_there() -> None:
    last, reason = keylist.follow(OLD, [CHAIN[0], CHAIN[2]])
    assert last == CHAIN[0]
    assert reason is not None
    assert "version 6 cannot follow version 4" in reason


def test_a_new_anchor_replaces_lists_up_to_its_version() -> None:
    anchor = signed(5, install(B))
    assert keylist.follow(anchor, CHAIN) == (CHAIN[2], None)
    assert keylist.follow(signed(9, install(C)), CHAIN) == (signed(9, install(C)), None)
