"""Measures the switch of an update; run as root: python -m bench.update

The time from the stop of the old version to the execution of the new one, beside that of a stop
request and a start request of the same app. Both take turns. docs/targets.md contains the target.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.runtime import UNLIMITED, connect, row, times
from bench.services import compiled
from northstar import npk
from northstar.api import ContainerState, notification
from northstar.client import blocking
from tests.system.harness import RuntimeProcess, manifest

ROUNDS = 20


def packages(directory: Path) -> list[Path]:
    """Pack the versions of an app."""
    root = compiled(directory).parent
    found: list[Path] = []
    for number in range(ROUNDS + 1):
        text, out = directory / "manifest.yaml", directory / f"out{number}"
        service = {"update": {"window": "10ms"}}
        text.write_text(manifest("app", f"1.{number}.0", service=service))
        out.mkdir()
        npk.pack(text, root, out)
        found += out.iterdir()
    return found


def switch(client: blocking.Client, package: Path) -> float:
    """Update the app; return the ms from its stop to the execution of the new version."""
    times: dict[str, float] = {}

    def watch(message: notification.Notification) -> None:
        # Earlier notifications come first: the last stop before the new version counts.
        if isinstance(message, notification.State):
            if message.status.state is ContainerState.STOPPING:
                times["stopped"] = time.monotonic()
        elif isinstance(message, notification.Started) and str(message.container) == new:
            times["executed"] = time.monotonic()

    new = package.name.removesuffix(".npk").replace("-", ":", 1)
    client.update(package, "mem", watch=watch)
    return (times["executed"] - times["stopped"]) * 1e3


def stop_and_start(client: blocking.Client) -> float:
    """Stop the app and start it; return the ms."""
    begun = time.monotonic()
    client.stop("app")
    client.start("app")
    return (time.monotonic() - begun) * 1e3


def main() -> None:
    """Run the measurement."""
    if os.geteuid() != 0:
        raise SystemExit("error: run this as root")
    print(f"Python {platform.python_version()}, Linux {platform.release()}", file=sys.stdout)
    directory = Path(tempfile.mkdtemp())
    found = packages(directory)
    runtime = RuntimeProcess(directory, console=UNLIMITED, permissions='["full", "update"]').start()
    seen: dict[str, list[float]] = {"update: stop to execution": [], "stop and start": []}
    try:
        with connect(runtime, subscribe=True) as client:
            client.install(found[0], "mem")
            client.start("app")
            for package in found[1:]:
                seen["stop and start"].append(stop_and_start(client))
                seen["update: stop to execution"].append(switch(client, package))
    finally:
        runtime.close()
        shutil.rmtree(directory)
    for what, values in seen.items():
        times(what, [value / 1e3 for value in values])
    first, second = (statistics.median(values) for values in seen.values())
    row("ratio of the medians", f"{first / second:8.2f}")


if __name__ == "__main__":
    main()
