"""Logs of containers, from what they print to what clients read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import client as clients
from northstar.api.error import InvalidContainer, Unexpected
from northstar.api.log import Log, LogLine, LogLost, LogStream
from northstar.model import Container
from tests.system.containers import exit_of, install, raw, refused, run
from tests.system.harness import TIMEOUT, RuntimeProcess, wait_until
from tests.system.services.senders import HOSTED, PYTHON, SHELL, install_script

pytestmark = pytest.mark.root

APP = Container.parse("app:1.0.0")
PERMITTED = {"permissions": '["full", "logs"]'}
GONE = "of an earlier installation of app:1.0.0"


@pytest.fixture
def runtime(make_runtime: Callable[..., Any]) -> RuntimeProcess:
    """A runtime whose console permits `logs`."""
    found: RuntimeProcess = make_runtime(**PERMITTED)
    return found


def install_program(runtime: RuntimeProcess, script: str, **fields: Any) -> str:
    """Install an app that runs a script of the shell."""
    return install_script(runtime, script, SHELL, **{"service": {}, **fields})


def run_to_end(runtime: RuntimeProcess, container: str = "app:1.0.0", **start: Any) -> None:
    with runtime.client(subscribe=True) as client:
        client.start(container, **start)
        exit_of(client, container)


def logs(runtime: RuntimeProcess, container: str = "app", **options: Any) -> list[Log]:
    with runtime.client() as client:
        return list(client.logs(container, **options))


def texts(entries: list[Log]) -> list[str | int]:
    return [one.text if isinstance(one, LogLine) else one.lost for one in entries]


def restarting(runtime: RuntimeProcess, script: str) -> None:
    install_program(
        runtime,
        script,
        service={"restart": {"policy": "on-failure", "delay": "10ms", "max_delay": "10ms"}},
    )


def test_the_log_of_a_crashed_run(runtime: RuntimeProcess) -> None:
    install_program(
        runtime, "echo listening; echo 'no space' >&2; printf unfinished; kill -SEGV $$"
    )
    before = time.time_ns()
    run_to_end(runtime)
    entries = logs(runtime)
    lines = [one for one in entries if isinstance(one, LogLine)]
    assert len(lines) == len(entries) == 3
    assert {(one.text, one.stream) for one in lines} == {
        ("listening", LogStream.STDOUT),
        ("no space", LogStream.STDERR),
        ("unfinished", LogStream.STDOUT),
    }
    assert {one.run for one in lines} == {1}
    assert all(before - 10**9 < one.time < time.time_ns() + 10**9 for one in lines)
    shown = runtime.nstar("logs", "-n", "1", "app").stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z out  unfinished\n", shown)


def test_both_runs_are_shown_and_older_ones_are_gone(
    runtime: RuntimeProcess, payload: Path
) -> None:
    container = install(runtime, payload, args="say nothing")
    for text in ("one", "two"):
        run(runtime, container, f"say {text}")
    with runtime.client() as client:
        client.start(container, arguments=("say", "three", ";", "pause"))
        wait_until(lambda: len(texts(list(client.logs("app")))) == 2, "the present run")
        entries = list(client.logs("app"))
    assert texts(entries) == ["two", "three"]
    assert [one.run for one in entries] == [2, 3]
    shown = runtime.nstar("logs", "app").stdout.splitlines()
    assert [re.sub(r"^\S+Z ", "", line) for line in shown] == [
        "out  two",
        "... run 3 ...",
        "out  three",
    ]


def test_every_byte_value_and_sizes_of_lines(runtime: RuntimeProcess) -> None:
    """The sizes around the longest line, no newline at the end, and empty lines."""
    sizes = (0, 1, 4095, 4096, 4097)
    script = (
        "import os, sys\n"
        "data = bytes(range(256)).replace(b'\\n', b'') + b'\\n'\n"
        f"data += b''.join(b'x' * size + b'\\n' for size in {sizes})\n"
        "os.write(1, data + b'end')\n"
    )
    install_script(runtime, script, *PYTHON, service={})
    run_to_end(runtime)
    first = bytes(range(256)).replace(b"\n", b"").decode(errors="backslashreplace")
    wide = ["", "x", "x" * 4095, "x" * 4096, "x" * 4096, "x"]
    assert texts(logs(runtime)) == [first, *wide, "end"]
    shown = runtime.nstar("logs", "-n", "8", "app").stdout
    assert "\0" not in shown
    assert "\x1b" not in shown
    assert "\\x1b" in shown


def test_no_output_is_an_empty_log(runtime: RuntimeProcess) -> None:
    install_program(runtime, "exit 0")
    assert logs(runtime) == []
    run_to_end(runtime)
    assert logs(runtime) == []
    assert runtime.nstar("logs", "app").stdout == ""


def test_read_and_lost_are_what_was_written(runtime: RuntimeProcess) -> None:
    """More than the ring contains, read after the end, and by a client that follows.

    A record contains whole lines: its largest size is a multiple of theirs.
    """
    size = 128 * 40_000
    install_script(
        runtime,
        "import os, time\n"
        "print('begin', flush=True)\n"
        "while not os.path.exists('/data/go'): time.sleep(0.01)\n"
        f"for number in range({size} // 128): os.write(1 + number % 2, b'%0127d\\n' % number)\n",
        *PYTHON,
        service={},
        mounts={**HOSTED, "/data": {"type": "persist"}},
    )
    with runtime.client() as reader, runtime.client(subscribe=True) as client:
        client.start(APP)
        followed = reader.logs(APP, follow=True)
        assert texts([next(followed)]) == ["begin"]
        (runtime.data_dir / "app" / "go").touch()
        exit_of(client, "app:1.0.0")
        found = total = 0
        for entry in followed:
            if isinstance(entry, LogLine):
                found += 1
                total += 128
            else:
                total += entry.lost
            if total == size:
                break
        assert found
    [lost, *lines] = logs(runtime)
    assert isinstance(lost, LogLost)
    assert lost.lost + sum(len(one.text) + 1 for one in lines if isinstance(one, LogLine)) == (
        size + len("begin\n")
    )


def test_a_cursor_continues_over_a_restart(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args="say nothing")
    run(runtime, container, "say one ; say two ; say three")
    first = [one for one in logs(runtime) if isinstance(one, LogLine)]
    assert [one.text for one in first] == ["one", "two", "three"]
    run(runtime, container, "say four")
    # Nothing is kept of the first run: what is missing is counted.
    missing = {"one": 10, "two": 6, "three": 0}
    for line in first:
        expected = [missing[line.text]] if missing[line.text] else []
        assert texts(logs(runtime, cursor=line.cursor)) == [*expected, "four"]
    with runtime.client() as client:
        client.start(container, arguments=("say", "five", ";", "pause"))
        wait_until(lambda: texts(list(client.logs("app"))) == ["four", "five"], "both runs")
        [four, five] = client.logs("app")
        assert isinstance(four, LogLine)
        assert isinstance(five, LogLine)
        assert texts(list(client.logs("app", cursor=four.cursor))) == ["five"]
        assert texts(list(client.logs("app", cursor=five.cursor))) == []


def test_follow_over_restarts_until_the_package_is_removed(runtime: RuntimeProcess) -> None:
    restarting(runtime, "echo out; echo err >&2; exit 1")
    with runtime.client() as client, runtime.client() as other:
        other.start(APP)
        runs: dict[int, set[str]] = {}
        followed = client.logs(APP, follow=True)
        for entry in followed:
            assert isinstance(entry, LogLine), entry
            runs.setdefault(entry.run, set()).add(entry.text)
            if len(runs) == 5:
                break_at = entry.run
                break
        numbers = sorted(runs)
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        assert break_at == numbers[-1]
        assert all(runs[number] == {"out", "err"} for number in numbers[:-1])
        followed.close()  # type: ignore[attr-defined]
        with pytest.raises(clients.DisconnectedError, match="closed by this client"):
            client.ident()

    with runtime.client() as client, runtime.client() as other:
        followed = client.logs(APP, follow=True)
        next(followed)
        other.stop(APP)
        other.uninstall(APP)
        assert list(followed) is not None
        assert client.list() == ()


def test_follow_begins_before_the_first_run(runtime: RuntimeProcess) -> None:
    install_program(runtime, "echo first; echo second")

    async def test() -> None:
        reader = await clients.Client.connect(runtime.url)
        other = await clients.Client.connect(runtime.url)
        async with reader, other, contextlib.aclosing(reader.logs("app", follow=True)) as entries:
            waiting = asyncio.ensure_future(anext(entries))
            await asyncio.sleep(0)
            await other.start("app")
            assert texts([await waiting, await anext(entries)]) == ["first", "second"]

    asyncio.run(asyncio.wait_for(test(), TIMEOUT))


def test_follow_ends_with_the_runtime(runtime: RuntimeProcess) -> None:
    install_program(
        runtime, "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.1; done"
    )
    with runtime.client() as client, runtime.client() as other:
        other.start(APP)
        followed = client.logs(APP, follow=True)
        assert texts([next(followed)]) == ["hello"]
        # The shell reports the end of sleep too.
        other.shutdown()
        # The two streams have no common order.
        assert "bye" in texts(list(followed))
    runtime.wait_exit()


def test_wiped_and_reinstalled(runtime: RuntimeProcess) -> None:
    install_program(runtime, "echo old")
    run_to_end(runtime)
    [old] = logs(runtime)
    assert isinstance(old, LogLine)
    with runtime.client() as client:
        client.uninstall(APP, wipe=True)
        assert isinstance(refused(lambda: list(client.logs(APP))), InvalidContainer)
    install_program(runtime, "echo new")
    assert logs(runtime) == []
    run_to_end(runtime)
    assert texts(logs(runtime)) == ["new"]
    with runtime.client() as client:
        answer = refused(lambda: list(client.logs(APP, cursor=old.cursor)))
        assert isinstance(answer, Unexpected)
        assert GONE in str(answer)


def test_filters(runtime: RuntimeProcess) -> None:
    install_program(runtime, "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done; sleep 1000")
    with runtime.client() as client:
        client.start(APP)
        wait_until(lambda: len(list(client.logs(APP))) == 10, "all lines")

        def found(**options: Any) -> list[str | int]:
            return texts(list(client.logs(APP, **options)))

        assert sorted(found(lines=2, streams=[LogStream.STDOUT])) == ["o4", "o5"]
        assert found(streams=[LogStream.STDERR]) == [f"e{i}" for i in range(1, 6)]
        assert len(found(lines=3)) == 3
        assert found(lines=0) == []
        assert len(found(lines=100)) == 10
        assert len(found(since=3600)) == 10
        last = list(client.logs(APP))[-1]
        assert isinstance(last, LogLine)
        wait_until(lambda: not found(since=0.05), "all lines are older than 50 ms")


def test_what_has_no_log(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, "quiet", io={"stdout": "discard", "stderr": "discard"})
    install(runtime, payload, "files", init=None)
    with runtime.client() as client:
        answers = {
            name: refused(lambda name=name: list(client.logs(name)))  # type: ignore[misc]
            for name in ("quiet:1.0.0", "files:1.0.0", "none:1.0.0")
        }
    assert "discards stdout and stderr" in str(answers["quiet:1.0.0"])
    assert "is a resource" in str(answers["files:1.0.0"])
    assert isinstance(answers["none:1.0.0"], InvalidContainer)
    done = runtime.nstar("logs", "quiet", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "quiet:1.0.0 has no log" in done.stderr


def test_an_invalid_cursor_is_refused(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload)
    with runtime.client() as client:
        answer = refused(lambda: list(client.logs("app", cursor="tomorrow")))
        assert "'tomorrow' is not a cursor" in str(answer)
        answer = refused(lambda: list(client.logs("app", cursor="1-0")))
        assert GONE in str(answer)
        assert [str(one) for one in client.list()] == ["app:1.0.0"]


def test_the_permission(make_runtime: Callable[..., Any], payload: Path) -> None:
    """`full` does not contain it."""
    runtime = make_runtime()
    install(runtime, payload)
    with runtime.client() as client, pytest.raises(clients.PermissionDeniedError, match="logs"):
        list(client.logs("app"))


def test_a_container_reads_the_log_of_another(runtime: RuntimeProcess, payload: Path) -> None:
    """By its own console; without the permission in `service` it is denied."""
    container = install(runtime, payload, "app", args="say hello")
    run(runtime, container)
    lines = [
        {"connect": {"version": "0.9.2", "subscribe_notifications": False, "extended": True}},
        {
            "request": {
                "logs": {
                    "container": "app:1.0.0",
                    "follow": False,
                    "since": None,
                    "lines": None,
                    "cursor": None,
                    "streams": ["stdout", "stderr"],
                }
            }
        },
    ]
    words = [word for line in lines for word in ("console", json.dumps(line), ";")][:-1]
    console = {"permissions": ["ident"]}
    for name, service in (("reader", {"permissions": ["logs"]}), ("stranger", {})):
        install(runtime, payload, name, args=words, console=console, service=service)
    answers = [
        json.loads(run(runtime, f"{name}:1.0.0", words)[1]["text"])
        for name in ("reader", "stranger")
    ]
    assert answers[0]["log"]["text"] == "hello"
    assert "permission_denied" in answers[1]["response"]


def test_a_client_that_reads_nothing(runtime: RuntimeProcess, payload: Path) -> None:
    """It gets what is left, and a count; the runtime keeps no more for it, and serves others."""
    install(runtime, payload, args="flood 0")
    request = {
        "logs": {
            "container": "app:1.0.0",
            "follow": True,
            "since": None,
            "lines": None,
            "cursor": None,
            "streams": ["stdout", "stderr"],
        }
    }
    connect = {"version": "0.9.2", "subscribe_notifications": False, "extended": True}
    with runtime.client() as other, raw(runtime) as stream, stream.makefile("rwb") as lines:
        other.start("app")
        lines.write(json.dumps({"connect": connect}).encode() + b"\n")
        lines.write(json.dumps({"request": request}).encode() + b"\n")
        lines.flush()
        assert "connect_ack" in json.loads(lines.readline())
        assert "log" in json.loads(lines.readline())
        written = total_written(runtime)
        before = resident(runtime.pid)
        # A hundred times what the ring contains.
        wait_until(lambda: total_written(runtime) > written + 25 * 2**20, "much output", 40)
        assert resident(runtime.pid) < before + 4 * 2**20
        assert len(other.list()) == 1
        # There may be small gaps before, from when it was still served.
        while json.loads(lines.readline())["log"].get("lost", 0) < 20 * 2**20:
            continue
        other.stop("app")


def total_written(runtime: RuntimeProcess) -> int:
    """Return the position in the log: the second number of a cursor."""
    with runtime.client() as client:
        for entry in client.logs("app", lines=1):
            if isinstance(entry, LogLine):
                return int(entry.cursor.split("-")[1], 16)
    return 0


def resident(pid: int) -> int:
    """Return the memory of a process, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_kept_bytes_are_limited(make_runtime: Callable[..., Any], payload: Path) -> None:
    """Who ended first goes first; of a run that is too long the end is kept."""
    runtime = make_runtime(**PERMITTED, tables='[logs]\nkept = "8KiB"\n')
    for name in ("one", "two", "three"):
        container = install(runtime, payload, name, args="flood 3000")
        run(runtime, container)
    assert logs(runtime, "one") == []
    assert len(logs(runtime, "two")) == len(logs(runtime, "three")) == 31
    long = install(runtime, payload, "long", args="flood 100000")
    run(runtime, long)
    assert logs(runtime, "three") == []
    [lost, *lines, last] = logs(runtime, "long")
    assert isinstance(lost, LogLost)
    assert isinstance(last, LogLine)
    assert '"flood"' in last.text
    read = sum(len(one.text) + 1 for one in lines if isinstance(one, LogLine))
    assert 7500 < read < 8192
    assert lost.lost + read == 100_000


# nstar


def nstar_command(runtime: RuntimeProcess, *arguments: str) -> list[str]:
    program = "from northstar.cli.nstar import main; main()"
    return runtime.enter(sys.executable, "-c", program, "--url", runtime.url, *arguments)


def test_several_containers_are_sorted_by_time(runtime: RuntimeProcess, payload: Path) -> None:
    for name in ("one", "two-two"):
        install(runtime, payload, name, args="say nothing")
    for name, text in (("one", "a"), ("two-two", "b"), ("one", "c"), ("two-two", "d")):
        run(runtime, f"{name}:1.0.0", f"say {text}")
    shown = runtime.nstar("logs", "one", "two-two").stdout.splitlines()
    assert [re.sub(r"^\S+Z ", "", line) for line in shown] == [
        "one:1.0.0     out  c",
        "two-two:1.0.0 out  d",
    ]


@pytest.mark.parametrize("names", [("app",), ("app", "other")])
def test_nstar_follows_until_it_is_interrupted(
    runtime: RuntimeProcess, payload: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        install(runtime, payload, name, args="say hello ; pause")
    with runtime.client() as client:
        client.start(names[0])
        command = nstar_command(runtime, "logs", "-f", *names)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().endswith("out  hello\n")
            if len(names) > 1:
                client.start(names[1])
                assert "other:1.0.0 out  hello\n" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130


def test_a_closed_pipe_ends_nstar_quietly(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args="flood 200000")
    run(runtime, container)
    command = nstar_command(runtime, "logs", "app")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("20")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(TIMEOUT) == 128 + signal.SIGPIPE
