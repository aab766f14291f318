"""Fuzzes the reader of notify messages: mutated messages, and the properties of every message.

Run it for a time, or for a number of messages::

    python -m tests.fuzz.notify --seconds 60
    python -m tests.fuzz.notify --count 100000 --seed 7

A message that breaks a property is written to the corpus, which `test_notify.py` replays, and the
exit code is 1.
"""

from __future__ import annotations

import time

from northstar.model import printable
from northstar.model.notify import MESSAGE_SIZE_MAX, NOTHING, STATUS_MAX, parse
from tests.fuzz.texts import SLOW, Target

DICTIONARY = [
    *(b"READY=1", b"STOPPING=1", b"WATCHDOG=1", b"WATCHDOG=trigger", b"STATUS=", b"MAINPID=1"),
    *(b"EXTEND_TIMEOUT_USEC=", b"18446744073709551615", b"18446744073709551616", b"RELOADING=1"),
    *(b"\n", b"\r\n", b"=", b"\0", b"\xff", b"\xc3", b"\xe2\x80\xae", b"\x1b[2J", b"x" * 256),
]


def check(data: bytes) -> bool:
    """Assert the properties of `data`, and return whether it has a known field."""
    started = time.process_time()
    message = parse(data)
    assert time.process_time() - started < SLOW
    assert not (message.ready and message.stopping)
    assert not (message.watchdog and message.trigger)
    assert message.extend is None or 0 <= message.extend < 2**64 * 1000
    if message.status is not None:
        assert message.status == printable(message.status)
        assert len(message.status) <= 4 * STATUS_MAX
    if len(data) > MESSAGE_SIZE_MAX:
        assert message == NOTHING
    return message != NOTHING


TARGET = Target("notify", check, DICTIONARY, [])


if __name__ == "__main__":
    TARGET.main()
