"""The ZIP archive of a package: up to three stored entries in a fixed layout.

General ZIP readers tolerate errors, so two readers can see different packages in one file. This
reader accepts a single layout: entries without gaps from the first byte on, then the central
directory, then the end record with the comment at the end of the file. Entries are addressed by
offset and size; names are never used as paths.

Source: APPNOTE.TXT 6.3.10, .ZIP File Format Specification; sections 4.3.7 (local file header),
4.3.12 (central directory), 4.3.16 (end of central directory record).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

from northstar.model import PackageError

MANIFEST_NAME: Final = "manifest.yaml"
SIGNATURE_NAME: Final = "signature.yaml"
FS_IMG_NAME: Final = "fs.img"
NAMES: Final = (MANIFEST_NAME, SIGNATURE_NAME, FS_IMG_NAME)
"""All entries that a package may have, in the order in which they are written."""

TEXT_MAX: Final = 1 << 20
"""Largest manifest or signature, in bytes."""

COMMENT_MAX: Final = 256
"""Longest archive comment, in bytes. That of `packing` has 15."""

ALIGNMENT: Final = 4096
"""The data of fs.img starts at a multiple of this: a page, and the largest block of an image."""

SIZE_MAX: Final = 0xFFFF_FFFE
"""Largest package, in bytes. 0xffffffff in a size or offset would mean ZIP64."""

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<4sHHHHIIH")
_LOCAL_MAGIC: Final = b"PK\x03\x04"
_CENTRAL_MAGIC: Final = b"PK\x01\x02"
_END_MAGIC: Final = b"PK\x05\x06"

_STORED: Final = 0
_FLAG_UTF8: Final = 0x800
# Version 1.0 suffices for stored entries; the upper byte names Unix for the file mode below.
_VERSION: Final = 10
_MADE_BY: Final = 3 << 8 | _VERSION
_MODE: Final = 0o100644 << 16
_DATE_1980: Final = 1 << 5 | 1
"""1 January 1980, the earliest date of the format: packages do not depend on the current time."""

# The extra field by which archivers pad for alignment: id, size, the alignment, zeros.
_PADDING: Final = struct.Struct("<HHH")
_PADDING_ID: Final = 0xA11E

_BY_BYTES: Final = {name.encode(): name for name in NAMES}
_CENTRAL_MAX: Final = len(NAMES) * (_CENTRAL.size + 3 * 0xFFFF)

Read = Callable[[int, int], bytes]
"""`read(offset, size)` returns exactly `size` bytes of the file, or raises PackageError."""


class Entry(NamedTuple):
    """One entry.

    Attributes:
        name: one of `NAMES`.
        flags: the general purpose flags.
        crc: CRC-32 of the data.
        size: size of the data, in bytes.
        header: offset of the local header in the file.
        offset: offset of the data in the file.
    """

    name: str
    flags: int
    crc: int
    size: int
    header: int
    offset: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the data."""
        return self.offset + self.size


class Directory(NamedTuple):
    """The comment of an archive, and its entries by name."""

    comment: bytes
    entries: dict[str, Entry]


def parse(read: Read, size: int) -> Directory:
    """Read the directory of an archive of `size` bytes and check its whole layout.

    Raises:
        PackageError: it is not an archive with this layout.
    """
    if size > SIZE_MAX:
        raise PackageError("it is larger than 4 GiB, which a package must not be (ZIP64)")
    end, comment, count, directory_size, directory = _end_record(read, size)
    if directory_size > _CENTRAL_MAX or directory + directory_size != end:
        raise PackageError(
            "the central directory is not at the offset in the end record "
            "(bytes before or after the archive, or a damaged file)"
        )
    central = _central(read(directory, directory_size), count)
    entries: dict[str, Entry] = {}
    position = 0
    for entry in sorted(central, key=lambda entry: entry.header):
        if entry.header != position:
            raise PackageError(
                f"{entry.name} does not start at the end of the entry before it "
                "(overlapping entries, or bytes between entries)"
            )
        entry = _local(read, entry, directory)
        entries[entry.name] = entry
        position = entry.end
    if position != directory:
        raise PackageError("there are bytes between the last entry and the central directory")
    for name in (MANIFEST_NAME, FS_IMG_NAME):
        if name not in entries:
            raise PackageError(f"{name} is missing")
    if entries[FS_IMG_NAME].offset % ALIGNMENT:
        raise PackageError(f"the data of {FS_IMG_NAME} does not start at a multiple of {ALIGNMENT}")
    return Directory(comment, entries)


def read_text(read: Read, entry: Entry) -> bytes:
    """Return the data of a small entry (manifest or signature).

    Raises:
        PackageError: it is too large, or its CRC does not match.
    """
    if entry.size > TEXT_MAX:
        raise PackageError(
            f"{entry.name} of {entry.size} bytes is too large (at most {TEXT_MAX} bytes)"
        )
    data = read(entry.offset, entry.size)
    if zlib.crc32(data) != entry.crc:
        raise PackageError(f"{entry.name} is damaged (its CRC does not match)")
    return data


def _end_record(read: Read, size: int) -> tuple[int, bytes, int, int, int]:
    """Return offset and comment of the end record, number of entries, directory size and offset."""
    start = max(0, size - _END.size - COMMENT_MAX)
    tail = read(start, size - start)
    # The first record whose comment reaches the end of the file is the outermost one. A comment
    # that contains a second record is refused later, as a comment without a version.
    position = tail.find(_END_MAGIC)
    while 0 <= position <= len(tail) - _END.size:
        _, disk, first, here, count, length, offset, comment = _END.unpack_from(tail, position)
        if position + _END.size + comment == len(tail):
            if offset == 0xFFFF_FFFF or length == 0xFFFF_FFFF or count == 0xFFFF:
                raise PackageError("it is a ZIP64 archive, which a package must not be")
            if disk or first or here != count:
                raise PackageError("it is one part of a split archive")
            return start + position, tail[position + _END.size :], count, length, offset
        position = tail.find(_END_MAGIC, position + 1)
    raise PackageError(
        "it is not a package, or its end is missing (no ZIP end record at the end of the file)"
    )


def _central(data: bytes, count: int) -> list[Entry]:
    entries: list[Entry] = []
    position = 0
    while position < len(data):
        if len(data) - position < _CENTRAL.size:
            raise PackageError("the central directory is cut off")
        fields = _CENTRAL.unpack_from(data, position)
        magic, _, _, flags, method, _, _, crc, packed, size = fields[:10]
        name_length, extra, comment, disk, _, _, header = fields[10:]
        if magic != _CENTRAL_MAGIC:
            raise PackageError("the central directory is damaged")
        start = position + _CENTRAL.size
        position = start + name_length + extra + comment
        if position > len(data):
            raise PackageError("the central directory is cut off")
        name = _name(data[start : start + name_length])
        if any(entry.name == name for entry in entries):
            raise PackageError(f"{name} is duplicated")
        _check_stored(name, method, flags, packed, size)
        if disk:
            raise PackageError("it is one part of a split archive")
        entries.append(Entry(name, flags, crc, size, header, 0))
    if len(entries) != count:
        raise PackageError("the end record and the directory differ in the number of entries")
    return entries


def _local(read: Read, entry: Entry, limit: int) -> Entry:
    """Compare the local header with the central one. Return the entry with the data's offset."""
    name = entry.name.encode()
    if entry.header + _LOCAL.size + len(name) > limit:
        raise PackageError(f"{entry.name} lies outside of the archive")
    data = read(entry.header, _LOCAL.size + len(name))
    magic, _, flags, method, _, _, crc, packed, size, length, extra = _LOCAL.unpack_from(data)
    if magic != _LOCAL_MAGIC:
        raise PackageError(f"{entry.name} has no local header at the offset in the directory")
    local = (data[_LOCAL.size :], length, flags, method, crc, packed, size)
    if local != (name, len(name), entry.flags, _STORED, entry.crc, entry.size, entry.size):
        raise PackageError(f"the two headers of {entry.name} differ")
    offset = entry.header + len(data) + extra
    if offset + size > limit:
        raise PackageError(f"{entry.name} is cut off")
    return Entry(entry.name, entry.flags, entry.crc, entry.size, entry.header, offset)


def _name(raw: bytes) -> str:
    name = _BY_BYTES.get(raw)
    if name is not None:
        return name
    shown = raw[:64].decode("utf-8", "backslashreplace")
    raise PackageError(f"the entry {shown!r} is not allowed in a package")


def _check_stored(name: str, method: int, flags: int, packed: int, size: int) -> None:
    if method != _STORED or packed != size:
        raise PackageError(f"{name} is compressed (a package's entries are stored)")
    # Bit 0 is encryption; with bit 3 the sizes follow the data. Both are refused.
    if flags & ~_FLAG_UTF8:
        raise PackageError(f"{name} is encrypted or streamed (flags {flags:#06x})")


def local_header(name: str, crc: int, size: int, extra: bytes = b"") -> bytes:
    """Return the local header of a stored entry with `size` bytes of data."""
    raw = name.encode()
    fields = (_VERSION, 0, _STORED, 0, _DATE_1980, crc, size, size, len(raw), len(extra))
    return _LOCAL.pack(_LOCAL_MAGIC, *fields) + raw + extra


def padding(position: int, offset: int) -> bytes:
    """Return the extra field that moves data from `position` to `offset`.

    `offset - position` is at least `PADDING_MIN` and less than 64 KiB.
    """
    length = offset - position
    head = _PADDING.pack(_PADDING_ID, length - 4, ALIGNMENT)
    return head + bytes(length - len(head))


PADDING_MIN: Final = _PADDING.size
"""Size of the smallest extra field that `padding` can make, in bytes."""


def header_size(name: str) -> int:
    """Return the size of an entry's local header without its extra field, in bytes."""
    return _LOCAL.size + len(name)


def trailer(entries: list[Entry], comment: bytes) -> bytes:
    """Return the central directory and end record for `entries`, which are in file order."""
    directory = b""
    for entry in entries:
        raw = entry.name.encode()
        times = (0, _DATE_1980)
        fields = (_MADE_BY, _VERSION, entry.flags, _STORED, *times, entry.crc, entry.size)
        rest = (entry.size, len(raw), 0, 0, 0, 0, _MODE, entry.header)
        directory += _CENTRAL.pack(_CENTRAL_MAGIC, *fields, *rest) + raw
    count = len(entries)
    where = (len(directory), entries[-1].end, len(comment))
    return directory + _END.pack(_END_MAGIC, 0, 0, count, count, *where) + comment
