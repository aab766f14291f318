"""The runtime's configuration: a TOML file, read into values that need no further check.

Each key is declared once, as a field of a struct, with its description and its default. This module
does not check whether a directory exists or a key file is valid: that needs the disk.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import structs

from northstar.model import ConfigurationError, InvalidValueError, Permission, Permissions, Verity
from northstar.model.address import TcpAddress as TcpAddress
from northstar.model.address import UnixAddress as UnixAddress
from northstar.model.address import parse_address
from northstar.schema.context import Context, Path
from northstar.schema.node import Node
from northstar.schema.records import Field, ListOf, MapOf, Record
from northstar.schema.scalars import U64, Boolean, Integer, Parsed, Text
from northstar.schema.toml import TomlContext
from northstar.schema.values import CGROUP_LEVELS_MAX, Duration, FileMode, PermissionSet, Size
from northstar.schema.variants import Choice, Variant

_PATH: Final = Text("a path", least=1, hint="name a file or directory")
_COUNT: Final = Integer(1, U64)


def _parse_bind(text: str) -> TcpAddress | UnixAddress:
    try:
        return parse_address(text)
    except InvalidValueError:
        raise InvalidValueError(
            f"{text!r} is not an address to listen on",
            hint='write "tcp://host:port" or "unix:///path/of/socket"',
        ) from None


_BIND: Final = Parsed(
    _parse_bind,
    {"title": "address", "type": "string", "pattern": "^(tcp://.|unix:(//)?/.)"},
)
_PERMISSIONS: Final = PermissionSet(
    "is not a set of permissions",
    "a valid permission",
    hint='write "full" or a list',
    allowed=frozenset(Permission),
    full_item=True,
)


class ConsoleOptions(msgspec.Struct, frozen=True):
    """Limits of a console connection."""

    token_validity: Annotated[
        float, Field(Duration(), "How long a token is valid.", example="5m")
    ] = 60.0
    max_requests_per_sec: Annotated[
        # At least 1: with 0 the console would never answer.
        int,
        Field(
            _COUNT,
            "Maximum number of messages per second that are read from a connection; further ones "
            "wait.",
            unit="messages per second",
            example=100,
        ),
    ] = 1000
    max_request_size: Annotated[
        int,
        Field(
            Size(1),
            "Maximum length of a request, a line. A longer one ends the connection.",
            example="64KiB",
        ),
    ] = 2**20
    max_npk_install_size: Annotated[
        int, Field(Size(), "Maximum size of a package that is installed.", example="64MiB")
    ] = 256 * 2**20
    npk_stream_timeout: Annotated[
        float,
        Field(
            Duration(1e-3),
            "Longest pause between two parts of a package that a client sends. Then the "
            "installation fails.",
            example="30s",
        ),
    ] = 10.0


_OPTIONS: Final = Record(ConsoleOptions, nulls=False)


_SOCKET_MODE: Final = 0o600


def _parse_group(text: str) -> str:
    if text and "\0" not in text:
        return text
    rule = f"{text!r} has a NUL character" if text else "an empty name"
    raise InvalidValueError(rule, hint="name a group of this machine, or remove it")


_GROUP: Final = Parsed(_parse_group, {"type": "string", "minLength": 1})


class GlobalConsole(msgspec.Struct, frozen=True):
    """The global console: its address, and the permissions of its clients."""

    bind: Annotated[
        TcpAddress | UnixAddress,
        Field(
            _BIND,
            "The address where it listens: `unix:///path`, or `tcp://host:port` (default port "
            "4200). Use a Unix socket: every user of the machine can connect to a TCP port.",
            example="unix:///run/northstar/console",
        ),
    ]
    permissions: Annotated[
        Permissions,
        Field(
            _PERMISSIONS,
            "Permissions of its clients: `full`, or a list, which may contain `full`. `full` "
            "contains neither `exec`, `logs`, `update` nor `upgrade`.",
            example=["full", "logs"],
        ),
    ]
    options: Annotated[ConsoleOptions, Field(_OPTIONS, "Limits of its connections.")] = (
        ConsoleOptions()
    )
    mode: Annotated[
        int,
        Field(
            FileMode(),
            "Mode of a Unix socket. To connect, a user needs write access.",
            example=0o660,
            since="0.1.0",
        ),
    ] = _SOCKET_MODE
    group: Annotated[
        str | None,
        Field(
            _GROUP,
            "Name or number of a Unix socket's group. `mode` must let the group connect.",
            "the runtime's group",
            example="root",
            since="0.1.0",
            needs=("mode",),
        ),
    ] = None


def _socket_rules(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    for key in ("mode", "group"):
        if key in values and isinstance(values.get("bind"), TcpAddress):
            rule = "is for a Unix socket, and `bind` is a TCP address"
            hint = f'remove {key}, or bind to "unix:///path"'
            context.refuse(context.invalid(nodes[key], (*path, key), rule, hint=hint))
    mode = values.get("mode", _SOCKET_MODE)
    if "group" in values and not mode & 0o020:
        rule = f"the mode {mode:#o} does not let the group connect"
        error = context.invalid(nodes["group"], (*path, "group"), rule, hint="add mode = 0o660")
        context.refuse(error)


_CONSOLE: Final = Record(GlobalConsole, ignore_unknown=True, check=_socket_rules, nulls=False)


class _Memory(msgspec.Struct, frozen=True):
    """A repository in memory."""


class _Directory(msgspec.Struct, frozen=True):
    """A repository in a directory."""

    dir: Annotated[
        str,
        Field(
            _PATH,
            "Directory of the package files. All files in it are loaded at start.",
            example="/var/lib/northstar/repository",
        ),
    ]


class _RepositoryType(Variant[Any]):
    """`mem` or a directory: stored as None or the directory's path."""

    def read(self, node: Node, path: Path, context: Context[Any]) -> str | None:
        directory: str | None = getattr(super().read(node, path, context), "dir", None)
        return directory

    def dump(self, value: str | None, *, tagged: bool) -> Any:
        return super().dump(_Memory() if value is None else _Directory(value), tagged=tagged)


_TYPE: Final = _RepositoryType(
    "a type of repository",
    {"mem": Record(_Memory), "fs": Record(_Directory)},
    hint='write "mem" or { fs = { dir = "/path" } }',
)


class RepositoryConfig(msgspec.Struct, frozen=True):
    """A repository of packages."""

    dir: Annotated[
        str | None,
        Field(
            _TYPE,
            'Where packages are stored: `"mem"` in memory, until the runtime ends; '
            '`{ fs = { dir = ".." } }` as files in a directory, which must exist.',
            key="type",
            example={"fs": {"dir": "/var/lib/northstar/repository"}},
        ),
    ]
    key: Annotated[
        str | None,
        Field(
            _PATH,
            "File of the public key (`NAME.pub` of `sextant gen-key`) that must have signed each "
            "package.",
            "no package is verified",
            example="/etc/northstar/apps.pub",
        ),
    ] = None
    mount_on_start: Annotated[
        bool,
        Field(
            Boolean(),
            "Mount all its packages when the runtime starts. Without it each is mounted when it "
            "is first used.",
            example=True,
        ),
    ] = False
    capacity_num: Annotated[
        int | None,
        Field(
            Integer(0, U64, unit="packages"),
            "Maximum number of packages. Installing one more fails.",
            "no limit",
            example=20,
        ),
    ] = None
    capacity_size: Annotated[
        int | None,
        Field(
            Size(),
            "Maximum size of all its package files together. Installing more fails.",
            "no limit",
            example="512MiB",
        ),
    ] = None
    verity: Annotated[
        Verity,
        Field(
            Choice(get_args(Verity), "a way to verify"),
            "How packages are verified, with a key: `dm` by the kernel (dm-verity), block by block "
            "when it is read; `full` as a whole when they are mounted, from a copy in memory.",
            example="full",
            since="0.1.0",
            needs=("key",),
        ),
    ] = "dm"
    keys: Annotated[
        str | None,
        Field(
            _PATH,
            "Key list, of which one must have signed each package; in place of `key`. A client "
            "can replace it by the list that follows it.",
            "no list",
            example="/var/lib/northstar/apps.keys",
            since="0.1.0",
        ),
    ] = None
    anti_downgrade: Annotated[
        bool,
        Field(
            Boolean(),
            "Refuse every package that is older than the newest version of its name that an update "
            "has committed, also one that is stored already.",
            example=True,
            since="0.1.0",
        ),
    ] = False


def _check_keys(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    if "key" in nodes and "keys" in nodes:
        rule, hint = "`key` names the only key already", "remove one of both"
        context.refuse(context.invalid(nodes["keys"], (*path, "keys"), rule, hint=hint))
    if "verity" in values and not {"key", "keys"} & nodes.keys():
        rule, hint = "nothing is verified without a key", "add `key` or `keys`, or remove it"
        context.refuse(context.invalid(nodes["verity"], (*path, "verity"), rule, hint=hint))


_REPOSITORIES: Final = MapOf(
    Text("the name of a repository"),
    Record(RepositoryConfig, check=_check_keys, nulls=False),
)


def _parse_cgroup(text: str) -> str:
    # It is joined to each hierarchy's root, and must not leave it.
    if "\0" in text or not all(part not in ("", ".", "..") for part in text.split("/")):
        hint = 'write a name, as "northstar"'
        raise InvalidValueError(f"{text!r} is not the name of a cgroup", hint=hint)
    if text.count("/") >= CGROUP_LEVELS_MAX:
        rule = f"a cgroup with more than {CGROUP_LEVELS_MAX} levels"
        raise InvalidValueError(rule, hint="write a shorter path")
    return text


_CGROUP: Final = Parsed(_parse_cgroup, {"type": "string", "minLength": 1})


SHUTDOWN_LIMIT: Final = 30.0
"""The default of `shutdown_limit`, in seconds."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration. Paths are as written; relative ones are relative to the working directory.

    Attributes:
        warnings: messages about ignored keys, for the log.
    """

    run_dir: Annotated[
        str,
        Field(
            _PATH,
            "Directory where packages are mounted. Created if missing.",
            example="/run/northstar",
        ),
    ]
    data_dir: Annotated[
        str,
        Field(
            _PATH,
            "Directory of the persistent data of containers (mounts of the type `persist`). "
            "Created if missing.",
            example="/var/lib/northstar/data",
        ),
    ]
    socket_dir: Annotated[
        str,
        Field(
            _PATH,
            "Directory of the Unix sockets that manifests declare. Created if missing.",
            example="/run/northstar-sockets",
        ),
    ]
    cgroup: Annotated[
        str,
        Field(
            _CGROUP,
            "The top cgroup of all containers, a path relative to each hierarchy's root.",
            example="northstar",
        ),
    ]
    event_buffer_size: Annotated[
        int,
        Field(
            _COUNT, "Accepted for older configurations; has no effect.", unit="events", example=256
        ),
    ] = 256
    notification_buffer_size: Annotated[
        int,
        Field(
            _COUNT,
            "Maximum number of notifications that wait for a subscriber that reads slowly. Then "
            "its connection is closed.",
            unit="notifications",
            example=512,
        ),
    ] = 128
    loop_device_timeout: Annotated[
        float,
        Field(
            Duration(),
            "How long a mount tries to get a loop device that no other program takes meanwhile.",
            example="20s",
        ),
    ] = 10.0
    shutdown_timeout: Annotated[
        float,
        Field(
            Duration(),
            "Time between SIGTERM and SIGKILL for each container, when the runtime shuts down.",
            example="5s",
            since="0.1.0",
        ),
    ] = 2.0
    shutdown_limit: Annotated[
        float | None,
        Field(
            Duration(),
            "Time after which the shutdown sends SIGKILL to all containers, whatever the timeouts "
            "of their manifests.",
            "30s, or shutdown_timeout if that is longer",
            example="20s",
            since="0.1.0",
        ),
    ] = None
    max_probes: Annotated[
        int,
        Field(
            _COUNT,
            "Maximum number of probes in progress at once, of all containers; further ones wait.",
            unit="probes",
            example=8,
            since="0.1.0",
        ),
    ] = 4
    console: Annotated[
        GlobalConsole | None,
        Field(
            _CONSOLE,
            "The global console, where clients outside of containers connect.",
            "none; only containers have consoles",
            key="console.global",
        ),
    ] = None
    console_options: Annotated[
        ConsoleOptions,
        Field(_OPTIONS, "Limits of the connections of containers.", key="console.options"),
    ] = ConsoleOptions()
    repositories: Annotated[
        Mapping[str, RepositoryConfig],
        Field(
            _REPOSITORIES,
            "Repositories of packages, by their names in requests and answers.",
            entry="NAME",
            example={
                "apps": {
                    "type": {"fs": {"dir": "/var/lib/northstar/repository"}},
                    "key": "/etc/northstar/apps.pub",
                }
            },
        ),
    ] = {}
    debug_commands: Annotated[
        tuple[str, ...],
        Field(
            ListOf(tuple, Text("a command")),
            "Commands that run for every container that starts, as root on the host, before its "
            "program is executed; `<PID>` (of its init) and `<CONTAINER>` are replaced. A command "
            "is split at spaces, without a shell. Its output is in the log.",
            key="debug.commands",
            example=["strace -f -o /tmp/<CONTAINER>.strace -p <PID>"],
        ),
    ] = ()
    logs_kept: Annotated[
        int,
        Field(
            Size(),
            "Memory for the output of ended runs, of all containers together. Of each name the "
            "newest run is kept; the one that ended first is dropped first.",
            key="logs.kept",
            example="1MiB",
            since="0.1.0",
        ),
    ] = 4 * 2**20
    warnings: tuple[str, ...] = ()

    @property
    def longest_shutdown(self) -> float:
        """Seconds until the shutdown sends SIGKILL to all containers."""
        if self.shutdown_limit is None:
            return max(SHUTDOWN_LIMIT, self.shutdown_timeout)
        return self.shutdown_limit


CONFIG: Final = Record(Config, nulls=False, other=("warnings",))
"""The schema of the configuration."""


def load(path: str) -> Config:
    """Read the configuration file at `path`.

    Raises:
        ConfigurationError: it cannot be read, or is invalid.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigurationError(
            f"the configuration {path} cannot be read: {error.strerror}",
            hint="name another file with --config FILE",
        ) from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}, line {line}: invalid UTF-8", hint="save the file as UTF-8"
        ) from error
    return loads(text, path)


def loads(text: str, origin: str = "northstar.toml") -> Config:
    """Read a configuration; `origin` names it in errors.

    Raises:
        ConfigurationError: the text is not TOML, or breaks a rule.
    """
    context = TomlContext(text, origin, ConfigurationError)
    return structs.replace(context.document(CONFIG), warnings=tuple(context.warnings))


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of configurations."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:northstar:schema:configuration",
        "title": "Northstar configuration",
        **CONFIG.schema(),
    }
