"""`sextant diff`: what differs between two packages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from northstar.cli.common import CommandError
from northstar.model import NorthstarError, printable

if TYPE_CHECKING:
    from northstar.npk.difference import Difference, FileChange, FileInfo

DIFFERENT: Final = 1
TROUBLE: Final = 2
"""Exit codes, as of diff(1)."""

_KINDS: Final = {
    "-": "file",
    "d": "directory",
    "l": "symbolic link",
    "c": "character device",
    "b": "block device",
    "p": "FIFO",
    "s": "socket",
}


@click.command()
@click.option("--unsquashfs", metavar="PATH", help="The program unsquashfs.")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
def diff(old: str, new: str, unsquashfs: str | None) -> int:
    """Show the differences between the packages A and B.

    These are fields of the manifest, files (`+` only in B, `-` only in A, `~` changed) and sizes.
    Times of files are not compared. Exit codes: 0 the same; 1 different; 2 an error.
    """
    from northstar import npk
    from northstar.npk.difference import compare

    try:
        with npk.open(old) as a, npk.open(new) as b:
            # Both are read: a damaged file is an error, not a difference.
            a.check_image()
            b.check_image()
            difference = compare(a, b, unsquashfs=unsquashfs)
    except NorthstarError as error:
        raise CommandError(error.message, hint=error.hint, exit_code=TROUBLE) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        raise CommandError(f"{where}{error.strerror}", exit_code=TROUBLE) from error
    if difference.same:
        return 0
    for line in describe(difference):
        click.echo(printable(line))
    return DIFFERENT


def describe(difference: Difference) -> Iterator[str]:
    """Yield the lines of a difference."""
    if difference.fields:
        yield "manifest:"
        for path, old, new in difference.fields:
            yield f"  {path}: {_value(old)} -> {_value(new)}"
    if difference.files:
        yield "files:"
        for change in difference.files:
            yield f"  {_file(change)}"
    pairs: list[tuple[str, tuple[Any, Any], str]] = [
        ("file system", difference.filesystem, ""),
        ("package", difference.package, " bytes"),
        ("image", difference.image, " bytes"),
    ]
    for name, (a, b), unit in pairs:
        if a != b:
            yield f"{name}: {a} -> {b}{unit}"
    if difference.signed[0] != difference.signed[1]:
        a, b = ("signed" if signed else "not signed" for signed in difference.signed)
        yield f"signature: {a} -> {b}"


def _value(value: Any) -> str:
    from northstar.npk.difference import ABSENT

    return "(none)" if value is ABSENT else json.dumps(value, ensure_ascii=False)


def _file(change: FileChange) -> str:
    old, new = change.old, change.new
    if old is None:
        assert new is not None, "a file of neither package"
        return f"+ {change.path} ({_info(new)})"
    if new is None:
        return f"- {change.path} ({_info(old)})"
    words = []
    if old.kind != new.kind:
        words.append(f"{_kind(old)} -> {_kind(new)}")
    if old.mode != new.mode:
        words.append(f"mode {old.mode:04o} -> {new.mode:04o}")
    if (old.uid, old.gid) != (new.uid, new.gid):
        words.append(f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}")
    if change.content:
        resized = f"size {old.size} -> {new.size}" if old.size != new.size else None
        words.append(resized or _CONTENT.get(old.kind, "content"))
    return f"~ {change.path}: {', '.join(words)}"


_CONTENT: Final = {"l": "target", "c": "device", "b": "device"}


def _kind(info: FileInfo) -> str:
    return _KINDS.get(info.kind, "unknown type")


def _info(info: FileInfo) -> str:
    size = f", {info.size} bytes" if info.kind == "-" else ""
    return f"{_kind(info)}, mode {info.mode:04o}{size}"
