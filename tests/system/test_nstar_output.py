"""nstar's JSON, statistics and `top`, against one real runtime."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self

import msgspec
import pyte
import pytest

from northstar.cli.json_output import OUTPUTS
from northstar.cli.tables import cells
from northstar.client.usage import statistics
from tests.system.containers import install
from tests.system.harness import TIMEOUT, RuntimeProcess, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]

NSTAR = (sys.executable, "-c", "from northstar.cli.nstar import main; main()")
LONG = "n" * 64


@pytest.fixture(scope="module")
def shared_output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    """A runtime with the permission for logs, shared by the tests of this file."""
    directory = tmp_path_factory.mktemp("runtime")
    runtime = RuntimeProcess(directory, permissions='["full", "logs"]')
    try:
        yield runtime.start()
        runtime.stop()
    finally:
        runtime.close()


@pytest.fixture
def runtime(shared_output: RuntimeProcess) -> Iterator[RuntimeProcess]:
    """The shared runtime, without containers before and after each test."""
    yield shared_output
    with shared_output.client() as client:
        for container in client.list():
            client.stop(container, 1)
            client.umount(container)
            client.uninstall(container, wipe=True)


def started(runtime: RuntimeProcess, payload: Path, name: str = "app", **fields: Any) -> str:
    container = install(runtime, payload, name, **{"args": "pause", **fields})
    with runtime.client() as client:
        client.start(container)
    return container


def value(command: str, text: str) -> Any:
    """Return printed JSON, of exactly the documented type."""
    found = json.loads(text)
    made = msgspec.to_builtins(msgspec.convert(found, OUTPUTS[command].type))
    assert json.loads(json.dumps(made)) == found
    return found


def test_real_json_output_has_the_documented_form(runtime: RuntimeProcess, payload: Path) -> None:
    started(runtime, payload)
    install(runtime, payload, "res", init=None)
    nstar = runtime.nstar

    def shown(command: str, *arguments: str) -> Any:
        return value(command, nstar(*arguments, "--format", "json").stdout)

    [app, res] = shown("list", "list")
    assert (app["container"], app["type"], app["state"]) == ("app:1.0.0", "app", "ready")
    assert (res["container"], res["type"], res["pid"]) == ("res:1.0.0", "resource", None)
    assert shown("repositories", "repositories") == [{"name": "mem"}]
    assert shown("ident", "ident") == {"container": "extern:0.0.0"}
    assert shown("inspect CONTAINER", "inspect", "app")["process"]["pid"] == app["pid"]
    [status, _] = shown("status", "status")
    assert (status["wanted"], status["state"], status["run"]) == ("up", "ready", 1)
    [used] = shown("stats", "stats", "-i", "100ms")
    assert used["memory_bytes"] > 0
    assert used["cpu_ns"] > 0
    assert 0 <= used["cpu_percent"] < 100 * (os.cpu_count() or 1) * 2
    assert (used["state"], used["restarts"]) == ("ready", 0)
    facts = nstar("inspect", "app", "--format", "table").stdout
    assert re.search(r"^PID +\d+$", facts, re.MULTILINE)
    assert re.search(r"^Memory +[\d.]+KiB", facts, re.MULTILINE)


@contextlib.contextmanager
def streaming(runtime: RuntimeProcess, *arguments: str) -> Iterator[IO[str]]:
    """Run nstar, and yield what it prints."""
    process = subprocess.Popen(
        [*NSTAR, "-u", runtime.url, *arguments, "--format", "json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def test_notifications_as_json(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args="pause")
    with streaming(runtime, "notifications", "-n", "3") as output, runtime.client() as client:

        def printed() -> bool:
            # When it has subscribed is not to be seen otherwise.
            client.start(container)
            client.kill(container, signal.SIGKILL)
            wait_until(lambda: client.inspect(container).process is None, "it has ended")
            return bool(select.select([output], [], [], 0.1)[0])

        wait_until(printed, "a notification is printed")
        printed()
        found = [value("notifications", line) for line in output]
    assert len(found) == 3
    [ended, *_] = [one for one in found if one["event"] == "exit"]
    assert ended["container"] == container
    assert ended["exit"] == {"code": None, "signal": 9, "signal_name": "SIGKILL"}
    assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}\.\d{3}Z", ended["time"])


def test_changes_of_states_as_json(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    with streaming(runtime, "status", "--watch") as output:
        assert value("status --watch", output.readline())["state"] == "ready"
        with runtime.client() as client:
            client.stop(container)
        assert value("status --watch", output.readline())["state"] == "stopping"


def test_statistics_again_and_again_as_json(runtime: RuntimeProcess, payload: Path) -> None:
    container = started(runtime, payload)
    with streaming(runtime, "stats", "--watch", "-i", "50ms") as output:
        for _ in range(3):
            [one] = value("stats --watch", output.readline())
            assert (one["container"], one["cpu_percent"] is None) == (container, False)


def test_statistics_agree_with_the_kernel(runtime: RuntimeProcess, payload: Path) -> None:
    """The typed statistics of a process that computes, on the cgroup version of this host."""
    limits = {"memory": {"memory_hard_limit": 64 << 20}, "pids": {"max": 20}}
    busy = started(runtime, payload, args="storm 1 1 1000000000 1000000000", cgroups=limits)
    with runtime.client() as client:
        client.stop(busy, 1)
        client.start(busy, "/payload", ["pause"])
        process = client.inspect(busy).process
        assert process is not None
        used = statistics(process.statistics)
    assert used.memory_limit_bytes == 64 << 20
    assert used.pids_limit == 20
    assert used.pids == 2  # init and the payload
    assert used.cpu_ns is not None
    assert 0 < used.cpu_ns < process.uptime_ns * (os.cpu_count() or 1)
    assert used.memory_bytes is not None
    assert 0 < used.memory_bytes <= 64 << 20
    assert used.oom_kills == 0


def test_stats(runtime: RuntimeProcess, payload: Path) -> None:
    started(runtime, payload)
    install(runtime, payload, "idle")
    shown = runtime.nstar("stats", "-i", "50ms").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["NAME", "app"]
    shown = runtime.nstar("stats", "-i", "50ms", "idle", "app").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["NAME", "idle", "app"]
    done = runtime.nstar("stats", "-i", "50ms", "app", "none:1.0.0", check=False)
    assert done.returncode == 1
    assert "none:1.0.0" in done.stderr
    assert "app" in done.stdout


# top


class Terminal:
    """nstar on a terminal of its own, which pyte emulates."""

    def __init__(
        self,
        runtime: RuntimeProcess,
        *arguments: str,
        rows: int = 24,
        columns: int = 80,
        shell: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        command = [*NSTAR, "-u", runtime.url, *arguments]
        if shell:
            # An interactive one: it has the terminal, and starts the command as a job of it.
            line = shlex.join(command)
            command = ["sh", "-i"]
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._local, remote = os.openpty()
        termios.tcsetwinsize(remote, (rows, columns))
        self.raw = b""
        self.settings = termios.tcgetattr(remote)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=remote,
            stdout=remote,
            stderr=remote,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", **environment},
        )
        if shell:
            self.press(f"{line}\n")
        # Kept open, so that its settings can be read after the end.
        self.remote = remote

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._local)
        os.close(self.remote)

    def lines(self) -> list[str]:
        """Return what is shown now."""
        while select.select([self._local], [], [], 0)[0]:
            data = os.read(self._local, 65536)
            self.raw += data
            self._stream.feed(data)
        return [line.rstrip() for line in self.screen.display]

    def wait(self, pattern: str) -> list[str]:
        """Wait until a line matches."""
        expression = re.compile(pattern)
        try:
            wait_until(lambda: any(map(expression.search, self.lines())), f"{pattern!r} is shown")
        except AssertionError:
            raise AssertionError(f"{pattern!r} is not shown:\n" + "\n".join(self.lines())) from None
        return self.lines()

    def press(self, keys: str) -> None:
        os.write(self._local, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        termios.tcsetwinsize(self._local, (rows, columns))

    def end(self) -> int:
        """Wait for the end; the terminal must be as it was before."""
        code = self.process.wait(TIMEOUT)
        self.lines()
        assert termios.tcgetattr(self.remote) == self.settings
        assert self.raw.count(b"\x1b[?1049h") == self.raw.count(b"\x1b[?1049l") == 1
        assert self.raw.rindex(b"\x1b[?25h") > self.raw.rindex(b"\x1b[?25l")
        return code


def test_top_shows_and_controls_apps(runtime: RuntimeProcess, payload: Path) -> None:
    started(runtime, payload, "app", args="say hello ; pause", service={"stop": {"timeout": "1s"}})
    started(runtime, payload, "other")
    with Terminal(runtime, "top", "-i", "100ms") as terminal:
        lines = terminal.wait(r"> app .* ready +\d+\.\d")
        assert re.match(r"2 of 2 apps run  CPU [\d.]+ %", lines[0])
        assert lines[1].split() == [
            *("NAME", "VERSION", "STATE", "CPU", "%", "MEMORY", "LIMIT", "PIDS", "RESTARTS"),
            "UPTIME",
        ]
        terminal.press("n")
        terminal.wait("by name")
        # Its log, and back.
        terminal.press("l")
        lines = terminal.wait("hello")
        assert lines[0] == "log of app:1.0.0"
        terminal.press("q")
        terminal.wait("2 of 2 apps run")
        # Another answer than y does nothing.
        terminal.press("\x1b[B")
        terminal.wait("> other")
        terminal.press("s")
        terminal.wait(r"stop other:1\.0\.0\? y: yes")
        terminal.press("nky")
        terminal.wait("sent SIGKILL to other:1.0.0")
        terminal.wait("1 of 2 apps run")
        terminal.press("ry")
        terminal.wait("restarted other:1.0.0")
        terminal.wait("2 of 2 apps run")
        terminal.press("sy")
        terminal.wait("stopped other:1.0.0")
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("colour", "rows", "columns"), [(True, 24, 80), (False, 24, 80), (True, 50, 200)]
)
def test_top_at_sizes_and_with_colours(
    runtime: RuntimeProcess, payload: Path, colour: bool, rows: int, columns: int
) -> None:
    started(runtime, payload, LONG)
    started(runtime, payload, "a")
    environment = {} if colour else {"NO_COLOR": "1"}
    with Terminal(runtime, "top", rows=rows, columns=columns, environment=environment) as terminal:
        lines = terminal.wait("2 of 2 apps run")
        assert any(LONG in line for line in lines) == (columns == 200)
        assert (re.search(rb"\x1b\[[\d;]*m", terminal.raw) is not None) == colour
        assert ("VERSION" in lines[1]) == (columns == 200)
        terminal.resize(10, 40)
        terminal.press("\x0c")
        terminal.wait(r"^[> ] n+\.\.\. ")
        wait_until(lambda: "q quit" in terminal.lines()[9], "the screen is drawn anew")
        assert all(cells(line) <= 40 for line in terminal.lines())
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, 128 + signal.SIGHUP),
        (signal.SIGINT, 128 + signal.SIGINT),
        ("\x03", 128 + signal.SIGINT),
    ],
)
def test_top_restores_the_terminal(runtime: RuntimeProcess, end: Any, code: int) -> None:
    with Terminal(runtime, "top") as terminal:
        terminal.wait("0 of 0 apps run")
        if isinstance(end, str):
            terminal.press(end)
        else:
            terminal.process.send_signal(end)
        assert terminal.end() == code


def test_top_is_suspended_and_continued(runtime: RuntimeProcess) -> None:
    with Terminal(runtime, "top", shell=True, columns=300) as terminal:
        terminal.wait("^0 of 0 apps run")
        terminal.press("\x1a")
        wait_until(lambda: terminal.lines() and b"1049l" in terminal.raw, "the screen is left")
        assert terminal.settings == termios.tcgetattr(terminal.remote)
        terminal.press("fg\n")
        wait_until(lambda: terminal.lines() and terminal.raw.count(b"1049h") == 2, "it is back")
        terminal.press("q")
        wait_until(lambda: terminal.lines() and terminal.raw.count(b"1049l") == 2, "it has ended")
        # The shell has the terminal again.
        terminal.press("echo code $?\n")
        terminal.wait("^code 0")


def test_top_when_the_connection_is_lost(make_runtime: Callable[..., RuntimeProcess]) -> None:
    runtime = make_runtime()
    with Terminal(runtime, "top", "-i", "50ms") as terminal:
        terminal.wait("0 of 0 apps run")
        assert runtime.process is not None
        # Not `stop`, which reaps all children of this process.
        runtime.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 1
        after = terminal.raw.rpartition(b"\x1b[?1049l")[2]
        assert b"error:" in after
        assert b"the runtime closed the connection" in after
    runtime.wait_exit()


def test_top_without_a_terminal(runtime: RuntimeProcess) -> None:
    done = runtime.nstar("top", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: top needs a terminal")
    with Terminal(runtime, "top", environment={"TERM": "dumb"}) as terminal:
        assert terminal.process.wait(TIMEOUT) == 2


def test_stats_on_a_terminal(runtime: RuntimeProcess, payload: Path) -> None:
    started(runtime, payload)
    with Terminal(runtime, "stats", "--watch", "-i", "50ms", columns=40, rows=10) as terminal:
        lines = terminal.wait(r"^app .*\d")
        assert lines[0].split() == ["NAME", "CPU", "%", "MEMORY", "PIDS", "RESTARTS"]
        wait_until(lambda: terminal.lines() and terminal.raw.count(b"\x1b[2A") > 2, "three tables")
        assert sum(line.startswith("NAME") for line in terminal.lines()) == 1
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(TIMEOUT) == 128 + signal.SIGINT
