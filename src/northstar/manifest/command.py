"""The program that a container executes, with its arguments and its environment."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Command(msgspec.Struct, frozen=True):
    """The command of the payload.

    Attributes:
        init: the program, a path in the container.
        arguments: the arguments after argv[0].
        environment: the environment, without the variables that the runtime adds.
    """

    init: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
