"""The commands of `nstar` that need neither arguments nor options of their own.

click, with the definitions of all commands, takes a third of the time of such a command. Scripts
and people run these often, so usual command lines of them are recognized without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from northstar.api import Status, response
from northstar.api.feature import SERVICE
from northstar.cli.common import completion_variable
from northstar.cli.nstar_session import DEFAULT_TIMEOUT, Session
from northstar.client import PermissionDeniedError, address
from northstar.client.blocking import Client
from northstar.model import Container, InvalidValueError


def list_containers(session: Session, as_json: bool | None = None) -> None:
    """List the installed containers (also: ls)."""
    with session.connect() as client:
        containers = sorted(client.list())
        # Without data: the permission is missing, or the container was uninstalled meanwhile.
        answers = [
            answer if isinstance(answer, response.ContainerData) else None
            for answer in client.inspect_all(containers)
        ]
        states = states_of(client)
    found = [
        (container, answer, (states or {}).get(container))
        for container, answer in zip(containers, answers, strict=True)
    ]
    if as_json:
        from northstar.cli import json_output, json_values

        json_output.emit([json_values.listed(*one) for one in found])
    elif not session.json_lines:
        from northstar.cli import listing

        listing.show([listing.row(*one) for one in found], states=states is not None)


def states_of(client: Client, *containers: Container) -> dict[Container, Status] | None:
    """Return the status of containers, by default of all; None if the runtime cannot tell."""
    if SERVICE not in client.features:
        return None
    try:
        results = client.status(*containers)
    except PermissionDeniedError:
        return None
    return {one.container: one.status for one in results if isinstance(one, response.StatusOk)}


def repositories(session: Session, as_json: bool | None = None) -> None:
    """List the names of the repositories (also: repos)."""
    with session.connect() as client:
        names = sorted(client.repositories())
    if as_json:
        from northstar.cli import json_output

        json_output.emit([json_output.Repository(name) for name in names])
        return
    for name in names:
        session.show(name)


def shutdown(session: Session) -> None:
    """Shut the runtime down."""
    with session.connect() as client:
        client.shutdown()
        session.show("shutting down")


def ident(session: Session, as_json: bool | None = None) -> None:
    """Print the identity of this client."""
    with session.connect() as client:
        container = str(client.ident())
    if as_json:
        from northstar.cli import json_output

        json_output.emit(json_output.Ident(container))
    else:
        session.show(container)


COMMANDS: Final[Mapping[str, Callable[[Session], None]]] = {
    "ident": ident,
    "list": list_containers,
    "ls": list_containers,
    "repos": repositories,
    "repositories": repositories,
    "shutdown": shutdown,
}


def recognize(program: str, arguments: Sequence[str]) -> Callable[[], int] | None:
    """Return what runs a command line; None if it is for click.

    click gets everything else: other commands and options, an invalid URL, shell completion.

    Args:
        program: its name.
        arguments: `[-u URL | --url URL] COMMAND`.
    """
    match arguments:
        case ["-u" | "--url", url, name]:
            chosen = None
        case [name]:
            url, chosen = address.default()
        case _:
            return None
    command = COMMANDS.get(name)
    if command is None or completion_variable(program) in os.environ:
        return None
    try:
        address.parse(url)
    except InvalidValueError:
        return None

    def run() -> int:
        command(Session(url, False, DEFAULT_TIMEOUT, chosen))
        return 0

    return run
