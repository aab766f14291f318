"""Key lists: which keys verify the packages of a repository, and how a list is replaced.

A list has two YAML documents, as signature.yaml. The first contains the keys. The second contains
signatures over the bytes of the first. Only the form that `render` writes is accepted, apart from
spaces: a general YAML parser would be a large attack surface for unverified bytes.

A key is named by its id, which is computed from the key. So nobody can choose the id of another's.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from northstar.model import VerificationError
from northstar.model.pattern import Pattern
from northstar.npk import key as keys

KEYS_MAX: Final = 16
"""Most keys of a list."""

SIZE_MAX: Final = 16 * 1024
"""Largest size of a list, in bytes."""

VERSION_MAX: Final = 2**32 - 1

_ID_DIGITS: Final = 16
_SEPARATOR: Final = b"---\n"
_VERSION: Final = Pattern(r"version: +([1-9][0-9]{0,9})\Z")
_KEY: Final = Pattern(r" *- *\{ *key: *([0-9A-Za-z+/=]+) *, *use: *([a-z]+) *\}\Z")
_SIGNATURE: Final = Pattern(r" *- *\{ *id: *([0-9a-f]{16}) *, *signature: *([0-9A-Za-z+/=]+) *\}\Z")


class Use(enum.Enum):
    """What a key verifies."""

    INSTALL = "install"
    """All packages."""
    LOAD = "load"
    """Only packages that are in the repository already: the key is retired."""


class ListedKey(NamedTuple):
    """A key of a list.

    Attributes:
        key: the 32 bytes of the Ed25519 public key.
        use: what it verifies.
    """

    key: bytes
    use: Use


class KeySignature(NamedTuple):
    """A signature over the first document of a list.

    Attributes:
        id: the id of the key.
        signature: its 64 bytes.
    """

    id: str
    signature: bytes


class KeyList(NamedTuple):
    """A key list.

    Attributes:
        version: grows by one with each list that replaces another.
        keys: at most `KEYS_MAX`, each once.
        signed: the bytes that the signatures cover.
        signatures: at most one of each key id; not checked, see `signers`.
    """

    version: int
    keys: tuple[ListedKey, ...]
    signed: bytes
    signatures: tuple[KeySignature, ...]

    def with_use(self, use: Use) -> tuple[bytes, ...]:
        """Return the keys with a use."""
        return tuple(listed.key for listed in self.keys if listed.use is use)

    def signers(self, among: Iterable[bytes]) -> tuple[bytes, ...]:
        """Return those keys of `among` that have signed this list."""
        by_id = {entry.id: entry.signature for entry in self.signatures}
        return tuple(
            key
            for key in among
            if (signature := by_id.get(key_id(key))) is not None
            and keys.verify(key, self.signed, signature)
        )


def key_id(public_key: bytes) -> str:
    """Return the id of a key: the first 16 hex digits of the SHA-256 of its bytes."""
    return hashlib.sha256(public_key).hexdigest()[:_ID_DIGITS]


def create(version: int, listed: Sequence[ListedKey]) -> KeyList:
    """Return a list without signatures.

    Raises:
        VerificationError: the version, the number of keys or a key is invalid.
    """
    entries = "".join(f"  - {{key: {_base64(key)}, use: {use.value}}}\n" for key, use in listed)
    return parse(f"version: {version}\nkeys:\n{entries}".encode() + _SEPARATOR + b"signatures:\n")


def render(value: KeyList) -> bytes:
    """Return the file of a list; its first document is the bytes that were signed."""
    entries = "".join(
        f"  - {{id: {entry.id}, signature: {_base64(entry.signature)}}}\n"
        for entry in value.signatures
    )
    return value.signed + _SEPARATOR + f"signatures:\n{entries}".encode()


def sign(value: KeyList, secret_key: bytes) -> KeyList:
    """Return the list with a signature by a seed, which replaces an earlier one of this key.

    Raises:
        VerificationError: the list would have more signatures than `parse` accepts.
    """
    own = key_id(keys.public_key(secret_key))
    others = [entry for entry in value.signatures if entry.id != own]
    added = KeySignature(own, keys.sign(secret_key, value.signed))
    return parse(render(value._replace(signatures=(*others, added))))


def parse(document: bytes) -> KeyList:
    """Return the list in a file. Signatures are not verified.

    Raises:
        VerificationError: it is malformed, or has an invalid key.
    """
    if len(document) > SIZE_MAX:
        raise VerificationError(f"a key list has at most {SIZE_MAX} bytes")
    start = document.find(b"\n" + _SEPARATOR) + 1
    if not start:
        raise VerificationError(
            "a key list has two documents: keys, and signatures, with a line `---` between them",
            hint="sextant key-list new makes one",
        )
    signed, rest = document[:start], document[start + len(_SEPARATOR) :]
    version, listed = _parse_keys(_lines(signed))
    return KeyList(version, listed, signed, _parse_signatures(_lines(rest)))


def check_successor(current: KeyList, new: KeyList) -> None:
    """Check that a list may replace the current one.

    Raises:
        VerificationError: its version is not the next one, or a signature is missing.
    """
    if new.version != current.version + 1:
        raise VerificationError(
            f"a list of version {new.version} cannot follow version {current.version}: "
            f"version {current.version + 1} must come next"
        )
    for owner, text in ((current, "the current list"), (new, "the new list itself")):
        able = owner.with_use(Use.INSTALL)
        if not new.signers(able):
            names = ", ".join(map(key_id, able)) or "none"
            raise VerificationError(
                f"version {new.version} has no valid signature by an install key of {text}",
                hint=f"sign it with one of: {names}",
            )


def follow(anchor: KeyList, successors: Iterable[KeyList]) -> tuple[KeyList, str | None]:
    """Follow a chain of lists from the anchor, up to the first that may not replace its former one.

    Lists that the anchor replaces, because its version is the same or higher, are skipped.

    Returns:
        The last valid list, and why the next one is not valid; None if all are.
    """
    current = anchor
    for new in successors:
        if new.version <= anchor.version:
            continue
        try:
            check_successor(current, new)
        except VerificationError as failure:
            return current, str(failure)
        current = new
    return current, None


def _parse_keys(lines: Sequence[str]) -> tuple[int, tuple[ListedKey, ...]]:
    match = _VERSION.match(lines[0]) if lines else None
    if match is None or int(match[1]) > VERSION_MAX:
        raise VerificationError(
            f"a key list begins with `version: N`, N from 1 to {VERSION_MAX}",
            hint="sextant key-list new makes one",
        )
    if lines[1:2] != ["keys:"]:
        raise VerificationError("the second line of a key list is `keys:`")
    listed: dict[str, ListedKey] = {}
    for line in lines[2:]:
        found = _KEY.match(line)
        if found is None:
            raise _unexpected(line, "{key: BASE64, use: install}")
        key = _decode(found[1], keys.KEY_SIZE, "key")
        if found[2] not in {use.value for use in Use}:
            raise VerificationError(f"the use {found[2]} is unknown: a key is for install or load")
        if not keys.is_valid(key):
            raise VerificationError(f"{found[1]} is not an Ed25519 public key")
        if key_id(key) in listed:
            raise VerificationError(f"the key {key_id(key)} is listed twice")
        listed[key_id(key)] = ListedKey(key, Use(found[2]))
    if not 1 <= len(listed) <= KEYS_MAX:
        raise VerificationError(f"a key list has 1 to {KEYS_MAX} keys, and not {len(listed)}")
    if not any(use is Use.INSTALL for _, use in listed.values()):
        raise VerificationError("a key list has at least one key for install")
    return int(match[1]), tuple(listed.values())


def _parse_signatures(lines: Sequence[str]) -> tuple[KeySignature, ...]:
    if lines[:1] != ["signatures:"]:
        raise VerificationError("the second document of a key list begins with `signatures:`")
    found: dict[str, KeySignature] = {}
    for line in lines[1:]:
        match = _SIGNATURE.match(line)
        if match is None:
            raise _unexpected(line, "{id: ID, signature: BASE64}")
        if match[1] in found:
            raise VerificationError(f"the key list has two signatures of {match[1]}")
        size = keys.SIGNATURE_SIZE
        found[match[1]] = KeySignature(match[1], _decode(match[2], size, "signature"))
    return tuple(found.values())


def _lines(document: bytes) -> list[str]:
    return [line for line in document.decode("ascii", "replace").split("\n") if line.strip()]


def _unexpected(line: str, form: str) -> VerificationError:
    shown = line.strip()[:100]
    return VerificationError(f"key list: {shown!r} is not expected there", hint=f"write `- {form}`")


def _decode(text: str, size: int, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        data = b""
    # One text for each value, so that a list has one form.
    if len(data) != size or _base64(data) != text:
        raise VerificationError(f"a {what} in the key list is not the base64 of {size} bytes")
    return data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
