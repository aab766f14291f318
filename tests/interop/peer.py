"""The programs that are made of the peer's crates (src/bin), as functions and as a client."""

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
    assert directory, "run these tests with `make interop`, which builds what they need"
    return Path(directory) / name


class Answer(NamedTuple):
    """What the peer made of an input: a value, or why it refuses it.

    Attributes:
        ok: the value.
        error: a text, None if the peer accepts the input.
    """

    ok: Any
    error: str | None


def ask(what: str, inputs: Iterable[Any]) -> list[Answer]:
    """Give all inputs to one run of `packages WHAT`; return an answer for each."""
    lines = [json.dumps(value) for value in inputs]
    done = subprocess.run(
        [program("packages"), what],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    # Not splitlines: it splits at more than newlines.
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(answers) == len(lines)
    return [Answer(answer.get("ok"), answer.get("error")) for answer in answers]


def ask_one(what: str, **arguments: Any) -> Any:
    """Give one input, which the peer must accept; return the value."""
    given_ = {key: str(v) if isinstance(v, Path) else v for key, v in arguments.items()}
    (answer,) = ask(what, [given_])
    assert answer.error is None, answer.error
    return answer.ok


def examples(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """Return the same `count` values of a strategy each time."""
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
    """The peer's client returned an error.

    Attributes:
        kind: the variant of the client's error: `runtime`, `permission_denied`, ...
        what: for `runtime` the error that the runtime answered, as the peer writes it.
    """

    def __init__(self, kind: str, what: Any) -> None:
        super().__init__(kind, what)
        self.kind = kind
        self.what = what


class Client(Closing):
    """The peer's client, connected to a runtime (in whose namespaces it runs)."""

    def __init__(self, runtime: RuntimeProcess, *, capacity: int | None = None) -> None:
        """Connect.

        Args:
            runtime: the runtime.
            capacity: how many notifications to keep; None to not subscribe.

        Raises:
            CallError: the runtime does not want the connection.
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
        """Call a method of the peer's client.

        Raises:
            CallError: it returned an error.
        """
        assert self._process.stdin is not None
        values = [str(value) if isinstance(value, Path) else value for value in arguments]
        self._process.stdin.write(json.dumps([name, *values]) + "\n")
        self._process.stdin.flush()
        return self._result()

    def refused(self, name: str, *arguments: Any) -> Any:
        """Call a method that the runtime must answer with an error; return that."""
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
        assert line, f"the peer's client ended: {self._process.stderr.read()}"
        result = json.loads(line)
        if "error" in result:
            raise CallError(*result["error"])
        return result["ok"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        try:
            self._process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
