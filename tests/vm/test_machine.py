"""The virtual machine as a program: the properties that the tests in it depend on."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path

import pytest

from tests.vm import machine

VM = Path(__file__).parents[2] / "scripts" / "vm"

MAY_SKIP = ("there is no virtual machine for this processor",)

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason=MAY_SKIP[0]),
    # A boot takes about 6 s on an idle machine of two cores; the first one downloads a kernel.
    pytest.mark.timeout(300),
]


def vm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([VM, *arguments], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True)


def test_a_job_finds_files_cgroups_devices_and_file_systems(tmp_path: Path):
    """One test for all of them, since a boot is slow."""
    (tmp_path / "mark").write_text("seen")
    script = r"""
        set -e
        uname -sr; id -u; pwd; cat mark
        echo changed > mark; cat mark
        stat -f -c %T /sys/fs/cgroup
        cat /sys/fs/cgroup/cgroup.controllers
        test -c /dev/mapper/control
        test -b /dev/loop0
        for fs in squashfs erofs overlay tmpfs; do grep -qw $fs /proc/filesystems; done
        cat /sys/class/net/lo/operstate >/dev/null
        cat /proc/self/cgroup
    """
    done = vm("--", "sh", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("Linux 6.1.")
    assert lines[1:5] == ["0", str(tmp_path), "seenchanged", "cgroup2fs"]
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(lines[5].split())
    assert lines[6] == "0::/"
    assert (tmp_path / "mark").read_text() == "seen", "the host's files are read only"


def test_output_and_exit_code_are_unchanged(tmp_path: Path):
    data = os.urandom(300_000)
    (tmp_path / "data").write_bytes(data)
    done = vm("--", "sh", "-c", "cat data; echo >&2; exit 200", cwd=tmp_path)
    assert done.returncode == 200
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data + b"\n").digest()


def test_a_machine_that_reboots_has_no_exit_code():
    done = vm("--", "sh", "-c", "echo b > /proc/sysrq-trigger; sleep 60")
    assert done.returncode == machine.NO_EXIT_CODE
    assert b"without an exit code" in done.stderr


def test_the_timeout_ends_the_machine():
    done = vm("--timeout", "0.5", "--", "sleep", "60")
    assert done.returncode == machine.TIMED_OUT
    assert b"stopped after 0.5 s" in done.stderr
