"""The programs with the crates of Northstar 0.9.2 (src/bin), as functions and as a client."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from northstar.linux.descriptor import Closing
from tests.system.harness import TIMEOUT, RuntimeProcess

T = TypeVar("T")


def program(name: str) -> Path:
    """Return the path of a program that `make interop` has built."""
    directory = os.environ.get("NORTHSTAR_INTEROP")
    assert directory, "run these tests with `make interop`, which builds the programs"
    return Path(directory) / name


class Answer(NamedTuple):
    """The result of an input in Northstar 0.9.2: a value, or the reason of a refusal.

    Attributes:
        ok: the value.
        error: a text, None if Northstar 0.9.2 accepts the input.
    """

    ok: Any
    error: str | None


def ask(what: str, inputs: Iterable[Any]) -> list[Answer]:
    """Pass all inputs to one run of `packages WHAT`; return an answer for each."""
    lines = [json.dumps(value) for value in inputs]
    done = subprocess.run(
        [program("packages"), what],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    # Not splitlines, which also splits at other characters.
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(answers) == len(lines)
    return [Answer(answer.get("ok"), answer.get("error")) for answer in answers]


def ask_one(what: str, **arguments: Any) -> Any:
    """Pass one input, which Northstar 0.9.2 must accept; return the value."""
    given_ = {key: str(v) if isinstance(v, Path) else v for key, v in arguments.items()}
    (answer,) = ask(what, [given_])
    assert answer.error is None, answer.error
    return answer.ok


def examples(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """Return `count` values of a strategy, always the same."""
    found: list[T] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: T) -> None:
        found.append(value)

    collect()
    return found


class CallError(Exception):
    """Northstar 0.9.2's client returned an error.

    Attributes:
        kind: the variant of the client's error: `runtime`, `permission_denied`, ...
        what: for `runtime` the error that the runtime answered, as Northstar 0.9.2 writes it.
    """

    def __init__(self, kind: str, what: Any) -> None:
        super().__init__(kind, what)
        self.kind = kind
        self.what = what


class Client(Closing):
    """Northstar 0.9.2's client in the namespaces of a runtime, connected to that."""

    def __init__(self, runtime: RuntimeProcess, *, capacity: int | None = None) -> None:
        """Connect.

        Args:
            runtime: the runtime.
            capacity: number of notifications to keep; None for no subscription.

        Raises:
            CallError: the runtime refuses the connection.
        """
        number = "none" if capacity is None else str(capacity)
        self._process = subprocess.Popen(
            runtime.enter(str(program("client")), runtime.url, number),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        try:
            self._result()
        except BaseException:
            self.close()
            raise

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of Northstar 0.9.2's client.

        Raises:
            CallError: it returned an error.
        """
        assert self._process.stdin is not None
        values = [str(value) if isinstance(value, Path) else value for value in arguments]
        self._process.stdin.write(json.dumps([name, *values]) + "\n")
        self._process.stdin.flush()
        return self._result()

    def refused(self, name: str, *arguments: Any) -> Any:
        """Call a method that the runtime must refuse; return the error."""
        try:
            value = self.call(name, *arguments)
        except CallError as error:
            assert error.kind == "runtime", error
            return error.what
        raise AssertionError(f"{name} {arguments} was not refused: {value}")

    def notifications_until(self, last: Any) -> list[Any]:
        """Return the next notifications, the last of them equal to `last`."""
        found = []
        while True:
            found.append(self.call("notification"))
            if found[-1] == last:
                return found

    def _result(self) -> Any:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        assert line, f"Northstar 0.9.2's client ended: {self._process.stderr.read()}"
        result = json.loads(line)
        if "error" in result:
            raise CallError(*result["error"])
        return result["ok"]

    def close(self) -> None:
        """Terminate the client."""
        assert self._process.stdin is not None
        try:
            self._process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
