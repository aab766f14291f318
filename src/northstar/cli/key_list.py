"""`sextant key-list`: makes, changes, signs and checks the key lists of repositories."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from northstar.cli.common import FAILED
from northstar.model import NorthstarError, PackageError, printable

if TYPE_CHECKING:
    from northstar.npk.keylist import KeyList, ListedKey

_OUT = click.option(
    "-o", "--out", required=True, metavar="FILE", help="The new list; an existing file is kept."
)
_VERSION = click.option(
    "--version", type=click.IntRange(1), metavar="N", help="Its version; default: one more."
)


@click.group("key-list")
def key_list() -> None:
    """Make, change, sign and check lists of keys."""


@key_list.command()
@_OUT
@click.option("--version", type=click.IntRange(1), default=1, metavar="N", help="Default: 1.")
@click.argument("public", nargs=-1, required=True, metavar="PUB..")
def new(out: str, version: int, public: tuple[str, ...]) -> None:
    """Make a list of keys for install.

    It may be the `keys` of a repository: this anchor needs no signature.
    """
    from northstar.npk import keylist

    _write(out, keylist.create(version, [_install(path) for path in public]))


@key_list.command()
@_OUT
@_VERSION
@click.argument("path", metavar="LIST")
@click.argument("public", nargs=-1, required=True, metavar="PUB..")
def add(path: str, out: str, version: int | None, public: tuple[str, ...]) -> None:
    """Make the list that follows LIST and has more keys for install.

    A retired key is for install again.
    """
    from northstar.npk import keylist

    old = _load(path)
    added = {listed.key: listed for listed in map(_install, public)}
    kept = [added.pop(listed.key, listed) for listed in old.keys]
    _write(out, keylist.create(version or old.version + 1, [*kept, *added.values()]))


@key_list.command()
@_OUT
@_VERSION
@click.option("--remove", is_flag=True, help="Remove the keys: installed packages lose them too.")
@click.argument("path", metavar="LIST")
@click.argument("ids", nargs=-1, required=True, metavar="ID..")
def retire(path: str, out: str, version: int | None, ids: tuple[str, ...], *, remove: bool) -> None:
    """Make the list that follows LIST, with keys that verify only installed packages.

    `sextant key-list check LIST` shows the ids.
    """
    from northstar.npk import keylist

    old = _load(path)
    known = {keylist.key_id(listed.key) for listed in old.keys}
    for wrong in set(ids) - known:
        raise PackageError(f"{path} has no key {wrong}", hint=f"it has {', '.join(sorted(known))}")
    changed = [
        listed._replace(use=keylist.Use.LOAD) if keylist.key_id(listed.key) in ids else listed
        for listed in old.keys
        if not (remove and keylist.key_id(listed.key) in ids)
    ]
    _write(out, keylist.create(version or old.version + 1, changed))


@key_list.command()
@click.option("-k", "--key", required=True, metavar="FILE", help="The secret key (NAME.key).")
@click.argument("path", metavar="LIST")
def sign(key: str, path: str) -> None:
    """Add a signature to LIST, in the file itself.

    A list that replaces another needs one by a key for install of each of the two.
    """
    from northstar import npk
    from northstar.npk import keylist

    seed = npk.load_secret_key(key)
    signed = keylist.sign(_load(path), seed)
    _replace(path, keylist.render(signed))
    own = keylist.key_id(npk.key.public_key(seed))
    click.echo(f"signed {printable(path)}, version {signed.version}, with {own}")


@key_list.command()
@click.option("--after", metavar="LIST", help="Check that it may replace this list.")
@click.argument("path", metavar="LIST")
def check(path: str, after: str | None) -> int:
    """Show LIST, and verify its signatures."""
    from northstar.npk import keylist

    found = _load(path)
    before = None if after is None else _load(after)
    own = [listed.key for listed in found.keys]
    former = [] if before is None else [listed.key for listed in before.keys]
    click.echo(f"version {found.version}")
    for listed in found.keys:
        click.echo(f"{keylist.key_id(listed.key)} {listed.use.value}")
    valid = {keylist.key_id(key) for key in found.signers({*own, *former})}
    for entry in found.signatures:
        state = "valid" if entry.id in valid else "not valid, or by an unknown key"
        click.echo(f"signature of {entry.id}: {state}")
    if before is None:
        return 0
    try:
        keylist.check_successor(before, found)
    except NorthstarError as failure:
        click.echo(printable(f"error: {path}: {failure}"), err=True)
        return FAILED
    click.echo(f"it may replace version {before.version}")
    return 0


def _install(path: str) -> ListedKey:
    from northstar import npk
    from northstar.npk import keylist

    return keylist.ListedKey(npk.load_public_key(path), keylist.Use.INSTALL)


def _load(path: str) -> KeyList:
    """Return the list in a file.

    Raises:
        OSError: it cannot be read.
        PackageError: it is malformed.
    """
    from northstar.npk import keylist

    with open(path, "rb") as file:
        # One byte more than the maximum, so that a larger file is refused.
        document = file.read(keylist.SIZE_MAX + 1)
    try:
        return keylist.parse(document)
    except NorthstarError as failure:
        raise PackageError(f"{path}: {failure.message}", hint=failure.hint) from None


def _write(path: str, value: KeyList) -> None:
    """Create the file of a list; an existing file is kept.

    Raises:
        OSError: it exists, or cannot be written.
    """
    from northstar.npk import keylist

    temporary = _temporary(path, keylist.render(value))
    try:
        # Unlike rename(2), link(2) fails if the new name exists.
        os.link(temporary, path)
    except FileExistsError:
        hint = "choose another name with -o"
        raise PackageError(f"{path} exists already", hint=hint) from None
    finally:
        os.unlink(temporary)
    count = len(value.keys)
    what = "key" if count == 1 else "keys"
    click.echo(f"created {printable(path)}, version {value.version}, {count} {what}")


def _replace(path: str, content: bytes) -> None:
    """Replace the content of a file, completely or not at all."""
    temporary = _temporary(path, content)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _temporary(path: str, content: bytes) -> str:
    """Write a new file beside `path`, durably, and return its name."""
    temporary = f"{path}.{os.getpid()}.part"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary
