"""A repository on a disk that does not answer: a frozen file system, where every write waits.

fsfreeze(8) blocks writers in an uninterruptible wait, as an unresponsive device does.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.api import error, response
from northstar.client import blocking
from northstar.linux import flock
from northstar.model import NorthstarError
from tests.system import host
from tests.system.containers import exit_of, install, refused
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, manifest, pack, wait_until

NO_DEVICE_MAPPER = "this kernel has no device-mapper"

MAY_SKIP = (NO_DEVICE_MAPPER,)

pytestmark = pytest.mark.root

INSTALLS = 6
"""More than the runtime's threads for one repository, and for all of them."""

DATA = {"/data": {"type": "persist"}}


class Disk:
    """An ext4 file system in a file, mounted on `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Callable[[], None]]:
        """Freeze it; yield a function that thaws it, which is called at the end at the latest."""
        subprocess.run(["fsfreeze", "--freeze", str(self.path)], check=True)
        frozen = True

        def thaw() -> None:
            nonlocal frozen
            if frozen:
                subprocess.run(["fsfreeze", "--unfreeze", str(self.path)], check=True)
                frozen = False

        try:
            yield thaw
        finally:
            thaw()


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """A small disk outside of the runtime's directories."""
    image = tmp_path_factory.mktemp("disk") / "image"
    path = tmp_path_factory.mktemp("mounted")
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True)
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)
        image.unlink()


@pytest.fixture
def make(disk: Disk, make_runtime: Callable[..., Any]) -> Callable[..., RuntimeProcess]:
    """Make a runtime with the repositories `fs`, on the disk, and `mem`."""

    def fs(**options: Any) -> RuntimeProcess:
        repositories = {"fs": f'type = {{ fs = {{ dir = "{disk.path}" }} }}', "mem": 'type = "mem"'}
        runtime: RuntimeProcess = make_runtime(repositories=repositories, **options)
        return runtime

    return fs


class Requests:
    """Requests that wait, each from a separate client."""

    def __init__(self, runtime: RuntimeProcess) -> None:
        self._runtime = runtime
        self._threads: list[threading.Thread] = []
        self.refusals: list[BaseException] = []

    def make(self, request: Callable[[blocking.Client], object]) -> None:
        def work() -> None:
            try:
                with self._runtime.client() as client:
                    request(client)
            except (NorthstarError, OSError) as failure:
                self.refusals.append(failure)

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    @property
    def waiting(self) -> int:
        """Number of requests without an answer."""
        return sum(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT)
        assert self.waiting == 0


def held(runtime: RuntimeProcess) -> int:
    """Return the number of the runtime's threads in an uninterruptible wait."""
    states = []
    for path in Path(f"/proc/{runtime.pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(path.read_text().rpartition(") ")[2][0])
    return states.count("D")


def life(client: blocking.Client, container: str) -> None:
    """Run every operation on a container."""
    assert done(client.mount(container))
    client.start(container)
    assert client.inspect(container).process is not None
    client.kill(container, 9)
    exit_of(client, container)
    client.list()
    assert client.inspect(container).mounted
    assert done(client.umount(container))


def is_free(path: Path) -> bool:
    """Return whether no process has locked a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return flock.try_lock(descriptor)
    finally:
        os.close(descriptor)


def done(results: tuple[response.Ok | response.Failed, ...]) -> bool:
    return not any(isinstance(result, response.Failed) for result in results)


def install_into_fs(package: Path, client: blocking.Client) -> None:
    client.install(package, "fs")


def took(client: blocking.Client, container: str) -> float:
    """Return the median duration in seconds."""
    seen = []
    for _ in range(7):
        begun = time.monotonic()
        life(client, container)
        seen.append(time.monotonic() - begun)
    return statistics.median(seen)


def test_a_stalled_disk_delays_only_its_repository(
    make: Any, disk: Disk, payload: Path, tmp_path: Path
) -> None:
    runtime = make()
    other = install(runtime, payload, "other", args="pause", mounts=DATA)
    running = install(runtime, payload, "running", args="pause", repository="fs")
    idle = install(runtime, payload, "idle", args="pause", repository="fs")
    going = install(runtime, payload, "going", args="pause", repository="fs")
    names = ["going", *(f"new{number}" for number in range(INSTALLS))]
    packages = [pack(tmp_path, manifest(name), {"payload": payload}) for name in names]
    requests = Requests(runtime)
    with runtime.client(subscribe=True) as client:
        usual = took(client, other)
        before = runtime.snapshot()
        client.start(running)
        with disk.frozen() as thaw:
            requests.make(lambda client: client.uninstall(going))
            for package in packages[1:]:
                requests.make(functools.partial(install_into_fs, package))
            wait_until(lambda: held(runtime) >= 2, "the disk holds threads")
            assert took(client, other) < 5 * usual + 0.5 * PATIENCE
            # Also from this disk, which can still be read.
            life(client, idle)
            client.kill(running, 9)
            exit_of(client, running)
            assert done(client.umount(running))
            assert requests.waiting == 1 + INSTALLS
            thaw()
            requests.join()
        assert requests.refusals == []
        stored = {"other", "running", "idle", *names[1:]}
        assert {str(container.name) for container in client.list()} == stored
        for name in names[1:]:
            client.uninstall(f"{name}:1.0.0")
        client.install(packages[0], "fs")
        runtime.assert_no_leak(before)
    assert "Traceback" not in runtime.text()
    runtime.stop()


def test_a_start_waits_for_a_wipe_that_waits(
    make: Any, disk: Disk, payload: Path, tmp_path: Path
) -> None:
    """The container gets a new directory, not the one that is being removed."""
    runtime = make()
    words = "write /data/file new ; list /data ; pause"
    old = install(runtime, payload, version="1.0.0", mounts=DATA, args=words)
    new = install(runtime, payload, version="2.0.0", mounts=DATA, repository="fs")
    data = runtime.data_dir / "app"
    data.mkdir()
    (data / "left").write_text("old")
    requests = Requests(runtime)
    with runtime.client(subscribe=True) as client:
        with disk.frozen() as thaw:
            requests.make(lambda client: client.uninstall(new, wipe=True))
            wait_until(lambda: held(runtime) >= 1, "the uninstall waits")
            requests.make(lambda client: client.start(old))
            # Before it is removed, it is still listed.
            package = pack(tmp_path, manifest("app", "2.0.0"), {"payload": payload})
            answer = refused(lambda: client.install(package, "mem"))
            assert isinstance(answer, error.InstallDuplicate)
            assert requests.waiting == 2
            assert client.inspect(old).process is None
            assert (data / "left").exists()
            thaw()
            requests.join()
        assert requests.refusals == []
        wait_until(lambda: (data / "file").exists(), "it has written its file")
        assert os.listdir(data) == ["file"]
        assert os.listdir(runtime.data_dir) == ["app"]
        client.install(package, "mem")
        client.kill(old, 9)
        exit_of(client, old)
    assert "Traceback" not in runtime.text()
    runtime.stop()


@pytest.mark.parametrize(
    "work", ["install", pytest.param("uninstall", marks=pytest.mark.long)], ids=str
)
def test_the_shutdown_ends_in_time(
    make: Any, disk: Disk, payload: Path, tmp_path: Path, work: str
) -> None:
    """It waits for an uninstall that has begun, not for an install that has not."""
    runtime = make(top='shutdown_timeout = "100ms"')
    other = install(runtime, payload, "other", args="ignore TERM ; pause")
    stored = install(runtime, payload, "stored", args="pause", repository="fs")
    package = pack(tmp_path, manifest("new"), {"payload": payload})
    requests = Requests(runtime)
    assert runtime.process is not None
    with runtime.client() as client:
        client.start(other)
        assert done(client.mount(stored))
    with disk.frozen() as thaw:
        for _ in range(INSTALLS):
            if work == "uninstall":
                requests.make(lambda client: client.uninstall(stored))
            else:
                requests.make(functools.partial(install_into_fs, package))
        wait_until(lambda: held(runtime) >= 1, "the disk holds threads")
        runtime.process.send_signal(signal.SIGTERM)
        # The process consists of its main thread, a zombie, and the blocked threads.
        bound = {"install": 6.0, "uninstall": 22.0}[work] * PATIENCE
        wait_until(lambda: host.state(runtime.pid) == "Z", "the main thread has ended", bound)
        text = runtime.text()
        assert "Container other:1.0.0 exited with status Signalled(SIGKILL)" in text
        assert "Umounted other:1.0.0" in text
        assert "Umounted stored:1.0.0" in text
        assert "ERROR" in text
        assert "The threads for the packages of the repository fs cannot be ended" in text
        last = text.splitlines()[-2:]
        assert last[0] == (
            "error: the kernel holds threads of the runtime that wait for the packages of the "
            "repository fs"
        )
        assert last[1].startswith("hint: look at that file system and its device")
        assert "Traceback" not in text
        requests.join()
        # The other directories are free. The blocked threads may still write to the repository, so
        # it stays locked for the next runtime.
        for path in (runtime.run_dir, runtime.data_dir, runtime.socket_dir):
            assert is_free(path)
        (home := tmp_path / "next").mkdir()
        following = make(start=False, directory=home)
        following.start(wait=False)
        following.wait_exit(code=1)
        assert (
            f"error: another runtime (pid {runtime.pid}) uses the dir of repositories.fs"
            in following.text()
        )
        thaw()
        runtime.wait_exit(code=1)
    # Only whole packages, and no directory is locked.
    runtime.start()
    with runtime.client() as client:
        names = {str(container.name) for container in client.list()}
        assert names in ({"stored"}, set()) if work == "uninstall" else names == {"stored"}
        client.install(package, "fs")
    runtime.stop()
    assert not [name for name in os.listdir(disk.path) if name.startswith(".northstar")]


@pytest.fixture
def suspended(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A disk whose device can `suspend` and `resume`: when suspended, reads wait as well."""
    if "device-mapper" not in Path("/proc/misc").read_text():
        pytest.skip(NO_DEVICE_MAPPER)
    image = tmp_path_factory.mktemp("device") / "image"
    path = tmp_path_factory.mktemp("suspended")
    name = f"northstar-test-{os.getpid()}"
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    command = ["losetup", "--find", "--show", str(image)]
    loop = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def dmsetup(*arguments: str) -> None:
        # Without udev dmsetup creates the node.
        environment = {**os.environ, "DM_DISABLE_UDEV": "1"}
        subprocess.run(["dmsetup", *arguments], check=True, env=environment)

    def tell(what: str) -> None:
        # No access to the file system first.
        dmsetup(what, name, *(["--noflush", "--nolockfs"] if what == "suspend" else []))

    try:
        dmsetup("create", name, "--table", f"0 {32 * 2**11} linear {loop} 0")
        try:
            subprocess.run(["mount", f"/dev/mapper/{name}", str(path)], check=True)
            try:
                yield path, tell
            finally:
                tell("resume")
                subprocess.run(["umount", str(path)], check=True)
        finally:
            dmsetup("remove", "--retry", name)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.mark.vm
def test_mounts_from_a_suspended_device_delay_no_others(
    suspended: tuple[Path, Callable[[str], None]], make_runtime: Any, payload: Path
) -> None:
    store, tell = suspended
    runtime = make_runtime(
        repositories={"fs": f'type = {{ fs = {{ dir = "{store}" }} }}', "mem": 'type = "mem"'}
    )
    other = install(runtime, payload, "other", args="pause")
    stored = [
        install(runtime, payload, f"stored{number}", args="pause", repository="fs")
        for number in range(INSTALLS)
    ]
    requests = Requests(runtime)
    with runtime.client(subscribe=True) as client:
        usual = took(client, other)
        before = runtime.snapshot()
        os.sync()
        tell("suspend")
        try:
            # Without its pages in memory the image is read from the disk.
            Path("/proc/sys/vm/drop_caches").write_text("3")
            for container in stored:
                requests.make(functools.partial(mount_one, container))
            wait_until(lambda: held(runtime) >= 2, "the device holds threads")
            assert took(client, other) < 5 * usual + 0.5 * PATIENCE
            assert not client.inspect(stored[0]).mounted
            assert requests.waiting == INSTALLS
        finally:
            tell("resume")
        requests.join()
        assert requests.refusals == []
        for container in stored:
            assert client.inspect(container).mounted
            assert done(client.umount(container))
        runtime.assert_no_leak(before)
    runtime.stop()


def mount_one(container: str, client: blocking.Client) -> None:
    assert done(client.mount(container))
