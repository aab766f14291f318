"""The archive reader: one test per rule; any other bytes give a PackageError."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.model import PackageError
from northstar.npk import archive
from tests.unit.npk import parts


def parse(data: bytes) -> archive.Directory:
    def read(offset: int, size: int) -> bytes:
        # The reader must never read beyond the end.
        assert 0 <= offset <= offset + size <= len(data)
        return data[offset : offset + size]

    return archive.parse(read, len(data))


def replaced(old: bytes, new: bytes, *, last: bool = False, data: bytes | None = None) -> bytes:
    """Return the valid archive (or `data`) with the first or last `old` replaced by `new`."""
    data = data or parts.archive()
    assert old in data
    at = data.rindex(old) if last else data.index(old)
    return data[:at] + new + data[at + len(old) :]


def patched(magic: bytes, offset: int, value: int, size: int, *, last: bool = False) -> bytes:
    """Return the valid archive with a changed number in the first or last header of a kind."""
    data = bytearray(parts.archive())
    at = (data.rindex(magic) if last else data.index(magic)) + offset
    data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def test_entries():
    directory = parse(parts.archive())
    assert directory.comment == parts.COMMENT
    manifest, image = directory.entries["manifest.yaml"], directory.entries["fs.img"]
    assert (manifest.size, manifest.crc) == (len(parts.MANIFEST), zlib.crc32(parts.MANIFEST))
    assert (image.size, image.offset) == (4096, 4096)


def test_order_does_not_matter():
    entries = [("fs.img", parts.IMAGE), ("manifest.yaml", parts.MANIFEST)]
    assert parse(parts.archive(entries)).entries.keys() == {"fs.img", "manifest.yaml"}


@pytest.mark.parametrize("comment", [b"", b"x" * archive.COMMENT_MAX])
def test_comment_is_returned(comment: bytes):
    assert parse(parts.archive(comment=comment)).comment == comment


def test_offset_that_looks_like_an_end_record(tmp_path: Path):
    """The directory of an image of some 100 MB can be at 0x06054b50: the end record's magic."""
    start = int.from_bytes(END, "little")
    size = start - 4096
    head = archive.local_header("manifest.yaml", 0, 0)
    place = len(head)
    extra = archive.padding(place + archive.header_size("fs.img"), 4096)
    head += archive.local_header("fs.img", 0, size, extra)
    entries = [
        archive.Entry("manifest.yaml", 0, 0, 0, 0, place),
        archive.Entry("fs.img", 0, 0, size, place, 4096),
    ]
    trailer = archive.trailer(entries, parts.COMMENT)
    assert trailer.count(END) == 2
    with open(tmp_path / "sparse", "w+b", buffering=0) as file:
        file.write(head)
        os.pwrite(file.fileno(), trailer, start)
        directory = archive.parse(
            lambda offset, count: os.pread(file.fileno(), count, offset), start + len(trailer)
        )
    assert directory.entries["fs.img"] == entries[1]


INVALID = {
    "empty": (b"", "not a package"),
    "end record only": (END + bytes(18), "is missing"),
    "bytes before": (b"#!" + parts.archive(), "central directory is not at the offset"),
    "bytes behind": (parts.archive() + b"x", "not a package"),
    "comment too long": (parts.archive(comment=b"x" * (archive.COMMENT_MAX + 1)), "not a package"),
    "no manifest": (parts.archive([("fs.img", parts.IMAGE)]), "manifest.yaml is missing"),
    "no image": (parts.archive([("manifest.yaml", b"")]), "fs.img is missing"),
    "unaligned": (parts.archive(align=512), "multiple of 4096"),
    "compressed": (parts.archive(method=zipfile.ZIP_DEFLATED), "is compressed"),
    "foreign entry": (
        parts.archive([("manifest.yaml", b""), ("\x1b[2J", b""), ("fs.img", b"")]),
        "is not allowed",
    ),
    "case of a name": (parts.archive([("Manifest.yaml", b""), ("fs.img", b"")]), "is not allowed"),
    "local name": (replaced(b"manifest.yaml", b"manifest.yamL"), "headers of manifest.yaml differ"),
    "central name": (
        replaced(b"manifest.yaml", b"manifest.yamL", last=True),
        "is not allowed",
    ),
    "local method": (patched(LOCAL, 8, 8, 2), "headers of manifest.yaml differ"),
    "local flags": (patched(LOCAL, 6, 0x800, 2), "headers of manifest.yaml differ"),
    "local crc": (patched(LOCAL, 14, 1, 4), "headers of manifest.yaml differ"),
    "local packed size": (patched(LOCAL, 18, 1, 4), "headers of manifest.yaml differ"),
    "local size": (patched(LOCAL, 22, 1, 4), "headers of manifest.yaml differ"),
    "local magic": (patched(LOCAL, 0, 0, 1), "no local header"),
    "encrypted": (patched(CENTRAL, 8, 1, 2), "encrypted or streamed"),
    "streamed": (patched(CENTRAL, 8, 8, 2), "encrypted or streamed"),
    "central method": (patched(CENTRAL, 10, 12, 2), "is compressed"),
    "central size": (patched(CENTRAL, 24, 5, 4), "is compressed"),
    "central magic": (patched(CENTRAL, 0, 0, 1), "directory is damaged"),
    "central disk": (patched(CENTRAL, 34, 1, 2), "split"),
    "same place": (patched(CENTRAL, 42, 0, 4, last=True), "does not start at the end"),
    "place beyond": (patched(CENTRAL, 42, 0xFFFF_FFF0, 4, last=True), "does not start at the end"),
    "extra too long": (patched(CENTRAL, 30, 0xFFFF, 2, last=True), "directory is cut off"),
    "local extra too long": (patched(LOCAL, 28, 0xFFFF, 2, last=True), "fs.img is cut off"),
    "end: disk": (patched(END, 4, 1, 2), "split"),
    "end: entries here": (patched(END, 8, 1, 2), "split"),
    "end: directory's size": (patched(END, 12, 7, 4), "central directory is not at the offset"),
    "end: directory's offset": (patched(END, 16, 7, 4), "central directory is not at the offset"),
    "end: ZIP64": (patched(END, 16, 0xFFFF_FFFF, 4), "ZIP64"),
    "end: comment's length": (patched(END, 20, 3, 2), "not a package"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str):
    data, reason = INVALID[name]
    with pytest.raises(PackageError, match=reason):
        parse(data)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("twice", ["manifest.yaml", "fs.img"])
def test_duplicate(twice: str):
    entries = [("manifest.yaml", parts.MANIFEST), ("fs.img", parts.IMAGE), (twice, b"")]
    with pytest.raises(PackageError, match=f"{twice} is duplicated"):
        parse(parts.archive(entries))


def test_entry_count_of_the_end_record():
    data = bytearray(parts.archive())
    at = data.rindex(END)
    data[at + 8] = data[at + 10] = 3
    with pytest.raises(PackageError, match="differ in the number of entries"):
        parse(bytes(data))


def test_too_large():
    with pytest.raises(PackageError, match="4 GiB"):
        archive.parse(lambda _offset, _size: b"", 1 << 32)


def test_bytes_between_entries():
    """Another reader could read an entry in a gap."""
    data = parts.archive()
    at = data.index(LOCAL, 4)
    # One more byte, with all offsets after it adjusted.
    forged = bytearray(data[:at] + b"x" + data[at:])
    second = forged.rindex(CENTRAL)
    for where in (second + 42, forged.rindex(END) + 16):
        value = int.from_bytes(forged[where : where + 4], "little") + 1
        forged[where : where + 4] = value.to_bytes(4, "little")
    with pytest.raises(PackageError, match="bytes between entries"):
        parse(bytes(forged))


def shifted(data: bytes, at: int, extra: bytes, *, size: int) -> bytes:
    """Insert bytes before or into the directory, and adjust the end record."""
    forged = bytearray(data[:at] + extra + data[at:])
    end = forged.rindex(END)
    for where, add in ((end + 12, size), (end + 16, len(extra) - size)):
        value = int.from_bytes(forged[where : where + 4], "little") + add
        forged[where : where + 4] = value.to_bytes(4, "little")
    return bytes(forged)


def test_bytes_before_the_directory():
    data = parts.archive()
    with pytest.raises(PackageError, match="between the last entry and the central"):
        parse(shifted(data, data.index(CENTRAL), b"x", size=0))


@pytest.mark.parametrize("extra", [b"x", bytes(45), CENTRAL + bytes(41)])
def test_bytes_after_the_directory(extra: bytes):
    data = parts.archive()
    with pytest.raises(PackageError, match="directory is cut off"):
        parse(shifted(data, data.rindex(END), extra, size=len(extra)))


def test_directory_in_place_of_entries():
    entry = archive.Entry("fs.img", 0, 0, 0, 0, 0)
    with pytest.raises(PackageError, match=r"fs\.img lies outside"):
        parse(archive.trailer([entry], b""))


def test_a_large_directory_is_not_read():
    """An end record with a directory size of a gigabyte must not cause such a read."""
    size = 1 << 30
    end = END + bytes(8) + size.to_bytes(4, "little") + bytes(6)

    def read(_: int, count: int) -> bytes:
        assert count < 1 << 20
        return (bytes(count) + end)[-count:]

    with pytest.raises(PackageError, match="central directory is not at the offset"):
        archive.parse(read, size + len(end))


def test_text_is_checked():
    data = replaced(b"1.2.3", b"1.2.4")
    entry = parse(data).entries["manifest.yaml"]
    with pytest.raises(PackageError, match="damaged"):
        archive.read_text(lambda offset, size: data[offset : offset + size], entry)


def test_text_has_a_limit():
    entry = archive.Entry("manifest.yaml", 0, 0, archive.TEXT_MAX + 1, 0, 43)
    with pytest.raises(PackageError, match="too large"):
        archive.read_text(lambda _offset, _size: b"", entry)


@given(st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject):
    """With flipped bytes in headers it is refused, or all offsets are inside of the file."""
    good = parts.archive()
    positions = st.integers(0, 120) | st.integers(4096 + 4096, len(good) - 1)
    changed = bytearray(good)
    for position in data.draw(st.lists(positions, min_size=1, max_size=4)):
        changed[position] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        changed = changed[: data.draw(st.integers(0, len(changed)))]
    try:
        directory = parse(bytes(changed))
    except PackageError:
        return
    assert directory.entries.keys() <= set(archive.NAMES)
    for entry in directory.entries.values():
        assert 0 <= entry.header < entry.offset <= entry.end <= len(changed)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes):
    with pytest.raises(PackageError):
        parse(data)


@given(
    st.binary(max_size=100),
    st.binary(max_size=100),
    st.none() | st.binary(max_size=100),
    st.binary(max_size=60).filter(lambda comment: END not in comment),
)
def test_round_trip(manifest: bytes, image: bytes, signature: bytes | None, comment: bytes):
    """The standard library and this reader read the written archive."""
    texts = [("manifest.yaml", manifest)]
    texts += [] if signature is None else [("signature.yaml", signature)]
    data, entries = b"", []
    for name, text in texts:
        start = len(data)
        data += archive.local_header(name, zlib.crc32(text), len(text))
        entries.append(archive.Entry(name, 0, zlib.crc32(text), len(text), start, len(data)))
        data += text
    start = len(data)
    extra = archive.padding(start + archive.header_size("fs.img"), 4096)
    data += archive.local_header("fs.img", zlib.crc32(image), len(image), extra)
    entries.append(archive.Entry("fs.img", 0, zlib.crc32(image), len(image), start, len(data)))
    data += image + archive.trailer(entries, comment)
    directory = parse(data)
    assert list(directory.entries.values()) == entries
    assert directory.comment == comment
    reader = zipfile.ZipFile(io.BytesIO(data))
    assert reader.testzip() is None
    assert reader.comment == comment
    assert {name: reader.read(name) for name in reader.namelist()} == {
        **dict(texts),
        "fs.img": image,
    }
