"""The types of nstar's arguments. An invalid one is a usage error that names the valid form."""

from __future__ import annotations

import signal as signals
from collections.abc import Callable
from typing import Any

import click

from northstar.client import address
from northstar.client.steps import container_or_name
from northstar.model import Container, InvalidValueError, Name


def _is_json(ctx: click.Context, _: click.Parameter, value: str | None) -> bool | None:
    if value is not None and ctx.find_root().params.get("json_lines"):
        raise click.UsageError("--format and --json exclude each other: --json prints the protocol")
    return None if value is None else value == "json"


def format_option(default: str = "table") -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Return the option --format of a command: its parameter `as_json` is None if it is absent."""
    return click.option(
        "--format",
        "as_json",
        type=click.Choice(["table", "json"]),
        callback=_is_json,
        help=f"Print text, or JSON in a documented form ({default} by default).",
    )


class ContainerType(click.ParamType[Container | Name]):
    """`NAME:VERSION`, or a name alone."""

    name = "container"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Container | Name:
        """Parse it."""
        try:
            return container_or_name(value)
        except InvalidValueError as error:
            text = str(error)
            # The error is about one part of it.
            self.fail(text if repr(value) in text else f"{value!r}: {text}", param, ctx)


class NameType(click.ParamType[Name]):
    """A container's name, or `extern`."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Name:
        """Parse it."""
        try:
            return Name(value)
        except InvalidValueError as error:
            self.fail(str(error), param, ctx)


class UrlType(click.ParamType[str]):
    """`tcp://HOST[:PORT]` or `unix:///PATH`."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        try:
            address.parse(value)
        except InvalidValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class DurationType(click.ParamType[float]):
    """A time such as `10s`, `1m 30s` or `500ms`; converted to seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse it."""
        if isinstance(value, float):
            return value
        # Imported here, since most runs do not need it.
        from northstar.model.units import parse_duration

        try:
            seconds = parse_duration(value)
        except InvalidValueError as error:
            self.fail(f"{error.message} (as 10s, 1m 30s or 500ms)", param, ctx)
        # 0 would make sockets non-blocking; longer timeouts do not fit into poll(2).
        return min(max(seconds, 0.001), 1e6)


class SignalType(click.ParamType[int]):
    """A signal such as `15`, `TERM`, `SIGTERM` or `RTMIN+1`."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse it. The runtime checks which numbers may be sent."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit() and len(value) < 10:
            return int(value)
        name, _, offset = value.upper().partition("+")
        known = signals.Signals.__members__.get("SIG" + name.removeprefix("SIG"))
        if known is None or (offset and not (offset.isascii() and offset.isdigit())):
            self.fail(f"{value!r} is not a signal (as 15, TERM or SIGTERM)", param, ctx)
        return known + int(offset[:3] or 0)
