"""Ctrl-C at any moment of a command, from its first import on: exit 130, and no traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

TIMEOUT = 60.0
RUNS = 14
STEP = 0.008
"""Number of runs, and how much later SIGINT comes in each, in seconds: together the time of a run.
"""

PROGRAM = """
import os, sys
from northstar.cli.entry import {0}
os.write({1}, b".")
os.close({1})
sys.argv[0] = "{0}"
{0}()
"""


def interrupted(
    command: str, arguments: list[str], delay: float, before: str = "", **options: str
) -> tuple[int, str]:
    """Run a command, send SIGINT `delay` seconds after it began; return exit code and stderr."""
    reading, writing = os.pipe()
    with open(reading, "rb") as begun:
        with open(writing, "wb"):
            process = subprocess.Popen(
                [sys.executable, "-c", before + PROGRAM.format(command, writing), *arguments],
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **options},
            )
        with process:
            assert begun.read() == b"."
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            err = process.communicate(timeout=TIMEOUT)[1]
    return process.returncode, err


@pytest.mark.parametrize(
    ("command", "arguments", "ends"),
    [
        # It waits for an answer: so every interrupt hits it.
        ("nstar", ["list"], None),
        ("sextant", ["check", "m.yaml"], 1),
        ("sextant", ["gen-key", "-n", "k", "-o", "no"], 1),
        ("northstar", ["-c", "no.toml"], 1),
        ("northstar", ["--config", "no.toml", "--log-level", "info"], 1),
    ],
)
def test_an_interrupt(
    command: str,
    arguments: list[str],
    ends: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text("name: a\n")
    codes = set()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        for run in range(RUNS):
            url = f"unix://{tmp_path}/console"
            code, err = interrupted(command, arguments, run * STEP, NORTHSTAR_URL=url)
            codes.add(code)
            assert code in (130, ends), (code, err)
            assert "Traceback" not in err, err
            assert "KeyboardInterrupt" not in err, err
            assert err == "" or code == ends, err
    assert 130 in codes


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """As a shell without job control does for commands in the background."""
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    url = f"unix://{tmp_path}/no"
    code, err = interrupted("nstar", ["list"], 0, ignored, NORTHSTAR_URL=url)
    assert (code, err.count("error:")) == (3, 1)
