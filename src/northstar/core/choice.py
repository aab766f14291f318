"""What a start executes, and which containers it uses as resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from northstar.api import RefusedError, error
from northstar.core.values import Phase, State
from northstar.manifest import RESERVED_ENV, Command, Manifest, Resource
from northstar.manifest.bounds import INIT_MAX
from northstar.model import Container, quote


def newest_match(resource: Resource, candidates: Iterable[Container]) -> Container | None:
    """Return the newest of `candidates` that fulfils what a resource mount asks for."""
    matching = (
        container
        for container in candidates
        if container.name == resource.name and resource.version.matches(container.version)
    )
    return max(matching, default=None)


def choose_resources(state: State, manifest: Manifest) -> dict[str, Container]:
    """Choose the newest matching container for each resource mount, by target.

    What is being uninstalled is no candidate.

    Raises:
        RefusedError: nothing matches.
    """
    chosen: dict[str, Container] = {}
    for target, mount in manifest.mounts.items():
        if not isinstance(mount, Resource):
            continue
        present = (c for c, e in state.containers.items() if e.phase is not Phase.REMOVING)
        match = newest_match(mount, present)
        if match is None:
            raise RefusedError(
                error.StartContainerMissingResource(
                    manifest.container, mount.name, str(mount.version)
                )
            )
        chosen[target] = match
    return chosen


def choose_command(
    manifest: Manifest,
    init: str | None,
    arguments: tuple[str, ...],
    environment: Mapping[str, str],
) -> Command:
    """Return what a start request executes; what is empty in it is the manifest's.

    Raises:
        RefusedError: a variable that the runtime sets itself, or no init anywhere.
    """
    for name in environment:
        if name in RESERVED_ENV:
            raise RefusedError(error.InvalidArguments(f"the variable {name} is reserved"))
        if not name or "=" in name:
            raise RefusedError(error.InvalidArguments(f"{quote(name)} is no name of a variable"))
    if not init and manifest.init is None:
        raise RefusedError(error.StartContainerResource(manifest.container))
    program = manifest.init or ""
    if init:
        # Counted before: a request has room for many of them.
        own = manifest.init or "<INIT>"
        size = len(init) + init.count("<INIT>") * (len(own) - len("<INIT>"))
        if size > INIT_MAX:
            raise RefusedError(
                error.InvalidArguments(f"an init of {size} characters is too long ({INIT_MAX})")
            )
        program = init.replace("<INIT>", own)
    return Command(program, arguments or manifest.args, environment or manifest.env)
