"""Device-mapper devices for tests: their backing devices, and their names in sysfs."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from northstar.devices import loop_device
from northstar.linux import devicemapper, loop, memfd
from northstar.linux.devicemapper import Target
from tests.system import harness

LACKS = "this kernel has no device-mapper"

PRESENT = "device-mapper" in Path("/proc/misc").read_text()

ABSENT = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
"""Errors of opening the control node on a kernel without device-mapper. ENOENT means that there is
no node; another program may have created one (libdevmapper does)."""

BLOCK = 4096
SECTORS = 8 * BLOCK // devicemapper.SECTOR


def needed(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs device-mapper: the virtual machine has it, other hosts may not."""
    for mark in (pytest.mark.vm, pytest.mark.skipif(not PRESENT, reason=LACKS)):
        test = mark(test)
    return test


@contextlib.contextmanager
def numbered_blocks() -> Iterator[loop.Device]:
    """Make a loop device of eight blocks; each byte of a block is the block's number."""
    fd = memfd.create("northstar-dm-test")
    os.write(fd, b"".join(bytes([number]) * BLOCK for number in range(8)))
    memfd.seal(fd)
    with loop_device.attach(fd) as device:
        os.close(fd)
        yield device


@contextlib.contextmanager
def unused_name() -> Iterator[str]:
    """Yield a name that no device has; check that none has it after the test."""
    chosen = f"northstar-test-{os.urandom(8).hex()}"
    yield chosen
    assert eventually(lambda: chosen not in names())


def eventually(condition: Callable[[], bool]) -> bool:
    """Return whether a condition becomes true soon; an emulated machine needs longer."""
    return harness.eventually(condition, timeout=30)


def names() -> set[str]:
    """Return the device names from sysfs, independently of the code under test."""
    found = set()
    for path in Path("/sys/block").glob("dm-*/dm/name"):
        with contextlib.suppress(OSError):  # it went meanwhile
            found.add(path.read_text().strip())
    return found


def linear(backing: loop.Device, start: int = 0, length: int = SECTORS) -> Target:
    """Return a linear target on a part of a loop device, in sectors of 512 bytes."""
    return Target(0, length, "linear", f"{loop.LOOP_MAJOR}:{backing.minor} {start}")
