"""signature.yaml: the hashes of a package, and the signature over them.

Two YAML documents. The first contains three hashes. The second contains the signature over the
bytes of the first, so it is checked before the first is parsed. Only the form that packers write is
accepted: two levels of keys, one value per line. A general YAML parser would be a large attack
surface for unverified bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final, NamedTuple

from northstar.model import VerificationError
from northstar.model.pattern import Pattern
from northstar.npk import key as keys

_SEPARATOR: Final = b"---"
_SECTION: Final = Pattern(r"([a-z.]+):\Z")
_VALUE: Final = Pattern(r"( +)([a-z-]+): +(?:'([^'\"\s]+)'|\"([^'\"\s\\]+)\"|([^'\"\s]+))\Z")
_SIGNATURE: Final = Pattern(
    r"\s*signature: +(?:'([0-9A-Za-z+/=]+)'|\"([0-9A-Za-z+/=]+)\"|([0-9A-Za-z+/=]+))\s*\Z"
)
_HEX_DIGEST: Final = Pattern(r"[0-9a-f]{64}\Z")
_OFFSET: Final = Pattern(r"(?:0|[1-9][0-9]{0,18})\Z")
_FIELDS: Final = {
    ("meta", "hash"),
    ("manifest.yaml", "hash"),
    ("fs.img", "verity-hash"),
    ("fs.img", "verity-offset"),
}

DOCUMENT_MAX: Final = 512
"""Upper bound of the size of a signature.yaml of `render`, in bytes."""


class Hashes(NamedTuple):
    """The signed values.

    Attributes:
        manifest: hex sha256 of manifest.yaml.
        meta: hex sha256 of the archive comment.
        verity: hex root digest of the image.
        verity_offset: offset of the verity superblock in fs.img, which is the size of the image,
            in bytes.
    """

    manifest: str
    meta: str
    verity: str
    verity_offset: int


def verify(document: bytes, public_key: bytes) -> Hashes:
    """Check the signature of a signature.yaml and return the signed values.

    Raises:
        VerificationError: it is malformed, or not signed with this key.
    """
    hashes, _ = verify_any(document, (public_key,))
    return hashes


def verify_any(document: bytes, public_keys: Sequence[bytes]) -> tuple[Hashes, bytes]:
    """Check the signature of a signature.yaml by one of several keys.

    Its format has no field for the id of a key, so each key is tried.

    Returns:
        The signed values, and the key that has signed them.

    Raises:
        VerificationError: it is malformed, or not signed with one of these keys.
    """
    signed, separator, rest = document.partition(_SEPARATOR)
    if not separator:
        raise VerificationError("signature.yaml has no second document with a signature")
    match = _SIGNATURE.match(rest.decode("ascii", "replace"))
    if match is None:
        raise VerificationError("signature.yaml has no readable signature")
    try:
        signature = base64.b64decode(next(filter(None, match.groups())), validate=True)
    except binascii.Error:
        raise VerificationError("the signature in signature.yaml is not base64") from None
    for public_key in public_keys:
        if keys.verify(public_key, signed, signature):
            return _hashes(signed), public_key
    which = "the key" if len(public_keys) == 1 else f"any of the {len(public_keys)} keys"
    raise VerificationError(
        f"the signature does not match {which}",
        hint="it was signed with another key, or altered",
    )


def render(hashes: Hashes, secret_key: bytes) -> bytes:
    """Return the signature.yaml for `hashes`, signed with the 32-byte seed `secret_key`."""
    signed = (
        f"meta:\n  hash: {hashes.meta}\n"
        f"manifest.yaml:\n  hash: {hashes.manifest}\n"
        f"fs.img:\n  verity-hash: {hashes.verity}\n  verity-offset: {hashes.verity_offset}\n"
    ).encode()
    signature = base64.b64encode(keys.sign(secret_key, signed))
    return signed + b"---\nsignature: " + signature + b"\n"


def _hashes(signed: bytes) -> Hashes:
    values: dict[tuple[str, str], str] = {}
    section = indent = ""
    for line in signed.decode("ascii", "replace").split("\n"):
        if match := _SECTION.match(line):
            section, indent = match[1], ""
        elif (match := _VALUE.match(line)) and section:
            field = section, match[2]
            indent = indent or match[1]
            if field not in _FIELDS or field in values or match[1] != indent:
                raise VerificationError(f"signature.yaml: {line.strip()!r} is not expected there")
            values[field] = match[3] or match[4] or match[5]
        elif line.strip():
            raise VerificationError(f"signature.yaml: {line[:100]!r} is not expected there")
    if values.keys() != _FIELDS:
        missing = ", ".join(sorted("/".join(field) for field in _FIELDS - values.keys()))
        raise VerificationError(f"signature.yaml lacks {missing}")
    offset = values["fs.img", "verity-offset"]
    manifest = values["manifest.yaml", "hash"].lower()
    meta = values["meta", "hash"].lower()
    root = values["fs.img", "verity-hash"].lower()
    if not _OFFSET.match(offset) or not all(map(_HEX_DIGEST.match, (manifest, meta, root))):
        raise VerificationError("signature.yaml has a malformed hash or offset")
    return Hashes(manifest, meta, root, int(offset))
