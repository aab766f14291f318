"""Pages of the guide: what a reader does, in the order of the text. Pure.

Only fenced blocks count. Their info string has a language, and a title, which the reader sees:

    ```sh                             commands; each must succeed
    ```console                        commands behind `$ ` or `# `, each with its output
    ```yaml title="manifest.yaml"     a file with this content; any other language with a title
    ```yaml                           an excerpt, to read; any other language without one

A shell script is a file too: ```bash title="root/main.sh".

The title of commands says what is special about them, separated by commas: `second terminal` (or
third, ..; each is a shell) and `exit code 1` (of the last command of the block).

In the output, a line `...` stands for any lines, also none, and `...` in a line for any text. `^C`
alone in a line is the key, pressed when the output before it has appeared. In the second and
further terminals the last command of a block may go on: the reader goes on too, when its output is
there. A later block for this terminal begins with `^C`.

A line `Needs: [the keys](keys.md#make-them), ..` names the pages that a reader follows before this
one; with an anchor, up to the end of this section.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

_FENCE = re.compile(r"^ {0,3}(`{3,})(.*)$")
_INFO = re.compile(r'(?P<language>[a-z0-9+-]+)(?: title="(?P<title>[^"]+)")?')
_TERMINAL = re.compile(r"(?:second|third|fourth) terminal")
_EXIT = re.compile(r"exit code (\d+)")
_PROMPTS = ("$ ", "# ")
INTERRUPT = "^C"

MAIN = "first terminal"


class PageError(ValueError):
    """A page that a reader could not follow, with the number of the line."""


@dataclass(frozen=True)
class Command:
    """One command, of several lines perhaps, and the output that the page shows."""

    text: str
    output: tuple[str, ...]
    line: int

    @property
    def parts(self) -> list[str]:
        """The patterns (see `pattern`) of the output, divided where ^C is pressed."""
        parts: list[list[str]] = [[]]
        for line in self.output:
            if line == INTERRUPT:
                parts.append([])
            else:
                parts[-1].append(line)
        return [pattern(part) for part in parts]


@dataclass(frozen=True)
class Block:
    """A fenced block that is executed, or written to a file.

    Attributes:
        kind: `sh`, `console`, or `file`.
        text: its lines, joined.
        line: the number of its first line, from 1.
        terminal: in which it is executed.
        exit_code: of its last command.
        path: of the file, relative to the directory of the terminal.
    """

    kind: Literal["sh", "console", "file"]
    text: str
    line: int
    terminal: str = MAIN
    exit_code: int = 0
    path: str = ""

    @cached_property
    def commands(self) -> list[Command]:
        """The commands of a console block; the first one may be `^C`.

        Raises:
            PageError: it begins with output.
        """
        found: list[tuple[list[str], list[str], int]] = []
        for number, line in enumerate(self.text.splitlines(), self.line):
            if found and found[-1][0][-1].endswith("\\") and not found[-1][1]:
                found[-1][0].append(line.removeprefix("> "))
            elif line.startswith(_PROMPTS):
                found.append(([line[2:]], [], number))
            elif line == INTERRUPT and not found:
                found.append(([line], [], number))
            elif found:
                found[-1][1].append(line.rstrip())
            else:
                raise PageError(f"line {number}: output without a command: {line}")
        return [Command("\n".join(text), tuple(out), number) for text, out, number in found]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        path: of its file.
        needs: file names of other pages, each with the anchor of a section, or "".
        blocks: in order.
        sections: for the anchor of each section the number of the line behind it.
    """

    path: Path
    needs: tuple[tuple[str, str], ...]
    blocks: tuple[Block, ...]
    sections: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a page.

        Raises:
            PageError: a block is not closed, or its info string has another form.
        """
        text = path.read_text()
        needs = re.search(r"^Needs: .*(?:\n\S.*)*", text, re.MULTILINE)
        link = re.compile(r"\]\(([a-z0-9-]+\.md)(?:#([a-z0-9-]+))?\)")
        links = [(match[1], match[2] or "") for match in link.finditer(needs[0] if needs else "")]
        return cls(path, tuple(links), tuple(blocks(text)), sections(text))

    def until(self, anchor: str) -> Self:
        """Return the page up to the end of a section; the whole one for "".

        Raises:
            PageError: it has no such section.
        """
        if not anchor:
            return self
        if anchor not in self.sections:
            raise PageError(f"{self.path.name} has no section {anchor}")
        kept = [block for block in self.blocks if block.line < self.sections[anchor]]
        return replace(self, blocks=tuple(kept))


def sections(text: str) -> dict[str, int]:
    """Return the anchors of the sections (## Title), each with the number of the line behind it."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith("## ")]
    titles = [lines[start - 1].removeprefix("## ").lower() for start in starts]
    anchors = [re.sub(r"[^a-z0-9 -]", "", title).replace(" ", "-") for title in titles]
    return dict(zip(anchors, [*starts[1:], len(lines) + 1], strict=False))


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page that a reader executes or writes.

    Raises:
        PageError: a block is not closed, or its info string has another form.
    """
    found = []
    fence, info, start = "", "", 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if not fence and match:
            fence, info, start, lines = match[1], match[2].strip(), number, []
        elif fence and match and match[1] == fence and not match[2].strip():
            block = _block(info, "".join(f"{line}\n" for line in lines), start)
            found += [block] if block else []
            fence = ""
        elif fence:
            lines.append(line)
        elif line.startswith(("    $ ", "    # ")):
            raise PageError(f"line {number}: commands are in fenced blocks, so that they are run")
    if fence:
        raise PageError(f"line {start}: the block has no end")
    return found


def _block(info: str, text: str, start: int) -> Block | None:
    match = _INFO.fullmatch(info)
    if match is None:
        raise PageError(
            f'line {start}: not a language, or language title="..": {info or "nothing"}'
        )
    language, title = match["language"], match["title"]
    if language in ("bash", "shell") and not title:
        raise PageError(f"line {start}: {language}: write sh or console, so that it is executed")
    if language not in ("sh", "console"):
        return Block("file", text, start + 1, path=title) if title else None
    terminal, exit_code = MAIN, 0
    for word in (title or "").split(", "):
        if _TERMINAL.fullmatch(word):
            terminal = word
        elif code := _EXIT.fullmatch(word):
            exit_code = int(code[1])
        elif word:
            raise PageError(f"line {start}: neither a terminal nor an exit code: {word}")
    kind: Literal["sh", "console"] = "sh" if language == "sh" else "console"
    return Block(kind, text, start + 1, terminal, exit_code)


def pattern(lines: list[str]) -> str:
    """Return the regular expression of expected output; each line of it ends with a newline."""
    found = []
    for line in lines:
        if line.strip() == "...":
            found.append(r"(?:[^\n]*\n)*?")
        else:
            found.append(r"[^\n]*".join(re.escape(part) for part in line.split("...")) + "\n")
    return "".join(found)
