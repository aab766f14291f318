"""The text that `nstar inspect --format table` prints: a line for each fact."""

from __future__ import annotations

from typing import Any

from northstar.api import ContainerData, Status
from northstar.cli import listing
from northstar.cli.tables import NONE
from northstar.cli.usage import size
from northstar.client.errors import phrase
from northstar.client.usage import statistics
from northstar.model import Container, printable


def show(container: Container, data: ContainerData, status: Status | None) -> None:
    """Print the text."""
    facts = lines(container, data, status)
    width = max(len(title) for title, _ in facts)
    for title, text in facts:
        print(f"{title:{width}}  {printable(text)}")


def lines(
    container: Container, data: ContainerData, status: Status | None
) -> list[tuple[str, str]]:
    """Return titles and texts: of the package, of the manifest, and of the process."""
    manifest = data.manifest
    facts = [
        ("Container", str(container)),
        ("Repository", data.repository),
        ("Mounted", "yes" if data.mounted else "no"),
    ]
    if status is not None:
        facts += [
            ("State", f"{phrase(status)}, for {listing.duration(status.since)}"),
            ("Restarts", str(status.restarts)),
            ("Last exit", listing.last_exit(status)),
        ]
    process = data.process
    if process is not None:
        used = statistics(process.statistics)
        facts += [
            ("PID", str(process.pid)),
            ("Uptime", listing.uptime(process.uptime_ns)),
            ("CPU time", NONE if used.cpu_ns is None else listing.duration(used.cpu_ns)),
            ("Memory", _of_limit(size(used.memory_bytes), size(used.memory_limit_bytes))),
            ("PIDs", _of_limit(_number(used.pids), _number(used.pids_limit))),
        ]
    facts += [
        (f"Manifest: {key}", _text(value))
        for key, value in manifest.items()
        if key not in ("name", "version")
    ]
    return facts


def _of_limit(used: str, limit: str) -> str:
    return used if limit == NONE else f"{used} of {limit}"


def _number(value: int | None) -> str:
    return NONE if value is None else str(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_nested(one)}" for key, one in value.items())
    return ", ".join(map(_nested, value)) if isinstance(value, list) else _nested(value)


def _nested(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{_text(value)}}}"
    if isinstance(value, list):
        return f"[{_text(value)}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NONE if value is None else str(value)
