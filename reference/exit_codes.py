"""docs/reference/exit-codes.md: the exit codes of the commands.

`declared` finds the codes in the source; each must be in CODES.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Final

from reference import markdown, source
from reference.blocks import SECTION, Block, Terms, Text, Title, markdown_blocks
from reference.docstrings import docstring

SIGNALLED: Final = "128 + N"

_COMMON: Final = (
    ("2", "Wrong usage: an unknown command or option, or an argument of another form."),
    (SIGNALLED, "Signal N ended the command, such as 130 for Ctrl-C."),
)

CODES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "northstar": (
        ("0", "The runtime was shut down, by a signal or by a request."),
        (
            "1",
            (
                "It could not start, or ended because of a failure: an invalid configuration, "
                "missing rights, or the end of a critical container."
            ),
        ),
        *_COMMON,
    ),
    "nstar": (
        ("0", "Done."),
        (
            "1",
            (
                "The runtime refused the request, or one of several; a file could not be read; or "
                "the connection ended. stderr has the reason in one sentence."
            ),
        ),
        *_COMMON[:1],
        ("3", "No runtime answers at the address."),
        *_COMMON[1:],
    ),
    "nstar exec": (
        ("0 to 255", "The exit code of the program."),
        (SIGNALLED, "Signal N ended the program, or several signals ended nstar."),
        (
            "1, 2, 3",
            (
                "Also those of nstar, if the program was not executed: the text on stderr "
                "distinguishes them."
            ),
        ),
    ),
    "nstar wait": (
        ("0 to 255", "With `--for exit`, the exit code of the container; else 0."),
        (SIGNALLED, "Signal N ended the container."),
        ("124", "The time of `--timeout` has passed, as of timeout(1)."),
        ("1, 2, 3", "Also those of nstar, as with `nstar exec`."),
    ),
    "nstar verify-token": (
        ("0", "The token is valid: `Ok`."),
        ("1", "It is not: `Invalid`, `Expired` or `Future`; or the runtime refused the request."),
        ("2, 3", "As of nstar."),
    ),
    "sextant": (
        ("0", "Done; warnings do not count."),
        (
            "1",
            (
                "Failed: the manifest or the package is not valid, a signature is wrong, or a file "
                "cannot be read or written."
            ),
        ),
        *_COMMON,
    ),
    "sextant diff": (
        ("0", "Both packages are the same."),
        ("1", "They differ."),
        ("2", "An error, as of diff(1): one of them cannot be read."),
    ),
    "sextant run": (
        ("0 to 255", "The exit code of the app."),
        (SIGNALLED, "Signal N ended the app; 130 after Ctrl-C."),
        ("1, 2", "Also those of sextant, if the app was not started."),
    ),
}
"""The exit codes, by command. A subcommand with a row of its own has only those."""

_INTRODUCTION: Final = """
Every command prints an error as one sentence on stderr, and exits with one of these codes. A
subcommand that is not listed has those of its command.
"""


def pages() -> dict[str, str]:
    """Return the page by its path."""
    page = markdown.page("Exit codes", "reference/exit_codes.py", markdown_blocks(blocks()))
    return {"docs/reference/exit-codes.md": page}


def blocks() -> Iterator[Block]:
    """Yield the text of the page."""
    yield Text(_INTRODUCTION.strip())
    for command in CODES:
        yield Title(SECTION, command)
        yield Terms(("code", "meaning"), CODES[command])


def declared() -> Iterator[tuple[str, int]]:
    """Yield the exit codes that the source declares, each with its file.

    These are constants whose docstring begins with `Exit code`, and numbers as `exit_code`.
    """
    for module, tree in source.trees("Exit code|exit_code").items():
        pending: list[int] = []
        for statement in tree.body:
            match statement:
                case ast.AnnAssign(value=ast.Constant(value=int(code))):
                    pending.append(code)
                    continue
            if (docstring(statement) or "").startswith("Exit code"):
                yield from ((module, code) for code in pending)
            pending = []
        for node in ast.walk(tree):
            match node:
                case ast.keyword(arg="exit_code", value=ast.Constant(value=int(code))):
                    yield module, code
