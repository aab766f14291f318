"""A process under an `Interceptor` that calls functions for a test, one after the other.

    with working(CALLS) as worker:
        worker.fail(data_snapshot.take, "/data", "app", decide=lambda call: errno.EIO)
        worker.kill(data_snapshot.take, "/data", "app", moment=3)

To import everything for each call would take longer than the call.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.system.faults.intercept import Call, Decide, Interceptor

ROOT = Path(__file__).parents[3]


class Result(NamedTuple):
    """How a call ended: `killed`, or the errno and text of its OSError, or neither."""

    killed: bool
    errno: int
    text: str


class Worker:
    """The process; made by `working`."""

    def __init__(self, interceptor: Interceptor, process: subprocess.Popen[str]) -> None:
        self._interceptor = interceptor
        self._process = process

    def fail(self, function: Callable[..., Any], *arguments: str, decide: Decide) -> Result:
        """Call a function; `decide` lets its system calls fail."""
        return self._call(function, arguments, False, lambda: self._set(decide=decide))

    def kill(self, function: Callable[..., Any], *arguments: str, moment: int) -> Result:
        """Call a function in a child, and kill that before its n-th system call, from 1."""
        seen = 0

        def hold(call: Call) -> None:
            nonlocal seen
            seen += 1
            if seen == moment:
                os.kill(call.tid, signal.SIGKILL)

        return self._call(function, arguments, True, lambda: self._set(hold=hold))

    def _set(self, decide: Decide | None = None, hold: Any = None) -> None:
        self._interceptor.decide = decide or (lambda _call: None)
        self._interceptor.hold = hold or (lambda _call: None)

    def _call(
        self,
        function: Callable[..., Any],
        arguments: tuple[str, ...],
        fork: bool,
        begin: Callable[[], None],
    ) -> Result:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        begin()
        try:
            line = json.dumps([function.__module__, function.__qualname__, fork, arguments])
            stdin.write(f"{line}\n")
            stdin.flush()
            answer = stdout.readline()
        finally:
            self._set()
        assert answer, "the worker has ended"
        return Result(*json.loads(answer))


@contextlib.contextmanager
def working(calls: Iterable[str]) -> Iterator[Worker]:
    """Start a worker. Calls of other names are neither counted nor failed.

    `read` and the `write` of the answer must not be among them.
    """
    with Interceptor(calls) as interceptor:
        command = [*interceptor.wrap, sys.executable, "-m", "tests.system.faults.worker"]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            pass_fds=interceptor.pass_fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield Worker(interceptor, process)
        finally:
            process.communicate()
        assert process.returncode == 0


def _perform(module: str, name: str, arguments: list[str]) -> Result:
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    try:
        function(*arguments)
    except OSError as failure:
        return Result(False, failure.errno or 0, str(failure))
    return Result(False, 0, "")


def _main() -> None:
    for line in sys.stdin:
        module, name, fork, arguments = json.loads(line)
        importlib.import_module(module)
        if not fork:
            result = _perform(module, name, arguments)
        else:
            ours, theirs = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(theirs, json.dumps(_perform(module, name, arguments)).encode())
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            os.close(theirs)
            answer = os.read(ours, 65536)
            os.close(ours)
            result = Result(*json.loads(answer)) if status == 0 else Result(True, 0, "")
        # Not by write(2), which may be intercepted.
        os.writev(1, [json.dumps(result).encode() + b"\n"])


if __name__ == "__main__":
    _main()
