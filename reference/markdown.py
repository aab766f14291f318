"""Markdown, for a Git host and for the generator of the site.

Both read tables, fenced code and anchors in this form. Blocks end with a line feed; `page` puts an
empty line between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_CODE: Final = re.compile(r"(`[^`]*`)")
_SPECIAL: Final = re.compile(r"([\\<*_\[\]])")
_LINK: Final = re.compile(r"(\[[^\]]+\]\([^)\s]+\))")


def page(title: str, source: str, blocks: Iterable[str]) -> str:
    """Return a page.

    Args:
        title: its title.
        source: what it is generated from, for those who want to change it.
        blocks: its blocks.
    """
    head = f"<!-- Generated from {source}. Change it there, then run: make reference -->\n"
    return "\n".join([head + heading(1, title), *filter(None, blocks)])


def heading(level: int, title: str) -> str:
    """Return a heading; the text of its link is that of `anchor`."""
    return f"{'#' * level} {text(title)}\n"


def anchor(title: str) -> str:
    """Return the anchor of a heading, which a Git host and the site's generator derive equally.

    Raises:
        ValueError: they would differ.
    """
    kept = re.sub(r"[^\w\s-]", "", title).strip().lower()
    if re.search(r"[\s-]{2}", kept):
        raise ValueError(f"the anchor of {title!r} would depend on the reader")
    return kept.replace(" ", "-")


def link(title: str, target: str = "") -> str:
    """Return a link to a heading of the same page, or to `target`."""
    return f"[{text(title)}]({target or '#' + anchor(title)})"


def text(plain: str) -> str:
    """Return a text with its special characters escaped; code in backquotes and links stay."""

    def escaped(part: str) -> str:
        if part.startswith("`"):
            return part
        pieces = _LINK.split(part)
        pieces[::2] = [_SPECIAL.sub(r"\\\1", piece) for piece in pieces[::2]]
        return "".join(pieces)

    # An underscore inside of a word is not special, and reads better without a backslash.
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", "".join(map(escaped, _CODE.split(plain))))


def paragraph(plain: str) -> str:
    """Return a paragraph. Its line breaks are not kept."""
    return text(" ".join(plain.split())) + "\n"


def code(source: str, language: str = "") -> str:
    """Return a block of code, highlighted as `language`."""
    return f"```{language}\n{source.rstrip()}\n```\n"


def inline_code(source: str) -> str:
    """Return a text as code in a line."""
    return f"`` {source} ``" if "`" in source else f"`{source}`"


def items(entries: Iterable[str]) -> str:
    """Return a list of texts."""
    return "".join(f"- {text(' '.join(entry.split()))}\n" for entry in entries)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. Cells are Markdown (see `text`) without line breaks.

    Raises:
        ValueError: a row has another number of cells than the head, or a cell contains `|`, for
            which the readers of Markdown have no common form in code.
    """
    lines = [tuple(head), ("---",) * len(head)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(head)}: {row}")
        cells = tuple(" ".join(cell.split()) for cell in row)
        if any("|" in cell for cell in cells):
            raise ValueError(f"a cell with a vertical bar: {row}")
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |") for cells in lines)
