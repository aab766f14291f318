"""The JSON values of nstar: their page, and values of real messages in the declared types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from northstar.api import ContainerState, Status, Wanted, notification
from northstar.api.response import KeysOk, KeyUse, ListedKey
from northstar.cli import json_values
from northstar.cli.common import invoke
from northstar.cli.json_output import OUTPUTS
from northstar.cli.nstar_commands import nstar
from northstar.model import Container, Exited, Signalled
from tests.unit.cli.test_nstar import PROCESS, Run, data, inspected, notify, run  # noqa: F401
from tests.unit.client.peer import Peer

A = Container.parse("a:1.0.0")


def checked(command: str, text: str) -> Any:
    """Return printed JSON, which must be exactly of the declared type: no member more or less."""
    kind = OUTPUTS[command].type
    value = json.loads(text)
    assert json.loads(encoded(msgspec.convert(value, kind, strict=True))) == value
    return value


def test_list(run: Run) -> None:  # noqa: F811
    denied = {"permission_denied": {"inspect": {"container": "b:2.0.0"}}}
    talk = (
        ("list", {"list": ["b:2.0.0", "a:1.0.0"]}),
        inspected("a:1.0.0", process=PROCESS, repository="\x1b[31mä"),
        ({"inspect": {"container": "b:2.0.0"}}, denied),
    )
    done = run("list", "--format", "json", talk=talk)
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()
    [a, b] = json.loads(done.out)
    assert a == {
        "container": "a:1.0.0",
        "name": "a",
        "version": "1.0.0",
        "repository": "\x1b[31mä",
        "type": "app",
        "mounted": False,
        "pid": 4711,
        "uptime_ns": PROCESS["uptime"],
        "state": None,
        "last_exit": None,
    }
    assert b == {**dict.fromkeys(a), "container": "b:2.0.0", "name": "b", "version": "2.0.0"}


def test_simple_values(run: Run) -> None:  # noqa: F811
    for command, request, answer, value in (
        ("ident", "ident", {"ident": "extern:0.0.0"}, {"container": "extern:0.0.0"}),
        (
            "repositories",
            "repositories",
            {"repositories": ["x"]},
            [{"name": "x"}],
        ),
    ):
        done = run(command, "--format", "json", talk=((request, answer),))
        assert checked(command, done.out) == value
    done = run("inspect", "a:1.0.0", "--format", "json", talk=(inspected("a:1.0.0"),))
    assert checked("inspect CONTAINER", done.out) == data()


def test_text_is_the_default(run: Run) -> None:  # noqa: F811
    for options in ([], ["--format", "table"]):
        done = run("ident", *options, talk=(("ident", {"ident": "extern:0.0.0"}),))
        assert done.out == "extern:0.0.0\n"


def test_inspect_as_text(run: Run) -> None:  # noqa: F811
    statistics = {"memory": {"memory": {"usage_in_bytes": 2048, "limit_in_bytes": 4096}}}
    manifest = {"init": "/a", "env": {"A": "\x1b"}, "capabilities": ["CAP_KILL"]}
    answer = inspected("a:1.0.0", manifest=manifest, process={**PROCESS, "statistics": statistics})
    done = run("inspect", "a:1.0.0", "--format", "table", talk=(answer,))
    assert done.out.splitlines() == [
        "Container               a:1.0.0",
        "Repository              r",
        "Mounted                 no",
        "PID                     4711",
        "Uptime                  1h 2m",
        "CPU time                -",
        "Memory                  2.0KiB of 4.0KiB",
        "PIDs                    -",
        "Manifest: init          /a",
        r"Manifest: env           A: \x1b",
        "Manifest: capabilities  CAP_KILL",
    ]


def test_notifications(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Peer(tmp_path, notify) as peer:
        arguments = ["-u", peer.url, "notifications", "--format", "json"]
        assert invoke(nstar, arguments, "nstar") == 0
    found = [checked("notifications", line) for line in capfd.readouterr().out.splitlines()]
    assert [one["event"] for one in found] == [
        *("install", "started", "exit", "exit", "uninstall", "shutdown"),
    ]
    assert [one["exit"] for one in found[2:4]] == [
        {"code": 1, "signal": None, "signal_name": None},
        {"code": None, "signal": 9, "signal_name": "SIGKILL"},
    ]
    (tmp_path / "console").unlink()
    with Peer(tmp_path, notify) as peer:
        assert invoke(nstar, ["-u", peer.url, "notifications", "--time", "-n", "1"], "nstar") == 0
    when, text = capfd.readouterr().out.rstrip().split(" ", 1)
    assert text == "installed a:1.0.0"
    # The form of an RFC 3339 date, as in logs.
    assert len(when) == len("2026-12-01T09:30:00.123Z")
    assert when.endswith("Z")


def encoded(value: Any) -> str:
    return json.dumps(msgspec.to_builtins(value))


def test_a_status() -> None:
    status = Status(Wanted.UP, ContainerState.BACKOFF, 5, "exit 1", 3, 2, 7, "text", Exited(1))
    value = checked("status --watch", encoded(json_values.of_status(A, status)))
    assert value == {
        "container": "a:1.0.0",
        "name": "a",
        "version": "1.0.0",
        "wanted": "up",
        "state": "backoff",
        "since_ns": 5,
        "reason": "exit 1",
        "run": 3,
        "restarts": 2,
        "next_ns": 7,
        "text": "text",
        "last_exit": {"code": 1, "signal": None, "signal_name": None},
    }


def test_a_memory_event_and_a_list_of_keys() -> None:
    event = notification.CGroup(A, notification.Memory(oom=1))
    value = json_values.notified(event, 1_500_000_000)
    assert value is not None
    assert checked("notifications", encoded(value)) == {
        "time": "1970-01-01T00:00:01.500Z",
        "event": "memory",
        "container": "a:1.0.0",
        "exit": None,
        "memory": {"low": None, "high": None, "max": None, "oom": 1, "oom_kill": None},
    }
    found = KeysOk("apps", 3, (ListedKey("ab", KeyUse.LOAD),))
    value = checked("keys REPOSITORY", encoded(json_values.key_list(found)))
    assert value == {"repository": "apps", "version": 3, "keys": [{"id": "ab", "use": "load"}]}


def test_notifications_of_extended_connections_have_no_value() -> None:
    status = Status(Wanted.UP, ContainerState.READY, 0, "", 1, 0, None, None, Signalled(9))
    assert json_values.notified(notification.State(A, status), 0) is None


@pytest.mark.parametrize("command", [*OUTPUTS])
def test_two_kinds_of_json_exclude_each_other(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("CONTAINER", "a").replace("REPOSITORY", "r") for word in command.split()]
    arguments = ["-u", "unix:///none", "-j", *words, "--format", "json"]
    assert invoke(nstar, arguments, "nstar") == 2
    assert "--format and --json exclude each other" in capfd.readouterr().err


def test_each_command_with_the_option_is_described() -> None:
    context = nstar.make_context("nstar", ["ident"])
    having = set()
    for name in nstar.list_commands(context):
        command = nstar.get_command(context, name)
        assert command is not None
        if "as_json" in {parameter.name for parameter in command.params}:
            having.add(name)
    assert having == {command.split()[0] for command in OUTPUTS}
