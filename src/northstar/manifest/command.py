"""The program that a container executes, with its arguments and its environment."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Command(msgspec.Struct, frozen=True):
    """What the payload is.

    Attributes:
        init: its program, a path in the container.
        arguments: its arguments after argv[0].
        environment: its own environment, without what the runtime adds.
    """

    init: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
