"""Unpacks packages, and lists their images."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.linux import removal
from northstar.model import DEVICE_NODES, PackageError
from northstar.npk import archive, erofs, squashfs, staging, tools
from northstar.npk.package import Npk

ROOT_NAME: Final = "root"
"""Name of the directory for the files of the image."""

# EROFS_FT_* of the kernel's fs_types.h, as ls shows them.
_EROFS_KINDS: Final = dict(zip("1234567", "-dcbpsl", strict=True))
_EROFS_ENTRY: Final = re.compile(r"^ +([0-9]+) +([0-9]+)  (.+)$", re.MULTILINE)

_HARMLESS: Final = frozenset(os.makedev(node.major, node.minor) for node in DEVICE_NODES)
"""The character devices that packing adds to images, such as /dev/null."""

_NOT_FATAL: Final = 2
"""Exit code of unsquashfs if it could not set owners, create device nodes or similar."""


def unpack(npk: Npk, out: str | os.PathLike[str], *, unsquashfs: str | None = None) -> list[str]:
    """Write OUT/manifest.yaml, OUT/signature.yaml if signed, and the files as OUT/root.

    All are written to a temporary directory first, and renamed at the end. Existing files in OUT
    are not changed.

    Returns:
        Warnings for the user.

    Raises:
        PackageError: one of them exists, the image is damaged, or the tool failed.
        HostError: the tool is missing.
        OSError: a file cannot be written.
    """
    directory = os.fspath(out)
    texts = [entry.name for entry in npk.entries() if entry.name != archive.FS_IMG_NAME]
    names = [*texts, ROOT_NAME]
    for name in names:
        if os.path.lexists(os.path.join(directory, name)):
            raise PackageError(
                f"{os.path.join(directory, name)} exists already", hint="choose another directory"
            )
    npk.check_image()
    created = not os.path.isdir(directory)
    if created:
        os.mkdir(directory, 0o755)
    moved: list[str] = []
    try:
        with staging.directory(directory) as stage:
            for name in texts:
                with open(os.path.join(stage, name), "xb", opener=_open_text) as file:
                    file.write(npk.read_entry(name))
            warnings = extract(npk, os.path.join(stage, ROOT_NAME), unsquashfs)
            for name in names:
                target = os.path.join(directory, name)
                os.rename(os.path.join(stage, name), target)
                moved.append(target)
    except BaseException:
        for target in moved:
            _remove(target)
        if created:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        raise
    # The temporary directory is removed: warnings must name the final paths.
    return [warning.replace(stage, directory) for warning in warnings]


def _open_text(path: str, flags: int) -> int:
    # The default of open() is 0666, which a umask of 0 does not reduce.
    return os.open(path, flags, 0o644)


def list_image(npk: Npk, *, unsquashfs: str | None = None) -> str:
    """Return the list of the files in the image, one per line, as the image tool prints it.

    Raises:
        PackageError: the tool failed.
        HostError: the tool is missing.
    """
    if npk.filesystem == "squashfs":
        tool = tools.find("unsquashfs", unsquashfs)
        listing, _ = tools.run(
            [tool, "-ll", "-offset", str(npk.fsimg_offset), _path_of(npk)], pass_fds=[npk.fileno()]
        )
        return listing
    tool = tools.find("dump.erofs")
    with image_file(npk) as image:
        return "".join(f"{line}\n" for line in _list_erofs(tool, image))


def _list_erofs(tool: str, image: str) -> Iterator[str]:
    """Yield type and path of every file. dump.erofs lists one directory at a time."""
    pending = [("erofs-root", "--path=/")]
    seen: set[str] = set()
    yield "d erofs-root"
    while pending:
        path, which = pending.pop()
        listing, _ = tools.run([tool, "--ls", which, image])
        for match in _EROFS_ENTRY.finditer(listing):
            number, kind, name = match.groups()
            if name in (".", ".."):
                continue
            letter = _EROFS_KINDS.get(kind, "?")
            yield f"{letter} {path}/{name}"
            # A directory of a damaged image can contain itself.
            if letter == "d" and number not in seen:
                seen.add(number)
                pending.append((f"{path}/{name}", f"--nid={number}"))


def extract(npk: Npk, root: str, unsquashfs: str | None = None) -> list[str]:
    """Extract the files of the image to `root` with its tool; return warnings.

    The tools do not check names reliably, and as root they could write anywhere. So all names are
    checked before, and the result is checked afterwards.
    """
    if npk.filesystem == "squashfs":
        tool = tools.find("unsquashfs", unsquashfs)
        squashfs.check_names(list_image(npk, unsquashfs=unsquashfs))
        arguments = ["-no-progress", "-offset", str(npk.fsimg_offset), "-dest", root]
        _, stderr = tools.run(
            [tool, *arguments, _path_of(npk)], pass_fds=[npk.fileno()], accept=(0, _NOT_FATAL)
        )
        found = _check_tree(root, "unsquashfs", stderr)
        return _first_lines(stderr) + found.warnings
    tool = tools.find("fsck.erofs")
    with image_file(npk) as image:
        wanted = sum(_is_plain(entry.mode) for entry in erofs.entries(image))
        _, stderr = tools.run([tool, f"--extract={root}", image])
    found = _check_tree(root, "fsck.erofs", stderr)
    if found.number != wanted:
        raise PackageError(
            f"fsck.erofs wrote {found.number} of {wanted} files of the image",
            hint="the image is damaged, or needs a newer release of erofs-utils",
        )
    return found.warnings


class _Found(NamedTuple):
    """An extracted tree: its number of files, links and directories, and warnings."""

    number: int
    warnings: list[str]


def _check_tree(root: str, tool: str, stderr: str) -> _Found:
    """Count the files below `root`, and remove device nodes that packing never adds.

    A tool that runs as root creates them, and their mode can open a disk to all users.

    Raises:
        PackageError: `root` does not exist.
    """
    if not os.path.isdir(root) or os.path.islink(root):
        raise PackageError(
            f"{tool} wrote no files: {tools.reason(0, stderr)}",
            hint="the image is damaged, or needs a newer release of the tool",
        )
    number, removed = 0, []
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                elif _is_harmful(status):
                    os.unlink(entry.path)
                    removed.append(os.path.relpath(entry.path, root))
                number += _is_plain(status.st_mode)
    if not removed:
        return _Found(number, [])
    named = ", ".join(removed[:3]) + (f" and {len(removed) - 3} more" if len(removed) > 3 else "")
    return _Found(number, [f"left out device nodes that packing never adds: {named}"])


def _is_plain(mode: int) -> bool:
    """Return whether any user can create a file of this type."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


def _is_harmful(status: os.stat_result) -> bool:
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev not in _HARMLESS
    return stat.S_ISBLK(status.st_mode)


def _first_lines(stderr: str) -> list[str]:
    """Return the first messages of unsquashfs, and the number of the others: one for every file."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    more = [f"... and {len(lines) - 3} more messages of unsquashfs"] if len(lines) > 3 else []
    return lines[:3] + more


def _path_of(npk: Npk) -> str:
    # The descriptor, not the name: the tool must read the file that was checked.
    return f"/proc/self/fd/{npk.fileno()}"


@contextlib.contextmanager
def image_file(npk: Npk) -> Iterator[str]:
    """Yield the path of a file that contains only the image, for tools without an offset option."""
    with tempfile.NamedTemporaryFile(prefix="northstar-") as file:
        for chunk in npk.read_image():
            file.write(chunk)
        file.flush()
        yield file.name


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        removal.remove(path)
    else:
        os.unlink(path)
