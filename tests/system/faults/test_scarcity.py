"""No free processes, threads or memory: operations fail with a message, and succeed later."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import error
from northstar.model import NorthstarError
from tests.system.containers import exit_of, install
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until
from tests.system.host import Snapshot

PIDS = Path("/sys/fs/cgroup/pids")
NONE = "this machine has no pids controller of cgroup version 1"

MAY_SKIP = (NONE,)
MAY_SKIP_IN_VM = (NONE,)

pytestmark = pytest.mark.root


@pytest.fixture
def allow(runtime: RuntimeProcess) -> Iterator[Callable[[int | None], None]]:
    """Allow runtime and launcher some more processes and threads than they have; with None any."""
    if not (PIDS / "tasks").exists():
        pytest.skip(NONE)
    cgroup = PIDS / f"northstar-test-pids-{os.getpid()}"
    cgroup.mkdir()

    def limit(more: int | None) -> None:
        used = int((cgroup / "pids.current").read_text())
        (cgroup / "pids.max").write_text("max" if more is None else str(used + more))

    own = (runtime.pid, runtime.launcher)

    def move(to: Path) -> None:
        for pid in own:
            (to / "cgroup.procs").write_text(str(pid))

    try:
        move(cgroup)
        yield limit
    finally:
        limit(None)
        move(PIDS)
        cgroup.rmdir()


@pytest.mark.parametrize("probe", [{"exec": ["/payload", "exit", "0"]}, {"connect": "tcp:1"}])
def test_probes_without_processes_and_threads(
    runtime: RuntimeProcess, payload: Path, allow: Any, probe: dict[str, Any]
) -> None:
    """What the runtime lacks is no failure of a container: nothing is ended."""
    health = {"probe": probe, "interval": "1s", "failures": 1}
    app = install(runtime, payload, args="pause", service={"health": health})
    with runtime.client() as client:
        client.start(app)
        allow(0)
        runtime.wait_log("Cannot probe app:1.0.0, .*(Resource temporarily unavailable|no thread)")
        with pytest.raises(AssertionError):
            wait_until(lambda: "unhealthy" in runtime.text(), "a change of state", 2.5)
        assert len(re.findall("Cannot probe", runtime.text())) == 1
        allow(None)
        if "connect" in probe:
            runtime.wait_log(r"Probe of app:1\.0\.0 has failed .*: tcp:1: Connection refused")
        else:
            client.stop(app)


def test_no_more_processes(runtime: RuntimeProcess, payload: Path, allow: Any) -> None:
    container = install(runtime, payload, args="pause")
    package = pack(runtime.directory, manifest("other"), {"payload": payload})
    with runtime.client(subscribe=True) as client:
        before = runtime.snapshot()
        allow(0)
        # Operations without a new process work, also those in threads.
        client.install(package, "mem")
        client.mount("other:1.0.0")
        client.uninstall("other:1.0.0")
        with pytest.raises(api.RefusedError) as caught:
            client.start(container)
        assert isinstance(caught.value.error, error.StartContainerFailed)
        assert "Resource temporarily unavailable" in str(caught.value.error)
        client.umount(container)
        runtime.assert_no_leak(before)
        # The launcher exists already, and init moves to the container's cgroup before it forks.
        allow(1)
        client.start(container)
        client.kill(container, 9)
        exit_of(client, container)
        client.umount(container)
        runtime.assert_no_leak(before)
    assert "Traceback" not in runtime.text()


def test_no_threads_at_the_start(make_runtime: Any) -> None:
    if not (PIDS / "tasks").exists():
        pytest.skip(NONE)
    cgroup = PIDS / f"northstar-test-pids-{os.getpid()}"
    cgroup.mkdir()
    try:
        (cgroup / "pids.max").write_text("3")
        join = f'echo $$ > {cgroup}/cgroup.procs; exec "$@"'
        runtime = make_runtime(start=False, wrap=("/bin/sh", "-c", join, "sh"))
        runtime.start(wait=False)
        runtime.wait_exit(code=1)
        said = runtime.text()
        assert re.search(
            r"^error: the runtime cannot start more than \d+ threads: ", said, re.MULTILINE
        )
        assert "hint: raise the limit of processes" in said
        assert "Traceback" not in said
    finally:
        cgroup.rmdir()


def test_no_more_memory(runtime: RuntimeProcess, payload: Path) -> None:
    """With RLIMIT_AS malloc and mmap fail in any code.

    A client may lose its connection, and the interpreter may leak its descriptor when close fails
    too. Nothing else may stay.
    """
    container = install(runtime, payload, args="pause")
    files: dict[str, Path | bytes | str] = {"payload": payload, "noise": os.urandom(2**20)}
    package = pack(runtime.directory, manifest("other"), files).read_bytes()
    before = runtime.snapshot()
    status = Path(f"/proc/{runtime.pid}/status").read_text()
    (used,) = re.findall(r"^VmSize:\s+(\d+) kB", status, re.MULTILINE)
    unlimited = resource.RLIM_INFINITY
    failed = 0
    for more in range(0, 2**20, 2**18):
        limit = 1024 * int(used) + more
        resource.prlimit(runtime.pid, resource.RLIMIT_AS, (limit, unlimited))
        try:
            for act in ("install", "start"):
                try:
                    with runtime.client() as client:
                        if act == "install":
                            client.install(package, "mem")
                        else:
                            client.start(container)
                except (NorthstarError, OSError):
                    failed += 1
        finally:
            resource.prlimit(runtime.pid, resource.RLIMIT_AS, (unlimited, unlimited))
        put_back(runtime, container)
        wait_until(lambda: holds_the_same(runtime, before), "it holds what it held")
    assert failed > 0
    with runtime.client() as client:
        client.install(package, "mem")
        client.start(container)


def put_back(runtime: RuntimeProcess, container: str) -> None:
    with runtime.client() as client:
        if client.inspect(container).process is not None:
            client.kill(container, 9)
        wait_until(lambda: client.inspect(container).process is None, "it has ended")
        for name in map(str, client.list()):
            if name != container:
                client.uninstall(name)
        if client.inspect(container).mounted:
            client.umount(container)


def holds_the_same(runtime: RuntimeProcess, before: Snapshot) -> bool:
    now = runtime.snapshot()
    return not before.difference(now._replace(descriptors=before.descriptors))
