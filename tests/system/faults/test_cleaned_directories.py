"""Another program cleans the runtime's directories: it removes all that look empty.

Outside of the runtime's mount namespace the mount points look empty.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.api import error, response
from northstar.linux import flock
from tests.system import host
from tests.system.containers import (
    OK,
    PROC,
    exit_of,
    install,
    pid_of,
    run,
    wait_ready,
)
from tests.system.harness import RuntimeProcess, wait_until

pytestmark = pytest.mark.root

GONE = r"WARN\w* .*The mount {} is gone"


def clean(*directories: Path, themselves: bool = False) -> None:
    """Remove the empty directories below these, as a cleaner on a host does."""
    below = [] if themselves else ["-mindepth", "1"]
    paths = [str(path) for path in directories]
    subprocess.run(["find", *paths, *below, "-type", "d", "-empty", "-delete"], check=True)


def refusal(results: tuple[response.Ok | response.Failed, ...]) -> error.Error | None:
    """Return the error of the only mount or unmount, None on success."""
    (result,) = results
    return result.error if isinstance(result, response.Failed) else None


@pytest.fixture
def app(runtime: RuntimeProcess, payload: Path) -> str:
    """A mounted container whose mount point another program has removed."""
    container = install(runtime, payload, args="exit 0")
    with runtime.client() as client:
        assert refusal(client.mount(container)) is None
    clean(runtime.run_dir)
    assert not (runtime.run_dir / container).exists()
    return container


def test_a_start_mounts_the_image_again(runtime: RuntimeProcess, app: str) -> None:
    before = runtime.snapshot()
    assert not [mount for mount in before.mounts if app in mount]
    with runtime.client(subscribe=True) as client:
        assert not client.inspect(app).mounted
        client.start(app)
        assert exit_of(client, app) == OK
        assert client.inspect(app).mounted
        assert refusal(client.umount(app)) is None
    runtime.wait_log(GONE.format(runtime.run_dir / app))
    runtime.assert_no_leak(before)


def test_a_mount_request_mounts_the_image_again(runtime: RuntimeProcess, app: str) -> None:
    before = runtime.snapshot()
    with runtime.client() as client:
        assert refusal(client.mount(app)) is None
        assert client.inspect(app).mounted
        assert refusal(client.umount(app)) is None
    runtime.assert_no_leak(before)


@pytest.mark.parametrize("again", ["nothing", "directory", "content"])
def test_an_unmount_of_a_removed_mount_point_succeeds(
    runtime: RuntimeProcess, app: str, again: str
) -> None:
    """It succeeds whatever exists in its place; a directory with content stays."""
    point = runtime.run_dir / app
    before = runtime.snapshot()
    if again != "nothing":
        point.mkdir()
    if again == "content":
        (point / "file").touch()
    with runtime.client() as client:
        assert refusal(client.umount(app)) is None
        runtime.wait_log(rf"WARN\w* .*The mount {point} was gone already")
        assert not client.inspect(app).mounted
        # It is unmounted, as after each unmount.
        assert isinstance(refusal(client.umount(app)), error.UmountBusy)
        if again == "content":
            runtime.wait_log("Cannot remove a mount point, leaving it alone: .*not empty")
            assert "not empty" in str(refusal(client.mount(app)))
            (point / "file").unlink()
            point.rmdir()
        assert refusal(client.mount(app)) is None
        assert refusal(client.umount(app)) is None
    runtime.assert_no_leak(before)


def test_an_uninstall_of_a_removed_mount_point_succeeds(runtime: RuntimeProcess, app: str) -> None:
    with runtime.client() as client:
        client.uninstall(app)
        assert client.list() == ()
    assert runtime.loops() == []
    assert "Traceback" not in runtime.text()


def test_an_unmount_that_leaves_the_directory_has_unmounted(
    runtime: RuntimeProcess, payload: Path
) -> None:
    """A file below the mount prevents the removal of the mount point."""
    container = install(runtime, payload, args="exit 0")
    point = runtime.run_dir / container
    with runtime.client() as client:
        assert refusal(client.mount(container)) is None
        # In the host's mount namespace this is the directory below the mount.
        (point / "file").touch()
        assert refusal(client.umount(container)) is None
        assert not client.inspect(container).mounted
        runtime.wait_log("Cannot remove a mount point, leaving it alone: .*not empty")
        (point / "file").unlink()
        assert refusal(client.mount(container)) is None
        assert client.inspect(container).mounted


def test_the_shutdown_ignores_removed_mount_points(runtime: RuntimeProcess, app: str) -> None:
    runtime.stop()
    assert "Traceback" not in runtime.text()
    assert app in runtime.text()


def test_a_running_container_keeps_its_image(
    runtime: RuntimeProcess, payload: Path, tmp_path: Path
) -> None:
    root = tmp_path / "resource"
    (root / "dir").mkdir(parents=True)
    (root / "dir/file").write_text("content")
    resource = install(runtime, payload, "resource", init=None, root=root)
    mounts = {
        "/res": {"type": "resource", "name": "resource", "version": "1.0.0", "dir": "/dir"},
        **PROC,
    }
    words = "read /res/file ; ready ; pause"
    first = install(runtime, payload, "first", mounts=mounts, args=words)
    second = install(runtime, payload, "second", mounts=mounts, args=words)
    before = runtime.snapshot()
    with runtime.client(subscribe=True) as client:
        client.start(first)
        wait_ready(runtime, first)
        clean(runtime.run_dir)
        seen = Path(f"/proc/{pid_of(client, first)}/root")
        assert (seen / "res/file").read_text() == "content"
        assert (seen / "payload").exists()
        # It is still in use.
        assert isinstance(refusal(client.umount(resource)), error.UmountBusy)
        assert not client.inspect(resource).mounted
        # Another container gets the same resource, mounted again.
        client.start(second)
        wait_ready(runtime, second)
        assert client.inspect(resource).mounted
        assert (seen / "res/file").read_text() == "content"
        for container in (first, second):
            client.kill(container, 9)
            exit_of(client, container)
        for container in (first, second, resource):
            assert refusal(client.umount(container)) is None
    runtime.assert_no_leak(before)
    assert "Traceback" not in runtime.text()


def test_the_runtimes_directories_are_created_again(
    make_runtime: Callable[..., Any], payload: Path, tmp_path: Path
) -> None:
    runtime = make_runtime()
    own = (runtime.run_dir, runtime.data_dir, runtime.socket_dir)
    sockets = {"a": {"type": "stream", "mode": 0o600}}
    mounts = {"/data": {"type": "persist"}, "/sockets": {"type": "sockets"}}
    words = "write /data/file content ; list /sockets ; exit 0"
    container = install(runtime, payload, args=words, sockets=sockets, mounts=mounts)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in own]
    with runtime.client() as client:
        assert refusal(client.mount(container)) is None
        clean(*own, themselves=True)
        assert not any(path.exists() for path in own)
        assert not client.inspect(container).mounted
    said = run(runtime, container)
    assert said.status == OK
    assert said.of("list", "/sockets")["names"] == [f"{container}:a"]
    assert (runtime.data_dir / "app/file").read_text() == "content"
    assert [stat.S_IMODE(path.stat().st_mode) for path in own] == modes
    # They are locked like the first ones.
    (tmp_path / "other").mkdir()
    other = make_runtime(start=False, directory=tmp_path / "other")
    text = other.configuration.read_text()
    for path in own:
        theirs = f'"{other.directory / path.name}"'
        other.configuration.write_text(text.replace(theirs, f'"{path}"', 1))
        other.start(wait=False)
        other.wait_exit(code=1)
        assert f"another runtime (pid {runtime.pid}) uses the {path.name}_dir" in other.text()
    runtime.stop()
    assert "Traceback" not in runtime.text()


def _is_locked(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return not flock.try_lock(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("which", ["all", "the last hierarchy"])
def test_the_runtime_cgroup_is_created_again(
    make_runtime: Callable[..., Any], payload: Path, tmp_path: Path, which: str
) -> None:
    runtime = make_runtime()
    container = install(runtime, payload, args="pause", cgroups={"memory": {"memory_limit": 2**25}})
    removed = host.cgroups(runtime.cgroup)
    assert removed
    for path in sorted(removed, reverse=True) if which == "all" else removed[-1:]:
        os.rmdir(path)
    with runtime.client(subscribe=True) as client:
        client.start(container)
        statistics = client.inspect(container).process
        assert statistics is not None
        assert "memory" in statistics.statistics
        # The new directories are locked as well.
        assert not [path for path in removed if not _is_locked(path)]
        (tmp_path / "other").mkdir()
        other = make_runtime(start=False, directory=tmp_path / "other")
        text = other.configuration.read_text()
        other.configuration.write_text(text.replace(other.cgroup, runtime.cgroup, 1))
        other.start(wait=False)
        other.wait_exit(code=1)
        assert f"another runtime (pid {runtime.pid}) uses the cgroup" in other.text()
        client.kill(container, signal.SIGKILL)
        exit_of(client, container)
    runtime.stop()
    assert "Traceback" not in runtime.text()


def test_a_container_without_its_cgroup_ends_normally(
    runtime: RuntimeProcess, payload: Path
) -> None:
    """Any program can remove an empty cgroup as soon as its last process has ended."""
    container = install(runtime, payload, args="pause")
    with runtime.client(subscribe=True) as client:
        before = runtime.snapshot()
        for _ in range(10):
            client.start(container)
            paths = host.cgroups(runtime.cgroup, itself=False)
            client.kill(container, 9)
            for path in paths:
                remove(path)
            exit_of(client, container)
        assert refusal(client.umount(container)) is None
        runtime.assert_no_leak(before)
    assert "Traceback" not in runtime.text()
    assert "Cannot clean up" not in runtime.text()


def remove(path: str) -> None:
    def removed() -> bool:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    wait_until(removed, f"{path} is gone")


STEPS = ("mount.mount", "os.mknod", "os.chmod", "os.open", "mount.umount2", "os.rmdir")


@pytest.mark.parametrize("step", STEPS)
def test_the_null_device_without_its_mount_point(tmp_path: Path, step: str) -> None:
    """It exists only briefly, when the runtime starts; here it is removed at each step."""
    program = (
        "import os, stat, sys\n"
        "from northstar.linux import mount, mountinfo\n"
        "from northstar.runtime.null_device import open_null\n"
        "where, name = {'os': os, 'mount': mount}[sys.argv[1]], sys.argv[2]\n"
        "function, before = getattr(where, name), mountinfo.read()\n"
        "def stop(*arguments):\n"
        "    setattr(where, name, function)\n"
        "    print('at the step', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    return function(*arguments)\n"
        "setattr(where, name, stop)\n"
        "null = open_null(sys.argv[3])\n"
        "assert stat.S_ISCHR(os.fstat(null).st_mode)\n"
        "assert mountinfo.read() == before\n"
    )
    arguments = [*step.split("."), str(tmp_path)]
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "slave", sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "at the step\n"
        os.rmdir(tmp_path / "null")
        child.stdin.write("go on\n")
        child.stdin.close()
    assert child.returncode == 0
    assert os.listdir(tmp_path) == []
