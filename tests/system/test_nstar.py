"""The command `nstar` against a real runtime."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.api.feature import FEATURES
from tests.system.harness import TIMEOUT, RuntimeProcess, manifest, pack, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]


def package(runtime: RuntimeProcess, payload: Path, name: str = "app", **fields: Any) -> str:
    text = manifest(name, **{"args": ["pause"], **fields})
    return str(pack(runtime.directory, text, {"payload": payload}))


def columns(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in text.splitlines()]


def test_the_output_over_the_life_of_a_container(runtime: RuntimeProcess, payload: Path) -> None:
    file = package(runtime, payload)
    nstar = runtime.nstar
    assert nstar("ident").stdout == "extern:0.0.0\n"
    assert nstar("repos").stdout == "mem\n"
    assert nstar("install", file, "mem").stdout == f"installed {file} into mem\n"
    assert nstar("mount", "app").stdout == "mounted app:1.0.0\n"
    assert nstar("start", "app").stdout == "started app:1.0.0\n"
    header, line = columns(nstar("ls").stdout)
    assert header == [
        *("Name", "Version", "Repository", "Type", "Mounted", "PID", "Uptime"),
        *("State", "Last exit"),
    ]
    assert line[7:] == ["ready", "-"]
    assert line[:5] == ["app", "1.0.0", "mem", "app", "yes"]
    inspected = json.loads(nstar("inspect", "app").stdout)
    assert inspected["manifest"]["name"] == "app"
    assert str(inspected["process"]["pid"]) == line[5]
    assert nstar("kill", "app", "KILL").stdout == "signalled app:1.0.0 with signal 9\n"
    wait_until(lambda: columns(nstar("ls").stdout)[1][5] == "-", "the container has exited")
    assert re.fullmatch(r"SIGKILL, [\d.]+s ago", columns(nstar("ls").stdout)[1][8])
    assert nstar("umount", "app:1.0.0").stdout == "umounted app:1.0.0\n"
    assert nstar("uninstall", "--wipe", "app").stdout == "uninstalled app:1.0.0\n"
    assert columns(nstar("ls").stdout) == [header]
    assert nstar("shutdown").stdout == "shutting down\n"
    runtime.wait_exit()


def test_a_refusal_is_a_sentence_and_exit_code_1(runtime: RuntimeProcess, payload: Path) -> None:
    runtime.nstar("install", package(runtime, payload), "mem")

    def refused(*arguments: str) -> str:
        done = runtime.nstar(*arguments, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") <= 2
        return done.stderr

    assert refused("start", "none:1.0.0").startswith("error: none:1.0.0 is not installed")
    assert refused("start", "none").startswith("error: no container none is installed")
    assert refused("kill", "app") == (
        "error: app:1.0.0 is not running\nhint: start it first (nstar start app)\n"
    )
    assert "32" in refused("kill", "app", "32")
    assert refused("start", "app", "/nothing").startswith("error: app:1.0.0 could not be started: ")
    assert "app:1.0.0 is installed already" in refused("install", package(runtime, payload), "mem")
    assert "no repository 'none'" in refused("install", package(runtime, payload), "none")
    assert runtime.nstar("ident").stdout == "extern:0.0.0\n"


def test_start_takes_another_command(runtime: RuntimeProcess, payload: Path) -> None:
    io = {"stdout": "pipe", "stderr": "pipe"}
    runtime.nstar("install", package(runtime, payload, io=io), "mem")
    runtime.nstar("start", "app", "GREETING=hello", "<INIT>", "self", ";", "exit", "3")
    runtime.wait_log(r"DEBUG app:1\.0\.0: .*GREETING=hello")
    runtime.wait_log(r"Container app:1\.0\.0 exited with status Exit\(3\)")


def test_notifications(runtime: RuntimeProcess, payload: Path) -> None:
    code = "from northstar.cli.nstar import main; main()"
    options = ["-u", runtime.url, "--json", "notifications", "--number", "3"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *options], stdout=subprocess.PIPE, text=True
    ) as events:
        try:
            assert events.stdout is not None
            assert "connect" in json.loads(events.stdout.readline())
            assert json.loads(events.stdout.readline()) == {"connect_ack": None}
            runtime.nstar("install", package(runtime, payload), "mem")
            runtime.nstar("start", "app")
            runtime.nstar("kill", "app", "KILL")
            lines = events.communicate(timeout=TIMEOUT)[0].splitlines()
        finally:
            events.kill()
    assert [json.loads(line)["notification"] for line in lines] == [
        {"install": "app:1.0.0"},
        {"started": "app:1.0.0"},
        {"exit": ["app:1.0.0", {"signalled": {"signal": 9}}]},
    ]
    assert events.returncode == 0


def test_a_token_in_a_pipe_and_the_exit_code_of_its_check(runtime: RuntimeProcess) -> None:
    token = runtime.nstar("token", "extern", "secret").stdout
    assert re.fullmatch(r"[A-Za-z0-9+/]{54}==\n", token)

    def verify(user: str, shared: str) -> tuple[int, str]:
        done = runtime.nstar("verify-token", token.strip(), user, shared, check=False)
        return done.returncode, done.stdout

    assert verify("extern", "secret") == (0, "Ok\n")
    assert verify("extern", "other") == (1, "Invalid\n")
    assert verify("other", "secret") == (1, "Invalid\n")


def test_json_lines(runtime: RuntimeProcess) -> None:
    lines = runtime.nstar("-j", "repositories").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"connect": {"version": "0.9.2", "subscribe_notifications": False, "extended": True}},
        {"connect_ack": {"features": list(FEATURES)}},
        {"request": "repositories"},
        {"response": {"repositories": ["mem"]}},
    ]


def test_without_permission(make_runtime: Callable[..., RuntimeProcess], payload: Path) -> None:
    runtime = make_runtime(permissions='["ident", "list", "install"]')
    runtime.nstar("install", package(runtime, payload), "mem")
    # Only permitted information is shown.
    assert columns(runtime.nstar("ls").stdout)[1] == ["app", "1.0.0", "-", "-", "-", "-", "-"]
    for arguments, permission in (
        (("start", "app"), "start"),
        (("start", "app", "A=b"), "start_command"),
        (("shutdown",), "shutdown"),
    ):
        done = runtime.nstar(*arguments, check=False)
        assert done.returncode == 1
        assert f"lacks the permission '{permission}'" in done.stderr
    done = runtime.nstar("notifications", check=False)
    assert done.returncode == 1
    assert "does not permit notifications" in done.stderr


def test_tcp_and_the_default_url(make_runtime: Callable[..., RuntimeProcess]) -> None:
    runtime = make_runtime(tcp=True)
    code = "import sys; from northstar.cli.nstar import main; main()"
    environment = {key: value for key, value in os.environ.items() if key != "NORTHSTAR_URL"}
    done = subprocess.run(
        runtime.enter(sys.executable, "-c", code, "ident"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stdout) == (0, "extern:0.0.0\n"), done
