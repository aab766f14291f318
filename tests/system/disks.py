"""File systems in files, mounted for one test or more, and pictures of the trees on them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = {"ext4": 48 * 2**20, "btrfs": 128 * 2**20}
"""In bytes; btrfs needs 109 MiB."""

MAKE: dict[str, tuple[str, ...]] = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "16384"),
    "btrfs": ("mkfs.btrfs", "-q"),
}


@contextlib.contextmanager
def mounted(kind: str, directory: Path, *, size: int = 0, options: str = "") -> Iterator[Path]:
    """Mount a new file system (`tmpfs`, or one of MAKE) in a directory; yield the mount point.

    Without times of access: to look at a file does not change it.
    """
    point = directory / f"{kind}.mount"
    point.mkdir(parents=True)
    extra = f",{options}" if options else ""
    if kind == "tmpfs":
        mount = ["-t", "tmpfs", "-o", f"noatime,size={size or 2**26}{extra}", "none"]
    else:
        image = directory / f"{kind}.img"
        with image.open("wb") as file:
            file.truncate(size or SIZES[kind])
        subprocess.run([*MAKE[kind], str(image)], check=True, capture_output=True)
        mount = ["-t", kind, "-o", f"loop,noatime{extra}", str(image)]
    subprocess.run(["mount", *mount, str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)
        if kind != "tmpfs":
            image.unlink()


def fill(directory: Path) -> Path:
    """Use up all free blocks with one file, and return it."""
    full = directory / "full"
    with contextlib.suppress(OSError), full.open("wb", buffering=0) as file:
        while file.write(bytes(2**20)):
            pass
    with contextlib.suppress(OSError), full.open("ab", buffering=0) as file:
        while file.write(bytes(512)):
            pass
    os.sync()
    return full


def picture(top: Path) -> dict[str, Any]:
    """Return all that a copy must preserve, by the path of each file; sockets are left out."""
    found: dict[str, Any] = {}
    groups: dict[int, list[str]] = {}

    def look(path: str, name: str) -> None:
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode):
            return
        is_regular = stat.S_ISREG(status.st_mode)
        content: Any = None
        if is_regular:
            content = _content(path)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        found[name] = {
            "mode": oct(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "times": (status.st_atime_ns, status.st_mtime_ns),
            "device": status.st_rdev,
            "size": status.st_size if is_regular else None,
            "content": content,
            "xattrs": {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in sorted(os.listxattr(path, follow_symlinks=False))
            },
        }
        if stat.S_ISDIR(status.st_mode):
            for inner in sorted(os.listdir(path)):
                look(f"{path}/{inner}", f"{name}/{inner}")
        else:
            groups.setdefault(status.st_ino, []).append(name)

    look(str(top), "")
    for names in groups.values():
        for name in names:
            found[name]["links"] = names
    return found


def _content(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_ranges(path: Path) -> list[tuple[int, int]]:
    """Return the ranges of a file that are no holes."""
    ranges, offset = [], 0
    with path.open("rb") as file:
        while offset < os.fstat(file.fileno()).st_size:
            try:
                start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            ranges.append((start, offset))
    return ranges
