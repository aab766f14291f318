"""Texts that are written both as a page of Markdown and as sections of a manual page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from reference import markdown, mdoc

SECTION: Final = 2
SUBSECTION: Final = 3
"""Levels of titles: `.Sh` and `.Ss` of a manual page."""


class Title(NamedTuple):
    """A title.

    Attributes:
        level: SECTION or SUBSECTION.
        title: its text.
    """

    level: int
    title: str


class Text(NamedTuple):
    """Paragraphs, separated by empty lines. Code is in backquotes, links are those of Markdown."""

    plain: str


class Terms(NamedTuple):
    """A table of terms; in a manual page a list.

    Attributes:
        head: titles of the columns.
        rows: a term, which is code, and texts. A manual page has them as one paragraph.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Code(NamedTuple):
    """Lines that are shown as they are.

    Attributes:
        lines: the lines.
        language: for highlighting.
    """

    lines: str
    language: str = ""


Block = Title | Text | Terms | Code


def markdown_blocks(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield the blocks of a page of Markdown."""
    for block in blocks:
        match block:
            case Title(level, title):
                yield markdown.heading(level, title)
            case Text(plain):
                yield from map(markdown.paragraph, plain.split("\n\n"))
            case Terms(head, rows):
                yield markdown.table(
                    head,
                    [
                        (markdown.inline_code(term), *map(markdown.text, texts))
                        for term, *texts in rows
                    ],
                )
            case Code(lines, language):
                yield markdown.code(lines, language)


def mdoc_sections(blocks: Iterable[Block]) -> list[str]:
    """Return the sections of a manual page.

    Raises:
        ValueError: there is something before the first section.
    """
    sections: list[tuple[Title, list[str]]] = []
    for block in blocks:
        if isinstance(block, Title):
            sections.append((block, []))
        elif not sections:
            raise ValueError(f"no section before {block}")
        else:
            sections[-1][1].extend(_mdoc(block))
    return [
        (mdoc.section if title.level == SECTION else mdoc.subsection)(title.title, *parts)
        for title, parts in sections
    ]


def _mdoc(block: Text | Terms | Code) -> list[str]:
    match block:
        case Text(plain):
            return [mdoc.text(part) for part in plain.split("\n\n")]
        case Terms(_, rows):
            return [mdoc.items((term, mdoc.text(_joined(texts))) for term, *texts in rows)]
        case Code(lines, _):
            return [mdoc.example(lines)]


def _joined(texts: list[str]) -> str:
    """Return cells as one text: `integer`, `its size.` become `integer; its size.`."""
    return "; ".join(text.removesuffix(".") for text in texts[:-1] if text) + (
        f"; {texts[-1]}" if len(texts) > 1 else texts[-1]
    )
