"""Makes untrusted text safe and bounded for messages, logs and terminals."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import islice
from typing import Final

from northstar.model.pattern import Pattern

UNNAMED_PACKAGE: Final = "the package"
"""Names a package that was received as a stream, in errors. A client puts its own name there."""

VALUE_MAX: Final = 64
"""Longest value, in characters, that a message quotes uncut."""

MESSAGE_MAX: Final = 16 * 1024
"""Longest message, in characters. A line of a container (4096 bytes) fits with each byte escaped,
and so does an error with two paths of PATH_MAX bytes."""

NAMED_MAX: Final = 5
"""Most items that a message names; it counts the others."""

# The general categories Cc, Cf, Zl, Zp and Cs of the Unicode standard, section 4.5, without the
# tab; a test compares the ranges with Python's Unicode database. Ranges in a pattern, and a second
# pattern for ASCII, are the fastest form. Speed matters: every line of a container's output is
# checked.
_UNSAFE: Final = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IN_A_LINE: Final = Pattern(f"[\n{_UNSAFE}]+")
_IN_A_LINE_OF_ASCII: Final = re.compile("[\x00-\x08\n-\x1f\x7f]+")
_IN_LINES: Final = Pattern(f"[{_UNSAFE}]+")


def cut(text: str, most: int = MESSAGE_MAX) -> str:
    """Return `text`. If it is longer than `most` characters, a count replaces its middle.

    The beginning of a message names what failed, its end gives the reason.
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}...({len(text) - most} characters)...{text[-(most // 2) :]}"


def quote(text: str) -> str:
    """Return a value for a message: in quotes, cut, with control characters escaped."""
    return repr(text if len(text) <= VALUE_MAX else text[: VALUE_MAX - 3] + "...")


def listed(names: Collection[object]) -> str:
    """Return the first names and the number of the others: `a, b, c, d, e, 40 more`."""
    shown = [cut(str(name), 4 * VALUE_MAX) for name in islice(names, NAMED_MAX)]
    more = [f"{len(names) - NAMED_MAX} more"] if len(names) > NAMED_MAX else []
    return ", ".join([*shown, *more])


def printable(text: str, *, lines: bool = False) -> str:
    r"""Escape characters that break a line, control a terminal, or change the display order.

    Control characters, format characters (marks and overrides of the writing direction, zero-width
    characters), line and paragraph separators, and lone surrogates become `\x1b`, `\u202e` and so
    on. Tabs stay.

    Args:
        text: untrusted text.
        lines: keep line feeds too.
    """
    if text.isprintable() or text.replace("\t", " ").isprintable():
        return text
    pattern = _IN_A_LINE_OF_ASCII if text.isascii() else _IN_A_LINE
    return (_IN_LINES if lines else pattern).sub(lambda match: ascii(match[0])[1:-1], text)


def printable_json(text: str) -> str:
    r"""Escape the same characters in a JSON document, as `\u202e`. Its value does not change."""
    return text if text.isprintable() else _IN_LINES.sub(_json_escapes, text)


def _json_escapes(match: re.Match[str]) -> str:
    # RFC 8259, section 7: escapes are UTF-16, so a character above U+FFFF becomes two of them.
    units = match[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
