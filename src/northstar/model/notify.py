"""Messages of a service to its supervisor: sd_notify(3).

A message is one datagram of assignments, one per line. This module reads them as systemd does: of
several assignments of a field the first counts, of READY and STOPPING the last.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

import msgspec

from northstar.model.text import printable

MESSAGE_SIZE_MAX: Final = 4096
"""Longest message, in bytes: NOTIFY_BUFFER_MAX of systemd. A longer one is ignored."""

STATUS_MAX: Final = 256
"""Longest text of STATUS, in bytes before its characters are escaped."""

_NEWLINE: Final = re.compile(rb"[\r\n]")
_NUMBER: Final = re.compile(rb"[0-9]{1,20}\Z")
_STATES: Final = (b"READY=1", b"STOPPING=1")
_U64: Final = 2**64


class NotifyMessage(msgspec.Struct, frozen=True):
    """One message. Fields that it does not contain have their defaults.

    Attributes:
        ready: READY=1, the service is ready. Not together with `stopping`.
        stopping: STOPPING=1, the service begins to stop.
        watchdog: WATCHDOG=1, the service is alive.
        trigger: WATCHDOG=trigger, the service has detected a failure. Not with `watchdog`.
        status: STATUS=, a text for users, safe to print; an empty text removes an earlier one.
        extend: EXTEND_TIMEOUT_USEC=, the requested time in ns, counted from now.
    """

    ready: bool = False
    stopping: bool = False
    watchdog: bool = False
    trigger: bool = False
    status: str | None = None
    extend: int | None = None

    def __str__(self) -> str:
        """Return the fields for the log, without line feeds."""
        status = [] if self.status is None else [f"STATUS={self.status}"]
        extend = [] if self.extend is None else [f"EXTEND_TIMEOUT_USEC={self.extend // 1000}"]
        flags = {
            "READY=1": self.ready,
            "STOPPING=1": self.stopping,
            "WATCHDOG=1": self.watchdog,
            "WATCHDOG=trigger": self.trigger,
        }
        return " ".join([*(name for name, there in flags.items() if there), *extend, *status])


NOTHING: Final = NotifyMessage()
"""A message without a known field."""


def parse(data: bytes) -> NotifyMessage:
    """Read a message. Unknown fields, and fields with an invalid value, are ignored.

    A message that is too long or contains a NUL byte (except as its last byte, as from a C string)
    is ignored as a whole.

    Args:
        data: the datagram: untrusted bytes.
    """
    if len(data) > MESSAGE_SIZE_MAX:
        return NOTHING
    data = data.removesuffix(b"\0")
    if b"\0" in data:
        return NOTHING
    state = b""
    fields: dict[bytes, bytes] = {}
    for line in _NEWLINE.split(data):
        if line in _STATES:
            state = line
        name, assigned, value = line.partition(b"=")
        if assigned:
            fields.setdefault(name, value)
    status = fields.get(b"STATUS")
    watchdog = fields.get(b"WATCHDOG")
    return NotifyMessage(
        ready=state == b"READY=1",
        stopping=state == b"STOPPING=1",
        watchdog=watchdog == b"1",
        trigger=watchdog == b"trigger",
        status=None if status is None else _text(status),
        extend=_nanoseconds(fields.get(b"EXTEND_TIMEOUT_USEC", b"")),
    )


def _text(value: bytes) -> str:
    # If the text is cut within a character, that character is left out: the decoder waits for the
    # rest of it.
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    return printable(decoder.decode(value[:STATUS_MAX], final=len(value) <= STATUS_MAX))


def _nanoseconds(microseconds: bytes) -> int | None:
    if _NUMBER.match(microseconds) is None or int(microseconds) >= _U64:
        return None
    return int(microseconds) * 1000
