"""Unusual process state from the parent: the runtime works, and containers do not inherit it."""

from __future__ import annotations

import itertools
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.client import blocking
from northstar.model import Exited, Signalled
from tests.system import host, parent
from tests.system.containers import exit_of, install, pid_of, wait_ready
from tests.system.harness import TIMEOUT, RuntimeProcess, wait_until

pytestmark = pytest.mark.root

EXECUTED_RUNTIME = True

MakeRuntime = Callable[..., RuntimeProcess]


def status_of(pid: int | str) -> dict[str, str]:
    """Return the fields of proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def payload_of(client: blocking.Client, container: str) -> int:
    """Return the pid of a container's payload."""
    (payload,) = host.descendants(pid_of(client, container))
    return payload


def use(runtime: RuntimeProcess, payload: Path) -> None:
    """Start two containers: one exits, one is killed, and both exits are reported."""
    container = install(runtime, payload, args="exit 3")
    other = install(runtime, payload, "other", args="ready ; pause")
    with runtime.client(subscribe=True) as client:
        client.start(container)
        assert exit_of(client, container) == Exited(3)
        client.start(other)
        client.kill(other, signal.SIGTERM)
        assert exit_of(client, other) == Signalled(signal.SIGTERM)


# ---- Signals


@pytest.mark.parametrize("blocked", [False, True])
def test_ignored_and_blocked_signals(
    make_runtime: MakeRuntime, payload: Path, *, blocked: bool
) -> None:
    """With SIGCHLD ignored, waitpid(2) returns no status, and a pid can be reused."""
    runtime = make_runtime(
        tables='[debug]\ncommands = ["cat /proc/self/status"]\n',
        wrap=parent.wrap(ignored=list(range(1, parent.LAST_SIGNAL + 1)), blocked=blocked),
    )
    use(runtime, payload)
    container = install(runtime, payload, "third", args="ready ; pause")
    since = len(runtime.text())
    with runtime.client() as client:
        client.start(container)
        wait_ready(runtime, container)
        found = status_of(payload_of(client, container))
    for name in ("SigIgn", "SigBlk"):
        assert int(found[name], 16) == 0, name
        line = runtime.wait_log(rf"INFO +{container}: {name}:\s+(\w+)", since=since)
        assert int(line[1], 16) == 0, name
    # SIGHUP stays ignored. Python ignores SIGPIPE and SIGXFSZ; the C library owns 32 to 34.
    ignored = int(status_of(runtime.pid)["SigIgn"], 16) & ~(0b111 << 31)
    expected = (signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
    assert ignored == sum(1 << (number - 1) for number in expected)
    assert int(status_of(runtime.pid)["SigBlk"], 16) == 0
    runtime.stop()


# ---- The umask


def modes_below(runtime: RuntimeProcess) -> dict[str, str]:
    """Return the mode of everything that the runtime has created, by path."""
    found = {}
    tops = [runtime.run_dir.parent, runtime.data_dir, runtime.socket_dir]
    tops += map(Path, host.cgroups(runtime.cgroup))
    for top in tops:
        for path in (top, *(below for below in top.rglob("*") if "cgroup" not in str(top))):
            found[str(path)] = stat.filemode(path.lstat().st_mode)
    for path in (runtime.directory / "console", *(runtime.directory / "store").iterdir()):
        found[str(path)] = stat.filemode(path.lstat().st_mode)
    common = (str(runtime.directory), runtime.cgroup)
    return {
        path.replace(common[0], "").replace(common[1], "CGROUP"): m for path, m in found.items()
    }


def modes_with(umask: int, make_runtime: MakeRuntime, payload: Path, directory: Path) -> Any:
    store = directory / "store"
    store.mkdir(parents=True, mode=0o755)
    runtime = make_runtime(
        directory=directory,
        repositories={"fs": f'type = {{ fs = {{ dir = "{store}" }} }}'},
        wrap=parent.wrap(umask=umask),
        start=False,
    )
    text = runtime.configuration.read_text()
    deep = directory / "deep" / "run"
    runtime.configuration.write_text(text.replace(str(runtime.run_dir), str(deep)))
    runtime.run_dir = deep
    runtime.start()
    container = install(
        runtime,
        payload,
        repository="fs",
        args="ready ; pause",
        mounts={"/data": {"type": "persist"}},
        sockets={
            "s": {"type": "stream", "mode": 0o640},
            "d": {"type": "datagram", "mode": 0o666},
        },
    )
    with runtime.client() as client:
        client.start(container)
        wait_ready(runtime, container)
        modes = modes_below(runtime)
        commands = [pid_of(client, container), payload_of(client, container)]
        masks = [status_of(pid)["Umask"] for pid in (runtime.pid, *commands)]
    runtime.stop()
    return modes, masks


def test_the_umask_changes_no_mode(
    make_runtime: MakeRuntime, payload: Path, tmp_path: Path
) -> None:
    expected = modes_with(0o022, make_runtime, payload, tmp_path / "022")
    modes, _ = expected
    assert modes["/console"] == "srw-------"
    assert modes["/store/app:1.0.0.npk"] == "-rw-r--r--"
    assert modes["/data/app"] == "drwx------"
    assert modes["/socket/app:1.0.0:s"] == "srw-r-----"
    assert modes["/socket/app:1.0.0:d"] == "srw-rw-rw-"
    assert modes["/deep"] == "drwxr-xr-x"
    assert any(path.endswith("CGROUP/app") for path in modes)
    for umask in (0, 0o077, 0o777):
        assert modes_with(umask, make_runtime, payload, tmp_path / f"{umask:o}") == expected


# ---- Descriptors


CLOSED = [
    combination for count in range(4) for combination in itertools.combinations(range(3), count)
]


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_closed_standard_descriptors(
    make_runtime: MakeRuntime, payload: Path, closed: tuple[int, ...]
) -> None:
    """No file is opened under their numbers, so no log line is written into another file."""
    runtime = make_runtime(start=False, wrap=parent.wrap(closed=closed)).start(wait=False)
    wait_until(lambda: connects(runtime.url), "the console listens")
    use(runtime, payload)
    null = os.stat(os.devnull).st_rdev
    for number in closed:
        assert os.stat(f"/proc/{runtime.pid}/fd/{number}").st_rdev == null
    runtime.stop()
    assert ("Shutdown complete" in runtime.text()) == (2 not in closed)
    assert "Traceback" not in runtime.text()


def connects(url: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(url.removeprefix("unix://")) == 0


def test_leaked_descriptors_reach_no_container(make_runtime: MakeRuntime, payload: Path) -> None:
    """A debug command runs before init closes its descriptors, so it shows those of init."""
    script = "for fd in /proc/<PID>/fd/* /proc/self/fd/*; do readlink $fd || true; done"
    runtime = make_runtime(start=False, wrap=parent.wrap(leaked=300))
    command = runtime.directory / "command"
    command.write_text(f"#!/bin/sh\n{script.replace('<PID>', '$1')}\necho all\nexec sleep 1000\n")
    command.chmod(0o700)
    with runtime.configuration.open("a") as file:
        file.write(f'[debug]\ncommands = ["{command} <PID>"]\n')
    runtime.start()
    assert len(os.listdir(f"/proc/{runtime.pid}/fd")) > 300
    container = install(runtime, payload, args="ready ; pause")
    with runtime.client() as client:
        client.start(container)
        wait_ready(runtime, container)
        runtime.wait_log(f"INFO +{container}: all$")
        assert len(os.listdir(f"/proc/{payload_of(client, container)}/fd")) == 3
    seen = re.findall(rf"INFO +{container}: (.*)$", runtime.text(), re.MULTILINE)
    assert not [link for link in seen if link.startswith("/etc")], seen
    # Init has only its stdio, and the descriptors of the plan.
    assert len(seen) < 30, seen
    for pid in host.descendants(runtime.pid):
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert len(links) <= 6, (host.command(pid), links)
    runtime.stop()


# ---- Environment, working directory, limits, priorities, parents


def test_no_environment_at_all(make_runtime: MakeRuntime, payload: Path) -> None:
    """The runtime finds a debug command without PATH as well."""
    runtime = make_runtime(
        start=False,
        tables='[debug]\ncommands = ["echo found <CONTAINER>"]\n',
        wrap=parent.wrap(variables=None),
    ).start()
    use(runtime, payload)
    runtime.wait_log("INFO +app:1.0.0: found app:1.0.0$")
    assert Path(f"/proc/{runtime.pid}/environ").read_bytes() == b""
    runtime.stop()


def test_a_removed_working_directory(
    make_runtime: MakeRuntime, payload: Path, tmp_path: Path
) -> None:
    runtime = make_runtime(wrap=parent.wrap(removed_directory=True))
    use(runtime, payload)
    runtime.stop()
    relative = tmp_path / "relative.toml"
    text = runtime.configuration.read_text()
    relative.write_text(text.replace(str(runtime.run_dir), "run"))
    command = [*parent.wrap(removed_directory=True), sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        [*command, "-c", str(relative)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: No such file or directory",
        "hint: the working directory was removed: change to another one",
    ]


PROGRAM = "import sys; from northstar.cli.northstar import main; sys.argv[0] = 'northstar'; main()"


def test_low_soft_limits(make_runtime: MakeRuntime, payload: Path) -> None:
    """The runtime raises its own limits, and payloads inherit the original ones."""
    limits = {"FSIZE": 0, "NOFILE": 64, "CORE": 0, "CPU": 3600}
    runtime = make_runtime(wrap=parent.wrap(limits=limits))
    use(runtime, payload)
    container = install(runtime, payload, "third", args="ready ; pause")
    with runtime.client() as client:
        client.start(container)
        wait_ready(runtime, container)
        pid = payload_of(client, container)
        for name, soft in limits.items():
            number = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(number)[1]
            assert limit_of(pid, name) == (soft, hard), name
            assert limit_of(runtime.pid, name) == (soft if name == "CORE" else hard, hard), name
    runtime.stop()


TITLES = {
    "CORE": "Max core file size",
    "CPU": "Max cpu time",
    "FSIZE": "Max file size",
    "NOFILE": "Max open files",
}


def limit_of(pid: int, name: str) -> tuple[int, int]:
    """Return the soft and the hard limit of a process (proc_pid_limits(5))."""
    text = Path(f"/proc/{pid}/limits").read_text()
    match = re.search(rf"^{TITLES[name]} +(\w+) +(\w+) ", text, re.MULTILINE)
    assert match is not None
    soft, hard = (-1 if value == "unlimited" else int(value) for value in match.groups())
    return soft, hard


def test_priorities_and_a_subreaper(make_runtime: MakeRuntime, payload: Path) -> None:
    runtime = make_runtime(wrap=parent.wrap(odd=True))
    use(runtime, payload)
    assert os.getpriority(os.PRIO_PROCESS, runtime.pid) == 19
    runtime.stop()


def test_a_parent_that_ends(make_runtime: MakeRuntime, payload: Path) -> None:
    runtime = make_runtime(start=False, wrap=parent.wrap(orphan=True)).start(wait=False)
    assert runtime.process is not None
    assert runtime.process.wait(TIMEOUT) == 0
    wait_until(lambda: connects(runtime.url), "the console listens")
    pid = int(runtime.text().splitlines()[0])
    use(runtime, payload)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: host.state(pid) == "Z", "the runtime has ended")
    assert os.waitpid(pid, 0) == (pid, 0)  # this process is a child subreaper
    assert "Shutdown complete" in runtime.text()
