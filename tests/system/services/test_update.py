"""Updates on a real runtime: a new version is tried, and kept or removed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from northstar.api import ContainerState, RefusedError, notification, request, response
from northstar.client import blocking
from northstar.model import NorthstarError
from tests.system.containers import PIPES, split
from tests.system.disks import fill, mounted
from tests.system.harness import TIMEOUT, RuntimeProcess, manifest, pack, wait_until
from tests.system.services.test_restart import status, wait_state

pytestmark = pytest.mark.root

PERMISSIONS = '["full", "update"]'
OLD, NEW = "app:1.0.0", "app:1.1.0"
NOTIFY: dict[str, Any] = {"notify": "/run/notify", "ready": {"probe": "notify"}}
SERVE = "notify-open - ; notify READY=1 ; pause"
NSTAR = "import sys; from northstar.cli.nstar import main; sys.exit(main())"
PERSIST = {"/data": {"type": "persist"}}


class Device:
    """A runtime with a repository `fs`, in which an app is updated.

    Each version writes its number to its persistent data when it starts.
    """

    def __init__(
        self, make_runtime: Callable[..., RuntimeProcess], directory: Path, payload: Path
    ) -> None:
        self.store = directory / "store"
        self.store.mkdir(exist_ok=True)
        self._make = make_runtime
        self._directory = directory
        self._payload = payload
        self.runtime: RuntimeProcess

    def start(self, lines: str = "", **options: Any) -> RuntimeProcess:
        """Make and start the runtime; `lines` are those of its repository."""
        table = f'type = {{ fs = {{ dir = "{self.store}" }} }}\n{lines}'
        data_dir, start = options.pop("data_dir", None), options.pop("start", True)
        self.runtime = self._make(
            start=False,
            repositories={"fs": table, "other": 'type = "mem"'},
            **{"permissions": PERMISSIONS, **options},
        )
        if data_dir is not None:
            self.runtime.data_dir.symlink_to(data_dir)
        return self.runtime.start() if start else self.runtime

    def package(self, version: str = "1.1.0", words: str = SERVE, **fields: Any) -> Path:
        """Pack a version; `update`, `service` and others are fields of its manifest."""
        update = {"window": "1s", "data": "snapshot", **fields.pop("update", {})}
        service = {**NOTIFY, "update": update, **fields.pop("service", {})}
        if fields.pop("writes", True):
            words = f"write /data/version {version} ; {words}"
        text = manifest(
            fields.pop("name", "app"),
            version,
            **{"args": split(words), "io": PIPES, "mounts": PERSIST, "service": service, **fields},
        )
        return pack(self._directory, text, {"payload": self._payload})

    def install(self, version: str = "1.0.0", words: str = SERVE, **fields: Any) -> None:
        """Store a version before the runtime starts; by default the boot starts it."""
        fields = {"autostart": "relaxed", **fields}
        shutil.copy(self.package(version, words, **fields), self.store)

    @property
    def state_file(self) -> Path:
        return self.runtime.data_dir / ".northstar-state:" / "state.json"

    def data(self) -> str:
        """Return the version that has written the data last."""
        return (self.runtime.data_dir / "app" / "version").read_text()

    def assert_runs(self, container: str, floor: str | None = None) -> None:
        """Check that exactly this version is there, is up, has written the data; and all is clean.

        Args:
            container: the version.
            floor: the floor in the state file.
        """
        with self.runtime.client() as client:
            wait_until(lambda: [str(c) for c in client.list()] == [container], f"{container} alone")
            wait_state(client, ContainerState.READY, container)
        assert self.data() == container.partition(":")[2]
        files = [name for name in os.listdir(self.store) if name.startswith((".", "app"))]
        assert len(files) == 1, files
        wait_until(lambda: self._cleaned(floor), f"the state is removed: {self._state()}")

    def held(self) -> dict[str, int]:
        """Return how many objects of each kind the runtime holds: their names have versions."""
        found = self.runtime.snapshot()
        files = [f for f in found.files if f.startswith(("run/", "socket/", "store/"))]
        return {k: len(v) for k, v in found._replace(files=files)._asdict().items()}

    def _cleaned(self, floor: str | None) -> bool:
        floors = {} if floor is None else {"app": floor}
        content = json.loads(self.state_file.read_bytes()) if self.state_file.exists() else {}
        return (
            content.get("updates", {}) == {}
            and content.get("floors", {}) == floors
            and set(self._state()) <= {"state.json", "data"}
            and set(os.listdir(self.runtime.data_dir)) <= {".northstar-state:", "app"}
        )

    def _state(self) -> list[str]:
        directory = self.state_file.parent
        copies = directory / "data"
        found = os.listdir(directory) if directory.exists() else []
        return found + (os.listdir(copies) if copies.exists() else [])


@pytest.fixture
def device(make_runtime: Any, tmp_path: Path, payload: Path) -> Device:
    return Device(make_runtime, tmp_path, payload)


@pytest.fixture
def booted(device: Device) -> Device:
    """A device that runs the old version."""
    device.install()
    device.start()
    with device.runtime.client() as client:
        wait_state(client, ContainerState.READY)
    return device


def refused(client: blocking.Client, package: Path, repository: str = "fs") -> str:
    with pytest.raises(RefusedError) as caught:
        client.update(package, repository)
    return str(caught.value.error)


def phases(seen: list[notification.Notification]) -> list[str]:
    return [m.update.phase for m in seen if isinstance(m, notification.Update)]


class Trial:
    """An update whose new version is on trial; leaving the context disconnects its client."""

    def __init__(self, device: Device, package: Path) -> None:
        self._client = device.runtime.client()
        message = request.Update("fs", package.stat().st_size)
        self._call, line = self._client._session.request(message)
        self._client._send(line + package.read_bytes())
        with device.runtime.client() as other:
            wait_until(
                lambda: (
                    NEW in map(str, other.list())
                    and status(other, NEW).state is ContainerState.READY
                ),
                "the new version is on trial",
            )

    def failure(self) -> str:
        """Return the answer, which is a failure."""
        with pytest.raises(RefusedError) as caught:
            self._client._answer(self._call, response.Update)
        return str(caught.value.error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


# ---- Commit


@pytest.mark.parametrize("data", ["keep", "snapshot"])
def test_a_commit(booted: Device, data: str) -> None:
    before = booted.held()
    seen: list[notification.Notification] = []
    with booted.runtime.client(subscribe=True) as client:
        package = booted.package(update={"data": data})
        done = client.update(package, "fs", watch=seen.append)
        assert (str(done.container), str(done.previous)) == (NEW, OLD)
    assert phases(seen) == ["staged", "trial", "commit", "committed"]
    booted.assert_runs(NEW, floor="1.1.0")
    with booted.runtime.client() as client:
        assert "is older than 1.1.0, which was committed before" not in booted.runtime.text()
        client.update(booted.package("1.2.0"), "fs")
    booted.assert_runs("app:1.2.0", floor="1.2.0")
    wait_until(lambda: booted.held() == before, "nothing is left behind")


def test_a_version_that_ends_with_code_0_has_succeeded(booted: Device) -> None:
    restart = {"restart": {"policy": "on-failure"}}
    with booted.runtime.client() as client:
        client.update(booted.package(words="exit 0", service=restart), "fs")
        assert [str(c) for c in client.list()] == [NEW]
        assert status(client, NEW).state is ContainerState.INSTALLED


def test_without_a_service_section(device: Device) -> None:
    """The window of 60s is not waited for: the app ends with code 0."""
    for version, words in (("1.0.0", "pause"), ("1.1.0", "exit 0")):
        text = manifest("app", version, args=split(words), io=PIPES)
        package = pack(device._directory, text, {"payload": device._payload})
        if version == "1.0.0":
            shutil.copy(package, device.store)
    runtime = device.start()
    with runtime.client() as client:
        client.start("app")
        assert str(client.update(package, "fs").container) == NEW


def test_what_status_says_meanwhile(booted: Device) -> None:
    package = booted.package(update={"window": "1h"})
    with Trial(booted, package), booted.runtime.client() as client:
        assert status(client, OLD).reason == f"being replaced by {NEW}"
        found = status(client, NEW)
        assert (found.state, found.reason) == (ContainerState.READY, "on trial for 3600s")
        client.stop(NEW)
        wait_until(lambda: [str(c) for c in client.list()] == [OLD], "it is rolled back")


def test_an_asyncio_client(booted: Device) -> None:
    import asyncio

    from northstar.client import Client

    async def update() -> response.UpdateOk:
        async with await Client.connect(booted.runtime.url) as client:
            return await client.update(booted.package(), "fs")

    assert str(asyncio.run(update()).container) == NEW


# ---- Rollback


@pytest.mark.parametrize("data", ["keep", "snapshot"])
@pytest.mark.parametrize(
    ("words", "fields", "reason"),
    [
        ("exit 0", {"init": "/nothing"}, "No such file or directory"),
        ("exit 3", {}, "exit 3"),
        ("pause", {"service": {"ready": {"probe": "notify", "timeout": "1s"}}}, "not ready within"),
        ("notify-open - ; notify READY=1 ; sleep 0.9 ; exit 7", {}, "exit 7"),
        ("raise 11", {}, "SIGSEGV"),
        ("exit 0", {"service": {"restart": {"policy": "always"}}}, "exit 0"),
        ("notify-open - ; notify READY=1 ; notify WATCHDOG=trigger ; pause", {}, "watchdog"),
        (
            "notify-open - ; notify READY=1 ; pause",
            {"service": {"watchdog": "500ms"}},
            "watchdog",
        ),
    ],
    ids=["no-program", "exit", "not-ready", "late-exit", "signal", "always", "trigger", "watchdog"],
)
def test_a_rollback(
    booted: Device, words: str, fields: dict[str, Any], reason: str, data: str
) -> None:
    before = booted.held()
    seen: list[notification.Notification] = []
    package = booted.package(words=words, update={"data": data}, **fields)
    with booted.runtime.client(subscribe=True) as client, pytest.raises(RefusedError) as caught:
        client.update(package, "fs", watch=seen.append)
    text = str(caught.value.error)
    assert text.startswith(f"rolled back to {OLD}: {NEW}: "), text
    assert reason in text
    assert phases(seen) == ["staged", "trial", "rollback", "rolled_back"]
    # With `keep` the old version writes again at its start, with `snapshot` its data is back.
    booted.assert_runs(OLD)
    wait_until(lambda: booted.held() == before, "nothing is left behind")


def test_the_old_data_is_back_before_the_old_version_starts(device: Device) -> None:
    """The old version keeps what it finds: only the copy can bring its number back."""
    device.install(words="notify-open - ; notify READY=1 ; pause")
    device.start()
    with device.runtime.client() as client:
        wait_state(client, ContainerState.READY)
        data = device.runtime.data_dir / "app"
        (data / "only").write_text("of the old version")
        package = device.package(words="write /data/new x ; exit 1")
        assert "exit 1" in refused(client, package)
        assert sorted(os.listdir(data)) == ["only", "version"]
        package = device.package(words="write /data/new x ; exit 1", update={"data": "keep"})
        assert "exit 1" in refused(client, package)
        assert sorted(os.listdir(data)) == ["new", "only", "version"]


def test_a_fork_bomb_is_never_ready(booted: Device) -> None:
    before = booted.held()
    package = booted.package(
        words="ignore TERM ; bomb ; pause",
        service={"ready": {"probe": "notify", "timeout": "300ms"}, "stop": {"timeout": "200ms"}},
        cgroups={"pids": {"max": 30}},
    )
    with booted.runtime.client() as client:
        assert "not ready within 300ms" in refused(client, package)
    booted.assert_runs(OLD)
    wait_until(lambda: booted.held() == before, "nothing is left behind")


def test_an_app_with_a_resource(device: Device) -> None:
    """The resource stays; without it the new version is refused before anything is touched."""
    lib = manifest("lib", "1.0.0", init=None)
    shutil.copy(pack(device._directory, lib, {"file": "x"}), device.store)
    mount = {"type": "resource", "name": "lib", "version": "1", "dir": "/"}
    mounts = {**PERSIST, "/lib": mount}
    device.install(mounts=mounts)
    with device.start().client() as client:
        wait_state(client, ContainerState.READY)
        newer = device.package(mounts={**PERSIST, "/lib": {**mount, "version": "2"}})
        assert "lib" in refused(client, newer)
        failing = device.package(mounts=mounts, words="exit 1")
        assert "exit 1" in refused(client, failing)
        wait_state(client, ContainerState.READY, OLD)
        client.update(device.package(mounts=mounts), "fs")
        assert [str(c) for c in client.list()] == [NEW, "lib:1.0.0"]
        assert status(client, NEW).state is ContainerState.READY
        with pytest.raises(RefusedError):
            client.uninstall("lib")


def test_a_cycle_is_refused(device: Device) -> None:
    device.install()
    device.install(name="other", service={"after": ["app"]})
    with device.start().client() as client:
        wait_state(client, ContainerState.READY, "other")
        text = refused(client, device.package(service={"after": ["other"]}))
        assert "service.after makes a cycle" in text
        assert status(client, OLD).state is ContainerState.READY
        assert len(client.list()) == 2


@pytest.mark.parametrize("act", ["stop", "kill"])
def test_a_client_ends_the_new_version(booted: Device, act: str) -> None:
    with Trial(booted, booted.package(update={"window": "1h"})) as trial:
        with booted.runtime.client() as client:
            if act == "stop":
                client.stop(NEW)
            else:
                client.kill(NEW, signal.SIGKILL)
        assert trial.failure().startswith(f"rolled back to {OLD}: {NEW}: ")
    booted.assert_runs(OLD)


def test_a_full_disk_of_the_new_version(
    device: Device, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It fills its data, and fails: the copy is renamed, which needs no space."""
    with mounted("tmpfs", tmp_path_factory.mktemp("disk"), size=2**21) as disk:
        device.install()
        runtime = device.start(data_dir=disk)
        words = "fill /data/full 100000000 ; exit 5"
        with runtime.client() as client:
            wait_state(client, ContainerState.READY)
            assert "exit 5" in refused(client, device.package(words=words))
        device.assert_runs(OLD)
        runtime.stop()


# ---- Refusals


def test_what_is_refused(booted: Device) -> None:
    before = booted.held()
    files = sorted(os.listdir(booted.store))
    resource = pack(booted._directory, manifest("app", "1.1.0", init=None), {"file": "x"})
    with booted.runtime.client() as client:
        assert "is a resource, which has no health" in refused(client, resource)
        assert refused(client, booted.package("1.0.0")) == f"{OLD} is not newer than {OLD}"
        assert refused(client, booted.package("0.9.0")) == f"app:0.9.0 is not newer than {OLD}"
        assert refused(client, booted.package(), "other") == (
            f"{OLD} is in the repository fs, not in other"
        )
        assert "nothing" in refused(client, booted.package(), "nothing")
        broken = booted._directory / "broken.npk"
        broken.write_bytes(b"no package")
        assert "zip" in refused(client, broken).lower()
        needs = {"/lib": {"type": "resource", "name": "lib", "version": "*", "dir": "/"}}
        missing = refused(client, booted.package(mounts={**PERSIST, **needs}))
        assert "lib" in missing
        group = refused(client, booted.package(suppl_groups=["root"]))
        assert "supplementary group root" in group
        client.stop("app")
        assert refused(client, booted.package()) == (
            "app is not wanted up, so a new version cannot be tried: start it, or install and "
            "uninstall"
        )
        client.start("app")
    assert sorted(os.listdir(booted.store)) == files
    booted.assert_runs(OLD)
    assert "state.json.part" not in booted._state()
    wait_until(lambda: booted.held() == before, "nothing is left behind")


def test_without_the_permission(device: Device) -> None:
    device.install()
    device.start(permissions='"full"')
    with device.runtime.client() as client, pytest.raises(NorthstarError, match="permission"):
        client.update(device.package(), "fs")
    assert len(os.listdir(device.store)) == 1


def test_a_repository_that_is_full(device: Device) -> None:
    device.install()
    device.start("capacity_num = 1")
    with device.runtime.client() as client:
        wait_state(client, ContainerState.READY)
        assert "is full: its capacity_num is 1" in refused(client, device.package())
    device.assert_runs(OLD)


def test_no_room_for_the_copy_or_the_state_file(
    device: Device, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with mounted("tmpfs", tmp_path_factory.mktemp("disk"), size=2**19) as disk:
        device.install()
        runtime = device.start(data_dir=disk)
        large = disk / "app" / "large"
        with runtime.client() as client:
            wait_state(client, ContainerState.READY)
            large.write_bytes(bytes(300 * 1024))
            text = refused(client, device.package())
            assert "a snapshot of the data of app needs" in text
            full = fill(disk)
            text = refused(client, device.package(update={"data": "keep"}))
            assert "No space left on device" in text
            full.unlink()
            large.unlink()
            client.update(device.package(), "fs")
        device.assert_runs(NEW, floor="1.1.0")
        runtime.stop()


def test_what_is_refused_during_an_update(booted: Device) -> None:
    with Trial(booted, booted.package(update={"window": "1h"})), booted.runtime.client() as client:
        other = refused(client, booted.package("1.2.0"))
        assert other == f"app is being updated already, to {NEW}"
        for container in (OLD, NEW):
            with pytest.raises(RefusedError, match=f"{OLD} is being replaced by {NEW}"):
                client.uninstall(container)
        with pytest.raises(RefusedError, match=f"{NEW} is running already"):
            client.start(OLD)
        # Another version may be installed, and removed, but not with the data of the name.
        client.install(booted.package("0.9.0"), "fs")
        with pytest.raises(RefusedError):
            client.uninstall("app:0.9.0", wipe=True)
        client.uninstall("app:0.9.0")
        client.stop(NEW)
        wait_until(lambda: [str(c) for c in client.list()] == [OLD], "it is rolled back")
    booted.assert_runs(OLD)


# ---- Interruptions


def test_a_shutdown_in_the_window(booted: Device) -> None:
    with Trial(booted, booted.package(update={"window": "10m"})) as trial:
        os.kill(booted.runtime.pid, signal.SIGTERM)
        assert trial.failure() == (
            f"the runtime is shutting down: the update to {NEW} goes on at its next start"
        )
    booted.runtime.wait_exit()
    state = json.loads(booted.state_file.read_bytes())
    assert state["updates"]["app"]["phase"] == "trial"
    assert state["updates"]["app"]["tries"] == 1
    # The window begins again; three boots are allowed.
    for tries in (2, 3):
        booted.runtime.start()
        with booted.runtime.client() as client:
            wait_state(client, ContainerState.READY, NEW)
            assert status(client, OLD).state is ContainerState.INSTALLED
        state = json.loads(booted.state_file.read_bytes())
        assert state["updates"]["app"]["tries"] == tries
        booted.runtime.kill()
    since = len(booted.runtime.text())
    booted.runtime.start()
    booted.runtime.wait_log("has failed: it was interrupted 3 times", since=since)
    booted.assert_runs(OLD)


def test_a_boot_goes_on_to_the_commit(booted: Device) -> None:
    with Trial(booted, booted.package(update={"window": "2s"})):
        pass
    booted.runtime.kill()
    booted.runtime.start()
    booted.assert_runs(NEW, floor="1.1.0")


def test_a_client_that_leaves_during_the_upload(booted: Device) -> None:
    before = booted.held()
    package = booted.package().read_bytes()
    with booted.runtime.client() as client:
        _, line = client._session.request(request.Update("fs", len(package)))
        client._send(line + package[: len(package) // 2])
        wait_until(lambda: len(os.listdir(booted.store)) == 2, "a part is stored")
    wait_until(lambda: len(os.listdir(booted.store)) == 1, "it is removed")
    booted.assert_runs(OLD)
    wait_until(lambda: booted.held() == before, "nothing is left behind")


def test_a_client_that_leaves_after_the_upload(booted: Device) -> None:
    with Trial(booted, booted.package()):
        pass
    booted.assert_runs(NEW, floor="1.1.0")


def test_a_client_of_0_9_2_sees_all_of_it(booted: Device) -> None:
    seen: list[str] = []
    with booted.runtime.client(subscribe=True, extended=False) as old:
        with booted.runtime.client() as client:
            client.update(booted.package(), "fs")
            assert refused(client, booted.package("1.2.0", words="exit 1"))
        for message in old.notifications():
            assert not isinstance(message, notification.State | notification.Update)
            seen.append(f"{type(message).__name__} {message.container}")  # type: ignore[union-attr]
            if seen[-2:] == ["Uninstall app:1.2.0", f"Started {NEW}"]:
                break
    assert seen == [
        *(f"Install {NEW}", f"Exit {OLD}", f"Started {NEW}", f"Uninstall {OLD}"),
        *("Install app:1.2.0", f"Exit {NEW}", "Started app:1.2.0", "Exit app:1.2.0"),
        *("Uninstall app:1.2.0", f"Started {NEW}"),
    ]


# ---- The floor


def test_the_floor(booted: Device) -> None:
    with booted.runtime.client() as client:
        client.update(booted.package(), "fs")
        client.stop("app")
        client.uninstall("app")
        # Any version can be installed, but not by an update below the floor.
        client.install(booted.package("0.8.0"), "fs")
        client.start("app")
        assert refused(client, booted.package("0.9.0")) == (
            "app:0.9.0 is older than 1.1.0, which was committed before"
        )
        client.update(booted.package("1.2.0"), "fs")
    booted.assert_runs("app:1.2.0", floor="1.2.0")


def test_anti_downgrade(device: Device) -> None:
    device.install()
    device.start("anti_downgrade = true")
    with device.runtime.client() as client:
        wait_state(client, ContainerState.READY)
        client.update(device.package(), "fs")
        with pytest.raises(RefusedError, match=r"app:1\.0\.0 is older than 1\.1\.0, which was"):
            client.install(device.package("1.0.0"), "fs")
    device.runtime.stop()
    shutil.copy(device.package("1.0.0"), device.store / "old.npk")
    since = len(device.runtime.text())
    device.runtime.start()
    device.runtime.wait_log(
        r"WARN .*Skipping .*/old\.npk: app:1\.0\.0 is older than 1\.1\.0", since=since
    )
    with device.runtime.client() as client:
        assert [str(c) for c in client.list()] == [NEW]


@pytest.mark.parametrize(
    "content", [b"", b'{"format":1,"updates":{"app":{"repo', b'{"format":2}', b"own"]
)
def test_a_state_file_that_is_lost(device: Device, content: bytes) -> None:
    """Floors are then the newest installed versions, and stay so."""
    device.install("1.1.0")
    device.start("anti_downgrade = true")
    device.runtime.stop()
    device.state_file.parent.mkdir(exist_ok=True)
    if content == b"own":
        update = {"repository": "fs", "old": "app:1.0.0", "new": "b:1.0.0", "data": "keep"}
        update["phase"] = "trial"
        content = json.dumps({"format": 1, "updates": {"app": update}}).encode()
    device.state_file.write_bytes(content)
    device.runtime.start()
    device.runtime.wait_log("ERROR .*Cannot use the state file")
    device.runtime.wait_log("The floors of all names are now their newest installed versions")
    device.runtime.stop()
    assert json.loads(device.state_file.read_bytes())["floors"] == {"app": "1.1.0"}
    device.runtime.start()
    with device.runtime.client() as client, pytest.raises(RefusedError, match="older than"):
        client.install(device.package("1.0.0"), "fs")


def test_a_record_whose_packages_are_gone(device: Device) -> None:
    runtime = device.start()
    runtime.stop()
    update = {"repository": "fs", "old": OLD, "new": NEW, "data": "keep", "phase": "trial"}
    device.state_file.parent.mkdir(exist_ok=True)
    device.state_file.write_text(json.dumps({"format": 1, "updates": {"app": update}}))
    runtime.start()
    runtime.wait_log(r"WARN .*is dropped: both packages are gone")
    wait_until(lambda: json.loads(device.state_file.read_bytes())["updates"] == {}, "it is removed")


# ---- The command


def test_the_command(booted: Device) -> None:
    done = booted.runtime.nstar("update", str(booted.package()), "fs")
    assert done.stdout.splitlines() == [
        *(f"{NEW} received", f"{OLD} stopped", f"{NEW} ready", "healthy for 1s"),
        f"updated {OLD} to {NEW}",
    ]
    package = booted.package("1.2.0", words="exit 4")
    failed = booted.runtime.nstar("update", str(package), "fs", check=False)
    assert failed.returncode == 1
    assert failed.stderr == f"error: rolled back to {NEW}: app:1.2.0: exit 4\n"
    missing = booted.runtime.nstar("update", "/nothing", "fs", check=False)
    assert "No such file or directory" in missing.stderr


def test_the_command_without_notifications(device: Device) -> None:
    device.install()
    device.start(permissions='["update"]')
    device.runtime.wait_log(r"State of app:1\.0\.0: ready")
    done = device.runtime.nstar("update", str(device.package()), "fs")
    assert done.stdout == f"updated {OLD} to {NEW}\n"


def test_the_command_detaches(booted: Device) -> None:
    package = booted.package(update={"window": "4s"})
    command = subprocess.Popen(
        booted.runtime.enter(sys.executable, "-c", NSTAR, "update", str(package), "fs"),
        env={**os.environ, "NORTHSTAR_URL": booted.runtime.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    for line in command.stdout:
        if line == f"{NEW} ready\n":
            break
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=TIMEOUT)
    assert command.returncode == 130
    assert err == "the update goes on: `nstar status` shows how far it is\n"
    booted.assert_runs(NEW, floor="1.1.0")


def test_the_command_on_a_terminal(booted: Device) -> None:
    """The phases are in one line, below the bar of the upload, which vanishes."""
    package = booted.package("1.2.0", words="notify-open - ; notify READY=1 ; sleep 0.5 ; exit 4")
    assert terminal(booted, booted.package())[-2:] == [
        f"{NEW} received, {OLD} stopped, {NEW} ready, healthy for 1s",
        f"updated {OLD} to {NEW}",
    ]
    assert terminal(booted, package)[-2:] == [
        f"app:1.2.0 received, {NEW} stopped, app:1.2.0 ready",
        f"error: rolled back to {NEW}: app:1.2.0: exit 4",
    ]


def terminal(device: Device, package: Path) -> list[str]:
    """Run the command on a terminal, and return the lines that it shows, without control codes."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        device.runtime.enter(sys.executable, "-c", NSTAR, "update", str(package), "fs"),
        env={**os.environ, "NORTHSTAR_URL": device.runtime.url, "NO_COLOR": "1", "TERM": "xterm"},
        stdout=theirs,
        stderr=theirs,
    ) as command:
        os.close(theirs)
        text = b""
        with open(ours, "rb", buffering=0) as screen, contextlib.suppress(OSError):  # EIO: the end
            while data := screen.read(4096):
                text += data
        command.wait(TIMEOUT)
    plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", text).decode()
    return [line.rpartition("\r")[2] for line in plain.replace("\r\n", "\n").splitlines() if line]


def test_a_repository_in_memory(device: Device) -> None:
    """After a restart of the runtime both packages are gone, and so is the update."""
    runtime = device.start()
    with runtime.client() as client:
        client.install(device.package("1.0.0"), "other")
        client.start("app")
        before = device.held()
        assert "exit 1" in refused(client, device.package(words="exit 1"), "other")
        wait_state(client, ContainerState.READY, OLD)
        wait_until(lambda: device.held() == before, "nothing is left behind")
        done = client.update(device.package(), "other")
        assert str(done.container) == NEW
        wait_until(lambda: device.held() == before, "nothing is left behind")
    runtime.kill()
    runtime.start()
    with runtime.client() as client:
        assert client.list() == ()
