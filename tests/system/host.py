"""The kernel objects of a process, read from /proc and /sys, for leak tests."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self


class Snapshot(NamedTuple):
    """The objects that must be the same before and after a cycle, each list sorted.

    Attributes:
        descriptors: the targets of the process' descriptors, without inode numbers.
        mounts: mount points of its namespace, with type and source.
        loops: backing files of loop devices: files below its directory, or its memfds.
        cgroups: directories below its cgroup in all hierarchies. The cgroup itself is created with
            the first container, and stays until the runtime ends.
        processes: its descendants.
        files: the entries of its directories (without those of other file systems).
    """

    descriptors: list[str]
    mounts: list[str]
    loops: list[str]
    cgroups: list[str]
    processes: list[str]
    files: list[str]

    @classmethod
    def take(cls, pid: int, directory: Path, cgroup: str) -> Self:
        """Take a snapshot of runtime `pid` with this directory and runtime cgroup."""
        return cls(
            descriptors=descriptors(pid),
            mounts=mounts(pid),
            loops=loops(pid, directory),
            cgroups=cgroups(cgroup, itself=False),
            processes=[command(child) for child in descendants(pid)],
            files=files(directory),
        )

    def difference(self, later: Snapshot) -> str:
        """Return one line for each object that appeared or vanished; empty if none did."""
        lines = []
        for kind, old, new in zip(self._fields, self, later, strict=True):
            gone, appeared = list(old), []
            for item in new:
                if item in gone:
                    gone.remove(item)
                else:
                    appeared.append(item)
            lines += [f"{kind}: new: {item}" for item in appeared]
            lines += [f"{kind}: gone: {item}" for item in gone]
        return "\n".join(lines)


def descriptors(pid: int) -> list[str]:
    """Return the targets of the descriptors of `pid`, with `socket:[123]` as `socket:[]`."""
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
    """Return the backing files of loop devices that are below `directory` or memfds of `pid`.

    Loop devices of other programs do not count: they change while a test runs.
    """
    memory = re.compile(rf"/memfd:northstar-(image|npk)-{pid} ")
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached meanwhile
            path = backing.read_text(errors="surrogateescape").strip()
            # In a chroot(2) a file that another mount namespace has open has a longer path.
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
    """Return the descendants of `pid`, zombies too, parents before their children."""
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
    """Return the command line of `pid`, or its name (comm) without one."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
        return line or Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "gone"


def comm(pid: int) -> str:
    """Return the name of `pid` (proc_pid_comm(5))."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "gone"


def state(pid: int) -> str | None:
    """Return the state letter of `pid` (proc_pid_stat(5)), or None without such a process."""
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
    # The name is in parentheses and may itself contain blanks and parentheses.
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
