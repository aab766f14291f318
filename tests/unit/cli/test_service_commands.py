"""The commands of nstar for supervision, against a scripted runtime on a real socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.api import ContainerState, Status, Wanted, error, response
from northstar.cli import listing, status_table
from northstar.cli.common import invoke
from northstar.cli.nstar_commands import nstar
from northstar.model import Container, Exited, Signalled
from tests.unit.cli.test_nstar import (
    PROCESS,
    Done,
    inspected,
    start,
    terminal,  # noqa: F401 - a fixture
)
from tests.unit.client.peer import TIMEOUT, Peer, Wire
from tests.unit.client.test_service import (
    EXIT,
    ID,
    INSPECT,
    INVALID,
    START,
    STARTED,
    STATUS,
    answer,
    state,
    status,
    stopped,
)
from tests.unit.client.test_service import inspected as inspect_answer

FEATURES = ("service",)
Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run nstar against a runtime that runs this script after the handshake."""

    def run(
        *arguments: str,
        script: Callable[[Wire], None] = lambda _: None,
        subscribe: bool = False,
        features: Any = FEATURES,
    ) -> Done:
        def whole(wire: Wire) -> None:
            wire.greet(subscribe, features)
            script(wire)
            wire.expect_end()

        for old in tmp_path.iterdir():
            old.unlink()
        with Peer(tmp_path, whole) as peer:
            code = invoke(nstar, ["-u", peer.url, *arguments], "nstar")
        return Done(code, *capfd.readouterr())

    return run


BACKOFF = status(
    "backoff", 6, since=2_100_000_000, reason="exit 1", restarts=5, next=29_900_000_000
)
READY = status("ready", 1, since=273_600 * 10**9)


def answer_all(wire: Wire) -> None:
    results = [
        {"ok": {"container": "broker:2.1.0", "status": READY}},
        {"ok": {"container": "app:1.0.0", "status": BACKOFF}},
    ]
    wire.answer({"status": {"containers": []}}, {"response": {"status": results}})


def test_status(run: Run) -> None:
    done = run("status", script=answer_all)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "NAME    VERSION  WANTED  STATE    SINCE  RESTARTS  REASON",
        "broker  2.1.0    up      ready    3d 4h  0",
        "app     1.0.0    up      backoff  2.1s   5         exit 1 (next start in 29.9s)",
    ]


def test_status_of_some(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.answer("list", {"response": {"list": ["a:1.0.0", "b:1.0.0"]}})
        request = {"status": {"containers": ["b:1.0.0", "a:1.0.0"]}}
        results = [{"ok": {"container": "b:1.0.0", "status": READY}}, INVALID]
        wire.answer(request, {"response": {"status": results}})
        wire.answer("list", {"response": {"list": ["b:1.0.0"]}})

    done = run("status", "b", "a:1.0.0", script=script)
    assert done.code == 1
    assert [line.split()[0] for line in done.out.splitlines()] == ["NAME", "b"]
    assert done.err == (
        "error: a:1.0.0 is not installed\nhint: nstar list shows what is installed\n"
    )


def test_texts_of_an_app_are_escaped_and_quoted(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.answer(STATUS, answer("ready", text="\x1b[2J50 %"))

    done = run("status", "a:1.0.0", script=script)
    assert done.out.splitlines()[1].endswith(r'  "\x1b[2J50 %"')


def test_an_older_runtime_cannot_do_that(run: Run) -> None:
    for arguments, subscribe in (
        (["status"], False),
        (["restart", "a:1.0.0"], False),
        (["wait", "--for", "ready", "a:1.0.0"], True),
        (["start", "--wait", "a:1.0.0"], True),
    ):
        done = run(*arguments, features=None, subscribe=subscribe)
        assert done == (
            1,
            "",
            (
                'error: this runtime cannot do that: it has no feature "service"\n'
                "hint: it is an older version: update the runtime of that device\n"
            ),
        )


def test_restart(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.answer("list", {"response": {"list": ["a:1.0.0"]}})
        wire.answer(INSPECT, inspect_answer(7))
        wire.answer({"restart": ID}, {"response": {"restart": {"ok": ID}}})

    assert run("restart", "a", script=script) == (0, "restarted a:1.0.0\n", "")


@pytest.mark.parametrize(
    ("arguments", "timeout", "killed", "text"),
    [
        ([], None, False, ""),
        ([], None, True, ", by SIGKILL: it did not end in time"),
        (["--timeout", "1m 30s"], 90 * 10**9, False, ""),
        (
            ["--timeout", "5s"],
            5 * 10**9,
            True,
            ", by SIGKILL: it did not end within 5 s of its stop signal",
        ),
    ],
)
def test_stop(run: Run, arguments: list[str], timeout: Any, killed: bool, text: str) -> None:
    def script(wire: Wire) -> None:
        wire.answer(INSPECT, inspect_answer(7))
        wire.answer({"stop": {**ID, "timeout": timeout}}, stopped(killed))

    done = run("stop", *arguments, "a:1.0.0", script=script, subscribe=True)
    assert done == (0, f"stopped a:1.0.0{text}\n", "")


def test_stop_on_an_older_runtime(run: Run) -> None:
    def script(wire: Wire) -> None:
        ok = {"response": {"kill": {"ok": ID}}}
        wire.answer({"kill": {**ID, "signal": 15}}, ok)
        wire.answer({"kill": {**ID, "signal": 9}}, ok, EXIT)

    done = run("stop", "--timeout", "10ms", "a:1.0.0", script=script, subscribe=True, features=None)
    how = "by SIGKILL: it did not end within 0.01 s of SIGTERM"
    assert done == (0, f"stopped a:1.0.0, {how}\n", "")


def test_start_that_waits(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.answer(START, state("starting"), STARTED, state("running"), state("ready"))

    done = run("start", "--wait", "a:1.0.0", script=script, subscribe=True)
    assert done == (0, "started a:1.0.0\n", "")

    def fails(wire: Wire) -> None:
        wire.answer(
            {"start": {**START["start"], "init": "--wait"}},
            state("starting"),
            STARTED,
            EXIT,
            state("failed", reason="exit 3"),
        )

    # After the container, words belong to the command.
    done = run("start", "--wait", "a:1.0.0", "--wait", script=fails, subscribe=True)
    assert done == (1, "", "error: a:1.0.0 is not ready: its state is failed (exit 3)\n")
    assert start(init="--wait") == {"start": {**START["start"], "init": "--wait"}}


@pytest.mark.parametrize(
    ("last", "code", "text"),
    [
        ({"exit": {"code": 0}}, 0, "exited with code 0"),
        ({"exit": {"code": 255}}, 255, "exited with code 255"),
        ({"signalled": {"signal": 9}}, 137, "was killed by SIGKILL"),
        ({"signalled": {"signal": 37}}, 165, "was killed by SIGRTMIN+3"),
        (
            {"signalled": {"signal": 31}},
            159,
            "was killed by its seccomp filter (SIGSYS); see nstar seccomp --help",
        ),
    ],
)
def test_wait_for_the_exit(run: Run, last: Any, code: int, text: str) -> None:
    def script(wire: Wire) -> None:
        wire.answer(STATUS, answer("ready"), {"notification": {"exit": ["a:1.0.0", last]}})

    for goal in ([], ["--for", "exit"]):
        done = run("wait", *goal, "a:1.0.0", script=script, subscribe=True)
        assert done == (code, f"a:1.0.0 {text}\n", "")


@pytest.mark.parametrize("goal", ["started", "ready"])
def test_wait_for_a_state(run: Run, goal: str) -> None:
    done = run(
        *("wait", "--for", goal, "a:1.0.0"),
        script=lambda wire: wire.answer(STATUS, answer("starting"), state("ready")),
        subscribe=True,
    )
    assert done == (0, f"a:1.0.0 is {goal}\n", "")


LONGER = "wait longer (--timeout), or see nstar status"


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        ("started", "is not started within 0.05 s: its state is waiting"),
        ("ready", "is not ready within 0.05 s: its state is waiting"),
        ("exit", "has not exited within 0.05 s"),
    ],
)
def test_wait_that_takes_too_long(run: Run, goal: str, text: str) -> None:
    done = run(
        *("wait", "--for", goal, "--timeout", "50ms", "a:1.0.0"),
        script=lambda wire: wire.answer(STATUS, answer("waiting")),
        subscribe=True,
    )
    assert done == (124, "", f"error: a:1.0.0 {text}\nhint: {LONGER}\n")


def test_wait_for_one_that_does_not_run(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.answer(STATUS, answer("installed", 0))

    def asked(wire: Wire) -> None:
        script(wire)
        wire.answer("list", {"response": {"list": ["a:1.0.0"]}})

    done = run("wait", "a:1.0.0", script=asked, subscribe=True)
    assert done == (1, "", "error: a:1.0.0 is not running\nhint: start it first (nstar start a)\n")
    done = run("wait", "--for", "ready", "a:1.0.0", script=script, subscribe=True)
    assert done.err == (
        "error: a:1.0.0 is not ready: its state is installed\n"
        "hint: start it first (nstar start a:1.0.0)\n"
    )


def test_list_with_states(run: Run) -> None:
    resource = {"name": "b", "version": "1.0.0"}

    def script(wire: Wire) -> None:
        wire.answer("list", {"response": {"list": ["a:1.0.0", "b:1.0.0", "c:1.0.0"]}})
        for request, result in (
            inspected("a:1.0.0", process=PROCESS),
            inspected("b:1.0.0", manifest=resource),
            inspected("c:1.0.0"),
        ):
            wire.answer(request, {"response": result})
        failed = status("failed", 3, since=7_200 * 10**9, last={"signalled": {"signal": 9}})
        results = [
            {"ok": {"container": "a:1.0.0", "status": status("ready", last={"exit": {"code": 1}})}},
            {"ok": {"container": "b:1.0.0", "status": status("installed", 0)}},
            {"ok": {"container": "c:1.0.0", "status": failed}},
        ]
        wire.answer({"status": {"containers": []}}, {"response": {"status": results}})

    done = run("list", script=script)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "Name  Version  Repository  Type      Mounted  PID   Uptime  State   Last exit",
        "a     1.0.0    r           app       no       4711  1h 2m   ready   exit 1",
        "b     1.0.0    r           resource  no       -     -       -       -",
        "c     1.0.0    r           app       no       -     -       failed  SIGKILL, 2h 0m ago",
    ]


def test_list_without_the_permission_for_states(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.answer("list", {"response": {"list": []}})
        request: dict[str, Any] = {"status": {"containers": []}}
        wire.answer(request, {"response": {"permission_denied": request}})

    done = run("list", script=script)
    assert done == (0, "Name  Version  Repository  Type  Mounted  PID  Uptime\n", "")


def test_changes_in_a_pipe(run: Run) -> None:
    def script(wire: Wire) -> None:
        wire.answer(
            STATUS,
            # Older than the answer.
            state("starting"),
            answer("ready"),
            EXIT,
            state("backoff", reason="exit 3", next=4 * 10**9),
            state("ready", 1, "b:1.0.0"),
            state("starting", 2),
            {"notification": "shutdown"},
        )

    def whole(wire: Wire) -> None:
        script(wire)
        wire.stream.shutdown(1)

    done = run("status", "--watch", "a:1.0.0", script=whole, subscribe=True)
    assert done.out.splitlines() == [
        "a:1.0.0: wanted up, ready",
        "a:1.0.0: wanted up, backoff (exit 3), next start in 4.0s",
        "a:1.0.0: wanted up, starting",
    ]
    assert (done.code, done.err) == (0, "")


def test_json_lines_of_status(run: Run) -> None:
    done = run("-j", "status", script=answer_all)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [next(iter(line)) for line in lines] == ["connect", "connect_ack", "request", "response"]
    assert lines[-1]["response"]["status"][1]["ok"]["status"] == BACKOFF


@pytest.mark.parametrize(
    "arguments",
    [
        ["wait"],
        ["wait", "--for", "nothing", "a"],
        ["wait", "--timeout", "soon", "a"],
        ["restart"],
        ["status", "a b"],
        ["stop", "--timeout", "5", "a"],
    ],
)
def test_wrong_usage(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert invoke(nstar, arguments, "nstar") == 2
    assert capfd.readouterr().err.startswith("Usage: nstar")


def test_help_and_completion_name_the_commands(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(nstar, ["--help"], "nstar") == 0
    words = capfd.readouterr().out.split()
    assert {"restart", "status", "wait"} <= set(words)
    monkeypatch.setenv("_NSTAR_COMPLETE", "bash_complete")
    for line, position, expected in (
        ("nstar re", 1, {"repositories", "restart"}),
        ("nstar wait --for ", 3, {"started", "ready", "exit"}),
    ):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(position))
        assert invoke(nstar, [], "nstar") == 0
        found = {word.partition(",")[2] for word in capfd.readouterr().out.split()}
        assert found == expected


def test_other_commands_do_not_load_these() -> None:
    code = "import sys, northstar.cli.nstar_commands; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "northstar.cli.nstar_commands" in loaded
    assert not loaded & {"northstar.cli.service_commands", "northstar.cli.tables"}
    assert "northstar.model.units" not in loaded


def watched(wire: Wire) -> None:
    wire.greet(True, FEATURES)
    wire.answer("list", {"response": {"list": ["a:1.0.0"]}})
    wire.answer(STATUS, answer("starting"), state("ready"))
    wire.answer(STATUS, answer("ready", reason="well"))


def test_the_table_on_a_terminal(
    tmp_path: Path,
    terminal: Callable[..., tuple[int, str]],  # noqa: F811
) -> None:
    def script(wire: Wire) -> None:
        watched(wire)
        wire.send({"notification": "shutdown"})

    with Peer(tmp_path, script) as peer:
        code, shown = terminal("-u", peer.url, "status", "--watch", "a")
    assert code == 0
    assert shown.index("starting") < shown.index("well")
    # The second table is drawn over the first one: a header and a line.
    assert shown.count("\x1b[2A") == 1

    def once(wire: Wire) -> None:
        wire.greet(False, FEATURES)
        wire.answer(STATUS, answer("ready"))

    (tmp_path / "console").unlink()
    with Peer(tmp_path, once) as peer:
        code, shown = terminal("-u", peer.url, "status", "a:1.0.0")
    assert code == 0
    assert "\x1b[32m" in shown


@pytest.mark.parametrize("on_terminal", [True, False])
def test_interrupted(tmp_path: Path, on_terminal: bool) -> None:
    """Ctrl-C ends it without a traceback."""

    def script(wire: Wire) -> None:
        wire.greet(True, FEATURES)
        wire.answer(STATUS, answer("starting"))
        if on_terminal:
            wire.answer(STATUS, answer("ready", reason="well"))
        os.kill(process.pid, signal.SIGINT)
        with contextlib.suppress(ConnectionError):
            wire.file.read()

    local, remote = os.openpty()
    code = "from northstar.cli.nstar import main; main()"
    with Peer(tmp_path, script) as peer:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "-u", peer.url, "status", "--watch", "a:1.0.0"],
            stdout=remote if on_terminal else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color"},
        )
        os.close(remote)
        _, err = process.communicate(timeout=TIMEOUT)
    if on_terminal:
        assert b"starting" in os.read(local, 4096)
    os.close(local)
    assert (process.returncode, err) == (128 + signal.SIGINT, b"")


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0.0s"),
        (99_999_999, "0.0s"),
        (2_199_999_999, "2.1s"),
        (59_999_999_999, "59.9s"),
        (60 * 10**9, "1m 0s"),
        (273_600 * 10**9, "3d 4h"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    assert listing.duration(nanoseconds) == text


def test_a_row_of_a_failure() -> None:
    container = Container.parse("a:1.0.0")
    failed = response.Failed(container, error.InvalidContainer(container))
    assert status_table.row(failed)[2:6] == ("-", "-", "-", "-")


def test_the_last_exit() -> None:
    def shown(state: ContainerState, last: Any) -> str:
        return listing.last_exit(Status(Wanted.UP, state, 10**9, "", 1, 0, None, None, last))

    assert shown(ContainerState.READY, None) == "-"
    assert shown(ContainerState.READY, Exited(3)) == "exit 3"
    assert shown(ContainerState.BACKOFF, Exited(3)) == "exit 3, 1.0s ago"
    assert shown(ContainerState.FAILED, Signalled(11)) == "SIGSEGV, 1.0s ago"
