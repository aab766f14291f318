"""Which installed apps need a resource. It is loaded by `nstar uninstall`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from northstar.api.response import ContainerData
from northstar.cli.common import warn
from northstar.client.blocking import Client
from northstar.model import Container, InvalidValueError, NorthstarError, VersionReq, listed


def warn_about_users(client: Client, resource: Container) -> None:
    """Warn if installed apps cannot start any more without a resource.

    Without the permissions for it, nothing is known and nothing is said.
    """
    try:
        users = users_of(client, resource)
    except NorthstarError:
        return
    if users:
        need = "needs" if len(users) == 1 else "need"
        warn(f"{listed(users)} {need} {resource}, and cannot start without it")


def users_of(client: Client, resource: Container) -> list[Container]:
    """Return the installed apps that mount a resource and have no other version of it, sorted.

    Raises:
        NorthstarError: the runtime does not permit to look.
    """
    if client.inspect(resource).manifest.get("init") is not None:
        return []
    installed = sorted(client.list())
    others = [one for one in installed if one.name == resource.name and one != resource]
    found = []
    for container, data in zip(installed, client.inspect_all(installed), strict=True):
        # One that was uninstalled meanwhile has no data.
        if isinstance(data, ContainerData) and any(
            requirement.matches(resource.version)
            and not any(requirement.matches(other.version) for other in others)
            for requirement in _requirements(data.manifest, resource)
        ):
            found.append(container)
    return found


def _requirements(manifest: dict[str, Any], resource: Container) -> Iterator[VersionReq]:
    """Yield what a manifest requires of the versions of a resource."""
    for mount in (manifest.get("mounts") or {}).values():
        if mount.get("type") == "resource" and mount.get("name") == resource.name:
            try:
                yield VersionReq.parse(str(mount.get("version")))
            except InvalidValueError:
                continue
