"""The ioctls and the sysfs files of loop devices on the real kernel."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.devices import loop_device
from northstar.linux import loop
from tests.unit.linux.refusals import refused

pytestmark = pytest.mark.root

BLOCK = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"a" * BLOCK + b"b" * BLOCK)
    return path


@pytest.fixture
def bound(path: Path) -> Iterator[loop.Device]:
    """A device on the second block of a file, acquired with the runtime's code."""
    with path.open("rb") as file, loop_device.attach(file.fileno(), offset=BLOCK) as device:
        yield device


def test_status_and_attributes_of_a_bound_device(bound: loop.Device, path: Path) -> None:
    status, file = bound.get_status(), path.stat()
    assert (status.device, status.inode) == (file.st_dev, file.st_ino)
    assert (status.offset, status.sizelimit) == (BLOCK, 0)
    assert status.flags == loop.LO_FLAGS_READ_ONLY | loop.LO_FLAGS_AUTOCLEAR
    assert bound.number in loop.numbers()
    assert loop.device_number(bound.number) == os.stat(bound.path).st_rdev
    attributes = loop.attributes(bound.number)
    assert attributes == loop.Attributes(os.path.realpath(path), True, BLOCK)


def test_a_bound_device_is_not_bound_again(bound: loop.Device, path: Path) -> None:
    before = bound.get_status()
    with path.open("rb") as file:
        with refused(errno.EBUSY) as caught:
            bound.set_fd(file.fileno())
        assert caught.value.filename == bound.path
        with refused(errno.EBUSY) as caught:
            bound.configure(file.fileno(), offset=0, sizelimit=0, flags=0)
        assert caught.value.filename == bound.path
    assert bound.get_status() == before


def test_an_error_names_the_node() -> None:
    with loop.Control() as control:
        with refused(errno.EEXIST) as caught:
            control.add(control.get_free())
        assert caught.value.filename == loop.CONTROL
        with pytest.raises(OSError, match=r"No such device|Invalid argument") as caught:
            control.remove(2**19)
        assert caught.value.filename == loop.CONTROL
    with refused(errno.ENOENT):
        loop.device_number(2**19)
    with refused(errno.ENOENT):
        loop.attributes(2**19)


LAYOUTS = r"""
#include <stdio.h>
#include <linux/loop.h>
#define SHOW(name) printf("\"%s\": %lu,\n", #name, (unsigned long)(name))
int main(void) {
    printf("{");
    SHOW(LOOP_SET_FD); SHOW(LOOP_CLR_FD); SHOW(LOOP_SET_STATUS64); SHOW(LOOP_GET_STATUS64);
    SHOW(LOOP_CONFIGURE); SHOW(LOOP_CTL_ADD); SHOW(LOOP_CTL_REMOVE); SHOW(LOOP_CTL_GET_FREE);
    SHOW(LO_FLAGS_READ_ONLY); SHOW(LO_FLAGS_AUTOCLEAR); SHOW(LO_FLAGS_PARTSCAN);
    SHOW(LO_FLAGS_DIRECT_IO);
    printf("\"_INFO\": %lu, \"_CONFIG\": %lu}", (unsigned long)sizeof(struct loop_info64),
           (unsigned long)sizeof(struct loop_config));
}
"""


def test_constants_are_those_of_the_kernels_header(tmp_path: Path) -> None:
    source, program = tmp_path / "layouts.c", tmp_path / "layouts"
    source.write_text(LAYOUTS)
    subprocess.run(["gcc", "-o", program, source], check=True)
    shown = subprocess.run([program], capture_output=True, text=True, check=True)
    for name, value in json.loads(shown.stdout).items():
        found = getattr(loop, name)
        assert (found if isinstance(found, int) else found.size) == value, name
