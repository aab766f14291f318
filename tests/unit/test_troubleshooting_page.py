"""Messages and commands in docs/guide/troubleshooting.md are those of the code."""

from __future__ import annotations

import ast
import errno
import functools
import os
import re
import signal
from pathlib import Path

import click
import pytest

from northstar.cli import nstar_commands, sextant

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/guide/troubleshooting.md").read_text()
MESSAGES = re.findall(r"^\| `([^`]+)` \| \w", TEXT, re.MULTILINE)
PLACE = re.compile(r"%[-+.\d]*[sdrg]")


@functools.cache
def texts() -> str:
    """Return all texts in the sources, with `...` for their variable parts, one per line."""
    found = [os.strerror(number) for number in errno.errorcode]
    found += [one.name for one in signal.Signals]
    for file in (ROOT / "src/northstar").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(PLACE.sub("...", node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "..." for p in node.values)
                found.append("".join(map(str, parts)))
    return "\n".join(found)


def is_known(text: str) -> bool:
    """Return whether a text is in the sources, or is made of two that are."""
    if text in texts():
        return True
    words = text.split(" ")
    return any(
        " ".join(words[:n]) in texts() and " ".join(words[n:]) in texts()
        for n in range(1, len(words))
    )


def test_each_table_has_messages() -> None:
    assert len(MESSAGES) > 20
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_one_of_the_code(message: str) -> None:
    parts = [part.strip() for part in re.split(r"\.\.\.|: ", message)]
    assert any(len(part) > 6 for part in parts)
    assert [part for part in parts if not is_known(part)] == []


def test_another_message_is_found_out() -> None:
    assert not is_known("cannot reach the runtime at all")


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/guide/*.md")), ids=lambda p: p.stem)
def test_the_commands_exist(page: Path) -> None:
    groups: dict[str, click.Group] = {"nstar": nstar_commands.nstar, "sextant": sextant.sextant}
    used = set(re.findall(r"`(nstar|sextant) ([a-z][a-z-]*)", page.read_text()))
    unknown = [
        f"{name} {command}"
        for name, command in used
        if groups[name].get_command(click.Context(groups[name]), command) is None
    ]
    assert unknown == []
