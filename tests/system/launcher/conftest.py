"""Fixtures of the launcher's tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.system import filters
from tests.system.filters import Thread
from tests.system.launcher.driver import (
    Image,
    Launch,
    Operation,
    children,
    encode,
    memfd,
    operations,
)

ROOT = Path(__file__).parents[3]
BUILD = ROOT / "launcher" / "build.py"
PROGRAM = ROOT / "src" / "northstar" / "launch" / "init"

SANITIZE = os.environ.get("NORTHSTAR_TEST_SANITIZE") == "1"
"""All tests use the launcher with the sanitizers, but those that use `not_sanitized`."""

# Looking for leaks needs ptrace(2) on what asks not to be traced.
os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=0")


def build(output: Path, *options: str) -> None:
    subprocess.run([sys.executable, str(BUILD), "--output", str(output), *options], check=True)


def program_descriptor(path: Path) -> int:
    # High: a file action onto its own number would hide the program, see posix_spawn(3).
    low = memfd(path.read_bytes())
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 100)
    finally:
        os.close(low)


@pytest.fixture
def not_sanitized() -> None:
    """For tests that the sanitizers' own memory, libraries and system calls would fail."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With the sanitizers, leave out what uses `not_sanitized`."""
    if not SANITIZE:
        return
    out = [item for item in items if "not_sanitized" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def program_path(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The launcher, from the source as it stands: the package's if it is, else built."""
    if SANITIZE:
        sanitized: Path = request.getfixturevalue("sanitized_path")
        return sanitized
    sources = BUILD.parent.iterdir()
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > max(s.stat().st_mtime for s in sources):
        return PROGRAM
    path = tmp_path_factory.mktemp("launcher") / "init"
    build(path)
    return path


@pytest.fixture(scope="session")
def program(program_path: Path) -> Iterator[int]:
    """The launcher in a sealed memfd."""
    descriptor = program_descriptor(program_path)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(scope="session")
def sanitized_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher with the address and undefined behaviour sanitizers."""
    path = tmp_path_factory.mktemp("launcher-sanitized") / "init"
    build(path, "--sanitize")
    return path


@pytest.fixture(scope="session")
def sanitized(sanitized_path: Path) -> Iterator[int]:
    """The same in a sealed memfd."""
    descriptor = program_descriptor(sanitized_path)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> Image:
    """A root directory that the tests of a session share; they only add to it."""
    directory = tmp_path_factory.mktemp("image")
    # pytest makes its directories for the user alone; the containers' users must get in.
    for parent in directory.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o711)
    return Image(directory / "root", payload)


@pytest.fixture(scope="session")
def older_kernel() -> Iterator[Thread]:
    """What spawns launchers as on a kernel that lacks all that there is a substitute for."""
    thread = Thread(filters.older_kernel())
    yield thread
    thread.close()


class Launcher:
    """Launches `/payload` with commands; keywords as `operations` has them."""

    def __init__(self, program: int, image: Image) -> None:
        self.program = program
        self.image = image
        self.launches: list[Launch] = []

    def operations(self, *commands: str, **options: Any) -> list[Operation]:
        return operations(self.image, *commands, **options)

    def __call__(
        self,
        *commands: str,
        plan: list[Operation] | None = None,
        extra: Sequence[int] = (),
        thread: Thread | None = None,
        **options: Any,
    ) -> Launch:
        if plan is None:
            plan = self.operations(*commands, **options)
        self.launches.append(Launch(self.program, encode(plan), extra, thread))
        return self.launches[-1]


@pytest.fixture
def launch(program: int, image: Image) -> Iterator[Launcher]:
    """What launches; whatever still runs after the test is ended, and nothing may be left."""
    launcher = Launcher(program, image)
    before = set(os.listdir("/proc/self/fd"))
    children_before = children()
    yield launcher
    for launched in launcher.launches:
        launched.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert children() == children_before, "a launch left processes"


@pytest.fixture
def v2_cgroup() -> Iterator[Path]:
    """A new cgroup in the unified hierarchy."""
    for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (root / "cgroup.procs").exists() and (root / "cgroup.controllers").exists():
            directory = root / f"northstar-test-launcher-{os.getpid()}"
            directory.mkdir()
            yield directory
            directory.rmdir()
            return
    pytest.fail("no unified cgroup hierarchy is mounted")
