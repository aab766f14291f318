"""The state file: what the runtime itself remembers over a reboot, besides packages and data.

It is one file, so that values that must change together change in one rename(2).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from northstar.linux.descriptor import Descriptor

log = logging.getLogger("northstar.runtime")

DIRECTORY: Final = ".northstar-state:"
"""Its directory in `data_dir`. No container has this name: the part after the colon is empty."""

FORMAT: Final = 1

_NAME: Final = "state.json"
_BAD: Final = "state.json.bad"
_PARTIAL: Final = "state.json.part"
_SIZE_MAX: Final = 16 * 2**20
"""Largest file that is read, in bytes: a thousand key lists."""


class StoredState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The contents of the file.

    Attributes:
        format: `FORMAT`.
        updates: updates in progress, by the container's name.
        floors: the newest version that was ever committed, by the container's name.
        keys: the key lists that were accepted after the anchor, in order, by repository.
    """

    format: int = FORMAT
    updates: Mapping[str, Any] = {}
    floors: Mapping[str, str] = {}
    keys: Mapping[str, tuple[str, ...]] = {}


_decoder: Final = msgspec.json.Decoder(StoredState)


class StateFile:
    """The file, and its contents. All methods block."""

    def __init__(self, data_dir: str) -> None:
        """Use `data_dir/.northstar-state:/state.json`, which need not exist."""
        self._data_dir = data_dir
        self._directory = os.path.join(data_dir, DIRECTORY)
        self.path = os.path.join(self._directory, _NAME)

    def read(self) -> StoredState:
        """Return its contents; without a file, and after a failure, the empty state.

        A file that cannot be used is renamed and logged: the device boots without it.
        """
        try:
            content = _read(self.path)
            state = _decoder.decode(content)
            if state.format != FORMAT:
                raise ValueError(f"its format is {state.format}, and not {FORMAT}")
        except FileNotFoundError:
            return StoredState()
        except (OSError, ValueError) as failure:  # DecodeError is a ValueError
            log.error("Cannot use the state file, going on without it: %s", _reason(failure))
            bad = os.path.join(self._directory, _BAD)
            try:
                os.rename(self.path, bad)
            except OSError as renaming:
                log.error("Cannot rename it: %s", renaming)
            else:
                log.error("It is kept as %s", bad)
            return StoredState()
        return state

    def write(self, state: StoredState) -> None:
        """Replace its contents durably.

        Raises:
            OSError: they could not be written. The file has its former contents; if the failure is
                of the last fsync(2), a power cut decides between former and new contents.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._directory, 0o700)
            with _opened(self._data_dir) as parent:
                os.fsync(parent.fd)
        with _opened(self._directory) as directory:
            where = directory.fd
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                descriptor = os.open(_PARTIAL, flags, 0o600, dir_fd=where)
                with open(descriptor, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
                    file.flush()
                    os.fsync(descriptor)
                os.rename(_PARTIAL, _NAME, src_dir_fd=where, dst_dir_fd=where)
            except OSError as failure:
                with contextlib.suppress(OSError):
                    os.unlink(_PARTIAL, dir_fd=where)
                raise OSError(failure.errno, failure.strerror, self.path) from failure
            os.fsync(where)


def _opened(directory: str) -> Descriptor:
    return Descriptor(
        os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    )


def _read(path: str) -> bytes:
    # O_NONBLOCK: opening a FIFO must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        content = file.read(_SIZE_MAX + 1)
    if len(content) > _SIZE_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return content


def _reason(failure: Exception) -> str:
    return str(failure) if isinstance(failure, OSError) else f"{_NAME}: {failure}"
