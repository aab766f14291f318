"""What every message about a misuse must be, for the tables of misuses of all commands."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import pytest

FAILED: Final = 1
USAGE: Final = 2
CANNOT_CONNECT: Final = 3

_NEVER: Final = {
    "a traceback": re.compile(r"Traceback|^  File ", re.MULTILINE),
    "an errno": re.compile(r"\[?Errno"),
    "a temporary name": re.compile(r"\.northstar-install|\.part\b|memfd:|northstar-npk-"),
    "a Python object": re.compile(
        r"<\w+(\.\w+)*[ :]|\b[A-Z][a-z]\w*\.[A-Z_]{3,}\b|\b\w+\(.*=.*\)$"
    ),
    "an exit status of Python": re.compile(r"Signalled\(|Exited\("),
    "a bug": re.compile(r"this is a bug"),
}


class Misuse(NamedTuple):
    """A mistake of somebody new, and what the message about it must contain.

    Attributes:
        arguments: the command line, without the name of the command. `{}` is the directory of the
            test's files.
        says: what the person named, and what is wrong.
        advises: the next step.
        code: the exit code.
    """

    arguments: str
    says: str
    advises: str
    code: int = FAILED


def rows(*misuses: tuple[str, str, str] | tuple[str, str, str, int]) -> pytest.MarkDecorator:
    """Parametrise a test with misuses."""
    found = [Misuse(*one) for one in misuses]
    assert len(set(found)) == len(found), "a misuse is in the table twice"
    return pytest.mark.parametrize("misuse", found, ids=[one.arguments[:60] for one in found])


def check(misuse: Misuse, code: int, out: str, err: str, names: str = "") -> None:
    """Check the message; `names` is the directory of the test, which a message may contain."""
    shown = f"exit {code}\n{out}\n{err}"
    assert code == misuse.code, shown
    lines = err.splitlines()
    errors = [line for line in lines if line.lower().startswith("error:")]
    hints = [line for line in lines if line.startswith("hint:")]
    assert len(errors) == 1, f"not exactly one error:\n{shown}"
    assert len(hints) <= 1, shown
    others = [line for line in lines if line and line not in errors + hints]
    allowed = ("Usage:", "Try ") if code == USAGE else ("warning:",)
    assert all(line.startswith(allowed) for line in others), f"more than a sentence:\n{shown}"
    text = err.replace(names, "DIR") if names else err
    assert misuse.says.replace("{}", "DIR") in text, shown
    if code == USAGE:
        assert misuse.advises in text or "--help" in text, shown
    assert misuse.advises.replace("{}", "DIR") in text, shown
    for what, pattern in _NEVER.items():
        assert not pattern.search(text), f"{what} in the message:\n{shown}"
