"""Manual pages in the language mdoc, see mdoc(7) and groff_mdoc(7).

Blocks end with a line feed. Texts are those of the package's docstring: code in backquotes becomes
bold. References to other manual pages are text and not `.Xr`, with which `mandoc -Tlint` requires
that the other page is installed.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Final

DATE: Final = "December 1, 2026"
"""The date in all pages. It is that of the last release: not of a build, which would change files
that are otherwise the same."""

_PARTS: Final = re.compile(r"`([^`]*)`|\b([a-z][\w.-]*)(\([1-9]\))|\[([^\]]+)\]\([^)\s]+\)")
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
_WIDTH: Final = 78


def page(name: str, number: int, summary: str, source: str, blocks: Iterable[str]) -> str:
    """Return a page.

    Args:
        name: its name, such as `northstar.toml`.
        number: its section, 1 to 8.
        summary: one phrase, without a full stop.
        source: what it is generated from, for those who want to change it.
        blocks: its sections after NAME, made by `section`.
    """
    head = [
        f'.\\" Generated from {source}. Change it there, then run: make reference\n',
        f".Dd {DATE}\n",
        f".Dt {name.upper()} {number}\n",
        ".Os\n",
        ".Sh NAME\n",
        f".Nm {name}\n",
        f".Nd {escape(summary)}\n",
    ]
    return "".join([*head, *blocks])


def section(title: str, *blocks: str) -> str:
    """Return a section: `FILES`, `EXAMPLES`."""
    return f".Sh {argument(title.upper())}\n{join(blocks)}"


def subsection(title: str, *blocks: str) -> str:
    """Return a subsection of a section."""
    return f".Ss {argument(title)}\n{join(blocks)}"


def join(blocks: Iterable[str]) -> str:
    """Return blocks one after the other: a paragraph that is not the first begins with `.Pp`."""
    parts: list[str] = []
    for block in filter(None, blocks):
        starts_with_macro = block.startswith((".Bl", ".Bd", ".Ss", ".Sh"))
        parts.append(block if starts_with_macro or not parts else f".Pp\n{block}")
    return "".join(parts)


def escape(plain: str) -> str:
    r"""Return a text for a line of its own: `\`, and `.` or `'` at its begin, are special."""
    escaped = plain.replace("\\", "\\e")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def literal(plain: str) -> str:
    """Return code: characters that a typesetter would replace stay those of ASCII."""
    replaced = plain.replace("\\", "\\e")
    for character, name in (("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga"), ("^", "\\(ha")):
        replaced = replaced.replace(character, name)
    return replaced.replace("~", "\\(ti")


def argument(plain: str) -> str:
    """Return a text as the arguments of a macro, none of which is taken as a macro itself."""
    quoted = literal(plain).replace('"', "\\(dq")
    return f'"{quoted}"'


def text(plain: str) -> str:
    """Return a text as lines: one at least for each sentence, none longer than 80 characters."""

    def part(match: re.Match[str]) -> str:
        if match[4] is not None:
            return match[4]
        if match[2] is not None:
            return f"\x01{match[2]}\x02{match[3]}"
        return f"\x01{literal(match[1])}\x02" if match[1] else '""'

    pieces: list[str] = []
    position = 0
    joined = " ".join(plain.split())
    for match in _PARTS.finditer(joined):
        pieces += [joined[position : match.start()].replace("\\", "\\e"), part(match)]
        position = match.end()
    pieces.append(joined[position:].replace("\\", "\\e"))
    joined = "".join(pieces).replace("\x01", "\\fB").replace("\x02", "\\fP")
    lines: list[str] = []
    for sentence in _SENTENCE.split(joined):
        lines += textwrap.wrap(sentence, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"\\&{line}\n" if line.startswith((".", "'")) else f"{line}\n" for line in lines)


def items(entries: Iterable[tuple[str, str]]) -> str:
    """Return a list of terms, which are code, and what is said about each: blocks."""
    parts = [f".It Sy {argument(term)}\n{body}" for term, body in entries]
    return f".Bl -tag -width Ds\n{''.join(parts)}.El\n" if parts else ""


def example(source: str) -> str:
    """Return lines that are shown as they are."""
    lines = [
        f"\\&{line}" if line.startswith((".", "'")) else line
        for line in map(literal, source.rstrip().split("\n"))
    ]
    return ".Bd -literal -offset indent\n" + "\n".join(lines) + "\n.Ed\n"


def see_also(*pages: str) -> str:
    """Return the section SEE ALSO. Pages are written `name(5)`."""
    ordered = sorted(pages, key=lambda page: (page[-2], page))
    return section("SEE ALSO", text(", ".join(ordered)))
