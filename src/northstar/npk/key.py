"""Ed25519 keys: raw 32-byte files, NAME.key (the seed) and NAME.pub.

libsodium (through PyNaCl) verifies strictly: no small-order keys or points, canonical encodings
only. It is imported on first use, since a device without keys does not need it.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from northstar.model import PackageError

KEY_SIZE: Final = 32
"""Size of seed and public key, in bytes."""

_KEY_SUFFIX: Final = ".key"
_PUB_SUFFIX: Final = ".pub"

SIGNATURE_SIZE: Final = 64
"""Size of a signature, in bytes."""


def load_public_key(path: str | os.PathLike[str]) -> bytes:
    """Return the public key in a NAME.pub file, 32 bytes.

    Raises:
        PackageError: it cannot be read, or does not contain a valid key.
    """
    raw = _read(path)
    if not is_valid(raw):
        raise PackageError(
            f"{os.fspath(path)} is not an Ed25519 public key (a weak or invalid point)",
            hint="make keys with 'sextant gen-key' and give the .pub file here",
        )
    return raw


def load_secret_key(path: str | os.PathLike[str]) -> bytes:
    """Return the 32-byte seed of a NAME.key file.

    Raises:
        PackageError: it cannot be read, has another size, or is a public key.
    """
    raw = _read(path)
    name = os.fspath(path)
    # Any 32 bytes are a seed: a package would be signed with a key that everybody knows.
    if name.endswith(_PUB_SUFFIX) or raw == _public_beside(name):
        raise PackageError(
            f"{name} is a public key, and a package is signed with the secret one",
            hint="name the .key file that sextant gen-key made; the .pub file is for the device",
        )
    return raw


def _public_beside(name: str) -> bytes | None:
    """Return the public key beside a file NAME.key, if there is one."""
    try:
        return _read(f"{name.removesuffix(_KEY_SUFFIX)}{_PUB_SUFFIX}")
    except PackageError:
        return None


def is_valid(public_key: bytes) -> bool:
    """Return whether this is a canonical point of the prime-order group."""
    from nacl import bindings

    valid: bool = bindings.crypto_core_ed25519_is_valid_point(public_key)
    return valid


def public_key(secret_key: bytes) -> bytes:
    """Return the public key of a seed."""
    from nacl import bindings

    public, _ = bindings.crypto_sign_seed_keypair(secret_key)
    return public


def sign(secret_key: bytes, message: bytes) -> bytes:
    """Return the 64-byte signature of `message`."""
    from nacl import bindings

    _, secret = bindings.crypto_sign_seed_keypair(secret_key)
    return bindings.crypto_sign(message, secret)[:SIGNATURE_SIZE]


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether `signature` is a signature of `public_key` over exactly `message`."""
    from nacl import bindings, exceptions

    # libsodium expects signature and message concatenated, and splits them after 64 bytes.
    if len(signature) != SIGNATURE_SIZE:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public_key)
    except (exceptions.BadSignatureError, exceptions.ValueError):
        return False
    return True


def generate(name: str, directory: str | os.PathLike[str]) -> tuple[str, str]:
    """Create a key pair, DIRECTORY/NAME.key and NAME.pub; return both paths.

    Their modes are 0600 and 0644, with any umask.

    Raises:
        PackageError: the name is not a file name, or one of the files exists.
        OSError: they cannot be written; both are removed.
    """
    if not name or "/" in name or name in (".", ".."):
        hint = "write it without a path; --out names the directory"
        raise PackageError(f"{name!r} is not a name for a key file", hint=hint)
    seed = os.urandom(KEY_SIZE)
    stem = os.path.join(os.fspath(directory), name)
    secret, public = f"{stem}{_KEY_SUFFIX}", f"{stem}{_PUB_SUFFIX}"
    for path in (secret, public):
        if os.path.lexists(path):
            raise PackageError(
                f"{path} exists already", hint="keys are never overwritten: choose another name"
            )
    written: list[str] = []
    try:
        for path, data, mode in ((secret, seed, 0o600), (public, public_key(seed), 0o644)):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            written.append(path)
            try:
                os.fchmod(fd, mode)
                os.write(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
    except BaseException:
        for path in written:
            os.unlink(path)
        raise
    return secret, public


def _read(path: str | os.PathLike[str]) -> bytes:
    name = os.fspath(path)
    try:
        # O_NONBLOCK: opening a FIFO must not block.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            raw = os.read(fd, KEY_SIZE + 1) if regular else b""
        finally:
            os.close(fd)
    except OSError as error:
        raise PackageError(
            f"cannot read the key {name}: {error.strerror}",
            hint="check the path; sextant gen-key makes keys",
        ) from error
    if not regular:
        raise PackageError(
            f"the key {name} is not a regular file", hint="name a file that sextant gen-key made"
        )
    if len(raw) != KEY_SIZE:
        size = "fewer bytes" if len(raw) < KEY_SIZE else "more bytes"
        raise PackageError(
            f"the key {name} has {size} than the {KEY_SIZE} of a raw Ed25519 key",
            hint="name a file that sextant gen-key made",
        )
    return raw
