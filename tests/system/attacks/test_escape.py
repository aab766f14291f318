"""Attempts to leave the container: by paths, links, descriptors, names and namespaces."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from tests.system.attacks.attacker import (
    DENIED,
    GENEROUS,
    NEVER,
    Power,
    Victim,
    assault,
    in_network_of,
    manifest_of,
    refusals,
)
from tests.system.containers import PROC, install, pid_of, refused, run
from tests.system.harness import exchange_manifest, manifest, pack

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True


def test_the_root_cannot_be_left_upwards(victim: Victim, attack: Path, power: Power) -> None:
    """`..`, links of the image and of /proc, and file handles lead no further than the root."""
    root = victim.runtime.directory / "image"
    root.mkdir()
    secret = victim.tree / "etc" / "writable"
    (root / "up").symlink_to("../" * 20 + str(secret))
    (root / "straight").symlink_to(secret)
    (root / "old-root").symlink_to(f"/proc/1/root{secret}")
    words = (
        f"climb ; read /up ; read /straight ; read /old-root ; read {secret} ;"
        "list /proc/1/root ; list /proc/1/cwd ; readlink /proc/1/fd/3 ; readlink /proc/1/exe ;"
        "same /proc/self/root / ; same /proc/self/cwd / ; handle"
    )
    said = assault(victim, attack, power, words, root=root)
    assert said.of("climb")["result"] == 0
    assert refusals(said, "read").keys() == {"/up", "/straight", "/old-root", str(secret)}
    for do in ("list", "readlink"):
        assert set(refusals(said, do).values()) <= {*DENIED, errno.ENOENT}, do
    assert said.errno("handle") in {errno.EPERM, errno.EOPNOTSUPP}
    if power.generous:
        assert said.of("same", "/proc/self/root")["result"] == 0
        assert said.of("same", "/proc/self/cwd")["result"] == 0


def test_inherited_descriptors_give_no_access(victim: Victim, attack: Path, power: Power) -> None:
    """None is a directory, and none allows a change of objects that others use."""
    what = ("chmod", "chown", "times", "acl", "parent", "tty", "chmod-path", "chown-path")
    words = "self ; " + " ; ".join(f"on-fd 0 {each}" for each in what)
    said = assault(victim, attack, power, f"{words} ; on-fd 1 parent ; on-fd 1 tty ; terminal")
    kinds = said.of("self")["fds"]
    assert kinds == {"0": "char", "1": "pipe", "2": "pipe"}
    expected = {errno.EROFS, errno.ENOTDIR, errno.ENOTTY, *DENIED, errno.ENOENT}
    assert set(refusals(said, "on-fd").values()) <= expected
    assert said.errno("terminal") in {errno.ENXIO, errno.ENOENT}


def test_descriptors_are_not_shared_among_containers(victim: Victim, attack: Path) -> None:
    first = install(victim.runtime, attack, "first", args="on-fd 0 nonblock ; pause")
    second = install(victim.runtime, attack, "second")
    before = run(victim.runtime, second, "on-fd 0 flags").of("on-fd", "0 flags")["result"]
    assert not before & os.O_NONBLOCK
    with victim.runtime.client() as client:
        client.start(first)
        victim.runtime.wait_log(r'"0 nonblock", "result": 0')
        after = run(victim.runtime, second, "on-fd 0 flags").of("on-fd", "0 flags")["result"]
    assert after == before


# ---- Images whose mount targets are links

LINKS = ("/etc/{0}", "../../../../../../etc/{0}", "/proc/self/root/etc/{0}", "/proc/1/root/etc/{0}")


@pytest.mark.parametrize("link", LINKS)
def test_links_as_mount_targets(victim: Victim, attack: Path, link: str) -> None:
    runtime = victim.runtime
    root = runtime.directory / "image"
    mounts = manifest_of(Power("generous", generous=True), victim, attack)["mounts"]
    for target in mounts:
        name = target.lstrip("/")
        (root / "etc" / name).mkdir(parents=True)
        if target != "/proc":
            (root / name).symlink_to(link.format(name))
    container = install(runtime, attack, "attacker", root=root, mounts=mounts)
    if link.startswith("/proc"):
        with runtime.client() as client:
            refused(lambda: client.start(container))
        return
    said = run(runtime, container, "mounts")
    inside = {f"/etc{target}" for target in mounts if target != "/proc"}
    assert set(said.mounts) == {"/", "/proc", *inside}


@pytest.mark.parametrize("kind", ["dev", "resource", "bind"])
@pytest.mark.parametrize("link", ["/etc", "../../.."])
def test_links_to_paths_that_exist_on_the_host(
    victim: Victim, attack: Path, link: str, kind: str
) -> None:
    """`../../..` is the root: a mount there covers the program, so the start fails."""
    runtime = victim.runtime
    root = runtime.directory / "image"
    (root / "etc").mkdir(parents=True)
    (root / "target").symlink_to(link)
    install(runtime, attack, "library", init=None)
    mount: dict[str, Any] = {"type": kind}
    if kind == "resource":
        mount |= {"name": "library", "version": "1", "dir": "/"}
    elif kind == "bind":
        mount |= {"host": str(victim.shared), "options": "rw"}
    container = install(runtime, attack, "attacker", root=root, mounts={"/target": mount})
    if link == "/etc":
        assert run(runtime, container, "list /etc").of("list", "/etc")["names"] is not None
        return
    with runtime.client() as client:
        refused(lambda: client.start(container))


def test_a_resource_directory_outside_of_its_image(victim: Victim, attack: Path) -> None:
    runtime = victim.runtime
    for number, link in enumerate((str(victim.tree), "../" * 20 + str(victim.tree).lstrip("/"))):
        root = runtime.directory / f"resource{number}"
        root.mkdir()
        (root / "dir").symlink_to(link)
        install(runtime, attack, f"resource{number}", init=None, root=root)
        mount = {"type": "resource", "name": f"resource{number}", "version": "1", "dir": "/dir"}
        container = install(runtime, attack, f"user{number}", mounts={"/r": mount})
        with runtime.client() as client:
            answer = refused(lambda c=container: client.start(c))  # type: ignore[misc]
        assert f"resource{number}" in str(answer)


# ---- Names with path components


def resource(name: str, directory: str) -> dict[str, Any]:
    mount = {"type": "resource", "name": name, "version": "1", "dir": directory}
    return {"mounts": {"/r": mount}}


MEMORY_ATTRIBUTE = {"memory": {"oom_monitor": False, "attrs": {"innocent": "1"}}}
SOCKET = {"type": "stream", "mode": 0o600}

# Fields of a valid manifest, and the replacements of its word.
CLIMBING: dict[str, tuple[dict[str, Any], str, str]] = {
    "name": ({"name": "innocent"}, "innocent", "../../xx"),
    "name-dots": ({"name": "zz"}, "zz", ".."),
    "target": ({"mounts": {"/innocent": {"type": "persist"}}}, "/innocent", "/a/../../"),
    "resource-directory": (resource("r", "/innocent"), "/innocent", "/../../.."),
    "resource-name": (resource("innocent", "/"), "innocent", "../../xx"),
    "socket": ({"sockets": {"innocent": SOCKET}}, "innocent", "../../xx"),
    "parent": ({"cgroups": {"parent": "innocent"}}, "innocent", "../../xx"),
    "parent-absolute": ({"cgroups": {"parent": "innocent"}}, "innocent", "/sys/fs/"),
    "attribute": ({"cgroups": MEMORY_ATTRIBUTE}, "innocent", "../tasks"),
    "namespace": ({"network": {"namespace": "innocent"}}, "innocent", "../../xx"),
    "namespace-dots": ({"network": {"namespace": "zz"}}, "zz", ".."),
}


@pytest.mark.parametrize("case", CLIMBING)
def test_names_with_path_components(victim: Victim, attack: Path, case: str) -> None:
    fields, innocent, climbing = CLIMBING[case]
    fields = {"name": "attacker", **fields}
    text = manifest(**fields)
    assert text.count(innocent) == 1
    package = pack(victim.runtime.directory, text, {"payload": attack})
    exchange_manifest(package, text.replace(innocent, climbing))
    with victim.runtime.client() as client:
        answer = refused(lambda: client.install(package, "mem"))
        assert re.search(rf"manifest.yaml: .*'{re.escape(climbing)}' is not an? ", str(answer))
        assert list(client.list()) == []


OTHERS_NAMES = ("tasks", "cgroup.procs", "notify_on_release", "memory.max", "null", "cpu")


@pytest.mark.parametrize("name", OTHERS_NAMES)
def test_names_of_cgroup_files(victim: Victim, attack: Path, name: str) -> None:
    """A container with the name of a cgroup file runs, or is refused with an error."""
    runtime = victim.runtime
    container = install(runtime, attack, name, args="exit 3", mounts={"/d": {"type": "persist"}})
    with runtime.client(subscribe=True) as client:
        try:
            client.start(container)
        except api.RefusedError as answer:
            assert name in str(answer)
    other = install(runtime, attack, "other")
    assert run(runtime, other, "ready").of("ready")["result"] == 0


def test_directories_of_other_containers(victim: Victim, attack: Path) -> None:
    """Of two names one is a prefix of the other; each container sees only its data."""
    runtime = victim.runtime
    persist = {"/d": {"type": "persist"}}
    owner = install(runtime, attack, "app", mounts=persist)
    run(runtime, owner, "write /d/mine x")
    for name in ("app-", "app.", "APP", "app_1.0.0", "ap"):
        other = install(runtime, attack, name, mounts=persist)
        assert run(runtime, other, "list /d").of("list", "/d")["names"] == [], name
    assert os.listdir(runtime.data_dir / "app") == ["mine"]


# ---- Sockets of other containers


def test_sockets_of_other_containers(victim: Victim, attack: Path, power: Power) -> None:
    """A sockets mount shows them; their mode decides about connections, and none is changed."""
    runtime = victim.runtime
    sockets = {
        "open": {"type": "stream", "mode": 0o666},
        "closed": {"type": "stream", "mode": 0o600},
    }
    server = install(runtime, attack, "server", args="pause", sockets=sockets, uid=2000, gid=2000)
    with runtime.client() as client:
        client.start(server)
        names = [f"/sockets/{server}:{name}" for name in sockets]
        words = " ; ".join(f"unix {n} ; write {n} x ; try chmod {n}" for n in names)
        more: dict[str, Any] = (
            {} if power.generous else {"mounts": {"/sockets": {"type": "sockets"}}}
        )
        said = assault(victim, attack, power, f"{words} ; write /sockets/mine x", **more)
        assert said.of("unix", names[0])["result"] == 0
        if power.before:
            assert said.of("unix", names[1])["result"] == 0  # CAP_SETUID: its owner is root
        else:
            assert said.errno("unix", names[1]) == errno.EACCES
        assert set(refusals(said, "chmod").values()) <= NEVER
        assert said.errno("write", "/sockets/mine") == errno.EROFS
        assert sorted(os.listdir(runtime.socket_dir)) == sorted(n[9:] for n in names)


# ---- Other ways to the host


def test_the_hosts_network(victim: Victim, attack: Path, power: Power) -> None:
    """TCP and abstract sockets are reachable with `network: host` only; raw packets never."""
    name = f"northstar-attack-{os.getpid()}"

    def listen() -> tuple[socket.socket, socket.socket]:
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind(f"\0{name}")
        abstract.listen()
        return socket.create_server(("127.0.0.1", 0)), abstract

    tcp, abstract = in_network_of(victim.runtime.pid, listen)
    with tcp, abstract:
        port = tcp.getsockname()[1]
        said = assault(victim, attack, power, f"connect {port} ; abstract {name} ; raw-socket")
    if power.generous:
        assert said.of("connect", str(port))["result"] == 0
        assert said.of("abstract", name)["result"] == 0
    else:
        assert said.errno("connect", str(port)) == errno.ECONNREFUSED
        assert said.errno("abstract", name) == errno.ECONNREFUSED
    assert said.errno("raw-socket") == errno.EPERM


def test_the_hosts_network_by_a_descriptor(victim: Victim, attack: Path) -> None:
    """A socket of any family shows the interfaces of the network namespace of its creation."""
    enter, address = victim.runtime.enter, "192.0.2.1/32"
    sockets = {kind: {"type": kind, "mode": 0o600} for kind in ("datagram", "seq_packet", "stream")}
    subprocess.run(enter("ip", "link", "set", "lo", "up"), check=True)
    subprocess.run(enter("ip", "address", "add", address, "dev", "lo"), check=True)
    try:
        said = assault(
            victim,
            attack,
            Power("network"),
            " ; ".join(f"addresses {fd} ; down {fd}" for fd in range(3, 7)),
            capabilities=["CAP_NET_ADMIN"],
            console={"permissions": []},
            sockets=sockets,
        )
        link = subprocess.run(enter("ip", "link", "show", "lo"), check=True, stdout=subprocess.PIPE)
    finally:
        subprocess.run(enter("ip", "address", "delete", address, "dev", "lo"), check=True)
    loopback = int.from_bytes(socket.inet_aton("127.0.0.1"))
    for fd in range(3, 7):
        assert said.of("addresses", str(fd))["addresses"] in ([], [loopback])
    assert b"UP" in link.stdout


def test_the_hosts_system_v_objects(victim: Victim, attack: Path, power: Power) -> None:
    libc = ctypes.CDLL(None)
    key = 0x4E530000 + os.getpid() % 0x10000
    memory, queue = libc.shmget(key, 4096, 0o1666), libc.msgget(key, 0o1666)
    assert memory >= 0 <= queue
    try:
        said = assault(victim, attack, power, f"shared-memory {key} ; messages {key}")
    finally:
        libc.shmctl(memory, 0, None)  # IPC_RMID
        libc.msgctl(queue, 0, None)
    assert said.errno("shared-memory", str(key)) == errno.ENOENT
    assert said.errno("messages", str(key)) == errno.ENOENT


def test_the_runtimes_keys(make_runtime: Any, attack: Path) -> None:
    """A key is neither found by its name nor read by its number."""
    libc = ctypes.CDLL(None, use_errno=True)
    add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
    name = f"northstar-attack-{os.getpid()}"
    assert libc.syscall(keyctl, 1, None) > 0  # KEYCTL_JOIN_SESSION_KEYRING: a new one
    serial = libc.syscall(add_key, b"user", name.encode(), b"secret", 6, -3)
    assert serial > 0
    victim = Victim(make_runtime())
    container = install(victim.runtime, attack, "attacker", capabilities=list(GENEROUS))
    for before in ("", "become 0 0 ; "):
        words = f"{before}try keyctl-search {name} ; key {serial}"
        said = run(victim.runtime, container, words)
        assert said.errno("keyctl-search", name) == errno.ENOKEY
        assert said.errno("key", str(serial)) == errno.EACCES
    victim.assert_unharmed()


def test_processes_outside_of_the_container(victim: Victim, attack: Path, power: Power) -> None:
    runtime = victim.runtime
    other = install(runtime, attack, "other", args="pause")
    with runtime.client() as client:
        client.start(other)
        pids = [runtime.pid, pid_of(client, other), os.getpid()]
        words = " ; ".join(f"kill {pid} KILL ; try ptrace {pid} ; read /proc/{pid}/environ"
                           for pid in pids)  # fmt: skip
        said = assault(victim, attack, power, f"{words} ; kill -1 KILL ; list /proc")
        assert len(client.list()) >= 2
        assert pid_of(client, other) == pids[1]
    for pid in pids:
        assert said.errno("kill", str(pid)) == errno.ESRCH
        assert said.errno("ptrace", str(pid)) == errno.ESRCH
        assert said.errno("read", f"/proc/{pid}/environ") == errno.ENOENT
    assert said.errno("kill", "-1") in {errno.ESRCH, errno.EPERM}
    if power.generous:
        seen = [int(name) for name in said.of("list", "/proc")["names"] if name.isdigit()]
        assert len(seen) == 2
        assert 1 in seen


# ---- The launcher

PROGRAMS = (
    "/proc/self/exe",
    "/proc/1/exe",
    "/proc/self/fd/0",
    "/dev/fd/1",
    "/proc/self/root/payload",
    "/script",
    "/script1",
    "/loaded",
)


def test_the_launcher_as_init_of_a_container(victim: Victim, attack: Path, power: Power) -> None:
    root = victim.runtime.directory / "image"
    root.mkdir()
    (root / "script").write_text("#!/proc/self/exe\n")
    (root / "script1").write_text("#! \t/proc/1/exe x\n")
    (root / "loaded").write_bytes(elf_with_late_loader(b"/proc/self/exe\0"))
    for name in ("script", "script1", "loaded"):
        (root / name).chmod(0o755)
    fields = {"mounts": PROC, **manifest_of(power, victim, attack)}
    container = install(victim.runtime, attack, "attacker", root=root, **fields)
    with victim.runtime.client() as client:
        for init in PROGRAMS:
            answer = refused(functools.partial(client.start, container, init=init))
            assert "cannot execute" in str(answer), init
            if init.lstrip("/") in ("script", "script1", "loaded"):
                # The first check refuses it, not the mode of the launcher.
                assert "(ELOOP)" in str(answer), init


def elf_with_late_loader(loader: bytes, before: int = 1000) -> bytes:
    """Return an ELF file whose interpreter is named in a segment after many others."""
    machine = {"x86_64": 62, "aarch64": 183}[os.uname().machine]
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    count = before + 1
    header = struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    at = 64 + 56 * count
    nothing = struct.pack("<IIQQQQQQ", 0, 0, 0, 0, 0, 0, 0, 1)
    segment = struct.pack("<IIQQQQQQ", 3, 4, at, at, at, len(loader), len(loader), 1)
    return ident + header + nothing * before + segment + loader


def test_the_launcher_file_from_inside_a_container(
    victim: Victim, attack: Path, power: Power
) -> None:
    words = "exec /proc/1/exe ; write /proc/1/exe x ; write /proc/self/exe x ; write /payload x"
    said = assault(victim, attack, power, words)
    assert said.errno("exec", "/proc/1/exe") in {*DENIED, errno.ENOENT}
    assert set(refusals(said, "write").values()) <= {*NEVER, errno.ENOENT, errno.ETXTBSY}
