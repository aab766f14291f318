"""The examples do what their manifests and README describe."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.api.notification import Exit
from northstar.model import Exited
from tests.system.harness import NO_KEY

# It may compile the launcher and all programs, in an emulated machine.
pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parent.name for path in ROOT.glob("examples/*/manifest.yaml"))
PACKAGES = [f"build/examples/{name}.npk" for name in NAMES]

OUTPUT = {
    "hello": ("I am process 2 of user 1000", 0),
    "crash": ("", 42),
    "greeter": ("Bonjour", 0),
    "counter": ("start number 1", 0),
    "status": (r"shutdown: \{'permission_denied': 'shutdown'\}", 0),
}
"""Output and exit code of the examples that exit without a signal."""


@pytest.fixture(scope="module")
def packages() -> list[Path]:
    """All examples, built and packed with make, as a developer does."""
    make = shutil.which("make")
    assert make, "make is missing"
    subprocess.run([make, "-s", *PACKAGES], cwd=ROOT, check=True, capture_output=True)
    return [ROOT / package for package in PACKAGES]


def test_the_examples(make_runtime: Callable[..., Any], packages: list[Path]) -> None:
    runtime = make_runtime(repositories={"mem": f'type = "mem"\n{NO_KEY}'})
    with runtime.client(subscribe=True) as client:
        for package in packages:
            client.install(package, "mem")
        containers = {str(container.name): container for container in client.list()}
        assert sorted(containers) == NAMES
        for name, (words, code) in OUTPUT.items():
            client.start(containers[name])
            status = next(
                event.status
                for event in client.notifications(timeout=10)
                if isinstance(event, Exit) and event.container.name == name
            )
            assert status == Exited(code), f"{name}:\n{runtime.text()}"
            runtime.wait_log(rf"DEBUG {name}:\S+ .*{words}")
        client.start(containers["ticker"])
        runtime.wait_log(r"ticker:1\.0\.0: tick 2")
        client.start(containers["flaky"])
        for seconds in ("0.2", "0.4", "0.8"):
            runtime.wait_log(
                rf"State of flaky:1\.0\.0: backoff \(exit 1\), next start in {seconds}s"
            )
        client.start(containers["watched"])
        for words in ("ready", "unhealthy", "backoff", "ready"):
            runtime.wait_log(rf"State of watched:1\.0\.0: {words}")
    runtime.stop()
