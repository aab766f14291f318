"""The manifest: what a package is, and what its container may do and use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import structs

from northstar.manifest import bounds
from northstar.manifest.autostart import AUTOSTART, Autostart
from northstar.manifest.capabilities import CAPABILITIES, Capability
from northstar.manifest.cgroups import CGROUPS, Cgroups
from northstar.manifest.console import CONSOLE, Console
from northstar.manifest.custom import CUSTOM
from northstar.manifest.io import IO, Io
from northstar.manifest.kinds import U16, Integer, Parsed, Text
from northstar.manifest.mount import MOUNTS, NAME, Mount
from northstar.manifest.network import NETWORK, Network
from northstar.manifest.node import Context, Node, invalid, join
from northstar.manifest.records import ListOf, MapOf, Record
from northstar.manifest.rlimit import RLIMITS, Rlimit, RlimitResource
from northstar.manifest.sched import SCHED, Sched
from northstar.manifest.seccomp import SECCOMP, Seccomp
from northstar.manifest.selinux import SELINUX, Selinux
from northstar.manifest.socket import SOCKETS, Socket
from northstar.model import Container, Name, Version

RESERVED_ENV: Final = frozenset(
    ("NORTHSTAR_NAME", "NORTHSTAR_VERSION", "NORTHSTAR_CONTAINER", "NORTHSTAR_CONSOLE")
)
"""Variables that the runtime sets."""

APP_ONLY: Final = (
    "args",
    "env",
    "capabilities",
    "suppl_groups",
    "autostart",
    "cgroups",
    "io",
    "seccomp",
)
"""Fields that a resource, which never runs, must not have."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest whose every field is valid.

    Attributes:
        name: name of the container.
        version: its version.
        init: the payload's program in the container; None in a resource.
        args: its arguments after argv[0].
        env: its environment.
        uid: its user, 1 to 65535.
        gid: its group, 1 to 65535.
        console: its console connection, if any.
        sched: its scheduling; None leaves it as it is.
        mounts: what is mounted, by absolute target as written.
        autostart: how it starts at boot; None if it does not.
        cgroups: its limits; None for none.
        network: its network; None for a new, empty one.
        seccomp: its system calls; None allows all.
        selinux: its security contexts.
        capabilities: its capabilities.
        suppl_groups: names of its supplementary groups.
        rlimits: its resource limits.
        sockets: its sockets, by name.
        io: its output; None discards it.
        custom: data for others: what JSON can say, None for none.
    """

    name: Name
    version: Version
    init: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    uid: int
    gid: int
    console: Console | None = None
    sched: Sched | None = None
    mounts: Mapping[str, Mount] = {}
    autostart: Autostart | None = None
    cgroups: Cgroups | None = None
    network: Network | None = None
    seccomp: Seccomp | None = None
    selinux: Selinux | None = None
    capabilities: frozenset[Capability] = frozenset()
    suppl_groups: tuple[str, ...] = ()
    rlimits: Mapping[RlimitResource, Rlimit] = {}
    sockets: Mapping[str, Socket] = {}
    io: Io | None = None
    custom: Any = None

    @property
    def container(self) -> Container:
        """The identity of the package."""
        return Container(self.name, self.version)

    @property
    def is_app(self) -> bool:
        """Whether it can be started."""
        return self.init is not None

    @property
    def is_resource(self) -> bool:
        """Whether it can only be mounted into apps."""
        return self.init is None

    def to_builtins(self) -> dict[str, Any]:
        """Return the serialised form, as in an inspect answer. Do not change its parts."""
        return MANIFEST.dump(self, tagged=False)


def _env_name_rule(text: str) -> str | None:
    return "is set by the runtime" if text in RESERVED_ENV else None


def _resource_rule(
    values: dict[Any, Any], nodes: dict[str, Node], path: str, context: Context
) -> None:
    # An init that could not be read makes an app all the same.
    if values.get("init") is not None or any(e.path == "init" for e in context.errors):
        return
    for name in APP_ONLY:
        value = values.get(name)
        # An empty map or list is as good as none. An empty record is not: it asks for something.
        if value is not None and not (isinstance(value, Mapping | tuple | frozenset) and not value):
            context.refuse(
                invalid(
                    nodes[name],
                    join(path, name),
                    "a resource (a manifest without init) must not have it",
                )
            )


def _resource_schema() -> dict[str, Any]:
    nothing = {
        field.name: {"type": "null"}
        if field.default is None
        else {"maxItems": 0, "maxProperties": 0}
        for field in structs.fields(Manifest)
        if field.name in APP_ONLY
    }
    # True of an init that is absent, too.
    no_init = {"properties": {"init": {"type": "null"}}}
    return {"if": no_init, "then": {"properties": nothing}}


_VERSION = Parsed(
    Version.parse,
    {
        "type": "string",
        "pattern": r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]+)?$",
    },
)

MANIFEST: Final = Record(
    Manifest,
    {
        "name": NAME,
        "version": _VERSION,
        "init": Text("init", least=1, most=bounds.INIT_MAX),
        "args": ListOf(
            tuple, Text("an argument", most=bounds.ARGUMENT_MAX), most=bounds.ARGUMENTS_MAX
        ),
        "env": MapOf(
            Text("the name of a variable", most=bounds.ENV_NAME_MAX, check=_env_name_rule),
            Text("the value of a variable", most=bounds.ENV_VALUE_MAX),
            most=bounds.ENV_MAX,
        ),
        "uid": Integer(1, U16, "a user id"),
        "gid": Integer(1, U16, "a group id"),
        "console": CONSOLE,
        "sched": SCHED,
        "mounts": MOUNTS,
        "autostart": AUTOSTART,
        "cgroups": CGROUPS,
        "network": NETWORK,
        "seccomp": SECCOMP,
        "selinux": SELINUX,
        "capabilities": CAPABILITIES,
        "suppl_groups": ListOf(
            tuple,
            Text("the name of a group", most=bounds.SUPPL_GROUP_MAX),
            most=bounds.SUPPL_GROUPS_MAX,
            unique=True,
        ),
        "rlimits": RLIMITS,
        "sockets": SOCKETS,
        "io": IO,
        "custom": CUSTOM,
    },
    check=_resource_rule,
    rules=_resource_schema(),
)
"""How a manifest is read and written."""
