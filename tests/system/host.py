"""What a process holds of the kernel, read from /proc and /sys: what a leak test compares."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self


class Snapshot(NamedTuple):
    """What must be the same after a cycle as before it, each list sorted.

    Attributes:
        descriptors: what the process' descriptors point to, numbers of inodes left out.
        mounts: mount points of its namespace, with type and source.
        loops: loop devices on files below its directory or on memory of its own.
        cgroups: directories below its cgroup in all hierarchies. Its own is made with the first
            container, and stays until the end.
        processes: its descendants.
        files: what there is in its directories (mount points are not entered).
    """

    descriptors: list[str]
    mounts: list[str]
    loops: list[str]
    cgroups: list[str]
    processes: list[str]
    files: list[str]

    @classmethod
    def take(cls, pid: int, directory: Path, cgroup: str) -> Self:
        """Look at process `pid`, which lives in `directory` and in the top cgroup `cgroup`."""
        return cls(
            descriptors=descriptors(pid),
            mounts=mounts(pid),
            loops=loops(pid, directory),
            cgroups=cgroups(cgroup, itself=False),
            processes=[command(child) for child in descendants(pid)],
            files=files(directory),
        )

    def difference(self, later: Snapshot) -> str:
        """Return one line for each thing that came or went; empty if nothing did."""
        lines = []
        for kind, old, new in zip(self._fields, self, later, strict=True):
            gone, come = list(old), []
            for item in new:
                if item in gone:
                    gone.remove(item)
                else:
                    come.append(item)
            lines += [f"{kind}: new: {item}" for item in come]
            lines += [f"{kind}: gone: {item}" for item in gone]
        return "\n".join(lines)


def descriptors(pid: int) -> list[str]:
    """Return what the descriptors of `pid` point to, `socket:[123]` as `socket:[]`."""
    return sorted(re.sub(r"\[\d+\]", "[]", link) for _, link in _links(pid))


def mounts(pid: int) -> list[str]:
    """Return the mounts that `pid` sees, as `/run/x squashfs /dev/loop0`."""
    found = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fstype, source, *_ = right.split(" ")
        found.append(f"{left.split(' ')[4]} {fstype} {source}")
    return sorted(found)


def loops(pid: int, directory: Path) -> list[str]:
    """Return what the loop devices on files of `directory` and on the memory of `pid` stand on.

    Other programs' loop devices are none of ours: they come and go while a test runs.
    """
    memory = re.compile(rf"/memfd:northstar-(image|npk)-{pid} ")
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached meanwhile
            path = backing.read_text(errors="surrogateescape").strip()
            # From within a chroot(2) what another mount namespace has open shows a longer path.
            if f"{directory}/" in path or memory.match(path):
                found.append(path)
    return sorted(found)


def cgroup_roots() -> list[Path]:
    """Return the mount points of all cgroup hierarchies of this host."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [
        Path(line.split(" ")[4])
        for line in lines
        if line.partition(" - ")[2].split(" ")[0] in ("cgroup", "cgroup2")
    ]


def cgroups(name: str, *, itself: bool = True) -> list[str]:
    """Return the directories of cgroup `name`, and of all below it, in all hierarchies."""
    tops = [root / name for root in cgroup_roots()]
    found = [path for top in tops for path, _, _ in os.walk(top) if itself or path != str(top)]
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, zombies too, parents before their children."""
    children: dict[int, list[int]] = {}
    for process in _processes():
        stat = _stat(process)
        if stat is not None:
            children.setdefault(int(stat[1]), []).append(process)
    found: list[int] = []
    todo = [pid]
    while todo:
        below = sorted(children.get(todo.pop(0), []))
        found += below
        todo += below
    return found


def command(pid: int) -> str:
    """Return the command line of `pid`, or its state and name where it has none."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
        return line or Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "gone"


def state(pid: int) -> str | None:
    """Return the state letter of `pid` (proc_pid_stat(5)), or None if there is no such process."""
    stat = _stat(pid)
    return stat[0] if stat else None


def files(directory: Path) -> list[str]:
    """Return everything below `directory`, relative to it, without entering other file systems."""
    device = directory.stat().st_dev
    found = []
    for path, names, plain in os.walk(directory):
        here = Path(path)
        found += [str((here / name).relative_to(directory)) for name in names + plain]
        names[:] = [name for name in names if (here / name).stat().st_dev == device]
    return sorted(found)


def _processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _stat(pid: int) -> list[str] | None:
    # The name is in parentheses and may itself hold blanks and parentheses.
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split(" ")
    except OSError:
        return None


def _links(pid: int) -> list[tuple[int, str]]:
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append((int(number), os.readlink(f"/proc/{pid}/fd/{number}")))
        except FileNotFoundError:
            continue  # it was closed meanwhile
    return found
