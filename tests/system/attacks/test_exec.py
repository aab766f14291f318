"""Attacks on processes that are executed in a running container, and by them.

`NORTHSTAR_TEST_EXECS=10000 .venv/bin/pytest --timeout 0 tests/system/attacks/test_exec.py -k cve`
tries as many processes as the number says; the default is some hundred.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.system.attacks.attacker import Power, Victim, manifest_of
from tests.system.containers import PROC, install, lines, pid_of, run, split, wait_ready
from tests.system.execs import Exec, RefusedError, launchers
from tests.system.harness import RuntimeProcess, enter, wait_until
from tests.system.test_exec import inside

pytestmark = pytest.mark.root

EXECS = int(os.environ.get("NORTHSTAR_TEST_EXECS", "100"))

SYS_PTRACE = 1 << 19

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")

BEFORE_EXECVE = "/memfd:northstar-init (deleted)"
"""What /proc/PID/exe of a process leads to before its execve."""


@pytest.fixture
def runtime(exec_runtime: RuntimeProcess) -> RuntimeProcess:
    """A runtime that executes processes."""
    return exec_runtime


SEES = (
    "self ; mounts ; read /proc/self/cgroup ; read /proc/self/attr/current ; "
    "read /proc/self/oom_score_adj ; readlink /proc/self/root ; "
    + " ; ".join(f"readlink /proc/self/ns/{name}" for name in NAMESPACES)
)

OWN = ("args", "env", "fds", "pid", "ppid", "sid", "pgid")
"""What differs between two processes: the other fields of `self` must be equal."""


@pytest.mark.parametrize("profile", [False, True], ids=["no-filter", "profile"])
def test_what_it_sees_of_itself_is_what_the_payload_sees(
    victim: Victim, attack: Path, power: Power, profile: bool
) -> None:
    fields = manifest_of(power, victim, attack)
    fields["mounts"] = {**fields.get("mounts", {}), **PROC}
    if profile:
        fields["seccomp"] = {"profile": "default"}
    fields |= {
        "suppl_groups": ["audio"],
        "rlimits": {"nofile": {"soft": 64, "hard": 128}, "core": {"soft": 0, "hard": 0}},
        "sched": {"policy": {"batch": {"nice": 3}}},
        "console": {"permissions": ["ident"]},
    }
    container = install(victim.runtime, attack, "attacker", **fields)
    words = f"{power.before}{SEES}"
    arguments = tuple(split(f"{words} ; ready ; pause"))
    with victim.runtime.client() as client:
        client.start(container, arguments=arguments)
        wait_ready(victim.runtime, container)
        process = Exec(victim.runtime, container, "/payload", *split(words)).lines()
        client.kill(container, signal.SIGKILL)
    payload = [line for line in lines(victim.runtime, container) if line["do"] != "ready"]
    assert len(payload) == len(process) > 10
    for expected, found in zip(payload, process, strict=True):
        if expected["do"] == "self":
            assert found["fds"] == {"0": "char", "1": "pipe", "2": "pipe"}
            assert (found["ppid"], found["sid"], found["pgid"]) == (0, found["pid"], found["pid"])
            assert "NORTHSTAR_CONSOLE=3" in expected["env"]
            assert {e for e in expected["env"] if "CONSOLE" not in e} == set(found["env"])
            expected, found = (
                {k: v for k, v in line.items() if k not in OWN} for line in (expected, found)
            )
        assert found == expected


def hunted(
    victim: Victim,
    attack: Path,
    *,
    count: int,
    before: str = "",
    capabilities: tuple[str, ...] = (),
    **more: Any,
) -> list[dict[str, Any]]:
    """Execute processes in a container that traces each; return what it has seen of them."""
    container = install(
        victim.runtime,
        attack,
        "hunter",
        args=f"{before}ready ; hunt {count}",
        mounts=PROC,
        capabilities=["CAP_SYS_PTRACE", *capabilities],
        **more,
    )
    with victim.runtime.client() as client:
        client.start(container)
        wait_ready(victim.runtime, container)
        ended = threading.Event()
        execs = threading.Thread(target=_execute, args=(victim.runtime, container, ended))
        execs.start()
        try:
            # The log escapes nothing here: each line is one process.
            victim.runtime.wait_log('"do": "hunted"', timeout=60 + count)
        finally:
            ended.set()
            execs.join()
    return [line for line in lines(victim.runtime, container) if line["do"] == "hunt"]


def _execute(runtime: RuntimeProcess, container: str, ended: threading.Event) -> None:
    number = 0
    while not ended.is_set():
        number += 1
        size = (24, 80) if number % 4 == 0 else None
        try:
            words = ("/payload", "exit", "0")
            with Exec(runtime, container, *words, terminal=size, stdin=True) as process:
                process.wait()
        except (RefusedError, AssertionError):
            continue  # the hunter has ended it, or itself


def check_gains(found: list[dict[str, Any]], capabilities: int) -> None:
    """Check that no process had anything that its container lacks."""
    early = [line for line in found if line["exe"] == BEFORE_EXECVE and "own" in line]
    assert len(early) > len(found) // 10, "the hunter was too slow: this test shows nothing"
    for line in found:
        for name in ("CapEff", "CapPrm", "CapBnd"):
            assert int(line[name], 16) == capabilities, line
        assert line["NoNewPrivs"] == "1"
        assert (line["cwd"], line["root"]) == ("/", "/"), line
    for line in early:
        # 0, 1 and 2, and two pipes to its launcher, without a way to the host.
        files = {number: found for number, found in line["own"].items() if number != "-1"}
        assert {"0", "1", "2"} < files.keys(), line
        assert len(files) == 5, line
        for seek, directory, socket in files.values():
            assert seek == -errno.ESPIPE, f"neither a pipe nor a terminal: {line}"
            assert directory == -errno.ENOTDIR, line
            assert socket == -errno.ENOTSOCK, line
        for number, target in line["fds"].items():  # with CAP_DAC_OVERRIDE
            assert number == "-1" or target.startswith(("pipe:[", "/0")), line
        assert line["write"] in {errno.ETXTBSY, errno.EACCES, errno.EPERM}, line
        assert line["truncate"] in {errno.ETXTBSY, errno.EACCES, errno.EPERM, errno.EINVAL}, line


@pytest.mark.timeout(300)
def test_cve_2016_9962_tracing_each_process_as_it_appears(victim: Victim, attack: Path) -> None:
    """runc's process was in the container with the host's descriptors and capabilities."""
    found = hunted(victim, attack, count=EXECS)
    check_gains(found, SYS_PTRACE)
    assert {line["chmod"] for line in found} <= {errno.EPERM, errno.EROFS}


def test_cve_2016_9962_the_attack_succeeds_on_nsenter(victim: Victim, attack: Path) -> None:
    """The same attack on nsenter(1), which gives up nothing: the checks above detect it."""
    container = install(
        victim.runtime,
        attack,
        "hunter",
        args="ready ; hunt 1",
        mounts=PROC,
        capabilities=["CAP_SYS_PTRACE"],
    )
    with victim.runtime.client() as client:
        client.start(container)
        wait_ready(victim.runtime, container)
        spaces = ("--mount", "--net", "--ipc", "--uts", "--pid")
        command = enter(pid_of(client, container), "/payload", "pause", spaces=spaces)
        with subprocess.Popen(command):  # it ends with the container
            victim.runtime.wait_log('"do": "hunted"')
            victim.runtime.wait_log(r"Container hunter:1\.0\.0 exited")
    (line,) = (line for line in lines(victim.runtime, container) if line["do"] == "hunt")
    assert int(line["CapEff"], 16) & ~SYS_PTRACE
    with pytest.raises(AssertionError):
        check_gains([{**line, "exe": BEFORE_EXECVE}], SYS_PTRACE)


@pytest.mark.timeout(300)
def test_cve_2019_5736_changing_the_launcher_through_proc(victim: Victim, attack: Path) -> None:
    """A container as root changes the file that its new process executes before its execve.

    The file is sealed. Its mode can be changed by its owner, root, but it is a copy for this one
    process: all later launches work.
    """
    names = ("CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_CHOWN")
    found = hunted(victim, attack, count=EXECS, before="become 0 0 ; ", capabilities=names)
    mask = SYS_PTRACE | 1 << 7 | 1 << 6 | 1 << 1 | 1 << 3 | 1 << 0
    check_gains(found, mask)
    assert 0 in {line["chmod"] for line in found}, "the attack was not possible at all"
    # The launcher of later starts and processes is another file.
    run(victim.runtime, install(victim.runtime, attack, "later"), "exit 0")


def test_cve_2019_5736_the_launcher_as_the_program(victim: Victim, attack: Path) -> None:
    """Links and scripts that lead to the running launcher are refused."""
    root = victim.runtime.directory / "links"
    root.mkdir()
    (root / "proc").mkdir()
    (root / "payload").write_bytes(attack.read_bytes())
    (root / "payload").chmod(0o755)
    (root / "link").symlink_to("/proc/self/exe")
    for number, line in enumerate(("/proc/self/exe", "/proc/1/exe", "/proc/thread-self/exe")):
        (root / f"script{number}").write_text(f"#!{line}\n")
        (root / f"script{number}").chmod(0o755)
    container = install(
        victim.runtime, attack, "attacker", root=root, mounts=PROC, args="ready ; pause"
    )
    with victim.runtime.client() as client:
        client.start(container)
        wait_ready(victim.runtime, container)
    for path in ("/link", "/script0", "/script1", "/script2", "/proc/self/exe", "/proc/1/exe"):
        with pytest.raises(RefusedError, match=r"(symbolic links|No such file|Permission denied)"):
            Exec(victim.runtime, container, path)


def test_cve_2024_21626_descriptors_and_working_directory(victim: Victim, attack: Path) -> None:
    """A command below /proc/self/fd/N, of a descriptor that leads to the host, is not found."""
    container = install(victim.runtime, attack, "attacker", mounts=PROC, args="ready ; pause")
    with victim.runtime.client() as client:
        client.start(container)
        wait_ready(victim.runtime, container)
    for number in range(24):
        for directory in (f"/proc/self/fd/{number}", f"/proc/1/fd/{number}"):
            with pytest.raises(RefusedError):
                Exec(victim.runtime, container, f"{directory}/../../../../bin/true")
    said = Exec(
        victim.runtime, container, "/payload", *split("list . ; readlink /proc/self/cwd")
    ).lines()
    assert said[1]["text" if "text" in said[1] else "target"] == "/"


@pytest.fixture
def busy(victim: Victim, attack: Path) -> str:
    """A container whose payload waits; it may change its user."""
    container = install(
        victim.runtime,
        attack,
        "attacker",
        args="ready ; pause",
        capabilities=["CAP_SETUID", "CAP_SETGID"],
        mounts=PROC,
    )
    with victim.runtime.client() as client:
        client.start(container)
        wait_ready(victim.runtime, container)
    return container


def test_a_process_that_becomes_another_user_is_ended(victim: Victim, busy: str) -> None:
    """The launcher is not permitted to kill it; the runtime is."""
    words = split("become 2000 2000 ; session ; ignore TERM HUP ; ready ; pause")
    process = Exec(victim.runtime, busy, "/payload", *words)
    process.read_until(b'"ready"')
    process.close()
    wait_until(lambda: len(inside(victim.runtime, busy)) == 1, "it has ended")
    wait_until(lambda: launchers(victim.runtime) == [], "the launcher has ended")


def test_siblings_by_clone_parent(victim: Victim, busy: str) -> None:
    """With CLONE_PARENT a process makes children of the launcher, which must end with it."""
    words = split("become 2000 2000 ; sibling 5 ; ready ; exit 3")
    process = Exec(victim.runtime, busy, "/payload", *words)
    assert process.wait() == 3
    wait_until(lambda: len(inside(victim.runtime, busy)) == 1, "all have ended")
    wait_until(lambda: launchers(victim.runtime) == [], "the launcher has ended")


def test_the_launcher_is_not_reachable(victim: Victim, busy: str) -> None:
    """The process has no parent inside, sees no launcher, and cannot signal one."""
    process = Exec(victim.runtime, busy, "/payload", *split("list /proc ; ready ; pause"))
    process.read_until(b'"ready"')
    (launcher,) = launchers(victim.runtime)
    status = Path(f"/proc/{launcher}/status").read_text()
    assert "CapPrm:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    for name in NAMESPACES:
        if name != "pid":
            own = os.readlink(f"/proc/{launcher}/ns/{name}")
            assert own == os.readlink(f"/proc/{victim.runtime.pid}/ns/{name}")
    assert len(os.listdir(f"/proc/{launcher}/fd")) == 2  # the socket, and a pipe
    process.close()
