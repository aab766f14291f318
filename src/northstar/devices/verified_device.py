"""Makes a block device of a signed image. The device never returns data that was altered.

Each repository uses one of two methods (`verity` in the configuration, docs/decisions/verity.md):

- `dm`: a dm-verity device on a loop device on the package. The kernel checks each block when it is
  read from the disk; an altered block is an I/O error.
- `full`: for kernels without device-mapper. The image is copied into memory, sealed, hashed as a
  whole, compared with the signed root digest, and mounted from there.

There is no fallback: an image that cannot be verified as configured is not mounted.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from northstar.devices import mapped_device
from northstar.devices.loop_device import Attach
from northstar.devices.mapped_device import MappedDevice
from northstar.linux import devicemapper, loop, memfd
from northstar.linux.devicemapper import Target
from northstar.model import HostError, PackageError, VerificationError, Verity
from northstar.npk import Hashes, Npk, Superblock, hash_tree

_SEALED: Final = memfd.F_SEAL_WRITE | memfd.F_SEAL_SHRINK | memfd.F_SEAL_GROW
_CORRUPTED: Final = "C"
_COPY_MAX: Final = 1 << 30
"""Bytes that one sendfile(2) copies; the kernel's limit is below 2 GiB."""


@contextlib.contextmanager
def attached(package: Npk, run_dir: str, how: Verity, attach: Attach) -> Iterator[str]:
    """Make a block device of the verified image of `package`; yield the path of its node.

    The device exists while the block runs, and then while it is mounted. An OSError of mount(2)
    in the block is replaced by a VerificationError if a damaged image is its cause.

    Args:
        package: opened with a key.
        run_dir: of this runtime; it identifies the runtime in the device's name.
        how: the method.
        attach: binds a loop device.

    Raises:
        HostError: the kernel lacks a feature for `how`.
        VerificationError: the image is not what was signed.
        OSError: a step failed, with its path; no device is left behind.
    """
    if package.hashes is None or package.superblock is None:
        raise PackageError(f"{package.container} was opened without a key: it is not verified")
    if how == "full":
        with _full(package, package.hashes, package.superblock, attach) as path:
            yield path
    else:
        with _dm(package, package.hashes, package.superblock, run_dir, attach) as path:
            yield path


@contextlib.contextmanager
def _dm(
    package: Npk, hashes: Hashes, superblock: Superblock, run_dir: str, attach: Attach
) -> Iterator[str]:
    name = f"{_prefix(run_dir)}{os.urandom(8).hex()}"
    with contextlib.ExitStack() as stack:
        backing = stack.enter_context(
            attach(package.fileno(), offset=package.fsimg_offset, sizelimit=package.fsimg_size)
        )
        target = table(hashes, superblock, f"{loop.LOOP_MAJOR}:{backing.minor}")
        try:
            mapped = stack.enter_context(mapped_device.attach(name, target))
        except OSError as failure:
            if _is_missing_feature(failure):
                raise _missing_feature(failure) from failure
            raise
        try:
            _read_first_block(mapped)
            yield mapped.path
        except OSError as failure:
            if mapped.status() == _CORRUPTED:
                raise _altered(package) from failure
            raise


def table(hashes: Hashes, superblock: Superblock, backing: str) -> Target:
    """Return the dm-verity target over an image (the kernel's device-mapper/verity.rst).

    Size and digest are the signed ones; the salt was checked against the digest when the package
    was opened. There are no optional parameters, so an altered block is an I/O error (not a reboot,
    not a log entry), also if it is altered after its first read.

    Args:
        hashes: the signed hashes.
        superblock: of the package, checked when the package was opened.
        backing: `major:minor` of the device that contains data, superblock and tree.
    """
    blocks = hashes.verity_offset // hash_tree.BLOCK_SIZE
    parameters = (
        *(1, backing, backing, hash_tree.BLOCK_SIZE, hash_tree.BLOCK_SIZE, blocks),
        # The tree begins after the superblock. A single block has no tree: the kernel compares
        # that block with the root digest.
        (hashes.verity_offset + hash_tree.SUPERBLOCK_SIZE) // hash_tree.BLOCK_SIZE,
        *("sha256", hashes.verity, superblock.salt.hex() or "-"),
    )
    length = hashes.verity_offset // devicemapper.SECTOR
    return Target(0, length, "verity", " ".join(map(str, parameters)))


def _read_first_block(mapped: MappedDevice) -> None:
    """Check that the device works: this read verifies the tree from the root to a data block."""
    # Without readahead: it would read more blocks, which check nothing more.
    os.posix_fadvise(mapped.fd, 0, 0, os.POSIX_FADV_RANDOM)
    try:
        os.pread(mapped.fd, hash_tree.BLOCK_SIZE, 0)
    except OSError as failure:
        raise OSError(failure.errno, failure.strerror, mapped.path) from None
    if mapped.status() == _CORRUPTED:
        raise OSError(errno.EIO, os.strerror(errno.EIO), mapped.path)


def _missing_feature(failure: OSError) -> HostError:
    return HostError(
        "the packages of this repository are verified by dm-verity, which this kernel does not "
        f"have ({failure.strerror}: {failure.filename})",
        hint="load the module dm-verity, use a kernel with CONFIG_DM_VERITY, or set "
        'verity = "full" for the repository',
    )


def _is_missing_feature(failure: OSError) -> bool:
    absent = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EOPNOTSUPP)
    return failure.filename == devicemapper.CONTROL and failure.errno in absent


@contextlib.contextmanager
def _full(package: Npk, hashes: Hashes, superblock: Superblock, attach: Attach) -> Iterator[str]:
    size = hashes.verity_offset
    with contextlib.ExitStack() as stack:
        image, offset = package.fileno(), package.fsimg_offset
        if not _is_sealed(image):
            image, offset = _sealed_copy(image, offset, size), 0
            stack.callback(os.close, image)
        # Only now, since a sealed image cannot change after the check.
        _verify(package, hashes, superblock, image, offset)
        yield stack.enter_context(attach(image, offset=offset, sizelimit=size)).path


def _is_sealed(fd: int) -> bool:
    try:
        return memfd.seals(fd) & _SEALED == _SEALED
    except OSError:
        return False  # a file on a disk has no seals


def _sealed_copy(fd: int, offset: int, size: int) -> int:
    # losetup(8) shows this name as the backing file of the loop device.
    copy = memfd.create(f"northstar-image-{os.getpid()}")
    try:
        end = offset + size
        while offset < end:
            # The kernel copies from page cache to page cache.
            copied = os.sendfile(copy, fd, offset, min(end - offset, _COPY_MAX))
            if not copied:
                raise PackageError("the package became shorter while it was read")
            offset += copied
        memfd.seal(copy)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _verify(package: Npk, hashes: Hashes, superblock: Superblock, image: int, offset: int) -> None:
    # The tree in the package is not used: the root digest is computed from the data.
    chunks = hash_tree.read_chunks(image, offset, hashes.verity_offset)
    blocks = hashes.verity_offset // hash_tree.BLOCK_SIZE
    root = hash_tree.build(chunks, blocks, superblock.salt, lambda _offset, _block: None)
    if root.hex() != hashes.verity:
        raise _altered(package)


def _altered(package: Npk) -> VerificationError:
    return VerificationError(
        f"the image of {package.container} is not what was signed",
        hint="the package is damaged or was altered: install it again",
    )


def remove_stale(run_dir: str) -> tuple[list[str], list[OSError]]:
    """Remove the devices of a runtime that was killed while it created them.

    The kernel removes mounted ones at their unmount.

    Returns:
        The names of the devices that are or will be removed, and the failures of the others.
    """
    return mapped_device.remove_all(_prefix(run_dir))


def _prefix(run_dir: str) -> str:
    """Return the common prefix of the names of this runtime's devices.

    Device names are shared by the whole machine, across containers in which paths may be equal. So
    device and inode of `run_dir`, which the runtime has locked, identify the runtime.
    """
    status = os.stat(run_dir)
    return f"northstar-{status.st_dev:x}-{status.st_ino:x}-"
