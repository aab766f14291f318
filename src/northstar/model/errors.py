"""The error tree.

::

    NorthstarError                  one sentence for the user, with an optional next step
    ├── InvalidValueError           a value breaks a rule of its type (also a ValueError)
    ├── ManifestError               a manifest is refused: field path, line, column, rule
    ├── PackageError                a package file is refused, or cannot be made
    │   └── VerificationError       a signature, hash or key does not match
    ├── ConfigurationError          the runtime's configuration is refused
    ├── ProtocolError               a line is not a message of the console protocol
    ├── HostError                   this machine lacks something that the request needs
    ├── LaunchError                 a start failed: step, path, errno
    └── InternalError               a bug of Northstar

An `OSError` with path and errno is complete, so it is not wrapped.
A failure with an external cause is one of these or an `OSError`; any other exception is a bug.
"""

from __future__ import annotations

import errno
import os

from northstar.model.text import cut


class NorthstarError(Exception):
    """A failure, described for the user: one clause for the fault, and one for the next step.

    Attributes:
        message: what is wrong, without a final full stop; cut to `MESSAGE_MAX` characters.
        hint: the next step, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = cut(message)
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class InvalidValueError(NorthstarError, ValueError):
    """A value breaks a rule of its type: a name, a version, a container."""


class ConfigurationError(NorthstarError):
    """The configuration is refused; nothing was started."""


class ProtocolError(NorthstarError):
    """A line is not a message of the console protocol."""


class PackageError(NorthstarError):
    """A package is refused, or cannot be made."""


class VerificationError(PackageError):
    """A signature, a hash or a key does not match the package."""


class HostError(NorthstarError):
    """This machine lacks something: a kernel interface, a privilege, a program."""


class InternalError(NorthstarError):
    """An invariant is broken: a bug of Northstar. Please report it."""


class ManifestError(NorthstarError):
    """A manifest is refused.

    Attributes:
        path: the field, such as `mounts./tmp.size`; empty for the document itself.
        line, column: counted from 1; None if the parser does not report them.
    """

    def __init__(
        self,
        rule: str,
        *,
        path: str = "",
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> None:
        message = f"{path}: {rule}" if path else rule
        if line is not None:
            message += f", line {line}"
            if column is not None:
                message += f", column {column}"
        super().__init__(message, hint=hint)
        self.rule = rule
        self.path = path
        self.line = line
        self.column = column


class LaunchError(NorthstarError):
    """A start failed between the clone of the namespaces and the payload's execve, inclusive.

    Attributes:
        step: the operation that failed, such as `mount tmpfs on /tmp`.
        path: the file or other object of the operation; empty if the step names it.
        errno: the kernel's error number; 0 if the failure has none.
    """

    def __init__(
        self,
        step: str,
        path: str = "",
        errno: int = 0,
        reason: str = "",
        *,
        hint: str | None = None,
    ) -> None:
        words = [f"cannot {step}"]
        if path and path not in step.split():
            words.append(path)
        words.append(f"{os.strerror(errno)} ({name_errno(errno)})" if errno else reason)
        super().__init__(": ".join(words), hint=hint)
        self.step = step
        self.path = path
        self.errno = errno


def sentence(error: BaseException) -> str:
    """Return the text of an error for a person.

    An OSError is described as `path: reason`, or `path -> path: reason`, and not as Python does:
    `[Errno 28] No space left on device: '/path'`. Other errors that are no NorthstarError are bugs,
    and are described with their class.
    """
    if isinstance(error, NorthstarError):
        return str(error)
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    reason = error.strerror or str(error) or type(error).__name__
    paths = [
        os.fsdecode(path) if isinstance(path, bytes) else str(path)
        for path in (error.filename, error.filename2)
        if path is not None
    ]
    return f"{' -> '.join(paths)}: {reason}" if paths else reason


def name_errno(number: int) -> str:
    """Return the symbol of an error number, such as `ENOENT`; the number if it has none."""
    return errno.errorcode.get(number, str(number))
