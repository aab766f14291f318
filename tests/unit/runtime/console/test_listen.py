"""The console's listening socket, and the failures of opening it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.model import FULL, ConfigurationError
from northstar.runtime.config import GlobalConsole, TcpAddress, UnixAddress
from northstar.runtime.console import Console, acceptor
from northstar.runtime.console.acceptor import ConsoleError
from northstar.runtime.console.peer import address
from northstar.runtime.notifications import Notifications
from tests.unit.runtime.console.harness import Runtime, run, serving, until


async def listen(
    bind: TcpAddress | UnixAddress, **fields: Any
) -> tuple[Console, TcpAddress | UnixAddress]:
    console = Console(Runtime(), Notifications(1))
    return console, await console.listen(GlobalConsole(bind, FULL, **fields))


def refused(bind: TcpAddress | UnixAddress) -> str:
    before = os.listdir("/proc/self/fd")

    async def test() -> None:
        with pytest.raises(ConsoleError) as caught:
            await listen(bind)
        assert caught.value.hint
        messages.append(caught.value.message)

    messages: list[str] = []
    run(test())
    assert os.listdir("/proc/self/fd") == before
    return messages[0]


def test_a_stale_socket_is_replaced_and_stays_after_close(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def test() -> None:
        console, bound = await listen(UnixAddress(str(path)))
        assert bound == UnixAddress(str(path))
        await console.close()
        assert stat.S_ISSOCK(path.lstat().st_mode)
        console, _ = await listen(UnixAddress(str(path)))
        reader, writer = await asyncio.open_unix_connection(str(path))
        await console.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(test())


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777], ids=oct)
@pytest.mark.parametrize("mode", [None, 0, 0o600, 0o660, 0o666], ids=str)
def test_the_mode_of_the_socket_is_that_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int, mode: int | None
) -> None:
    """The mode applies as soon as the file exists, and before clients can connect."""
    path = tmp_path / "socket"
    first: list[int] = []
    set_access = acceptor._set_access

    def observed(target: str, access: Any) -> None:
        first.append(stat.S_IMODE(os.lstat(target).st_mode))
        # Permissions do not bind root.
        refused = pytest.raises((ConnectionRefusedError, PermissionError))
        with socket.socket(socket.AF_UNIX) as client, refused:
            client.connect(target)
        set_access(target, access)

    monkeypatch.setattr(acceptor, "_set_access", observed)
    wanted = 0o600 if mode is None else mode

    async def test() -> None:
        fields = {} if mode is None else {"mode": mode}
        console, _ = await listen(UnixAddress(str(path)), **fields)
        await console.close()

    with umask(mask):
        run(test())
    assert first[0] & ~(wanted & 0o600) == 0
    assert stat.S_IMODE(path.lstat().st_mode) == wanted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to any group")
def test_the_group_of_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    entry = grp.getgrall()[-1]

    async def test(group: str) -> None:
        console, _ = await listen(UnixAddress(str(path)), mode=0o660, group=group)
        await console.close()

    for group, number in ((entry.gr_name, entry.gr_gid), ("54321", 54321)):
        run(test(group))
        status = path.lstat()
        assert (status.st_gid, status.st_uid) == (number, os.geteuid())
        assert stat.S_IMODE(status.st_mode) == 0o660


@pytest.mark.parametrize("group", ["no-such-group", "4294967295", "-1", "\u0663", "7x"])
def test_an_unknown_group(tmp_path: Path, group: str) -> None:
    """The socket of an earlier run stays as it is."""
    path = tmp_path / "socket"

    async def test() -> None:
        with pytest.raises(ConfigurationError) as caught:
            await listen(UnixAddress(str(path)), mode=0o660, group=group)
        assert caught.value.message == (
            f"console.global.group: this machine has no group {group!r}"
        )
        assert "groupadd" in (caught.value.hint or "")

    run(test())
    assert not path.exists()


def test_a_link_in_the_place_of_the_socket_is_not_followed(tmp_path: Path) -> None:
    """A process that may write to the directory replaces the file right after bind(2)."""
    path, other = tmp_path / "socket", tmp_path / "other"
    other.touch(0o600)
    path.symlink_to(other)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTSOCK)):
        acceptor._set_access(str(path), acceptor._Access(0o666, -1))
    assert stat.S_IMODE(other.stat().st_mode) == 0o600


def test_only_a_socket_is_removed(tmp_path: Path) -> None:
    file, link, fifo = tmp_path / "file", tmp_path / "link", tmp_path / "fifo"
    file.write_text("precious")
    link.symlink_to(file)
    os.mkfifo(fifo)
    reasons = dict.fromkeys((file, link, fifo), "the file exists and is no socket")
    for path, reason in {**reasons, tmp_path: "it is a directory"}.items():
        message = refused(UnixAddress(str(path)))
        assert message == f"the console cannot listen on {path}: {reason}"
    assert file.read_text() == "precious"
    assert link.is_symlink()


def test_invalid_unix_paths(tmp_path: Path) -> None:
    assert "No such file or directory" in refused(UnixAddress(f"{tmp_path}/no/socket"))
    assert "too long" in refused(UnixAddress(f"{tmp_path}/{'x' * 108}"))
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(UnixAddress(f"{tmp_path}/file/socket"))


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refused(TcpAddress("127.0.0.1", port))
    assert message == (
        f"the console cannot listen on tcp://127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}"
    )


def test_invalid_hosts() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    assert os.strerror(errno.EADDRNOTAVAIL) in refused(TcpAddress("192.0.2.1", 0))
    # No look-up that could reach a network: a label may have 63 characters (RFC 1035).
    assert refused(TcpAddress("x" * 64, 0)).endswith(":0: not a host name")


def test_tcp_returns_the_port_and_can_be_bound_again_at_once(localhost: str) -> None:
    async def test() -> None:
        console, bound = await listen(TcpAddress(localhost, 0))
        assert isinstance(bound, TcpAddress)
        assert bound.port
        _reader, writer = await asyncio.open_connection(bound.host, bound.port)
        await until(lambda: console._connections)
        (server,) = console._connections
        accepted = server._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await console.close()
        console, again = await listen(bound)
        assert again == bound
        await console.close()
        writer.close()

    run(test())


def test_names_of_peers() -> None:
    assert address(("1.2.3.4", 5)) == "tcp://1.2.3.4:5"
    assert address(("::1", 5, 0, 0)) == "tcp://[::1]:5"
    assert address("") == address(b"") == address(None) == "unix://unnamed"
    assert address("/a/b") == "unix:///a/b"
    assert address(b"\0abstract") == "unix://@abstract"


def test_accepting_continues_after_running_out_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving() as bench:
            client = await bench.connected()
            assert isinstance(bench.address, UnixAddress)
            late = socket.socket(socket.AF_UNIX)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                late.connect(bench.address.path)
                assert await client.ask("ident") == {"ident": "extern:0.0.0"}
                await until(lambda: caplog.records)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            late.setblocking(False)
            loop = asyncio.get_running_loop()
            connect = b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n'
            await loop.sock_sendall(late, connect)
            assert await loop.sock_recv(late, 100) == b'{"connect_ack":null}\n'
            late.close()

    monkeypatch.setattr(acceptor, "RETRY", 0.02)
    run(test())
    assert {r.getMessage() for r in caplog.records} == {
        f"Cannot accept a connection: {os.strerror(errno.EMFILE)}"
    }


def test_connections_are_accepted_at_a_limited_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "RATE", 20.0)
    monkeypatch.setattr(acceptor, "BURST", 3.0)

    async def test() -> None:
        async with serving() as bench:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            clients = await asyncio.gather(*(bench.connected() for _ in range(8)))
            # Three at once; the last one does not wait for its own overdraft.
            assert loop.time() - begun > 4 / 20.0 - 0.01
            # Served connections are not delayed by waiting ones.
            assert await clients[0].ask("ident") == {"ident": "extern:0.0.0"}

    run(test())
