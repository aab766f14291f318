"""The dm-verity superblock and hash tree, which follow a signed image.

Only the variant that packages use: format version 1, hash type 1 (the salt precedes the data),
sha256, 4096-byte data and hash blocks. Level 0 of the tree contains the digests of the data blocks,
128 per block. Each further level contains the digests of the blocks of the level below, up to a
level of one block, the root. On disk the root comes first. The root digest is the digest of the
root block; for data of a single block it is the digest of that block, and there is no tree.

Source: the kernel's admin-guide/device-mapper/verity.rst, and the on-disk format that
cryptsetup's veritysetup writes (its wiki page DMVerity).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from northstar.model import PackageError, VerificationError

if TYPE_CHECKING:
    from concurrent.futures import Future

BLOCK_SIZE: Final = 4096
"""Size of data and hash blocks, in bytes."""

DIGEST_SIZE: Final = 32
SALT_SIZE: Final = 32
"""Size of a salt of `packing`, in bytes. Salts of other tools have 0 to 256."""

SUPERBLOCK_SIZE: Final = BLOCK_SIZE
"""Space of the superblock before the tree, in bytes."""

_MAGIC: Final = b"verity\0\0"
_SALT_MAX: Final = 256
_ALGORITHM: Final = b"sha256"
# signature, version, hash_type, uuid, algorithm, data_block_size, hash_block_size, data_blocks,
# salt_size, padding, salt; the rest of the block is zero.
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s")
_FAN_OUT: Final = BLOCK_SIZE // DIGEST_SIZE

_CHUNK: Final = 1 << 20
"""Bytes that one thread hashes at a time: a multiple of _FAN_OUT blocks, to fill hash blocks."""

_THREADS_MAX: Final = 4

Sink = Callable[[int, bytes], object]
"""`sink(offset, block)` stores a finished hash block. `offset` counts from the tree's start."""


class Superblock(NamedTuple):
    """The variable fields of the superblock.

    Attributes:
        uuid: 16 bytes that identify the hash device; the kernel ignores them.
        data_blocks: number of blocks of 4096 bytes that the tree covers.
        salt: 0 to 256 bytes that precede each block in its digest.
    """

    uuid: bytes
    data_blocks: int
    salt: bytes

    def encode(self) -> bytes:
        """Return the superblock as one block of 4096 bytes."""
        fields = (self.uuid, _ALGORITHM, BLOCK_SIZE, BLOCK_SIZE, self.data_blocks)
        head = _SUPERBLOCK.pack(_MAGIC, 1, 1, *fields, len(self.salt), self.salt)
        return head.ljust(SUPERBLOCK_SIZE, b"\0")

    @classmethod
    def decode(cls, block: bytes) -> Self:
        """Read a superblock.

        Raises:
            VerificationError: it is not a superblock, or has unsupported parameters.
        """
        if len(block) < _SUPERBLOCK.size or not block.startswith(_MAGIC):
            raise VerificationError("no verity superblock follows the image")
        _, version, kind, uuid, algorithm, data, tree, blocks, size, salt = _SUPERBLOCK.unpack_from(
            block
        )
        parameters = (version, kind, algorithm.rstrip(b"\0"), data, tree)
        if parameters != (1, 1, _ALGORITHM, BLOCK_SIZE, BLOCK_SIZE):
            raise VerificationError(
                "the verity superblock has unsupported parameters (supported: version 1, hash "
                f"type 1, sha256, blocks of {BLOCK_SIZE} bytes)"
            )
        if size > _SALT_MAX:
            raise VerificationError(f"the salt of the verity superblock is too long ({size} bytes)")
        if not 0 < blocks < 1 << 52:
            raise VerificationError(f"the verity superblock covers {blocks} blocks")
        return cls(uuid, blocks, salt[:size])


class Level(NamedTuple):
    """One level of a tree: its offset from the tree's start, in bytes, and its number of blocks."""

    offset: int
    blocks: int


def levels(data_blocks: int) -> list[Level]:
    """Return the levels of the tree over `data_blocks` blocks, from the data up to the root."""
    counts: list[int] = []
    below = data_blocks
    while below > 1:
        below = -(-below // _FAN_OUT)
        counts.append(below)
    return [Level(sum(counts[i + 1 :]) * BLOCK_SIZE, count) for i, count in enumerate(counts)]


def tree_size(data_blocks: int) -> int:
    """Return the size of the tree over `data_blocks` blocks, without the superblock, in bytes."""
    return sum(level.blocks for level in levels(data_blocks)) * BLOCK_SIZE


def digest(block: bytes, salt: bytes) -> bytes:
    """Return the digest of one data or hash block."""
    return hashlib.sha256(salt + block).digest()


def build(chunks: Iterable[bytes], data_blocks: int, salt: bytes, sink: Sink) -> bytes:
    """Hash the data, pass each finished hash block to `sink`, and return the root digest.

    It needs constant memory: a block per level, and a few chunks for the threads.

    Args:
        chunks: the data, `data_blocks` blocks, from `read_chunks`.
        data_blocks: size of the data, in blocks of 4096 bytes; at least 1.
        salt: 0 to 256 bytes.
        sink: called in no particular order of offsets.
    """
    tree = _Tree(levels(data_blocks), salt, sink)
    for digests in _hashed(chunks, data_blocks, salt):
        tree.add(digests)
    return tree.finish()


def read_chunks(fd: int, offset: int, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of a file from `offset` on, in chunks for `build`.

    Raises:
        PackageError: the file is too short: it became shorter after its size was checked.
    """
    end = offset + size
    while offset < end:
        wanted = min(_CHUNK, end - offset)
        chunk = os.pread(fd, wanted, offset)
        while len(chunk) < wanted:
            more = os.pread(fd, wanted - len(chunk), offset + len(chunk))
            if not more:
                raise PackageError("the file became shorter while it was read")
            chunk += more
        yield chunk
        offset += wanted


def _hashed(chunks: Iterable[bytes], data_blocks: int, salt: bytes) -> Iterator[bytes]:
    """Yield the digests of the data blocks in order, hashed by a few threads.

    hashlib releases the GIL for blocks of this size, so threads help: two are about 1.5 times as
    fast as one.
    """
    # Copying a context that contains the salt takes two thirds of the time of a new context.
    context = hashlib.sha256(salt)

    def hash_chunk(chunk: bytes) -> bytes:
        view = memoryview(chunk)
        digests = []
        for start in range(0, len(view), BLOCK_SIZE):
            hasher = context.copy()
            hasher.update(view[start : start + BLOCK_SIZE])
            digests.append(hasher.digest())
        return b"".join(digests)

    threads = min(_THREADS_MAX, os.cpu_count() or 1)
    if data_blocks * BLOCK_SIZE <= 2 * _CHUNK or threads == 1:
        yield from map(hash_chunk, chunks)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads, thread_name_prefix="verity") as pool:
        running: deque[Future[bytes]] = deque()
        for chunk in chunks:
            running.append(pool.submit(hash_chunk, chunk))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


class _Tree:
    """Collects digests into the blocks of all levels at once."""

    def __init__(self, shape: list[Level], salt: bytes, sink: Sink) -> None:
        self._salt = salt
        self._sink = sink
        self._offsets = [level.offset for level in shape]
        # The last element collects the root digest.
        self._pending = [bytearray() for _ in range(len(shape) + 1)]

    def add(self, digests: bytes, level: int = 0) -> None:
        pending = self._pending[level]
        pending += digests
        if level == len(self._offsets):
            return
        while len(pending) >= BLOCK_SIZE:
            block = bytes(pending[:BLOCK_SIZE])
            del pending[:BLOCK_SIZE]
            self._emit(block, level)

    def finish(self) -> bytes:
        """Pad and emit the incomplete blocks, from level 0 up, and return the root digest."""
        for level, pending in enumerate(self._pending[:-1]):
            if pending:
                block = bytes(pending).ljust(BLOCK_SIZE, b"\0")
                pending.clear()
                self._emit(block, level)
        root = bytes(self._pending[-1])
        assert len(root) == DIGEST_SIZE, "the data has another number of blocks than announced"
        return root

    def _emit(self, block: bytes, level: int) -> None:
        self._sink(self._offsets[level], block)
        self._offsets[level] += BLOCK_SIZE
        self.add(digest(block, self._salt), level + 1)
