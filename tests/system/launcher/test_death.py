"""When the runtime ends, at any time, its containers end."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from northstar.launch.plan_ops import Report
from tests.system.launcher.driver import (
    PROC,
    TMP,
    Launch,
    children,
    encode,
    eventually,
    operations,
    processes_in,
    reap,
)

pytestmark = pytest.mark.root


def gone(launched: Launch) -> None:
    """Close the stream; all processes of the container must end without a signal."""
    namespace = os.readlink(f"/proc/{launched.pid}/ns/pid")
    launched.stream.close()
    assert os.waitstatus_to_exitcode(launched.wait()) == 1
    assert processes_in(namespace) == []


def test_before_the_plan(program):
    class Silent(Launch):
        def send(self, _: object) -> None:
            self.stream.close()

    with Silent(program, b"x") as launched:
        assert os.waitstatus_to_exitcode(reap(launched.launcher)) == 1
        launched.launcher = 0


def test_right_after_the_plan(launch):
    # The launcher may have cloned init, but cannot report it; init is a child of this process.
    others = set(children())
    for _ in range(50):
        launched = launch("pause", mounts=[PROC, TMP])
        launched.stream.close()
        reap(launched.launcher)
        launched.launcher = 0
        eventually(lambda: not set(children()) - others - reaped(others), "init ends")


def reaped(others: set[str]) -> set[str]:
    """Reap each ended child except `others`; their exit code must be 1. Return their pids."""
    found = set()
    for child in set(children()) - others:
        pid, status = os.waitpid(int(child), os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 1
            found.add(child)
    return found


def test_when_init_is_launched(launch):
    launched = launch("pause", mounts=[PROC, TMP])
    launched.expect(Report.LAUNCHED)
    gone(launched)


@pytest.mark.vm
def test_when_init_waits(launch):
    launched = launch("pause")
    launched.expect(Report.LAUNCHED, Report.READY)
    gone(launched)


def test_right_after_go(launch):
    for _ in range(50):
        launched = launch("pause")
        launched.expect(Report.LAUNCHED, Report.READY)
        launched.go()
        gone(launched)


@pytest.mark.vm
def test_while_the_payload_runs(launch):
    launched = launch(
        "ignore", "TERM", "HUP", "INT", ";", "fork", ";", "session", ";", "ready", ";", "pause"
    )
    launched.start().wait_line("ready")
    gone(launched)


def test_messages_after_go_are_dropped(launch):
    launched = launch("sleep", "0.1", ";", "exit", "4").start()
    for size in (1, 4, 5000):
        launched.stream.send(bytes(size))
    assert launched.end().value == 4


RUNTIME = """
import os, socket, sys, threading
from northstar.launch.plan_ops import Report
from tests.system.launcher.driver import Launch
program, keeper, stage = map(int, sys.argv[1:])
launched = Launch(program, sys.stdin.buffer.read())
launched.expect(Report.LAUNCHED, Report.READY)
if stage:
    launched.go()
    launched.expect(Report.STARTED)
end = socket.socket(fileno=keeper)
socket.send_fds(end, [str(launched.pid).encode()], [launched.stream.fileno()])
end.recv(1)
"""


@pytest.mark.vm
@pytest.mark.parametrize("stage", [0, 1], ids=["ready", "started"])
def test_init_dies_with_the_runtime_even_if_the_stream_lives_on(program, image, stage):
    # This process keeps the runtime's end of the stream open: only PR_SET_PDEATHSIG acts.
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", RUNTIME, str(program), str(theirs.fileno()), str(stage)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=[program, theirs.fileno()]
    ) as runtime:
        theirs.close()
        assert runtime.stdin
        runtime.stdin.write(encode(operations(image, "pause")))
        runtime.stdin.close()
        ours.settimeout(20)
        pid, (stream,), _, _ = socket.recv_fds(ours, 100, 1)
        init = os.pidfd_open(int(pid))
        assert runtime.poll() is None
        runtime.kill()
    eventually(lambda: not alive(init), "init dies with its parent")
    os.close(stream)
    os.close(init)
    ours.close()


def alive(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    # A zombie that its new parent has not reaped is dead, too.
    return not select.select([pidfd], [], [], 0)[0]
