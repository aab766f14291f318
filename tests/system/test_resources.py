"""What a container receives: resources, data, sockets, console, groups, networks, output."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import error, notification
from northstar.model import Container
from tests import vectors
from tests.system.containers import (
    OK,
    exit_of,
    install,
    lines,
    pid_of,
    refused,
    run,
    run_new,
    wait_ready,
)
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until

pytestmark = pytest.mark.root

SHARED_RUNTIME = True


C = Container.parse


def resource(version: str = "*", name: str = "res", directory: str = "/") -> dict[str, Any]:
    return {"type": "resource", "name": name, "version": version, "dir": directory}


def install_resource(runtime: RuntimeProcess, version: str, name: str = "res") -> str:
    text = manifest(name, version, init=None)
    files = {"version": version, "dir/inside": version}
    with runtime.client() as client:
        return str(client.install(pack(runtime.directory, text, files), "mem"))


# ---- Resources


@pytest.mark.vm
def test_the_newest_match_is_used(runtime: RuntimeProcess, payload: Path) -> None:
    for version in ("1.2.0", "1.10.0", "2.0.0", "1.9.9"):
        install_resource(runtime, version)
    mounts = {
        "/one": resource("1"),
        "/exact": resource("=1.2.0"),
        "/any": resource(">=1.0.0"),
        "/dir": resource("~1.9", directory="/dir"),
    }
    words = "read /one/version ; read /exact/version ; read /any/version ; read /dir/inside"
    container = install(runtime, payload, args=words, mounts=mounts)
    texts = [line["text"] for line in run(runtime, container)]
    assert texts == ["1.10.0", "1.2.0", "2.0.0", "1.9.9"]
    # Each start chooses again. An app can be a resource as well.
    install(runtime, payload, "res", "3.0.0")
    with runtime.client() as client:
        client.uninstall("res:1.10.0")
    words = "read /one/version ; list /any"
    said = run(runtime, container, words)
    assert said.of("read", "/one/version")["text"] == "1.9.9"
    assert said.of("list", "/any")["names"] == ["payload"]


def test_a_missing_resource(runtime: RuntimeProcess, payload: Path) -> None:
    install_resource(runtime, "1.0.0")
    none = install(runtime, payload, "none", mounts={"/r": resource(">=1, <1.0.0")})
    other = install(runtime, payload, "other", mounts={"/r": resource(name="other-name")})
    nowhere = install(runtime, payload, "nowhere", mounts={"/r": resource(directory="/gone")})
    file = install(runtime, payload, "file", mounts={"/r": resource(directory="/version")})
    with runtime.client() as client:
        for mounted in (False, True):
            assert client.inspect("res:1.0.0").mounted == mounted
            answers = [
                refused(functools.partial(client.start, c)) for c in (none, other, nowhere, file)
            ]
            missing = error.StartContainerMissingResource
            assert answers == [
                missing(C(none), C("res:1.0.0").name, ">=1, <1.0.0"),
                missing(C(other), C("other-name:1.0.0").name, "*"),
                missing(C(nowhere), C("res:1.0.0").name, "1.0.0"),
                missing(C(file), C("res:1.0.0").name, "1.0.0"),
            ]
        # Nothing uses it now.
        assert client.umount("res:1.0.0") == (api.response.Ok(C("res:1.0.0")),)


@pytest.mark.vm
def test_a_resource_is_held_for_the_life_of_its_user(
    runtime: RuntimeProcess, payload: Path
) -> None:
    res = install_resource(runtime, "1.0.0")
    words = "ready ; pause"
    app = install(runtime, payload, args=words, mounts={"/r": resource(), "/s": resource()})
    with runtime.client(subscribe=True) as client:
        client.start(app)
        newer = install_resource(runtime, "2.0.0")
        busy = error.UmountBusy(C(app))
        assert client.umount(res) == (api.response.Failed(C(res), busy),)
        assert refused(lambda: client.uninstall(res)) == busy
        client.uninstall(newer)  # installed later, and not used
        client.kill(app, 9)
        exit_of(client, app)
        assert client.inspect(res).mounted
        client.uninstall(res)
        assert [str(container) for container in client.list()] == [app]


def test_two_containers_that_use_each_other(runtime: RuntimeProcess, payload: Path) -> None:
    names = ["a", "b"]
    for name, other in (names, reversed(names)):
        mounts = {"/other": resource(name=other), "/self": resource(name=name)}
        install(runtime, payload, name, args="list /other ; ready ; pause", mounts=mounts)
    for _ in range(3):
        failures: list[BaseException] = []
        with runtime.client(subscribe=True) as client:
            threads = [
                threading.Thread(target=start, args=(runtime, f"{name}:1.0.0", failures))
                for name in names
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []
            for name in names:
                client.kill(f"{name}:1.0.0", 9)
            # Either may exit first.
            wait_until(
                lambda: not any(client.inspect(f"{n}:1.0.0").process for n in names),
                "both have exited",
            )
            assert all(isinstance(r, api.response.Ok) for r in client.umount("a:1.0.0", "b:1.0.0"))


def start(runtime: RuntimeProcess, container: str, failures: list[BaseException]) -> None:
    try:
        with runtime.client() as client:
            client.start(container)
    except BaseException as failure:
        failures.append(failure)


# ---- Cgroups


@pytest.mark.vm
def test_statistics_are_as_recorded_and_polling_leaves_nothing(
    runtime: RuntimeProcess, payload: Path
) -> None:
    container = install(runtime, payload, args="ready ; pause", cgroups={"pids": {"max": 20}})
    with runtime.client(subscribe=True) as client:
        client.mount(container)
        before = runtime.snapshot()
        client.start(container)
        wait_ready(runtime, container)
        seen = []
        for _ in range(3):
            process = client.inspect(container).process
            assert process is not None
            seen.append(process.statistics)
            assert process.statistics["pids"] == {"current": 2, "max": 20}
        version = 1 if "kernel" not in seen[0]["memory"]["memory"]["stat"]["raw"] else 2
        recorded = vectors.statistics(version)
        assert vectors.missing(vectors.shape(recorded), vectors.shape(seen[0])) == []
        assert vectors.shape(seen[0]) == vectors.shape(seen[-1])
        client.kill(container, 9)
        exit_of(client, container)
        # At once, not only after a time without requests.
        assert "descriptors" not in before.difference(runtime.snapshot())


# ---- Data


@pytest.mark.vm
def test_persistent_data(runtime: RuntimeProcess, payload: Path) -> None:
    mounts = {"/data": {"type": "persist"}}
    root = runtime.directory / "image"
    root.mkdir()
    old = install(runtime, payload, version="1.0.0", mounts=mounts)
    new = install(runtime, payload, version="2.0.0", mounts=mounts)
    said = run(runtime, old, "stat /data ; write /data/file content ; list /data")
    directory = runtime.data_dir / "app"
    found = said.of("stat", "/data")
    assert found["mode"] == stat.S_IFDIR | 0o700
    assert (found["uid"], found["gid"]) == (1000, 1000)
    assert said.of("list", "/data")["names"] == ["file"]
    assert (directory / "file").read_text() == "content"
    assert run(runtime, new, "read /data/file").of("read", "/data/file")["text"] == "content"
    # The next start restores owner and mode.
    os.chown(directory, 0, 0)
    directory.chmod(0o755)
    again = run(runtime, old, "stat /data").of("stat", "/data")
    assert (again["mode"] & 0o7777, again["uid"]) == (0o700, 1000)
    with runtime.client() as client:
        client.uninstall(old)
        assert (directory / "file").exists()
        client.uninstall(new, wipe=True)
        assert not directory.exists()
        runtime.wait_log(rf"INFO .*Wiping persistent data dir {directory} of app:2.0.0$")
        # A wipe without data is no error.
        client.uninstall(install(runtime, payload), wipe=True)


def test_a_link_in_place_of_the_data_is_not_followed(
    runtime: RuntimeProcess, payload: Path
) -> None:
    outside = runtime.directory / "outside"
    outside.mkdir(mode=0o755)
    (runtime.data_dir / "app").symlink_to(outside)
    container = install(runtime, payload, mounts={"/data": {"type": "persist"}})
    with runtime.client() as client:
        answer = refused(lambda: client.start(container))
        assert isinstance(answer, error.StartContainerFailed)
        assert str(runtime.data_dir / "app") in str(answer)
        # The wipe does not follow it either, and fails; the container is uninstalled all the same.
        with runtime.client(subscribe=True, extended=False) as events:
            answer = refused(lambda: client.uninstall(container, wipe=True))
            assert isinstance(answer, error.Unexpected)
            assert next(events.notifications(timeout=5)) == notification.Uninstall(C(container))
        assert client.list() == ()
    assert outside.stat().st_uid == 0
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


# ---- Groups and networks


def test_supplementary_groups(runtime: RuntimeProcess, payload: Path) -> None:
    groups = ["audio", "no-such-group", "video"]
    me = run_new(runtime, payload, "self", suppl_groups=groups).of("self")
    assert sorted(me["groups"]) == [29, 44]
    runtime.wait_log(r"WARN\w* .*app:1.0.0: .*no-such-group")
    assert run_new(runtime, payload, "self").of("self")["groups"] == []


@pytest.mark.parametrize("name", ["root", "northstar-alias"])
def test_a_supplementary_group_with_the_id_of_root(
    runtime: RuntimeProcess, payload: Path, tmp_path: Path, name: str
) -> None:
    """A manifest cannot have `gid: 0`, and no group name leads to it either."""
    groups = tmp_path / "group"
    groups.write_text(f"{Path('/etc/group').read_text()}northstar-alias:x:0:\n")
    subprocess.run(runtime.enter("mount", "--bind", str(groups), "/etc/group"), check=True)
    try:
        container = install(runtime, payload, suppl_groups=["audio", name])
        with runtime.client() as client:
            answer = refused(lambda: client.start(container))
    finally:
        subprocess.run(runtime.enter("umount", "/etc/group"), check=True)
    assert f"the supplementary group {name}: on this host its id is 0" in str(answer)


def test_a_named_network_namespace(runtime: RuntimeProcess, payload: Path) -> None:
    name = f"northstar-{os.getpid()}"
    with network(runtime, name):
        container = install(runtime, payload, args="pause", network={"namespace": name})
        with runtime.client() as client:
            client.start(container)
            pid = pid_of(client, container)
            inode = runtime.enter("stat", "-Lc", "%i", f"/run/netns/{name}")
            wanted = subprocess.run(inode, check=True, capture_output=True, text=True).stdout
            assert os.readlink(f"/proc/{pid}/ns/net") == f"net:[{wanted.strip()}]"
            client.kill(container, 9)
            wait_until(
                lambda: client.inspect(container).process is None, "the container has exited"
            )
            # The runtime does not remove it.
            subprocess.run(inode, check=True, capture_output=True)


@pytest.mark.parametrize("propagation", ["private", "shared"])
def test_a_network_namespace_that_the_runtime_cannot_see(
    make_runtime: Callable[..., RuntimeProcess], payload: Path, propagation: str
) -> None:
    """Without mount propagation the runtime sees a later one as an ordinary file."""
    runtime = make_runtime()
    name = f"northstar-{os.getpid()}"
    path = Path("/run/netns", name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    try:
        # Only in the runtime's mount namespace.
        for point in ("/", "/run", "/run/netns"):
            change = runtime.enter("mount", f"--make-{propagation}", point)
            subprocess.run(change, check=False, stderr=subprocess.DEVNULL)
        # On the host, here in a separate mount namespace, so that nothing is left of it.
        made = ["unshare", "--mount", "unshare", f"--net={path}", "true"]
        subprocess.run(made, check=True)
        container = install(runtime, payload, args="pause", network={"namespace": name})
        with runtime.client() as client:
            client.mount(container)
        before = runtime.snapshot()
        with runtime.client() as client:
            failure = refused(lambda: client.start(container))
        assert isinstance(failure, error.StartContainerFailed)
        text = str(failure)
        assert f"cannot enter the network namespace {name}: " in text
        assert f"{path}: Invalid argument (EINVAL); no namespace is mounted on this file" in text
        assert ("is private: restart the runtime" in text) == (propagation == "private")
        assert (f": ip netns add {name}" in text) == (propagation == "shared")
        runtime.assert_no_leak(before)
    finally:
        path.unlink()


@contextlib.contextmanager
def network(runtime: RuntimeProcess, name: str) -> Iterator[None]:
    """Make a named network namespace, as ip-netns(8) does, in the runtime's mount namespace."""
    path = f"/run/netns/{name}"
    os.makedirs("/run/netns", exist_ok=True)
    Path(path).touch()
    try:
        subprocess.run(runtime.enter("unshare", f"--net={path}", "true"), check=True)
        yield
    finally:
        subprocess.run(runtime.enter("umount", path), check=False, stderr=subprocess.DEVNULL)
        os.unlink(path)


# ---- Sockets


@pytest.mark.vm
def test_sockets(runtime: RuntimeProcess, payload: Path) -> None:
    sockets = {
        "zstream": {"type": "stream", "mode": 0o600, "passcred": True},
        "gram": {"type": "datagram", "mode": 0o666, "uid": 7, "gid": 8},
        "packet": {"type": "seq_packet", "mode": 0o640, "gid": 9},
    }
    words = "self ; socket 3 ; socket 4 ; socket 5 ; ready ; pause"
    container = install(runtime, payload, args=words, sockets=sockets)
    paths = {name: runtime.socket_dir / f"{container}:{name}" for name in sockets}
    # Left by a killed runtime.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(paths["gram"]))
    with runtime.client(subscribe=True) as client:
        before = runtime.snapshot()
        client.start(container)
        wait_ready(runtime, container)
        facts = {name: os.stat(path) for name, path in paths.items()}
        found = {n: (stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid) for n, s in facts.items()}
        assert found == {"zstream": (0o600, 0, 0), "gram": (0o666, 7, 8), "packet": (0o640, 0, 9)}
        talk(paths)
        client.kill(container, 9)
        exit_of(client, container)
        assert os.listdir(runtime.socket_dir) == []
        client.umount(container)
        assert "descriptors" not in before.difference(runtime.snapshot())
    said = lines(runtime, container)
    results = {(line["do"], line.get("on")): line.get("result") for line in said}
    # The numbers follow the order of the names: gram, packet, zstream.
    types = [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM]
    assert [results["type", str(n)] for n in (3, 4, 5)] == types
    assert [results["listening", str(n)] for n in (3, 4, 5)] == [0, 1, 1]
    assert [results["passcred", str(n)] for n in (3, 4, 5)] == [0, 0, 1]
    environment = said[0]["env"]
    assert {e for e in environment if "SOCKET" in e} == {
        "NORTHSTAR_SOCKET_gram=3",
        "NORTHSTAR_SOCKET_packet=4",
        "NORTHSTAR_SOCKET_zstream=5",
    }


def talk(paths: dict[str, Path]) -> None:
    """Connect to the sockets from the host, and check that the container answers."""
    kinds = {"zstream": socket.SOCK_STREAM, "gram": socket.SOCK_DGRAM}
    for name, kind in {**kinds, "packet": socket.SOCK_SEQPACKET}.items():
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(str(paths[name]))
            client.send(b"hello")


def test_a_file_that_is_no_socket_is_not_removed(runtime: RuntimeProcess, payload: Path) -> None:
    sockets = {"s": {"type": "stream", "mode": 0o600}}
    container = install(runtime, payload, sockets=sockets)
    path = runtime.socket_dir / f"{container}:s"
    path.write_text("precious")
    with runtime.client() as client:
        answer = refused(lambda: client.start(container))
    assert str(path) in str(answer)
    assert path.read_text() == "precious"
    path.unlink()


@pytest.mark.vm
def test_a_file_in_place_of_a_socket_is_not_removed(runtime: RuntimeProcess, payload: Path) -> None:
    sockets = {name: {"type": "stream", "mode": 0o600} for name in ("kept", "replaced")}
    container = install(runtime, payload, args="pause", sockets=sockets)
    replaced = runtime.socket_dir / f"{container}:replaced"
    with runtime.client(subscribe=True) as client:
        client.start(container)
        (runtime.socket_dir / "new").write_text("somebody's")
        (runtime.socket_dir / "new").rename(replaced)
        client.kill(container, 9)
        exit_of(client, container)
    assert os.listdir(runtime.socket_dir) == [replaced.name]
    replaced.unlink()


def test_containers_connect_to_each_others_sockets(runtime: RuntimeProcess, payload: Path) -> None:
    sockets = {"s": {"type": "stream", "mode": 0o666}}
    server = install(runtime, payload, "server", args="pause", sockets=sockets)
    viewer = install(runtime, payload, "viewer", mounts={"/sockets": {"type": "sockets"}})
    with runtime.client() as client:
        client.start(server)
        said = run(runtime, viewer, f"list /sockets ; unix /sockets/{server}:s")
        assert said.of("list", "/sockets")["names"] == [f"{server}:s"]
        assert said.of("unix", f"/sockets/{server}:s")["result"] == 0


# ---- The console of a container

CONNECT = '{"connect":{"version":"0.9.2","subscribe_notifications":false}}'


@pytest.mark.vm
def test_a_containers_console(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, console={"permissions": ["ident", "list", "start"]})
    requests = [
        '"ident"',
        '"list"',
        '"shutdown"',
        '{"start":{"container":"x:1.0.0","arguments":[],"environment":{"A":"1"}}}',
    ]
    wanted = [CONNECT, *(f'{{"request":{r}}}' for r in requests)]
    words = [word for line in wanted for word in ("console", line, ";")]
    said = run(runtime, container, words)
    answers = [line["text"] for line in said]
    assert answers[0] == '{"connect_ack":null}'
    assert answers[1] == '{"response":{"ident":"app:1.0.0"}}'
    assert answers[2] == '{"response":{"list":["app:1.0.0"]}}'
    assert answers[3] == '{"response":{"permission_denied":"shutdown"}}'
    assert '"permission_denied":{"start"' in answers[4]
    assert said.status == OK


def test_a_console_ends_with_its_container(runtime: RuntimeProcess, payload: Path) -> None:
    words = ["console", CONNECT, ";", "ready", ";", "pause"]
    container = install(runtime, payload, args=words, console={"permissions": "full"})
    with runtime.client(subscribe=True) as client:
        client.mount(container)
        before = runtime.snapshot()
        for _ in range(3):
            since = len(runtime.text())
            client.start(container)
            wait_ready(runtime, container, since=since)
            client.kill(container, 9)
            exit_of(client, container)
        runtime.assert_no_leak(before)


def test_a_container_may_shut_the_runtime_down(make_runtime: Any, payload: Path) -> None:
    runtime = make_runtime()
    words = ["console", CONNECT, ";", "console", '{"request":"shutdown"}', ";", "pause"]
    container = install(runtime, payload, args=words, console={"permissions": ["shutdown"]})
    with runtime.client() as client:
        client.start(container)
    runtime.wait_exit()


# ---- Output and debug commands


@pytest.mark.vm
def test_output(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload)
    words = ["say", "x" * 5000, ";", "say", "", ";", "say", "ümlaut", ";", "cry", "to-stderr"]
    run(runtime, container, words)
    # The runtime reads the two pipes independently: only the order within a pipe is kept.
    first = runtime.wait_log("DEBUG app:1.0.0: x{4096}$")
    second = runtime.wait_log("DEBUG app:1.0.0: x{904}$")
    third = runtime.wait_log("DEBUG app:1.0.0: ümlaut$")
    assert first.start() < second.start() < third.start()
    runtime.wait_log("DEBUG app:1.0.0: to-stderr$")
    inherit = install(runtime, payload, "own", io={"stdout": "inherit", "stderr": "discard"})
    run(runtime, inherit, ["say", "as-it-is", ";", "cry", "unheard"])
    runtime.wait_log("^as-it-is$")
    quiet = install(runtime, payload, "quiet", io=None)
    run(runtime, quiet, ["say", "silence"])
    assert "unheard" not in runtime.text()
    assert "silence" not in runtime.text()


def test_debug_commands(make_runtime: Any, payload: Path) -> None:
    commands = '["readlink /proc/<PID>/ns/uts", "echo <CONTAINER> a  b", "/no/such/program x"]'
    runtime = make_runtime(tables=f"[debug]\ncommands = {commands}\n")
    launcher = runtime.snapshot().processes
    container = install(runtime, payload, args="ready ; pause")
    with runtime.client(subscribe=True) as client:
        client.start(container)
        inside = os.readlink(f"/proc/{pid_of(client, container)}/ns/uts")
        runtime.wait_log(rf"INFO +{container}: {re.escape(inside)}$")
        runtime.wait_log(rf"INFO +{container}: {container} a b$")
        runtime.wait_log(r"WARN\w* .*/no/such/program x")
        client.kill(container, 9)
        exit_of(client, container)
        client.umount(container)
        wait_until(
            lambda: runtime.snapshot().processes == launcher, "the debug commands have ended"
        )
    runtime.stop()


def test_a_debug_command_outlives_its_container_and_not_the_runtime(
    make_runtime: Any, payload: Path, tmp_path: Path
) -> None:
    told = tmp_path / "pid"
    script = tmp_path / "command"
    script.write_text(f"#!/bin/sh\necho $$ > {told}.new\nmv {told}.new {told}\nexec sleep 1000\n")
    script.chmod(0o700)
    runtime = make_runtime(tables=f'[debug]\ncommands = ["{script}"]\n')
    container = install(runtime, payload, args="ready ; pause")
    with runtime.client(subscribe=True) as client:
        client.start(container)
        wait_until(told.exists, "the debug command runs")
        client.kill(container, 9)
        exit_of(client, container)
        command = Path(f"/proc/{int(told.read_text())}/cmdline")
        assert command.read_bytes() == b"sleep\x001000\0"
    runtime.stop()
    wait_until(lambda: not command.exists(), "the debug command has ended")


def test_a_socket_passes_credentials(runtime: RuntimeProcess, payload: Path) -> None:
    sockets = {"s": {"type": "datagram", "mode": 0o666, "passcred": True}}
    container = install(runtime, payload, args="ready ; pause", sockets=sockets)
    with runtime.client() as client:
        client.start(container)
        wait_ready(runtime, container)
        number = pidfd_getfd(pid_of(client, container), 3)
        with socket.socket(fileno=number) as theirs:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
                ours.connect(str(runtime.socket_dir / f"{container}:s"))
                ours.send(b"who am I?")
            _, ancillary, _, _ = theirs.recvmsg(100, 100, socket.MSG_DONTWAIT)
        ((_, kind, data),) = ancillary
        assert kind == socket.SCM_CREDENTIALS
        assert struct.unpack("3i", data) == (os.getpid(), os.getuid(), os.getgid())


def pidfd_getfd(init: int, number: int) -> int:
    """Return a copy of a descriptor of the payload, the child of `init` (pidfd_getfd(2))."""
    (payload,) = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    pidfd = os.pidfd_open(int(payload))
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, number, 0)
        assert copy >= 0, os.strerror(ctypes.get_errno())
        return int(copy)
    finally:
        os.close(pidfd)
