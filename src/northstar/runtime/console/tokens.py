"""Tokens prove the identity of one container to another. The runtime makes and checks them."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable
from typing import Final

from northstar.api.response import TokenResult

OUTSIDE_NAME: Final = "extern"
"""The name that stands for any client from outside in requests."""

OUTSIDE: Final = "outside"
"""The party of clients from outside in a token. No container has this party."""

TIME_SIZE: Final = 8


def container_party(name: str) -> str:
    """Return the party of the container of this name, even if the name is `extern`."""
    return f"container {name}"


def named_party(name: str) -> str:
    """Return the party that a name in a request stands for.

    `extern` always stands for the clients from outside. A package may have this name too, as with
    Northstar 0.9.2: its tokens are never valid, and no token for `extern` is valid for it. Refusing
    the name would refuse packages that 0.9.2 accepts.
    """
    return OUTSIDE if name == OUTSIDE_NAME else container_party(name)


class Tokens:
    """Makes and checks tokens with a key that each run of the runtime creates anew.

    A token is 8 bytes of big-endian seconds, then HMAC-SHA256 of time, user, target and shared.
    User and target are parties (`named_party`): the kind of the peer is signed, not only its name.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = os.urandom(32)

    def create(self, user: str, target: str, shared: bytes) -> bytes:
        """Return a token of the party `user` for the party `target`; `shared` is any bytes."""
        stamp = int(self._clock()).to_bytes(TIME_SIZE)
        return stamp + self._sign(stamp, user, target, shared)

    def verify(
        self, token: bytes, user: str, target: str, shared: bytes, validity: float
    ) -> TokenResult:
        """Return whether `user` made `token` for `target` at most `validity` seconds ago."""
        stamp, signature = token[:TIME_SIZE], token[TIME_SIZE:]
        # Both times are whole seconds. Else a token's age would be up to a second too high.
        age = int(self._clock()) - int.from_bytes(stamp)
        if age < 0:
            return TokenResult.FUTURE
        if age > validity:
            return TokenResult.EXPIRED
        if not hmac.compare_digest(signature, self._sign(stamp, user, target, shared)):
            return TokenResult.INVALID
        return TokenResult.OK

    def _sign(self, stamp: bytes, user: str, target: str, shared: bytes) -> bytes:
        # Each part is hashed separately: fixed lengths make the boundaries unambiguous.
        parts = (stamp, user.encode(), target.encode(), shared)
        message = b"".join(hashlib.sha256(part).digest() for part in parts)
        return hmac.digest(self._key, message, "sha256")
