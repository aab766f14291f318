"""Changes of files: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

from northstar.linux._libc import function, path_bytes

# include/uapi/linux/inotify.h
IN_MODIFY: Final = 0x2
IN_DELETE_SELF: Final = 0x400
IN_IGNORED: Final = 0x8000
IN_Q_OVERFLOW: Final = 0x4000

_HEADER = struct.Struct("=iIII")
_init1 = function("inotify_init1", ctypes.c_int)
_add_watch = function(
    "inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32, paths=(1,)
)


class Event(NamedTuple):
    """One event: the watch, the kind (IN_*), and the name in a watched directory."""

    watch: int
    mask: int
    name: str


def init() -> int:
    """inotify_init1(2), close-on-exec and not blocking. The caller owns the descriptor.

    Raises:
        OSError: EMFILE if the user has too many (fs.inotify.max_user_instances).
    """
    return _init1(os.O_CLOEXEC | os.O_NONBLOCK)


def add_watch(fd: int, path: str, mask: int) -> int:
    """inotify_add_watch(2): return the watch's number.

    Raises:
        OSError: ENOENT, or ENOSPC if the user has too many watches.
    """
    return _add_watch(fd, path_bytes(path), mask)


def parse(data: bytes) -> list[Event]:
    """Split the data of one read(2) into events.

    Raises:
        ValueError: the data ends within an event. The kernel never returns that.
    """
    events = []
    at = 0
    while at < len(data):
        start = at + _HEADER.size
        if start > len(data):
            raise ValueError("an inotify event is incomplete")
        watch, mask, _cookie, length = _HEADER.unpack_from(data, at)
        at = start + length
        if at > len(data):
            raise ValueError("the name of an inotify event is incomplete")
        events.append(Event(watch, mask, os.fsdecode(data[start:at].rstrip(b"\0"))))
    return events


def read(fd: int) -> list[Event]:
    """Return the queued events; an empty list if the queue is empty."""
    try:
        return parse(os.read(fd, 65536))
    except BlockingIOError:
        return []
