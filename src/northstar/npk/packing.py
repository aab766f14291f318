"""Creates packages. The image is written once, directly into the package.

mksquashfs writes the image first, after space for the headers. One pass over the image computes CRC
and hash tree. Then the tree, the headers and the central directory are written. Until it is synced,
the package has a temporary name in the directory of the result; an error or Ctrl-C removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Self

import msgspec

from northstar.manifest import Manifest, dumps, loads_with_warnings
from northstar.model import ManifestError, Name, PackageError
from northstar.npk import archive, hash_tree, image, mountpoints, signature
from northstar.npk.archive import Entry
from northstar.npk.filesystem import FileSystem
from northstar.npk.package import FORMAT_VERSION
from northstar.npk.signature import Hashes

CLONES_MAX: Final = 10_000

_COMMENT: Final = f"version: {FORMAT_VERSION}\n".encode()
_COPY_CHUNK: Final = 64 << 20

Path = str | os.PathLike[str]


class Packed(NamedTuple):
    """The result of `pack`.

    Attributes:
        paths: the packages; more than one only for clones.
        warnings: sentences for the user.
    """

    paths: tuple[str, ...]
    warnings: tuple[str, ...]


class _Image(NamedTuple):
    """A finished fs.img: size with the verity data, and the values for headers and signature."""

    size: int
    crc: int
    verity_offset: int
    root_digest: bytes


Fill = Callable[[str, int, int], _Image]
"""`fill(path, fd, offset)` writes fs.img into the file, from `offset` on."""

Progress = Callable[[int, int], None]
"""`progress(done, total)` receives the number of bytes of the root that were read, and of all."""


def pack(
    manifest: Manifest | Path,
    root: Path | None,
    out: Path,
    *,
    key: bytes | None = None,
    compression: str | None = None,
    block_size: int | None = None,
    salt: bytes | None = None,
    clones: int | None = None,
    mksquashfs: str | None = None,
    fs: FileSystem = "squashfs",
    progress: Progress | None = None,
) -> Packed:
    """Create a package, or `clones` of them. After a failure no package exists.

    The same input, key and salt give the same bytes. SOURCE_DATE_EPOCH in the environment replaces
    later times of files.

    Args:
        manifest: the manifest, or the path of its text.
        root: directory with the container's files; None for an empty one.
        out: the package's path, or a directory for NAME-VERSION.npk.
        key: 32-byte seed to sign with; None for a package without signature and hash tree.
        compression: `none`, `gzip` (default), `lzo`, `xz` or `zstd`; for EROFS `none`, `lz4` or
            `lz4hc` (default).
        block_size: block size of the squashfs image, in bytes: a power of two from 4096 to 1 MiB.
        salt: 32 bytes for the hash tree; None for random ones.
        clones: number of packages to create in the directory `out`, with the names NAME-0, NAME-1
            and so on; a resource is created once, with its name.
        mksquashfs: path of the program; None for the one in PATH.
        fs: the file system of the image.
        progress: called several times a second with the number of bytes of the root that were
            read, and of all.

    Raises:
        PackageError: input or options are refused, or the image tool failed.
        HostError: a tool is missing.
        OSError: a file cannot be read or written.
    """
    value, ignored = (manifest, ()) if isinstance(manifest, Manifest) else _load(manifest)
    salt = os.urandom(hash_tree.SALT_SIZE) if salt is None else salt
    if len(salt) != hash_tree.SALT_SIZE:
        raise PackageError(
            f"a salt has {hash_tree.SALT_SIZE} bytes, not {len(salt)}",
            hint=f"write {2 * hash_tree.SALT_SIZE} hexadecimal digits, or leave it out",
        )
    source = None if root is None else _directory(root)
    watch = None
    if progress is not None and source is not None:
        watch = _watch(progress, content_size(source))
    recipe = _recipe(value, source, compression, block_size, watch)
    maker = _Maker(recipe, fs, mksquashfs, salt if key is not None else None, value.name.encode())
    with _Destination() as destination:
        for clone, path in _targets(value, os.fspath(out), clones):
            if source is not None and os.path.commonpath([source, path]) == source:
                raise PackageError(
                    f"{path} is inside of the root directory to pack",
                    hint="write the package elsewhere",
                )
            destination.write(path, dumps(clone).encode(), maker.fill, key)
        paths = destination.commit()
    return Packed(paths, (*ignored, *maker.warnings))


def pack_into(fd: int, manifest: Manifest, root: Path | None) -> tuple[str, ...]:
    """Create an unsigned package, without compression, in an empty file that is open.

    The file may be in memory (memfd_create(2)), so that nothing is written to a disk.

    Args:
        fd: the file, open for reading and writing.
        manifest: the manifest.
        root: directory with the container's files; None for an empty one.

    Returns:
        Warnings for the user.

    Raises:
        PackageError: the root is refused, or mksquashfs failed.
        HostError: mksquashfs is missing.
        OSError: a file cannot be read or written.
    """
    source = None if root is None else _directory(root)
    maker = _Maker(_recipe(manifest, source, "none"), "squashfs", None, None, b"")
    # The descriptor of this process: mksquashfs does not inherit it.
    path = f"/proc/{os.getpid()}/fd/{fd}"
    _write(path, fd, dumps(manifest).encode(), maker.fill, None)
    return tuple(maker.warnings)


def _recipe(
    manifest: Manifest,
    root: str | None,
    compression: str | None,
    block_size: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> image.Recipe:
    return image.Recipe(
        root=root,
        additions=mountpoints.plan(mountpoints.mount_points(manifest), root),
        uid=manifest.uid,
        gid=manifest.gid,
        compression=compression,
        block_size=block_size,
        selinux=manifest.selinux.mount_context if manifest.selinux is not None else None,
        watch=watch,
    )


def content_size(root: str) -> int:
    """Return the size of all files below a directory, in bytes.

    Unreadable files do not count; the image tool reports them.
    """
    # Not os.walk, which is recursive in Python 3.11.
    size = 0
    pending = [root]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    size += entry.stat(follow_symlinks=False).st_size
    return size


def _watch(progress: Progress, total: int) -> Callable[[int], None]:
    # A tool also reads its output (to find duplicates), so it may read more than `total`.
    return lambda read: progress(min(read, total), total)


class _Maker:
    """Creates one image and copies it to every package: clones differ only in their manifests."""

    def __init__(
        self,
        recipe: image.Recipe,
        fs: FileSystem,
        mksquashfs: str | None,
        salt: bytes | None,
        seed: bytes,
    ) -> None:
        self.warnings: list[str] = []
        self._recipe = recipe
        self._fs = fs
        self._mksquashfs = mksquashfs
        self._salt = salt
        self._seed = seed
        self._first: tuple[str, int, _Image] | None = None

    def fill(self, path: str, fd: int, offset: int) -> _Image:
        """Write fs.img into the file `fd`, which is at `path`, from `offset` on."""
        if self._first is not None:
            source, start, image_ = self._first
            _copy_file(source, start, fd, offset, image_.size)
            return image_
        if self._fs == "squashfs":
            self.warnings += image.squashfs(self._recipe, path, offset, self._mksquashfs)
        else:
            self.warnings += _erofs(self._recipe, path, fd, offset, self._seed)
        image_ = _finish_image(fd, offset, self._salt)
        self._first = path, offset, image_
        return image_


class _Destination:
    """Files that are renamed to their final names together, or removed."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._files: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, path: str, manifest: bytes, fill: Fill, key: bytes | None) -> None:
        """Write the package for `path` under a temporary name."""
        directory, name = os.path.split(path)
        temporary = os.path.join(directory, f".{name[:200]}.{os.urandom(6).hex()}.part")
        with _named(temporary, path):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            self._stack.callback(_remove, temporary)
            try:
                _write(temporary, fd, manifest, fill, key)
                os.fsync(fd)
            finally:
                os.close(fd)
        self._files.append((temporary, path))

    def commit(self) -> tuple[str, ...]:
        """Rename all files to their final names."""
        done: list[str] = []
        try:
            for temporary, path in self._files:
                os.rename(temporary, path)
                done.append(path)
        except BaseException:
            for path in done:
                _remove(path)
            raise
        for directory in {os.path.dirname(path) for path in done}:
            _sync_directory(directory)
        return tuple(done)


@contextlib.contextmanager
def _named(temporary: str, path: str) -> Iterator[None]:
    """Name the package in errors by its path: its temporary name means nothing to the user."""
    try:
        yield
    except OSError as error:
        # Calls on its descriptor name no file.
        if error.filename not in (None, temporary):
            raise
        raise OSError(error.errno, error.strerror or str(error), path) from error
    except PackageError as error:
        # A tool names its output.
        if temporary not in error.message:
            raise
        raise type(error)(error.message.replace(temporary, path), hint=error.hint) from error


def _write(path: str, fd: int, manifest: bytes, fill: Fill, key: bytes | None) -> None:
    """Write a whole package into the empty file `fd`, which is at `path`."""
    if len(manifest) > archive.TEXT_MAX:
        raise PackageError(
            f"the manifest of {len(manifest)} bytes is too large (at most {archive.TEXT_MAX})"
        )
    room = archive.header_size(archive.MANIFEST_NAME) + len(manifest)
    if key is not None:
        room += archive.header_size(archive.SIGNATURE_NAME) + signature.DOCUMENT_MAX
    room += archive.header_size(archive.FS_IMG_NAME) + archive.PADDING_MIN
    offset = -(-room // archive.ALIGNMENT) * archive.ALIGNMENT
    finished = fill(path, fd, offset)
    if offset + finished.size > archive.SIZE_MAX - archive.ALIGNMENT:
        raise PackageError("the package would be larger than 4 GiB, which readers refuse")
    texts = [(archive.MANIFEST_NAME, manifest)]
    if key is not None:
        hashes = Hashes(
            manifest=hashlib.sha256(manifest).hexdigest(),
            meta=hashlib.sha256(_COMMENT).hexdigest(),
            verity=finished.root_digest.hex(),
            verity_offset=finished.verity_offset,
        )
        texts.append((archive.SIGNATURE_NAME, signature.render(hashes, key)))
    head, entries = b"", []
    for name, text in texts:
        crc, start = zlib.crc32(text), len(head)
        head += archive.local_header(name, crc, len(text))
        entries.append(Entry(name, 0, crc, len(text), start, len(head)))
        head += text
    name, start = archive.FS_IMG_NAME, len(head)
    extra = archive.padding(start + archive.header_size(name), offset)
    head += archive.local_header(name, finished.crc, finished.size, extra)
    entries.append(Entry(name, 0, finished.crc, finished.size, start, offset))
    assert len(head) == offset, "the headers do not fill the space before the image"
    _pwrite(fd, head, 0)
    _pwrite(fd, archive.trailer(entries, _COMMENT), offset + finished.size)


def _finish_image(fd: int, offset: int, salt: bytes | None) -> _Image:
    """Pad the image at the end of the file; with a salt, append the hash tree."""
    size = os.fstat(fd).st_size - offset
    if size <= 0:
        raise PackageError("the image tool wrote no image")
    size = -(-size // hash_tree.BLOCK_SIZE) * hash_tree.BLOCK_SIZE
    os.ftruncate(fd, offset + size)
    crc = 0

    def checked() -> Iterator[bytes]:
        nonlocal crc
        for chunk in hash_tree.read_chunks(fd, offset, size):
            crc = zlib.crc32(chunk, crc)
            yield chunk

    if salt is None:
        for _ in checked():
            pass
        return _Image(size, crc, size, b"")
    blocks = size // hash_tree.BLOCK_SIZE
    tree = offset + size + hash_tree.SUPERBLOCK_SIZE
    root = hash_tree.build(
        checked(), blocks, salt, lambda position, block: _pwrite(fd, block, tree + position)
    )
    # The UUID is derived from salt and root digest: equal packages have equal UUIDs.
    identity = hashlib.sha256(b"northstar verity" + salt + root).digest()[:16]
    _pwrite(fd, hash_tree.Superblock(identity, blocks, salt).encode(), offset + size)
    whole = size + hash_tree.SUPERBLOCK_SIZE + hash_tree.tree_size(blocks)
    for chunk in hash_tree.read_chunks(fd, offset + size, whole - size):
        crc = zlib.crc32(chunk, crc)
    return _Image(whole, crc, size, root)


def _erofs(recipe: image.Recipe, path: str, fd: int, offset: int, seed: bytes) -> list[str]:
    """Create an EROFS image beside the package, and copy it: mkfs.erofs has no offset option."""
    temporary = f"{path}.erofs"
    try:
        warnings = image.erofs(recipe, temporary, seed)
        _copy_file(temporary, 0, fd, offset, os.stat(temporary).st_size)
    finally:
        _remove(temporary)
    return warnings


def _targets(manifest: Manifest, out: str, clones: int | None) -> Iterator[tuple[Manifest, str]]:
    """Yield the manifest and the path of each package."""
    if clones is None or manifest.init is None:
        if clones is not None and not os.path.isdir(out):
            raise _no_directory(out)
        yield manifest, _target(out, manifest)
        return
    if not 1 <= clones <= CLONES_MAX:
        raise PackageError(
            f"{clones} clones cannot be made (1 to {CLONES_MAX})",
            hint="give a number in this range",
        )
    if not os.path.isdir(out):
        raise _no_directory(out)
    digits = len(str(clones))
    for number in range(clones):
        name = Name(f"{manifest.name}-{number:0{digits}}")
        if manifest.service is not None and name in manifest.service.after:
            raise PackageError(f"service.after: {name} is the name of a clone")
        clone = msgspec.structs.replace(manifest, name=name)
        yield clone, _target(out, clone)


def _target(out: str, manifest: Manifest) -> str:
    # Links are resolved, so that the rename replaces the target of a link, not the link.
    out = os.path.realpath(out)
    if os.path.isdir(out):
        return os.path.join(out, f"{manifest.name}-{manifest.version}.npk")
    if not os.path.isdir(os.path.dirname(out)):
        raise _no_directory(os.path.dirname(out))
    if os.path.lexists(out) and not stat.S_ISREG(os.lstat(out).st_mode):
        raise PackageError(f"{out} exists and is not a regular file", hint="choose another name")
    return out


def _no_directory(path: str) -> PackageError:
    return PackageError(f"{path} is not a directory", hint="create it first")


def _load(path: Path) -> tuple[Manifest, tuple[str, ...]]:
    with open(path, "rb") as file:
        raw = file.read(archive.TEXT_MAX + 1)
    try:
        return loads_with_warnings(raw)
    except ManifestError as error:
        raise PackageError(f"{os.fspath(path)}: {error.message}", hint=error.hint) from error


def _directory(path: Path) -> str:
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise PackageError(f"{os.fspath(path)} is not a directory", hint="give the root directory")
    return os.path.realpath(path)


def _copy_file(path: str, start: int, destination: int, offset: int, size: int) -> None:
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _copy(source, start, destination, offset, size)
    finally:
        os.close(source)


def _copy(source: int, start: int, destination: int, offset: int, size: int) -> None:
    """Copy between files; blocks are shared if the file system can (copy_file_range(2))."""
    end = start + size
    while start < end:
        wanted = min(_COPY_CHUNK, end - start)
        try:
            done = os.copy_file_range(source, destination, wanted, start, offset)
        except OSError:
            # EXDEV, EOPNOTSUPP, EINVAL: not supported by these file systems.
            done = _pwrite(destination, os.pread(source, min(wanted, 1 << 20), start), offset)
        if not done:
            raise PackageError("the image became shorter while it was copied")
        start += done
        offset += done


def _pwrite(fd: int, data: bytes, offset: int) -> int:
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(fd, view[written:], offset + written)
    return written


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
