"""Tokens: one container's proof to another of who it is, made and checked by the runtime."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable
from typing import Final

from northstar.api.response import TokenResult

OUTSIDE_NAME: Final = "extern"
"""What requests call every client from outside."""

OUTSIDE: Final = "outside"
"""The party of a token that is any client from outside. No container is this party."""

TIME_SIZE: Final = 8


def container_party(name: str) -> str:
    """Return the party of a token that is the container of this name, `extern` included."""
    return f"container {name}"


def named_party(name: str) -> str:
    """Return the party that a request means by a name.

    `extern` always means the clients from outside. A package may have this name too, as with
    Northstar 0.9.2: its tokens are valid nowhere, and no token for `extern` is valid for it. To
    refuse the name instead would refuse packages that 0.9.2 accepts.
    """
    return OUTSIDE if name == OUTSIDE_NAME else container_party(name)


class Tokens:
    """Makes and checks tokens under a key that lives and dies with the runtime.

    A token is 8 bytes of big-endian seconds, then HMAC-SHA256 of time, user, target and shared.
    User and target are parties (`named_party`): the kind of the peer is signed, not only its name.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = os.urandom(32)

    def create(self, user: str, target: str, shared: bytes) -> bytes:
        """Return a token of `user` for `target`, two parties; `shared` is anything."""
        stamp = int(self._clock()).to_bytes(TIME_SIZE)
        return stamp + self._sign(stamp, user, target, shared)

    def verify(
        self, token: bytes, user: str, target: str, shared: bytes, validity: float
    ) -> TokenResult:
        """Tell whether `user` made `token` for `target` not longer than `validity` seconds ago."""
        stamp, signature = token[:TIME_SIZE], token[TIME_SIZE:]
        # Whole seconds on both sides, or a token would be older than it is by what was cut off.
        age = int(self._clock()) - int.from_bytes(stamp)
        if age < 0:
            return TokenResult.FUTURE
        if age > validity:
            return TokenResult.EXPIRED
        if not hmac.compare_digest(signature, self._sign(stamp, user, target, shared)):
            return TokenResult.INVALID
        return TokenResult.OK

    def _sign(self, stamp: bytes, user: str, target: str, shared: bytes) -> bytes:
        # Each part is hashed on its own: fixed lengths, so that no part can reach into the next.
        parts = (stamp, user.encode(), target.encode(), shared)
        message = b"".join(hashlib.sha256(part).digest() for part in parts)
        return hmac.digest(self._key, message, "sha256")
