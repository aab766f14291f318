"""`nstar exec` and the clients, with programs in a real container."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from northstar import client as clients
from northstar.api import RefusedError
from northstar.client import DisconnectedError
from northstar.client.blocking_process import Process
from northstar.model import Exited, InvalidValueError, Signalled
from tests.system import host
from tests.system.containers import install
from tests.system.harness import TIMEOUT, RuntimeProcess, wait_until
from tests.system.services.senders import HOSTED, PYTHON, SHELL, install_script, run_once

pytestmark = pytest.mark.root

MOUNTS = {**HOSTED, "/proc": {"type": "proc"}, "/tmp": {"type": "tmpfs", "size": "8MB"}}
NSTAR = (sys.executable, "-c", "from northstar.cli.nstar import main; main()")


@pytest.fixture
def runtime(make_runtime: Callable[..., RuntimeProcess], payload: Path) -> RuntimeProcess:
    """A runtime that permits exec, with the started container `app`."""
    runtime = make_runtime(permissions='["full", "exec"]')
    start(runtime, payload)
    return runtime


def start(runtime: RuntimeProcess, payload: Path, name: str = "app", **fields: Any) -> None:
    install(runtime, payload, name, args="pause", mounts=MOUNTS, **fields)
    with runtime.client() as client:
        client.start(name)


class Nstar:
    """A running `nstar exec`."""

    def __init__(self, runtime: RuntimeProcess, *arguments: str, **options: Any) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(
            [*NSTAR, "exec", *arguments],
            env={**os.environ, "NORTHSTAR_URL": runtime.url, "TERM": "vt100"},
            **{**pipes, **options},
        )

    def finish(self, data: bytes | None = None) -> tuple[int, bytes, bytes]:
        out, err = self.process.communicate(data, timeout=TIMEOUT)
        return self.process.returncode, out, err

    def wait_for(self, text: bytes) -> None:
        """Read stdout until it contains a text."""
        assert self.process.stdout is not None
        seen = b""
        while text not in seen:
            more = self.process.stdout.read1(4096)  # type: ignore[attr-defined]
            assert more, f"it ended after {seen!r}"
            seen += more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def nstar(
    runtime: RuntimeProcess, *arguments: str, data: bytes | None = None
) -> tuple[int, bytes, bytes]:
    with Nstar(runtime, *arguments) as running:
        return running.finish(data)


def shell(
    runtime: RuntimeProcess, script: str, *options: str, data: bytes | None = None
) -> tuple[int, bytes, bytes]:
    return nstar(runtime, *options, "app", SHELL, "-c", script, data=data)


def sleepers(runtime: RuntimeProcess) -> list[int]:
    """Return the pids of the runtime's programs `sleep`."""
    return [
        pid
        for pid in host.descendants(runtime.pid)
        if host.command(pid).startswith(("sleep ", "/usr/bin/sleep "))
    ]


def test_output_is_unmixed_and_unchanged(runtime: RuntimeProcess) -> None:
    script = r"printf '\000\377\r\n'; printf 'bad\376' >&2; exit 3"
    assert shell(runtime, script) == (3, b"\0\xff\r\n", b"bad\xfe")


def test_environment_and_arguments(runtime: RuntimeProcess) -> None:
    script = 'printf "%s|" "$A" "$B" "$NORTHSTAR_CONTAINER" "$NORTHSTAR_CONSOLE" "$TERM" "$@"'
    _, out, _ = nstar(
        runtime, "-e", "A=1", "-e", "B=x=y", "app", SHELL, "-c", script, "sh", "-i", "--", "-t"
    )
    assert out == b"1|x=y|app:1.0.0|||-i|--|-t|"


def test_stdin_is_sent_with_i_only(runtime: RuntimeProcess) -> None:
    assert shell(runtime, "cat; echo end", data=b"lost") == (0, b"end\n", b"")
    assert shell(runtime, "cat; echo end", "-i", data=b"in\n") == (0, b"in\nend\n", b"")


def test_64_mebibytes_through_stdin_to_stdout(runtime: RuntimeProcess) -> None:
    through(runtime, 64)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_gibibyte_through_stdin_to_stdout(runtime: RuntimeProcess) -> None:
    through(runtime, 1024)


def through(runtime: RuntimeProcess, mebibytes: int) -> None:
    """Send random data through cat(1), at the console's rate of bytes (4 MiB/s of messages)."""
    block = os.urandom(2**20)
    with Nstar(runtime, "-i", "app", "/usr/bin/cat") as running, ThreadPoolExecutor() as pool:
        stdin, stdout = running.process.stdin, running.process.stdout
        assert stdin is not None
        assert stdout is not None

        def write() -> None:
            for number in range(mebibytes):
                stdin.write(number.to_bytes(4, "big") + block)
            stdin.close()

        writing = pool.submit(write)
        for number in range(mebibytes):
            assert stdout.read(4) == number.to_bytes(4, "big")
            assert stdout.read(len(block)) == block
        assert stdout.read() == b""
        writing.result()
        assert running.process.wait(TIMEOUT) == 0


def test_every_exit_code(runtime: RuntimeProcess) -> None:
    with runtime.client() as client:
        for code in range(256):
            assert client.run("app", [SHELL, "-c", f"exit {code}"]).status == Exited(code)
    for code in (0, 1, 2, 125, 126, 127, 128, 255):
        assert shell(runtime, f"exit {code}")[0] == code


def test_every_signal(runtime: RuntimeProcess) -> None:
    ignored = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    stopping = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    with runtime.client() as client:
        for number in range(1, 32):
            process = client.exec("app", ["/usr/bin/sleep", "1000"])
            wait_until(lambda: sleepers(runtime), "sleep runs")
            process.send_signal(number)
            if number in ignored | stopping:
                process.send_signal(signal.SIGKILL)
                assert process.wait() == Signalled(signal.SIGKILL)
            else:
                assert process.wait() == Signalled(number)
    assert shell(runtime, "kill -USR1 $$")[0] == 128 + signal.SIGUSR1
    assert shell(runtime, "kill -KILL $$")[0] == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_are_forwarded(runtime: RuntimeProcess, number: int) -> None:
    script = "trap 'echo caught; exit 9' INT TERM HUP QUIT; echo ready; while :; do sleep 0.1; done"
    with Nstar(runtime, "app", SHELL, "-c", script) as running:
        running.wait_for(b"ready\n")
        running.process.send_signal(number)
        code, out, _ = running.finish()  # some shells report the end of sleep(1) on stderr
        assert code == 9
        assert out.endswith(b"caught\n")


def test_the_third_signal_ends_the_connection(runtime: RuntimeProcess) -> None:
    script = "trap '' INT HUP; echo ready; while :; do sleep 1000; done"
    with Nstar(runtime, "app", SHELL, "-c", script) as running:
        running.wait_for(b"ready\n")
        for _ in range(200):
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
            if running.process.poll() is not None:
                break
        code, _, err = running.finish()
        assert code == 128 + signal.SIGINT
        assert b"did not end by 2 signals" in err
    wait_until(lambda: not sleepers(runtime), "the program is killed")


def test_a_closed_pipe_ends_it_quietly(runtime: RuntimeProcess) -> None:
    with Nstar(runtime, "app", SHELL, "-c", "while :; do echo y; sleep 0.01; done") as running:
        running.wait_for(b"y\n")
        assert running.process.stdout is not None
        running.process.stdout.close()
        assert running.process.wait(TIMEOUT) == 128 + signal.SIGPIPE
        assert running.process.stderr is not None
        assert running.process.stderr.read() == b""
    wait_until(lambda: not sleepers(runtime), "the program is ended")


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("flood", [False, True], ids=["idle", "input waits"])
def test_client_gone(
    make_runtime: Callable[..., RuntimeProcess], payload: Path, tcp: bool, flood: bool
) -> None:
    """nstar is killed: HUP comes, which the program ignores, and KILL after a second."""
    runtime = make_runtime(permissions='["full", "exec"]', tcp=tcp)
    if tcp:
        control = ["nsenter", f"--net=/proc/{runtime.pid}/ns/net", *NSTAR]
        for arguments in (("install", "PACKAGE", "mem"), ("start", "app")):
            words = [str(package_of(runtime, payload)) if w == "PACKAGE" else w for w in arguments]
            subprocess.run([*control, *words], check=True, capture_output=True, env=url(runtime))
    else:
        start(runtime, payload)
    script = "trap 'echo hup > /tmp/hup' HUP; echo ready; while :; do sleep 1000; done"
    command = [*NSTAR, "exec", "-i", "app", SHELL, "-c", script]
    enter = ["nsenter", f"--net=/proc/{runtime.pid}/ns/net"] if tcp else []
    with subprocess.Popen(
        [*enter, *command], env=url(runtime), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            wait_until(lambda: sleepers(runtime), "the program sleeps")
            if flood:
                os.set_blocking(process.stdin.fileno(), False)
                full = time.monotonic()
                while time.monotonic() < full + 0.5:
                    try:
                        os.write(process.stdin.fileno(), bytes(65536))
                        full = time.monotonic()
                    except BlockingIOError:
                        time.sleep(0.01)
        finally:
            began = time.monotonic()
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
    shells = [pid for pid in host.descendants(runtime.pid) if b"trap" in cmdline(pid)]
    wait_until(lambda: not any(map(alive, shells)), "the program is killed")
    assert shells == [] or time.monotonic() - began >= 0.9


def url(runtime: RuntimeProcess) -> dict[str, str]:
    return {**os.environ, "NORTHSTAR_URL": runtime.url}


def package_of(runtime: RuntimeProcess, payload: Path) -> Path:
    from tests.system.harness import manifest, pack

    text = manifest("app", args=["pause"], mounts=MOUNTS)
    return pack(runtime.directory, text, {"payload": payload})


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    return cmdline(pid) != b""


def test_client_that_does_not_read(runtime: RuntimeProcess) -> None:
    """It holds up its own process, and the container, the runtime and other clients continue."""
    with Nstar(runtime, "app", SHELL, "-c", "while :; do echo yyyyyyyyyyyyyyyy; done") as slow:
        slow.wait_for(b"yyy")
        [writer] = [pid for pid in host.descendants(runtime.pid) if b"yyyy" in cmdline(pid)]

        def written() -> int:
            fields = dict(
                line.split(": ") for line in Path(f"/proc/{writer}/io").read_text().splitlines()
            )
            return int(fields["wchar"])

        def held_up() -> bool:
            before = written()
            time.sleep(0.3)
            return written() == before

        wait_until(held_up, "the program is held up")
        held = written()
        assert held < 8 * 2**20
        assert shell(runtime, "echo others") == (0, b"others\n", b"")
        with runtime.client() as client:
            assert client.inspect("app").process is not None
        assert written() == held
        while written() == held:
            slow.wait_for(b"y" * 16)


def test_eight_at_once_and_the_ninth_is_refused(runtime: RuntimeProcess) -> None:
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(Nstar(runtime, "-i", "app", "/usr/bin/cat")) for _ in range(8)
        ]
        for one in running:
            assert one.process.stdin is not None
            one.process.stdin.write(b"x\n")
            one.process.stdin.flush()
            one.wait_for(b"x\n")
        code, _, err = shell(runtime, "true")
        assert (code, err) == (1, b"error: app:1.0.0 has 8 exec'ed processes already\n")
        for one in running:
            assert one.finish()[0] == 0
    assert shell(runtime, "true")[0] == 0


def test_the_end_of_the_container_ends_it(runtime: RuntimeProcess) -> None:
    with Nstar(runtime, "app", SHELL, "-c", "echo ready; sleep 1000") as running:
        running.wait_for(b"ready\n")
        runtime.nstar("kill", "app", "KILL")
        assert running.finish()[0] == 128 + signal.SIGKILL


def test_the_shutdown_ends_it(runtime: RuntimeProcess) -> None:
    with Nstar(runtime, "app", SHELL, "-c", "echo ready; sleep 1000") as running:
        running.wait_for(b"ready\n")
        assert runtime.process is not None
        runtime.process.send_signal(signal.SIGTERM)
        # Before `wait_exit`, which reaps all orphans.
        assert running.finish()[0] == 128 + signal.SIGKILL
    runtime.wait_exit()


def test_full_does_not_permit_it(
    make_runtime: Callable[..., RuntimeProcess], payload: Path
) -> None:
    runtime = make_runtime(permissions='"full"')
    start(runtime, payload)
    code, _, err = nstar(runtime, "app", "/payload")
    assert code == 1
    assert err.startswith(b"error: permission denied: this connection lacks the permission 'exec'")


def test_refusals(runtime: RuntimeProcess, payload: Path) -> None:
    missing = "cannot execute /bin/none in app:1.0.0: /bin/none: No such file or directory"
    code, out, err = nstar(runtime, "app", "/bin/none")
    assert (code, out) == (1, b"")
    assert err.startswith(f"error: {missing}\nhint: is the program in the package".encode())
    install(runtime, payload, "down", args="pause")
    assert nstar(runtime, "down", "/payload") == (
        1,
        b"",
        b"error: down:1.0.0 is not running\nhint: start it first (nstar start down)\n",
    )
    code, _, err = nstar(runtime, "other:1.0.0", "/payload")
    assert code == 1
    assert b"other:1.0.0" in err
    code, _, err = nstar(runtime, "-e", "NORTHSTAR_NAME=x", "app", "/payload")
    assert (code, err) == (
        1,
        (
            b"error: invalid arguments: the variable NORTHSTAR_NAME is reserved; "
            b"leave it out, the runtime sets it\n"
        ),
    )
    code, _, err = nstar(runtime, "app", "")
    assert code == 1
    assert b"the command is empty" in err
    code, _, err = nstar(runtime, "-e", "X", "app", "/payload")
    assert code == 2
    assert b"'X' is not NAME=VALUE" in err
    code, _, err = nstar(runtime, "-t", "app", "/payload")
    assert code == 2
    assert b"-t needs a terminal on stdin" in err
    assert nstar(runtime, "app")[0] == 2


def test_it_is_logged_who_executes_what(runtime: RuntimeProcess) -> None:
    shell(runtime, "exit 0 # it's", "-e", "SECRET=1234")
    line = runtime.wait_log(r"Remote\(unix://unnamed\) executes in app:1.0.0: (.*)")[1]
    assert line.startswith(f"{SHELL} -c ")
    assert "1234" not in runtime.text()


def test_nothing_is_left(runtime: RuntimeProcess) -> None:
    before = runtime.snapshot()
    for _ in range(3):
        assert shell(runtime, "cat", "-i", data=b"x" * 100_000)[0] == 0
        assert nstar(runtime, "app", "/bin/none")[0] == 1
        with Nstar(runtime, "app", "/usr/bin/sleep", "1000") as running:
            wait_until(lambda: sleepers(runtime), "it runs")
            running.process.kill()
        wait_until(lambda: not sleepers(runtime), "it is ended")
    runtime.assert_no_leak(before)


APP_EXECUTES = """
import json, os, socket
console = socket.socket(fileno=int(os.environ["NORTHSTAR_CONSOLE"])).makefile("rwb")
def ask(message):
    console.write(json.dumps(message).encode() + b"\\n")
    console.flush()
connect = {"version": "0.9.2", "subscribe_notifications": False, "extended": True}
ask({"connect": connect})
console.readline()
execute = {"container": "app:1.0.0", "command": ["/payload"], "environment": {}, "stdin": False}
ask({"request": {"exec": execute}})
while True:
    line = console.readline()
    if b"response" in line:
        print("answer", line.decode().strip(), flush=True)
        break
"""


@pytest.mark.parametrize("permitted", [False, True])
def test_an_app_needs_the_permission_in_its_service(
    runtime: RuntimeProcess, permitted: bool
) -> None:
    """`full` for its console does not suffice, in its own container neither."""
    service = {"permissions": ["exec"]} if permitted else {}
    name = install_script(
        runtime,
        APP_EXECUTES,
        *PYTHON,
        name="other",
        console={"permissions": "full"},
        service=service,
    )
    assert run_once(runtime, name) == Exited(0)
    answer = runtime.wait_log(r"DEBUG other:1\.0\.0: answer (.*)$")[1]
    assert ('"permission_denied"' in answer) is not permitted
    assert ('"exit"' in answer) is permitted
    if permitted:
        runtime.wait_log(r"Container\(other:1\.0\.0\) executes in app:1\.0\.0: /payload")


# Terminals.


class Terminal:
    """A terminal of this machine, with nstar on it."""

    def __init__(self, runtime: RuntimeProcess, *arguments: str, rows: int = 11) -> None:
        self.master, self._slave = pty.openpty()
        self.set_rows(rows)
        self.before = termios.tcgetattr(self._slave)
        self.nstar = Nstar(
            runtime,
            *arguments,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = b""

    def set_rows(self, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, 77, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + TIMEOUT
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096)
        self.seen = self.seen[self.seen.index(text) + len(text) :]

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._slave)[3] & termios.ICANON

    def finish(self) -> int:
        """Wait for the end of nstar; the mode of the terminal must be that of the beginning."""
        code = self.nstar.process.wait(TIMEOUT)
        assert termios.tcgetattr(self._slave) == self.before
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.nstar.__exit__()
        os.close(self._slave)
        os.close(self.master)


def interactive(runtime: RuntimeProcess) -> Iterator[Terminal]:
    with Terminal(runtime, "-it", "app", SHELL) as terminal:
        terminal.wait_for(b"$ ")
        yield terminal


@pytest.fixture
def terminal(runtime: RuntimeProcess) -> Iterator[Terminal]:
    """A shell on a terminal, which has printed its prompt."""
    yield from interactive(runtime)


def test_a_shell_on_a_terminal(terminal: Terminal) -> None:
    assert terminal.is_raw
    terminal.type(b"stty size; echo $TERM; tty\r")
    terminal.wait_for(b"\r\n11 77\r\nvt100\r\n")
    terminal.set_rows(22)
    terminal.type(b"stty size\r")
    terminal.wait_for(b"stty size\r\n")
    terminal.wait_for(b"22 77\r\n")
    terminal.type(b"exit 5\r")
    assert terminal.finish() == 5


def test_ctrl_c_reaches_the_program(terminal: Terminal) -> None:
    terminal.type(b"sleep 1000; echo status $?\r")
    terminal.wait_for(b"status $?\r\n")
    time.sleep(0.2)
    terminal.type(b"\x03")
    terminal.wait_for(b"^C")
    terminal.wait_for(b"$ ")
    terminal.type(b"\x04")
    assert terminal.finish() == 128 + signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_mode_is_restored_after_a_signal(terminal: Terminal, number: int) -> None:
    terminal.nstar.process.send_signal(number)
    assert terminal.finish() == 128 + number


def test_the_mode_is_restored_when_the_connection_is_lost(
    terminal: Terminal, runtime: RuntimeProcess
) -> None:
    assert runtime.process is not None
    runtime.process.kill()
    assert terminal.finish() == 1
    terminal.wait_for(b"the runtime closed the connection")


def test_a_terminal_without_stdin(runtime: RuntimeProcess) -> None:
    """Its mode is not changed: so Ctrl-C sends a signal, which is forwarded."""
    script = "stty size; echo ready; sleep 1000"
    with Terminal(runtime, "-t", "app", SHELL, "-c", script) as terminal:
        # Both terminals add a carriage return.
        terminal.wait_for(b"11 77\r\r\n")
        terminal.wait_for(b"ready\r\r\n")
        assert not terminal.is_raw
        terminal.type(b"\x03")
        assert terminal.finish() == 128 + signal.SIGINT


# The clients.


def test_the_blocking_client(runtime: RuntimeProcess) -> None:
    with runtime.client() as client:
        assert client.features >= {"exec"}
        done = client.run("app", [SHELL, "-c", "cat; echo e >&2; exit 3"], b"input", {"A": "b"})
        assert done == (Exited(3), b"input", b"e\n")
        with client.exec("app", ["/usr/bin/cat"]) as process:
            assert isinstance(process, Process)
            with pytest.raises(InvalidValueError, match="takes no other request"):
                client.list()
            with pytest.raises(InvalidValueError, match="takes no other request"):
                client.exec("app:1.0.0", ["/usr/bin/cat"])
            process.write(b"a")
            output = process.output()
            assert next(output) == ("stdout", b"a")
            process.close_stdin()
            assert list(output) == []
            assert process.wait() == Exited(0)
        assert client.list() != ()
        with pytest.raises(RefusedError, match="No such file"):
            client.run("app", ["/none"], b"x" * 100_000)
        assert client.run("app", ["/usr/bin/cat"], bytes(300_000)).stdout == bytes(300_000)
        # A process that ends while its input is being sent.
        assert client.run("app", ["/usr/bin/true"], bytes(3_000_000)).status == Exited(0)
        assert client.ident()
        process = client.exec("app", ["/usr/bin/sleep", "1000"], tty=(3, 4))
        process.close()
        with pytest.raises(DisconnectedError):
            client.ident()
    wait_until(lambda: not sleepers(runtime), "it is ended")


def test_the_asyncio_client(runtime: RuntimeProcess) -> None:
    async def test() -> None:
        async with await clients.Client.connect(runtime.url) as client:
            done = await client.run("app", [SHELL, "-c", "cat; echo e >&2; exit 3"], b"input")
            assert done == (Exited(3), b"input", b"e\n")
            async with await client.exec("app", ["/usr/bin/cat"], tty=(5, 6)) as process:
                with pytest.raises(InvalidValueError, match="takes no other request"):
                    await client.list()
                await process.write(b"a\n")
                seen = b""
                async for stream, data in process.output():
                    assert stream == "stdout"
                    seen += data
                    if seen == b"a\r\na\r\n":
                        process.close_stdin()
                assert await process.wait() == Exited(0)
            with pytest.raises(RefusedError, match="No such file"):
                await client.run("app", ["/none"], b"x" * 100_000)
            big = await client.run("app", ["/usr/bin/cat"], bytes(3_000_000))
            assert big.stdout == bytes(3_000_000)
            process = await client.exec("app", [SHELL, "-c", "yes | head -c 5000000; exit 4"])
            # It is not read; nothing is kept of it.
            assert await process.wait() == Exited(4)
            process = await client.exec("app", ["/usr/bin/sleep", "1000"])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await process.wait()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == Signalled(signal.SIGTERM)
            assert await client.ident()

    asyncio.run(test())
