"""Compares two packages: manifests, files and sizes."""

from __future__ import annotations

import filecmp
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from northstar.manifest import to_builtins
from northstar.npk import erofs, staging, tools, unpacking
from northstar.npk.package import Npk

ABSENT: Final = object()
"""Stands for the value of a field that a manifest does not have."""

_LINE: Final = re.compile(
    # As in squashfs.py, with numbers instead of names (-lln).
    r"([-dlcbps])([-rwxsStT]{9}) +([0-9]+)/([0-9]+) +([0-9]+|[0-9]+, *[0-9]+) "
    r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2} squashfs-root(?:/(.*))?\Z"
)
_ARROW: Final = " -> "
_SPECIAL: Final = (("sS", stat.S_ISUID), ("sS", stat.S_ISGID), ("tT", stat.S_ISVTX))


class FieldChange(NamedTuple):
    """A field of the manifest with its two values; `ABSENT` if a manifest does not have it."""

    path: str
    old: Any
    new: Any


class FileChange(NamedTuple):
    """A file that differs.

    Attributes:
        path: absolute, in the container.
        old, new: its description in the two packages; None if it is not in that package.
        content: whether content, target of the link or device number differ.
    """

    path: str
    old: FileInfo | None
    new: FileInfo | None
    content: bool = False


class FileInfo(NamedTuple):
    """What an image says about a file: the letter of its type as in ls(1), and its inode."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    device: str


class Difference(NamedTuple):
    """The result of `compare`. Empty lists, and equal pairs, mean that the packages are the same.

    Attributes:
        fields: of the manifests.
        files: sorted by path.
        package, image: sizes of the packages, and of their fs.img, in bytes.
        signed: whether they are signed.
        filesystem: of their images.
    """

    fields: list[FieldChange]
    files: list[FileChange]
    package: tuple[int, int]
    image: tuple[int, int]
    signed: tuple[bool, bool]
    filesystem: tuple[str, str]

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        pairs = (self.package, self.image, self.signed, self.filesystem)
        return not self.fields and not self.files and all(a == b for a, b in pairs)


def compare(old: Npk, new: Npk, *, unsquashfs: str | None = None) -> Difference:
    """Compare two packages.

    Times of files and the salt of the hash tree are not compared. The files are extracted to a
    temporary directory, unless the images are equal.

    Raises:
        PackageError: an image is damaged, or a tool failed.
        HostError: a tool is missing.
        OSError: there is no space for the files.
    """
    return Difference(
        compare_fields(to_builtins(old.manifest), to_builtins(new.manifest)),
        [] if _same_image(old, new) else _compare_files(old, new, unsquashfs),
        (old.size, new.size),
        (old.fsimg_size, new.fsimg_size),
        (old.signed, new.signed),
        (old.filesystem, new.filesystem),
    )


def compare_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[FieldChange]:
    """Compare two serialised manifests. Lists are compared as a whole."""
    return list(_fields("", old, new))


def _fields(above: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[FieldChange]:
    for key in [*old, *(key for key in new if key not in old)]:
        path = f"{above}.{key}" if above else key
        a, b = old.get(key, ABSENT), new.get(key, ABSENT)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _fields(path, a, b)
        # 1, 1.0 and true are equal in Python, but not in a manifest.
        elif repr(a) != repr(b):
            yield FieldChange(path, a, b)


def _same_image(old: Npk, new: Npk) -> bool:
    if old.fsimg_size != new.fsimg_size:
        return False
    return all(a == b for a, b in zip(old.read_image(), new.read_image(), strict=True))


def _compare_files(old: Npk, new: Npk, unsquashfs: str | None) -> list[FileChange]:
    a, b = _files(old, unsquashfs), _files(new, unsquashfs)
    changes = []
    with staging.directory() as stage:
        roots = [os.path.join(stage, name) for name in ("old", "new")]
        for package, root, files in zip((old, new), roots, (a, b), strict=True):
            unpacking.extract(package, root, unsquashfs)
            _make_readable(root, files)
        for path in sorted(a.keys() | b.keys()):
            one, other = a.get(path), b.get(path)
            if one is None or other is None:
                changes.append(FileChange(f"/{path}", one, other))
                continue
            first, second = (os.path.join(root, path) for root in roots)
            content = one.kind == other.kind and not _same_content(first, second, one, other)
            if one._replace(size=0) != other._replace(size=0) or content:
                changes.append(FileChange(f"/{path}", one, other, content))
    return changes


def _same_content(a: str, b: str, one: FileInfo, other: FileInfo) -> bool:
    if one.kind == "-":
        return one.size == other.size and filecmp.cmp(a, b, shallow=False)
    if one.kind == "l":
        return os.readlink(a) == os.readlink(b)
    return one.device == other.device


def _make_readable(root: str, files: Mapping[str, FileInfo]) -> None:
    """Let this user read the extracted files, parents first: root can anyway."""
    if os.geteuid() == 0:
        return
    for path in sorted(files):
        if files[path].kind in "-d":
            os.chmod(os.path.join(root, path), 0o700)


def _files(npk: Npk, unsquashfs: str | None) -> dict[str, FileInfo]:
    """Return the files of the image, without its root, by path."""
    if npk.filesystem == "squashfs":
        tool = tools.find("unsquashfs", unsquashfs)
        path = f"/proc/self/fd/{npk.fileno()}"
        command = [tool, "-lln", "-offset", str(npk.fsimg_offset), path]
        listing, _ = tools.run(command, pass_fds=[npk.fileno()])
        return parse_listing(listing)
    with unpacking.image_file(npk) as image:
        return {
            os.fsdecode(entry.path): FileInfo(
                stat.filemode(entry.mode)[0],
                stat.S_IMODE(entry.mode),
                entry.uid,
                entry.gid,
                entry.size if stat.S_ISREG(entry.mode) else 0,
                _device(entry.device) if stat.filemode(entry.mode)[0] in "bc" else "",
            )
            for entry in erofs.entries(image)
        }


def _device(encoded: int) -> str:
    """Return major and minor number of new_encode_dev (linux/kdev_t.h)."""
    return f"{encoded >> 8 & 0xFFF},{encoded & 0xFF | encoded >> 12 & 0xFFF00}"


def parse_listing(listing: str) -> dict[str, FileInfo]:
    """Parse the output of `unsquashfs -lln`.

    A name with a line feed is cut there: such a file is compared by its first line only.
    """
    files = {}
    for line in listing.split("\n"):
        match = _LINE.match(line)
        if match is None or match[6] is None:
            continue
        kind, mode, uid, gid, size, path = match.groups()
        if kind == "l":
            path = path.split(_ARROW)[0]
        device = size.replace(" ", "") if "," in size else ""
        number = int(size) if kind == "-" else 0
        files[path] = FileInfo(kind, _mode(mode), int(uid), int(gid), number, device)
    return files


def _mode(text: str) -> int:
    """Return the number of a mode such as `rwsr-xr-t`."""
    mode = 0
    for index, letter in enumerate(text):
        letters, special = _SPECIAL[index // 3]
        if index % 3 == 2 and letter in letters:
            mode |= special
        if letter not in "-ST":
            mode |= 0o400 >> index
    return mode
