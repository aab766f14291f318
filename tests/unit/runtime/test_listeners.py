"""Sockets of containers: a socket is not reachable before it has the mode of its manifest."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from northstar.manifest import Socket, SocketType
from northstar.model import Container
from northstar.runtime import listeners

TYPES = {
    SocketType.STREAM: socket.SOCK_STREAM,
    SocketType.DATAGRAM: socket.SOCK_DGRAM,
    SocketType.SEQ_PACKET: socket.SOCK_SEQPACKET,
}


@pytest.mark.parametrize("umask", [0, 0o777], ids=oct)
@pytest.mark.parametrize("kind", SocketType)
def test_the_first_mode_of_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: SocketType, umask: int
) -> None:
    """A datagram socket is reachable as soon as its file exists."""
    first: list[int] = []
    configure = listeners._configure

    def observed(sock: object, path: str, config: Socket) -> None:
        first.append(stat.S_IMODE(os.lstat(path).st_mode))
        configure(sock, path, config)  # type: ignore[arg-type]

    monkeypatch.setattr(listeners, "_configure", observed)
    container = Container.parse("app:1.0.0")
    config = Socket(type=kind, mode=0o646)
    before = os.umask(umask)
    try:
        with socket.socket(socket.AF_UNIX, TYPES[kind]) as made:
            listeners.bind(made, str(tmp_path), container, "s", config)
    finally:
        os.umask(before)
    assert first[0] & ~0o600 == 0
    assert stat.S_IMODE((tmp_path / "app:1.0.0:s").lstat().st_mode) == 0o646
