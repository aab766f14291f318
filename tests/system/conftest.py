"""Fixtures of the system tests: a runtime, and the static program that runs in its containers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PAYLOAD = Path(__file__).with_name("payload.c")


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static test program (payload.c) that the containers of the tests run."""
    return compile_static(PAYLOAD, tmp_path_factory.mktemp("payload") / "payload")


def compile_static(source: Path, out: Path) -> Path:
    """Compile a C file into a static program at `out`, and return that."""
    compiler = shutil.which("musl-gcc") or "gcc"
    headers = ["/usr/include", "/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu"]
    include = [f"-idirafter{path}" for path in headers if compiler != "gcc"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = [compiler, "-std=gnu11", "-O1", "-static", *warnings, *include]
    subprocess.run([*command, "-o", str(out), str(source)], check=True)
    return out


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty directory for the packages of a repository."""
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def make_runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make runtimes (arguments: see RuntimeProcess), start each, and stop it after the test.

    Runtimes are forked from a process that has imported them, unless the file sets
    `EXECUTED_RUNTIME = True`: for most tests the start of an interpreter would take longer than the
    test. Runtimes shared by a file, and those in tests of the start itself, are executed.
    """
    # Imported here: the tests of the launcher and of the kernel modules need no runtime.
    from tests.system.harness import IN_VM, RuntimeProcess

    forked = IN_VM or not getattr(request.module, "EXECUTED_RUNTIME", False)
    made: list[RuntimeProcess] = []

    def make(
        *, start: bool = True, directory: Path | None = None, **options: Any
    ) -> RuntimeProcess:
        runtime = RuntimeProcess(directory or tmp_path, **{"forked": forked, **options})
        made.append(runtime)
        return runtime.start() if start else runtime

    yield make
    for runtime in made:
        runtime.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One runtime for all tests of a file."""
    from tests.system.containers import shared_runtime

    yield from shared_runtime(tmp_path_factory)


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A running runtime, with a memory repository `mem` and all permissions on the console.

    Each test has a separate one, unless the file sets `SHARED_RUNTIME = True`: then the tests share
    one, which is clean before and after each test.
    """
    if getattr(request.module, "SHARED_RUNTIME", False):
        from tests.system.containers import cleaned

        yield from cleaned(request.getfixturevalue("shared"))
    else:
        yield request.getfixturevalue("make_runtime")()


@pytest.fixture(scope="module")
def shared_exec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One runtime for all tests of a file, which also executes processes in its containers."""
    from tests.system.execs import runtime_with_exec
    from tests.system.harness import wait_until

    runtime = runtime_with_exec(tmp_path_factory.mktemp("runtime"))
    try:
        runtime.start()
        wait_until((runtime.directory / "exec").exists, "the socket of exec_runtime.py")
        yield runtime
        runtime.stop()
    finally:
        runtime.close()


@pytest.fixture
def exec_runtime(shared_exec: Any) -> Iterator[Any]:
    """A runtime that executes processes; shared, and clean before and after each test."""
    from tests.system.containers import cleaned

    yield from cleaned(shared_exec)
