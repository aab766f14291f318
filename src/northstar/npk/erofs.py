"""Checks the names in an EROFS image before a tool extracts it.

Sources: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. fsck.erofs (1.5) does not
check names, so a name like `../../x` is written outside of the target directory. Only directories
are read here, which are never compressed. Unknown features are refused: the check is worthless if
the tool reads a directory in another way.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.model import PackageError

_SUPERBLOCK: Final = 1024
"""Offset of the superblock, in bytes."""
_MAGIC: Final = 0xE0F5E1E2
# magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time,
# build_time_nsec, blocks, meta_blkaddr, xattr_blkaddr, uuid, volume_name, feature_incompat,
# available_compr_algs, extra_devices, devt_slotoff, dirblkbits
_SUPER: Final = struct.Struct("<3I2BH2Q4I16s16sI3HB")
_FEATURES: Final = 0x7F
"""Incompatible features that do not change directories: those of Linux 6.4."""

_COMPACT: Final = struct.Struct("<4H4I2HI")
"""i_format, i_xattr_icount, i_mode, i_nlink, i_size, i_reserved, i_u, i_ino, i_uid, i_gid, ..."""
_EXTENDED: Final = struct.Struct("<4HQI4x2I32x")
"""i_format, i_xattr_icount, i_mode, i_reserved, i_size, i_u, i_uid, i_gid, and others."""
_SLOT: Final = 32
"""Size of an inode slot. Inode numbers (nid) count slots, from the block meta_blkaddr on."""
_PLAIN, _INLINE = 0, 2
"""The layouts (i_format, bits 1 to 3) that a directory can have."""
_XATTR_HEADER, _XATTR_ENTRY = 12, 4

_DIRENT: Final = struct.Struct("<QHBB")
"""nid, nameoff, file_type, reserved."""

_NAME_MAX: Final = 255
_PATH_MAX: Final = 4096
_SHOWN_MAX: Final = 100


class Entry(NamedTuple):
    """One name in the image.

    Attributes:
        path: without a leading slash.
        mode, uid, gid: of its inode.
        size: of its data, in bytes.
        device: number of a device node, as the kernel encodes it (new_encode_dev); 0 for others.
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    device: int


class _Inode(NamedTuple):
    mode: int
    uid: int
    gid: int
    size: int
    device: int
    layout: int
    data: int
    tail: int


def entries(path: str) -> list[Entry]:
    """Return all entries of an image, without its root directory.

    It checks that each name is a file name, that names in a directory differ, and that each
    directory has a single name. So each path names one file, inside of the image.

    Args:
        path: a file with the image at offset 0. No other process must change it.

    Raises:
        PackageError: a name is not a file name, or the image cannot be checked.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < _SUPERBLOCK + _SUPER.size:
            raise _damaged("it is too short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return list(_Image(data).entries())


class _Image:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        fields = _SUPER.unpack_from(data, _SUPERBLOCK)
        magic, bits, root, meta, features = (fields[index] for index in (0, 3, 5, 10, 14))
        if magic != _MAGIC:
            raise _damaged("it has no superblock")
        if features & ~_FEATURES or fields[18] or not 9 <= bits <= 16:
            raise PackageError(
                f"the names in the EROFS image cannot be checked: it has features ({features:#x}) "
                "that this release does not support",
                hint="mount the image instead of unpacking it, or use a newer release",
            )
        self._block = 1 << bits
        self._meta = meta << bits
        self._root = root

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of all directories. Iterative, since nesting is not bounded."""
        pending = [(self._root, b"")]
        seen = {self._root}
        left = len(self._data)
        while pending:
            nid, above = pending.pop()
            directory = self._inode(nid)
            if not stat.S_ISDIR(directory.mode):
                raise _damaged("its root is not a directory")
            # Directories must not share data, else a small image could contain endless names.
            left -= directory.size
            if left < 0:
                raise _damaged("its directories are larger than the image")
            names: set[bytes] = set()
            for child, name in self._names(directory, above):
                if name in names:
                    raise _damaged(f"two files have the name {_shown(above + name)}")
                names.add(name)
                if name in (b".", b".."):
                    continue
                inode = self._inode(child)
                mode = inode.mode
                yield Entry(above + name, mode, inode.uid, inode.gid, inode.size, inode.device)
                if stat.S_ISDIR(mode):
                    if child in seen:
                        raise _damaged(f"the directory {_shown(above + name)} has two names")
                    seen.add(child)
                    pending.append((child, above + name + b"/"))

    def _names(self, directory: _Inode, above: bytes) -> Iterator[tuple[int, bytes]]:
        for start in range(0, directory.size, self._block):
            block = self._read_block(directory, start)
            first = self._dirent(block, 0)[1]
            if first % _DIRENT.size or not 0 < first <= len(block):
                raise _damaged(f"the directory /{_shown(above)} has no valid first entry")
            found = [self._dirent(block, at) for at in range(0, first, _DIRENT.size)]
            last = found[-1][1]
            # The last name ends with the block, or at a NUL before.
            ends = [*(offset for _, offset in found[1:]), (block + b"\0").find(b"\0", last)]
            for (nid, offset), end in zip(found, ends, strict=True):
                name = block[offset:end] if first <= offset < end <= len(block) else b""
                if not name or len(name) > _NAME_MAX or b"/" in name or b"\0" in name:
                    raise _damaged(f"{_shown(name)} in /{_shown(above)} is not a file name")
                if len(above) + len(name) >= _PATH_MAX:
                    raise PackageError(
                        f"the EROFS image has paths of more than {_PATH_MAX} bytes, below "
                        f"/{_shown(above)}",
                        hint="mount the image instead of unpacking it",
                    )
                yield nid, name

    def _dirent(self, block: bytes, at: int) -> tuple[int, int]:
        if at + _DIRENT.size > len(block):
            raise _damaged("a directory is cut off")
        nid, offset, _, _ = _DIRENT.unpack_from(block, at)
        return nid, offset

    def _read_block(self, directory: _Inode, start: int) -> bytes:
        size = min(self._block, directory.size - start)
        # With the layout `inline` the last block follows the inode.
        inline = directory.layout == _INLINE and start + size == directory.size
        at = directory.tail if inline else directory.data + start
        return self._read(at, size)

    def _inode(self, nid: int) -> _Inode:
        at = self._meta + nid * _SLOT
        head = self._read(at, _COMPACT.size)
        form = int.from_bytes(head[:2], "little")
        if form & 1:
            fields = _EXTENDED.unpack(self._read(at, _EXTENDED.size))
            _, xattrs, mode, _, size, raw, uid, gid = fields
            at += _EXTENDED.size
        else:
            _, xattrs, mode, _, size, _, raw, _, uid, gid, _ = _COMPACT.unpack(head)
            at += _COMPACT.size
        layout = form >> 1 & 7
        if stat.S_ISDIR(mode) and layout not in (_PLAIN, _INLINE):
            raise _damaged(f"a directory has an invalid layout ({layout})")
        if xattrs:
            at += _XATTR_HEADER + (xattrs - 1) * _XATTR_ENTRY
        device = raw if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        return _Inode(mode, uid, gid, size, device, layout, raw * self._block, at)

    def _read(self, at: int, size: int) -> bytes:
        data = self._data[at : at + size]
        if len(data) < size:
            raise _damaged("it is cut off")
        return data


def _damaged(reason: str) -> PackageError:
    return PackageError(
        f"the EROFS image is damaged or malicious: {reason}",
        hint="do not use this package",
    )


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    text = text if len(text) <= _SHOWN_MAX else f"...{text[-_SHOWN_MAX:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
