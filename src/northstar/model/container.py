"""The identity of an installed package."""

from __future__ import annotations

from functools import lru_cache, total_ordering
from typing import final

from northstar.model.errors import InvalidValueError
from northstar.model.name import Name
from northstar.model.text import quote
from northstar.model.version import Version


@final
@total_ordering
class Container:
    """An installed package, written `name:version`. Immutable; ordered by name, then version.

    Not a tuple, which the message codec would encode as an array.
    """

    __slots__ = ("_hash", "_text", "name", "version")

    name: Name
    version: Version
    _text: str
    _hash: int

    def __init__(self, name: Name, version: Version) -> None:
        text = f"{name}:{version}"
        for field, value in (
            ("name", name),
            ("version", version),
            ("_text", text),
            ("_hash", hash(text)),
        ):
            object.__setattr__(self, field, value)

    @classmethod
    def parse(cls, text: str) -> Container:
        """Parse `name:version`.

        Raises:
            InvalidValueError: the text is not a container.
        """
        return _parse(text)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Container is immutable ({name})")

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Container({self})"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is Container and self._text == other._text)

    def __lt__(self, other: Container) -> bool:
        return (self.name, self.version) < (other.name, other.version)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Container:
    # The console parses the same few dozen containers in every request.
    name, colon, version = text.partition(":")
    if not colon:
        raise InvalidValueError(
            f"{quote(text)} is not a container (NAME:VERSION)", hint="write it as hello:1.0.0"
        )
    return Container(Name(name), Version.parse(version))
