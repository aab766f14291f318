"""Numbers that are written in octal."""

from __future__ import annotations


class Octal(int):
    """A number that is written in octal, as YAML 1.2 and TOML do: `0o660`."""

    def __repr__(self) -> str:
        return oct(self)
