"""Version requirements, by Cargo's rules (The Cargo Book, "Specifying Dependencies")."""

from __future__ import annotations

from typing import Final, NamedTuple

from northstar.model.errors import InvalidValueError
from northstar.model.pattern import Pattern
from northstar.model.text import quote
from northstar.model.version import NUMBER, SUFFIX, Version, u64

COMPARATORS_MAX: Final = 32
"""Most comparators in one requirement, as in Cargo's own parser."""

_WILDCARDS: Final = "*xX"
_COMPARATOR: Final = Pattern(
    r"(?P<op>\^|~|=|>=|>|<=|<)? *"
    rf"(?P<major>{NUMBER})"
    rf"(?:\.(?P<minor>{NUMBER}|[*xX])(?:\.(?P<patch>{NUMBER}|[*xX])(?P<suffix>{SUFFIX}))?)?\Z"
)


class Comparator(NamedTuple):
    """One comparison. `minor` and `patch` are None if the requirement leaves them open.

    Attributes:
        op: one of `^ ~ = > >= < <=`, or `*` for `1.*` and `1.2.*`.
        pre: the pre-release part as written, without its dash; empty if there is none.
    """

    op: str
    major: int
    minor: int | None
    patch: int | None
    pre: str

    def __str__(self) -> str:
        numbers = [str(n) for n in (self.major, self.minor, self.patch) if n is not None]
        if self.op == "*":
            return ".".join([*numbers, "*"])
        return self.op + ".".join(numbers) + (f"-{self.pre}" if self.pre else "")

    def matches(self, version: Version) -> bool:
        """Return whether `version`, which is never a pre-release, matches this comparison."""
        match self.op:
            case "=" | "*":
                return self._exact(version)
            case ">":
                return self._greater(version)
            case ">=":
                return self._exact(version) or self._greater(version)
            case "<":
                return not self._exact(version) and not self._greater(version)
            case "<=":
                return not self._greater(version)
            case "~":
                return self._tilde(version)
            case _:
                return self._caret(version)

    def _exact(self, version: Version) -> bool:
        given = self._given()
        # A release never equals a pre-release of the same numbers.
        return version[: len(given)] == given and not self.pre

    def _greater(self, version: Version) -> bool:
        given = self._given()
        return version[: len(given)] > given or (bool(self.pre) and version == given)

    def _tilde(self, version: Version) -> bool:
        fixed = self._given()[:2]
        return version[: len(fixed)] == fixed and version.patch >= (self.patch or 0)

    def _caret(self, version: Version) -> bool:
        given = self._given()
        # The left-most number that is not zero must not change, nor the zeros before it.
        fixed = next((i + 1 for i, number in enumerate(given) if number), len(given))
        return version[:fixed] == given[:fixed] and version[: len(given)] >= given

    def _given(self) -> tuple[int, ...]:
        return tuple(n for n in (self.major, self.minor, self.patch) if n is not None)


class VersionReq(NamedTuple):
    """A requirement: all its comparators must match. `*` has none and matches every version."""

    comparators: tuple[Comparator, ...]

    @classmethod
    def parse(cls, text: str) -> VersionReq:
        """Parse a requirement, such as `^1.2`, `>=1, <2` or `1.*`.

        Raises:
            InvalidValueError: the text is not a requirement.
        """
        stripped = text.strip(" ")
        if stripped in _WILDCARDS and stripped:
            return cls(())
        parts = stripped.split(",")
        if len(parts) > COMPARATORS_MAX:
            raise InvalidValueError(
                f"a version requirement of {len(parts)} comparators is too long "
                f"(at most {COMPARATORS_MAX})"
            )
        return cls(tuple(_comparator(part.strip(" "), text) for part in parts))

    def matches(self, version: Version) -> bool:
        """Return whether `version` matches the requirement."""
        return all(comparator.matches(version) for comparator in self.comparators)

    def __str__(self) -> str:
        return ", ".join(map(str, self.comparators)) or "*"


def _comparator(part: str, text: str) -> Comparator:
    match = _COMPARATOR.match(part)
    if match is None:
        raise _invalid(text)
    minor, patch = match["minor"], match["patch"]
    wild_minor, wild_patch = minor in ("*", "x", "X"), patch in ("*", "x", "X")
    if (wild_minor and patch is not None and not wild_patch) or (wild_patch and match["suffix"]):
        raise _invalid(text)
    op = match["op"] or ("*" if wild_minor or wild_patch else "^")
    return Comparator(
        op=op,
        major=u64(match["major"], text),
        minor=None if minor is None or wild_minor else u64(minor, text),
        patch=None if patch is None or wild_patch else u64(patch, text),
        pre=match["pre"] or "",
    )


def _invalid(text: str) -> InvalidValueError:
    return InvalidValueError(
        f"{quote(text)} is not a version requirement",
        hint="write it as 1.2, ~1.2.3, >=1, <2 or 1.*",
    )
