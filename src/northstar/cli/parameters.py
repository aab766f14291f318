"""The types of nstar's arguments: a wrong one is wrong usage, and says what would be right."""

from __future__ import annotations

import signal as signals
from collections import Counter
from typing import Any

import click

from northstar.client import address
from northstar.client.blocking import Client
from northstar.client.operations import container_or_name
from northstar.model import Container, InvalidValueError, Name


class ContainerType(click.ParamType[Container | Name]):
    """`NAME:VERSION`, or a name alone."""

    name = "container"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Container | Name:
        """Read it."""
        try:
            return container_or_name(value)
        except InvalidValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click passes it by position
        incomplete: str,
    ) -> list[Any]:
        """Ask the runtime. A completion that fails completes nothing."""
        from click.shell_completion import CompletionItem

        options = ctx.find_root().params
        try:
            with Client.connect(options["url"], timeout=1) as client:
                containers = sorted(client.list())
        except Exception:
            return []
        versions = Counter(container.name for container in containers)
        # The name where that is enough: bash takes a colon for the end of a word.
        words = [str(c.name if versions[c.name] == 1 else c) for c in containers]
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


class NameType(click.ParamType[Name]):
    """A container's name, or `extern`."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Name:
        """Read it."""
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
    """A time, as `10s`, `1m 30s` or `500ms`, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        # Only whoever gives one waits for this import.
        from northstar.runtime.units import parse_duration

        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(f"{error} (as 10s, 1m 30s or 500ms)", param, ctx)
        # No wait at all would be a non-blocking socket; longer ones do not fit into a poll.
        return min(max(seconds, 0.001), 1e6)


class SignalType(click.ParamType[int]):
    """A signal, as `15`, `TERM`, `SIGTERM` or `RTMIN+1`."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it. Which numbers may be sent is the runtime's business."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit() and len(value) < 10:
            return int(value)
        name, _, offset = value.upper().partition("+")
        known = signals.Signals.__members__.get("SIG" + name.removeprefix("SIG"))
        if known is None or (offset and not (offset.isascii() and offset.isdigit())):
            self.fail(f"{value!r} is not a signal (as 15, TERM or SIGTERM)", param, ctx)
        return known + int(offset[:3] or 0)
