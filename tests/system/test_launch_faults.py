"""Faults at any system call between the runtime's spawn and the payload's execve.

Each call fails once, and at each call its process is killed once. Either the client receives an
error or the start succeeds. Other containers are not affected, and nothing leaks.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.api import RefusedError, error
from northstar.client import blocking
from northstar.linux import seccomp
from tests.system import filters, host
from tests.system.containers import PROC, install, wait_ready
from tests.system.filters import Listener
from tests.system.harness import RuntimeProcess, wait_until
from tests.system.strikes import KILL, PRCTL, Point, Watch

pytestmark = pytest.mark.root

# No call fails with it otherwise, so a report with it is that of the injected fault.
ERRNO = errno.ESTALE

BYSTANDER, TARGET = "bystander:1.0.0", "target:1.0.0"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RuntimeProcess, Watch]]:
    """A runtime with a listener on the system calls of its launches."""
    ours, theirs = socket.socketpair()
    runtime = RuntimeProcess(
        tmp_path_factory.mktemp("runtime"),
        wrap=filters.listened(theirs.fileno()),
        pass_fds=(theirs.fileno(),),
    )
    try:
        runtime.start(wait=False)
        _, (listener,), _, _ = socket.recv_fds(ours, 16, 1)
        watch = Watch(Listener(listener))
        runtime.wait_log("Runtime up and running")
        yield runtime, watch
        runtime.stop()
        watch.close()
    finally:
        runtime.close()
        ours.close()
        theirs.close()


@pytest.fixture(scope="module")
def bystander(watched: tuple[RuntimeProcess, Watch], payload: Path) -> int:
    """Install target and bystander; return the pid of the bystander, which runs all the time."""
    runtime, _ = watched
    install(runtime, payload, "bystander", args="ready ; pause")
    install(runtime, payload, "res", init=None)
    mounts = {
        **PROC,
        "/dev": {"type": "dev"},
        "/tmp": {"type": "tmpfs", "size": "1MiB"},
        "/bind": {"type": "bind", "host": "/usr", "options": "rec"},
        "/res": {"type": "resource", "name": "res", "version": "1", "dir": "/"},
    }
    install(
        runtime,
        payload,
        "target",
        args="pause",
        mounts=mounts,
        rlimits={"nofile": {"soft": 100, "hard": 100}},
        sched={"policy": {"batch": {"nice": 1}}},
        capabilities=["CAP_KILL", "CAP_SYS_PTRACE"],
        console={"permissions": []},
        sockets={"a": {"type": "stream", "mode": 0o600}},
    )
    with runtime.client() as client:
        client.start(BYSTANDER)
    wait_ready(runtime, BYSTANDER)
    # Not by inspect, which keeps files of the container's cgroup open for a while.
    return int(runtime.wait_log(rf"Started {BYSTANDER} \((\d+)\)")[1])


def start(client: blocking.Client, container: str) -> str:
    """Start a container and kill it; return the error that the client received, or ""."""
    try:
        client.start(container)
    except RefusedError as refused:
        assert isinstance(refused.error, error.StartContainerFailed), refused
        return refused.error.error
    with contextlib.suppress(RefusedError):  # the fault may have ended it
        client.kill(container, 9)
    return ""


def points(watch: Watch, client: blocking.Client, container: str, often: int) -> list[Point]:
    """Return the calls of one launch, at most the first `often` of equal ones."""
    watch.begin()
    assert start(client, container) == ""
    wait_ended(client, container)
    return [point for point in dict.fromkeys(watch.seen()) if point.before < often]


def wait_ended(client: blocking.Client, container: str) -> None:
    wait_until(lambda: client.inspect(container).process is None, f"{container} has ended")


def strike(
    runtime: RuntimeProcess, watch: Watch, bystander: int, answer: int, often: int
) -> dict[Point, str]:
    """Inject a fault at each call in turn; return the errors that the client received.

    Two processes run concurrently, so a call may not occur in a launch; then the point is left out.
    """
    errors = {}
    with runtime.client() as client:
        targets = points(watch, client, TARGET, often)
        left = "/target"
        wait_until(
            lambda: not any(path.endswith(left) for path in host.cgroups(runtime.cgroup)),
            "all of the target is released",
        )
        before = runtime.snapshot()
        for number, point in enumerate(targets):
            watch.begin(point, answer)
            words = start(client, TARGET)
            wait_ended(client, TARGET)
            if watch.struck():
                errors[point] = words
            else:
                assert words == "", (point, words)
            assert host.state(bystander) == "S", point
            if number % 20 == 0 or number == len(targets) - 1:
                watch.begin()
                assert start(client, TARGET) == ""  # with another launcher, if it was killed
                wait_ended(client, TARGET)
                runtime.assert_no_leak(before)
    assert {point.role for point in errors} == {"launcher", "init", "payload"}
    assert len(errors) > 80
    return errors


OFTEN = [1, pytest.param(5, marks=[pytest.mark.long, pytest.mark.timeout(600)])]


@pytest.mark.parametrize("often", OFTEN)
def test_the_process_is_killed(watched, bystander, often):
    runtime, watch = watched
    for point, words in strike(runtime, watch, bystander, KILL, often).items():
        match point.role:
            case "launcher":
                # Without an error the init was reported before, or another launcher was spawned.
                assert LAUNCHER_KILLED.fullmatch(words) or words == "", (point, words)
            case "init":
                assert words == INIT_KILLED or point.number in WATCHING, (point, words)
            case "payload":
                assert PAYLOAD_KILLED.fullmatch(words), (point, words)


LAUNCHER_KILLED = re.compile(
    r"cannot launch init: (its launcher ended with Signalled\(SIGKILL\)"
    r"|the launcher has died: Broken pipe \(EPIPE\))"
)
INIT_KILLED = "cannot start the container: its init ended with Signalled(SIGKILL)"
PAYLOAD_KILLED = re.compile(r"cannot (?!clone|start).*: it was ended by signal 9")


def numbers(*names: str) -> set[int]:
    """Return the numbers of system calls; some have no such call on some architectures."""
    found = {seccomp.resolve_name(name) for name in names}
    return {number for number in found if number is not None}


WATCHING = numbers(
    *("ppoll", "waitid", "setpgid", "getpgrp", "getpgid", "wait4", "munmap", "close", "sendmsg")
)
"""init's calls while the payload may already run."""

REPORTED = re.compile(r"cannot .*: Stale file handle \(ESTALE\)")
ENDED = {
    # The check of the plan reports the descriptor that it cannot examine.
    "launcher": (
        "cannot launch init: its launcher ended with ",
        "cannot perform the launch plan: operation ",
    ),
    "init": ("cannot start the container: its init ended with Exit(1)",),
}
BROKEN_PIPE = "cannot launch init: the launcher has died: Broken pipe (EPIPE)"

# The failure of these calls is ignored, or they cannot fail with their arguments.
TOLERATED = numbers(
    "set_tid_address",
    "gettid",
    "rt_sigaction",
    "rt_sigprocmask",
    "umask",
    "close",
    "fcntl",
    "futex",
    "munmap",
    "poll",
    "exit_group",
)
# PR_SET_PDEATHSIG, which only backs up the end of the stream, and PR_SET_NAME; PR_CAPBSET_DROP of
# init, which the payload's own CAPS repeats.
TOLERATED_PRCTL = {1, 15, 24}
# Calls that are probed first: any error but ENOSYS and EPERM means available.
PROBED = set(filters.NEWER.values())


@pytest.mark.parametrize("often", OFTEN)
def test_the_call_fails(watched, bystander, often):
    runtime, watch = watched
    for point, words in strike(runtime, watch, bystander, ERRNO, often).items():
        if words == "":
            assert (
                point.role == "launcher"  # as above
                or point.number in TOLERATED | (WATCHING if point.role == "init" else set())
                or (point.number == PRCTL and point.operation in TOLERATED_PRCTL)
                or (point.number in PROBED and point.before == 0)
            ), point
        else:
            assert (
                REPORTED.fullmatch(words)
                or words == BROKEN_PIPE
                or words.startswith(ENDED.get(point.role, ("-",)))
            ), (point, words)
