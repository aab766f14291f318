"""The manifest: the identity of a package, and the rights and resources of its container."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from northstar.manifest import bounds
from northstar.manifest.autostart import AUTOSTART, Autostart
from northstar.manifest.capabilities import CAPABILITIES, Capability
from northstar.manifest.cgroups import CGROUPS, Cgroups
from northstar.manifest.console import CONSOLE, Console
from northstar.manifest.custom import CUSTOM
from northstar.manifest.io import IO, Io
from northstar.manifest.mount import MOUNTS, Mount
from northstar.manifest.network import NETWORK, Network
from northstar.manifest.rlimit import RLIMITS, Rlimit, RlimitResource
from northstar.manifest.sched import SCHED, Sched
from northstar.manifest.seccomp import SECCOMP, Seccomp
from northstar.manifest.selinux import SELINUX, Selinux
from northstar.manifest.service import SERVICE, Service, check_service
from northstar.manifest.socket import SOCKETS, Socket
from northstar.model import Container, Name, Version
from northstar.schema.context import Context, Path
from northstar.schema.node import Node, is_null
from northstar.schema.records import Field, ListOf, MapOf, Record
from northstar.schema.scalars import U16, Integer, Text
from northstar.schema.values import NAME, VERSION

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
    "service",
)
"""Fields that a resource must not have, since it never runs."""


def _env_name_rule(text: str) -> str | None:
    return "is set by the runtime" if text in RESERVED_ENV else None


_ARGS: Final = ListOf(
    tuple, Text("an argument", most=bounds.ARGUMENT_MAX), max_entries=bounds.ARGUMENTS_MAX
)
_REMOVE: Final = "remove it, or choose another name"
_ENV: Final = MapOf(
    Text("the name of a variable", most=bounds.ENV_NAME_MAX, check=_env_name_rule, hint=_REMOVE),
    Text("the value of a variable", most=bounds.ENV_VALUE_MAX),
    max_entries=bounds.ENV_MAX,
)
_SUPPL_GROUPS: Final = ListOf(
    tuple,
    Text("the name of a group", most=bounds.SUPPL_GROUP_MAX),
    max_entries=bounds.SUPPL_GROUPS_MAX,
    unique=True,
)
_UID: Final = Integer(
    1, U16, "a user id", unit="user id", hint="write the number of a user that is not root"
)
_GID: Final = Integer(
    1, U16, "a group id", unit="group id", hint="write the number of a group that is not root's"
)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest. All its fields are valid."""

    name: Annotated[
        Name,
        Field(
            NAME,
            "Name of the container: letters, digits, dots, hyphens and underscores. With its "
            "version it identifies the package.",
            example="hello",
        ),
    ]
    version: Annotated[
        Version,
        Field(
            VERSION,
            "Version of the container: three numbers, see semver.org.",
            example="1.0.0",
        ),
    ]
    init: Annotated[
        str | None,
        Field(
            Text("init", least=1, most=bounds.INIT_MAX),
            "Absolute path of the payload's program in the container. It is not searched in PATH.",
            "none: a resource, which cannot be started",
            example="/hello",
        ),
    ] = None
    args: Annotated[
        tuple[str, ...],
        Field(_ARGS, "Arguments of the program, after argv[0].", example=["--verbose", "a b"]),
    ] = ()
    env: Annotated[
        Mapping[str, str],
        Field(
            _ENV,
            "Environment of the program. The runtime adds NORTHSTAR_NAME, NORTHSTAR_VERSION, "
            "NORTHSTAR_CONTAINER and, with `console`, NORTHSTAR_CONSOLE, which must not be here.",
            example={"LANG": "C.UTF-8", "THREADS": "4"},
        ),
    ] = {}
    uid: Annotated[int, Field(_UID, "User id of the payload. It cannot be root.", example=1000)]
    gid: Annotated[int, Field(_GID, "Group id of the payload.", example=1000)]
    console: Annotated[
        Console | None,
        Field(
            CONSOLE,
            "A connection to the runtime's console, whose descriptor is in NORTHSTAR_CONSOLE.",
            "none",
        ),
    ] = None
    sched: Annotated[
        Sched | None,
        Field(SCHED, "Scheduling of the payload. See sched(7).", "that of the runtime"),
    ] = None
    mounts: Annotated[
        Mapping[str, Mount],
        Field(
            MOUNTS,
            "What is mounted in the container, by absolute path of the target. `sextant pack` "
            "creates the targets in the image.",
            entry="TARGET",
            example={"/data": {"type": "persist"}, "/cache": {"type": "tmpfs", "size": "10MiB"}},
        ),
    ] = {}
    autostart: Annotated[
        Autostart | None,
        Field(
            AUTOSTART,
            "Start at boot. A failure causes a warning (relaxed), or a shutdown of the runtime "
            "(critical).",
            "it does not start",
            example="relaxed",
        ),
    ] = None
    cgroups: Annotated[
        Cgroups | None,
        Field(CGROUPS, "Limits on the resources of the container. See cgroups(7).", "no limits"),
    ] = None
    network: Annotated[
        Network | None,
        Field(
            NETWORK,
            "The network namespace of the container. See network_namespaces(7).",
            "a new, empty namespace",
            example="host",
        ),
    ] = None
    seccomp: Annotated[
        Seccomp | None,
        Field(
            SECCOMP, "System calls that the payload may make. See seccomp(2).", "all are allowed"
        ),
    ] = None
    selinux: Annotated[
        Selinux | None,
        Field(SELINUX, "SELinux contexts. Without SELinux they have no effect.", "none"),
    ] = None
    capabilities: Annotated[
        frozenset[Capability],
        Field(
            CAPABILITIES,
            "Capabilities of the payload. See capabilities(7).",
            example=["CAP_NET_BIND_SERVICE"],
        ),
    ] = frozenset()
    suppl_groups: Annotated[
        tuple[str, ...],
        Field(
            _SUPPL_GROUPS,
            "Names of supplementary groups of the payload, which must exist on the host.",
            example=["dialout", "video"],
        ),
    ] = ()
    rlimits: Annotated[
        Mapping[RlimitResource, Rlimit],
        Field(
            RLIMITS,
            "Resource limits of the payload, by resource. See getrlimit(2).",
            entry="RESOURCE",
            example={"nofile": {"soft": 256, "hard": 1024}},
        ),
    ] = {}
    sockets: Annotated[
        Mapping[str, Socket],
        Field(
            SOCKETS,
            "Unix sockets that the runtime opens for the container, by name. The descriptor of "
            "the socket NAME is in the variable NORTHSTAR_SOCKET_NAME.",
            entry="NAME",
            example={"control": {"type": "stream", "mode": 0o660}},
        ),
    ] = {}
    io: Annotated[
        Io | None,
        Field(
            IO, "Destinations of standard output and standard error.", "both outputs are discarded"
        ),
    ] = None
    service: Annotated[
        Service | None,
        Field(
            SERVICE,
            "Supervision of the container. Northstar 0.9.2 refuses a manifest with it.",
            "none",
            since="0.1.0",
        ),
    ] = None
    custom: Annotated[
        Any,
        Field(
            CUSTOM,
            "Any data. The runtime does not interpret it, and returns it to clients.",
            "none",
            example={"vendor": "example.org", "priority": 3},
        ),
    ] = None

    @property
    def container(self) -> Container:
        """The identity of the package."""
        return Container(self.name, self.version)

    @property
    def is_app(self) -> bool:
        """Whether it can be started."""
        return self.init is not None

    def to_builtins(self, *, service: bool = True) -> dict[str, Any]:
        """Return the serialised form, as in an inspect answer. The caller must not change it.

        Args:
            service: whether it contains the section `service`. Without it Northstar 0.9.2 can read
                it: its clients refuse an answer with a field that they do not know.
        """
        serialised: dict[str, Any] = MANIFEST.dump(self, tagged=False)
        if not service:
            serialised.pop("service", None)
        return serialised


def _rules(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    _resource_rule(values, nodes, path, context)
    check_service(values, nodes, path, context)


def _resource_rule(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    # With an invalid init it is still an app.
    if "init" in nodes and not is_null(nodes["init"]):
        return
    for name in APP_ONLY:
        value = values.get(name)
        # An empty map or list is allowed, an empty record is not: it enables a feature.
        if value is not None and not (isinstance(value, Mapping | tuple | frozenset) and not value):
            rule = "a resource (a manifest without init) must not have it"
            hint = "add init, or remove it"
            context.refuse(context.invalid(nodes[name], (*path, name), rule, hint=hint))


def _resource_schema() -> dict[str, Any]:
    empty = {"maxItems": 0, "maxProperties": 0}
    nothing = {
        name: empty if isinstance(MANIFEST.fields[name].kind, ListOf | MapOf) else {"type": "null"}
        for name in APP_ONLY
    }
    # This also matches if init is absent.
    no_init = {"properties": {"init": {"type": "null"}}}
    return {"if": no_init, "then": {"properties": nothing}}


MANIFEST: Final = Record(
    Manifest,
    check=_rules,
    rules=_resource_schema,
    form="{name: hello, version: 1.0.0, init: /hello, uid: 1000, gid: 1000}",
)
"""The kind that reads and writes manifests."""
