"""Results of probes: what is the container's, what the runtime's, and the text of the reason."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import given

from northstar.api import RefusedError, error
from northstar.launch import entered
from northstar.model import Exited, HostError, LaunchError, printable
from northstar.runtime import probe_exec
from northstar.runtime.probe_exec import REASON_MAX, attributed, reason_of
from northstar.runtime.probe_results import EndedError, FailedError, LackingError, of_call
from tests.unit.core.worlds import APP, manifest

if TYPE_CHECKING:
    from northstar.runtime.running import RunningContainer
    from northstar.runtime.start import StartContext

LIMITED: dict[str, Any] = {"cgroups": {"pids": {"max": 20}}}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_what_the_runtime_lacks_is_no_failure(number: int) -> None:
    failure = OSError(number, os.strerror(number))
    assert isinstance(of_call(failure, "tcp:80"), LackingError)
    assert isinstance(attributed(failure, manifest(APP)), LackingError)
    assert isinstance(attributed(LaunchError("pass it", errno=number), manifest(APP)), LackingError)


def test_a_failed_connection_is_a_failure() -> None:
    found = of_call(OSError(errno.ECONNREFUSED, "Connection refused"), "tcp:80")
    assert isinstance(found, FailedError)
    assert found.reason == "tcp:80: Connection refused"


@pytest.mark.parametrize(
    ("failure", "fields", "expected"),
    [
        (LaunchError("fork in app:1.0.0", errno=errno.EAGAIN), {}, LackingError),
        (LaunchError("fork in app:1.0.0", errno=errno.EAGAIN), LIMITED, FailedError),
        (LaunchError("fork in app:1.0.0", errno=errno.ENOMEM), {}, LackingError),
        (
            LaunchError("fork in app:1.0.0", errno=errno.EAGAIN),
            {"rlimits": {"nproc": {"soft": 5, "hard": 5}}},
            FailedError,
        ),
        (
            LaunchError("fork in app:1.0.0", errno=errno.ENOMEM),
            {"cgroups": {"memory": {"memory_hard_limit": 10**7}}},
            FailedError,
        ),
        # As `execute` reports the limit.
        (LaunchError("fork in app:1.0.0", reason="(its pids limit is 20)"), LIMITED, FailedError),
        (LaunchError("enter app:1.0.0", reason="its launcher has ended before"), {}, LackingError),
        (LaunchError("watch a process in app:1.0.0", errno=errno.EPERM), {}, LackingError),
        (LaunchError("execute", "/bin/check", errno.ENOENT), {}, FailedError),
        (HostError("no setns"), {}, LackingError),
        (OSError(errno.EAGAIN, "cannot spawn"), LIMITED, LackingError),
        (RefusedError(error.StopContainerNotStarted(APP)), {}, EndedError),
        (RefusedError(error.Unexpected("8 already")), {}, LackingError),
    ],
)
def test_programs_that_cannot_be_executed(
    failure: Exception, fields: dict[str, Any], expected: type
) -> None:
    assert type(attributed(failure, manifest(APP, **fields))) is expected


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (b"", "exit 1"),
        (b" \n", "exit 1"),
        (b"queue is stuck\n", "exit 1: queue is stuck"),
        (b"a\r\n\tb\n\n", "exit 1: a b"),
        (b"\x1b[31m\x00", r"exit 1: \x1b[31m\x00"),
        ("‮é".encode(), r"exit 1: \u202eé"),
        (b"\xc3", r"exit 1: \xc3"),
        (b"a" * (REASON_MAX - 1) + b"\xc3", "exit 1: " + "a" * (REASON_MAX - 1)),
    ],
)
def test_the_reason(output: bytes, reason: str) -> None:
    assert reason_of("exit 1", output) == reason


@given(st.binary(max_size=REASON_MAX))
def test_any_output_is_one_printable_line(output: bytes) -> None:
    reason = reason_of("exit 1", output)
    assert reason.startswith("exit 1")
    assert printable(reason) == reason
    assert "\n" not in reason
    assert len(reason) <= len("exit 1: ") + 10 * REASON_MAX


@given(st.binary(max_size=3 * REASON_MAX))
def test_the_beginning_of_the_output_is_kept(data: bytes) -> None:
    async def read() -> bytes:
        output = probe_exec.Output()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        try:
            os.write(writing, data)
            output.begin(reading)
            await asyncio.sleep(0)
            output.finish()
            output.stop()
            output.stop()
        finally:
            os.close(reading)
            os.close(writing)
        return output.kept

    assert asyncio.run(read()) == data[:REASON_MAX]


def test_the_names_of_the_steps_are_those_of_the_launch() -> None:
    # `attributed` compares the beginnings of steps.
    text = Path(entered.__file__).read_text()
    for step in ("fork in {container}", "enter {container}", "watch a process in "):
        assert f'f"{step}' in text


class Unkillable:
    """A process that SIGKILL does not end before `thaw`: in a frozen cgroup."""

    def __init__(self) -> None:
        self.thaw = asyncio.Event()
        self.exited: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()
        self.stdout, self._writing = os.pipe()
        os.set_blocking(self.stdout, False)

    async def close(self) -> None:
        await self.thaw.wait()
        os.close(self.stdout)
        os.close(self._writing)


def test_a_process_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe fails nevertheless, and the next one does not run beside it."""
    processes: list[Unkillable] = []
    executed = asyncio.Event()

    async def execute(*_arguments: object, **_options: object) -> Unkillable:
        processes.append(Unkillable())
        executed.set()
        return processes[-1]

    async def test() -> None:
        running = cast("RunningContainer", SimpleNamespace(container=APP))
        execs = probe_exec.ExecProbes(cast("StartContext", None))
        earlier = ": the process of an earlier probe does not end"
        for what in ("", earlier, earlier):
            with pytest.raises(FailedError, match=f"^timeout{what}$"):
                await execs.run(running, manifest(APP), ["/check"], 0.05)
        assert len(processes) == 1
        ended = asyncio.create_task(execs.ended(APP))
        await asyncio.sleep(0)
        assert not ended.done()
        processes[0].thaw.set()
        await ended
        executed.clear()
        again = asyncio.create_task(execs.run(running, manifest(APP), ["/check"], 60.0))
        await executed.wait()
        processes[1].thaw.set()
        processes[1].exited.set_result(Exited(0))
        await again

    monkeypatch.setattr(probe_exec, "_END", 0.05)
    monkeypatch.setattr(probe_exec, "execute", execute)
    asyncio.run(test())
