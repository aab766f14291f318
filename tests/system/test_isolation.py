"""The process state of a container, what it can see, and what it must not be able to do."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.model import Exited, Signalled
from tests.system.containers import (
    OK,
    PROC,
    exit_of,
    install,
    pid_of,
    refused,
    run,
    run_new,
    wait_ready,
)
from tests.system.harness import OLDER, PATIENCE, RuntimeProcess, wait_until

pytestmark = pytest.mark.root

SHARED_RUNTIME = True


DENIED = {errno.EACCES, errno.EPERM}


def ns(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


# ---- Process state


@pytest.mark.vm
def test_what_the_payload_sees_of_itself(runtime: RuntimeProcess, payload: Path) -> None:
    said = run_new(
        runtime,
        payload,
        "self ; read /proc/self/cgroup ; list /proc",
        name="some-app",
        mounts=PROC,
        env={"A": "1", "EMPTY": ""},
        console={"permissions": ["ident"]},
        sockets={"b": {"type": "stream", "mode": 448}, "a": {"type": "datagram", "mode": 448}},
        suppl_groups=["audio", "nobody-has-this"],
    )
    me = said.of("self")
    assert me["pid"] > 1
    assert (me["ppid"], me["sid"], me["pgid"]) == (1, 1, 1)
    assert (me["uids"], me["gids"]) == ([1000] * 3, [1000] * 3)
    assert me["groups"] == [29]  # audio, in every Debian
    assert set(me["caps"].values()) == {0}
    assert (me["no_new_privs"], me["seccomp"]) == (1, 2 if OLDER else 0)
    assert (me["blocked"], me["not_default"]) == (0, [])
    assert (me["umask"], me["cwd"], me["hostname"]) == (0o022, "/", "some-app")
    sockets = {"3": "socket", "4": "socket", "5": "socket"}
    assert me["fds"] == {"0": "char", "1": "pipe", "2": "pipe", **sockets}
    assert sorted(me["env"]) == [
        "A=1",
        "EMPTY=",
        "NORTHSTAR_CONSOLE=3",
        "NORTHSTAR_CONTAINER=some-app:1.0.0",
        "NORTHSTAR_NAME=some-app",
        "NORTHSTAR_SOCKET_a=4",
        "NORTHSTAR_SOCKET_b=5",
        "NORTHSTAR_VERSION=1.0.0",
    ]
    groups = said.of("read", "/proc/self/cgroup")["text"].splitlines()
    assert groups
    assert [line for line in groups if not line.endswith(":/")] == []
    pids = [int(name) for name in said.of("list", "/proc")["names"] if name.isdigit()]
    assert sorted(pids) == [1, me["pid"]]
    assert said.status == OK


def test_namespaces_are_separate(runtime: RuntimeProcess, payload: Path) -> None:
    first = install(runtime, payload, "first", args="pause")
    second = install(runtime, payload, "second", args="pause", network="host")
    with runtime.client() as client:
        client.start(first)
        client.start(second)
        pids = [pid_of(client, first), pid_of(client, second), runtime.pid]
        for kind in ("pid", "mnt", "ipc", "uts", "cgroup"):
            assert len({ns(pid, kind) for pid in pids}) == 3, kind
        assert ns(pids[0], "net") != ns(runtime.pid, "net")
        assert ns(pids[1], "net") == ns(runtime.pid, "net")


@pytest.mark.vm
def test_capabilities_are_exactly_those_of_the_manifest(
    runtime: RuntimeProcess, payload: Path
) -> None:
    names = ["CAP_NET_BIND_SERVICE", "CAP_KILL", "CAP_CHOWN"]
    me = run_new(runtime, payload, "self", capabilities=names).of("self")
    mask = 1 << 10 | 1 << 5 | 1 << 0
    kinds = ("effective", "permitted", "inheritable", "bounding", "ambient")
    assert me["caps"] == dict.fromkeys(kinds, mask)
    assert (me["no_new_privs"], me["uids"]) == (1, [1000] * 3)


def test_rlimits(runtime: RuntimeProcess, payload: Path) -> None:
    limits = {"nofile": {"soft": 64, "hard": 128}, "core": {"soft": 0}, "nproc": {"soft": 10}}
    hard = {str(n): resource_hard(runtime.pid, n) for n in range(16)}
    limits["core"]["hard"] = 0
    limits["nproc"]["hard"] = 20
    me = run_new(runtime, payload, "self", rlimits=limits).of("self")
    assert me["rlimits"]["7"] == [64, 128]
    assert me["rlimits"]["4"] == [0, 0]
    assert me["rlimits"]["6"] == [10, 20]
    untouched = {n: v[1] for n, v in me["rlimits"].items() if n not in ("4", "6", "7")}
    assert untouched == {n: v for n, v in hard.items() if n in untouched}


def resource_hard(pid: int, number: int) -> int:
    limit = resource.prlimit(pid, number)[1]
    return -1 if limit == resource.RLIM_INFINITY else limit


SCHED = [
    pytest.param({"other": {"nice": 7}}, (0, 0, 7), id="other"),
    pytest.param({"batch": {"nice": 3}}, (3, 0, 3), id="batch"),
    pytest.param("idle", (5, 0, 0), id="idle"),
]


@pytest.mark.parametrize(("policy", "expected"), SCHED)
def test_scheduling(
    runtime: RuntimeProcess, payload: Path, policy: Any, expected: tuple[int, int, int]
) -> None:
    me = run_new(runtime, payload, "self", sched={"policy": policy}).of("self")
    assert (me["policy"], me["priority"], me["nice"]) == expected


def test_hostname_of_a_long_name(runtime: RuntimeProcess, payload: Path) -> None:
    name = "n" * 100
    assert run_new(runtime, payload, "self", name=name).of("self")["hostname"] == "n" * 64


def test_the_runtimes_keyring_is_out_of_reach(make_runtime: Any, payload: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
    name = f"northstar-test-{os.getpid()}-system"
    assert libc.syscall(keyctl, 1, None) > 0  # KEYCTL_JOIN_SESSION_KEYRING: a new one
    assert libc.syscall(add_key, b"user", name.encode(), b"secret", 6, -3) > 0
    runtime = make_runtime()
    said = run_new(runtime, payload, f"try keyctl-search {name}", capabilities=["CAP_SYS_ADMIN"])
    assert said.errno("keyctl-search", name) == errno.ENOKEY


# ---- Refused actions


@pytest.mark.vm
def test_links_of_the_image_stay_inside(runtime: RuntimeProcess, payload: Path) -> None:
    root = runtime.directory / "image"
    (root / "etc").mkdir(parents=True)
    (root / "up").symlink_to("../../../../../../..")
    (root / "host").symlink_to(f"/../../..{runtime.configuration}")
    (root / "through").symlink_to(f"/proc/1/root{runtime.configuration}")
    (root / "old").symlink_to(f"/proc/self/fd/0/../..{runtime.configuration}")
    secret = str(runtime.configuration)
    said = run_new(
        runtime,
        payload,
        f"list /up ; read /host ; read /through ; read /old ; read /up{secret} ;"
        f"read /proc/1/root{secret} ; read /proc/self/root{secret} ; list /proc/1/root ;"
        "list /proc/1/cwd ; list /.. ; readlink /proc/1/exe ; list /proc/1/fd",
        root=root,
        mounts=PROC,
    )
    inside = {"etc", "up", "host", "through", "old", "payload", "proc"}
    assert set(said.of("list", "/up")["names"]) == inside
    assert set(said.of("list", "/..")["names"]) == inside
    for path in ("/host", "/old", f"/up{secret}", f"/proc/self/root{secret}"):
        assert said.errno("read", path) in {errno.ENOENT, errno.ENOTDIR}, path
    for path in ("/through", f"/proc/1/root{secret}"):
        assert said.errno("read", path) in DENIED
    assert said.errno("list", "/proc/1/root") in DENIED
    assert said.errno("list", "/proc/1/cwd") in DENIED
    assert said.errno("readlink", "/proc/1/exe") in DENIED
    assert said.errno("list", "/proc/1/fd") in DENIED


@pytest.mark.vm
def test_read_only_mounts_cannot_be_written(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, "res", init=None)
    (runtime.directory / "bound").mkdir(mode=0o777)
    mounts = {
        **PROC,
        "/sys": {"type": "sysfs"},
        "/dev": {"type": "dev"},
        "/bind": {"type": "bind", "host": str(runtime.directory / "bound")},
        "/res": {"type": "resource", "name": "res", "version": "*", "dir": "/"},
        "/sockets": {"type": "sockets"},
    }
    everything = ["", "/bind", "/res", "/sockets", "/dev", "/sys"]
    words = " ; ".join(f"write {target}/new x" for target in everything)
    # Also with these capabilities: the mounts are read-only.
    said = run_new(
        runtime,
        payload,
        f"{words} ; write /payload x ; write /proc/sys/kernel/hostname x ;"
        "write /proc/self/comm x ; write /proc/self/exe x ; exit 5",
        mounts=mounts,
        capabilities=["CAP_DAC_OVERRIDE", "CAP_FOWNER"],
    )
    for target in everything:
        assert said.errno("write", f"{target}/new") == errno.EROFS, target
    for path in ("/payload", "/proc/self/exe", "/proc/self/comm"):
        assert said.errno("write", path) in {errno.EROFS, errno.ETXTBSY}, path
    # Here the kernel checks the owner before the mount.
    assert said.errno("write", "/proc/sys/kernel/hostname") in {*DENIED, errno.EROFS}
    assert said.status == Exited(5)
    assert os.listdir(runtime.directory / "bound") == []


@pytest.mark.vm
def test_privileged_calls_are_refused(runtime: RuntimeProcess, payload: Path) -> None:
    mounts = {**PROC, "/tmp": {"type": "tmpfs", "size": "1MiB"}}
    tries = ["mount /tmp", "umount /tmp", "remount /", "mknod /tmp/n", "chroot /tmp", "setuid 0"]
    tries += ["unshare", "sethostname x"]
    words = " ; ".join(f"try {words}" for words in tries)
    said = run_new(runtime, payload, words, mounts=mounts)
    assert len(said) == len(tries)
    assert {(line["result"], line["errno"]) for line in said} == {(-1, errno.EPERM)}


def test_setuid_and_file_capabilities_gain_nothing(runtime: RuntimeProcess, payload: Path) -> None:
    bound = runtime.directory / "bound"
    bound.mkdir()
    for name in ("setuid", "capable"):
        (bound / name).write_bytes(payload.read_bytes())
    (bound / "setuid").chmod(0o6755)
    (bound / "capable").chmod(0o755)
    # vfs_cap_data (linux/capability.h): revision 2, all capabilities permitted.
    data = struct.pack("<IIIII", 0x02000000, 0xFFFFFFFF, 0, 0x1FF, 0)
    os.setxattr(bound / "capable", "security.capability", data)
    mounts = {"/bound": {"type": "bind", "host": str(bound), "options": "rw"}}
    container = install(runtime, payload, mounts=mounts)
    for name in ("setuid", "capable"):
        me = run(runtime, container, f"exec /bound/{name} self").of("self")
        assert (me["uids"], me["gids"]) == ([1000] * 3, [1000] * 3)
        assert set(me["caps"].values()) == {0}


def test_device_nodes_of_the_image(runtime: RuntimeProcess, payload: Path) -> None:
    root = runtime.directory / "image"
    (root / "dev").mkdir(parents=True)
    for name, number in (("null", os.makedev(1, 3)), ("mem", os.makedev(1, 1))):
        for path in (root / name, root / "dev" / name):
            os.mknod(path, 0o20666, number)
            path.chmod(0o666)
    container = install(runtime, payload, root=root, mounts={"/dev": {"type": "dev"}})
    said = run(runtime, container, "read /null ; stat /null ; list /dev ; read /dev/mem")
    assert said.of("stat", "/null")["device"] == [1, 3]
    assert said.errno("read", "/null") == errno.EACCES
    assert "mem" not in said.of("list", "/dev")["names"]
    assert said.errno("read", "/dev/mem") == errno.ENOENT


@pytest.mark.vm
def test_the_runtime_and_its_containers_are_out_of_reach(
    runtime: RuntimeProcess, payload: Path
) -> None:
    other = install(runtime, payload, "other", args="pause")
    # Also with these capabilities: the processes are in other PID namespaces.
    powers = ["CAP_KILL", "CAP_SYS_PTRACE"]
    container = install(runtime, payload, mounts=PROC, capabilities=powers)
    with runtime.client() as client:
        client.start(other)
        pids = [str(runtime.pid), str(pid_of(client, other))]
        words = " ; ".join(
            f"kill {pid} KILL ; try ptrace {pid} ; try vm-read {pid} ; read /proc/{pid}/environ ;"
            f"read /proc/{pid}/mem"
            for pid in pids
        )
        said = run(runtime, container, words)
        for pid in pids:
            assert said.errno("kill", pid) == errno.ESRCH
            assert said.errno("ptrace", pid) == errno.ESRCH
            assert said.errno("vm-read", pid) == errno.ESRCH
            assert said.errno("read", f"/proc/{pid}/environ") == errno.ENOENT
            assert said.errno("read", f"/proc/{pid}/mem") == errno.ENOENT
        assert pid_of(client, other) == int(pids[1])


@pytest.mark.vm
@pytest.mark.parametrize("uid", [1, 1000])
def test_init_cannot_be_controlled(runtime: RuntimeProcess, payload: Path, uid: int) -> None:
    container = install(runtime, payload, mounts=PROC, uid=uid, gid=uid)
    said = run(
        runtime,
        container,
        "try ptrace 1 ; try vm-read 1 ; read /proc/1/environ ; read /proc/1/mem ;"
        "write /proc/1/mem x ; write /proc/1/exe x ; try setns /proc/1/ns/mnt ; exit 9",
    )
    assert len(said) == 7
    assert {line["errno"] for line in said} <= {*DENIED, errno.EROFS, errno.EBADF}
    assert said.status == Exited(9)


@pytest.mark.vm
def test_no_burst_of_signals_ends_init_or_loses_the_status(
    runtime: RuntimeProcess, payload: Path
) -> None:
    container = install(runtime, payload)
    bursts = (
        "kill 1 KILL 100 ; kill 1 STOP ; storm 1 1 64 100 ; queue 1 34 5000 ; queue 1 CHLD 5000"
    )
    for code in (0, 7, 255):
        said = run(runtime, container, f"{bursts} ; orphans 50 ; exit {code}")
        assert said.status == Exited(code)
    for number in (9, 15, 6, 34, 64):
        said = run(runtime, container, f"{bursts} ; raise {number}")
        assert said.status == Signalled(number)


def test_the_launcher_cannot_be_executed(runtime: RuntimeProcess, payload: Path) -> None:
    root = runtime.directory / "image"
    root.mkdir()
    (root / "script").write_text("#!/proc/self/exe\n")
    (root / "script").chmod(0o755)
    container = install(runtime, payload, root=root, mounts={**PROC, "/dev": {"type": "dev"}})
    with runtime.client() as client:
        for init in ("/script", "/proc/self/exe", "/proc/1/exe", "/dev/fd/1"):
            answer = refused(functools.partial(client.start, container, init=init))
            assert "cannot execute" in str(answer), init


@pytest.mark.vm
def test_the_hosts_network(runtime: RuntimeProcess, payload: Path) -> None:
    with listener_in(runtime.pid) as listener:
        port = listener.getsockname()[1]
        words = f"connect {port}"
        apart = run_new(runtime, payload, words, capabilities=["CAP_NET_ADMIN"])
        assert apart.errno("connect", str(port)) == errno.ECONNREFUSED  # refused, so its `lo` is up
        inside = run_new(runtime, payload, words, network="host")
        assert inside.of("connect", str(port))["result"] == 0


def listener_in(pid: int) -> socket.socket:
    """Return a listening socket in the network namespace of a process."""
    made: list[socket.socket] = []

    def make() -> None:
        # setns(2) applies to this thread only.
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
        made.append(socket.create_server(("127.0.0.1", 0)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def test_the_cgroup_tree(runtime: RuntimeProcess, payload: Path) -> None:
    mounts = {
        **PROC,
        "/sys": {"type": "sysfs"},
        "/cgroup": {"type": "bind", "host": "/sys/fs/cgroup", "options": "rec"},
        "/writable": {"type": "bind", "host": "/sys/fs/cgroup", "options": "rw,rec"},
    }
    tasks = "cgroup.procs" if os.path.exists("/sys/fs/cgroup/cgroup.procs") else "pids/tasks"
    words = f"write /cgroup/{tasks} 0 ; write /writable/{tasks} 0 ; list /sys/fs/cgroup"
    said = run_new(runtime, payload, words, mounts=mounts)
    assert said.errno("write", f"/writable/{tasks}") in DENIED
    assert said.of("list", "/sys/fs/cgroup")["names"] == []
    powers = ["CAP_DAC_OVERRIDE"]
    said = run_new(runtime, payload, f"write /cgroup/{tasks} 0", mounts=mounts, capabilities=powers)
    assert said.errno("write", f"/cgroup/{tasks}") == errno.EROFS


# ---- Load on the runtime


def latencies(runtime: RuntimeProcess, until: Callable[[], bool], least: int = 50) -> list[float]:
    """Request the list repeatedly; return the latencies in seconds, sorted."""
    taken: list[float] = []
    with runtime.client() as client:
        while len(taken) < least or not until():
            begun = time.monotonic()
            client.list()
            taken.append(time.monotonic() - begun)
            time.sleep(0.005)
    return sorted(taken)


@pytest.mark.vm
def test_a_flood_of_output_does_not_block_the_runtime(
    runtime: RuntimeProcess, payload: Path
) -> None:
    names = [install(runtime, payload, f"flood{n}", args="flood 0") for n in range(3)]
    with runtime.client(subscribe=True) as client:
        for name in names:
            client.start(name)
        taken = latencies(runtime, lambda: True, least=100)
        assert taken[50] < 0.05 * PATIENCE, f"median {taken[50]:.3f} s"
        assert taken[-1] < 1.0 * PATIENCE, f"longest {taken[-1]:.3f} s"
        begun = time.monotonic()
        for name in names:
            client.kill(name, 9)
            assert exit_of(client, name) == Signalled(9)
        assert time.monotonic() - begun < 2 * PATIENCE
    size = runtime.log.stat().st_size
    assert size < 64 * 2**20, f"{size} bytes were logged"


@pytest.mark.vm
def test_a_fork_bomb_is_bounded(runtime: RuntimeProcess, payload: Path) -> None:
    words = "bomb ; ready ; pause"
    container = install(runtime, payload, args=words, cgroups={"pids": {"max": 20}})
    with runtime.client(subscribe=True) as client:
        client.start(container)
        wait_ready(runtime, container)
        assert max(latencies(runtime, lambda: True, least=20)) < 1.0 * PATIENCE
        client.kill(container, signal.SIGKILL)
        assert exit_of(client, container) == Signalled(9)
    runtime.wait_log(f"Container {container} exited")
    # Init and the payload count as well.
    (children,) = [int(m) for m in bombs(runtime)]
    assert children == 18


def bombs(runtime: RuntimeProcess) -> list[str]:
    return re.findall(r'"do": "bomb", "on": "", "result": (\d+), "errno": 11', runtime.text())


def test_a_container_that_ignores_sigterm_is_killed(runtime: RuntimeProcess, payload: Path) -> None:
    words = "ignore TERM INT HUP ; session ; fork ; ignore TERM ; ready ; pause"
    container = install(runtime, payload, args=words)
    with runtime.client(subscribe=True) as client:
        client.start(container)
        wait_ready(runtime, container)
        client.kill(container, signal.SIGTERM)
        pid = pid_of(client, container)
        wait_until(lambda: len(client.list()) == 1, "the runtime answers")
        client.kill(container, signal.SIGKILL)
        assert exit_of(client, container) == Signalled(9)
        assert not os.path.exists(f"/proc/{pid}")
