"""Completion of the three commands in the real shells."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import TIMEOUT, manifest, pack

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
SOURCE = {
    "bash": "source <({0})",
    "zsh": "source <({0})",
    "fish": "{0} | source",
}
BEFORE = {
    "bash": "bind 'set bell-style none'",
    "zsh": "bindkey -e; setopt no_beep; autoload -U compinit; compinit -u -D",
    "fish": "true",
}

WORDS = [
    ("nstar start he", "hello:1.0.0"),
    ("nstar start two:", "two:1."),
    ("nstar start two:1.1", "two:1.1.0"),
    ("nstar kill hello:1.0.0 KI", "KILL"),
    ("nstar kill hello:1.0.0 SIGQ", "SIGQUIT"),
    ("nstar install package.npk rep", "repo-of-test"),
    ("sextant inspect pac", "package.npk"),
    ("sextant new app --capability CAP_NET_R", "CAP_NET_RAW"),
    ("sextant new app --permission noti", "notifications"),
    ("northstar --config conf", "config.toml"),
    ("northstar --log-level de", "debug"),
]
"""What is typed before the tabulator, and what its last word becomes."""


class Terminal:
    """A shell in a pseudo-terminal."""

    def __init__(self, command: list[str], directory: Path, environment: dict[str, str]) -> None:
        self.process, self.fd = pty.fork()
        if not self.process:
            with contextlib.suppress(BaseException):
                os.chdir(directory)
                os.execvpe(command[0], command, environment)
            os._exit(127)
        self.output = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self, pattern: str) -> re.Match[str]:
        """Wait until the output since the last call matches, and return the match."""
        deadline = time.monotonic() + TIMEOUT
        while (found := re.search(pattern, self.output)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.output!r}"
            if select.select([self.fd], [], [], left)[0]:
                data = os.read(self.fd, 65536).decode(errors="replace")
                # Fish asks the terminal what it is, and waits for the answer.
                if "\x1b[c" in data or "\x1b[0c" in data:
                    self.type("\x1b[?62;c")
                self.output += data
        self.output = self.output[found.end() :]
        return found

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(
    request: pytest.FixtureRequest, shared: Any, tmp_path: Path
) -> Iterator[tuple[str, Terminal]]:
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for name in ("package.npk", "public.pub", "config.toml"):
        (tmp_path / name).touch()
    environment = {
        "HOME": str(tmp_path),
        "TERM": "vt100",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "NORTHSTAR_URL": shared.url,
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
    }
    made = Terminal(SHELLS[shell], tmp_path, environment)
    try:
        yield shell, made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tests.system.harness import RuntimeProcess

    directory = tmp_path_factory.mktemp("runtime")
    runtime = RuntimeProcess(directory, repositories={"repo-of-test": 'type = "mem"'})
    try:
        runtime.start()
        with runtime.client() as client:
            for name, version in (("hello", "1.0.0"), ("two", "1.0.0"), ("two", "1.1.0")):
                client.install(pack(directory, manifest(name, version)), "repo-of-test")
        yield runtime
        runtime.stop()
    finally:
        runtime.close()


@pytest.mark.parametrize("terminal", SHELLS, indirect=True)
def test_words(terminal: tuple[str, Terminal]) -> None:
    shell, tty = terminal
    tty.type(f"{BEFORE[shell]}\r")
    scripts = ("nstar completion -s", "sextant completion -s", "northstar --completion")
    for script in scripts:
        tty.type(SOURCE[shell].format(f"{script} {shell}") + "\r")
    tty.type("printf '<%s>' sourced\r")
    tty.wait("<sourced>")
    for typed, expected in WORDS:
        # Ctrl-A: to the start of the line, which becomes the arguments of printf.
        tty.type(f"{typed}\t\x01printf '<%s>' \x05 end\r")
        words = typed.split()
        words[-1] = expected
        # A word that may go on has no space behind it: `end` would be a part of it.
        joined = "".join(f"<{re.escape(word)}>" for word in words)
        tty.wait(rf"{joined}<end>" if not expected.endswith(".") else rf"{joined[:-1]}")
