"""Checks before packing whether the program of an app can be executed.

The runtime finds out when it starts the container: execve(2) fails, with ENOENT for a missing
interpreter too, which then looks as if the program itself were missing. The developer of a package
has the root directory, so the same questions can be answered there, with the path that is missing.
"""

from __future__ import annotations

import enum
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from northstar.manifest import Capability, Manifest
from northstar.manifest.mount import components
from northstar.model import PackageError
from northstar.model.text import quote

_LINKS_MAX: Final = 40
"""Most symbolic links in the resolution of a path: the kernel's limit (path_resolution(7))."""

_SCRIPTS_MAX: Final = 5
"""Most interpreters that are scripts themselves: fs/exec.c, exec_binprm."""

_LINE_MAX: Final = 255
"""Bytes of the first line of a script that the kernel reads: BINPRM_BUF_SIZE, execve(2)."""

_HEAD: Final = 64
"""Bytes of an ELF header of 64 bit; that of 32 bit is shorter (elf(5))."""

_PT_INTERP: Final = 3
_SEGMENTS_MAX: Final = 4096
_PATH_MAX: Final = 4096
_OFFSET_MAX: Final = 1 << 62


class Findings(NamedTuple):
    """What is wrong with the program of an app.

    Attributes:
        errors: for each of them the start fails.
        warnings: the start probably fails.
    """

    errors: tuple[PackageError, ...] = ()
    warnings: tuple[str, ...] = ()


class _Unknown(enum.Enum):
    """What the root directory does not decide."""

    MOUNTED = enum.auto()
    """A mount of the manifest is at or above the path: what it contains is known at the start.

    An interpreter that comes from a resource is the usual case: the directory below the mount
    point is empty or missing in the root, and the resource, of any version that matches, is not at
    hand here. Bind mounts and persistent data are decided on the device in the same way.
    """


class _Missing(NamedTuple):
    """The path whose file is missing: the path itself, one of its parents, or a link's target."""

    path: str
    reason: str


class _File(NamedTuple):
    """A file of the root directory: its path in it, without symbolic links, and its status."""

    path: str
    status: os.stat_result


def check_program(manifest: Manifest, root: str | os.PathLike[str] | None) -> Findings:
    """Check whether `init` of a manifest can be executed.

    Args:
        manifest: the manifest; a resource has no program.
        root: the directory with the container's files; None checks the manifest alone.

    Raises:
        OSError: a file of the root directory cannot be read.
    """
    init = manifest.init
    if init is None:
        return Findings()
    if not init.startswith("/"):
        error = PackageError(
            f"init: {quote(init)} is a relative path", hint=f"write /{quote(init)[1:-1]}"
        )
        return Findings((error,))
    if root is None:
        return Findings()
    try:
        # The root itself may be a symbolic link, as for mksquashfs.
        return Findings(warnings=tuple(_check(manifest, os.path.realpath(root), init)))
    except PackageError as error:
        return Findings((error,))


def _check(manifest: Manifest, root: str, init: str) -> Iterator[str]:
    """Check the program and its interpreters. Yield warnings.

    Raises:
        PackageError: the start fails.
    """
    mounted = {components(target) for target in manifest.mounts}
    path, named = init, f"init: {init}"
    # The kernel executes the interpreter of a script in place of the script.
    for _ in range(_SCRIPTS_MAX + 1):
        file = _resolve(root, path, mounted)
        if isinstance(file, _Unknown):
            return
        if isinstance(file, _Missing):
            raise _missing(named, path, file)
        _check_mode(manifest, named, file)
        with open(root + file.path, "rb", opener=_open_file) as opened:
            head = opened.read(max(_HEAD, _LINE_MAX + 1))
            if head.startswith(b"\x7fELF"):
                interpreter = elf_interpreter(opened.fileno(), head)
                if interpreter is not None:
                    _check_elf_interpreter(root, named, interpreter, mounted)
                return
        script = script_interpreter(head)
        if script is None:
            yield f"{named} is neither an ELF program nor a script that begins with #!"
            return
        if script.endswith("\r"):
            raise PackageError(
                f"{named} has lines that end with CR LF, so that its interpreter is not found",
                hint="save it with the line ends of Unix",
            )
        path, named = script, f"init: {init} needs the interpreter {quote(script)}, which"
        if not script.startswith("/"):
            # Relative to the working directory, which is the root directory (execve(2)).
            path = f"/{script}"
    raise PackageError(
        f"init: {init} is a script whose interpreter is a script, more than {_SCRIPTS_MAX} times",
        hint="name a program in its first line",
    )


def _missing(named: str, path: str, missing: _Missing) -> PackageError:
    where = "" if missing.path == path else f" ({missing.path} {missing.reason})"
    reason = "is missing in the root directory" if where else missing.reason
    return PackageError(
        f"{named} {reason}{where}", hint="add it, or mount the directory that contains it"
    )


def _check_elf_interpreter(
    root: str, named: str, interpreter: str, mounted: set[tuple[str, ...]]
) -> None:
    file = _resolve(root, interpreter, mounted)
    if isinstance(file, _Missing):
        raise PackageError(
            f"{named} is linked dynamically, and its interpreter {quote(interpreter)} is missing "
            "in the root directory",
            hint="link it statically (gcc -static), or add the interpreter and the libraries",
        )


def _check_mode(manifest: Manifest, named: str, file: _File) -> None:
    mode = file.status.st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise PackageError(f"{named} is {kind}", hint="name a program")
    # In the image all files belong to the user of the container, so the owner's bit decides; with
    # this capability any of the three does (capabilities(7)).
    bits = 0o111 if Capability.CAP_DAC_OVERRIDE in manifest.capabilities else 0o100
    if not mode & bits:
        raise PackageError(
            f"{named} is not executable (mode {stat.S_IMODE(mode):04o})",
            hint=f"chmod 755 {quote(file.path.lstrip('/'))[1:-1]} in the root directory",
        )


def _open_file(path: str, flags: int) -> int:
    # It was a regular file; opening what replaced it must not wait, nor follow a link.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def _resolve(root: str, path: str, mounted: set[tuple[str, ...]]) -> _File | _Missing | _Unknown:
    """Resolve an absolute path inside of `root`, whose symbolic links never lead out of it."""
    if () in mounted:
        return _Unknown.MOUNTED
    pending = path.split("/")[::-1]
    parts: list[str] = []
    links = 0
    status = os.lstat(root or "/")
    while pending:
        component = pending.pop()
        if component in ("", "."):
            continue
        if not stat.S_ISDIR(status.st_mode):
            return _Missing("/" + "/".join(parts), "is not a directory")
        if component == "..":
            # The parent of the root is the root.
            del parts[-1:]
            status = os.lstat("/".join([root, *parts]) or "/")
            continue
        parts.append(component)
        if tuple(parts) in mounted:
            return _Unknown.MOUNTED
        here = "/" + "/".join(parts)
        try:
            found = os.lstat(root + here)
        except (FileNotFoundError, NotADirectoryError):
            if _covers(mounted, parts, pending):
                return _Unknown.MOUNTED
            return _Missing(here, "is missing in the root directory")
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _LINKS_MAX:
                return _Missing(here, "is a loop of symbolic links")
            target = os.readlink(root + here)
            parts = [] if target.startswith("/") else parts[:-1]
            pending += target.split("/")[::-1]
            status = os.lstat("/".join([root, *parts]) or "/")
            continue
        status = found
    return _File("/" + "/".join(parts), status)


def _covers(mounted: set[tuple[str, ...]], parts: list[str], pending: list[str]) -> bool:
    """Return whether a mount is on the rest of a path. Packing adds the parents of mount points."""
    rest = [part for part in reversed(pending) if part not in ("", ".")]
    if ".." in rest:
        rest = rest[: rest.index("..")]
    return any(tuple(parts + rest[:end]) in mounted for end in range(1, len(rest) + 1))


def script_interpreter(head: bytes) -> str | None:
    """Return the interpreter in the first line of a script, or None if it is no script.

    Args:
        head: the first bytes of the file, at least `_LINE_MAX` if it has as many.
    """
    if not head.startswith(b"#!"):
        return None
    # Source: fs/binfmt_script.c. Spaces and tabs separate the interpreter from its argument.
    line = head[2:_LINE_MAX].split(b"\n", 1)[0].strip(b" \t")
    name = line.replace(b"\t", b" ").split(b" ", 1)[0].split(b"\0", 1)[0]
    return os.fsdecode(name) if name else None


def elf_interpreter(fd: int, head: bytes) -> str | None:
    """Return the interpreter of an ELF program (PT_INTERP), or None if it has none.

    None is also the answer for a damaged header: the kernel's verdict on it is not predicted.

    Args:
        fd: the file.
        head: its first bytes, at least `_HEAD` if it has as many.
    """
    # Source: elf(5). e_ident: magic, class (1: 32 bit, 2: 64 bit), data (1: little endian, 2: big).
    if len(head) < _HEAD or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    (offset,) = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)
    size, count = struct.unpack_from(f"{order}2H", head, 54 if wide else 42)
    form = struct.Struct(order + ("I4xQ16xQ16x" if wide else "II8xI12x"))
    # The kernel accepts no other size of an entry. Larger offsets are an error of pread(2).
    if size != form.size or count > _SEGMENTS_MAX or offset >= _OFFSET_MAX:
        return None
    table = os.pread(fd, size * count, offset)
    for start in range(0, len(table) - form.size + 1, size):
        kind, position, length = form.unpack_from(table, start)
        if kind == _PT_INTERP and 0 < length <= _PATH_MAX and position < _OFFSET_MAX:
            name = os.pread(fd, length, position).split(b"\0", 1)[0]
            return os.fsdecode(name) if name else None
    return None
