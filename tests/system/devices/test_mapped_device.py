"""Device-mapper devices on the real kernel: refusals, an empty /dev, no device-mapper."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from northstar.devices import mapped_device
from northstar.linux import devicemapper, loop
from northstar.linux.devicemapper import Target
from tests.system.devices.test_loop_device import IOCTL, WITHOUT_IOCTL
from tests.system.mapped_devices import (
    ABSENT,
    BLOCK,
    LACKS,
    PRESENT,
    SECTORS,
    eventually,
    linear,
    names,
    needed,
    numbered_blocks,
    unused_name,
)
from tests.unit.linux.refusals import refused

HAS = "this kernel has device-mapper"
MAY_SKIP = (LACKS, HAS)
MAY_SKIP_IN_VM = (HAS,)

pytestmark = pytest.mark.root


@pytest.fixture
def backing() -> Iterator[loop.Device]:
    with numbered_blocks() as device:
        yield device


@pytest.fixture
def name() -> Iterator[str]:
    with unused_name() as chosen:
        yield chosen


@needed
def test_a_device_exists_while_it_is_open(backing: loop.Device, name: str) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with mapped_device.attach(name, linear(backing, start=16, length=16)) as device:
        assert names() >= {name}
        assert device.name == name
        assert Path(device.path).is_block_device()
        assert not os.get_inheritable(device.fd)
        assert os.lseek(device.fd, 0, os.SEEK_END) == 2 * BLOCK
        assert os.pread(device.fd, 2 * BLOCK, 0) == b"\2" * BLOCK + b"\3" * BLOCK
        assert device.status() == ""
        sysfs = Path("/sys/block", os.path.basename(device.path))
        assert (sysfs / "ro").read_text() == "1\n"
        # A descriptor that is open for writing cannot write either.
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
def test_dmsetup_shows_the_requested_table(backing: loop.Device, name: str) -> None:
    with mapped_device.attach(name, linear(backing, start=8, length=24)) as device:
        dmsetup = shutil.which("dmsetup")
        assert dmsetup, "install the package dmsetup"
        shown = subprocess.run([dmsetup, "table", name], capture_output=True, text=True, check=True)
        assert shown.stdout == f"0 24 linear 7:{backing.minor} 8\n"
        number = os.minor(os.stat(device.path).st_rdev)
        columns = ["--noheadings", "-o", "name,minor,attr"]
        shown = subprocess.run(
            [dmsetup, "info", "-C", *columns, name], capture_output=True, text=True, check=True
        )
        # A live table, open here, read only.
        assert shown.stdout.split(":") == [name, str(number), "L--r\n"]


@needed
@pytest.mark.parametrize("bad", ["x" * 128, "a\0b"])
def test_a_name_that_the_kernel_would_truncate_is_refused(bad: str) -> None:
    before = names()
    with pytest.raises(OSError, match="not a name") as caught:
        mapped_device.attach(bad, Target(0, 8, "error", ""))
    assert caught.value.filename == bad
    assert names() == before


FAILING = {
    "bad parameters": (Target(0, 8, "linear", "7:0"), errno.EINVAL, None),
    "longer than the device below": (None, errno.EINVAL, None),
    "no such target": (Target(0, 8, "nonsense", ""), errno.EOPNOTSUPP, devicemapper.CONTROL),
}


@needed
@pytest.mark.parametrize("case", FAILING)
def test_a_failure_half_way_leaves_no_device(backing: loop.Device, name: str, case: str) -> None:
    target, number, where = FAILING[case]
    descriptors = len(os.listdir("/proc/self/fd"))
    with refused(number) as caught:
        mapped_device.attach(name, target or linear(backing, length=SECTORS + 8))
    assert caught.value.filename == (where or name)
    assert name not in names()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not list(Path("/sys/block", os.path.basename(backing.path), "holders").iterdir())


@needed
def test_a_used_name_is_refused_and_its_device_unchanged(backing: loop.Device, name: str) -> None:
    with mapped_device.attach(name, linear(backing)) as device:
        with refused(errno.EBUSY) as caught:
            mapped_device.attach(name, linear(backing))
        assert caught.value.filename == name
        assert os.pread(device.fd, BLOCK, 7 * BLOCK) == b"\7" * BLOCK
        assert name in names()


@needed
def test_each_of_many_threads_gets_a_device(backing: loop.Device, name: str) -> None:
    gate = threading.Barrier(8)

    def cycle(number: int) -> None:
        gate.wait()
        for turn in range(5):
            target = linear(backing, start=8 * number, length=8)
            with mapped_device.attach(f"{name}-{number}-{turn}", target) as device:
                assert os.pread(device.fd, BLOCK, 0) == bytes([number]) * BLOCK

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cycle, range(8)))
    assert eventually(lambda: not any(found.startswith(name) for found in names()))


WITHOUT_MEMORY = """
from northstar.devices import mapped_device
from northstar.linux import devicemapper
try:
    mapped_device.attach("northstar-test-memory", devicemapper.Target(0, 8, "error", ""))
except OSError as error:
    print(error.errno, error.filename)
"""


@needed
def test_loading_without_memory_is_repeated_until_the_timeout() -> None:
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
from northstar.devices import loop_device, mapped_device
from northstar.linux import devicemapper, memfd, mount
mount.unshare(mount.CLONE_NEWNS)
mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
mount.mount("none", "/dev", "tmpfs")
os.mknod("/dev/loop-control", 0o20600, os.makedev(10, 237))
fd = memfd.create("northstar-dm-test")
os.write(fd, b"x" * 4096)
backing = loop_device.attach(fd)
target = devicemapper.Target(0, 8, "linear", f"7:{backing.minor} 0")
with mapped_device.attach(sys.argv[1], target) as device:
    print(os.pread(device.fd, 4096, 0) == b"x" * 4096, sorted(os.listdir("/dev/mapper")))
    path = device.path
print(os.path.exists(path))
# The kernel may use the same number again or another one.
impostors = [f"/dev/dm-{number}" for number in range(64)]
for path in impostors:
    open(path, "w").close()
try:
    mapped_device.attach(sys.argv[1] + "-2", target)
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
    directory = os.path.dirname(devicemapper.CONTROL)
    nodes = os.path.exists(directory) and os.listdir(directory)
    with pytest.raises(OSError, match=devicemapper.CONTROL) as caught:
        mapped_device.attach("northstar-test", Target(0, 8, "error", ""))
    assert caught.value.errno in ABSENT
    assert caught.value.filename == devicemapper.CONTROL
    assert (os.path.exists(directory) and os.listdir(directory)) == nodes
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


@needed
def test_all_devices_of_a_prefix_are_removed(backing: loop.Device, name: str) -> None:
    unused, used = f"{name}-a", f"{name}-b"
    foreign = name[:-1]  # it does not begin with the prefix
    with devicemapper.Control() as control:
        try:
            with mapped_device.attach(used, linear(backing)):
                for each in (unused, foreign):
                    control.create(each)
                removed, failures = mapped_device.remove_all(name)
                assert (sorted(removed), failures) == ([unused, used], [])
                # sysfs does not show a device without a table.
                assert {unused, used, foreign} & set(control.devices()) == {used, foreign}
            assert eventually(lambda: used not in control.devices())
        finally:
            for each in {unused, used, foreign}.intersection(control.devices()):
                control.remove(each, deferred=True)


@pytest.mark.skipif(PRESENT, reason=HAS)
def test_a_kernel_without_device_mapper_has_no_devices_to_remove() -> None:
    assert mapped_device.remove_all("northstar-") == ([], [])
