"""Two runtimes in the same place: the start of the second fails, and names the pid of the first."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.containers import install
from tests.system.harness import RuntimeProcess, manifest, pack

pytestmark = pytest.mark.root

Make = Callable[[str], RuntimeProcess]


@pytest.fixture
def make(make_runtime: Callable[..., Any], tmp_path: Path) -> Make:
    """Make a runtime of that name, in a separate directory; it does not run yet."""

    def named(name: str) -> RuntimeProcess:
        store = tmp_path / name / "store"
        store.mkdir(parents=True)
        table = f'type = {{ fs = {{ dir = "{store}" }} }}'
        runtime: RuntimeProcess = make_runtime(
            directory=tmp_path / name, repositories={"fs": table}, start=False
        )
        return runtime

    return named


def share(runtime: RuntimeProcess, key: str, other: RuntimeProcess) -> None:
    """Give a runtime the value that another one has for a key of the configuration."""
    line = re.compile(rf'\b{key} = ".*?"')
    (theirs,) = line.findall(other.configuration.read_text())
    text = runtime.configuration.read_text()
    runtime.configuration.write_text(line.sub(lambda _: theirs, text))


def refusal(second: RuntimeProcess) -> tuple[int, str]:
    """Start it, and return the pid and the place in its error."""
    second.start(wait=False)
    second.wait_exit(code=1)
    said = re.search(
        r"^error: another runtime \(pid (\d+)\) uses the (.*)$", second.text(), re.MULTILINE
    )
    assert said is not None, second.text()
    assert "Traceback" not in second.text()
    return int(said[1]), said[2]


@pytest.mark.vm
def test_a_second_runtime_is_refused_for_each_shared_place(make: Make, payload: Path) -> None:
    first, second = make("first"), make("second")
    first.start()
    container = install(first, payload, repository="fs", args="pause")
    own = second.configuration.read_text()
    shared = {
        "run_dir": f"run_dir {first.run_dir}",
        "data_dir": f"data_dir {first.data_dir}",
        "socket_dir": f"socket_dir {first.socket_dir}",
        "dir": f"dir of repositories.fs {first.directory}/store",
        "cgroup": rf"cgroup /sys/fs/cgroup\S*/{first.cgroup}",
    }
    with first.client() as client:
        client.start(container)
        before = first.snapshot()
        for key, what in shared.items():
            second.configuration.write_text(own)
            share(second, key, first)
            pid, named = refusal(second)
            assert pid == first.pid
            assert re.fullmatch(what, named)
            os.unlink(second.log)
        # The first one is not affected.
        assert first.snapshot() == before
        assert client.inspect(container).process is not None
    first.stop()
    # Its lock ended with it.
    second.start()
    second.stop()


def test_read_only_packages_are_shared(make: Make, payload: Path) -> None:
    """On a read-only file system neither runtime installs or removes."""
    first, second = make("first"), make("second")
    share(second, "dir", first)
    store = first.directory / "store"
    package = pack(first.directory, manifest("app", args=["exit", "0"]), {"payload": payload})
    (store / "app.npk").write_bytes(package.read_bytes())
    subprocess.run(["mount", "--bind", "-o", "ro", str(store), str(store)], check=True)
    try:
        first.start()
        second.start()
        for runtime in (first, second):
            with runtime.client() as client:
                assert [str(c) for c in client.list()] == ["app:1.0.0"]
                client.start("app:1.0.0")
        second.stop()
        subprocess.run(["umount", str(store)], check=True)
        first.stop()
    finally:
        subprocess.run(["umount", "-q", str(store)], check=False)


def test_one_directory_may_serve_several_purposes(make_runtime: Any, payload: Path) -> None:
    runtime = make_runtime(start=False)
    text = runtime.configuration.read_text()
    text = text.replace(str(runtime.data_dir), str(runtime.run_dir))
    runtime.configuration.write_text(text.replace(str(runtime.socket_dir), str(runtime.run_dir)))
    runtime.start()
    sockets = {"a": {"type": "stream", "mode": 0o600}}
    persist = {"/data": {"type": "persist"}}
    container = install(runtime, payload, args="exit 0", sockets=sockets, mounts=persist)
    with runtime.client() as client:
        client.start(container)
    runtime.wait_log(f"Container {container} exited")
    shutil.rmtree(runtime.run_dir / "app")  # the data; everything else is removed
    runtime.stop()
