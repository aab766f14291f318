"""A private machine for a page: its own processes, mounts, network, cgroups, /etc, /opt, /run.

So a page's real paths (/etc/northstar, /run/northstar/console) are used literally, and nothing of
it is left: the namespaces end with their first process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.system import host
from tests.system.harness import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
LIMIT = 60 * PATIENCE
"""Seconds for one command; a page has few that take longer than one."""
_SIZE = (40, 100)
"""Rows and columns of the terminals."""
_OWN = ("/etc", "/opt", "/srv", "/var/lib")
"""Directories that a page changes as it likes: overlays, whose upper directories are in memory."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LEAF = "page"
"""The cgroup of the shells, in version 2."""
_END = "\x1e"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SETUP = """
set -eu
mount --make-rprivate /
mount --bind {directory} {directory}
mount -t tmpfs guide {layers}
for directory in {own}; do
    mkdir -p {layers}$directory/upper {layers}$directory/work
    mount -t overlay guide $directory \\
        -o lowerdir=$directory,upperdir={layers}$directory/upper,workdir={layers}$directory/work
done
mount -t tmpfs guide /run
# An empty /tmp, with only the directory of this machine. systemd-analyze uses no other place.
mkdir -p {layers}/root/tmp {layers}/root{directory}
chmod 1777 {layers}/root/tmp
mount --bind {directory} {layers}/root{directory}
mount --rbind {layers}/root/tmp /tmp
for root in {roots}; do
    mount --bind $root/{name} $root
    if test -d $root/{leaf}; then echo 0 > $root/{leaf}/cgroup.procs; fi
done
{python} {enter} /bin/true
# As systemd does: a mount that is made later (ip netns add) reaches the runtime's namespace.
mount --make-rshared /
# A page that writes elsewhere fails here.
mount -o remount,bind,ro /
echo ready
# As process 1 of the namespace, a shell reaps what the commands of the page leave.
while sleep 3600; do :; done
"""


class Machine:
    """The namespaces. Terminals are shells in them, all starting in one fresh directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.name = f"northstar-guide-{uuid.uuid4().hex[:8]}"
        self.terminals: dict[str, Terminal] = {}
        self._files = 0

    def __enter__(self) -> Self:
        self.home.mkdir()
        self.home.with_name("tmp").mkdir()
        layers = self.directory / "layers"
        layers.mkdir()
        roots = [str(path) for path in host.cgroup_roots()]
        for root in map(Path, roots):
            self._make_cgroup(root)
        setup = _SETUP.format(
            layers=layers,
            directory=self.directory,
            own=" ".join(_OWN),
            roots=" ".join(roots),
            name=self.name,
            leaf=_LEAF,
            python=ROOT / ".venv/bin/python",
            enter=ROOT / "tests/system/enter.py",
        )
        (self.directory / "setup").write_text(setup)
        unshare = ["unshare", "-m", "-n", "-u", "-p", "-C", "--fork", "--kill-child"]
        command = f'{self._enter("")}; exec {" ".join(unshare)} --mount-proc bash "$0"'
        self.process = subprocess.Popen(
            ["sh", "-ec", command, str(self.directory / "setup")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line == "ready\n", line + self.process.stdout.read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in self.terminals.values():
            terminal.close()
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for path in sorted(host.cgroups(self.name), reverse=True):
            wait_until(functools.partial(_removed, path), f"cgroup {path} is empty", LIMIT)
        wait_until(
            lambda: not host.loops(os.getpid(), self.directory), "no loop devices left", LIMIT
        )

    @property
    def screen(self) -> list[Terminal]:
        """All terminals."""
        return list(self.terminals.values())

    @property
    def pid(self) -> int:
        """The first process of the namespaces."""
        [pid, *_] = host.descendants(self.process.pid)
        return pid

    def terminal(self, name: str) -> Terminal:
        """Return the terminal with this name; a new one if the page has none yet."""
        if name not in self.terminals:
            self.terminals[name] = Terminal(self)
            self.terminals[name].prepare()
        return self.terminals[name]

    def store(self, text: str) -> Path:
        """Write a text to a file outside of the directory of the page, and return its path."""
        self._files += 1
        path = self.directory / f"block-{self._files}"
        path.write_text(text)
        return path

    def entering(self, command: list[str]) -> list[str]:
        """Return the command that executes this one in the cgroups of the machine."""
        return ["sh", "-ec", f'{self._enter(_LEAF)}; exec "$@"', "sh", *command]

    def _make_cgroup(self, root: Path) -> None:
        top = root / self.name
        top.mkdir()
        if (root / "cgroup.controllers").exists():
            # Version 2: a cgroup with processes has no controllers below, so they get a leaf. What
            # the machine has, the host must pass on. The runtime does so too, for its own cgroup.
            (top / _LEAF).mkdir()
            for controller in (root / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (root / "cgroup.subtree_control").write_text(f"+{controller}")
        for file in ("cpuset.cpus", "cpuset.mems"):
            with contextlib.suppress(OSError):  # in version 1 a new one is empty
                (top / file).write_text((root / file).read_text())

    def _enter(self, leaf: str) -> str:
        """Return shell commands that move their process into the cgroups of the machine."""
        tops = [root / self.name for root in host.cgroup_roots()]
        places = [top / leaf if (top / leaf).is_dir() else top for top in tops]
        return "; ".join(["true", *(f"echo 0 > {place}/cgroup.procs" for place in places)])


class Terminal:
    """An interactive shell on a terminal of its own. It echoes nothing and has no prompt."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._master, slave = pty.openpty()
        settings = termios.tcgetattr(slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", *_SIZE, 0, 0))
        environment = {
            "PATH": f"{ROOT / '.venv/bin'}:{_PATH}",
            "HOME": str(machine.home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(machine.home.with_name("tmp")),
            "TERM": "dumb",
            "NO_COLOR": "1",
            "PS1": "",
            "PS2": "",
        }
        enter = ["nsenter", "-t", str(machine.pid), "-m", "-n", "-u", "-p", "-C", "-r"]
        shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
        self.process = subprocess.Popen(
            machine.entering([*enter, f"--wd={machine.home}", "setsid", "-c", *shell]),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""
        self._mark = 0

    def prepare(self) -> None:
        """Wait until the shell is there."""
        self._send("PS1= PS2= HISTFILE=")
        self._finish(self._ask())

    def run(self, path: Path) -> tuple[int, str]:
        """Execute a file of commands in the shell; return its exit code and its output."""
        self.start(path)
        return self.wait()

    def start(self, path: Path) -> None:
        """Execute a file of commands in the shell, without waiting for it."""
        self.text = ""
        # The commands after one that fails are not executed. `source` itself, which then fails, has
        # no file to return from.
        trap = "test ${#BASH_SOURCE[@]} = 0 || return"
        self._send(f"trap '{trap}' ERR; source {path}; {self._question()}")

    def wait(self) -> tuple[int, str]:
        """Wait for the end of the commands; return the exit code of the last, and the output."""
        return self._finish(self._mark)

    def wait_for(self, expected: str) -> bool:
        """Wait until the output begins with what this pattern matches, or the command ends.

        Returns:
            whether it has not ended.
        """
        end = re.compile(rf"{_END}{self._mark}:\d+{_END}\r\n")
        self._read_until(lambda: re.match(expected, self.output()) or end.search(self.text))
        return end.search(self.text) is None

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C, and wait for the end of the commands."""
        os.write(self._master, b"\x03")
        # The shell may drop the rest of its line, with the question in it.
        return self._finish(self._ask())

    def output(self) -> str:
        """Return what the terminal shows of the commands."""
        text = re.sub(rf"{_END}\d+:\d+{_END}\n", "", self.text.replace("\r\n", "\n"))
        if text and not text.endswith("\n"):
            text += "\n"  # the next prompt would be behind it
        lines = text.split("\n")
        return "\n".join(_ESCAPES.sub("", line).rpartition("\r")[2].rstrip() for line in lines)

    def close(self) -> None:
        """End the shell, with all that runs in its terminal."""
        os.close(self._master)
        self.process.kill()
        self.process.wait()

    def fileno(self) -> int:
        """The descriptor of its output."""
        return self._master

    def read(self) -> None:
        """Read the output that is there.

        Raises:
            EOFError: the last process of the terminal has ended.
        """
        try:
            self.text += os.read(self._master, 65536).decode(errors="replace")
        except OSError as error:  # EIO
            raise EOFError(f"the shell has ended:\n{self.output()}") from error

    def _send(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())

    def _question(self) -> str:
        self._mark += 1
        return f"printf '\\036%d:%d\\036\\n' {self._mark} $?"

    def _ask(self) -> int:
        self._send(self._question())
        return self._mark

    def _finish(self, mark: int) -> tuple[int, str]:
        answer = re.compile(rf"{_END}{mark}:(\d+){_END}\r\n")
        self._read_until(lambda: answer.search(self.text) is not None)
        first = re.search(rf"{_END}\d+:(\d+){_END}", self.text)
        assert first is not None
        return int(first[1]), self.output()

    def _read_until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + LIMIT
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no end within {LIMIT:.0f} s; until now:\n{self.output()}")
            # A screen shows all terminals: a program whose output nobody takes would wait.
            ready, _, _ = select.select(self._machine.screen, [], [], left)
            for terminal in ready:
                terminal.read()


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
