"""Northstar 0.9.2's client with our runtime: every request, notification and error."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import manifest as manifests
from tests.interop.differences import comparable
from tests.interop.reference import CallError, Client, ask, program
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until

pytestmark = pytest.mark.root

PIPES = {"stdout": "pipe", "stderr": "pipe"}
MIB = 2**20
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()

ALL = [
    "ident", "inspect", "install", "kill", "list", "notifications", "mount", "repositories",
    "shutdown", "start", "start_command", "token_create", "token_verification", "umount",
    "uninstall",
]  # fmt: skip


def packed(runtime: RuntimeProcess, payload: Path, name: str = "app", **fields: Any) -> Path:
    """Pack an app that runs the commands in `args`, or with `init=None` a resource."""
    version = fields.pop("version", "1.0.0")
    if "init" not in fields:
        fields = {"io": PIPES, "args": ["pause"], **fields}
        if isinstance(fields["args"], str):
            fields["args"] = fields["args"].replace(";", " ; ").split()
    return pack(runtime.directory, manifest(name, version, **fields), {"payload": payload})


def exit_of(client: Client, container: str) -> Any:
    """Return the status in the next exit notification, which must be this container's."""
    while True:
        event = client.call("notification")
        if "exit" in event:
            name, status = event["exit"]
            assert name == container
            return status


def test_the_life_of_a_container(runtime: RuntimeProcess, payload: Path) -> None:
    first = packed(runtime, payload)
    second = packed(runtime, payload, "second")
    with Client(runtime, capacity=100) as client:
        assert client.call("ident") == "extern:0.0.0"
        assert client.call("repositories") == ["mem"]
        assert client.call("list") == []
        assert client.call("install_file", first, "mem") == "app:1.0.0"
        assert client.call("install_stream", second, "mem") == "second:1.0.0"
        assert sorted(client.call("list")) == ["app:1.0.0", "second:1.0.0"]
        assert client.call("mount", ["second:1.0.0", "app:1.0.0", "none:1.0.0"]) == [
            {"ok": {"container": "second:1.0.0"}},
            {"ok": {"container": "app:1.0.0"}},
            {
                "error": {
                    "container": "none:1.0.0",
                    "error": {"invalid_container": {"container": "none:1.0.0"}},
                }
            },
        ]
        data = client.call("inspect", "app:1.0.0")
        assert (data["repository"], data["mounted"], data["process"]) == ("mem", True, None)
        client.call("start", "app:1.0.0")
        process = client.call("inspect", "app:1.0.0")["process"]
        assert process["pid"] > 1
        assert process["uptime"] > 0
        client.call("kill", "app:1.0.0", 15)
        exited = {"exit": ["app:1.0.0", {"signalled": {"signal": 15}}]}
        assert client.notifications_until(exited) == [
            {"install": "app:1.0.0"},
            {"install": "second:1.0.0"},
            {"started": "app:1.0.0"},
            exited,
        ]
        assert client.call("umount", ["app:1.0.0", "app:1.0.0"]) == [
            {"ok": {"container": "app:1.0.0"}},
            {
                "error": {
                    "container": "app:1.0.0",
                    "error": {"umount_busy": {"container": "app:1.0.0"}},
                }
            },
        ]
        client.call("uninstall", "app:1.0.0", True)
        client.call("uninstall", "second:1.0.0", False)
        assert [client.call("notification") for _ in range(2)] == [
            {"uninstall": "app:1.0.0"},
            {"uninstall": "second:1.0.0"},
        ]
        assert client.call("list") == []
    runtime.stop()


def test_start_with_init_arguments_and_environment(runtime: RuntimeProcess, payload: Path) -> None:
    with Client(runtime, capacity=100) as client:
        client.call("install_file", packed(runtime, payload, env={"A": "manifest"}), "mem")
        start = ["app:1.0.0", "<INIT>", ["self", ";", "exit", "7"], {"GREETING": "hällo", "E": ""}]
        client.call("start_command", *start)
        assert exit_of(client, "app:1.0.0") == {"exit": {"code": 7}}
        found = runtime.wait_log(r"DEBUG app:1\.0\.0: (\{\"do\": \"self\".*\})$").group(1)
        said = json.loads(found)
        assert said["args"] == ["/payload", "self", ";", "exit", "7"]
        variables = dict(entry.split("=", 1) for entry in said["env"])
        # The payload escapes bytes, not characters.
        assert variables["GREETING"].encode("latin-1").decode() == "hällo"
        assert variables["E"] == ""
        assert "A" not in variables
        assert variables["NORTHSTAR_CONTAINER"] == "app:1.0.0"
        # Without arguments those of the manifest apply.
        client.call("start_command", "app:1.0.0", None, [], {})
        client.call("kill", "app:1.0.0", 9)
        assert exit_of(client, "app:1.0.0") == {"signalled": {"signal": 9}}
    runtime.stop()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("exit 0", {"exit": {"code": 0}}),
        ("exit 1", {"exit": {"code": 1}}),
        ("exit 255", {"exit": {"code": 255}}),
        ("raise KILL", {"signalled": {"signal": 9}}),
        ("raise SEGV", {"signalled": {"signal": 11}}),
        ("raise 64", {"signalled": {"signal": 64}}),
    ],
)
def test_exit_statuses(
    runtime: RuntimeProcess, payload: Path, words: str, status: dict[str, Any]
) -> None:
    with Client(runtime, capacity=100) as client:
        client.call("install_file", packed(runtime, payload, args=words), "mem")
        client.call("start", "app:1.0.0")
        assert exit_of(client, "app:1.0.0") == status


def test_without_permissions(make_runtime: Callable[..., Any], payload: Path) -> None:
    runtime = make_runtime(permissions='["ident"]')
    package = packed(runtime, payload)
    token = base64.b64encode(bytes(40)).decode()
    calls: dict[str, list[Any]] = {
        "inspect": ["app:1.0.0"],
        "install_file": [package, "mem"],
        "install_stream": [package, "mem"],
        "kill": ["app:1.0.0", 15],
        "list": [],
        "mount": [["app:1.0.0"]],
        "repositories": [],
        "start": ["app:1.0.0"],
        "start_command": ["app:1.0.0", "/x", ["a"], {"b": "c"}],
        "create_token": ["app", "shared"],
        "verify_token": [token, "app", "shared"],
        "umount": [["app:1.0.0"]],
        "uninstall": ["app:1.0.0", False],
    }
    with Client(runtime) as client:
        for name, arguments in calls.items():
            with pytest.raises(CallError) as caught:
                client.call(name, *arguments)
            assert caught.value.kind == "permission_denied", name
            # The connection stays open, also after a refused package.
            assert client.call("ident") == "extern:0.0.0"
        # The client's shutdown discards the answer; the refusal contains the whole request.
        requests: list[Any] = [
            "shutdown",
            {"start": {"container": "a:1.0.0", "init": "/x", "arguments": [], "environment": {}}},
            {"token_verify": {"token": token, "user": "a", "shared": "AAE="}},
        ]
        for request in requests:
            assert client.call("request", request) == {"permission_denied": request}
    with pytest.raises(CallError) as caught:
        Client(runtime, capacity=1)
    assert caught.value.kind == "permission_denied"
    runtime.stop()


def test_a_command_in_the_request_needs_a_separate_permission(
    make_runtime: Callable[..., Any], payload: Path
) -> None:
    names = [name for name in ALL if name != "start_command"]
    runtime = make_runtime(permissions=json.dumps(names))
    commands: list[list[Any]] = [
        [None, ["a"], {}],
        ["/payload", [], {}],
        [None, [], {"A": "b"}],
    ]
    with Client(runtime) as client:
        client.call("install_file", packed(runtime, payload), "mem")
        for more in commands:
            with pytest.raises(CallError) as caught:
                client.call("start_command", "app:1.0.0", *more)
            assert caught.value.kind == "permission_denied"
        client.call("start", "app:1.0.0")
    runtime.stop()


def test_tokens(make_runtime: Callable[..., Any]) -> None:
    runtime = make_runtime(tables='[console.options]\ntoken_validity = "1m"\n')
    with Client(runtime) as client:
        token = client.call("create_token", "extern", "shared")
        raw = base64.b64decode(token)
        assert len(raw) == 40
        assert client.call("verify_token", token, "extern", "shared") == "Ok"
        assert client.call("verify_token", token, "extern", "other") == "Invalid"
        assert client.call("verify_token", token, "other", "shared") == "Invalid"
        made = int.from_bytes(raw[:8], "big")
        future = base64.b64encode((made + 3600).to_bytes(8, "big") + raw[8:]).decode()
        assert client.call("verify_token", future, "extern", "shared") == "Future"
    runtime.stop()


def test_a_token_expires(make_runtime: Callable[..., Any]) -> None:
    options = 'options = { token_validity = "1s" }'
    runtime = make_runtime(console=options)
    with Client(runtime) as client:
        token = client.call("create_token", "extern", "shared")
        wait_until(
            lambda: client.call("verify_token", token, "extern", "shared") == "Expired", "expired"
        )
    runtime.stop()


def test_errors(make_runtime: Callable[..., Any], payload: Path) -> None:
    repositories = {"mem": 'type = "mem"', "small": 'type = "mem"\ncapacity_num = 0'}
    runtime = make_runtime(repositories=repositories)
    app = packed(runtime, payload)
    none = {"container": "none:1.0.0"}
    with Client(runtime) as client:
        refused = client.refused
        for name, *more in (("inspect",), ("start",), ("kill", 15), ("uninstall", True)):
            assert refused(str(name), "none:1.0.0", *more) == {"invalid_container": none}
        assert client.call("umount", ["none:1.0.0"]) == [
            {"error": {**none, "error": {"invalid_container": none}}}
        ]
        unknown = {"invalid_repository": {"repository": "nope"}}
        assert refused("install_file", app, "nope") == unknown
        assert "full" in refused("install_stream", app, "small")["unexpected"]["error"]
        junk = runtime.directory / "junk.npk"
        junk.write_bytes(bytes(10_000))
        assert refused("install_file", junk, "mem")["unexpected"]["error"]
        client.call("install_file", app, "mem")
        installed = {"container": "app:1.0.0"}
        assert refused("install_file", app, "mem") == {"install_duplicate": installed}
        assert refused("kill", "app:1.0.0", 15) == {"stop_container_not_started": installed}
        assert "unexpected" in refused("kill", "app:1.0.0", 0)
        assert "unexpected" in refused("kill", "none:1.0.0", -1)

        reserved: list[Any] = ["app:1.0.0", None, [], {"NORTHSTAR_NAME": "x"}]
        assert refused("start_command", *reserved)["invalid_arguments"]["cause"]
        failed = refused("start_command", "app:1.0.0", "/nothing", [], {})["start_container_failed"]
        assert failed["container"] == "app:1.0.0"
        assert "/nothing" in failed["error"]

        client.call("start", "app:1.0.0")
        assert refused("start", "app:1.0.0") == {"start_container_started": installed}
        newer = packed(runtime, payload, version="2.0.0")
        client.call("install_file", newer, "mem")
        assert refused("start", "app:2.0.0") == {"start_container_started": installed}
        busy = {"umount_busy": installed}
        assert refused("uninstall", "app:1.0.0", False) == busy
        assert client.call("umount", ["app:1.0.0"]) == [{"error": {**installed, "error": busy}}]

        resource = {"type": "resource", "name": "res", "version": ">=1.2, <2", "dir": "/"}
        user = packed(runtime, payload, "user", mounts={"/res": resource})
        client.call("install_file", user, "mem")
        missing = {"container": "user:1.0.0", "resource": "res", "version": ">=1.2, <2"}
        assert refused("start", "user:1.0.0") == {"start_container_missing_resource": missing}
        res = packed(runtime, payload, "res", version="1.2.3", init=None)
        client.call("install_file", res, "mem")
        assert refused("start", "res:1.2.3") == {
            "start_container_resource": {"container": "res:1.2.3"}
        }
        client.call("start", "user:1.0.0")
        assert client.call("umount", ["res:1.2.3"]) == [
            {
                "error": {
                    "container": "res:1.2.3",
                    "error": {"umount_busy": {"container": "user:1.0.0"}},
                }
            }
        ]
    runtime.stop()


def test_out_of_memory(runtime: RuntimeProcess, payload: Path) -> None:
    memory = {"memory_hard_limit": 16 * MIB, "memory_swap_limit": 16 * MIB, "oom_monitor": True}
    eater = packed(runtime, payload, args="memory 64", cgroups={"memory": memory})
    with Client(runtime, capacity=100) as client:
        client.call("install_file", eater, "mem")
        client.call("start", "app:1.0.0")
        killed = {"exit": ["app:1.0.0", {"signalled": {"signal": 9}}]}
        events = client.notifications_until(killed)
    found = [event["c_group"] for event in events if "c_group" in event]
    assert found
    for container, what in found:
        assert container == "app:1.0.0"
        assert set(what["memory"]) == {"low", "high", "max", "oom", "oom_kill"}
    if not UNIFIED:
        only_oom = {"low": None, "high": None, "max": None, "oom": 1, "oom_kill": None}
        assert found[-1][1]["memory"] == only_oom


def test_statistics(runtime: RuntimeProcess, payload: Path) -> None:
    cgroups = {"memory": {"memory_hard_limit": 64 * MIB}, "cpu": {"shares": 512}}
    with Client(runtime) as client:
        client.call("install_file", packed(runtime, payload, cgroups=cgroups), "mem")
        client.call("start", "app:1.0.0")
        statistics = client.call("inspect", "app:1.0.0")["process"]["statistics"]
        with runtime.client() as ours:
            process = ours.inspect("app:1.0.0").process
        assert process is not None
        # Northstar 0.9.2 reads all of it: the same members on every level.
        assert shape(statistics) == shape(process.statistics)
        assert statistics["memory"]
        assert statistics["cpu"]
    runtime.stop()


def shape(value: Any) -> Any:
    """Return a value without its numbers and texts."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return type(value).__name__


def test_inspect_of_a_manifest_with_every_section(runtime: RuntimeProcess, payload: Path) -> None:
    fields = json.loads((Path(__file__).parent / "every-section.json").read_text())
    # Northstar 0.9.2 does not read `service`.
    missing = set(manifests.Manifest.__struct_fields__) - set(fields) - {"service"}
    assert not missing
    text = json.dumps(fields)
    package = pack(runtime.directory, text, {"payload": payload})
    with Client(runtime) as client:
        container = client.call("install_file", package, "mem")
        data = client.call("inspect", container)
    (answer,) = ask("manifests", [text])
    assert comparable(data["manifest"]) == comparable(answer.ok["json"])
    assert comparable(data["manifest"]) == comparable(manifests.loads(text).to_builtins())
    runtime.stop()


def test_a_container_uses_its_console(
    runtime: RuntimeProcess, payload: Path, tmp_path: Path
) -> None:
    """Northstar 0.9.2's client in a container: `Client::from_env` and the permissions."""
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(program("client"), root / "client")
    library = {"type": "bind", "host": "/lib"}
    loader = {"type": "bind", "host": "/lib64"}
    text = manifest(
        "talker",
        init="/client",
        console={"permissions": ["ident", "token_verification", "notifications", "list"]},
        mounts={"/lib": library, "/lib64": loader},
        io=PIPES,
    )
    package = pack(tmp_path, text, root=root)
    with Client(runtime, capacity=100) as client:
        client.call("install_file", package, "mem")
        token = client.call("create_token", "talker", "shared")
        calls = [
            ["ident"],
            ["list"],
            ["verify_token", token, "extern", "shared"],
            ["verify_token", token, "talker", "shared"],
            ["repositories"],
            ["notification"],
        ]
        arguments = ["env", "10", *map(json.dumps, calls)]
        client.call("start_command", "talker:1.0.0", None, arguments, {})
        runtime.wait_log(r"talker:1\.0\.0: .*permission_denied")
        client.call("install_file", packed(runtime, payload, "later"), "mem")
        assert exit_of(client, "talker:1.0.0") == {"exit": {"code": 0}}
    *said, heard = [
        json.loads(line.split("talker:1.0.0: ", 1)[1])
        for line in runtime.text().splitlines()
        if " talker:1.0.0: {" in line
    ]
    assert said == [
        {"ok": None},
        {"ok": "talker:1.0.0"},
        {"ok": ["talker:1.0.0"]},
        {"ok": "Ok"},
        {"ok": "Invalid"},
        {"error": ["permission_denied", None]},
    ]
    # The order of its connection and of `started` depends on the scheduler.
    assert heard in ({"ok": {"started": "talker:1.0.0"}}, {"ok": {"install": "later:1.0.0"}})
    runtime.stop()


def test_shutdown(make_runtime: Callable[..., Any], payload: Path) -> None:
    runtime = make_runtime(tcp=True)
    with Client(runtime, capacity=100) as watcher, Client(runtime) as client:
        client.call("install_file", packed(runtime, payload), "mem")
        client.call("start", "app:1.0.0")
        client.call("shutdown")
        exited = {"exit": ["app:1.0.0", {"signalled": {"signal": 15}}]}
        assert watcher.notifications_until(exited) == [
            {"install": "app:1.0.0"},
            {"started": "app:1.0.0"},
            "shutdown",
            exited,
        ]
        with pytest.raises(CallError) as caught:
            watcher.call("notification")
        assert caught.value.kind == "connection_closed"
    runtime.wait_exit()
