"""How commands end: exit codes and error messages without tracebacks."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import click
import pytest

from northstar.cli.common import CommandError, invoke, warn
from northstar.model import InternalError, PackageError


def raising(error: BaseException) -> click.Command:
    def function(**_: object) -> None:
        raise error

    return click.Command("try", callback=function, params=[click.Option(["--count"], type=int)])


def result(value: object, *arguments: str) -> int:
    try_ = click.Command("try", callback=lambda **_: value, params=[click.Option(["--count"])])
    return invoke(try_, arguments, "try")


def test_success_and_other_exit_codes():
    assert result(None) == 0
    assert result("text") == 0
    assert result(3) == 3


def test_usage(capsys: pytest.CaptureFixture[str]):
    assert result(None, "--nonsense") == 2
    assert "Try 'try --help'" in capsys.readouterr().err
    assert result(None, "--help") == 0
    assert "Usage: try" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (PackageError("no good"), 1, "error: no good\n"),
        (PackageError("no good", hint="do it"), 1, "error: no good\nhint: do it\n"),
        (CommandError("cannot connect", exit_code=3), 3, "error: cannot connect\n"),
        (
            FileNotFoundError(2, "Not there", "/x"),
            1,
            "error: /x: Not there\nhint: check the path\n",
        ),
        (OSError(18, "Other device", "/x", None, "/y"), 1, "error: /x -> /y: Other device\n"),
        (OSError(5, "I/O error", b"/\xff"), 1, "error: /\\udcff: I/O error\n"),
        (OSError("without a number"), 1, "error: without a number\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, "error: Broken pipe\n"),
        (PackageError("\x1b[31mred\x07"), 1, "error: \\x1b[31mred\\x07\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (click.exceptions.Exit(7), 7, ""),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str):
    assert invoke(raising(error), [], "try") == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == text


@pytest.mark.parametrize("error", [TypeError("oops"), InternalError("oops")])
def test_internal_errors(capsys: pytest.CaptureFixture[str], error: Exception):
    assert invoke(raising(error), [], "try") == 1
    text = capsys.readouterr().err
    assert text.startswith("error: this is a bug in northstar")
    assert "oops" in text
    assert "NORTHSTAR_DEBUG=1" in text
    assert "Traceback" not in text


def test_tracebacks_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NORTHSTAR_DEBUG", "1")
    assert invoke(raising(TypeError("oops")), [], "try") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_file_name_cannot_add_lines(capsys: pytest.CaptureFixture[str]):
    name = "a\nhint: run this\u202e\x1b[2J"
    assert invoke(raising(FileNotFoundError(2, "No such file", name)), [], "try") == 1
    text = capsys.readouterr().err
    assert text == "error: a\\nhint: run this\\u202e\\x1b[2J: No such file\nhint: check the path\n"


def test_warning(capsys: pytest.CaptureFixture[str]):
    warn("take care")
    assert capsys.readouterr().err == "warning: take care\n"


PROGRAM = """
import sys, os, signal, click
from northstar.cli.common import run, warn
from northstar.model import PackageError
@click.command()
@click.argument("what")
def program(what):
    if what == "lines":
        while True: print("x" * 1000)
    if what == "name":
        print(os.fsdecode(b"\\xff"))
    if what == "warn":
        warn("careful")
    if what == "wait":
        print("ready", flush=True)
        signal.pause()
run(program)
"""


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", PROGRAM, *arguments], text=True, **options
    )


def test_closed_pipe_is_quiet():
    with start("lines", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()  # type: ignore[union-attr]
        process.stdout.close()  # type: ignore[union-attr]
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_full_disk_is_reported():
    with open("/dev/full", "w") as full:
        process = start("name", stdout=full, stderr=subprocess.PIPE)
        assert process.communicate(timeout=20)[1] == (
            "error: No space left on device\nhint: make room on the file system of the output\n"
        )
    assert process.returncode == 1


def test_file_names_of_any_bytes():
    process = start("name", stdout=subprocess.PIPE)
    assert process.communicate(timeout=20)[0] == "\\udcff\n"
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(number: signal.Signals):
    with start("wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 128 + number


def test_ignored_hangup_stays_ignored():
    """As with nohup(1)."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with start("wait", stdout=subprocess.PIPE, preexec_fn=ignore) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_colours(environment: dict[str, str], *, coloured: bool):
    main, terminal = pty.openpty()
    try:
        base = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        start("warn", stderr=terminal, env={**base, **environment}).wait(20)
        text = os.read(main, 1000).decode()
    finally:
        os.close(main)
        os.close(terminal)
    assert ("\x1b[" in text) == coloured
    assert "warning:" in text


def test_completion():
    environment = {**os.environ, "_PROGRAM_COMPLETE": "bash_source"}
    code = PROGRAM.replace("run(program)", "sys.argv[0] = 'program'; run(program)")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "_program_completion" in done.stdout
