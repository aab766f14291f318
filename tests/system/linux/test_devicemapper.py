"""Device-mapper on the real kernel: devices, refusals, a bare /dev, and a kernel without it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from northstar.linux import devicemapper, loop, memfd
from northstar.linux.devicemapper import Control, Target
from tests.system.linux.test_loop import IOCTL, WITHOUT_IOCTL
from tests.unit.linux.refusals import refused

LACKS = "this kernel has no device-mapper"
HAS = "this kernel has device-mapper"
MAY_SKIP = (LACKS, HAS)
MAY_SKIP_IN_VM = (HAS,)

pytestmark = pytest.mark.root

PRESENT = "device-mapper" in Path("/proc/misc").read_text()


def needed(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs device-mapper: the virtual machine has it, others may not."""
    for mark in (pytest.mark.vm, pytest.mark.skipif(not PRESENT, reason=LACKS)):
        test = mark(test)
    return test


BLOCK = 4096
SECTORS = 8 * BLOCK // devicemapper.SECTOR


@pytest.fixture
def backing() -> Iterator[loop.Loop]:
    """A loop device of eight blocks, each full of its own number."""
    fd = memfd.create("northstar-dm-test")
    os.write(fd, b"".join(bytes([number]) * BLOCK for number in range(8)))
    memfd.seal(fd)
    with loop.attach(fd) as device:
        os.close(fd)
        yield device


@pytest.fixture
def name() -> Iterator[str]:
    """A name that no device has yet, and none may have after the test."""
    chosen = f"northstar-test-{os.urandom(8).hex()}"
    yield chosen
    assert eventually(lambda: chosen not in names())


def eventually(condition: Callable[[], bool], timeout: float = 30) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def names() -> set[str]:
    """The devices as sysfs, and not the code under test, sees them."""
    found = set()
    for path in Path("/sys/block").glob("dm-*/dm/name"):
        with contextlib.suppress(OSError):  # it went meanwhile
            found.add(path.read_text().strip())
    return found


def linear(backing: loop.Loop, start: int = 0, length: int = SECTORS) -> Target:
    return Target(0, length, "linear", f"{loop.LOOP_MAJOR}:{backing.minor} {start}")


@needed
def test_a_device_is_there_while_it_is_open(backing: loop.Loop, name: str) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with devicemapper.attach(name, linear(backing, start=16, length=16)) as device:
        assert names() >= {name}
        assert device.name == name
        assert Path(device.path).is_block_device()
        assert not os.get_inheritable(device.fd)
        assert os.lseek(device.fd, 0, os.SEEK_END) == 2 * BLOCK
        assert os.pread(device.fd, 2 * BLOCK, 0) == b"\2" * BLOCK + b"\3" * BLOCK
        assert device.status() == ""
        sysfs = Path("/sys/block", os.path.basename(device.path))
        assert (sysfs / "ro").read_text() == "1\n"
        # Even for who opens it for writing.
        writer = os.open(device.path, os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                os.write(writer, b"x" * BLOCK)
        finally:
            os.close(writer)
    assert device.fd == -1
    device.close()
    assert eventually(lambda: name not in names())
    assert len(os.listdir("/proc/self/fd")) == descriptors


@needed
def test_the_kernels_own_tool_sees_what_was_asked_for(backing: loop.Loop, name: str) -> None:
    with devicemapper.attach(name, linear(backing, start=8, length=24)) as device:
        dmsetup = shutil.which("dmsetup")
        assert dmsetup, "libdevmapper comes with it"
        shown = subprocess.run([dmsetup, "table", name], capture_output=True, text=True, check=True)
        assert shown.stdout == f"0 24 linear 7:{backing.minor} 8\n"
        number = os.minor(os.stat(device.path).st_rdev)
        columns = ["--noheadings", "-o", "name,minor,attr"]
        shown = subprocess.run(
            [dmsetup, "info", "-C", *columns, name], capture_output=True, text=True, check=True
        )
        # Live table, opened by us, read only.
        assert shown.stdout.split(":") == [name, str(number), "L--r\n"]


@needed
def test_control(backing: loop.Loop, name: str) -> None:
    with Control() as control:
        version = control.version()
        assert version[0] == 4
        assert version >= (4, 27, 0)
        targets = control.targets()
        assert {"linear", "verity"} <= set(targets)
        assert all(len(numbers) == 3 for numbers in targets.values())

        number = control.create(name)
        assert control.devices()[name] == number
        with refused(errno.EBUSY) as caught:
            control.create(name)
        assert caught.value.filename == name
        assert control.status(name) == []

        control.load(name, linear(backing))
        assert control.status(name) == []
        control.resume(name)
        assert control.status(name) == [Target(0, SECTORS, "linear", "")]
        assert os.stat(f"/dev/dm-{os.minor(number)}").st_rdev == number

        fd = os.open(f"/dev/dm-{os.minor(number)}", os.O_RDONLY)
        try:
            with refused(errno.EBUSY) as caught:
                control.remove(name, deferred=False)
            assert caught.value.filename == name
            control.remove(name, deferred=True)
            assert name in control.devices()
        finally:
            os.close(fd)
        assert eventually(lambda: name not in control.devices())
        for call in (control.status, control.resume):
            with refused(errno.ENXIO) as caught:
                call(name)
            assert caught.value.filename == name
    control.close()


@needed
def test_more_devices_than_one_answer_holds(name: str) -> None:
    made = [f"{name}-{'x' * 90}-{number}" for number in range(40)]
    with Control() as control:
        try:
            numbers = {each: control.create(each) for each in made}
            found = control.devices()
            assert {each: found[each] for each in made} == numbers
            assert len(set(numbers.values())) == len(made)
        finally:
            for each in made:
                control.remove(each, deferred=False)
        assert not set(made) & set(control.devices())


@needed
@pytest.mark.parametrize("bad", ["x" * 128, "a\0b"])
def test_a_name_that_the_kernel_would_cut_is_refused(bad: str) -> None:
    before = names()
    with pytest.raises(OSError, match="not a name") as caught:
        devicemapper.attach(bad, Target(0, 8, "error", ""))
    assert caught.value.filename == bad
    assert names() == before


FAILING = {
    "bad parameters": (Target(0, 8, "linear", "7:0"), errno.EINVAL, None),
    "longer than what is below": (None, errno.EINVAL, None),
    "no such target": (Target(0, 8, "nonsense", ""), errno.EOPNOTSUPP, devicemapper.CONTROL),
}


@needed
@pytest.mark.parametrize("case", FAILING)
def test_what_fails_half_way_leaves_nothing(backing: loop.Loop, name: str, case: str) -> None:
    target, number, where = FAILING[case]
    descriptors = len(os.listdir("/proc/self/fd"))
    with refused(number) as caught:
        devicemapper.attach(name, target or linear(backing, length=SECTORS + 8))
    assert caught.value.filename == (where or name)
    assert name not in names()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not list(Path("/sys/block", os.path.basename(backing.path), "holders").iterdir())


@needed
def test_a_taken_name_is_refused_and_its_owner_unharmed(backing: loop.Loop, name: str) -> None:
    with devicemapper.attach(name, linear(backing)) as device:
        with refused(errno.EBUSY) as caught:
            devicemapper.attach(name, linear(backing))
        assert caught.value.filename == name
        assert os.pread(device.fd, BLOCK, 7 * BLOCK) == b"\7" * BLOCK
        assert name in names()


@needed
def test_a_kernel_that_speaks_another_major_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devicemapper, "VERSION", (5, 0, 0))
    with Control() as control, refused(errno.EPROTONOSUPPORT) as caught:
        control.version()
    assert str(caught.value.strerror).startswith("the kernel's device-mapper speaks 4.")


@needed
def test_many_threads_get_a_device_each(backing: loop.Loop, name: str) -> None:
    gate = threading.Barrier(8)

    def cycle(number: int) -> None:
        gate.wait()
        for turn in range(5):
            target = linear(backing, start=8 * number, length=8)
            with devicemapper.attach(f"{name}-{number}-{turn}", target) as device:
                assert os.pread(device.fd, BLOCK, 0) == bytes([number]) * BLOCK

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cycle, range(8)))
    assert eventually(lambda: not any(found.startswith(name) for found in names()))


WITHOUT_MEMORY = """
from northstar.linux import devicemapper
try:
    devicemapper.attach("northstar-test-memory", devicemapper.Target(0, 8, "error", ""))
except OSError as error:
    print(error.errno, error.filename)
"""


@needed
def test_a_kernel_without_memory_is_asked_again_but_not_for_ever() -> None:
    numbers = [devicemapper.DM_TABLE_LOAD, errno.ENOMEM, IOCTL[os.uname().machine]]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_IOCTL + WITHOUT_MEMORY, *map(str, numbers)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stderr, done.stdout) == ("", f"{errno.ENOMEM} northstar-test-memory\n")
    assert "northstar-test-memory" not in names()


IN_OWN_DEV = """
import os, sys
from northstar.linux import devicemapper, loop, memfd, mount
mount.unshare(mount.CLONE_NEWNS)
mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
mount.mount("none", "/dev", "tmpfs")
os.mknod("/dev/loop-control", 0o20600, os.makedev(10, 237))
fd = memfd.create("northstar-dm-test")
os.write(fd, b"x" * 4096)
backing = loop.attach(fd)
target = devicemapper.Target(0, 8, "linear", f"7:{backing.minor} 0")
with devicemapper.attach(sys.argv[1], target) as device:
    print(os.pread(device.fd, 4096, 0) == b"x" * 4096, sorted(os.listdir("/dev/mapper")))
    path = device.path
print(os.path.exists(path))
# The number may be taken again or not, that is the kernel's business.
impostors = [f"/dev/dm-{number}" for number in range(64)]
for path in impostors:
    open(path, "w").close()
try:
    devicemapper.attach(sys.argv[1] + "-2", target)
except OSError as error:
    print(error.errno, error.filename in impostors)
"""


@needed
def test_a_dev_without_nodes(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_OWN_DEV, name], capture_output=True, text=True, timeout=50
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "True ['control']",
        "False",
        f"{errno.ENOTBLK} True",
    ]
    assert eventually(lambda: f"{name}-2" not in names())


@pytest.mark.skipif(PRESENT, reason=HAS)
def test_a_kernel_without_device_mapper() -> None:
    descriptors = os.listdir("/proc/self/fd")
    with refused(errno.ENOENT) as caught:
        devicemapper.attach("northstar-test", Target(0, 8, "error", ""))
    assert caught.value.filename == devicemapper.CONTROL
    assert not os.path.exists(os.path.dirname(devicemapper.CONTROL))
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


LAYOUTS = r"""
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/dm-ioctl.h>
#define SHOW(name) printf("\"%s\": %lu,\n", #name, (unsigned long)(name))
int main(void) {
    printf("{");
    SHOW(DM_VERSION); SHOW(DM_LIST_DEVICES); SHOW(DM_DEV_CREATE); SHOW(DM_DEV_REMOVE);
    SHOW(DM_DEV_SUSPEND); SHOW(DM_TABLE_LOAD); SHOW(DM_TABLE_STATUS); SHOW(DM_LIST_VERSIONS);
    SHOW(DM_READONLY_FLAG); SHOW(DM_BUFFER_FULL_FLAG); SHOW(DM_DEFERRED_REMOVE);
    printf("\"NAME_MAX\": %d}", DM_NAME_LEN - 1);
}
"""


def test_constants_are_those_of_the_kernels_header(tmp_path: Path) -> None:
    source, program = tmp_path / "layouts.c", tmp_path / "layouts"
    source.write_text(LAYOUTS)
    subprocess.run(["gcc", "-o", program, source], check=True)
    shown = subprocess.run([program], capture_output=True, text=True, check=True)
    for name, value in json.loads(shown.stdout).items():
        assert getattr(devicemapper, name) == value, name
