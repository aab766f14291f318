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
"""All tests run on a launcher with the sanitizers, except those with `not_sanitized`."""

OTHER_COMPILER = bool(os.environ.get("CC"))
"""All tests run on a launcher built by the compiler in CC, except those with `default_build`."""

# Leak detection needs ptrace(2), which non-dumpable processes refuse.
os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=0")


def build(output: Path, *options: str) -> None:
    subprocess.run([sys.executable, str(BUILD), "--output", str(output), *options], check=True)


def program_descriptor(path: Path) -> int:
    # A high number: a file action must not replace the program's descriptor, posix_spawn(3).
    low = memfd(path.read_bytes())
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 100)
    finally:
        os.close(low)


@pytest.fixture
def not_sanitized() -> None:
    """Mark tests that fail with the memory, libraries and system calls of the sanitizers."""


@pytest.fixture
def default_build() -> None:
    """Mark tests of the program's size: a build without musl is larger (700 KiB with glibc)."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that do not apply to the launcher under test."""
    left_out = {"default_build"} if SANITIZE or OTHER_COMPILER else set()
    if SANITIZE:
        left_out.add("not_sanitized")
    out = [item for item in items if left_out.intersection(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def program_path(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The launcher of the current sources: the package's if it is up to date, else a new build."""
    if SANITIZE:
        sanitized: Path = request.getfixturevalue("sanitized_path")
        return sanitized
    sources = BUILD.parent.iterdir()
    newest = max(source.stat().st_mtime for source in sources)
    if not OTHER_COMPILER and PROGRAM.exists() and PROGRAM.stat().st_mtime > newest:
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
    """A root directory, shared by the tests of a session; they only add files to it."""
    directory = tmp_path_factory.mktemp("image")
    # pytest creates its directories with mode 0700; the containers' users need access.
    for parent in directory.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o711)
    return Image(directory / "root", payload)


@pytest.fixture(scope="session")
def older_kernel() -> Iterator[Thread]:
    """A thread that spawns launchers as on a kernel that lacks every call with a substitute."""
    thread = Thread(filters.older_kernel())
    yield thread
    thread.close()


class Launcher:
    """Launches `/payload` with commands; keywords as for `driver.operations`."""

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
    """A `Launcher`. After the test its containers are killed; no descriptor or child may remain."""
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
