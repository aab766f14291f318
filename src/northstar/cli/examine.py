"""Reads a manifest for the commands of `sextant` that make packages, and judges it.

They are stricter than the runtime, which accepts what Northstar 0.9.2 accepts: what can only be a
mistake is an error here, while its author can still correct it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from northstar.cli.common import CommandError, warn
from northstar.manifest import Manifest
from northstar.model import NorthstarError, PackageError

_ZIP = b"PK\x03\x04"


class Examined(NamedTuple):
    """A manifest that was read.

    Attributes:
        manifest: the manifest; None if there are errors that no option allows.
        errors: sentences with the path of the manifest.
        warnings: the same for settings that are probably mistakes.
    """

    manifest: Manifest | None
    errors: tuple[NorthstarError, ...]
    warnings: tuple[str, ...]


def examine(path: str, root: str | None, *, lenient: bool) -> Examined:
    """Read the manifest in the file `path`.

    Args:
        path: the file.
        root: the directory with the container's files; None if there is none, or if it is unknown.
        lenient: what the runtime accepts is at most a warning.

    Raises:
        CommandError: the file is a package.
        OSError: the file or the root directory cannot be read.
    """
    from northstar.launch.syscalls import is_syscall
    from northstar.manifest import check
    from northstar.npk.archive import TEXT_MAX
    from northstar.npk.program import check_program

    with open(path, "rb") as file:
        # One byte more than the maximum, so that the reader refuses a manifest that is too large.
        text = file.read(TEXT_MAX + 1)
    if text.startswith(_ZIP):
        raise CommandError(f"{path} is a package: use sextant inspect")
    report = check(text, is_syscall=is_syscall, strict=not lenient)
    errors = [_named(path, error) for error in report.errors]
    warnings = [f"{path}: {warning}" for warning in report.warnings]
    if report.manifest is not None:
        if root is not None and not os.path.isdir(root):
            raise PackageError(f"{root} is not a directory", hint="give the root directory")
        findings = check_program(report.manifest, root)
        if lenient:
            warnings += [f"{path}: {error}" for error in findings.errors]
        else:
            errors += [_named(path, error) for error in findings.errors]
        warnings += [f"{path}: {warning}" for warning in findings.warnings]
    return Examined(report.manifest, tuple(errors), tuple(warnings))


def manifest_of(path: str, root: str | None, *, lenient: bool) -> Manifest:
    """Read the manifest in the file `path`, and print its warnings. Arguments as of `examine`.

    Raises:
        NorthstarError: the first error.
        OSError: the file or the root directory cannot be read.
    """
    examined = examine(path, root, lenient=lenient)
    if examined.errors:
        raise examined.errors[0]
    for warning in examined.warnings:
        warn(warning)
    assert examined.manifest is not None, "no errors, but no manifest"
    return examined.manifest


def _named(path: str, error: NorthstarError) -> PackageError:
    return PackageError(f"{path}: {error.message}", hint=error.hint)
