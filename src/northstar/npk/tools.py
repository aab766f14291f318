"""Runs the image tools. An error names the Debian package of a missing tool."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from northstar.model import HostError, PackageError

_PACKAGES: Final = {
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
    "mkfs.erofs": "erofs-utils",
    "fsck.erofs": "erofs-utils",
    "dump.erofs": "erofs-utils",
}
"""The Debian package of each tool."""

_MESSAGE_MAX: Final = 500
_WATCH_PERIOD: Final = 0.1


def find(tool: str, path: str | None = None) -> str:
    """Return the path of a tool.

    Args:
        tool: its default name.
        path: a path or another name from the user; None for the default name.

    Raises:
        HostError: it is not installed, or `path` is not a program.
    """
    found = shutil.which(path or tool)
    if found is None:
        what = f"{tool} is not installed" if path in (None, tool) else f"{path} is not a program"
        raise HostError(what, hint=f"install the Debian package {_PACKAGES[tool]}")
    return os.path.abspath(found)


@lru_cache(maxsize=8)
def usage(path: str) -> str:
    """Return the help text of a tool, to find its features.

    Version numbers do not show them: distributions backport features, and builds differ.
    """
    # Newer squashfs-tools print all options only for -help-all. Older ones lack that option, and
    # print all options as their usage error.
    result = subprocess.run(
        [path, "-help-all"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return result.stdout.decode("utf-8", "replace")


def run(
    arguments: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    env: dict[str, str] | None = None,
    accept: Sequence[int] = (0,),
    watch: Callable[[int], None] | None = None,
) -> tuple[str, str]:
    """Run a tool and return its stdout and stderr.

    An exception, such as KeyboardInterrupt, kills it. It has a separate process group, so that
    Ctrl-C reaches only this process: mksquashfs reacts to it with a delay.

    Args:
        arguments: program and arguments.
        pass_fds: descriptors that it inherits.
        env: additional environment variables.
        accept: exit codes that mean success.
        watch: called several times a second with the number of bytes that the tool has read.

    Raises:
        PackageError: it failed; the error contains its last messages.
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        process_group=0,
    )
    with process:
        try:
            out, err = _communicate(process, watch)
        except BaseException:
            process.kill()
            # After Ctrl-C, Popen.__exit__ waits only for a quarter of a second.
            process.wait()
            raise
    # File names are bytes: two different names must not become equal.
    stdout, stderr = out.decode("utf-8", "backslashreplace"), err.decode("utf-8", "replace")
    if process.returncode not in accept:
        name = os.path.basename(arguments[0])
        raise PackageError(f"{name} failed: {reason(process.returncode, stderr or stdout)}")
    return stdout, stderr


def _communicate(
    process: subprocess.Popen[bytes], watch: Callable[[int], None] | None
) -> tuple[bytes, bytes]:
    while True:
        try:
            return process.communicate(timeout=None if watch is None else _WATCH_PERIOD)
        except subprocess.TimeoutExpired:
            assert watch is not None
            watch(_bytes_read(process.pid))


def _bytes_read(pid: int) -> int:
    """Return the bytes that a process has read (proc_pid_io(5)): the tools report no progress."""
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            return int(file.readline().removeprefix("rchar:"))
    except OSError:
        return 0


def reason(code: int, output: str) -> str:
    """Return the last error messages of a tool in one line, or else its exit status."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "FATAL" in line or "rror" in line or "ailed" in line]
    text = "; ".join((errors or lines)[-3:])[-_MESSAGE_MAX:]
    return text or (f"exit code {code}" if code >= 0 else f"ended by signal {-code}")
