"""A FUSE file system that never answers, for tests of blocked system calls."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from tests.system.harness import RuntimeProcess


def hang(runtime: RuntimeProcess, target: Path) -> int:
    """Mount a file system that never answers for the runtime; closing the result ends it."""
    target.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    mount = (
        "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True); "
        "sys.exit(libc.mount(b'hung', sys.argv[1].encode(), b'fuse', 0, sys.argv[2].encode()))"
    )
    command = runtime.enter("python3", "-Ic", mount, str(target), options)
    subprocess.run(command, pass_fds=[device], check=True)
    return device


def waits_for_fuse(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "fuse" in Path(f"/proc/{pid}/stack").read_text()
    return False
