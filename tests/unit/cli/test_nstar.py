"""nstar as a user runs it, against a scripted runtime on a real socket."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from northstar.api import notification
from northstar.cli import listing
from northstar.cli.common import invoke
from northstar.cli.nstar_commands import describe, nstar
from northstar.cli.nstar_session import write_line
from northstar.model import Container
from tests.unit.client.peer import TIMEOUT, Peer, Wire

A = {"container": "a:1.0.0"}
OK = {"ok": A}
LIST = ("list", {"list": ["a:1.0.0", "b:1.0.0", "b:2.0.0"]})
PROCESS = {"pid": 4711, "uptime": 3_723_000_000_000, "statistics": {}}


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run nstar against a runtime that expects exactly these requests and sends these answers."""

    def run(*arguments: str, talk: tuple[Any, ...] = (), subscribe: bool = False) -> Done:
        def script(wire: Wire) -> None:
            wire.greet(subscribe)
            for request, answer in talk:
                wire.answer(request, {"response": answer})
            wire.expect_end()

        for old in tmp_path.iterdir():
            old.unlink()
        with Peer(tmp_path, script) as peer:
            code = invoke(nstar, ["-u", peer.url, *arguments], "nstar")
        return Done(code, *capfd.readouterr())

    return run


def data(**changes: Any) -> dict[str, Any]:
    manifest = {"name": "a", "version": "1.0.0", "init": "/a"}
    return {"manifest": manifest, "repository": "r", "mounted": False, "process": None, **changes}


def inspected(container: str, **changes: Any) -> Any:
    answer = {"ok": {"container": container, "data": data(**changes)}}
    return ({"inspect": {"container": container}}, {"inspect": answer})


def start(**changes: Any) -> Any:
    request: dict[str, Any] = {
        "container": "a:1.0.0",
        "init": None,
        "arguments": [],
        "environment": {},
    }
    return {"start": {**request, **changes}}


@pytest.mark.parametrize(
    ("arguments", "request_", "answer", "out"),
    [
        (["ident"], "ident", {"ident": "extern:0.0.0"}, "extern:0.0.0\n"),
        (["repositories"], "repositories", {"repositories": ["s", "r"]}, "r\ns\n"),
        (["repos"], "repositories", {"repositories": []}, ""),
        (["shutdown"], "shutdown", "shutdown", "shutting down\n"),
        (
            ["mount", "a:1.0.0", "a:1.0.0"],
            {"mount": {"containers": ["a:1.0.0", "a:1.0.0"]}},
            {"mount": [OK, OK]},
            "mounted a:1.0.0\nmounted a:1.0.0\n",
        ),
        (
            ["umount", "a:1.0.0"],
            {"umount": {"containers": ["a:1.0.0"]}},
            {"umount": [OK]},
            "umounted a:1.0.0\n",
        ),
        (["start", "a:1.0.0"], start(), {"start": OK}, "started a:1.0.0\n"),
        (
            ["start", "a:1.0.0", "K=v", "E=", "X=y=z", "/bin/sh", "-c", "A=b", "--help", "-j"],
            start(
                init="/bin/sh",
                arguments=["-c", "A=b", "--help", "-j"],
                environment={"K": "v", "E": "", "X": "y=z"},
            ),
            {"start": OK},
            "started a:1.0.0\n",
        ),
        (
            ["start", "a:1.0.0", "<INIT>", "x"],
            start(init="<INIT>", arguments=["x"]),
            {"start": OK},
            "started a:1.0.0\n",
        ),
        *(
            (
                ["kill", "a:1.0.0", *words],
                {"kill": {"container": "a:1.0.0", "signal": number}},
                {"kill": OK},
                f"signalled a:1.0.0 with signal {number}\n",
            )
            for words, number in (
                ([], 15),
                (["9"], 9),
                (["KILL"], 9),
                (["SIGUSR1"], 10),
                (["sigint"], 2),
                (["rtmin+2"], 36),
            )
        ),
        (
            ["token", "t", "sh"],
            {"token_create": {"target": "t", "shared": "c2g="}},
            {"token": base64.b64encode(bytes(40)).decode()},
            f"{base64.b64encode(bytes(40)).decode()}\n",
        ),
    ],
)
def test_command(run: Run, arguments: list[str], request_: Any, answer: Any, out: str) -> None:
    assert run(*arguments, talk=((request_, answer),)) == (0, out, "")


@pytest.mark.parametrize(
    ("result", "code"), [("Ok", 0), ("Invalid", 1), ("Expired", 1), ("Future", 1)]
)
def test_only_a_valid_token_is_a_success(run: Run, result: str, code: int) -> None:
    token = base64.b64encode(bytes(40)).decode()
    request = {"token_verify": {"token": token, "user": "u", "shared": "c2g="}}
    talk = ((request, {"token_verification": result}),)
    assert run("verify-token", token, "u", "sh", talk=talk) == (code, f"{result}\n", "")


def test_a_token_on_a_terminal(tmp_path: Path, terminal: Callable[..., tuple[int, str]]) -> None:
    token = base64.b64encode(bytes(40)).decode()

    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        wire.send({"response": {"token": token}})

    with Peer(tmp_path, script) as peer:
        assert terminal("-u", peer.url, "token", "t", "sh") == (0, f"created token {token}\r\n")


def test_list_in_a_pipe_is_aligned_text(run: Run) -> None:
    resource = {"name": "b", "version": "1.0.0"}
    denied = {"permission_denied": {"inspect": {"container": "b:2.0.0"}}}
    talk = (
        ("list", {"list": ["b:2.0.0", "b:1.0.0", "a:1.0.0"]}),
        inspected("a:1.0.0", mounted=True, process=PROCESS),
        inspected("b:1.0.0", manifest=resource, repository="\x1b[31m"),
        ({"inspect": {"container": "b:2.0.0"}}, denied),
    )
    for name in ("list", "ls"):
        done = run(name, talk=talk)
        assert (done.code, done.err) == (0, "")
        assert done.out.splitlines() == [
            "Name  Version  Repository  Type      Mounted  PID   Uptime",
            "a     1.0.0    r           app       yes      4711  1h 2m",
            r"b     1.0.0    \x1b[31m    resource  no       -     -",
            "b     2.0.0    -           -         -        -     -",
        ]


def test_list_of_nothing(run: Run) -> None:
    done = run("list", talk=(("list", {"list": []}),))
    assert done == (0, "Name  Version  Repository  Type  Mounted  PID  Uptime\n", "")


def test_inspect_is_json(run: Run) -> None:
    done = run("inspect", "a:1.0.0", talk=(inspected("a:1.0.0", process=PROCESS),))
    assert (done.code, json.loads(done.out)) == (0, data(process=PROCESS))
    assert done.out.startswith('{\n  "manifest": {\n    "name": "a"')


def test_a_name_means_the_only_version(run: Run) -> None:
    kill = ({"kill": {"container": "a:1.0.0", "signal": 15}}, {"kill": OK})
    assert run("kill", "a", talk=(LIST, kill)).out == "signalled a:1.0.0 with signal 15\n"
    # One `list` is enough for several names, and none is sent for a name with version.
    mount = ({"mount": {"containers": ["a:1.0.0", "a:1.0.0"]}}, {"mount": [OK, OK]})
    assert run("mount", "a", "a", talk=(LIST, mount)).code == 0


def test_an_ambiguous_name(run: Run) -> None:
    done = run("start", "b", talk=(LIST,))
    assert done == (
        1,
        "",
        "error: several versions of b are installed: b:1.0.0, b:2.0.0\nhint: give one of them\n",
    )
    done = run("start", "c", talk=(LIST,))
    assert done == (
        1,
        "",
        "error: no container c is installed\nhint: nstar list shows what is installed\n",
    )
    done = run("start", "c", talk=(("list", {"permission_denied": "list"}),))
    assert (done.code, done.out) == (1, "")
    assert "the permission 'list'" in done.err
    assert "write it as c:VERSION" in done.err


def test_refused(run: Run) -> None:
    refusal = {"error": {**A, "error": {"start_container_failed": {**A, "error": "exec: no"}}}}
    done = run("start", "a:1.0.0", talk=((start(), {"start": refusal}),))
    assert done == (
        1,
        "",
        (
            "error: a:1.0.0 could not be started: exec: no\n"
            "hint: the runtime's log has more about it\n"
        ),
    )


def test_texts_of_the_runtime_are_escaped(run: Run) -> None:
    refusal = {"error": {**A, "error": {"unexpected": {"error": "\x1b[2J\x9b"}}}}
    done = run("start", "a:1.0.0", talk=((start(), {"start": refusal}),))
    assert done == (1, "", "error: \\x1b[2J\\x9b\n")


def test_one_failure_among_several(run: Run) -> None:
    busy = {"error": {"container": "b:1.0.0", "error": {"unexpected": {"error": "so"}}}}
    request = {"umount": {"containers": ["a:1.0.0", "b:1.0.0"]}}
    done = run("umount", "a:1.0.0", "b:1.0.0", talk=((request, {"umount": [OK, busy]}),))
    assert done == (1, "umounted a:1.0.0\n", "error: b:1.0.0: so\n")


def test_install(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    package = tmp_path_factory.mktemp("package") / "a.npk"
    package.write_bytes(b"")
    request = {"install": {"repository": "r", "size": 0}}
    done = run("install", str(package), "r", talk=((request, {"install": OK}),))
    assert done == (0, f"installed {package} into r\n", "")
    refusal = {"install": {"error": {"error": {"install_duplicate": A}}}}
    done = run("install", str(package), "r", talk=((request, refusal), LIST))
    assert done.err == (
        "error: a:1.0.0 is installed already\n"
        "hint: uninstall it first (nstar uninstall a), or pack a newer version\n"
    )
    done = run("install", "/none", "r")
    assert done == (1, "", "error: /none: No such file or directory\nhint: check the path\n")


def test_json_lines_in_both_directions(run: Run) -> None:
    done = run("-j", "start", "a:1.0.0", talk=((start(), {"start": OK}),))
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"connect": {"version": "0.9.2", "subscribe_notifications": False, "extended": True}},
        {"connect_ack": None},
        {"request": start()},
        {"response": {"start": OK}},
    ]
    done = run("-j", "ls", talk=(("list", {"list": ["a:1.0.0"]}), inspected("a:1.0.0")))
    assert all(json.loads(line) for line in done.out.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["start"],
        ["start", "a:1"],
        ["start", "a b"],
        ["start", "a:1.0.0", "=x"],
        ["start", "--nonsense", "a"],
        ["kill", "a", "SIGNONE"],
        ["kill", "a", "TERM+x"],
        ["kill", "a", "-9"],
        ["mount"],
        ["install", "x"],
        ["notifications", "-n", "0"],
        ["token", "a b", "s"],
        ["verify-token", "A" * 54 + "==", "", "s"],
        ["verify-token", "!", "u", "s"],
        ["verify-token", "AAAA", "u", "s"],
        ["-u", "localhost", "list"],
        ["-t", "soon", "list"],
        ["completion", "-s", "tcsh"],
    ],
)
def test_wrong_usage(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert invoke(nstar, arguments, "nstar") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Usage: nstar")


def test_no_runtime_listens(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORTHSTAR_URL", "unix:///none")
    assert invoke(nstar, ["list"], "nstar") == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(
        "error: cannot connect to unix:///none (NORTHSTAR_URL names it): "
        "No such file or directory\nhint:"
    )


def test_a_runtime_that_does_not_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        wire.expect_end()

    with Peer(tmp_path, script) as peer:
        assert invoke(nstar, ["-t", "50ms", "-u", peer.url, "ident"], "nstar") == 1
    assert "did not answer within 0.05 s" in capfd.readouterr().err


def notify(wire: Wire) -> None:
    wire.greet(subscribe=True, extended=False)
    wire.send(
        {"notification": {"install": "a:1.0.0"}},
        {"notification": {"started": "a:1.0.0"}},
        {"notification": {"exit": ["a:1.0.0", {"exit": {"code": 1}}]}},
        {"notification": {"exit": ["a:1.0.0", {"signalled": {"signal": 9}}]}},
        {"notification": {"uninstall": "a:1.0.0"}},
        {"notification": "shutdown"},
    )


def test_notifications(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [
        "installed a:1.0.0",
        "started a:1.0.0",
        "container a:1.0.0 exited with status exit code 1",
        "container a:1.0.0 exited with status signalled 9",
        "uninstalled a:1.0.0",
        "shutting down",
    ]
    with Peer(tmp_path, notify) as peer:
        assert invoke(nstar, ["-u", peer.url, "notifications"], "nstar") == 0
    assert capfd.readouterr().out.splitlines() == lines
    (tmp_path / "console").unlink()
    with Peer(tmp_path, notify) as peer:
        assert invoke(nstar, ["-u", peer.url, "notifications", "-n", "2"], "nstar") == 0
    assert capfd.readouterr().out.splitlines() == lines[:2]


def test_the_text_of_a_memory_event() -> None:
    event = notification.CGroup(Container.parse("a:1.0.0"), notification.Memory(oom=1, oom_kill=0))
    assert describe(event) == "container a:1.0.0 met a memory limit: oom 1, oom_kill 0"


def test_notifications_end_with_the_connection(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Peer(tmp_path, lambda wire: wire.greet(subscribe=True, extended=False)) as peer:
        assert invoke(nstar, ["-u", peer.url, "notifications"], "nstar") == 1
    assert capfd.readouterr() == (
        "",
        "error: the runtime closed the connection\nhint: the runtime's log names the reason\n",
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m 0s"),
        (3599, "59m 59s"),
        (3600, "1h 0m"),
        (90_061, "1d 1h"),
        (864_000, "10d 0h"),
    ],
)
def test_uptime(seconds: float, text: str) -> None:
    assert listing.uptime(int(seconds * 10**9)) == text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(tmp_path: Path, capfd: pytest.CaptureFixture[str], shell: str) -> None:
    assert invoke(nstar, ["completion", "-s", shell], "nstar") == 0
    script = capfd.readouterr().out
    assert "_NSTAR_COMPLETE" in script
    out = tmp_path / "script"
    assert invoke(nstar, ["completion", "-s", shell, "-o", str(out)], "nstar") == 0
    assert out.read_text() == script


def test_containers_are_completed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete(url: str, words: str, position: int) -> list[str]:
        monkeypatch.setenv("NORTHSTAR_URL", url)
        monkeypatch.setenv("_NSTAR_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(position))
        assert invoke(nstar, [], "nstar") == 0
        return [line.removeprefix("plain,") for line in capfd.readouterr().out.split()]

    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("list", {"response": LIST[1]})

    with Peer(tmp_path, script) as peer:
        assert complete(peer.url, "nstar kill ", 2) == ["a:1.0.0", "b:1.0.0", "b:2.0.0"]
    assert complete("unix:///none", "nstar kill b", 2) == []
    assert complete("unix:///none", "nstar verify", 1) == ["verify-token"]


# On a terminal


@pytest.fixture
def terminal() -> Callable[..., tuple[int, str]]:
    """Run nstar as a program on its own terminal; return its exit code and output."""

    def run(*arguments: str, **environment: str) -> tuple[int, str]:
        local, remote = pty.openpty()
        fcntl.ioctl(remote, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        code = "from northstar.cli.nstar import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=remote,
            stdout=remote,
            stderr=remote,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", **environment},
        )
        os.close(remote)
        shown = b""
        # When the other side of a terminal is closed, reading fails with EIO.
        while True:
            try:
                shown += os.read(local, 4096)
            except OSError:
                break
        os.close(local)
        return process.wait(TIMEOUT), shown.decode()

    return run


def serve_list(wire: Wire) -> None:
    wire.greet()
    wire.answer("list", {"response": {"list": ["a:1.0.0"]}})
    request, answer = inspected("a:1.0.0", process=PROCESS)
    wire.answer(request, {"response": answer})


def test_a_table_on_a_terminal(tmp_path: Path, terminal: Callable[..., tuple[int, str]]) -> None:
    with Peer(tmp_path, serve_list) as peer:
        code, shown = terminal("-u", peer.url, "list")
    assert code == 0
    assert "\x1b[32m" in shown
    assert "Repository" in shown
    assert "\x1b[1m" in shown
    (tmp_path / "console").unlink()
    with Peer(tmp_path, serve_list) as peer:
        code, shown = terminal("-u", peer.url, "list", NO_COLOR="1")
    assert code == 0
    assert "4711" in shown
    assert "\x1b" not in shown


def test_a_progress_bar_on_a_terminal(
    tmp_path: Path, terminal: Callable[..., tuple[int, str]]
) -> None:
    package = tmp_path / "a[b].npk"
    package.write_bytes(bytes(2**20))

    def script(wire: Wire) -> None:
        wire.greet()
        wire.line()
        wire.read(2**20)
        wire.send({"response": {"install": OK}})

    with Peer(tmp_path, script) as peer:
        code, shown = terminal("-u", peer.url, "install", str(package), "r")
    assert code == 0
    assert "a[b].npk  [##############################]  1.0/1.0 MB" in shown
    # It is erased at the end.
    assert shown.endswith(f"\r\x1b[Kinstalled {package} into r\r\n")
    assert f"installed {package} into r" in shown


def test_the_program_exits_with_its_code_and_all_output(tmp_path: Path) -> None:
    names = [f"{number:04}" + 1000 * "x" for number in range(300)]

    def script(wire: Wire) -> None:
        wire.greet()
        wire.answer("repositories", {"response": {"repositories": names}})

    code = "from northstar.cli.nstar import main; main()"
    command = [sys.executable, "-c", code, "-u"]
    with Peer(tmp_path, script) as peer:
        done = subprocess.run([*command, peer.url, "repos"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, names, "")
    for url, arguments, expected in (
        ("unix:///none", ["repos"], 3),
        ("unix:///none", ["nonsense"], 2),
        ("unix:///none", ["--help"], 0),
    ):
        done = subprocess.run([*command, url, *arguments], capture_output=True, text=True)
        assert done.returncode == expected
        assert done.stdout or done.stderr


def test_the_commands_import_only_what_they_need(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from northstar.cli.common import run\n"
        "from northstar.cli.nstar_commands import nstar\n"
        "try: run(nstar)\n"
        "finally: print([m for m in sys.modules if m in "
        "('asyncio', 'curses', 'termios', 'unicodedata', 'yaml', 'nacl')])"
    )
    with Peer(tmp_path, serve_list) as peer:
        done = subprocess.run(
            [sys.executable, "-c", code, "-u", peer.url, "list"],
            capture_output=True,
            check=True,
            text=True,
        )
    assert done.stdout.splitlines()[-1] == "[]"


def test_protocol_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same JSON, with control characters escaped; in a file they are unchanged."""
    line = '{"response":{"repositories":["\u202eä\U000e0041"]}}\n'.encode()
    terminal, output = os.openpty()
    try:
        with open(output, "w") as stdout, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            write_line(line)
        shown = os.read(terminal, 4096)
    finally:
        os.close(terminal)
    assert b"\\u202e\xc3\xa4\\udb40\\udc41" in shown
    assert json.loads(shown) == json.loads(line)
    with tempfile.TemporaryFile("w+") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        write_line(line)
        file.seek(0)
        assert file.read().encode() == line
