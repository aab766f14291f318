"""`service`: the supervision of the container. Without it, nothing is supervised.

Few manifests have it, so its records are made when the first one is read (`Lazy`). Until then the
annotations of its structs are texts.
"""

from __future__ import annotations

import enum
import signal
from typing import Annotated, Any, Final

import msgspec

from northstar.manifest import bounds
from northstar.manifest.mount import components, path_rule
from northstar.model import EXTENDED, InvalidValueError, Name, Permission, quote
from northstar.model.units import format_nanoseconds
from northstar.schema.context import Context, Path
from northstar.schema.node import Mapping, Node, Scalar, Sequence, is_null
from northstar.schema.records import Field, Lazy, ListOf, Record
from northstar.schema.scalars import Integer, Kind, Parsed, Text, integer_of
from northstar.schema.values import NAME_SCHEMA, Nanoseconds, WholeSize, permission_list
from northstar.schema.variants import Choice, OneKey, Wrapped

NOTIFY_ENV: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
"""Variables that the runtime sets for a container with `notify`. See sd_notify(3)."""

_SIGNAL_MAX: Final = 31
"""The last signal before the real-time signals, see signal(7)."""

_SECOND: Final = 10**9
_DELAY: Final = 1 * _SECOND
_MAX_DELAY: Final = 300 * _SECOND
_DURATION: Final = Nanoseconds(bounds.SERVICE_DURATION_MAX)


class RestartPolicy(enum.Enum):
    """When an ended container is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


_POLICY: Final = Choice(RestartPolicy, "a restart policy")
_FACTOR: Final = Integer(1, bounds.RESTART_FACTOR_MAX, "a factor", unit="factor")
_LIMIT: Final = Integer(1, bounds.RESTART_LIMIT_MAX, "a limit", unit="restarts")


class Restart(msgspec.Struct, frozen=True):
    """Automatic restart.

    The n-th restart in a row, counted from 0, comes `min(max_delay, delay * factor**n)` after the
    clean-up of the ended run.

    Attributes:
        delay, max_delay, reset_after, interval: ns of CLOCK_MONOTONIC.
    """

    policy: Annotated[
        RestartPolicy,
        Field(
            _POLICY,
            "Which ends are followed by a restart: `never` none, `on-failure` all but exit code 0, "
            "`always` all. A requested stop is never followed by one.",
            example="on-failure",
        ),
    ]
    delay: Annotated[
        int, Field(_DURATION, "Delay of the first restart in a row.", example="500ms")
    ] = _DELAY
    factor: Annotated[int, Field(_FACTOR, "Each further delay is multiplied by it.", example=3)] = 2
    max_delay: Annotated[int, Field(_DURATION, "Longest delay.", example="1m")] = _MAX_DELAY
    reset_after: Annotated[
        int,
        Field(
            _DURATION,
            "After a run that was ready for this time, the first delay applies again.",
            example="10m",
        ),
    ] = 600 * _SECOND
    limit: Annotated[
        int | None,
        Field(
            _LIMIT,
            "Maximum number of restarts within `interval`; then the container fails.",
            "no limit",
            example=5,
            needs=("interval",),
        ),
    ] = None
    interval: Annotated[
        int | None,
        Field(
            _DURATION,
            "Time in which the restarts of `limit` are counted.",
            "no limit",
            example="1h",
            needs=("limit",),
        ),
    ] = None


class _Signal(Kind[int]):
    """A signal from 1 to 31: its name, with or without `SIG`, or its number."""

    def read(self, node: Node, path: Path, context: Context[Any]) -> int:
        """Return its number."""
        number = integer_of(node)
        if number is None and type(node) is Scalar:
            name = "SIG" + node.text.upper().removeprefix("SIG")
            number = signal.Signals.__members__.get(name)
        if number is None or not 1 <= number <= _SIGNAL_MAX:
            rule = f"{context.describe(node)} is not a signal"
            hint = f"write a name such as TERM, or a number (1 to {_SIGNAL_MAX})"
            raise context.invalid(node, path, rule, hint=hint)
        return int(number)

    def dump(self, value: int, *, tagged: bool) -> str | int:  # noqa: ARG002 - as in all kinds
        """Return its name without `SIG`; the number if it has no name."""
        return signal_text(value)

    def schema(self) -> dict[str, Any]:
        """Return the schema: a number or a name."""
        name = {"type": "string", "pattern": "^([Ss][Ii][Gg])?[A-Za-z]+[0-9]?$"}
        title = f"signal, by name such as INT or by number, 1 to {_SIGNAL_MAX}"
        return {"title": title, "oneOf": [Integer(1, _SIGNAL_MAX).schema(), name]}


def signal_text(number: int) -> str | int:
    """Return the name of a signal as a manifest has it, `TERM`; the number if it has no name."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return number


class Stop(msgspec.Struct, frozen=True):
    """The end of a run: a signal to all its processes, and SIGKILL after a timeout.

    Attributes:
        timeout: ns.
    """

    signal: Annotated[
        int,
        Field(_Signal(), "The signal, by name or number. See signal(7).", example="INT"),
    ] = 15
    timeout: Annotated[int, Field(_DURATION, "Time until SIGKILL.", example="3s")] = 10 * _SECOND


class _Command(ListOf[tuple[str, ...]]):
    """A program, and its arguments."""

    def __init__(self) -> None:
        argument = Text("an argument", most=bounds.ARGUMENT_MAX)
        super().__init__(tuple, argument, max_entries=bounds.ARGUMENTS_MAX)
        self._program = Text("the program", least=1, most=bounds.INIT_MAX)

    def read(self, node: Node, path: Path, context: Context[Any]) -> tuple[str, ...]:
        """Return program and arguments."""
        command = super().read(node, path, context)
        if not command or type(node) is not Sequence:
            rule, hint = "the program is missing", "write it as `[/bin/check, --fast]`"
            raise context.invalid(node, path, rule, hint=hint)
        self._program.read(node.items[0], (*path, 0), context)
        return command

    def schema(self) -> dict[str, Any]:
        """Return the schema of the list."""
        return {**super().schema(), "minItems": 1, "prefixItems": [self._program.schema()]}


def _is_file(path: str) -> bool:
    """Return whether a text can be the absolute path of a file."""
    valid = path_rule(path) is None and "\0" not in path and not path.endswith("/")
    return valid and len(path.encode()) <= bounds.PATH_MAX


def _parse_address(text: str) -> str:
    scheme, _, rest = text.partition(":")
    if scheme == "tcp" and rest.isascii() and rest.isdigit() and rest[0] != "0":
        valid = len(rest) <= 5 and int(rest) < 2**16
    else:
        valid = scheme == "unix" and _is_file(rest)
    if not valid:
        hint = 'write "tcp:PORT" for a port of the container itself, or "unix:/path" in it'
        raise InvalidValueError(f"{text!r} is not an address of a probe", hint=hint)
    return text


_ADDRESS: Final = Parsed(
    _parse_address, {"type": "string", "pattern": "^(tcp:[1-9][0-9]{0,4}$|unix:/)"}
)


class ExecProbe(msgspec.Struct, frozen=True):
    """Succeeds if the program in the container exits with code 0."""

    command: Annotated[
        tuple[str, ...],
        Field(
            _Command(),
            "A program in the container, and its arguments. It succeeds with exit code 0.",
            example=["/bin/check", "--fast"],
        ),
    ]


class ConnectProbe(msgspec.Struct, frozen=True):
    """Succeeds if something accepts connections at `tcp:PORT` or `unix:PATH`."""

    address: Annotated[
        str,
        Field(
            _ADDRESS,
            "`tcp:PORT` on the container's loopback, or `unix:PATH` in its root. It succeeds if "
            "something accepts connections there.",
            example="tcp:8080",
        ),
    ]


class NotifyProbe(msgspec.Struct, frozen=True):
    """Succeeds when the payload sends READY=1 to its notify socket."""


Probe = ExecProbe | ConnectProbe

_PROBE_HINT: Final = 'write it as `{exec: [/bin/check]}` or `{connect: "tcp:8080"}`'


def _probe() -> OneKey[Probe]:
    forms = {"exec": Wrapped(ExecProbe), "connect": Wrapped(ConnectProbe)}
    return OneKey("a probe", forms, hint=_PROBE_HINT)


def _ready_probe() -> OneKey[Probe | NotifyProbe]:
    forms = {
        "notify": NotifyProbe(),
        "exec": Wrapped(ExecProbe),
        "connect": Wrapped(ConnectProbe),
    }
    return OneKey("a probe", forms, hint=f"{_PROBE_HINT}, or `notify`")


class Ready(msgspec.Struct, frozen=True):
    """When a run is ready, and the longest time until then.

    Attributes:
        timeout: ns.
    """

    probe: Annotated[
        Probe | NotifyProbe,
        Field(
            _ready_probe(),
            "`notify`: the container sends READY=1, see sd_notify(3). A probe: it has succeeded; "
            "it is repeated a second after each failure.",
            example={"connect": "tcp:8080"},
        ),
    ]
    timeout: Annotated[
        int,
        Field(_DURATION, "A run that is not ready after this time is stopped.", example="20s"),
    ] = 60 * _SECOND


class HealthAction(enum.Enum):
    """What follows when a container is unhealthy."""

    STOP = "stop"
    NONE = "none"


_FAILURES: Final = Integer(1, bounds.PROBE_FAILURES_MAX, "a number", unit="failures")


class Health(msgspec.Struct, frozen=True):
    """A probe that is repeated while the container is ready.

    It should check the container itself and nothing beyond: a restart does not repair a network.

    Attributes:
        interval, timeout: ns.
    """

    probe: Annotated[
        Probe, Field(_probe(), "The probe.", example={"exec": ["/bin/check", "--fast"]})
    ]
    interval: Annotated[
        int,
        Field(
            _DURATION,
            "Time from ready, or from the end of a probe, to the next probe.",
            example="30s",
        ),
    ] = 10 * _SECOND
    timeout: Annotated[
        int, Field(_DURATION, "A probe that takes longer has failed.", example="2s")
    ] = 5 * _SECOND
    failures: Annotated[
        int,
        Field(_FAILURES, "Failures in a row that make the container unhealthy.", example=2),
    ] = 3
    action: Annotated[
        HealthAction,
        Field(
            Choice(HealthAction, "an action"),
            "What follows: `stop` ends the run as a failure, `none` only shows the state.",
            example="none",
        ),
    ] = HealthAction.STOP


_LOG_SIZE: Final = WholeSize(
    bounds.LOG_SIZE_MIN, bounds.LOG_SIZE_MAX, multiple=bounds.LOG_SIZE_MULTIPLE
)


class Log(msgspec.Struct, frozen=True):
    """The log of its standard output and error that are not discarded."""

    size: Annotated[
        int,
        Field(
            _LOG_SIZE,
            "Its size, such as `256KiB`: memory of the container, in whole pages of 4096 bytes.",
            example="64KiB",
        ),
    ] = bounds.LOG_SIZE


class DataPolicy(enum.Enum):
    """What an update does with persistent data."""

    KEEP = "keep"
    SNAPSHOT = "snapshot"


_TRIES: Final = Integer(1, bounds.UPDATE_TRIES_MAX, "a number", unit="boots")


class Update(msgspec.Struct, frozen=True):
    """The trial of a new version: the old one returns if it fails.

    Attributes:
        window: ns.
    """

    window: Annotated[
        int, Field(_DURATION, "Time that the new version must stay ready.", example="5m")
    ] = 60 * _SECOND
    tries: Annotated[
        int,
        Field(_TRIES, "Boots in which the trial is begun again, after power cuts.", example=2),
    ] = 3
    data: Annotated[
        DataPolicy,
        Field(
            Choice(DataPolicy, "a treatment of data"),
            "Persistent data: `keep` shares it, `snapshot` restores a copy with the old version.",
            example="snapshot",
        ),
    ] = DataPolicy.KEEP


def _parse_name(text: str) -> Name:
    try:
        return Name(text)
    except InvalidValueError as error:
        hint = "write the name without a version" if ":" in text else error.hint
        raise InvalidValueError(error.message, hint=hint) from None


_AFTER: Final = ListOf(
    tuple, Parsed(_parse_name, NAME_SCHEMA, strict=True), max_entries=bounds.AFTER_MAX, unique=True
)


def _notify_rule(text: str) -> str | None:
    if rule := path_rule(text):
        return rule
    return None if components(text) else "is the root directory"


_NOTIFY: Final = Text(
    "a path",
    most=bounds.NOTIFY_MAX,
    check=_notify_rule,
    pattern="^/.*[^/]",
    hint="choose a directory of the image, such as /run/notify",
)
_PERMISSIONS: Final = permission_list(
    EXTENDED, "one of these permissions", hint="console.permissions has the others"
)


def _member(node: Node, *keys: str) -> Node:
    """Return the node of a field inside `node`; the innermost node that is found."""
    for key in keys:
        pairs = node.pairs if type(node) is Mapping else ()
        for name, value in pairs:
            if type(name) is Scalar and name.text == key:
                node = value
                break
    return node


def _restart_rule(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    for name, other in (("limit", "interval"), ("interval", "limit")):
        if name in values and (other not in nodes or is_null(nodes[other])):
            rule = f"needs service.restart.{other}"
            context.refuse(context.invalid(nodes[name], (*path, name), rule))
    delay, most = values.get("delay", _DELAY), values.get("max_delay", _MAX_DELAY)
    # A field that is present and has no value is invalid, and was reported.
    if delay > most and not {"delay", "max_delay"} & (nodes.keys() - values.keys()):
        name, other = ("delay", "max_delay") if "delay" in nodes else ("max_delay", "delay")
        shown, bound = (format_nanoseconds(duration) for duration in (delay, most))
        rule = f"the delay ({shown}) is longer than max_delay ({bound})"
        hint = None if other in nodes else f"set {other} too"
        context.refuse(context.invalid(nodes[name], (*path, name), rule, hint=hint))


def _needs_schema(
    name: str, value: dict[str, Any], other: str, needed: dict[str, Any]
) -> dict[str, Any]:
    """Return the schema of a rule: a field with such a value needs another one. null is absent."""
    condition, then = (
        {"properties": {field: schema}, "required": [field]}
        for field, schema in ((name, value), (other, needed))
    )
    return {"if": condition, "then": then}


def _restart_schema() -> dict[str, Any]:
    limit, interval = {"type": "integer"}, {"type": "string"}
    both = (("limit", limit, "interval", interval), ("interval", interval, "limit", limit))
    return {"allOf": [_needs_schema(*rule) for rule in both]}


def _notify_users(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    if "notify" in values or not ("notify" not in nodes or is_null(nodes["notify"])):
        return
    ready = values.get("ready")
    if ready is not None and type(ready.probe) is NotifyProbe:
        rule = "needs service.notify: the app has no socket to say READY=1 on"
        node = _member(nodes["ready"], "probe")
        context.refuse(context.invalid(node, (*path, "ready", "probe"), rule))
    if "watchdog" in values:
        rule = "needs service.notify: the app has no socket to say WATCHDOG=1 on"
        context.refuse(context.invalid(nodes["watchdog"], (*path, "watchdog"), rule))


def _notify_schema() -> dict[str, Any]:
    text = {"type": "string"}
    by_notify = {"properties": {"probe": {"const": "notify"}}, "required": ["probe"]}
    return {
        "allOf": [
            _needs_schema("watchdog", text, "notify", text),
            _needs_schema("ready", {"type": "object", **by_notify}, "notify", text),
        ]
    }


class Service(msgspec.Struct, frozen=True):
    """The supervision of the container. Its durations do not depend on the date.

    Attributes:
        watchdog: ns; a document has it as `5s` or `1m 30s`.
    """

    restart: Annotated[
        Restart | None,
        Field(
            Record(Restart, check=_restart_rule, rules=_restart_schema),
            "Automatic restart.",
            "it is not restarted",
        ),
    ] = None
    stop: Annotated[
        Stop | None,
        Field(
            Record(Stop),
            "How a run is stopped.",
            "SIGTERM, then SIGKILL after 10s; at shutdown after the shutdown_timeout of the "
            "configuration",
        ),
    ] = None
    after: Annotated[
        tuple[Name, ...],
        Field(
            _AFTER,
            "Names of containers, without version. An automatic start waits while one of them is "
            "about to become ready. They are stopped after this one at shutdown.",
            example=["broker"],
        ),
    ] = ()
    notify: Annotated[
        str | None,
        Field(
            _NOTIFY,
            "Directory in the image where the runtime mounts the container's notify socket, see "
            "sd_notify(3). It must not be at, below or above a target of `mounts`, except `/`.",
            "no socket",
            example="/run/notify",
        ),
    ] = None
    ready: Annotated[
        Ready | None,
        Field(
            Record(Ready),
            "When a run is ready.",
            "as soon as the program is executed",
            needs=("notify",),
        ),
    ] = None
    watchdog: Annotated[
        int | None,
        Field(
            _DURATION,
            "While it is ready the container must send WATCHDOG=1 within this time, again and "
            "again, or is stopped. Needs `notify`.",
            "no watchdog",
            example="30s",
            needs=("notify",),
        ),
    ] = None
    health: Annotated[
        Health | None, Field(Record(Health), "A repeated check of its health.", "no check")
    ] = None
    log: Annotated[Log | None, Field(Record(Log), "The log of its output.", "a log of 256KiB")] = (
        None
    )
    update: Annotated[
        Update | None,
        Field(
            Record(Update), "The trial of a new version.", "a window of 60s, 3 tries, data is kept"
        ),
    ] = None
    permissions: Annotated[
        frozenset[Permission],
        Field(
            _PERMISSIONS,
            "Permissions of its console besides `console.permissions`. Needs `console`.",
            example=["logs"],
        ),
    ] = frozenset()


SERVICE: Final = Lazy(lambda: Record(Service, check=_notify_users, rules=_notify_schema))


def check_service(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    """Check the rules between `service` and the other fields of a manifest.

    Args:
        values: the valid fields of the manifest.
        nodes: the nodes of all its fields.
        path: its path.
        context: for the errors.
    """
    service: Service | None = values.get("service")
    if service is None:
        return
    section = nodes["service"]
    inside = (*path, "service")
    name = values.get("name")
    if name in service.after:
        index = service.after.index(name)
        node = _member(section, "after")
        if type(node) is Sequence:
            node = node.items[index]
        rule = f"{quote(name)} is the container's own name"
        context.refuse(context.invalid(node, (*inside, "after", index), rule))
    if service.permissions and ("console" not in nodes or is_null(nodes["console"])):
        node = _member(section, "permissions")
        rule = "needs console: the app has no console connection"
        context.refuse(context.invalid(node, (*inside, "permissions"), rule))
    if service.notify is not None:
        _check_environment(values, nodes, path, context)
        _check_target(service.notify, values, _member(section, "notify"), inside, context)


def _check_environment(
    values: dict[Any, Any], nodes: dict[str, Node], path: Path, context: Context[Any]
) -> None:
    for name in NOTIFY_ENV:
        if name in values.get("env", ()):
            node = _member(nodes["env"], name)
            context.refuse(context.invalid(node, (*path, "env", name), "is set by the runtime"))


def _check_target(
    notify: str, values: dict[Any, Any], node: Node, path: Path, context: Context[Any]
) -> None:
    """Refuse a notify directory that another mount contains, or that would hide another mount."""
    own = components(notify)
    for target, mount in values.get("mounts", {}).items():
        other = components(target)
        shown, there = (quote(text)[1:-1] for text in (notify, target))
        kind = type(mount).__name__.lower()
        kind = kind if kind.endswith("fs") else f"{kind} mount"
        if other and own[: len(other)] == other:
            rule = f"{shown} lies in the {kind} on {there}"
        elif other[: len(own)] == own:
            rule = f"{shown} would hide the {kind} on {there}"
        else:
            continue
        hint = "choose a directory of the image"
        context.refuse(context.invalid(node, (*path, "notify"), rule, hint=hint))
