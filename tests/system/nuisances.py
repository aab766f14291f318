"""Abusive clients: python -m tests.system.nuisances NAME URL PACKAGE

Each repeats one action as fast as it can until it is killed. It is a separate process at the lowest
priority, so it slows other clients only through the runtime.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

TIMEOUT: Final = 30.0
CONNECT: Final = b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n'
SUBSCRIBE: Final = CONNECT.replace(b"false", b"true")
IDENT: Final = b'{"request":"ident"}\n'
LIST: Final = b'{"request":"list"}\n'
LINE: Final = 2**20
"""The runtime's limit of a line, in bytes."""

Nuisance = Callable[[str, bytes], None]
NUISANCES: Final[dict[str, Nuisance]] = {}

_CONTAINER: Final = {"container": "app:1.0.0"}
_START: Final = {**_CONTAINER, "init": "/x", "arguments": [], "environment": {}}
_TOKEN: Final = {"target": "x", "shared": ""}
DENIED: Final = b"".join(
    json.dumps({"request": request}).encode() + b"\n"
    for request in (
        "shutdown",
        {"inspect": _CONTAINER},
        {"start": _START},
        {"uninstall": {**_CONTAINER, "wipe": True}},
        {"token_create": _TOKEN},
        {"token_verify": {"token": "A" * 54 + "==", "user": "x", "shared": ""}},
    )
)

PERMITTED: Final = ("ident", "install", "kill", "list", "notifications", "start", "umount")
"""The permissions of the console for these clients, without those of the requests in DENIED."""


def nuisance(function: Nuisance) -> Nuisance:
    """Register a nuisance under its function's name."""
    NUISANCES[function.__name__] = function
    return function


@contextlib.contextmanager
def started(
    name: str, url: str, package: Path, *, idle: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a nuisance, and wait until it is active; then stop it (SIGSTOP) if `idle`."""
    command = [sys.executable, "-m", "tests.system.nuisances", name, url, str(package)]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", f"the nuisance {name} does not start"
        if idle:
            process.send_signal(signal.SIGSTOP)
        yield process
        assert process.poll() is None, f"the nuisance {name} has ended: {process.returncode}"
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ready() -> None:
    """Report that the nuisance begins now."""
    print("ready", flush=True)


def connected(path: str, connect: bytes = CONNECT) -> socket.socket:
    """Return a connection after the exchange of connect messages."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(TIMEOUT)
    stream.connect(path)
    stream.sendall(connect)
    if not stream.recv(4096):
        raise ConnectionError("the runtime does not answer the connect message")
    return stream


def until_closed(stream: socket.socket) -> None:
    """Read until the runtime closes the connection."""
    with contextlib.suppress(ConnectionError):
        while stream.recv(65536):
            continue


@nuisance
def crowd(path: str, package: bytes) -> None:
    """Two hundred connections at once, again and again."""
    del package
    ready()
    while True:
        streams = [connected(path) for _ in range(200)]
        for stream in streams:
            stream.sendall(LIST)
        for stream in streams:
            stream.recv(65536)
            stream.close()


@nuisance
def half_a_line(path: str, package: bytes) -> None:
    """Forty connections that send half a line, and nothing more."""
    del package
    streams = [connected(path) for _ in range(40)]
    for stream in streams:
        stream.sendall(b'{"request":{"uninst')
    ready()
    signal.pause()


@nuisance
def long_lines(path: str, package: bytes) -> None:
    """Lines of the maximal length, and one that is a byte longer."""
    del package
    head, tail = b'{"request":"ident","x":"', b'"}\n'
    longest = head + b"x" * (LINE + 1 - len(head) - len(tail)) + tail
    ready()
    while True:
        with connected(path) as stream:
            for _ in range(10):
                stream.sendall(longest)
                assert b"ident" in stream.recv(4096)
            with contextlib.suppress(ConnectionError):
                stream.sendall(head + b"x" + longest[len(head) :])
            until_closed(stream)


@nuisance
def garbage(path: str, package: bytes) -> None:
    """Random bytes, on a new connection each time."""
    del package
    chance = random.Random(1)
    ready()
    while True:
        with connected(path) as stream:
            stream.sendall(chance.randbytes(1000) + b"\n")
            until_closed(stream)


@nuisance
def broken_installs(path: str, package: bytes) -> None:
    """Packages that are too short, too long, truncated, or for an unknown repository."""
    ready()
    while True:
        for repository, size in (
            ("nope", len(package)),
            ("mem", len(package) - 1),
            ("mem", len(package) + 1),
            ("mem", 2 * len(package)),
        ):
            request = {"request": {"install": {"repository": repository, "size": size}}}
            with connected(path) as stream, contextlib.suppress(ConnectionError):
                stream.sendall(json.dumps(request).encode() + b"\n")
                stream.sendall(package[: len(package) // 2])
                if size <= len(package):
                    stream.sendall(package[len(package) // 2 :] + b"\n")
                    stream.recv(4096)


@nuisance
def too_many_requests(path: str, package: bytes) -> None:
    """Ten connections, each at its rate limit: 10,000 requests a second in all."""
    del package
    _flood([connected(path) for _ in range(10)], IDENT * 100, read=True)


@nuisance
def denied_requests(path: str, package: bytes) -> None:
    """Requests of all kinds without permission, as many as the runtime reads."""
    del package
    _flood([connected(path) for _ in range(3)], DENIED * 20, read=True)


@nuisance
def never_reads(path: str, package: bytes) -> None:
    """Sends requests without end, is subscribed, and reads no answer."""
    del package
    _flood([connected(path, SUBSCRIBE) for _ in range(20)], LIST * 100, read=False)


def _flood(streams: list[socket.socket], data: bytes, *, read: bool) -> None:
    selector = selectors.DefaultSelector()
    events = selectors.EVENT_WRITE | (selectors.EVENT_READ if read else 0)
    unsent: dict[socket.socket, bytes] = {}
    for stream in streams:
        stream.setblocking(False)
        selector.register(stream, events, stream)
    ready()
    while True:
        for key, event in selector.select():
            stream = key.data
            if event & selectors.EVENT_READ and not stream.recv(2**20):
                raise ConnectionError("closed")
            if event & selectors.EVENT_WRITE:
                todo = unsent.get(stream) or data
                try:
                    unsent[stream] = todo[stream.send(todo) :]
                except BlockingIOError:
                    time.sleep(0.001)
                except ConnectionError:
                    # The runtime disconnects a subscriber that is too far behind.
                    selector.unregister(stream)
                    stream.close()


def main() -> None:
    """Run the named nuisance."""
    name, url, package = sys.argv[1:]
    os.nice(19)
    NUISANCES[name](url.removeprefix("unix://"), Path(package).read_bytes())


if __name__ == "__main__":
    main()
