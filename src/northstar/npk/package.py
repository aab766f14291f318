"""Reads packages. Each part is checked before it is used."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, final

from northstar.linux.descriptor import Closing
from northstar.manifest import Manifest, loads_with_warnings
from northstar.model import Container, ManifestError, PackageError, VerificationError, Version
from northstar.model.text import UNNAMED_PACKAGE
from northstar.npk import archive, filesystem, hash_tree, signature
from northstar.npk.filesystem import FileSystem
from northstar.npk.hash_tree import Superblock
from northstar.npk.signature import Hashes

FORMAT_VERSION: Final = Version(0, 9, 2)
"""The format version of packages made by `packing`."""

_OLDEST: Final = Version(0, 9, 0)
_COMMENT: Final = re.compile(r"version: *(?:'([^'\"\s]+)'|\"([^'\"\s]+)\"|([^'\"\s]+)) *\n?\Z")

# With padding to 4096 and short texts, all parts except the image are within the first and the last
# two pages: two reads suffice for a package.
_WINDOW: Final = 2 * 4096

Source = str | os.PathLike[str] | int | BinaryIO


@final
class Npk(Closing):
    """An open package. It owns a descriptor: close it, or use it as a context manager.

    Attributes:
        manifest: the manifest.
        version: the format version in the archive's comment.
        container: name and version of the manifest.
        fsimg_offset: offset of fs.img in the file, in bytes; a multiple of 4096.
        fsimg_size: size of fs.img (image and verity data), in bytes.
        size: size of the file, in bytes.
        hashes: the signed hashes; None if the package was opened without a key.
        superblock: the verity superblock; None if the package was opened without a key.
        signer: the public key that has signed it; None if the package was opened without a key.
        signed: whether it has a signature.yaml, checked or not.
        warnings: sentences about ignored fields of the manifest, for a log.
    """

    __slots__ = (
        "_entries",
        "_fd",
        "_filesystem",
        "_label",
        "container",
        "fsimg_offset",
        "fsimg_size",
        "hashes",
        "manifest",
        "signed",
        "signer",
        "size",
        "superblock",
        "version",
        "warnings",
    )

    manifest: Manifest
    version: Version
    container: Container
    fsimg_offset: int
    fsimg_size: int
    size: int
    hashes: Hashes | None
    superblock: Superblock | None
    signed: bool
    signer: bytes | None
    warnings: tuple[str, ...]

    def __init__(self, fd: int, label: str, public_keys: Sequence[bytes]) -> None:
        """Read and check the package of the descriptor `fd`, and take ownership of it.

        Use `open`, which closes `fd` if this fails.
        """
        self._fd = fd
        self._label = label
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise PackageError(
                "it is not a regular file", hint="name a package, as hello-1.0.0.npk"
            )
        self.size = status.st_size
        reader = _Reader(fd, self.size)
        directory = archive.parse(reader.read, self.size)
        self._entries = directory.entries
        image = directory.entries[archive.FS_IMG_NAME]
        self.fsimg_offset, self.fsimg_size = image.offset, image.size
        texts = {
            name: archive.read_text(reader.read, entry)
            for name, entry in directory.entries.items()
            if name != archive.FS_IMG_NAME
        }
        self.signed = archive.SIGNATURE_NAME in texts
        self.version = _version(directory.comment)
        self.hashes = self.superblock = self.signer = None
        if public_keys:
            self.hashes, self.signer = _verify_texts(texts, directory.comment, public_keys)
            self.superblock = self._verify_superblock(reader, self.hashes)
        self.manifest, self.warnings = _manifest(texts[archive.MANIFEST_NAME])
        self.container = Container(self.manifest.name, self.manifest.version)
        head = reader.read(image.offset, min(image.size, filesystem.MAGIC_SPAN))
        self._filesystem = filesystem.detect(head)

    @property
    def filesystem(self) -> FileSystem:
        """The file system of the image: `squashfs` or `erofs`.

        Raises:
            PackageError: its magic number is unknown.
        """
        if self._filesystem is None:
            raise PackageError(f"{self._label}: the image is neither squashfs nor EROFS")
        return self._filesystem

    def fileno(self) -> int:
        """Return the descriptor of the file. The package remains its owner.

        Raises:
            ValueError: the package was closed.
        """
        if self._fd < 0:
            raise ValueError(f"{self._label} was closed")
        return self._fd

    def close(self) -> None:
        """Close the descriptor; idempotent. The attributes stay valid."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def entries(self) -> list[archive.Entry]:
        """Return the entries in the order of the file."""
        return sorted(self._entries.values(), key=lambda entry: entry.header)

    def read_entry(self, name: str) -> bytes:
        """Return the bytes of `manifest.yaml` or `signature.yaml`.

        Raises:
            PackageError: the entry is missing or damaged.
        """
        entry = self._entries.get(name)
        if entry is None or name == archive.FS_IMG_NAME:
            raise PackageError(f"{self._label} has no {name} to read")
        return archive.read_text(_Reader(self.fileno(), self.size).read, entry)

    def read_image(self) -> Iterator[bytes]:
        """Yield fs.img in chunks of a mebibyte.

        Raises:
            PackageError: the file became shorter.
        """
        return hash_tree.read_chunks(self.fileno(), self.fsimg_offset, self.fsimg_size)

    def check_image(self) -> None:
        """Read all of fs.img and check its CRC. `open` does not.

        Raises:
            PackageError: it is damaged.
        """
        crc = 0
        for chunk in self.read_image():
            crc = zlib.crc32(chunk, crc)
        if crc != self._entries[archive.FS_IMG_NAME].crc:
            raise PackageError(f"{self._label}: fs.img is damaged (its CRC does not match)")

    def __repr__(self) -> str:
        return f"<Npk {self.container} of {self._label}>"

    def _verify_superblock(self, reader: _Reader, hashes: Hashes) -> Superblock:
        """Check that the verity data directly follows the image, and that its root matches.

        The superblock is not signed. The root digest proves its salt, the signed offset proves its
        number of blocks.
        """
        offset, size = hashes.verity_offset, self.fsimg_size
        if offset % hash_tree.BLOCK_SIZE or not 0 < offset <= size - hash_tree.SUPERBLOCK_SIZE:
            raise VerificationError(f"the signed verity offset {offset} is not within fs.img")
        base = self.fsimg_offset
        superblock = Superblock.decode(reader.read(base + offset, hash_tree.SUPERBLOCK_SIZE))
        blocks = superblock.data_blocks
        if blocks * hash_tree.BLOCK_SIZE != offset:
            raise VerificationError(
                f"the verity superblock covers {blocks} blocks, the image has "
                f"{offset // hash_tree.BLOCK_SIZE}"
            )
        tree = offset + hash_tree.SUPERBLOCK_SIZE
        if tree + hash_tree.tree_size(blocks) != size:
            raise VerificationError("the verity tree does not end where fs.img ends")
        top = tree if blocks > 1 else 0
        block = reader.read(base + top, hash_tree.BLOCK_SIZE)
        if hash_tree.digest(block, superblock.salt).hex() != hashes.verity:
            raise VerificationError("the root of the verity tree does not match the signed digest")
        return superblock


def open(  # noqa: A001 - npk.open, as gzip.open
    source: Source, key: bytes | Sequence[bytes] | None = None, *, label: str | None = None
) -> Npk:
    """Open a package and check it.

    The image is not read. With a key, the kernel's dm-verity or `verify_image` compares it with the
    signed root digest.

    Args:
        source: a path, or a file that is open for reading (a binary file object, or its
            descriptor). Its offset does not move, and the caller may close it afterwards: the
            package duplicates the descriptor.
        key: the 32-byte public key that must have signed it, or several, of which one must have;
            none for a trusted source, whose signature is ignored.
        label: names the package in errors; by default its path, or `the package`.

    Raises:
        PackageError: it is not a package, or breaks a rule.
        VerificationError: it is not signed, or not with this key.
        OSError: the file cannot be opened or read.
    """
    fd, known = _descriptor(source)
    label = label or known
    try:
        return Npk(fd, label, [key] if isinstance(key, bytes) else key or ())
    except PackageError as error:
        os.close(fd)
        hint = error.hint or "copy it again, or pack it again"
        raise type(error)(f"{label}: {error.message}", hint=hint) from error.__cause__
    except BaseException:
        os.close(fd)
        raise


def verify_image(npk: Npk) -> None:
    """Read the whole image, and compare it and its tree with the signed root digest.

    Raises:
        VerificationError: they differ.
        PackageError: the package was opened without a key, or became shorter.
    """
    if npk.hashes is None or npk.superblock is None:
        raise PackageError(f"{npk.container} was opened without a key: it cannot be verified")
    fd, salt = npk.fileno(), npk.superblock.salt
    offset = npk.hashes.verity_offset
    tree = npk.fsimg_offset + offset + hash_tree.SUPERBLOCK_SIZE

    def compare(position: int, block: bytes) -> None:
        if os.pread(fd, len(block), tree + position) != block:
            raise VerificationError(
                f"the image of {npk.container} is not what was signed",
                hint="the package is damaged or was altered: install it again",
            )

    chunks = hash_tree.read_chunks(fd, npk.fsimg_offset, offset)
    root = hash_tree.build(chunks, npk.superblock.data_blocks, salt, compare)
    if root.hex() != npk.hashes.verity:
        raise VerificationError(
            f"the image of {npk.container} does not match its signed root digest",
            hint="the package is damaged or was altered: install it again",
        )


class _Reader:
    """Reads a file at given offsets. Buffers its beginning and its end."""

    __slots__ = ("_fd", "_head", "_size", "_tail")

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._head = os.pread(fd, _WINDOW, 0)
        self._tail = os.pread(fd, _WINDOW, size - _WINDOW) if size > _WINDOW else b""

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset` on."""
        if offset + size <= len(self._head):
            return self._head[offset : offset + size]
        start = self._size - len(self._tail)
        if start <= offset and offset + size <= self._size:
            return self._tail[offset - start : offset - start + size]
        if offset + size > self._size:
            raise PackageError("the file is cut off")
        return b"".join(hash_tree.read_chunks(self._fd, offset, size))


def _descriptor(source: Source) -> tuple[int, str]:
    if isinstance(source, int):
        return os.dup(source), UNNAMED_PACKAGE
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), path
    try:
        fd = source.fileno()
    except io.UnsupportedOperation:
        raise PackageError("a package can be read only from a file with a descriptor") from None
    name = getattr(source, "name", None)
    return os.dup(fd), name if isinstance(name, str) else UNNAMED_PACKAGE


def _version(comment: bytes) -> Version:
    match = _COMMENT.match(comment.decode("ascii", "replace"))
    if match is None:
        raise PackageError("the archive's comment does not name the format's version")
    try:
        version = Version.parse(match[1] or match[2] or match[3])
    except ValueError:
        raise PackageError("the archive's comment does not name the format's version") from None
    if version < _OLDEST:
        raise PackageError(
            f"its format {version} is too old (at least {_OLDEST.major}.{_OLDEST.minor})",
            hint="pack it again",
        )
    return version


def _verify_texts(
    texts: dict[str, bytes], comment: bytes, public_keys: Sequence[bytes]
) -> tuple[Hashes, bytes]:
    document = texts.get(archive.SIGNATURE_NAME)
    if document is None:
        raise VerificationError(
            "it is not signed", hint="this repository has a key and accepts only signed packages"
        )
    hashes, signer = signature.verify_any(document, public_keys)
    if hashlib.sha256(comment).hexdigest() != hashes.meta:
        raise VerificationError("the archive's comment is not the one that was signed")
    if hashlib.sha256(texts[archive.MANIFEST_NAME]).hexdigest() != hashes.manifest:
        raise VerificationError("manifest.yaml is not the one that was signed")
    return hashes, signer


def _manifest(raw: bytes) -> tuple[Manifest, tuple[str, ...]]:
    try:
        return loads_with_warnings(raw.decode())
    except UnicodeDecodeError as error:
        raise PackageError(f"manifest.yaml is not UTF-8 (byte {error.start})") from None
    except ManifestError as error:
        raise PackageError(f"manifest.yaml: {error.message}", hint=error.hint) from error
