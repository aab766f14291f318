"""Programs that start one container without an image: crun and bubblewrap.

As far as possible they do the same as a start of ours: the same payload from a directory; PID,
mount, IPC, UTS and network namespace; /proc, a /dev and a /tmp; no capabilities, no new privileges.
crun also changes the user; bubblewrap would need a user namespace, so there the payload is root.
They have no image, no daemon, and no separate PID 1 (except bubblewrap).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from northstar.linux import mount

_NAMESPACES = ("pid", "mount", "ipc", "uts", "network")
_UNIFIED = "/sys/fs/cgroup/unified"
_SAFE = ["nosuid", "noexec", "nodev"]


class Program:
    """A program that starts a container, and runs until it has exited."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a container; return when the payload has reported its start."""
        self._running = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._running.stdout is not None
        assert self._running.stdout.read(1) == b"x", f"{self._command[0]} did not start"

    def end(self) -> None:
        """Kill the payload, a child or grandchild, and wait for the end of the program."""
        assert self._running is not None
        pid = self._running.pid
        while Path(f"/proc/{pid}/comm").read_text().strip() != "pause":
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        os.kill(pid, 9)
        self._running.communicate()
        self._running = None


def _crun(name: str, directory: Path, root: Path, *, cgroups: bool) -> list[str]:
    bundle = directory / name
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(oci_configuration(root, name)))
    manager = "cgroupfs" if cgroups else "disabled"
    # The state must not be on a disk, like ours.
    state = f"--root=/run/{name}"
    return ["crun", state, f"--cgroup-manager={manager}", "run", f"--bundle={bundle}", name]


def oci_configuration(root: Path, name: str) -> dict[str, Any]:
    """Return a configuration according to the OCI runtime specification."""
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "args": ["/pause"],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": _SAFE},
            {"destination": "/dev", "type": "tmpfs", "source": "dev", "options": ["size=1m"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmp", "options": _SAFE},
        ],
        "linux": {
            "cgroupsPath": f"/{name}",
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
        },
    }


def _bubblewrap(root: Path) -> list[str]:
    unshare = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    mounts = ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    return ["bwrap", *unshare, *mounts, "--cap-drop", "ALL", "/pause"]


@contextlib.contextmanager
def no_hybrid() -> Iterator[None]:
    """Hide the second hierarchy of a hybrid cgroup v1, which crun refuses.

    This thread enters a mount namespace for it, and leaves that at the end.
    """
    if not os.path.ismount(_UNIFIED):
        yield
        return
    with contextlib.ExitStack() as stack:
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        stack.callback(os.close, here)
        space = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, space)
        mount.unshare(mount.CLONE_NEWNS)
        stack.callback(os.fchdir, here)  # setns(2) changes to the root
        stack.callback(mount.setns, space, mount.CLONE_NEWNS)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        mount.umount2(_UNIFIED)
        yield


@contextlib.contextmanager
def programs(directory: Path, root: Path) -> Iterator[dict[str, Program]]:
    """Yield the installed programs, by their names in the table."""
    found: dict[str, Program] = {}
    names: list[str] = []
    if shutil.which("crun"):
        for words, cgroups in (("crun", True), ("crun, no cgroup", False)):
            names.append(f"northstar-compare-{os.getpid()}-{len(names)}")
            found[words] = Program(_crun(names[-1], directory, root, cgroups=cgroups))
    if shutil.which("bwrap"):
        found["bubblewrap"] = Program(_bubblewrap(root))
    try:
        with no_hybrid():
            yield found
    finally:
        for name in names:
            # crun has removed the container; an empty directory may be left.
            shutil.rmtree(f"/run/{name}", ignore_errors=True)
