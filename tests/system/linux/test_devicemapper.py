"""The ioctls of device-mapper's control node on the real kernel."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.linux import devicemapper, loop
from northstar.linux.devicemapper import Control, Target
from tests.system.mapped_devices import (
    ABSENT,
    LACKS,
    PRESENT,
    SECTORS,
    eventually,
    linear,
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
def test_control(backing: loop.Device, name: str) -> None:
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

        with refused(errno.EINVAL) as caught:
            control.load(name, Target(0, 8, "nonsense", ""))
        assert caught.value.filename == name
        control.load(name, linear(backing))
        assert control.status(name) == []
        control.resume(name)
        assert control.status(name) == [Target(0, SECTORS, "linear", "")]
        assert devicemapper.node(number) == f"/dev/dm-{os.minor(number)}"
        assert os.stat(devicemapper.node(number)).st_rdev == number

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
def test_a_list_of_devices_that_exceeds_the_first_buffer(name: str) -> None:
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
def test_a_kernel_with_another_major_version_of_the_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devicemapper, "VERSION", (5, 0, 0))
    with Control() as control, refused(errno.EPROTONOSUPPORT) as caught:
        control.version()
    assert str(caught.value.strerror).startswith("the kernel's device-mapper has version 4.")


@pytest.mark.skipif(PRESENT, reason=HAS)
def test_a_kernel_without_device_mapper() -> None:
    with pytest.raises(OSError, match=devicemapper.CONTROL) as caught:
        Control()
    assert caught.value.errno in ABSENT
    assert caught.value.filename == devicemapper.CONTROL


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
