"""Chooses the command of a start, and the containers that it uses as resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from northstar.api import RefusedError, error
from northstar.api.status import ContainerState
from northstar.core.values import State
from northstar.manifest import RESERVED_ENV, Command, Manifest, Resource
from northstar.manifest.bounds import INIT_MAX
from northstar.model import Container, quote


def newest_match(resource: Resource, candidates: Iterable[Container]) -> Container | None:
    """Return the newest of `candidates` that matches a resource mount."""
    matching = (
        container
        for container in candidates
        if container.name == resource.name and resource.version.matches(container.version)
    )
    return max(matching, default=None)


def choose_resources(state: State, manifest: Manifest) -> dict[str, Container]:
    """Choose the newest matching container for each resource mount, by target.

    A container that is being uninstalled is not a candidate.

    Raises:
        RefusedError: nothing matches.
    """
    chosen: dict[str, Container] = {}
    for target, mount in manifest.mounts.items():
        if not isinstance(mount, Resource):
            continue
        present = (c for c, e in state.containers.items() if e.state is not ContainerState.REMOVING)
        match = newest_match(mount, present)
        if match is None:
            raise RefusedError(
                error.StartContainerMissingResource(
                    manifest.container, mount.name, str(mount.version)
                )
            )
        chosen[target] = match
    return chosen


def users_of(state: State, resource: Container) -> list[Container]:
    """Return the installed containers that mount a resource and have no other that matches."""
    others = [one for one in state.containers if one.name == resource.name and one != resource]
    return sorted(
        container
        for container, entry in state.containers.items()
        if any(
            isinstance(mount, Resource)
            and newest_match(mount, (resource,)) is not None
            and newest_match(mount, others) is None
            for mount in entry.manifest.mounts.values()
        )
    )


def refuse_environment(environment: Mapping[str, str]) -> None:
    """Refuse an environment of a request.

    Raises:
        RefusedError: a variable is reserved or invalid.
    """
    for name in environment:
        if name in RESERVED_ENV:
            reason = f"the variable {name} is reserved; leave it out, the runtime sets it"
            raise RefusedError(error.InvalidArguments(reason))
        if not name or "=" in name:
            raise RefusedError(error.InvalidArguments(f"{quote(name)} is no name of a variable"))


def refuse_exec_command(command: Sequence[str]) -> None:
    """Refuse a command of an exec request.

    Raises:
        RefusedError: it names no program, or its name is too long.
    """
    if not command or not command[0]:
        raise RefusedError(
            error.InvalidArguments("the command is empty: its first text must be a program's path")
        )
    if len(command[0]) > INIT_MAX:
        raise RefusedError(
            error.InvalidArguments(
                f"a program of {len(command[0])} characters is too long ({INIT_MAX})"
            )
        )


def choose_command(
    manifest: Manifest,
    init: str | None,
    arguments: tuple[str, ...],
    environment: Mapping[str, str],
) -> Command:
    """Return the command of a start request. The manifest provides what the request leaves empty.

    Raises:
        RefusedError: a variable is reserved or invalid, or there is no valid init.
    """
    refuse_environment(environment)
    if not init and manifest.init is None:
        raise RefusedError(error.StartContainerResource(manifest.container))
    program = manifest.init or ""
    if init:
        # Check before replacing: a request may contain many placeholders.
        own = manifest.init or "<INIT>"
        size = len(init) + init.count("<INIT>") * (len(own) - len("<INIT>"))
        if size > INIT_MAX:
            raise RefusedError(
                error.InvalidArguments(f"an init of {size} characters is too long ({INIT_MAX})")
            )
        program = init.replace("<INIT>", own)
    return Command(program, arguments or manifest.args, environment or manifest.env)
