"""The commands of `nstar` for keys. They are loaded on first use."""

from __future__ import annotations

from typing import Final

import click

from northstar.cli.common import CommandError
from northstar.cli.nstar_commands import Session

_LIST_MAX: Final = 64 * 1024
"""Largest file that is sent as a key list, in bytes."""


@click.command()
@click.argument("repository")
@click.argument("path", metavar="[LIST]", required=False)
@click.pass_obj
def keys(session: Session, repository: str, path: str | None) -> None:
    """Show the key list of a repository; with LIST, replace it before.

    `sextant key-list` makes lists.
    """
    new = None if path is None else _read_list(path)
    with session.connect() as client:
        found = client.keys(repository, new)
    listed = ", ".join(f"{key.id} {key.use.value}" for key in found.keys)
    session.show(f"version {found.version}: {listed}")


def _read_list(path: str) -> str:
    with open(path, "rb") as file:
        # The runtime refuses what is not a list; this only bounds the message.
        content = file.read(_LIST_MAX + 1)
    if len(content) > _LIST_MAX:
        raise CommandError(f"{path} is larger than a key list can be")
    return content.decode("ascii", "replace")
