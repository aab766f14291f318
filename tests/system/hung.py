"""A FUSE file system that never answers, for tests of blocked system calls."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from tests.system.harness import RuntimeProcess

_MOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
target, options, launcher = (word.encode() for word in sys.argv[1:])
space = os.open(b"/proc/%b/ns/mnt" % launcher, os.O_RDONLY)
assert libc.mount(b"hung", target, b"fuse", 0, options) == 0
if not os.path.sameopenfile(space, os.open("/proc/self/ns/mnt", os.O_RDONLY)):
    copy = libc.syscall(428, -100, target, 1)  # open_tree, OPEN_TREE_CLONE
    assert copy >= 0
    assert libc.setns(space, 0x20000) == 0
    assert libc.syscall(429, copy, b"", -100, target, 4) == 0  # MOVE_MOUNT_F_EMPTY_PATH
"""


def hang(runtime: RuntimeProcess, target: Path) -> int:
    """Mount a file system that never answers, for the runtime and the inits of its containers.

    Closing the result ends it.
    """
    target.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    command = runtime.enter("python3", "-Ic", _MOUNT, str(target), options, str(runtime.launcher))
    subprocess.run(command, pass_fds=[device], check=True)
    return device


def waits_for_fuse(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "fuse" in Path(f"/proc/{pid}/stack").read_text()
    return False
