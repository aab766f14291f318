"""Who attacks, with which powers, and what must not have changed on the host afterwards."""

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
    """What an attacker's manifest gives it.

    Attributes:
        name: for the names of tests.
        capabilities: of the manifest.
        generous: it also has the host's network and mounts of every type, one of them writable.
        before: commands that come before the attack.
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
    """The runtime's host, with a directory tree that stands for all of its files.

    Attributes:
        runtime: the runtime.
        tree: files that no container may change, one of which it may not even read.
        shared: what containers with a writable bind mount may write to.
    """

    def __init__(self, runtime: RuntimeProcess) -> None:
        """Make the tree, and remember how everything is."""
        self.runtime = runtime
        self.tree = runtime.directory / "host"
        (self.tree / "etc" / "open").mkdir(parents=True)
        (self.tree / "etc" / "open").chmod(0o777)
        (self.tree / "etc" / "secret").write_text("secret")
        (self.tree / "etc" / "secret").chmod(0o600)
        (self.tree / "etc" / "anybodys").write_text("precious")
        (self.tree / "etc" / "anybodys").chmod(0o666)
        self.shared = runtime.directory / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o777)
        self._before = self._state()

    def assert_unharmed(self) -> None:
        """Compare what there is now with what there was."""
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
        # A tunnel of each type comes with a network namespace that has been used; no address.
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
"""What makes the kernel run programs of somebody's choice on the host, and the like."""


def _facts(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    facts = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev)
    if path.parts[:2] in (("/",), ("/", "etc"), ("/", "dev")):
        return facts  # others live there as well
    return (*facts, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def manifest_of(power: Power, victim: Victim, attack: Path) -> dict[str, Any]:
    """Return the fields of a manifest with this power; a resource that it uses is installed."""
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
    """Run the attacker's commands in a container with this power; fields in `more` win."""
    fields = {**manifest_of(power, victim, attack), **more}
    if root is None:
        container = _install_again(victim, attack, manifest("enemy", io=PIPES, **fields))
    else:
        container = install(victim.runtime, attack, "enemy", root=root, **fields)
    said = run(victim.runtime, container, power.before + words)
    if power.before:
        assert said.of("become", "0")["result"] == 0
    return said


def _install_again(victim: Victim, attack: Path, text: str) -> str:
    """Install a package that another test may have made already: most need no other image."""
    with victim.runtime.client() as client:
        return str(client.install(_packed(attack, text), "mem"))


@functools.cache
def _packed(attack: Path, text: str) -> Path:
    return pack(attack.parent, text, {"payload": attack})


def refusals(said: Said, do: str) -> dict[str, int]:
    """Return how each attempt to do that was refused; none may have succeeded."""
    found = {line["on"]: line for line in said if line["do"] == do}
    succeeded = [on for on, line in found.items() if line["result"] >= 0]
    assert not succeeded, f"{do} succeeded on {succeeded}"
    return {on: line["errno"] for on, line in found.items()}


def in_network_of(pid: int, make: Callable[[], T]) -> T:
    """Call `make` in the network namespace of a process; what it opens stays there."""
    made: list[T] = []

    def call() -> None:
        # setns(2) is for this thread, which ends here.
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
        made.append(make())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return made[0]
