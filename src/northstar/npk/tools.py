"""Running the image tools: found or named with their Debian package, and never outliving us."""

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
        tool: its usual name.
        path: where the user says it is (or under which name); None for its usual name.

    Raises:
        HostError: it is not installed, or not there.
    """
    found = shutil.which(path or tool)
    if found is None:
        what = f"{tool} is not installed" if path in (None, tool) else f"{path} is no program"
        raise HostError(what, hint=f"install the Debian package {_PACKAGES[tool]}")
    return os.path.abspath(found)


@lru_cache(maxsize=8)
def usage(path: str) -> str:
    """Return all that a tool says about its options, to look for the features it has.

    Version numbers would be the wrong question: distributions backport, and builds differ.
    """
    # Newer squashfs-tools show everything for -help-all only; older ones, which do not know it,
    # answer with everything at once.
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
    """Run a tool to its end and return what it wrote to stdout and stderr.

    It is killed when we are interrupted. It has a process group of its own, so that Ctrl-C reaches
    us alone: mksquashfs would take its time to answer.

    Args:
        arguments: program and arguments.
        pass_fds: descriptors that it inherits.
        env: environment variables that are added to ours.
        accept: exit codes that mean success.
        watch: called several times a second with the bytes that the tool has read.

    Raises:
        PackageError: it failed, with its own last words.
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
            # Popen's own exit gives up after a quarter of a second when it was Ctrl-C.
            process.wait()
            raise
    # File names are bytes: two that differ must not become one.
    words, complaint = out.decode("utf-8", "backslashreplace"), err.decode("utf-8", "replace")
    if process.returncode not in accept:
        name = os.path.basename(arguments[0])
        raise PackageError(f"{name} failed: {reason(process.returncode, complaint or words)}")
    return words, complaint


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
    """Return what a process has read, by proc_pid_io(5): no tool tells it in the same way."""
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            return int(file.readline().removeprefix("rchar:"))
    except OSError:
        return 0


def reason(code: int, output: str) -> str:
    """Return the lines in which a tool tells why it gave up, in one; else how it ended."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "rror" in line or "ailed" in line]
    text = "; ".join((telling or lines)[-3:])[-_MESSAGE_MAX:]
    return text or (f"exit code {code}" if code >= 0 else f"ended by signal {-code}")
