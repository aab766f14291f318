"""The command lines of nstar that are run without click, and those that are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from northstar.cli import nstar_plain
from northstar.cli.common import invoke
from northstar.cli.nstar_commands import nstar
from tests.unit.client.peer import Peer, Wire


@pytest.mark.parametrize("name", nstar_plain.COMMANDS)
def test_recognized(name: str) -> None:
    for options in ([], ["-u", "unix:///x"], ["--url", "tcp://localhost:1"]):
        assert nstar_plain.recognize("nstar", [*options, name]) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["mount"],
        ["mount", "a:1.0.0"],
        ["ident", "--help"],
        ["ident", "x"],
        ["-u", "ident"],
        ["-u", "nonsense", "ident"],
        ["-u", "", "ident"],
        ["-j", "ident"],
        ["-j", "x", "ident"],
        ["--url=unix:///x", "ident"],
        ["-u", "unix:///x", "-u", "unix:///y", "ident"],
    ],
    ids=" ".join,
)
def test_not_recognized(arguments: list[str]) -> None:
    assert nstar_plain.recognize("nstar", arguments) is None


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORTHSTAR_URL", "nonsense")
    assert nstar_plain.recognize("nstar", ["ident"]) is None
    assert nstar_plain.recognize("nstar", ["-u", "unix:///x", "ident"]) is not None
    monkeypatch.setenv("NORTHSTAR_URL", "")
    assert nstar_plain.recognize("nstar", ["ident"]) is not None
    monkeypatch.setenv("_NORTHSTAR_NSTAR_COMPLETE", "bash_complete")
    assert nstar_plain.recognize("nstar", ["ident"]) is not None
    assert nstar_plain.recognize("northstar-nstar", ["ident"]) is None


def test_all_plain_commands_are_commands_of_click() -> None:
    context: Any = None
    for name in nstar_plain.COMMANDS:
        command = nstar.get_command(context, name)
        assert command is not None
        assert {option.name for option in command.params} <= {"as_json"}


def serve_ident(wire: Wire) -> None:
    wire.greet(False)
    wire.answer("ident", {"response": {"ident": "extern:0.0.0"}})
    wire.expect_end()


def run(*arguments: str) -> tuple[int, str, str, bool]:
    code = (
        "import os, sys\nfrom northstar.cli import nstar\nsys.argv[0] = 'nstar'\n"
        "end = os._exit\n"
        "os._exit = lambda code: (print('click' in sys.modules, flush=True), end(code))\n"
        "nstar.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    *lines, click = done.stdout.splitlines()
    return done.returncode, "\n".join(lines), done.stderr, click == "True"


def test_both_ways_print_the_same(tmp_path: Path) -> None:
    with Peer(tmp_path, serve_ident) as peer:
        assert run("--url", peer.url, "ident") == (0, "extern:0.0.0", "", False)
    missing = f"unix://{tmp_path}/missing"
    plain, clicked = run("-u", missing, "ident"), run(f"-u{missing}", "ident")
    assert plain[:3] == clicked[:3]
    assert (plain[0], plain[3], clicked[3]) == (3, False, True)
    assert run("-u", "nonsense", "ident")[0] == 2
    assert invoke(nstar, ["-u", missing, "ident"], "nstar") == 3
