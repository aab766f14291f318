"""Attacks on the process at the other end of a socket by a pidfd.

A pidfd is not bound to a PID namespace. SO_PEERPIDFD and SCM_PIDFD (Linux 6.5, unix(7)) return a
pidfd of the creator of a socket or the sender of a message: of host processes such as the runtime.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from northstar.model import Exited, Signalled
from tests.system.attacks.attacker import DENIED, Power, Victim, assault, refusals
from tests.system.containers import install, pid_of, run, wait_ready

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True

CONNECT = '{"connect":{"version":"0.9.0","subscribe_notifications":false}}'

ENDPOINTS: dict[str, Any] = {
    "console": {"permissions": []},
    "sockets": {"a": {"type": "stream", "mode": 0o666}, "b": {"type": "seq_packet", "mode": 0o666}},
}

HANDLES = ("peer 3", f"sender 3 {CONNECT}", "peer 4", "peer 5")
"""Sources of a pidfd: the console's peer, the sender on the console, the peers of sockets."""

GETFD = ("descriptors", *(("descriptors-x32", "descriptors-i386") if os.uname().machine == "x86_64"
         else ()))  # fmt: skip

TRACER = Power("tracer", ("CAP_SYS_PTRACE",))

NO_HANDLE = {errno.ENOPROTOOPT, errno.ENODATA, errno.EBADF}
"""The errno of a kernel before 6.5."""


def attacker(victim: Victim, attack: Path, words: str, *capabilities: str, **fields: Any) -> Any:
    capabilities = ("CAP_SYS_PTRACE", *capabilities)
    fields = {**ENDPOINTS, "capabilities": list(capabilities), **fields}
    return assault(victim, attack, TRACER, words, **fields)


@pytest.mark.parametrize("handle", HANDLES)
@pytest.mark.parametrize("seccomp", [None, {"profile": "default", "allow": {"pidfd_getfd": "any"}}])
def test_descriptors_of_the_peer_process(
    victim: Victim, attack: Path, handle: str, seccomp: dict[str, Any] | None
) -> None:
    """pidfd_getfd(2) would give access to the runtime's directories, and so to the host's files."""
    fields = {} if seccomp is None else {"seccomp": seccomp}
    ways = GETFD if seccomp is None else GETFD[:1]  # the profile kills the others with SIGSYS
    words = f"{handle} ; {' ; '.join(f'on-peer {way}' for way in ways)} ; exit 7"
    said = attacker(victim, attack, words, **fields)
    assert set(refusals(said, "on-peer").values()) == {errno.EPERM}
    assert said.status == Exited(7)
    if seccomp is not None:
        victim.runtime.wait_log("WARN .*attacker:1.0.0: pidfd_getfd is refused")


def test_the_profile_has_no_pidfd_getfd(victim: Victim, attack: Path) -> None:
    words = "peer 3 ; on-peer descriptors"
    said = attacker(victim, attack, words, seccomp={"profile": "default"})
    assert said.status == Signalled(31)


def test_child_processes_are_refused_too(victim: Victim, attack: Path) -> None:
    """A filter stays across fork and execve, also in another session."""
    words = "peer 3 ; child on-peer descriptors ; session ; on-peer descriptors"
    said = attacker(victim, attack, words)
    assert len([line for line in said if line["do"] == "on-peer"]) == 2
    assert set(refusals(said, "on-peer").values()) == {errno.EPERM}


WHAT = ("signal", "signal-0", "setns", "setns-net", "namespace", "page-out", "release", "wait")


@pytest.mark.parametrize("handle", HANDLES[:2])
def test_other_uses_of_a_pidfd(victim: Victim, attack: Path, handle: str) -> None:
    """The sender on the console is the runtime; the console's peer is the container's init."""
    words = f"{handle} ; {' ; '.join(f'on-peer {each}' for each in WHAT)}"
    sender = handle.startswith("sender")
    if sender:
        words += " ; on-peer handle"
    said = attacker(victim, attack, words, "CAP_KILL", "CAP_DAC_READ_SEARCH")
    found = {line["on"]: line for line in said if line["do"] == "on-peer"}
    if not sender:
        # A signal to init is permitted: from inside of its PID namespace none can kill it.
        found = {on: line for on, line in found.items() if not on.startswith("signal")}
    assert {on for on, line in found.items() if line["result"] >= 0} == set()
    expected = {*DENIED, *NO_HANDLE, errno.EINVAL, errno.ECHILD, errno.ESTALE, errno.EOPNOTSUPP,
                errno.ENOSYS, errno.ENOTTY}  # fmt: skip
    assert {line["errno"] for line in found.values()} <= expected
    with victim.runtime.client() as client:
        assert str(client.ident()) == "extern:0.0.0"


def test_the_peer_of_its_descriptors_is_the_container(victim: Victim, attack: Path) -> None:
    """It is neither the runtime nor root, although the runtime has created the sockets."""
    said = assault(victim, attack, Power("none"), "peer 3 ; peer 4 ; peer 5", **ENDPOINTS)
    assert [said.of("peer", "3")[key] for key in ("pid", "uid", "gid")] == [1, 1000, 1000]
    for number in "45":
        peer = said.of("peer", number)
        assert [peer["pid"], peer["uid"], peer["gid"]] == [peer["self"], 1000, 1000]


def test_no_descriptor_of_the_runtime_is_inherited(victim: Victim, attack: Path) -> None:
    """All are close-on-exec, also pidfds of other containers, which arrive in messages."""
    runtime = victim.runtime
    container = install(runtime, attack, "attacker", args="pause", **ENDPOINTS)
    with runtime.client() as client:
        client.start(container)
        handed_down = []
        for number in os.listdir(f"/proc/{runtime.pid}/fd"):
            info = Path(f"/proc/{runtime.pid}/fdinfo/{number}")
            with contextlib.suppress(FileNotFoundError):
                flags = re.search(r"^flags:\s*(\d+)", info.read_text(), re.MULTILINE)
                assert flags is not None
                if int(number) > 2 and not int(flags[1], 8) & os.O_CLOEXEC:
                    handed_down.append(os.readlink(f"/proc/{runtime.pid}/fd/{number}"))
    assert handed_down == []


def test_clients_of_a_socket_see_the_container_that_serves_it(victim: Victim, attack: Path) -> None:
    runtime = victim.runtime
    server = install(runtime, attack, "server", args="ready ; pause", uid=2000, gid=2001,
                     sockets=ENDPOINTS["sockets"])  # fmt: skip
    path = f"/sockets/{server}:a"
    client_ = install(runtime, attack, "client", mounts={"/sockets": {"type": "sockets"}},
                      capabilities=["CAP_SYS_PTRACE"])  # fmt: skip
    with runtime.client() as client:
        client.start(server)
        wait_ready(runtime, server)
        init = pid_of(client, server)
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(runtime.socket_dir / f"{server}:a"))
            size = struct.calcsize("3i")
            credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, gid = struct.unpack("3i", credentials)
        assert (uid, gid) == (2000, 2001)
        assert str(pid) in Path(f"/proc/{init}/task/{init}/children").read_text().split()
        said = run(runtime, client_, f"peer-of {path} ; on-peer descriptors")
    (peer,) = (line for line in said if line["do"] == "peer")
    assert (peer["pid"], peer["uid"], peer["gid"]) == (0, 2000, 2001)
    assert said.errno("on-peer", "descriptors") == errno.EPERM
