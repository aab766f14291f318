"""`nstar logs` against a scripted runtime on a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.cli.common import invoke
from northstar.cli.nstar_commands import nstar
from tests.unit.cli.test_nstar import Done
from tests.unit.cli.test_nstar import terminal as terminal
from tests.unit.cli.test_service_commands import Run
from tests.unit.cli.test_service_commands import run as run
from tests.unit.client.peer import Peer, Wire
from tests.unit.client.test_client_logs import ID, LOST, OK, line, request

FEATURES = ("service", "logs")
AT = 1_796_075_325_123_456_789  # 2026-11-30T21:48:45 UTC


def script(expected: Any, *messages: Any) -> Callable[[Wire], None]:
    return lambda wire: wire.answer(expected, *messages, OK)


def shown(run: Run, *arguments: str, script: Callable[[Wire], None]) -> list[str]:
    done = run("logs", *arguments, "a:1.0.0", script=script, features=FEATURES)
    assert (done.code, done.err) == (0, "")
    return done.out.splitlines()


def test_the_output(run: Run) -> None:
    messages = [
        LOST,
        line("listening on 8080", time=AT),
        line("cannot open queue", time=AT + 878_543_211, stream="stderr"),
        line("again", time=0, run=4),
        {"log": {**ID, "run": 4, "lost": 8123}},
    ]
    assert shown(run, script=script(request(), *messages)) == [
        "(5 bytes lost)",
        "2026-11-30T21:48:45.123Z out  listening on 8080",
        "2026-11-30T21:48:46.002Z err  cannot open queue",
        "... run 4 ...",
        "1970-01-01T00:00:00.000Z out  again",
        "(8123 bytes lost)",
    ]


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["-f"], {"follow": True}),
        (["--follow", "-n", "2"], {"follow": True, "lines": 2}),
        (["--since", "10m"], {"since": 600 * 10**9}),
        (["--streams", "err"], {"streams": ["stderr"]}),
        (["--streams", "out,err"], {}),
        (["-n", "0"], {"lines": 0}),
    ],
)
def test_options(run: Run, arguments: list[str], changes: Any) -> None:
    assert shown(run, *arguments, script=script(request(**changes))) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--streams", "both"], "'both' is not a stream (out or err)"),
        (["--streams", ""], "'' is not a stream (out or err)"),
        (["-n", "-1"], "-1 is not in the range"),
        (["--since", "soon"], "as 10s, 1m 30s or 500ms"),
    ],
)
def test_wrong_usage(capfd: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    assert invoke(nstar, ["logs", *arguments, "a"], "nstar") == 2
    assert reason in " ".join(capfd.readouterr().err.split())


def test_control_characters_are_escaped(run: Run) -> None:
    [found] = shown(run, script=script(request(), line("\x1b[2J\x07\t\u202eé\\xff", time=AT)))
    assert found.endswith("out  \\x1b[2J\\x07\t\\u202eé\\xff")


def test_json_lines(run: Run) -> None:
    found = run("-j", "logs", "a:1.0.0", script=script(request(), LOST), features=FEATURES)
    assert [json.loads(one) for one in found.out.splitlines()][2:] == [
        {"request": request()},
        LOST,
        OK,
    ]


def test_an_older_runtime_cannot_do_that(run: Run) -> None:
    for features in (None, ("service",)):
        assert run("logs", "a:1.0.0", features=features) == (
            1,
            "",
            (
                'error: this runtime cannot do that: it has no feature "logs"\n'
                "hint: it is an older version: update the runtime of that device\n"
            ),
        )


def test_colours_on_a_terminal(tmp_path: Path, terminal: Callable[..., tuple[int, str]]) -> None:
    def whole(wire: Wire) -> None:
        wire.greet(False, FEATURES)
        script(request(), line("one", time=AT), line("two", time=AT, stream="stderr"))(wire)
        wire.expect_end()

    with Peer(tmp_path, whole) as peer:
        code, text = terminal("-u", peer.url, "logs", "a:1.0.0")
    assert code == 0
    assert "\x1b[36mout\x1b[0m  one" in text
    assert "\x1b[33merr\x1b[0m  two" in text


def test_a_refusal_behind_lines(run: Run) -> None:
    def answers(wire: Wire) -> None:
        error = {**ID, "error": {"invalid_container": ID}}
        wire.answer(request(), line("one", time=AT), {"response": {"logs": {"error": error}}})
        wire.answer("list", {"response": {"list": ["a:1.1.0"]}})

    done: Done = run("logs", "a:1.0.0", script=answers, features=FEATURES)
    assert done.code == 1
    assert done.out == "2026-11-30T21:48:45.123Z out  one\n"
    assert "a:1.0.0 is not installed; installed: 1.1.0" in done.err
