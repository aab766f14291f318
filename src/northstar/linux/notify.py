"""The service manager's notification socket: sd_notify(3), sd_watchdog_enabled(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def address(value: str) -> str | bytes:
    """Convert NOTIFY_SOCKET to a socket address: a leading `@` marks an abstract name.

    Raises:
        ValueError: it is neither a path nor an abstract name (`vsock:` of virtual machines).
    """
    if value.startswith("@") and len(value) > 1:
        return b"\0" + os.fsencode(value[1:])
    if value.startswith("/"):
        return value
    raise ValueError(f"NOTIFY_SOCKET is neither a path nor an abstract name: {value!r}")


def send(state: str, target: str | bytes) -> None:
    """Send a state, such as `READY=1`, to the socket's address.

    Never blocks: a manager that does not read must not stop the service.

    Raises:
        OSError: no process listens on the socket, or its queue is full (EAGAIN).
    """
    flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_UNIX, flags) as sender:
        try:
            sender.sendto(state.encode(), target)
        except OSError as error:
            name = os.fsdecode(target)
            raise OSError(error.errno, error.strerror, name.replace("\0", "@")) from None


def watchdog_interval(environment: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds within which the manager expects `WATCHDOG=1`, None without a watchdog.

    Args:
        environment: with WATCHDOG_USEC, and WATCHDOG_PID if it applies to one process only.
        pid: of this process.

    Raises:
        ValueError: the time is not a positive number.
    """
    text = environment.get("WATCHDOG_USEC")
    if text is None:
        return None
    owner = environment.get("WATCHDOG_PID")
    if owner is not None and owner != str(pid):
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"WATCHDOG_USEC is not a positive number: {text!r}")
    return int(text) / 1_000_000
