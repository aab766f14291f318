"""Failing disks and directories: huge, read-only, vanished, or with I/O errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.api import error, response
from northstar.npk import archive
from tests.system import host
from tests.system.containers import OK, exit_of, refused
from tests.system.harness import NO_KEY, TIMEOUT, RuntimeProcess, manifest, pack, wait_until
from tests.unit.linux.test_removal import deepen

MAY_SKIP = ("this kernel has no FUSE",)

pytestmark = pytest.mark.root

APP = "app:1.0.0"


@pytest.fixture
def make(make_runtime: Callable[..., Any], store: Path) -> Callable[..., RuntimeProcess]:
    """Make a runtime with the repositories `fs`, in `store`, and `mem`."""

    def fs(**options: Any) -> RuntimeProcess:
        # A huge image cannot be packed, so it is not signed.
        table = f'type = {{ fs = {{ dir = "{store}" }} }}\n{NO_KEY}'
        runtime: RuntimeProcess = make_runtime(
            repositories={"fs": table, "mem": 'type = "mem"'}, **options
        )
        return runtime

    return fs


@pytest.fixture
def package(tmp_path: Path, payload: Path) -> Path:
    """A package with persistent data and a socket."""
    sockets = {"a": {"type": "stream", "mode": 0o600}}
    mounts = {"/data": {"type": "persist"}}
    text = manifest("app", args=["exit", "0"], sockets=sockets, mounts=mounts)
    return pack(tmp_path, text, {"payload": payload})


def giant(path: Path, size: int) -> None:
    """Make a package with a sparse image of `size` bytes."""
    text = manifest("giant").encode()
    with path.open("wb") as file:
        entry = put(file, archive.MANIFEST_NAME, len(text), text)
        image = put(file, archive.FS_IMG_NAME, size, b"hsqs")
        file.seek(image.end)
        file.write(archive.trailer([entry, image], b"version: 0.9.2\n"))


def put(file: Any, name: str, size: int, data: bytes) -> archive.Entry:
    header = file.tell()
    offset = header + archive.header_size(name)
    extra = b""
    if name == archive.FS_IMG_NAME:
        aligned = -(-(offset + archive.PADDING_MIN) // archive.ALIGNMENT) * archive.ALIGNMENT
        extra, offset = archive.padding(offset, aligned), aligned
    crc = zlib.crc32(data) if len(data) == size else 0
    file.write(archive.local_header(name, crc, size, extra) + data)
    return archive.Entry(name, 0, crc, size, header, offset)


def test_huge_files_cost_nothing(make: Any, store: Path, package: Path) -> None:
    shutil.copy(package, store / "app.npk")
    runtime = make()
    usual = cost(runtime)
    runtime.stop()
    (store / "junk").touch()
    os.truncate(store / "junk", 2**40)
    shutil.copy(package, store / "cut.npk")
    os.truncate(store / "cut.npk", 3 * 2**30)
    giant(store / "giant.npk", 4 * 2**30 - 2**20)
    runtime = make()
    memory, read = cost(runtime)
    assert memory - usual[0] < 8 * 2**20
    assert read - usual[1] < 2**20
    for name, why in (("junk", "larger than 4 GiB"), ("cut.npk", "not a package")):
        runtime.wait_log(rf"WARN\w* .*Cannot load {store}/{name}, leaving it alone: .*{why}")
    with runtime.client(subscribe=True) as client:
        assert [str(container) for container in client.list()] == [APP, "giant:1.0.0"]
        (result,) = client.mount("giant:1.0.0")
        assert isinstance(result, response.Failed)
        assert "cannot mount giant:1.0.0" in str(result.error)
        client.start(APP)
        assert exit_of(client, APP) == OK
        client.uninstall("giant:1.0.0")
    assert not (store / "giant.npk").exists()
    runtime.stop()


def cost(runtime: RuntimeProcess) -> tuple[int, int]:
    """Return the peak memory of the runtime, and the bytes that it has read."""
    status = Path(f"/proc/{runtime.pid}/status").read_text()
    memory = re.findall(r"VmHWM:\s+(\d+) kB", status)[0]
    read = re.findall(r"rchar: (\d+)", Path(f"/proc/{runtime.pid}/io").read_text())[0]
    return 1024 * int(memory), int(read)


def test_a_loop_device_that_was_never_set_up(make: Any, store: Path, package: Path) -> None:
    """Before Linux 5.8 a runtime can be killed between the two steps of the setup."""
    shutil.copy(package, store / "app.npk")
    listed = ["losetup", "--noheadings", "--output", "NAME", "--associated", str(store / "app.npk")]
    device = subprocess.run(
        ["losetup", "--find", "--show", str(store / "app.npk")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    try:
        runtime = make()
        runtime.wait_log(rf"Removed what an earlier run left: 1 loop device \({device}\)")
        assert subprocess.run(listed, capture_output=True, check=True).stdout == b""
        runtime.stop()
    finally:
        subprocess.run(["losetup", "--detach", device], check=False, stderr=subprocess.DEVNULL)


def test_a_read_only_repository(make: Any, store: Path, package: Path) -> None:
    shutil.copy(package, store / "app.npk")
    half = store / ".northstar-install:0123456789abcdef"
    half.write_bytes(b"half a package")
    subprocess.run(["mount", "--bind", "-o", "ro", str(store), str(store)], check=True)
    try:
        runtime = make()
        runtime.wait_log("WARN .*Cannot remove it, leaving it alone: .*Read-only file system")
        with runtime.client(subscribe=True) as client:
            assert [str(container) for container in client.list()] == [APP]
            client.start(APP)
            assert exit_of(client, APP) == OK
            for act in (lambda: client.uninstall(APP), lambda: client.install(package, "fs")):
                answer = refused(act)
                if not isinstance(answer, error.InstallDuplicate):
                    assert "read-only" in str(answer).lower()
            # It is still installed, and works.
            client.start(APP)
            assert exit_of(client, APP) == OK
        assert "Traceback" not in runtime.text()
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)
    runtime.stop()
    assert sorted(os.listdir(store)) == [half.name, "app.npk"]


@pytest.fixture
def deep(make: Any) -> Iterator[RuntimeProcess]:
    """A runtime; if the test fails, another program removes its data."""
    runtime: RuntimeProcess = make()
    yield runtime
    subprocess.run(["rm", "-rf", runtime.data_dir], check=True)


def test_data_of_any_depth_is_wiped(deep: RuntimeProcess, package: Path) -> None:
    """Both the request, and the start after a killed runtime, wipe it."""
    with deep.client(subscribe=True) as client:
        client.install(package, "fs")
        client.start(APP)
        assert exit_of(client, APP) == OK
        deepen(deep.data_dir / "app", 3000)
        client.uninstall(APP, wipe=True)
    assert os.listdir(deep.data_dir) == []
    deep.stop()
    doomed = deep.data_dir / ".northstar-wipe:0123456789abcdef"
    doomed.mkdir()
    deepen(doomed, 3000)
    deep.start()
    wait_until(lambda: os.listdir(deep.data_dir) == [], "it is wiped")
    deep.wait_log("WARN .*Removed what an earlier run left: 1 unfinished wipe$")
    assert "Traceback" not in deep.text()
    deep.stop()


def test_data_that_takes_long_to_wipe_delays_nothing(
    deep: RuntimeProcess, package: Path, tmp_path: Path
) -> None:
    """It delays neither boot nor shutdown; each start continues the data wipe."""
    deep.stop()
    doomed = deep.data_dir / ".northstar-wipe:0123456789abcdef"
    for directory in range(4):
        (tmp_path / str(directory)).touch()
        (doomed / str(directory)).mkdir(parents=True)
        for number in range(30_000):
            os.link(tmp_path / str(directory), doomed / str(directory) / str(number))
    since = len(deep.text())
    deep.start()
    assert "unfinished wipe" not in deep.text()[since:]
    with deep.client(subscribe=True) as client:
        client.install(package, "mem")
        client.start(APP)
        assert exit_of(client, APP) == OK
    deep.stop()
    left = sum(len(names) for _, _, names in os.walk(deep.data_dir))
    if left:  # else the wipe ended while a container started and exited
        deep.wait_log("Data that was being wiped is left to the next start")
    deep.start()
    wait_until(lambda: os.listdir(deep.data_dir) == ["app"], "it is wiped", 4 * TIMEOUT)
    assert "Traceback" not in deep.text()
    deep.stop()


def test_data_that_cannot_be_wiped_is_a_warning(deep: RuntimeProcess) -> None:
    deep.stop()
    (deep.data_dir / ".northstar-wipe:0123456789abcdef").touch()
    deep.start()
    deep.wait_log("WARN .*Cannot remove data that was being wiped: .*Not a directory")
    deep.stop()


def test_directories_that_vanish(make: Any, store: Path, package: Path) -> None:
    """Each operation that needs one is refused; it works again when the directory is back."""
    runtime = make()
    needs: dict[Path, Callable[[Any], None]] = {
        store: lambda client: client.install(package, "fs"),
        runtime.run_dir: lambda client: client.start(APP),
        runtime.data_dir: lambda client: client.start(APP),
        runtime.socket_dir: lambda client: client.start(APP),
    }
    with runtime.client(subscribe=True) as client:
        for path, act in needs.items():
            if path != store and APP not in map(str, client.list()):
                client.install(package, "mem")
            before = runtime.snapshot()
            path.rename(f"{path}.gone")
            answer = refused(lambda: act(client))  # noqa: B023
            assert re.search("No such file or directory|is not there any more", str(answer))
            assert str(path) in str(answer)
            Path(f"{path}.gone").rename(path)
            if APP in map(str, client.list()) and client.inspect(APP).mounted:
                client.umount(APP)
            shutil.rmtree(runtime.data_dir / "app", ignore_errors=True)
            runtime.assert_no_leak(before)
        client.start(APP)
        assert exit_of(client, APP) == OK
        client.uninstall(APP)
        client.install(package, "fs")
    assert "Traceback" not in runtime.text()
    runtime.stop()


def test_errors_of_a_disk_are_reported(make: Any, store: Path, tmp_path: Path) -> None:
    """In a FUSE file system whose server has ended each access fails with ENOTCONN."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip(MAY_SKIP[0])
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    mount = (
        "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True); "
        "sys.exit(libc.mount(b'dead', sys.argv[1].encode(), b'fuse', 0, sys.argv[2].encode()))"
    )
    command = ["python3", "-Ic", mount, str(store), options]
    try:
        subprocess.run(command, pass_fds=[device], check=True)
    finally:
        os.close(device)
    try:
        runtime = make(start=False)
        runtime.start(wait=False)
        assert runtime.process is not None
        assert runtime.process.wait(15) == 1
        said = runtime.text()
        assert (
            f"error: repositories.fs: the directory {store} cannot be read: "
            "Transport endpoint is not connected\nhint: repair or mount its file system" in said
        )
        assert "Traceback" not in said
    finally:
        subprocess.run(["umount", str(store)], check=True)
    runtime._forget()
    runtime.assert_nothing_left()
    assert host.files(tmp_path / "store") == []
