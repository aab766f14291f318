"""Writes all generated pages: `make reference`.

    python -m reference [--check]

With `--check` nothing is written; the exit code is 1 if a page is not what would be written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from reference import (
    commands,
    documents,
    environment,
    errors,
    exit_codes,
    json_output,
    log_lines,
    permissions,
    protocol,
)

ROOT: Final = Path(__file__).resolve().parent.parent

SOURCES: Final[tuple[Callable[[], dict[str, str]], ...]] = (
    documents.pages,
    json_output.pages,
    protocol.pages,
    errors.pages,
    permissions.pages,
    log_lines.pages,
    environment.pages,
    exit_codes.pages,
    commands.pages,
)
"""Each returns pages: their texts by path, relative to the repository."""


def pages() -> dict[str, str]:
    """Return all pages: their texts by path, relative to the repository.

    Raises:
        ValueError: two sources make the same page.
    """
    found: dict[str, str] = {}
    for source in SOURCES:
        made = source()
        if both := found.keys() & made.keys():
            raise ValueError(f"{', '.join(sorted(both))}: made by two modules")
        found |= made
    return found


def stale() -> dict[str, str]:
    """Return the pages whose file has another text, or does not exist."""
    return {
        path: text
        for path, text in pages().items()
        if not (ROOT / path).is_file() or (ROOT / path).read_text() != text
    }


def main() -> int:
    """Write the pages, or check them. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reference", description="Write all pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if one is stale")
    check: bool = parser.parse_args().check
    changed = stale()
    for path, text in changed.items():
        print(f"stale: {path}" if check else path)
        if not check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text)
    return int(check and bool(changed))


if __name__ == "__main__":
    raise SystemExit(main())
