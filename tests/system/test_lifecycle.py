"""The life of containers on a real kernel: install, start, signals, exit, uninstall."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import error, notification
from northstar.model import Container, Exited, Signalled
from tests.system.containers import exit_of, install, refused, until_closed
from tests.system.harness import RuntimeProcess, exchange_manifest, manifest, pack, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]

MAY_SKIP = MAY_SKIP_IN_VM = ("the runtime has CAP_SYS_RESOURCE here",)

SLEEP = ["pause"]


def said(runtime: RuntimeProcess, container: str, what: str) -> Any:
    """Wait for a line of the payload's output about `what`, and return it as an object."""
    pattern = rf"DEBUG {re.escape(container)}: (\{{.*\"do\": \"{what}\".*\}})$"
    return json.loads(runtime.wait_log(pattern)[1])


def test_the_whole_life_of_a_container(runtime: RuntimeProcess, payload: Path) -> None:
    container = Container.parse("app:1.0.0")
    package = pack(runtime.directory, manifest("app", args=SLEEP), {"payload": payload})
    before = runtime.snapshot()
    with runtime.client(subscribe=True) as client:
        assert client.install(package, "mem") == container
        assert client.list() == (container,)
        data = client.inspect(container)
        assert (data.repository, data.mounted, data.process) == ("mem", False, None)
        assert data.manifest["name"] == "app"

        client.start(container)
        data = client.inspect(container)
        assert data.mounted
        assert data.process is not None
        assert os.path.exists(f"/proc/{data.process.pid}")
        assert data.process.uptime_ns > 0

        client.kill(container, signal.SIGTERM)
        assert exit_of(client, "app:1.0.0") == Signalled(15)
        assert not os.path.exists(f"/proc/{data.process.pid}")
        assert client.inspect(container).process is None

        client.umount(container)
        assert not client.inspect(container).mounted
        client.uninstall(container)
        assert client.list() == ()
    runtime.assert_no_leak(before)
    runtime.stop()


def test_notifications_are_in_order(runtime: RuntimeProcess, payload: Path) -> None:
    with runtime.client(subscribe=True, extended=False) as events:
        container = install(runtime, payload, args=["exit", "3"])
        with runtime.client() as client:
            client.start(container)
            wait_until(
                lambda: client.inspect(container).process is None, "the container has exited"
            )
            client.uninstall(container)
        seen = []
        for event in events.notifications(timeout=10):
            seen.append(event)
            if isinstance(event, notification.Uninstall):
                break
    app = Container.parse(container)
    assert seen == [
        notification.Install(app),
        notification.Started(app),
        notification.Exit(app, Exited(3)),
        notification.Uninstall(app),
    ]


def test_ignored_fields_of_a_manifest_are_logged(runtime: RuntimeProcess, payload: Path) -> None:
    # Our packer drops ignored fields; another packer may keep them.
    (root := runtime.directory / "image").mkdir()
    text = manifest("app", mounts={"/proc": {"type": "proc", "options": "ro"}})
    package = pack_without_mount_points(runtime.directory, text, root, payload)
    with runtime.client() as client:
        client.install(package, "mem")
    runtime.wait_log(r"WARN .*app:1.0.0: .*options")


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_exit_codes(runtime: RuntimeProcess, payload: Path, code: int) -> None:
    container = install(runtime, payload)
    with runtime.client(subscribe=True) as client:
        client.start(container, arguments=("exit", str(code)))
        assert exit_of(client, container) == Exited(code)
    runtime.wait_log(rf"Process app:1.0.0 exited after \S+ with status Exit\({code}\)$")
    runtime.wait_log(rf"Container app:1.0.0 exited with status Exit\({code}\)$")


@pytest.mark.parametrize("number", [1, 2, 9, 10, 15, 31])
def test_kill_with_signals(runtime: RuntimeProcess, payload: Path, number: int) -> None:
    container = install(runtime, payload, args=SLEEP)
    with runtime.client(subscribe=True) as client:
        client.start(container)
        client.kill(container, number)
        assert exit_of(client, container) == Signalled(number)


def test_signals_that_do_not_end_a_container(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args=SLEEP)
    with runtime.client(subscribe=True) as client:
        client.start(container)
        process = client.inspect(container).process
        assert process is not None
        for number in (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD):
            client.kill(container, number)

        def states() -> list[str]:
            with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
                children = file.read().split()
            stats = [Path(f"/proc/{pid}/stat").read_text() for pid in [str(process.pid), *children]]
            return [stat.rpartition(") ")[2][0] for stat in stats]

        client.kill(container, signal.SIGSTOP)
        wait_until(lambda: states() == ["S", "T"], "the payload is stopped, init is not")
        client.kill(container, signal.SIGCONT)
        wait_until(lambda: states() == ["S", "S"], "the payload continues")
        client.kill(container, signal.SIGSTOP)
        client.kill(container, signal.SIGKILL)
        assert exit_of(client, container) == Signalled(9)


def test_kill_of_a_container_that_is_not_started(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload)
    with runtime.client() as client:
        app = Container.parse(container)
        assert refused(lambda: client.kill(container)) == error.StopContainerNotStarted(app)
        other = Container.parse("other:1.0.0")
        assert refused(lambda: client.kill(other)) == error.InvalidContainer(other)
        assert isinstance(refused(lambda: client.kill(other, 32)), error.Unexpected)


def test_repeated_starts(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args=SLEEP)
    app = Container.parse(container)
    with runtime.client(subscribe=True) as client:
        client.start(container)
        client.kill(container, 9)
        exit_of(client, container)
        before = runtime.snapshot()
        for _ in range(10):
            client.start(container)
            assert refused(lambda: client.start(container)) == error.StartContainerStarted(app)
            client.kill(container, 9)
            assert exit_of(client, container) == Signalled(9)
        runtime.assert_no_leak(before)


def test_only_one_version_of_a_name_runs(runtime: RuntimeProcess, payload: Path) -> None:
    old = install(runtime, payload, version="1.0.0", args=SLEEP)
    new = install(runtime, payload, version="2.0.0", args=SLEEP)
    with runtime.client(subscribe=True) as client:
        client.start(old)
        running = error.StartContainerStarted(Container.parse(old))
        assert refused(lambda: client.start(new)) == running
        client.kill(old, 9)
        exit_of(client, old)
        client.start(new)


def test_mount_and_umount(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args=SLEEP)
    app = Container.parse(container)
    unknown = Container.parse("nothing:1.0.0")
    with runtime.client() as client:
        before = runtime.snapshot()
        first, second = client.mount(app, unknown)
        assert first == api.response.Ok(app)
        assert second == api.response.Failed(unknown, error.InvalidContainer(unknown))
        (again,) = client.mount(app)
        assert again == api.response.Failed(app, error.InvalidContainer(app))
        assert str(runtime.run_dir / container) in "".join(runtime.snapshot().mounts)

        client.start(app)
        busy = api.response.Failed(app, error.UmountBusy(app))
        assert client.umount(app) == (busy,)
        assert refused(lambda: client.uninstall(app)) == error.UmountBusy(app)
        client.kill(app, 9)
        wait_until(lambda: client.inspect(app).process is None, "the container has exited")
        assert client.umount(app) == (api.response.Ok(app),)
        assert client.umount(app) == (busy,)
        runtime.assert_no_leak(before)


def test_images_and_directories_in_memory_are_unmounted_at_once(
    make_runtime: Any, payload: Path, tmp_path: Path
) -> None:
    (run_dir := tmp_path / "run").mkdir()
    mounting = f'mount -t tmpfs none "{run_dir}" && exec "$@"'
    runtime: RuntimeProcess = make_runtime(wrap=("/bin/sh", "-euc", mounting, "sh"))
    names = [install(runtime, payload, f"app{n}", args=SLEEP) for n in range(5)]
    first, *_ = map(Container.parse, names)

    def switches() -> int:
        """Return how often the threads have slept, except the first one."""
        threads = set(os.listdir(f"/proc/{runtime.pid}/task")) - {str(runtime.pid)}
        status = [Path(f"/proc/{runtime.pid}/task/{t}/status").read_text() for t in threads]
        return sum(int(s.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for s in status)

    with runtime.client(subscribe=True) as client:
        before = runtime.snapshot()
        # On a slow machine a thread that writes the log may wake meanwhile; a pool would always.
        for _ in range(20):
            client.mount(first)
            wait_until(lambda: _is_still(switches), "all threads sleep")
            begun = switches()
            assert client.umount(first) == (api.response.Ok(first),)
            if switches() == begun:
                break
        else:
            pytest.fail("a thread was involved each time")
        runtime.assert_no_leak(before)

        client.mount(*names)
        user = subprocess.Popen(
            runtime.enter("sh", "-euc", f'cd "{run_dir}/{first}"; echo; read line'),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert user.stdout is not None
        user.stdout.readline()
        failed, *others = client.umount(*names)
        assert isinstance(failed, api.response.Failed)
        assert "busy" in str(failed.error)
        assert others == [api.response.Ok(Container.parse(name)) for name in names[1:]]
        user.communicate(b"\n")
        assert client.umount(first) == (api.response.Ok(first),)
        for name in names:  # the start and the unmount find everything released
            client.start(name)
            client.kill(name, 9)
            exit_of(client, name)
            assert client.umount(name) == (api.response.Ok(Container.parse(name)),)
        runtime.assert_no_leak(before)


def _is_still(count: Callable[[], int]) -> bool:
    before = count()
    time.sleep(0.05)
    return count() == before


def test_the_request_replaces_the_manifests_command(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args=["self"], env={"A": "manifest"})
    with runtime.client(subscribe=True) as client:
        client.start(container)
        exit_of(client, container)
        assert said(runtime, container, "self")["args"] == ["/payload", "self"]

        arguments = ("self", "x")
        client.start(container, init="<INIT>", arguments=arguments, environment={"B": "request"})
        exit_of(client, container)
        pattern = r"DEBUG app:1.0.0: (.*\"B=request\".*)$"
        itself = json.loads(runtime.wait_log(pattern)[1])
    assert itself["args"] == ["/payload", "self", "x"]
    environment = itself["env"]
    assert "B=request" in environment
    assert "A=manifest" not in environment
    assert set(environment) == {
        "B=request",
        "NORTHSTAR_NAME=app",
        "NORTHSTAR_VERSION=1.0.0",
        "NORTHSTAR_CONTAINER=app:1.0.0",
    }


def test_refused_starts(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload)
    root = runtime.directory / "resource"
    root.mkdir()
    shutil.copy(payload, root)
    resource = install(runtime, payload, "res", init=None, root=root)
    with runtime.client() as client:
        unknown = Container.parse("nothing:1.0.0")
        assert refused(lambda: client.start(unknown)) == error.InvalidContainer(unknown)
        reserved = {"NORTHSTAR_NAME": "x"}
        answer = refused(lambda: client.start(container, environment=reserved))
        assert isinstance(answer, error.InvalidArguments)
        answer = refused(lambda: client.start(resource))
        assert answer == error.StartContainerResource(Container.parse(resource))
        client.start(resource, init="/payload", arguments=("exit", "0"))


LONG_RULE = {"args": {"index": 0, "values": list(range(50))}}

FAILING = [
    pytest.param(
        {"init": "/nothing"}, r"execute /nothing: No such file .*ENOENT", id="no-such-init"
    ),
    pytest.param({"init": "/etc/text"}, r"execute /etc/text: .*EACCES", id="no-program"),
    pytest.param({"init": "/proc/self/exe"}, r"execute /proc/self/exe: ", id="launcher"),
    pytest.param(
        {"mounts": {"/no": {"type": "proc"}}}, r"mount proc on /no: No such file", id="no-target"
    ),
    pytest.param(
        {"mounts": {"/up/x": {"type": "proc"}}}, r"mount proc on /up/x: No such file", id="escape"
    ),
    pytest.param(
        {"network": {"namespace": "northstar-nothing"}},
        r"enter the network namespace northstar-nothing: .*ENOENT",
        id="no-netns",
    ),
    pytest.param(
        {"sched": {"policy": "deadline"}}, r"deadline: a manifest has no runtime", id="deadline"
    ),
    pytest.param(
        {"init": "/nothing", "seccomp": {}}, r"execute /nothing: No such .*ENOENT", id="no-reporter"
    ),
    pytest.param(
        {"seccomp": {"allow": {f"unknown_{n}": LONG_RULE for n in range(41)}}},
        r"install the seccomp filter: it has 2050 values and masks, and at most 2000 are made",
        id="long-filter",
    ),
    pytest.param(
        {"rlimits": {"nofile": {"soft": 10, "hard": 5}}},
        r"set resource limit 7 to 10 \(soft\) and 5 \(hard\): .*EINVAL",
        id="rlimit",
    ),
    pytest.param(
        {"mounts": {"/r": {"type": "resource", "name": "x", "version": "1", "dir": "/"}}},
        r"needs the resource x \(\^1\)",
        id="no-resource",
    ),
    pytest.param(
        {"capabilities": ["CAP_SYS_RESOURCE"]},
        r"CAP_SYS_RESOURCE, which the runtime",
        id="capability",
    ),
    pytest.param(
        {"sockets": {"s" * 200: {"type": "stream", "mode": 511}}},
        r"make the socket: .*too long",
        id="socket-path",
    ),
]


@pytest.mark.parametrize(("fields", "reason"), FAILING)
def test_a_failing_start_names_its_step_and_leaves_nothing(
    runtime: RuntimeProcess, payload: Path, fields: dict[str, Any], reason: str
) -> None:
    if "CAP_SYS_RESOURCE" in fields.get("capabilities", ()) and _has_capability(24):
        pytest.skip(MAY_SKIP[0])
    root = runtime.directory / "image"
    (root / "etc").mkdir(parents=True)
    (root / "etc/text").write_text("no program")
    (root / "up").symlink_to("..")
    text = manifest("app", **{"args": SLEEP, **fields})
    package = pack_without_mount_points(runtime.directory, text, root, payload)
    with runtime.client() as client:
        container = client.install(package, "mem")
        client.mount(container)
        before = runtime.snapshot()
        for _ in range(2):
            answer = refused(lambda: client.start(container))
            assert re.search(reason, str(answer)), str(answer)
            runtime.assert_no_leak(before)
        # The runtime and other containers still work.
        other = install(runtime, payload, "other", args=SLEEP)
        client.start(other)
        client.umount(container)
        client.uninstall(container)


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapPrm:\t(\w+)$", status, re.MULTILINE)
    assert match
    return bool(int(match[1], 16) >> number & 1)


def pack_without_mount_points(directory: Path, text: str, root: Path, payload: Path) -> Path:
    """Pack an image without the mount points of the manifest, as another packer may."""
    bare = json.loads(text)
    bare.pop("mounts", None)
    package = pack(directory, json.dumps(bare), {"payload": payload}, root=root)
    exchange_manifest(package, text)
    return package


def test_many_containers_in_parallel_leave_nothing(runtime: RuntimeProcess, payload: Path) -> None:
    before = runtime.snapshot()
    names = [install(runtime, payload, f"app{n}", args=SLEEP) for n in range(20)]
    failures: list[BaseException] = []

    def cycles(container: str) -> None:
        try:
            with runtime.client(subscribe=True) as client:
                for _ in range(10):
                    client.start(container)
                    client.kill(container, 9)
                    assert exit_of(client, container) == Signalled(9)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=cycles, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with runtime.client() as client:
        assert client.umount(*names) == tuple(api.response.Ok(Container.parse(n)) for n in names)
        for name in names:
            client.uninstall(name)
    shutil.rmtree(runtime.directory / "pack")
    runtime.assert_no_leak(before)
    runtime.stop()


def test_containers_end_with_a_killed_runtime_and_run_under_the_next(
    make_runtime: Any, payload: Path
) -> None:
    runtime = make_runtime()
    names = [install(runtime, payload, f"app{n}", args=SLEEP) for n in range(5)]
    with runtime.client() as client:
        pids = []
        for name in names:
            client.start(name)
            process = client.inspect(name).process
            assert process is not None
            pids.append(process.pid)
    runtime.kill()
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
    runtime.start()
    names = [install(runtime, payload, f"app{n}", args=SLEEP) for n in range(5)]
    with runtime.client() as client:
        for name in names:
            client.start(name)
    runtime.stop()


@pytest.mark.parametrize("how", ["request", "SIGINT", "SIGTERM", "SIGHUP"])
def test_shutdown_ends_everything_in_order(make_runtime: Any, payload: Path, how: str) -> None:
    # Only one case waits for the default timeout; the others differ only in their trigger.
    runtime = make_runtime(top="" if how == "request" else 'shutdown_timeout = "200ms"')
    polite = install(runtime, payload, "polite", args=SLEEP)
    stubborn = install(runtime, payload, "stubborn", args=["ignore", "TERM", ";", "pause"])
    with runtime.client(subscribe=True) as events, runtime.client() as client:
        client.start(polite)
        client.start(stubborn)
        begun = time.monotonic()
        if how == "request":
            client.shutdown()
        else:
            os.kill(runtime.pid, getattr(signal, how))
        seen = list(until_closed(events))
    ours = [e for e in seen if isinstance(e, notification.Exit | notification.Shutdown)]
    assert ours == [
        notification.Shutdown(),
        notification.Exit(Container.parse(polite), Signalled(15)),
        notification.Exit(Container.parse(stubborn), Signalled(9)),
    ]
    runtime.wait_exit()
    assert time.monotonic() - begun < 5
    assert "Shutdown complete" in runtime.text()
