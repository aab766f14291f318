"""Creates file system images with mksquashfs and mkfs.erofs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from northstar.model import HostError, PackageError
from northstar.npk import staging, tools
from northstar.npk.mountpoints import PARENT_MODE, Addition

SQUASHFS_COMPRESSIONS: Final = ("none", "gzip", "lzo", "xz", "zstd")
EROFS_COMPRESSIONS: Final = ("none", "lz4", "lz4hc")

_BLOCK_MIN: Final = 4096
_BLOCK_MAX: Final = 1 << 20
_SHOWN_MAX: Final = 200
_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")


class Recipe(NamedTuple):
    """Content and options of an image; the same for both tools.

    Attributes:
        root: the directory with the files; None for an empty one.
        additions: additional files, parents first.
        uid, gid: owner and group of all files in the image.
        compression: one of the tool's `..._COMPRESSIONS`; None for the default.
        block_size: in bytes; None for the tool's default.
        selinux: the SELinux context of all files; None for no labels.
        watch: called several times a second with the number of bytes that the tool has read.
    """

    root: str | None
    additions: Sequence[Addition]
    uid: int
    gid: int
    compression: str | None = None
    block_size: int | None = None
    selinux: str | None = None
    watch: Callable[[int], None] | None = None


def squashfs(recipe: Recipe, path: str, offset: int, mksquashfs: str | None = None) -> list[str]:
    """Write a squashfs image into the file `path`, from `offset` on.

    The former content of the file is lost. The result depends on the recipe only: the times of the
    file system and of the additions are zero, or SOURCE_DATE_EPOCH.

    Returns:
        Warnings for the user.

    Raises:
        HostError: mksquashfs is missing, or too old.
        PackageError: it failed, or the recipe has an option that it does not support.
    """
    compression = _choose(recipe, SQUASHFS_COMPRESSIONS, "gzip", "squashfs")
    tool = tools.find("mksquashfs", mksquashfs)
    usage = tools.usage(tool)
    if "-offset" not in usage:
        raise HostError(
            f"{tool} is too old: it cannot write an image into a package (no option -offset)",
            hint="install squashfs-tools 4.4 or newer",
        )
    arguments = ["-noappend", "-no-progress", "-offset", str(offset)]
    # By default a file that cannot be read becomes an empty one, with a message on stderr.
    arguments += ["-exit-on-error"] if "-exit-on-error" in usage else []
    arguments += ["-force-uid", str(recipe.uid), "-force-gid", str(recipe.gid)]
    if compression == "none":
        arguments += ["-noI", "-noD", "-noF", "-noX"]
    else:
        arguments += ["-comp", compression]
    if recipe.block_size is not None:
        arguments += ["-b", str(recipe.block_size)]
    # SOURCE_DATE_EPOCH and options for times exclude each other.
    if "SOURCE_DATE_EPOCH" not in os.environ and "-mkfs-time" in usage:
        arguments += ["-mkfs-time", "0"]
    warnings = []
    if recipe.selinux is not None:
        if "-xattrs-add" in usage:
            # 0t means text: a context that starts with 0x or 0s would be decoded.
            arguments += ["-xattrs-add", f"security.selinux=0t{recipe.selinux}"]
        else:
            warnings.append(_no_labels(tool))
    timed = '"filename D time' in usage
    definitions = "".join(pseudo_definition(a, recipe, timed=timed) for a in recipe.additions)
    with _source(recipe.root) as source, _memory_file(definitions) as fd:
        command = [tool, source, path, *arguments, "-pf", f"/proc/self/fd/{fd}"]
        tools.run(command, pass_fds=[fd], watch=recipe.watch)
    return warnings


def pseudo_definition(addition: Addition, recipe: Recipe, *, timed: bool) -> str:
    """Return the line for `addition` in a pseudo file of mksquashfs.

    Raises:
        PackageError: the path has a character that such a line cannot contain.
    """
    kind, rest = "d", ""
    if addition.node is not None:
        kind, rest = "c", f" {addition.node.major} {addition.node.minor}"
    elif addition.link is not None:
        kind, rest = "s", f" {addition.link}"
    # The upper-case kinds have a time. Without it the images of two runs would differ.
    when = f"{kind.upper()} {_epoch()}" if timed else kind
    mode = f"{addition.mode:o} {recipe.uid} {recipe.gid}"
    return f"{_escaped(addition.path)} {when} {mode}{rest}\n"


def erofs(recipe: Recipe, path: str, seed: bytes) -> list[str]:
    """Write an EROFS image to the file `path`.

    mkfs.erofs has no pseudo files, so the root is staged, with hard links if possible.

    Args:
        recipe: content and options.
        path: the image; the former content of the file is lost.
        seed: source of the file system's UUID.

    Returns:
        Warnings for the user.

    Raises:
        HostError: mkfs.erofs is missing.
        PackageError: it failed, or the recipe has an option that it does not support.
    """
    compression = _choose(recipe, EROFS_COMPRESSIONS, "lz4hc", "EROFS")
    if recipe.block_size is not None:
        raise PackageError("an EROFS image has no option for the block size", hint="leave it out")
    tool = tools.find("mkfs.erofs")
    arguments = [f"--force-uid={recipe.uid}", f"--force-gid={recipe.gid}", f"-T{_epoch()}"]
    arguments += ["-U", str(uuid.UUID(bytes=hashlib.sha256(seed).digest()[:16], version=4))]
    arguments += [] if compression == "none" else [f"-z{compression}"]
    warnings: list[str] = []
    contexts = ""
    if recipe.selinux is not None:
        if "--file-contexts" in tools.usage(tool):
            contexts = f"/.* {recipe.selinux}\n/ {recipe.selinux}\n"
        else:
            warnings.append(_no_labels(tool))
    with staging.directory() as stage, _memory_file(contexts) as fd:
        if contexts:
            arguments.append(f"--file-contexts=/proc/self/fd/{fd}")
        root = os.path.join(stage, "root")
        warnings += _stage(recipe, root)
        tools.run([tool, *arguments, path, root], pass_fds=[fd], watch=recipe.watch)
    return warnings


def _no_labels(tool: str) -> str:
    return f"{tool} cannot label files for SELinux: the image has no labels"


def _choose(recipe: Recipe, known: Sequence[str], default: str, kind: str) -> str:
    if recipe.compression is not None and recipe.compression not in known:
        raise PackageError(
            f"{kind} has no compression {recipe.compression!r}",
            hint=f"take one of {', '.join(known)}",
        )
    size = recipe.block_size
    if size is not None and (not _BLOCK_MIN <= size <= _BLOCK_MAX or size & (size - 1)):
        raise PackageError(
            f"{size} is not a block size (a power of two from {_BLOCK_MIN} to {_BLOCK_MAX} bytes)",
            hint="leave it out, or write a power of two such as 131072",
        )
    return recipe.compression or default


def _epoch() -> int:
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
        raise PackageError(
            f"SOURCE_DATE_EPOCH={text} is not a time", hint="give seconds since 1970, below 2^32"
        )
    return int(text)


def _escaped(path: str) -> str:
    """Return a path for a pseudo file of mksquashfs, with special characters escaped."""
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise PackageError(f"the mount target {path!r} has a control character")
    return "".join(
        character if character in _SAFE or ord(character) > 127 else f"\\{character}"
        for character in path
    )


@contextlib.contextmanager
def _source(root: str | None) -> Iterator[str]:
    """Yield the root directory, or an empty one with mode 755."""
    if root is not None:
        yield root
        return
    with staging.directory() as directory:
        os.chmod(directory, PARENT_MODE)
        os.utime(directory, (_epoch(), _epoch()))
        yield directory


@contextlib.contextmanager
def _memory_file(text: str) -> Iterator[int]:
    """Yield the descriptor of a file in memory, which has no name to remove."""
    fd = os.memfd_create("northstar-npk")
    try:
        with open(fd, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        yield fd
    finally:
        os.close(fd)


def _stage(recipe: Recipe, stage: str) -> list[str]:
    """Build the tree of an EROFS image below `stage`."""
    if recipe.root is None:
        os.mkdir(stage)
        os.chmod(stage, PARENT_MODE)
    else:
        _copy_tree(recipe.root, stage)
    modes: dict[str, int] = {}
    missing: list[str] = []
    for addition in recipe.additions:
        path = stage + addition.path
        _make_writable(os.path.dirname(path), modes)
        if addition.link is not None:
            os.symlink(addition.link, path)
        elif addition.node is not None:
            device = os.makedev(addition.node.major, addition.node.minor)
            try:
                os.mknod(path, stat.S_IFCHR | addition.mode, device)
            except PermissionError:
                missing.append(addition.path)
                continue
            os.chmod(path, addition.mode)
        else:
            os.mkdir(path)
            modes[path] = addition.mode
    # Last, and inner directories first: without root the outer modes can deny access to them.
    for path, mode in reversed(modes.items()):
        os.chmod(path, mode)
    return _missing_nodes(missing)


def _make_writable(directory: str, modes: dict[str, int]) -> None:
    """Make a directory of the tree writable, and record its mode in `modes`."""
    mode = stat.S_IMODE(os.lstat(directory).st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        modes.setdefault(directory, mode)
        os.chmod(directory, mode | stat.S_IRWXU)


def _copy_tree(root: str, stage: str) -> None:
    """Copy a tree. Not shutil.copytree, which is recursive."""
    directories: list[tuple[str, str]] = []
    pending = [(root, stage)]
    source = root
    try:
        while pending:
            source, destination = pending.pop()
            directories.append((source, destination))
            os.mkdir(destination)
            with os.scandir(source) as entries:
                children = list(entries)
            for child in children:
                source, copy = child.path, os.path.join(destination, child.name)
                if child.is_dir(follow_symlinks=False):
                    pending.append((source, copy))
                elif child.is_symlink():
                    os.symlink(os.readlink(source), copy)
                    shutil.copystat(source, copy, follow_symlinks=False)
                else:
                    _link_or_copy(source, copy)
        # Last, and inner directories first: creating a file changes the times of its directory,
        # and the mode can forbid it.
        for source, destination in reversed(directories):
            shutil.copystat(source, destination)
    except OSError as error:
        shown = source if len(source) <= _SHOWN_MAX else f"{source[:_SHOWN_MAX]}..."
        raise PackageError(f"cannot stage {shown} for mkfs.erofs: {error.strerror}") from error


def _missing_nodes(paths: Iterable[str]) -> list[str]:
    listed = ", ".join(paths)
    if not listed:
        return []
    # The runtime mounts a /dev over these, so the image works without them.
    return [f"only root can make device nodes for EROFS: the image has no {listed}"]


def _link_or_copy(source: str, destination: str) -> None:
    """Add a file to the staged tree: as a hard link if possible, else as a copy."""
    status = os.lstat(source)
    if not stat.S_ISREG(status.st_mode):
        _copy_special(source, destination, status)
        return
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        # Another file system, or another user's file (fs.protected_hardlinks).
        shutil.copy2(source, destination, follow_symlinks=False)


def _copy_special(source: str, destination: str, status: os.stat_result) -> None:
    """Create a device node, FIFO or socket like `source`."""
    os.mknod(destination, status.st_mode, status.st_rdev)
    os.chmod(destination, stat.S_IMODE(status.st_mode))
    shutil.copystat(source, destination, follow_symlinks=False)
