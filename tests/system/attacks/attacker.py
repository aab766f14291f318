"""The attackers, their powers, and the parts of the host that no attack may change."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.system import host
from tests.system.containers import PIPES, PROC, Said, install, run
from tests.system.harness import RuntimeProcess, manifest, pack

T = TypeVar("T")

DENIED = {errno.EACCES, errno.EPERM}
NEVER = {*DENIED, errno.EROFS}

GENEROUS = (
    "CAP_CHOWN",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
)


class Power(NamedTuple):
    """The rights that the attacker's manifest grants.

    Attributes:
        name: its name in the ids of tests.
        capabilities: those of the manifest.
        generous: also the host's network and mounts of every type, one of them writable.
        before: commands before the attack.
    """

    name: str
    capabilities: tuple[str, ...] = ()
    generous: bool = False
    before: str = ""


POWERS = (
    Power("empty"),
    Power("generous", GENEROUS, generous=True),
    Power("generous-as-root", GENEROUS, generous=True, before="become 0 0 ; "),
)


class Victim:
    """The runtime's host, with a directory tree that represents all of its files.

    Attributes:
        runtime: the runtime.
        tree: files that no container may change, one of which it must not even read.
        shared: a directory that containers with a writable bind mount may write to.
    """

    def __init__(self, runtime: RuntimeProcess) -> None:
        """Make the tree, and record the state of the host."""
        self.runtime = runtime
        self.tree = runtime.directory / "host"
        (self.tree / "etc" / "open").mkdir(parents=True)
        (self.tree / "etc" / "open").chmod(0o777)
        (self.tree / "etc" / "secret").write_text("secret")
        (self.tree / "etc" / "secret").chmod(0o600)
        (self.tree / "etc" / "writable").write_text("precious")
        (self.tree / "etc" / "writable").chmod(0o666)
        self.shared = runtime.directory / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o777)
        self._before = self._state()

    def assert_unharmed(self) -> None:
        """Compare the state of the host with the recorded one."""
        now = self._state()
        changed = {k: (v, now[k]) for k, v in self._before.items() if v != now[k]}
        assert not changed, f"the host was changed: {changed}"

    def _state(self) -> dict[str, Any]:
        pid = self.runtime.pid
        paths = [self.tree, *self.tree.rglob("*"), Path("/"), Path("/etc"), *map(Path, DEVICES)]
        state: dict[str, Any] = {str(path): _facts(path) for path in paths}
        state |= {path: Path(path).read_bytes() for path in SETTINGS if os.path.exists(path)}
        state["mounts"] = [
            line for line in host.mounts(pid) if not line.startswith(f"{self.runtime.run_dir}/")
        ]
        # The kernel adds a tunnel of each type once the namespace was used; addresses do not count.
        state["interfaces"] = Path(f"/proc/{pid}/net/dev").read_text().count(":")
        state["limits"] = [resource.prlimit(pid, number) for number in range(16)]
        state["priority"] = (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid))
        state["processors"] = os.sched_getaffinity(pid)
        state["host name"] = os.uname().nodename
        return state


DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")

SETTINGS = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/overcommit_memory",
    "/sys/kernel/uevent_helper",
    *(f"{root}/release_agent" for root in host.cgroup_roots()),
    *(f"{root}/notify_on_release" for root in host.cgroup_roots()),
)
"""Settings that make the kernel run programs on the host, and other global ones."""


def _facts(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    facts = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev)
    if path.parts[:2] in (("/",), ("/", "etc"), ("/", "dev")):
        return facts  # other programs change entries there
    return (*facts, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def manifest_of(power: Power, victim: Victim, attack: Path) -> dict[str, Any]:
    """Return the fields of a manifest with this power; install the resource that it uses."""
    if not power.generous:
        return {}
    _install_again(victim, attack, manifest("library", init=None))
    mounts = {
        **PROC,
        "/sys": {"type": "sysfs"},
        "/dev": {"type": "dev"},
        "/tmp": {"type": "tmpfs", "size": "1MiB"},
        "/data": {"type": "persist"},
        "/sockets": {"type": "sockets"},
        "/lib": {"type": "resource", "name": "library", "version": "1", "dir": "/"},
        "/host": {"type": "bind", "host": str(victim.tree)},
        "/shared": {"type": "bind", "host": str(victim.shared), "options": "rw"},
    }
    return {"capabilities": list(power.capabilities), "network": "host", "mounts": mounts}


def assault(
    victim: Victim, attack: Path, power: Power, words: str, *, root: Path | None = None, **more: Any
) -> Said:
    """Run commands in a container with this power; `more` overrides fields."""
    fields = {**manifest_of(power, victim, attack), **more}
    if root is None:
        container = _install_again(victim, attack, manifest("attacker", io=PIPES, **fields))
    else:
        container = install(victim.runtime, attack, "attacker", root=root, **fields)
    said = run(victim.runtime, container, power.before + words)
    if power.before:
        assert said.of("become", "0")["result"] == 0
    return said


def _install_again(victim: Victim, attack: Path, text: str) -> str:
    """Install a package, from the cache if another test has packed the same."""
    with victim.runtime.client() as client:
        return str(client.install(_packed(attack, text), "mem"))


@functools.cache
def _packed(attack: Path, text: str) -> Path:
    return pack(attack.parent, text, {"payload": attack})


def refusals(said: Said, do: str) -> dict[str, int]:
    """Return the errno of each attempt of the command `do`; none may have succeeded."""
    found = {line["on"]: line for line in said if line["do"] == do}
    succeeded = [on for on, line in found.items() if line["result"] >= 0]
    assert not succeeded, f"{do} succeeded on {succeeded}"
    return {on: line["errno"] for on, line in found.items()}


def in_network_of(pid: int, make: Callable[[], T]) -> T:
    """Call `make` in the network namespace of a process; sockets that it opens stay there."""
    made: list[T] = []

    def call() -> None:
        # setns(2) applies to this thread only.
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
        made.append(make())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return made[0]
