"""All versions of a container share its data: no data wipe while one of them uses it."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from northstar import api
from northstar.api import error
from northstar.model import NorthstarError
from tests.system import host
from tests.system.containers import OK, exit_of, install, refused, run, wait_ready
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until
from tests.system.hung import hang, waits_for_fuse

NO_FUSE = "this kernel has no FUSE"

MAY_SKIP = (NO_FUSE,)

pytestmark = pytest.mark.root

DATA = {"/data": {"type": "persist"}}


@pytest.fixture
def versions(runtime: RuntimeProcess, payload: Path) -> list[str]:
    """Two versions of an app; the older one pauses when it is started."""
    return [
        install(runtime, payload, version=version, mounts=DATA, args=words)
        for version, words in (("1.0.0", "write /data/file kept ; ready ; pause"), ("2.0.0", ""))
    ]


def test_no_wipe_while_another_version_runs(runtime: RuntimeProcess, versions: list[str]) -> None:
    old, new = versions
    file = runtime.data_dir / "app" / "file"
    with runtime.client(subscribe=True) as client:
        client.mount(new)
        client.start(old)
        wait_ready(runtime, old)
        before = runtime.snapshot()
        answer = refused(lambda: client.uninstall(new, wipe=True))
        assert isinstance(answer, error.UmountBusy)
        assert str(answer.container) == old
        # Nothing was changed.
        assert file.read_text() == "kept"
        assert client.inspect(new).mounted
        runtime.assert_no_leak(before)
        # Without a data wipe it is uninstalled.
        client.uninstall(new)
        assert file.read_text() == "kept"
        client.kill(old, 9)
        exit_of(client, old)
        client.uninstall(old, wipe=True)
        assert os.listdir(runtime.data_dir) == []


def test_no_wipe_while_another_version_starts(
    runtime: RuntimeProcess, payload: Path, tmp_path: Path
) -> None:
    if not os.path.exists("/dev/fuse"):
        pytest.skip(NO_FUSE)
    source = tmp_path / "hung"
    bind = {"/bind": {"type": "bind", "host": f"{source}/directory", "options": ""}}
    old = install(runtime, payload, version="1.0.0", mounts={**DATA, **bind}, args="pause")
    new = install(runtime, payload, version="2.0.0", mounts=DATA)
    device = hang(runtime, source)

    def start() -> None:
        with runtime.client() as client, contextlib.suppress(NorthstarError, OSError):
            client.start(old)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        wait_until(
            lambda: any(map(waits_for_fuse, host.descendants(runtime.pid))), "the start hangs"
        )
        with runtime.client() as client:
            answer = refused(lambda: client.uninstall(new, wipe=True))
        assert isinstance(answer, error.UmountBusy)
        assert str(answer.container) == old
        assert (runtime.data_dir / "app").is_dir()
    finally:
        os.close(device)
        thread.join()
    with runtime.client() as client:
        if client.inspect(old).process is not None:
            client.kill(old, 9)
        wait_until(lambda: client.inspect(old).process is None, "it has exited")
        client.uninstall(new, wipe=True)
    assert not (runtime.data_dir / "app").exists()


def test_starts_and_wipes_at_the_same_time(
    runtime: RuntimeProcess, payload: Path, tmp_path: Path
) -> None:
    """A running container keeps its data directory, in any overlap of starts and wipes."""
    old = install(
        runtime, payload, mounts=DATA, args="write /data/file kept ; read /data/file ; exit 0"
    )
    package = pack(tmp_path, manifest("app", "2.0.0", mounts=DATA), {"payload": payload})
    stop = threading.Event()
    failures: list[BaseException] = []

    def wipe() -> None:
        with runtime.client() as client:
            while not stop.is_set():
                client.install(package, "mem")
                while True:
                    try:
                        client.uninstall("app:2.0.0", wipe=True)
                        break
                    except api.RefusedError as refusal:
                        if not isinstance(refusal.error, error.UmountBusy):
                            failures.append(refusal)
                            return

    thread = threading.Thread(target=wipe)
    thread.start()
    try:
        for _ in range(30):
            said = run(runtime, old)
            assert said.status == OK
            assert said.of("read", "/data/file")["text"] == "kept"
    finally:
        stop.set()
        thread.join()
    assert failures == []
