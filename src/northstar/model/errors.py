"""The error tree.

::

    NorthstarError                  one sentence for a person, and perhaps a next step
    ├── InvalidValueError           a value that breaks a rule of its type (also a ValueError)
    ├── ManifestError               a manifest that is refused: field path, line, column, rule
    ├── PackageError                a package file that is refused, or cannot be made
    │   └── VerificationError       ... because a signature, hash or key does not fit
    ├── ConfigurationError          the runtime's configuration is refused
    ├── ProtocolError               a line that is no message of the console protocol
    ├── HostError                   this machine lacks something the request needs
    ├── LaunchError                 a start failed: step, path, errno
    └── InternalError               our own bug: please report

`OSError` is not wrapped where it says everything (path and errno): it stays what it is.
A failure that is expected of the outside world is one of these; anything else is a bug.
"""

from __future__ import annotations

import errno
import os

from northstar.model.text import cut


class NorthstarError(Exception):
    """A failure that a person can read: one sentence that says what, and one that says what to do.

    Attributes:
        message: what is wrong, without a full stop at its end; cut, where it quotes too much.
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
    """A line is no message of the console protocol."""


class PackageError(NorthstarError):
    """A package is refused, or cannot be made."""


class VerificationError(PackageError):
    """A signature, a hash or a key does not fit the package."""


class HostError(NorthstarError):
    """This machine lacks something: a kernel interface, a privilege, a program."""


class InternalError(NorthstarError):
    """Something that cannot happen did: a bug of ours. Please report it."""


class ManifestError(NorthstarError):
    """A manifest is refused.

    Attributes:
        path: the field, as `mounts./tmp.size`; empty for the document itself.
        line, column: counted from 1, where the parser knows them, else None.
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
    """A start failed between the clone of the namespaces and the payload's execve, or at it.

    Attributes:
        step: what was being done, as `mount tmpfs on /tmp`.
        path: the file or other object that failed, empty if the step says it all.
        errno: the kernel's error number, 0 if it was none.
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


def name_errno(number: int) -> str:
    """Return the symbol of an error number, as `ENOENT`; the number where it has none."""
    return errno.errorcode.get(number, str(number))
