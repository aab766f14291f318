"""Processes that are executed in running containers."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system import host
from tests.system.containers import PROC, exit_of, install, pid_of, split, wait_ready
from tests.system.execs import Exec, RefusedError, descriptors, launchers, runtime_with_exec
from tests.system.harness import RuntimeProcess, wait_until
from tests.system.launcher.driver import processes_in

pytestmark = pytest.mark.root

NO_PIDS = "there is no pids controller"
MAY_SKIP = (NO_PIDS,)


@pytest.fixture
def runtime(exec_runtime: RuntimeProcess) -> RuntimeProcess:
    """A runtime that executes processes."""
    return exec_runtime


def started(
    runtime: RuntimeProcess, payload: Path, words: str = "ready ; pause", **fields: Any
) -> str:
    """Install and start a container that has printed `ready`."""
    container = install(runtime, payload, args=words, **fields)
    with runtime.client() as client:
        client.start(container)
    wait_ready(runtime, container)
    return container


def said(runtime: RuntimeProcess, container: str, words: str, **options: Any) -> list[Any]:
    return Exec(runtime, container, "/payload", *split(words), **options).lines()


def inside(runtime: RuntimeProcess, container: str) -> list[int]:
    """Return the host's pids of the processes in a container, without its init."""
    with runtime.client() as client:
        init = pid_of(client, container)
    return sorted(set(processes_in(os.readlink(f"/proc/{init}/ns/pid"))) - {init})


# ---- Its end


def test_every_exit_code(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    for code in range(256):
        assert Exec(runtime, container, "/payload", "exit", str(code)).wait() == code


def test_every_signal(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    ignored = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    stopping = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    for number in set(range(1, 32)) - ignored - stopping:
        process = Exec(runtime, container, "/payload", *split("ready ; pause"))
        process.read_until(b"ready")
        process.send(signal=number)
        assert process.wait() == 128 + number


def test_a_signal_reaches_the_process_group(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    process = Exec(runtime, container, "/payload", *split("ready ; fork ; pause"))
    process.read_until(b"ready")
    wait_until(lambda: len(inside(runtime, container)) == 3, "it has forked")
    process.send(signal=signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    wait_until(lambda: len(inside(runtime, container)) == 1, "its child has ended too")


def test_a_stopped_process_is_killed_with_the_connection(
    runtime: RuntimeProcess, payload: Path
) -> None:
    container = started(runtime, payload)
    process = Exec(runtime, container, "/payload", *split("ready ; fork ; pause"))
    process.read_until(b"ready")
    process.send(signal=signal.SIGSTOP)
    (payload_pid, *members) = inside(runtime, container)
    wait_until(lambda: any(host.state(pid) == "T" for pid in members), "it is stopped")
    process.close()
    wait_until(lambda: inside(runtime, container) == [payload_pid], "all have ended")
    wait_until(lambda: launchers(runtime) == [], "the launcher has ended")


# ---- The program


def test_programs_that_cannot_be_executed(runtime: RuntimeProcess, payload: Path) -> None:
    files = {
        "script": b"#!/payload exit\n",
        "orphan": b"#!/bin/missing -x\n",
        "loop": b"#!/loop\n",
        "text": b"hello",
        "closed": b"hello",
    }
    root = runtime.directory / "files"
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
        (root / name).chmod(0o644 if name == "closed" else 0o755)
    (root / "payload").write_bytes(payload.read_bytes())
    (root / "payload").chmod(0o755)
    (root / "proc").mkdir()
    (root / "self").symlink_to("/proc/self/exe")
    container = started(runtime, payload, root=root, mounts=PROC)
    sentences = {
        "/missing": "/missing: No such file or directory",
        "/orphan": "/bin/missing: No such file or directory",
        "/closed": "/closed: Permission denied",
        "/proc": "/proc: Permission denied",
        "/text": "/text: Exec format error",
        # The helper that checks them is in no PID namespace of this /proc, so it has no `self`.
        "/self": "/self: No such file or directory",
        "/proc/self/exe": "/proc/self/exe: No such file or directory",
        "/proc/1/exe": "/proc/1/exe: Too many levels of symbolic links",
        "/loop": "/loop: Too many levels of symbolic links",
    }
    for path, sentence in sentences.items():
        with pytest.raises(RefusedError) as caught:
            Exec(runtime, container, path)
        assert str(caught.value) == f"cannot execute {path} in {container}: {sentence}"
    # argv of a script: the interpreter, its argument, the script, the other arguments.
    script = Exec(runtime, container, "/script", "7")
    assert script.wait() == 0
    assert launchers(runtime) == []


def test_the_arguments_and_the_environment(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload, env={"A": "1", "B": "2"})
    (me,) = said(runtime, container, "self", environment={"B": "x y", "TERM": "vt100"})
    assert me["args"] == ["/payload", "self"]
    assert sorted(me["env"]) == [
        "A=1",
        "B=x y",
        "NORTHSTAR_CONTAINER=app:1.0.0",
        "NORTHSTAR_NAME=app",
        "NORTHSTAR_VERSION=1.0.0",
        "TERM=vt100",
    ]


# ---- Descriptors


def test_a_mebibyte_through_stdin_to_stdout(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    with Exec(runtime, container, "/payload", *split("ready ; pause"), stdin=True) as process:
        process.read_until(b"ready")
        (pid,) = set(inside(runtime, container)) - {inside(runtime, container)[0]}
        kinds = descriptors(pid)
        assert len(kinds) == 3
        assert all(kind.startswith("pipe:") for kind in kinds)


def test_stderr_is_separate_or_merged(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    words = ("say", "<out>", ";", "cry", "<err>")
    separate = Exec(runtime, container, "/payload", *words)
    separate.wait()
    assert (separate.stdout, separate.stderr) == (b"<out>\n", b"<err>\n")
    merged = Exec(runtime, container, "/payload", *words, merge=True)
    merged.wait()
    assert (merged.stdout, merged.stderr) == (b"<out>\n<err>\n", b"")


def test_a_terminal(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload, mounts=PROC)
    before = sorted(os.listdir("/dev/pts"))
    process = Exec(
        runtime, container, "/payload", *split("self ; ready ; pause"), terminal=(24, 80)
    )
    text = process.read_until(b'"ready"')
    assert b"\r\n" in text
    (pid,) = set(inside(runtime, container)) - {inside(runtime, container)[0]}
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    session, terminal, foreground = int(fields[3]), int(fields[4]), int(fields[5])
    assert session == foreground == pid
    assert os.major(terminal) == 136  # UNIX98_PTY_SLAVE_MAJOR, linux/major.h
    for number in (0, 1, 2):
        status = os.stat(f"/proc/{pid}/fd/{number}")
        assert status.st_rdev == terminal
        assert (status.st_uid, status.st_gid) == (1000, 1000)
        with open(f"/proc/{pid}/fd/{number}", "rb", buffering=0) as end:
            assert os.get_terminal_size(end.fileno()) == (80, 24)
    process.send(resize=[50, 132])

    def resized() -> bool:
        with open(f"/proc/{pid}/fd/0", "rb", buffering=0) as end:
            return os.get_terminal_size(end.fileno()) == (132, 50)

    wait_until(resized, "the new size")
    assert sorted(os.listdir("/dev/pts")) == before
    assert [
        line for line in host.mounts(runtime.pid) if "devpts" in line and "run/pts" in line
    ] == []
    process.write(b"\x03")  # ^C
    assert process.wait() == 128 + signal.SIGINT


# ---- The container meanwhile


def test_a_container_that_is_not_started(runtime: RuntimeProcess, payload: Path) -> None:
    """The end of the container ends the process, and the next one is refused."""
    container = started(runtime, payload)
    process = Exec(runtime, container, "/payload", *split("ready ; pause"))
    process.read_until(b"ready")
    with runtime.client(subscribe=True) as client:
        client.kill(container, signal.SIGKILL)
        exit_of(client, container)
    assert process.wait() == 128 + signal.SIGKILL


def test_a_payload_that_exits(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    processes = [
        Exec(runtime, container, "/payload", *split("session ; ignore TERM HUP ; ready ; pause"))
        for _ in range(3)
    ]
    for process in processes:
        process.read_until(b"ready")
    with runtime.client(subscribe=True) as client:
        client.kill(container, signal.SIGTERM)
        exit_of(client, container)
    assert [process.wait() for process in processes] == [128 + signal.SIGKILL] * 3
    wait_until(lambda: launchers(runtime) == [], "the launchers have ended")


def test_a_stopped_container(runtime: RuntimeProcess, payload: Path) -> None:
    """SIGSTOP stops the payload only: processes are executed, and all can be killed."""
    container = started(runtime, payload)
    with runtime.client(subscribe=True) as client:
        client.kill(container, signal.SIGSTOP)
        (pid,) = inside(runtime, container)
        wait_until(lambda: host.state(pid) == "T", "it is stopped")
        assert Exec(runtime, container, "/payload", "exit", "7").wait() == 7
        process = Exec(runtime, container, "/payload", *split("ready ; pause"))
        process.read_until(b"ready")
        client.kill(container, signal.SIGKILL)
        exit_of(client, container)
    assert process.wait() == 128 + signal.SIGKILL


def test_a_process_that_another_stops_before_its_execve(
    runtime: RuntimeProcess, payload: Path
) -> None:
    """Every process of the user may stop it. The client waits, goes away, and nothing is left."""
    container = started(runtime, payload)
    for _ in range(20):
        process = Exec(runtime, container, "/payload", "pause", wait=False)
        deadline = time.monotonic() + 0.02
        while time.monotonic() < deadline:
            for pid in launchers(runtime):
                with contextlib.suppress(OSError):
                    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                        os.kill(int(child), signal.SIGSTOP)
        process.close()
        wait_until(lambda: launchers(runtime) == [], "the launcher has ended")
        wait_until(lambda: len(inside(runtime, container)) == 1, "the process has ended")


def test_at_most_eight(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    processes = [Exec(runtime, container, "/payload", "pause") for _ in range(8)]
    with pytest.raises(RefusedError, match=r"^app:1\.0\.0 has 8 exec'ed processes already$"):
        Exec(runtime, container, "/payload", "pause")
    processes.pop().close()
    wait_until(lambda: len(inside(runtime, container)) == 8, "one has ended")
    processes.append(Exec(runtime, container, "/payload", "pause"))
    for process in processes:
        process.close()
    wait_until(lambda: len(inside(runtime, container)) == 1, "all have ended")


def test_the_limit_of_processes(runtime: RuntimeProcess, payload: Path) -> None:
    if not [path for path in host.cgroups(runtime.cgroup) if "pids" in str(path)]:
        pytest.skip(NO_PIDS)
    container = started(runtime, payload, "bomb ; ready ; pause", cgroups={"pids": {"max": 20}})
    with pytest.raises(RefusedError) as caught:
        Exec(runtime, container, "/payload", "pause")
    assert str(caught.value) == (
        "cannot fork in app:1.0.0: Resource temporarily unavailable (its pids limit is 20)"
    )
    wait_until(lambda: launchers(runtime) == [], "the launcher has ended")


def test_a_killed_launcher(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    process = Exec(runtime, container, "/payload", *split("ready ; pause"))
    process.read_until(b"ready")
    (launcher,) = launchers(runtime)
    (_, pid) = inside(runtime, container)
    os.kill(launcher, signal.SIGKILL)
    assert process.wait() == 128 + signal.SIGKILL
    wait_until(lambda: host.state(pid) in {"Z", None}, "the process has ended too")
    with contextlib.suppress(ChildProcessError):  # this process or the host's init is its parent
        os.waitpid(pid, 0)
    wait_until(lambda: len(inside(runtime, container)) == 1, "it is reaped")


def test_the_end_of_the_runtime(tmp_path: Path, payload: Path) -> None:
    """SIGKILL of the runtime: the launchers reap the processes, so the containers end."""
    runtime = runtime_with_exec(tmp_path).start()
    try:
        container = started(runtime, payload)
        process = Exec(runtime, container, "/payload", *split("session ; ready ; pause"))
        process.read_until(b"ready")
        process.close()
        runtime.kill()  # waits for the end of all processes
    finally:
        runtime.close()


def test_a_shutdown(tmp_path: Path, payload: Path) -> None:
    runtime = runtime_with_exec(tmp_path).start()
    try:
        container = started(runtime, payload, "ready ; pause")
        process = Exec(runtime, container, "/payload", *split("ignore TERM ; ready ; pause"))
        process.read_until(b"ready")
        runtime.stop()
        runtime.assert_nothing_left()
        process.close()
    finally:
        runtime.close()


# ---- What is left


def test_nothing_is_left_of_a_hundred(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload, mounts=PROC)
    assert Exec(runtime, container, "/payload", "exit", "0").wait() == 0
    wait_until(lambda: launchers(runtime) == [], "the launcher has ended")
    before = runtime.snapshot()
    for number in range(100):
        if number % 3 == 0:
            with pytest.raises(RefusedError):
                Exec(runtime, container, "/missing")
        else:
            size = (24, 80) if number % 3 == 1 else None
            process = Exec(runtime, container, "/payload", "exit", "0", terminal=size)
            assert process.wait() == 0
    runtime.assert_no_leak(before)
