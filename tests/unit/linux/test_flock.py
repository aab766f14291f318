"""Locks of flock(2), and the process that holds one, from /proc/locks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.linux import flock


def test_a_lock_and_its_holder(tmp_path: Path) -> None:
    """Another process holds the lock, so its pid must come from the kernel."""
    program = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); "
        "fcntl.flock(fd, fcntl.LOCK_EX); print(flush=True); input()"
    )
    command = [sys.executable, "-Ic", program, str(tmp_path)]
    fd = os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert flock.holder(fd) is None
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.read(1)
            assert not flock.try_lock(fd)
            assert not flock.try_lock(fd, shared=True)
            assert flock.holder(fd) == other.pid
            # The lock makes no file, and ends with its holder.
            assert os.listdir(tmp_path) == []
            other.kill()
        assert flock.try_lock(fd)
        assert flock.holder(fd) == os.getpid()
    finally:
        os.close(fd)


def test_shared_locks_exclude_only_exclusive_ones(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC) for _ in range(2))
    try:
        assert flock.try_lock(first, shared=True)
        assert flock.try_lock(second, shared=True)
        assert not flock.try_lock(second)
    finally:
        os.close(first)
        os.close(second)


def test_a_closed_descriptor_is_an_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        flock.try_lock(fd)


numbers = st.integers(0, 2**20)


@given(st.lists(st.tuples(numbers, st.tuples(numbers, numbers, numbers))))
def test_lines_of_the_kernel_are_parsed(
    holders: list[tuple[int, tuple[int, int, int]]],
) -> None:
    text = ""
    for count, (pid, (major, minor, inode)) in enumerate(holders, start=1):
        rest = f"ADVISORY  WRITE {pid} {major:02x}:{minor:02x}:{inode} 0 EOF\n"
        text += f"{count}: FLOCK  {rest}"
        # A waiter holds no lock, and the locks of fcntl(2) are of another kind.
        text += f"{count}: -> FLOCK  {rest}{count}: POSIX  {rest}{count}: OFDLCK {rest}"
    assert flock.parse(text) == holders


@given(st.text(max_size=80))
def test_other_lines_are_ignored(text: str) -> None:
    assert isinstance(flock.parse(text), list)
