"""Fuzzes how the runtime reads the reports of a launcher and its init.

Run it for a time, or for a number of sequences::

    python -m tests.fuzz.reports --seconds 60
    python -m tests.fuzz.reports --count 10000 --seed 7

A process plays the launcher: it sends reports, right and wrong ones, with and without descriptors,
and ends. Another one plays init, and is killed at the end. Both are real children, and are watched
and reaped as in the runtime. Of every sequence it must hold that no exception leaves the event
loop's callbacks, that `ready`, `started` and `exited` are done at the end, that both processes are
reaped, and that no descriptor is left. A sequence that breaks this is printed, and the exit code
is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from northstar.launch.launcher import Init
from northstar.launch.plan import LaunchPlan, Operation
from northstar.launch.plan_ops import NO_OPERATION, Op, Report, Step
from northstar.linux import pidfd

REPORT = struct.Struct("<IIIii")
PLAN = LaunchPlan(
    (Operation(Op.CLONE, ("0", "-1")), Operation(Op.ROOT, ("/root",)), Operation(Op.AWAIT)),
    ("stdin", "stdout", "socket:one"),
)
NUMBERS = (0, 1, 2, 3, 7, 64, 255, 256, 0x7FFFFFFF, 0xFFFFFFFF, NO_OPERATION)
DEADLINE = 10.0
"""Seconds that no sequence may take, on any machine."""


class Message(NamedTuple):
    """One report, and what is passed with it: nothing, a file, a socket, or init's pidfd."""

    data: bytes
    passed: str = ""


def message(kind: int, index: int = 0, op: int = 0, errno: int = 0, value: int = 0) -> bytes:
    """Encode a report."""
    return REPORT.pack(kind & 0xFFFFFFFF, index & 0xFFFFFFFF, op & 0xFFFFFFFF, errno, value)


def sequence(rng: random.Random, init: int) -> list[Message]:
    """Return the reports of one launch; most begin as a real one does."""
    reports: list[Message] = []
    if rng.random() < 0.9:
        # The launcher is trusted with the pid: it is our own program, before anything of a package
        # is executed.
        reports.append(Message(message(Report.LAUNCHED, value=init), "pidfd"))
    number = rng.choice((0, 1, 1, 2, 3, 5))
    reports += [wrong(rng) if rng.random() < 0.5 else right(rng) for _ in range(number)]
    return reports


def right(rng: random.Random) -> Message:
    """Return a report as init sends it, perhaps out of turn."""
    return rng.choice(
        (
            Message(message(Report.SKIPPED) + b"/absent\0"),
            Message(message(Report.READY)),
            Message(message(Report.MADE, value=3), "socket"),
            Message(message(Report.STARTED, value=2)),
            Message(message(Report.EXITED, value=rng.choice((0, 1, 255)))),
            Message(message(Report.EXITED, op=1, value=rng.choice((1, 9, 64)))),
            Message(message(Report.FAILED, 1, Op.ROOT, 2) + b"/root\0"),
            Message(message(Report.FAILED, NO_OPERATION, rng.choice(list(Step)), 12)),
        )
    )


def wrong(rng: random.Random) -> Message:
    """Return a report that init never sends."""
    kinds = [kind for kind in Report if kind is not Report.LAUNCHED]
    kind = rng.choice((*kinds, 0, 8, 0xFFFFFFFF))
    signed = [number if number < 2**31 else number - 2**32 for number in NUMBERS]
    data = message(
        kind, rng.choice(NUMBERS), rng.choice(NUMBERS), rng.choice(signed), rng.choice(signed)
    )
    data += rng.choice((b"", b"\xff\xfe\0", b"x" * 4000, b"\0", rng.randbytes(rng.randrange(40))))
    if rng.random() < 0.2:
        data = data[: rng.randrange(1, len(data))]
    return Message(data, rng.choice(("", "", "file", "socket", "pidfd")))


def fork(work: Callable[[], object]) -> int:
    """Do `work` in a child, which ends without any clean-up of this process."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            work()
        finally:
            os._exit(0)
    return pid


def send(stream: socket.socket, reports: list[Message], init: int) -> None:
    """Send all reports: what the launcher's process does."""
    openers: dict[str, Callable[[], int]] = {
        "file": lambda: os.open("/dev/null", os.O_RDONLY),
        "socket": lambda: socket.socket(socket.AF_UNIX).detach(),
        "pidfd": lambda: pidfd.open(init),
    }
    for report in reports:
        rights = []
        if report.passed:
            descriptor = struct.pack("i", openers[report.passed]())
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)]
        stream.sendmsg([report.data], rights)


async def check(rng: random.Random, with_go: bool) -> list[Message]:
    """Play one launch and assert what must hold; return its reports."""
    escaped: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: escaped.append(context))
    before = os.listdir("/proc/self/fd")
    init_pid = fork(signal.pause)
    reports = sequence(rng, init_pid)
    try:
        await play(init_pid, reports, with_go)
    except BaseException:
        print(f"breaks a property: {reports}", file=sys.stderr)
        raise
    finally:
        kill(init_pid)
    assert not escaped, f"{reports}: {escaped}"
    assert os.listdir("/proc/self/fd") == before, reports
    assert not has_children(), reports
    return reports


async def play(init_pid: int, reports: list[Message], with_go: bool) -> None:
    """Have the reports sent and read, until both processes have ended."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    init = Init(ours, PLAN, lambda _source: None)
    init.launcher_pid = fork(lambda: send(theirs, reports, init_pid))
    theirs.close()
    async with asyncio.timeout(DEADLINE):
        if with_go:
            await asyncio.wait((init.ready,), timeout=0.01)
            init.go()
        await asyncio.wait((init.started,), timeout=0.01)
        init.kill()  # as soon as its pidfd is known, if it ever is
        assert str(await init.exited)
    assert init.ready.done()
    assert init.started.done()


def kill(pid: int) -> None:
    """Kill and reap a child that is not reaped."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def has_children() -> bool:
    """Tell whether this process has a child."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


async def run(rng: random.Random, *, count: int | None, seconds: float | None) -> int:
    """Play `count` launches, or as many as fit into `seconds`; return how many."""
    end = None if seconds is None else time.monotonic() + seconds
    played = 0
    while played != count and (end is None or time.monotonic() < end):
        await check(rng, rng.random() < 0.7)
        played += 1
    return played


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Fuzz how reports of a launcher are read.")
    parser.add_argument("--count", type=int, help="stop after so many sequences")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds (default: 60)")
    parser.add_argument("--seed", type=int, default=None, help="make the run repeatable")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    seconds = 60.0 if args.count is None and args.seconds is None else args.seconds
    logging.disable()  # a line for each report that is refused
    played = asyncio.run(run(random.Random(seed), count=args.count, seconds=seconds))
    print(f"seed {seed}: {played} sequences, no property broken")


if __name__ == "__main__":
    main()
