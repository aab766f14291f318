"""The commands of `nstar` and the clients for supervision, with a real runtime."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import client as clients
from northstar.api import ContainerState, Wanted, error, notification, response
from northstar.client import NotReachedError, Stopped, WaitTimeoutError
from northstar.model import Container, Exited, Signalled
from tests.system.containers import install, raw, refused
from tests.system.harness import TIMEOUT, RuntimeProcess, wait_until

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

APP = Container.parse("app:1.0.0")
SLOW_RESTART = {"restart": {"policy": "on-failure", "delay": "1h", "max_delay": "1h"}}
NEVER_READY = {"notify": "/run/notify", "ready": {"probe": "notify", "timeout": "1h"}}


def columns(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in text.splitlines()]


def test_status_restart_and_stop(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, args="pause", service={})
    nstar = runtime.nstar
    header, line = columns(nstar("status").stdout)
    assert header == ["NAME", "VERSION", "WANTED", "STATE", "SINCE", "RESTARTS", "REASON"]
    assert line[:4] == ["app", "1.0.0", "down", "installed"]
    assert nstar("start", "--wait", "app").stdout == "started app:1.0.0\n"
    assert columns(nstar("status", "app").stdout)[1][2:4] == ["up", "ready"]
    with runtime.client() as client:
        process = client.inspect("app").process
        assert process is not None
        assert nstar("restart", "app").stdout == "restarted app:1.0.0\n"
        again = client.inspect("app").process
        assert again is not None
        assert again.pid != process.pid
    for _ in range(2):
        assert nstar("stop", "app").stdout == "stopped app:1.0.0\n"
    assert columns(nstar("status", "app").stdout)[1][2:4] == ["down", "installed"]


@pytest.mark.parametrize(("timeout", "seconds"), [("100ms", "0.1"), ("0s", "0.001")])
def test_stop_with_a_timeout_kills(
    runtime: RuntimeProcess, payload: Path, timeout: str, seconds: str
) -> None:
    install(runtime, payload, args="ignore TERM ; pause", service={})
    runtime.nstar("start", "app")
    wait_until(lambda: ignores_term(runtime), "the payload ignores SIGTERM")
    shown = runtime.nstar("stop", "--timeout", timeout, "app").stdout
    assert shown == (
        f"stopped app:1.0.0, by SIGKILL: it did not end within {seconds} s of its stop signal\n"
    )


def ignores_term(runtime: RuntimeProcess) -> bool:
    with runtime.client() as client:
        process = client.inspect("app").process
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if not children:
        return False
    status = Path(f"/proc/{children[0]}/status").read_text()
    ignored = int(re.search(r"^SigIgn:\s*(\w+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    return bool(ignored & 1 << signal.SIGTERM - 1)


def test_a_container_in_backoff(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, args="exit 3", service=SLOW_RESTART)
    with runtime.client(subscribe=True) as client:
        client.start("app")
        assert client.wait("app", TIMEOUT) == Exited(3)
        wait_until(lambda: state(client) is ContainerState.BACKOFF, "the container is in backoff")
    _, line = columns(runtime.nstar("status", "app").stdout)
    assert line[2:4] == ["up", "backoff"]
    assert re.fullmatch(r"exit 3 \(next start in (59m \d+s|1h 0m)\)", line[6])
    header, line = columns(runtime.nstar("list").stdout)
    assert header[7:] == ["State", "Last exit"]
    assert line[7] == "backoff"
    assert re.fullmatch(r"exit 3, [\d.]+s ago", line[8])
    done = runtime.nstar("wait", "app", check=False)
    assert (done.returncode, done.stdout) == (3, "app:1.0.0 exited with code 3\n")
    done = runtime.nstar("wait", "--for", "ready", "--timeout", "50ms", "app", check=False)
    assert done.returncode == 124
    assert done.stderr.startswith("error: app:1.0.0 is not ready within 0.05 s: its state is back")
    assert runtime.nstar("stop", "app").stdout == "stopped app:1.0.0\n"
    done = runtime.nstar("wait", "--for", "ready", "app", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: app:1.0.0 is not ready: its state is installed")


def state(client: Any) -> ContainerState:
    [result] = client.status("app")
    assert isinstance(result, response.StatusOk)
    return result.status.state


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        ("exit 7", 7, "exited with code 7"),
        ("pause", 128 + 9, "was killed by SIGKILL"),
    ],
)
def test_the_exit_code_of_wait(
    runtime: RuntimeProcess, payload: Path, args: str, code: int, text: str
) -> None:
    install(runtime, payload, args=args)
    done = runtime.nstar("wait", "app", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "error: app:1.0.0 is not running\nhint: start it first (nstar start app)\n",
    )
    runtime.nstar("start", "app")
    if args == "pause":
        assert runtime.nstar("wait", "--for", "started", "app").stdout == "app:1.0.0 is started\n"
        done = runtime.nstar("wait", "--timeout", "50ms", "app", check=False)
        assert done.returncode == 124
        runtime.nstar("kill", "app", "KILL")
    done = runtime.nstar("wait", "app", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, f"app:1.0.0 {text}\n", "")


def test_start_that_waits_for_a_run_that_ends(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, args="exit 4", service=NEVER_READY)
    done = runtime.nstar("start", "--wait", "app", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: app:1.0.0 is not ready: its state is failed (exit 4)")


def test_changes_in_a_pipe(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, args="pause", service={})
    code = "from northstar.cli.nstar import main; main()"
    command = [sys.executable, "-c", code, "-u", runtime.url, "status", "--watch", "app"]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    assert watch.stdout.readline() == "app:1.0.0: wanted down, installed\n"
    runtime.nstar("start", "app")
    seen: list[str] = []
    while not seen or not seen[-1].endswith("ready\n"):
        seen.append(watch.stdout.readline())
    assert seen[0] == "app:1.0.0: wanted up, starting\n"
    assert seen[-1] == "app:1.0.0: wanted up, ready\n"
    watch.send_signal(signal.SIGINT)
    out, err = watch.communicate(timeout=TIMEOUT)
    assert (watch.returncode, out, err) == (128 + signal.SIGINT, "", "")


def test_the_states_of_a_run(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, args="pause", service={})
    with runtime.client(subscribe=True) as client:
        assert client.features >= {"service"}
        client.start("app", wait=True)
        assert client.wait_started("app", TIMEOUT).state is ContainerState.READY
        assert client.stop("app") == Stopped(False, Signalled(signal.SIGTERM))
        client.ident()
        states: list[Any] = []
        for message in client.notifications(timeout=TIMEOUT):
            assert message.container == APP  # type: ignore[union-attr]
            if isinstance(message, notification.State):
                states.append((message.status.wanted.value, message.status.state.value))
            else:
                states.append(type(message).__name__.lower())
            if states[-1] == ("down", "installed"):
                break
    assert [one for one in states if one != ("up", "running")] == [
        ("up", "starting"),
        "started",
        ("up", "ready"),
        ("down", "stopping"),
        "exit",
        ("down", "installed"),
    ]


def test_the_asyncio_client(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, args="pause", service=NEVER_READY)

    async def test() -> None:
        async with await clients.Client.connect(runtime.url, subscribe=True) as client:
            await client.start("app")
            with pytest.raises(WaitTimeoutError):
                await client.wait_ready("app", 0.05)
            waiting = asyncio.create_task(client.wait_ready("app", TIMEOUT))
            await asyncio.sleep(0)
            assert await client.restart("app") == APP
            await client.stop("app", 5)
            with pytest.raises(NotReachedError):
                await waiting
            [result] = await client.status("app")
            assert isinstance(result, response.StatusOk)
            assert (result.status.wanted, result.status.run) == (Wanted.DOWN, 2)

    asyncio.run(test())


def test_refusals(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, "res", init=None)
    missing, resource = Container.parse("no:1.0.0"), Container.parse("res:1.0.0")
    with runtime.client() as client:
        assert refused(lambda: client.stop(missing)) == error.InvalidContainer(missing)
        assert refused(lambda: client.restart(missing)) == error.InvalidContainer(missing)
        assert refused(lambda: client.restart(resource)) == error.StartContainerResource(resource)
        assert client.status(missing, resource)[0] == response.Failed(
            missing, error.InvalidContainer(missing)
        )
    done = runtime.nstar("status", "no:1.0.0", "res", check=False)
    assert done.returncode == 1
    assert columns(done.stdout)[1][:4] == ["res", "1.0.0", "down", "installed"]
    assert done.stderr.startswith("error: no:1.0.0 is not installed\n")


def test_a_plain_connection_is_closed(runtime: RuntimeProcess) -> None:
    for request in (b'{"status":{"containers":[]}}', b'{"restart":{"container":"app:1.0.0"}}'):
        with raw(runtime) as stream, stream.makefile("rb") as lines:
            stream.sendall(b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n')
            assert lines.readline() == b'{"connect_ack":null}\n'
            stream.sendall(b'{"request":%s}\n' % request)
            assert lines.readline() == b""


def test_a_plain_subscriber_sees_no_states(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, args="exit 0", service={})
    with raw(runtime) as stream, stream.makefile("rb") as lines:
        stream.sendall(b'{"connect":{"version":"0.9.2","subscribe_notifications":true}}\n')
        assert lines.readline() == b'{"connect_ack":null}\n'
        with runtime.client(subscribe=True) as client:
            client.start("app")
            client.wait("app", TIMEOUT)
        assert lines.readline() == b'{"notification":{"started":"app:1.0.0"}}\n'
        assert lines.readline() == b'{"notification":{"exit":["app:1.0.0",{"exit":{"code":0}}]}}\n'
        stream.sendall(b'{"request":{"inspect":{"container":"app:1.0.0"}}}\n')
        assert b'"service"' not in lines.readline()


def test_a_console_has_the_permissions_of_both_sections(
    runtime: RuntimeProcess, payload: Path
) -> None:
    console = {"permissions": ["ident", "list"]}
    install(runtime, payload, console=console, service={"permissions": ["update", "logs"]})
    with runtime.client() as client:
        client.start("app")
    runtime.wait_log(r"Container app:1\.0\.0 connected with permissions ident, list, logs, update$")


def test_the_permissions_of_the_configuration(make_runtime: Callable[..., RuntimeProcess]) -> None:
    runtime = make_runtime(permissions='["full", "exec"]')
    assert runtime.nstar("ident").stdout == "extern:0.0.0\n"
    runtime.wait_log(r"connected with permissions ident, .*, uninstall, exec$")
