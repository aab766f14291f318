"""The runtime's configuration: a TOML file, read into values that need no further check.

Every key stands once, in a table of converters below; its default stands once, in the class it
fills. Whether a directory exists or a key file is sound is not decided here: that needs the disk.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, get_args

import msgspec

from northstar.manifest.cgroups import LEVELS_MAX
from northstar.model import FULL, ConfigurationError, Permission, Permissions, Verity
from northstar.model.text import NAMED_MAX
from northstar.runtime.units import U64_MAX, parse_duration, parse_size

DEFAULT_PORT: Final = 4200


class TcpAddress(NamedTuple):
    """`tcp://host:port`. The host is a name or an address, an IPv6 address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


class UnixAddress(NamedTuple):
    """`unix:///path`."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


class ConsoleOptions(msgspec.Struct, frozen=True):
    """Limits of a console connection.

    Attributes:
        token_validity: seconds for which a token is good.
        max_requests_per_sec: messages in a second; what is above waits.
        max_request_size: longest line in bytes.
        max_npk_install_size: largest package in bytes.
        npk_stream_timeout: longest pause between two chunks of a package, in seconds.
    """

    token_validity: float = 60.0
    max_requests_per_sec: int = 1000
    max_request_size: int = 2**20
    max_npk_install_size: int = 256 * 2**20
    npk_stream_timeout: float = 10.0


class GlobalConsole(msgspec.Struct, frozen=True):
    """The console that the runtime listens on, and what its clients may do.

    Attributes:
        bind: the address.
        permissions: of each client.
        options: limits of each connection.
        mode: permission bits of a Unix socket. To connect, a user needs write access.
        group: name or number of a Unix socket's group; None for the runtime's own.
    """

    bind: TcpAddress | UnixAddress
    permissions: Permissions
    options: ConsoleOptions = ConsoleOptions()
    mode: int = 0o600
    group: str | None = None


class RepositoryConfig(msgspec.Struct, frozen=True):
    """A place for packages.

    Attributes:
        dir: directory of the package files, or None for a repository in memory.
        key: path of the public key that every package must be signed with, or None.
        mount_on_start: mount all packages at boot.
        capacity_num: most packages, or None.
        capacity_size: most bytes in all package files together, or None.
        verity: how the packages of a repository with a key are verified.
    """

    dir: str | None
    key: str | None = None
    mount_on_start: bool = False
    capacity_num: int | None = None
    capacity_size: int | None = None
    verity: Verity = "dm"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration. Paths are as written; relative ones belong to the working directory.

    Attributes:
        run_dir, data_dir, socket_dir: mount points; persistent data; Unix sockets.
        cgroup: the top cgroup, a path relative to each hierarchy's root.
        event_buffer_size: known for the sake of older configurations: no events queue here.
        notification_buffer_size: how many notifications a subscriber may be behind.
        loop_device_timeout: seconds to fight for a loop device.
        shutdown_timeout: seconds between TERM and KILL at shutdown.
        console: the global console, or None.
        console_options: limits of containers' connections.
        repositories: by identifier.
        debug_commands: run for every container that starts.
        warnings: sentences about what was ignored, for the log.
    """

    run_dir: str
    data_dir: str
    socket_dir: str
    cgroup: str
    event_buffer_size: int = 256
    notification_buffer_size: int = 128
    loop_device_timeout: float = 10.0
    shutdown_timeout: float = 2.0
    console: GlobalConsole | None = None
    console_options: ConsoleOptions = ConsoleOptions()
    repositories: Mapping[str, RepositoryConfig] = {}
    debug_commands: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load(path: str) -> Config:
    """Read the configuration file at `path`.

    Raises:
        ConfigurationError: it cannot be read, or is refused.
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
        ConfigurationError: the text is no TOML, or breaks a rule.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{origin} is not valid TOML: {error}", hint="correct the syntax"
        ) from error
    except RecursionError:
        raise ConfigurationError(
            f"{origin} is nested too deeply", hint="remove levels of brackets"
        ) from None
    document = _Document(text, origin)
    fields = document.read((), values, _TOP, required=_TOP_REQUIRED)
    console = fields.pop("console", {})
    if "global" in console:
        fields["console"] = console["global"]
    if "options" in console:
        fields["console_options"] = console["options"]
    if "debug" in fields:
        fields["debug_commands"] = fields.pop("debug").get("commands", ())
    return Config(**fields, warnings=tuple(document.warnings))


Path = tuple[str, ...]
"""The keys that lead to a value."""


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """A converter refuses a value; `_Document.read` adds where it stands."""

    def __init__(self, rule: str, hint: str) -> None:
        self.rule = rule
        self.hint = hint


class _Document:
    """The text with its warnings: turns tables into checked fields and says where an error is."""

    def __init__(self, text: str, origin: str) -> None:
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._origin = origin
        self.warnings: list[str] = []

    def read(
        self,
        path: Path,
        value: Any,
        converters: Mapping[str, Convert],
        *,
        required: tuple[str, ...] = (),
        strict: bool = True,
    ) -> dict[str, Any]:
        """Return the members of the table at `path`, converted; absent ones stay absent."""
        if not isinstance(value, dict):
            raise self.error(path, "must be a table", hint=f"write [{_dotted(path)}]")
        fields: dict[str, Any] = {}
        ignored: list[str] = []
        for key, member in value.items():
            member_path = (*path, key)
            if key in converters:
                fields[key] = self._convert(member_path, member, converters[key])
            elif strict:
                raise self.error(
                    member_path, "unknown key", hint=f"known here: {', '.join(converters)}"
                )
            else:
                ignored.append(key)
        # To find a line takes long. A table with very many is no table of this program.
        for key in ignored[:NAMED_MAX]:
            self.warnings.append(f"{self._where((*path, key))}: unknown key, ignored")
        if len(ignored) > NAMED_MAX:
            more = len(ignored) - NAMED_MAX
            self.warnings.append(f"{self._where(path)}: {more} more unknown keys, ignored")
        for key in required:
            if key not in fields:
                raise self.error((*path, key), "is missing", hint="add it")
        return fields

    def _convert(self, path: Path, value: Any, convert: Convert) -> Any:
        try:
            return convert(self, path, value)
        except _Refused as refused:
            raise self.error(path, refused.rule, hint=refused.hint) from None

    def error(self, path: Path, rule: str, *, hint: str) -> ConfigurationError:
        """Return the error for the value at `path`."""
        return ConfigurationError(f"{self._where(path)}: {rule}", hint=hint)

    def _where(self, path: Path) -> str:
        line = self._line(path)
        return f"{self._origin}{f', line {line}' if line else ''}: {_dotted(path)}"

    def _line(self, path: Path) -> int | None:
        """Return the line on which the statement that gives `path` begins.

        Of a path that is not there it is the nearest table's, or None where that is the document.

        tomllib tells no positions. But a prefix of lines is TOML of its own exactly when it does
        not end within a statement, and once the path is there it stays there: the first such
        prefix that has it ends with its statement, and bisection finds it. A line more or less
        never gives a wrong answer, as a scanner of our own would with strings over many lines.
        """
        lines = self._lines

        def complete(count: int) -> tuple[int, Any]:
            while True:
                try:
                    return count, tomllib.loads("\n".join(lines[:count]))
                except tomllib.TOMLDecodeError:
                    count -= 1

        end = 1 + bisect.bisect_left(
            range(1, len(lines) + 1), True, key=lambda count: _has(complete(count)[1], path)
        )
        if end <= len(lines):
            return complete(end - 1)[0] + 1
        return self._line(path[:-1]) if len(path) > 1 else None


Convert = Callable[[_Document, Path, Any], Any]
"""Turns the TOML value at a path into what a class holds, or raises `_Refused`."""


def _has(value: Any, path: Path) -> bool:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _dotted(path: Path) -> str:
    bare = re.compile(r"[A-Za-z0-9_-]+\Z")
    return ".".join(key if bare.match(key) else repr(key) for key in path)


# Scalars ------------------------------------------------------------------------------------


def _string(_document: _Document, _path: Path, value: Any) -> str:
    if not isinstance(value, str):
        raise _Refused(f"{value!r} is not a string", "put it into quotes")
    if "\0" in value:
        raise _Refused(f"{value!r} contains a NUL character", "remove it")
    return value


def _file(document: _Document, path: Path, value: Any) -> str:
    if not _string(document, path, value):
        raise _Refused("an empty path", "name a file or directory")
    return str(value)


def _boolean(_document: _Document, _path: Path, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Refused(f"{value!r} is not a boolean", "write true or false, without quotes")
    return value


def _integer(minimum: int) -> Convert:
    def convert(_document: _Document, _path: Path, value: Any) -> int:
        # bool is an int to Python, not to TOML.
        if not isinstance(value, int) or isinstance(value, bool):
            raise _Refused(f"{value!r} is not an integer", "write a number, without quotes")
        if not minimum <= value <= U64_MAX:
            raise _Refused(f"{value} is out of range", f"write a number from {minimum} on")
        return value

    return convert


def _duration(minimum: float) -> Convert:
    def convert(document: _Document, path: Path, value: Any) -> float:
        hint = 'write numbers with units, as "5s", "1m 30s" or "100ms"'
        try:
            seconds = parse_duration(_string(document, path, value))
        except ValueError as error:
            raise _Refused(str(error), hint) from error
        if seconds < minimum:
            raise _Refused(f"{value!r} is too short", f"at least {minimum * 1000:g}ms")
        return seconds

    return convert


def _size(minimum: int) -> Convert:
    def convert(document: _Document, path: Path, value: Any) -> int:
        try:
            size = parse_size(_string(document, path, value))
        except ValueError as error:
            raise _Refused(str(error), 'write it as "512", "100MB" or "1MiB"') from error
        if size < minimum:
            raise _Refused(f"{value!r} is too small", f"at least {minimum} bytes")
        return size

    return convert


def _cgroup(document: _Document, path: Path, value: Any) -> str:
    text = _string(document, path, value)
    # It is joined to each hierarchy's root, where it must lead downwards.
    if not all(part not in ("", ".", "..") for part in text.split("/")):
        raise _Refused(f"{text!r} is not the name of a cgroup", 'write a name, as "northstar"')
    if text.count("/") >= LEVELS_MAX:
        raise _Refused(f"a cgroup with more than {LEVELS_MAX} levels", "write a shorter path")
    return text


def _strings(document: _Document, path: Path, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Refused(f"{value!r} is not an array", 'write it as ["..", ".."]')
    return tuple(_string(document, path, item) for item in value)


# Console ------------------------------------------------------------------------------------

_TCP: Final = re.compile(
    r"tcp://(?:\[([0-9A-Fa-f:.]+(?:%[^\]/]+)?)\]|([^\[\]:/?#@]+))(?::([0-9]{1,5}))?/?\Z"
)


def _bind(document: _Document, path: Path, value: Any) -> TcpAddress | UnixAddress:
    text = _string(document, path, value)
    if text.startswith("unix:///") and text != "unix:///":
        return UnixAddress(text.removeprefix("unix://"))
    if match := _TCP.match(text):
        port = int(match[3]) if match[3] else DEFAULT_PORT
        if port < 2**16:
            return TcpAddress(match[1] or match[2], port)
    raise _Refused(
        f"{text!r} is not an address to listen on",
        'write "tcp://host:port" or "unix:///path/of/socket"',
    )


def _permissions(document: _Document, path: Path, value: Any) -> Permissions:
    if value == "full":
        return FULL
    if isinstance(value, str):
        raise _Refused(f"{value!r} is not a set of permissions", 'write "full" or a list')
    try:
        return frozenset(map(Permission, _strings(document, path, value)))
    except ValueError as error:
        known = ", ".join(permission.value for permission in Permission)
        raise _Refused(str(error).replace("Permission", "permission"), f"known: {known}") from error


def _socket_mode(_document: _Document, _path: Path, value: Any) -> int:
    hint = "write it in octal and without quotes, as 0o600 or 0o660"
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Refused(f"{value!r} is not a file mode", hint)
    if not 0 <= value <= 0o777:
        raise _Refused(f"{value} is not a file mode (0o000 to 0o777)", hint)
    return value


def _group(document: _Document, path: Path, value: Any) -> str:
    if not _string(document, path, value):
        raise _Refused("an empty name", "name a group of this machine, or remove it")
    return str(value)


_OPTIONS: Final[dict[str, Convert]] = {
    "token_validity": _duration(0.0),
    # None at all would be a console that never answers.
    "max_requests_per_sec": _integer(1),
    "max_request_size": _size(1),
    "max_npk_install_size": _size(0),
    "npk_stream_timeout": _duration(1e-3),
}


def _options(document: _Document, path: Path, value: Any) -> ConsoleOptions:
    return ConsoleOptions(**document.read(path, value, _OPTIONS))


_GLOBAL: Final[dict[str, Convert]] = {
    "bind": _bind,
    "permissions": _permissions,
    "options": _options,
    "mode": _socket_mode,
    "group": _group,
}


def _global(document: _Document, path: Path, value: Any) -> GlobalConsole:
    required = ("bind", "permissions")
    fields = document.read(path, value, _GLOBAL, required=required, strict=False)
    console = GlobalConsole(**fields)
    for key in ("mode", "group"):
        if key in fields and isinstance(console.bind, TcpAddress):
            rule = "is for a Unix socket, and `bind` is a TCP address"
            raise document.error(
                (*path, key), rule, hint=f'remove {key}, or bind to "unix:///path"'
            )
    if console.group is not None and not console.mode & 0o020:
        rule = f"the mode {console.mode:#o} does not let the group connect"
        raise document.error((*path, "group"), rule, hint="add mode = 0o660")
    return console


_CONSOLE: Final[dict[str, Convert]] = {"global": _global, "options": _options}


def _console(document: _Document, path: Path, value: Any) -> dict[str, Any]:
    return document.read(path, value, _CONSOLE)


# Repositories, debug, and the whole ---------------------------------------------------------


def _type(document: _Document, path: Path, value: Any) -> str | None:
    """Return the directory, or None for a repository in memory."""
    if value == "mem":
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise _Refused(
            f"{value!r} is not a type of repository",
            'write "mem" or { fs = { dir = "/path" } }',
        )
    fields = document.read(path, value, {"mem": _memory, "fs": _directory})
    return str(fields["fs"]["dir"]) if "fs" in fields else None


def _memory(document: _Document, path: Path, value: Any) -> dict[str, Any]:
    return document.read(path, value, {})


def _directory(document: _Document, path: Path, value: Any) -> dict[str, Any]:
    return document.read(path, value, {"dir": _file}, required=("dir",))


def _verity(_document: _Document, _path: Path, value: Any) -> str:
    if value not in get_args(Verity):
        raise _Refused(f"{value!r} is not a way to verify", 'write "dm" or "full"')
    return str(value)


_REPOSITORY: Final[dict[str, Convert]] = {
    "type": _type,
    "key": _file,
    "mount_on_start": _boolean,
    "capacity_num": _integer(0),
    "capacity_size": _size(0),
    "verity": _verity,
}


def _repositories(document: _Document, path: Path, value: Any) -> dict[str, RepositoryConfig]:
    if not isinstance(value, dict):
        raise _Refused("must be a table", "write [repositories.NAME]")
    repositories = {}
    for identifier, table in value.items():
        place = (*path, identifier)
        fields = document.read(place, table, _REPOSITORY, required=("type",))
        if "verity" in fields and "key" not in fields:
            rule = "nothing is verified without a key"
            raise document.error((*place, "verity"), rule, hint="add `key`, or remove it")
        repositories[identifier] = RepositoryConfig(dir=fields.pop("type"), **fields)
    return repositories


def _debug(document: _Document, path: Path, value: Any) -> dict[str, Any]:
    return document.read(path, value, {"commands": _strings})


_TOP_REQUIRED: Final = ("run_dir", "data_dir", "socket_dir", "cgroup")
_TOP: Final[dict[str, Convert]] = {
    "run_dir": _file,
    "data_dir": _file,
    "socket_dir": _file,
    "cgroup": _cgroup,
    "event_buffer_size": _integer(1),
    "notification_buffer_size": _integer(1),
    "loop_device_timeout": _duration(0.0),
    "shutdown_timeout": _duration(0.0),
    "console": _console,
    "repositories": _repositories,
    "debug": _debug,
}
