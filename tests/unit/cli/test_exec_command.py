"""`nstar exec` against a scripted runtime on a real socket."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.cli.common import invoke
from northstar.cli.nstar_commands import nstar
from tests.unit.client.peer import Peer, Wire

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run nstar against a runtime; the script gets the request. Return exit code and output."""
    number = iter(range(10**6))

    def run(
        *arguments: str,
        script: Callable[[Wire, Any], None] | None = None,
        features: Any = ("service", "exec"),
    ) -> tuple[int, str, str]:
        def whole(wire: Wire) -> None:
            wire.greet(False, features)
            if script is not None:
                script(wire, wire.line()["request"]["exec"])
            else:
                wire.expect_end()

        directory = tmp_path / str(next(number))
        directory.mkdir()
        with Peer(directory, whole) as peer:
            code = invoke(nstar, ["--url", peer.url, *arguments], "nstar")
        return code, *capfd.readouterr()

    return run


def status(**fields: Any) -> Any:
    return {"response": {"exec": {"ok": {"container": "app:1.0.0", "status": fields}}}}


def output(stream: str, data: bytes) -> Any:
    return {"stream": {stream: base64.b64encode(data).decode()}}


def test_every_exit_code(run: Run) -> None:
    for code in range(256):

        def script(wire: Wire, _: Any, code: int = code) -> None:
            wire.send(status(exit={"code": code}))

        assert run("exec", "app:1.0.0", "/x", script=script) == (code, "", "")


def test_every_signal(run: Run) -> None:
    for number in range(1, 65):

        def script(wire: Wire, _: Any, number: int = number) -> None:
            wire.send(status(signalled={"signal": number}))

        assert run("exec", "app:1.0.0", "/x", script=script) == (128 + number, "", "")


def test_the_request(run: Run) -> None:
    def script(wire: Wire, request: Any) -> None:
        assert request == {
            "container": "app:1.0.0",
            "command": ["/bin/sh", "-i", "-e", "x", "--"],
            "environment": {"A": "", "B": "c=d"},
            "stdin": False,
            "tty": None,
        }
        wire.send(output("stdout", b"out"), output("stderr", b"err"), status(exit={"code": 0}))

    options = ("-e", "A=", "--env", "B=c=d")
    command = ("/bin/sh", "-i", "-e", "x", "--")
    assert run("exec", *options, "app:1.0.0", *command, script=script) == (0, "out", "err")


def test_with_json_only_lines_are_printed(run: Run) -> None:
    def script(wire: Wire, _: Any) -> None:
        wire.send(output("stdout", b"out"), status(exit={"code": 3}))

    code, out, err = run("--json", "exec", "app:1.0.0", "/x", script=script)
    assert (code, err) == (3, "")
    assert [next(iter(json.loads(line))) for line in out.splitlines()] == [
        "connect",
        "connect_ack",
        "request",
        "stream",
        "response",
    ]


def test_an_old_runtime(run: Run) -> None:
    message = 'error: this runtime cannot do that: it has no feature "exec"\n'
    message += "hint: it is an older version: update the runtime of that device\n"
    assert run("exec", "app:1.0.0", "/x", features=["service"]) == (1, "", message)
    assert run("exec", "app:1.0.0", "/x", features=None) == (1, "", message)


def test_a_refusal(run: Run) -> None:
    def script(wire: Wire, _: Any) -> None:
        refusal = {"unexpected": {"error": "app:1.0.0 has 8 exec'ed processes already"}}
        wire.send({"response": {"exec": {"error": {"container": "app:1.0.0", "error": refusal}}}})

    assert run("exec", "app:1.0.0", "/x", script=script) == (
        1,
        "",
        "error: app:1.0.0 has 8 exec'ed processes already\n",
    )


def test_the_dispositions_of_signals_are_restored(run: Run) -> None:
    def script(wire: Wire, _: Any) -> None:
        wire.send(status(exit={"code": 0}))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH)
    before = [signal.getsignal(number) for number in numbers]
    assert run("exec", "app:1.0.0", "/x", script=script)[0] == 0
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("variable", ["", "A", "=x"])
def test_invalid_variables(variable: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--url", "unix:///nowhere", "exec", "-e", variable, "app", "/x"]
    assert invoke(nstar, arguments, "nstar") == 2
    assert "is not NAME=VALUE" in capfd.readouterr().err
