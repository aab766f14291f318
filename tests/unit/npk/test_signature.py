"""signature.yaml and the keys."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.model import PackageError, VerificationError
from northstar.npk import key as keys
from northstar.npk import signature
from northstar.npk.signature import Hashes

SEED = bytes(range(32))
HASHES = Hashes("1" * 64, "2" * 64, "a" * 64, 24576)

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
hashes = st.builds(Hashes, digests, digests, digests, st.integers(0, 2**32))


def public() -> bytes:
    return keys.public_key(SEED)


def signed(document: str) -> bytes:
    """Sign any first document."""
    text = document.encode()
    return text + b"---\nsignature: " + base64.b64encode(keys.sign(SEED, text)) + b"\n"


def document(**changes: str) -> str:
    values = {"meta": "2" * 64, "manifest": "1" * 64, "verity": "a" * 64, "offset": "24576"}
    values |= changes
    return (
        "meta:\n  hash: {meta}\nmanifest.yaml:\n  hash: {manifest}\n"
        "fs.img:\n  verity-hash: {verity}\n  verity-offset: {offset}\n"
    ).format(**values)


@given(hashes)
def test_round_trip(value: Hashes):
    text = signature.render(value, SEED)
    assert len(text) <= signature.DOCUMENT_MAX
    assert signature.verify(text, public()) == value


def test_another_key():
    with pytest.raises(VerificationError, match="does not match the key"):
        signature.verify(signature.render(HASHES, bytes(32)), public())


@given(st.data())
def test_no_signed_byte_can_change(data: st.DataObject):
    text = bytearray(signature.render(HASHES, SEED))
    text[data.draw(st.integers(0, text.index(b"---") - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VerificationError):
        signature.verify(bytes(text), public())


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes):
    with pytest.raises(VerificationError):
        signature.verify(data, public())


@given(st.text("abcdefhimnorstvy.-: \n'\"0123456789\t#&*!{}[]", max_size=300))
def test_any_signed_text(text: str):
    """Any signed text is read or refused with a VerificationError."""
    with contextlib.suppress(VerificationError):
        assert isinstance(signature.verify(signed(text), public()), Hashes)


@pytest.mark.parametrize(
    "text",
    [
        document(),
        document(meta="'" + "2" * 64 + "'", manifest='"' + "1" * 64 + '"'),
        document(verity="A" * 64),
        document().replace("  ", "    "),
        "\n" + document() + "\n",
        # Another order of sections.
        document()[document().index("fs.img") :] + document()[: document().index("fs.img")],
    ],
)
def test_equivalent_forms(text: str):
    assert signature.verify(signed(text), public()) == HASHES


@pytest.mark.parametrize(
    "text",
    [
        document(meta="2" * 63),
        document(meta="2" * 65),
        document(verity="g" * 64),
        document(offset="-1"),
        document(offset="0x6000"),
        document(offset="024576"),
        document(offset="9" * 20),
        document(offset="24576 # comment"),
        document(meta="&a " + "2" * 64),
        document(meta="'" + "2" * 64 + '"'),
        document() + "meta:\n  hash: " + "3" * 64 + "\n",
        document() + "extra:\n  hash: " + "3" * 64 + "\n",
        document() + "hash: " + "3" * 64 + "\n",
        document().replace("  verity-offset", "    verity-offset"),
        document().replace("  hash", "hash"),
        document().replace("meta:", "meta: {"),
        document().replace("\n", "\r\n"),
        document().replace("fs.img:\n", ""),
        "",
    ],
)
def test_refused_although_signed(text: str):
    with pytest.raises(VerificationError, match=r"signature\.yaml"):
        signature.verify(signed(text), public())


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("", "no second document"),
        ("---\n", "no readable signature"),
        ("---\nsignature:\n", "no readable signature"),
        ("---\nsignature: a b\n", "no readable signature"),
        ("---\nsignature: abc\n", "not base64"),
        ("---\nsignature: AAAA\n", "does not match the key"),
        ("---\nsignature: AAAA\nextra: 1\n", "no readable signature"),
    ],
)
def test_second_document(tail: str, reason: str):
    with pytest.raises(VerificationError, match=reason):
        signature.verify((document() + tail).encode(), public())


def test_signature_of_other_length():
    """libsodium expects signature and message concatenated: the boundary must not move."""
    message = b"message"
    good = keys.sign(SEED, message)
    assert keys.verify(public(), message, good)
    assert not keys.verify(public(), message[1:], good + message[:1])
    assert not keys.verify(public(), message, good[:-1])


SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    # Not canonical: p and p + 1.
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    # Not a point.
    "0200000000000000000000000000000000000000000000000000000000000000",
]


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_weak_keys(tmp_path: Path, point: str):
    path = tmp_path / "weak.pub"
    path.write_bytes(bytes.fromhex(point))
    with pytest.raises(PackageError, match="not an Ed25519 public key"):
        keys.load_public_key(path)
    # R = the point, S = 0: with a small-order key lax verifiers accept it for any message.
    for lax in (bytes.fromhex(point) + bytes(32), bytes(64), b"\1" + bytes(63)):
        assert not keys.verify(bytes.fromhex(point), b"message", lax)


def test_scalar_is_canonical():
    """S + L is accepted by lax implementations: two signatures for one message."""
    order = 2**252 + 27742317777372353535851937790883648493
    good = keys.sign(SEED, b"message")
    scalar = int.from_bytes(good[32:], "little") + order
    assert not keys.verify(public(), b"message", good[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_key_file_of_other_size(tmp_path: Path, size: int):
    path = tmp_path / "x.pub"
    path.write_bytes(bytes(size))
    with pytest.raises(PackageError, match=r"x\.pub has .* bytes"):
        keys.load_public_key(path)


def test_key_that_is_not_a_file(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (
        ("fifo", "not a regular file"),
        (".", "not a regular file"),
        ("no", "No such"),
    ):
        with pytest.raises(PackageError, match=reason):
            keys.load_public_key(tmp_path / name)


def test_generate(tmp_path: Path):
    secret, public_path = keys.generate("mine", tmp_path)
    assert [stat.S_IMODE(os.stat(path).st_mode) for path in (secret, public_path)] == [0o600, 0o644]
    assert keys.public_key(keys.load_secret_key(secret)) == keys.load_public_key(public_path)
    for existing in (secret, public_path):
        os.unlink(secret if existing == public_path else public_path)
        with pytest.raises(PackageError, match="exists already"):
            keys.generate("mine", tmp_path)
        assert os.listdir(tmp_path) == [os.path.basename(existing)]
        os.unlink(existing)
        secret, public_path = keys.generate("mine", tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_generate_refuses_names(tmp_path: Path, name: str):
    with pytest.raises(PackageError, match="not a name"):
        keys.generate(name, tmp_path)


def test_libsodium_is_loaded_for_keys_only():
    code = "import sys, northstar.npk; sys.exit('nacl' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
