"""Loop devices on the real kernel: in competition, on an old kernel, and without leaks."""

import contextlib
import errno
import fcntl
import functools
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from northstar.devices import loop_device
from northstar.linux import loop, memfd
from tests.system.harness import eventually

pytestmark = pytest.mark.root

BLOCK = 4096


@pytest.fixture
def image() -> Iterator[int]:
    """A sealed memfd of eight blocks, each filled with its number."""
    fd = memfd.create("northstar-loop-test")
    os.write(fd, b"".join(bytes([number]) * BLOCK for number in range(8)))
    memfd.seal(fd)
    yield fd
    os.close(fd)


def is_bound_to(path: str, image: int) -> bool:
    """Return whether the device of a node is bound to `image`, by the inode."""
    # struct loop_info64 begins with device and inode of the backing file.
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        info = fcntl.ioctl(fd, loop.LOOP_GET_STATUS64, bytes(232))
    except OSError:
        return False
    finally:
        os.close(fd)
    status = os.fstat(image)
    inode = struct.unpack_from("=QQ", info)[1]
    return bool(inode == status.st_ino)


def test_the_device_shows_the_part_of_the_file(image: int) -> None:
    with loop_device.attach(image, offset=2 * BLOCK, sizelimit=3 * BLOCK) as device:
        assert device.path == f"/dev/loop{device.number}"
        assert os.lseek(device.fd, 0, os.SEEK_END) == 3 * BLOCK
        assert os.pread(device.fd, BLOCK, 0) == bytes([2]) * BLOCK
        assert os.pread(device.fd, BLOCK, 2 * BLOCK) == bytes([4]) * BLOCK
        assert os.pread(device.fd, BLOCK, 3 * BLOCK) == b""
        assert not os.get_inheritable(device.fd)
        sysfs = Path(f"/sys/block/loop{device.number}")
        assert (sysfs / "ro").read_text() == "1\n"
        assert (sysfs / "loop/autoclear").read_text() == "1\n"
        assert (sysfs / "loop/offset").read_text() == f"{2 * BLOCK}\n"
        assert (sysfs / "loop/sizelimit").read_text() == f"{3 * BLOCK}\n"
        assert os.minor(os.stat(device.path).st_rdev) == device.minor
        # A descriptor that is open for writing cannot write either.
        writer = os.open(device.path, os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                os.write(writer, b"x" * BLOCK)
        finally:
            os.close(writer)


def test_without_limits_it_is_the_whole_file(image: int) -> None:
    with loop_device.attach(image) as device:
        assert os.lseek(device.fd, 0, os.SEEK_END) == 8 * BLOCK


def test_closing_frees_the_device_and_can_be_repeated(image: int) -> None:
    device = loop_device.attach(image)
    assert is_bound_to(device.path, image)
    device.close()
    device.close()
    assert device.fd == -1
    assert eventually(lambda: not is_bound_to(device.path, image))


def test_the_file_may_be_closed_meanwhile() -> None:
    fd = memfd.create("northstar-loop-test")
    os.write(fd, b"x" * BLOCK)
    device = loop_device.attach(fd)
    os.close(fd)
    with device:
        assert os.pread(device.fd, BLOCK, 0) == b"x" * BLOCK


def test_a_directory_or_a_closed_descriptor_is_refused_without_a_leak(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            loop_device.attach(directory, timeout=1)
    finally:
        os.close(directory)
    assert str(caught.value.filename).startswith("/dev/loop")
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop_device.attach(-1, timeout=1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_each_of_many_threads_gets_a_device(image: int) -> None:
    gate = threading.Barrier(8)

    def cycle(number: int) -> set[int]:
        gate.wait()
        seen = set()
        for _ in range(10):
            with loop_device.attach(image, offset=number * BLOCK, sizelimit=BLOCK) as device:
                assert os.pread(device.fd, BLOCK, 0) == bytes([number]) * BLOCK
                seen.add(device.number)
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(cycle, range(8)))


CONTENDER = """
import os, sys
from northstar.devices import loop_device
from northstar.linux import memfd
number = int(sys.argv[1])
fd = memfd.create("northstar-loop-test")
os.write(fd, bytes([number]) * 4096)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(15):
    with loop_device.attach(fd, timeout=30) as device:
        assert os.pread(device.fd, 4096, 0) == bytes([number]) * 4096
"""


def test_each_of_many_processes_gets_a_device() -> None:
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(1, 7)
    ]
    try:
        for contender in contenders:
            assert contender.stdout is not None
            assert contender.stdout.readline() == "ready\n"
        for contender in contenders:
            assert contender.stdin is not None
            contender.stdin.write("go\n")
            contender.stdin.flush()
        for contender in contenders:
            _, errors = contender.communicate(timeout=50)
            assert (contender.returncode, errors) == (0, "")
    finally:
        for contender in contenders:
            contender.kill()
            contender.communicate()


def test_the_timeout_includes_waiting_for_another_thread(image: int) -> None:
    with loop_device._lock:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="no loop device became free") as caught:
            loop_device.attach(image, timeout=0.05)
        assert time.monotonic() - started < 5
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.filename == loop.CONTROL


def test_waiting_for_a_device_can_be_cancelled(image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    give_up = threading.Event()
    tried = threading.Event()

    def busy(number: int, *_: object) -> loop.Device:
        tried.set()
        raise OSError(errno.EBUSY, "busy", f"/dev/loop{number}")

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(loop_device, "_bind", busy)
        # The second one waits for the first one's lock.
        attach = functools.partial(loop_device.attach, image, timeout=60, give_up=give_up)
        futures = [pool.submit(attach) for _ in range(2)]
        assert tried.wait(10)
        begun = time.monotonic()
        give_up.set()
        for future in futures:
            with pytest.raises(OSError, match="no loop device") as caught:
                future.result(timeout=10)
            assert caught.value.errno == errno.ECANCELED
        assert time.monotonic() - begun < 5
    loop_device.attach(image, give_up=give_up).close()  # a device is free at once


# Simulates another kernel: a seccomp filter returns an errno for one ioctl request. struct
# sock_filter is code, jt, jf, k; offsets are those of struct seccomp_data (number at 0, low half of
# the second argument at 24).
WITHOUT_IOCTL = """
import ctypes, struct, sys
request, answer, ioctl = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
program = b"".join(struct.pack("=HBBI", *line) for line in [
    (0x20, 0, 0, 0), (0x15, 0, 3, ioctl),
    (0x20, 0, 0, 24), (0x15, 0, 1, request),
    (0x06, 0, 0, 0x50000 | answer), (0x06, 0, 0, 0x7FFF0000),
])
class sock_fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
filter = sock_fprog(len(program) // 8, program)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.addressof(filter), 0, 0) == 0
"""

ATTACH = """
import os
from northstar.devices import loop_device
from northstar.linux import memfd
fd = memfd.create("northstar-loop-test")
os.write(fd, b"a" * 4096 + b"b" * 4096)
try:
    with loop_device.attach(fd, offset=4096, sizelimit=4096, timeout=float(sys.argv[4])) as device:
        name = f"/sys/block/loop{device.number}/"
        print(os.pread(device.fd, 8192, 0) == b"b" * 4096,
              open(name + "ro").read().strip(), open(name + "loop/autoclear").read().strip())
except OSError as error:
    print(type(error).__name__, error.errno, error.filename)
"""
IOCTL = {"x86_64": 16, "aarch64": 29}


def attach_without(request: int, answer: int, timeout: float = 10) -> list[str]:
    numbers = [request, answer, IOCTL[os.uname().machine], timeout]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_IOCTL + ATTACH, *map(str, numbers)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_kernel_without_loop_configure_binds_in_two_steps() -> None:
    assert attach_without(loop.LOOP_CONFIGURE, errno.EINVAL) == ["True", "1", "1"]


def test_busy_devices_are_tried_until_the_timeout() -> None:
    before = set(os.listdir("/sys/block"))
    outcome = attach_without(loop.LOOP_CONFIGURE, errno.EBUSY, timeout=0.3)
    assert outcome == ["TimeoutError", str(errno.ETIMEDOUT), loop.CONTROL]
    # After a free device stayed busy, new ones were added; the filter made them busy too.
    made = set(os.listdir("/sys/block")) - before
    assert made
    control = os.open(loop.CONTROL, os.O_RDWR)
    try:
        for name in made:
            # Another program may use it meanwhile.
            with contextlib.suppress(OSError):
                fcntl.ioctl(control, loop.LOOP_CTL_REMOVE, int(name.removeprefix("loop")))
    finally:
        os.close(control)


def test_an_error_that_is_not_contention_is_reported_at_once() -> None:
    started = time.monotonic()
    name, number, path = attach_without(loop.LOOP_CONFIGURE, errno.EPERM, timeout=60)
    assert (name, number) == ("PermissionError", str(errno.EPERM))
    assert path.startswith("/dev/loop")
    assert time.monotonic() - started < 30


IN_OWN_DEV = """
import os, sys
from northstar.devices import loop_device
from northstar.linux import memfd, mount
mount.unshare(mount.CLONE_NEWNS)
mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
mount.mount("none", "/dev", "tmpfs")
fd = memfd.create("northstar-loop-test")
os.write(fd, b"x" * 4096)
try:
    loop_device.attach(fd)
except FileNotFoundError as error:
    print(error.filename)
os.mknod("/dev/loop-control", 0o20600, os.makedev(10, 237))
with loop_device.attach(fd) as device:
    print(os.pread(device.fd, 4096, 0) == b"x" * 4096, os.listdir("/dev") != ["loop-control"])
    name = os.path.basename(device.path)
os.unlink("/dev/" + name)
open("/dev/" + name, "w").close()
try:
    loop_device._bind(device.number, fd, 0, 0)
except OSError as error:
    print(error.strerror, error.filename == device.path)
"""


def test_a_dev_without_nodes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_OWN_DEV], capture_output=True, text=True, timeout=50
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [loop.CONTROL, "True True", "not a loop device True"]


@pytest.fixture
def unfinished(tmp_path: Path) -> Iterator[tuple[Path, loop.Device]]:
    """A file, and a device on it without autoclear, as a killed process leaves it."""
    path = tmp_path / "package.npk"
    path.write_bytes(bytes(BLOCK))
    deadline = time.monotonic() + 10
    with loop.Control() as control, path.open("rb") as file:
        while True:
            device = loop_device._open(control.get_free())
            try:
                device.set_fd(file.fileno())
                break
            except OSError as error:
                device.close()
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
    number = device.number
    device.close()
    with loop_device._open(number) as again:
        yield path, again
        with contextlib.suppress(OSError):  # a test that passes has unbound it
            if again.get_status().inode == inode_of(path):
                again.clear_fd()


def inode_of(path: Path) -> int:
    return path.stat().st_ino if path.exists() else -1


def test_a_device_that_was_never_set_up_is_unbound(
    unfinished: tuple[Path, loop.Device], tmp_path: Path
) -> None:
    path, device = unfinished
    bound = device.get_status()
    assert (bound.device, bound.inode) == (path.stat().st_dev, path.stat().st_ino)
    assert not bound.flags & loop.LO_FLAGS_AUTOCLEAR
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert device.path not in loop_device.detach_unfinished(str(elsewhere))
    assert device.get_status() == bound
    assert loop_device.detach_unfinished(str(tmp_path)) == [device.path]
    assert loop_device.detach_unfinished(str(tmp_path / "missing")) == []


def test_a_device_that_is_set_up_stays_bound(tmp_path: Path) -> None:
    path = tmp_path / "package.npk"
    path.write_bytes(bytes(2 * BLOCK))
    with path.open("rb") as file, loop_device.attach(file.fileno(), offset=BLOCK) as device:
        assert loop_device.detach_unfinished(str(tmp_path)) == []
        assert device.get_status().inode == path.stat().st_ino
