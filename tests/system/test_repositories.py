"""Repositories on a real disk: loading, storing, refusals; nothing is left behind."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api, npk
from northstar.api import error, notification
from northstar.client import blocking
from northstar.model import Container
from tests.system.containers import OK, exit_of, raw, refused
from tests.system.harness import NO_KEY, PATIENCE, RuntimeProcess, manifest, pack, wait_until

pytestmark = pytest.mark.root

C = Container.parse


@pytest.fixture
def make(make_runtime: Callable[..., Any], store: Path) -> Callable[..., Any]:
    """Make a runtime with the repositories `mem`, and `fs` in `store`."""

    def fs(lines: str = "", mem: str = "", **options: Any) -> RuntimeProcess:
        table = f'type = {{ fs = {{ dir = "{store}" }} }}\n{lines}'
        runtime: RuntimeProcess = make_runtime(
            repositories={"fs": table, "mem": f'type = "mem"\n{mem}'}, **options
        )
        return runtime

    return fs


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> Callable[[str], Path]:
    """Return the package of a container, `name:version`; each is packed once."""
    directory = tmp_path_factory.mktemp("packages")

    @functools.cache
    def package(container: str) -> Path:
        name, version = container.split(":")
        text = manifest(name, version, args=["exit", "0"])
        return pack(directory, text, {"payload": payload})

    return package


def names(client: blocking.Client) -> list[str]:
    return [str(container) for container in client.list()]


@pytest.mark.vm
def test_packages_are_loaded_and_other_files_ignored(make: Any, store: Path, packages: Any) -> None:
    odd = ["plain.npk", "no extension", ".hidden", "-rf", "line\nbreak", "ümlaut", "x" * 200]
    stored = [os.path.join(store, name) for name in odd]
    stored.append(os.fsdecode(os.fsencode(store) + b"/\xff\xfe"))
    for number, path in enumerate(stored):
        shutil.copy(packages(f"app{number}:1.0.0"), path)
    (store / "junk").write_bytes(b"no package at all")
    (store / "empty").touch()
    (store / "directory").mkdir()
    (store / "directory" / "inner.npk").write_bytes(packages("inner:1.0.0").read_bytes())
    os.mkfifo(store / "fifo")
    (store / "dangling").symlink_to("nothing")
    (store / "loop").symlink_to("loop")
    (store / "null").symlink_to("/dev/zero")
    whole = packages("cut:1.0.0").read_bytes()
    (store / "cut.npk").write_bytes(whole[: len(whole) // 2])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(store / "socket"))
    before = sorted(os.listdir(store))
    runtime = make()
    with runtime.client(subscribe=True) as client:
        assert names(client) == [f"app{number}:1.0.0" for number in range(len(stored))]
        bad = (
            "junk",
            "empty",
            "directory",
            "fifo",
            "dangling",
            "loop",
            "null",
            "cut.npk",
            "socket",
        )
        for name in bad:
            runtime.wait_log(rf"WARN\w* .*{store}/{name}\b.*")
        # They work, and uninstall removes exactly that file.
        for number, path in enumerate(stored):
            container = f"app{number}:1.0.0"
            client.start(container)
            assert exit_of(client, container) == OK
            client.uninstall(container)
            assert not os.path.exists(path)
        assert client.list() == ()
    assert sorted(os.listdir(store)) == sorted(set(before) - {os.path.basename(p) for p in stored})
    assert "Traceback" not in runtime.text()
    runtime.stop()


def test_a_known_package_is_skipped(make: Any, store: Path, packages: Any) -> None:
    for name in ("b.npk", "a.npk", "c.npk"):
        shutil.copy(packages("app:1.0.0"), store / name)
    runtime = make()
    runtime.wait_log(r"WARN\w* .*b\.npk.*app:1\.0\.0 is already known")
    runtime.wait_log(r"WARN\w* .*c\.npk.*app:1\.0\.0 is already known")
    with runtime.client() as client:
        assert names(client) == ["app:1.0.0"]
        client.uninstall("app:1.0.0")
        assert sorted(os.listdir(store)) == ["b.npk", "c.npk"]
        # A package that is installed already is not lost, whatever its file name.
        client.install(packages("app:1.0.0"), "fs")
    assert len(os.listdir(store)) == 3


def test_the_first_of_two_repositories_counts(
    make_runtime: Any, tmp_path: Path, packages: Any
) -> None:
    tables = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(packages("app:1.0.0"), tmp_path / name / "app.npk")
        tables[name] = f'type = {{ fs = {{ dir = "{tmp_path / name}" }} }}'
    runtime = make_runtime(repositories=tables)
    with runtime.client() as client:
        assert client.inspect("app:1.0.0").repository == "one"
        assert client.repositories() == ("one", "two")
        runtime.wait_log(rf"WARN\w* .*{tmp_path}/two/app\.npk")
        duplicate = error.InstallDuplicate(C("app:1.0.0"))
        for name in ("one", "two"):
            answer = refused(functools.partial(client.install, packages("app:1.0.0"), name))
            assert answer == duplicate
    assert os.listdir(tmp_path / "one") == os.listdir(tmp_path / "two") == ["app.npk"]


@pytest.mark.vm
def test_install_and_uninstall(make: Any, store: Path, packages: Any) -> None:
    runtime = make()
    with runtime.client(subscribe=True) as client:
        assert client.install(packages("app:1.0.0"), "fs") == C("app:1.0.0")
        assert os.listdir(store) == ["app:1.0.0.npk"]
        assert (store / "app:1.0.0.npk").read_bytes() == packages("app:1.0.0").read_bytes()
        assert refused(lambda: client.install(packages("app:1.0.0"), "fs")) == (
            error.InstallDuplicate(C("app:1.0.0"))
        )
        assert refused(lambda: client.install(packages("app:1.0.0"), "mem")) == (
            error.InstallDuplicate(C("app:1.0.0"))
        )
        assert refused(lambda: client.install(packages("app:1.0.0"), "no")) == (
            error.InvalidRepository("no")
        )
        assert os.listdir(store) == ["app:1.0.0.npk"]
        client.start("app:1.0.0")
        assert exit_of(client, "app:1.0.0") == OK
    runtime.stop()
    runtime.start()
    with runtime.client(subscribe=True, extended=False) as client:
        assert names(client) == ["app:1.0.0"]
        client.start("app:1.0.0")
        assert exit_of(client, "app:1.0.0") == OK
        client.uninstall("app:1.0.0")
        assert next(client.notifications(timeout=5)) == notification.Uninstall(C("app:1.0.0"))
        assert os.listdir(store) == []
    runtime.stop()


def test_a_file_in_place_of_a_new_package(make: Any, store: Path, packages: Any) -> None:
    (store / "app:1.0.0.npk").mkdir()
    shutil.copy(packages("other:1.0.0"), store / "app:2.0.0.npk")
    runtime = make()
    with runtime.client() as client:
        client.install(packages("app:1.0.0"), "fs")
        client.install(packages("app:2.0.0"), "fs")
        assert names(client) == ["app:1.0.0", "app:2.0.0", "other:1.0.0"]
    runtime.stop()
    runtime.start()
    with runtime.client() as client:
        assert names(client) == ["app:1.0.0", "app:2.0.0", "other:1.0.0"]
        for name in names(client):
            client.uninstall(name)
    assert os.listdir(store) == ["app:1.0.0.npk"]


@pytest.mark.parametrize("repository", ["fs", "mem"])
def test_an_invalid_package_leaves_nothing(
    make: Any, store: Path, packages: Any, repository: str
) -> None:
    runtime = make()
    before = runtime.snapshot()
    whole = packages("app:1.0.0").read_bytes()
    renamed = whole.replace(b"name: app", b"name: a/b")
    assert renamed != whole
    for bad in (b"", b"junk" * 1000, whole[:-1], whole + b"x", renamed):
        with runtime.client() as client:
            answer = refused(functools.partial(client.install, bad, repository))
            assert isinstance(answer, error.Unexpected)
            assert "Error:" not in str(answer)
            assert client.list() == ()
    assert os.listdir(store) == []
    runtime.assert_no_leak(before)


@pytest.mark.vm
@pytest.mark.parametrize("repository", ["fs", "mem"])
def test_a_disconnect_during_an_install_leaves_nothing(
    make: Any, store: Path, packages: Any, repository: str
) -> None:
    runtime = make()
    whole = packages("app:1.0.0").read_bytes()
    before = runtime.snapshot()
    for sent in (0, 1, len(whole) // 2, len(whole) - 1):
        with begin(runtime, repository, len(whole)) as stream:
            stream.sendall(whole[:sent])
            if repository == "fs":
                wait_until(lambda: os.listdir(store) != [], "a temporary file")
        wait_until(lambda: os.listdir(store) == [], "the temporary file is removed")
    runtime.assert_no_leak(before)
    with runtime.client() as client:
        assert client.list() == ()
        client.install(whole, repository)


def begin(runtime: RuntimeProcess, repository: str, size: int) -> socket.socket:
    """Connect, and request an install; the caller sends the bytes."""
    stream = raw(runtime)
    connect = {"connect": {"version": "0.9.2", "subscribe_notifications": False}}
    request = {"request": {"install": {"repository": repository, "size": size}}}
    stream.sendall(f"{json.dumps(connect)}\n".encode())
    assert stream.recv(1000) == b'{"connect_ack":null}\n'
    stream.sendall(f"{json.dumps(request)}\n".encode())
    return stream


@pytest.mark.vm
def test_a_runtime_killed_during_an_install_leaves_nothing(
    make: Any, store: Path, packages: Any
) -> None:
    runtime = make()
    whole = packages("app:1.0.0").read_bytes()
    with begin(runtime, "fs", len(whole)) as stream:
        stream.sendall(whole[:-1])
        wait_until(lambda: os.listdir(store) != [], "a temporary file")
        runtime.kill()
    assert len(os.listdir(store)) == 1
    runtime.start()
    assert os.listdir(store) == []
    with runtime.client() as client:
        assert client.list() == ()
        client.install(whole, "fs")
        assert names(client) == ["app:1.0.0"]


def test_a_shutdown_during_an_install_leaves_nothing(make: Any, store: Path, packages: Any) -> None:
    runtime = make()
    whole = packages("app:1.0.0").read_bytes()
    with begin(runtime, "fs", len(whole)) as stream:
        stream.sendall(whole[:-1])
        wait_until(lambda: os.listdir(store) != [], "a temporary file")
        runtime.stop()
    assert os.listdir(store) == []


@pytest.mark.vm
def test_one_of_two_installs_wins(make: Any, store: Path, packages: Any) -> None:
    runtime = make()
    whole = packages("app:1.0.0").read_bytes()
    before = runtime.snapshot()
    for _ in range(3):
        streams = [begin(runtime, into, len(whole)) for into in ("fs", "fs", "mem")]
        for stream in streams:
            stream.sendall(whole[:-1])
        for stream in streams:
            stream.sendall(whole[-1:])
        answers = []
        for stream in streams:
            with stream, stream.makefile("rb") as file:
                answers.append(file.readline())
        ok = b'{"response":{"install":{"ok":{"container":"app:1.0.0"}}}}\n'
        assert answers.count(ok) == 1, answers
        assert sum(b"install_duplicate" in answer for answer in answers) == 2, answers
        with runtime.client() as client:
            assert names(client) == ["app:1.0.0"]
            stored = client.inspect("app:1.0.0").repository
            assert os.listdir(store) == (["app:1.0.0.npk"] if stored == "fs" else [])
            client.uninstall("app:1.0.0")
        assert os.listdir(store) == []
    runtime.assert_no_leak(before)


def test_a_full_disk(make: Any, store: Path, packages: Any) -> None:
    runtime = make()
    full = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(store)]
    subprocess.run(runtime.enter(*full), check=True)
    listing = runtime.enter("ls", "-A", str(store))
    whole = packages("app:1.0.0").read_bytes()
    assert len(whole) > 16384
    before = runtime.snapshot()
    with runtime.client() as client:
        for _ in range(2):
            answer = refused(lambda: client.install(whole, "fs"))
            assert isinstance(answer, error.Unexpected)
            assert "repository fs is full" in str(answer)
            assert subprocess.run(listing, capture_output=True, check=True).stdout == b""
        subprocess.run(runtime.enter("mount", "-o", "remount,ro", str(store)), check=True)
        answer = refused(lambda: client.install(whole, "fs"))
        assert "is read-only" in str(answer)
        assert client.install(whole, "mem") == C("app:1.0.0")
        client.uninstall("app:1.0.0")
    runtime.assert_no_leak(before)


def test_capacities(make: Any, store: Path, packages: Any) -> None:
    size = packages("a:1.0.0").stat().st_size
    # The capacity suffices for two packages; all have the same size.
    assert all(abs(packages(f"{n}:1.0.0").stat().st_size - size) < 100 for n in "abc")
    for limit in ("capacity_num = 2", f'capacity_size = "{2 * size + 500}"'):
        runtime = make(limit)
        before = os.listdir(store)
        assert before == []
        with runtime.client() as client:
            client.install(packages("a:1.0.0"), "fs")
            client.install(packages("b:1.0.0"), "fs")
            answer = refused(lambda: client.install(packages("c:1.0.0"), "fs"))
            assert isinstance(answer, error.Unexpected)
            assert "repository fs is full" in str(answer)
            assert len(os.listdir(store)) == 2
            assert names(client) == ["a:1.0.0", "b:1.0.0"]
            # Other repositories have room, and an uninstall makes room in this one.
            client.install(packages("c:1.0.0"), "mem")
            client.uninstall("a:1.0.0")
            client.install(packages("a:1.0.0"), "fs")
            for name in names(client):
                client.uninstall(name)
        runtime.stop()
        runtime.close()


def test_uploads_do_not_delay_other_clients(
    make: Any, tmp_path: Path, payload: Path, packages: Any
) -> None:
    runtime = make()
    noise = os.urandom(24 * 2**20)
    big = pack(tmp_path, manifest("big"), {"payload": payload, "noise": noise}, compression="none")
    failures: list[BaseException] = []

    def upload() -> None:
        try:
            with runtime.client() as client:
                client.install(big, "fs")
                client.uninstall("big:1.0.0")
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=upload)
    # One upload that has stopped in the middle.
    whole = packages("app:1.0.0").read_bytes()
    with begin(runtime, "fs", len(whole)) as stuck, runtime.client(subscribe=True) as client:
        stuck.sendall(whole[:-1])
        client.install(packages("other:1.0.0"), "mem")
        thread.start()
        taken = []
        while thread.is_alive():
            begun = time.monotonic()
            client.list()
            taken.append(time.monotonic() - begun)
        thread.join()
        assert failures == []
        taken.sort()
        # Also on a busy machine this takes less time than an upload.
        assert taken[len(taken) // 2] < 0.05 * PATIENCE
        assert taken[-1] < 1.0 * PATIENCE
        client.start("other:1.0.0")
        assert exit_of(client, "other:1.0.0") == OK


# ---- With a key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    for name in ("good", "other"):
        npk.generate(name, directory)
    return directory


def test_a_keyed_repository(
    make: Any, store: Path, tmp_path: Path, payload: Path, packages: Any, keys: Path
) -> None:
    def signed(name: str, key: str) -> Path:
        files = {"payload": payload}
        return pack(tmp_path, manifest(name), files, key=(keys / f"{key}.key").read_bytes())

    shutil.copy(packages("unsigned:1.0.0"), store)
    shutil.copy(signed("stored", "good"), store)
    shutil.copy(signed("foreign", "other"), store)
    runtime = make(f'key = "{keys}/good.pub"\nmount_on_start = true', mem=NO_KEY)
    with runtime.client() as client:
        assert names(client) == ["stored:1.0.0"]
        runtime.wait_log(r"WARN\w* .*unsigned-1\.0\.0\.npk")
        runtime.wait_log(r"WARN\w* .*foreign-1\.0\.0\.npk")
        for package in (packages("app:1.0.0"), signed("wrong", "other")):
            answer = refused(functools.partial(client.install, package, "fs"))
            assert isinstance(answer, error.Unexpected)
        assert len(os.listdir(store)) == 3
        client.install(signed("good", "good"), "fs")
        # A repository without a key accepts signed packages too.
        client.install(signed("free", "other"), "mem")
        assert names(client) == ["free:1.0.0", "good:1.0.0", "stored:1.0.0"]
        if not os.path.exists("/dev/mapper/control"):
            (result,) = client.mount("good:1.0.0")
            assert isinstance(result, api.response.Failed)
            assert re.search("dm-verity|device-mapper", str(result.error))
            assert not (runtime.run_dir / "good:1.0.0").exists()
        client.start("free:1.0.0", arguments=("exit", "0"))


def repr_length(content: bytes | None) -> str:
    return "missing" if content is None else f"{len(content)}-bytes"


@pytest.mark.parametrize("content", [None, b"", bytes(31), bytes(33), bytes(32)], ids=repr_length)
def test_a_bad_key_ends_the_start(make: Any, keys: Path, content: bytes | None) -> None:
    key = keys / f"bad-{len(content) if content is not None else 'missing'}.pub"
    if content is not None:
        key.write_bytes(content)
    runtime = make(f'key = "{key}"', start=False)
    runtime.start(wait=False)
    runtime.wait_exit(code=1)
    assert re.match(rf"error: repositories\.fs\.key: .*{key}.*\nhint: .*\n$", runtime.text())
    assert "Traceback" not in runtime.text()


def test_packages_named_like_our_temporary_files(make: Any, store: Path, packages: Any) -> None:
    """An installed package with any name is loaded at the next start."""
    containers = [
        ".northstar-install-x:1.0.0",
        ".northstar-install-0123456789abcdef:1.0.0",
        ".northstar-install:1.0.0",
        "null:1.0.0",
    ]
    runtime = make()
    with runtime.client() as client:
        for container in containers:
            client.install(packages(container), "fs")
    runtime.stop()
    # A file that another program stored may have any name.
    shutil.copy(packages("put:1.0.0"), store / ".northstar-install-fedcba9876543210")
    shutil.copy(packages("too:1.0.0"), store / ".northstar-install:too")
    before = sorted(os.listdir(store))
    runtime.start()
    with runtime.client(subscribe=True) as client:
        assert set(names(client)) == {*containers, "put:1.0.0", "too:1.0.0"}
        for container in ("null:1.0.0", containers[0]):
            client.start(container)
            assert exit_of(client, container) == OK
    assert sorted(os.listdir(store)) == before
    runtime.stop()


def test_unfinished_installs_of_an_earlier_release(make: Any, store: Path, packages: Any) -> None:
    """The start removes a partial package, and loads a complete one after all others."""
    whole = packages("app:1.0.0").read_bytes()
    part, empty, refused_one = (
        store / f".northstar-install-{digit * 16}" for digit in ("a", "b", "c")
    )
    part.write_bytes(whole[:-1000])
    empty.touch()
    refused_one.write_bytes(whole)
    (store / "z.npk").write_bytes(whole)
    runtime = make()
    runtime.wait_log(rf"WARN\w* .*Skipping {refused_one}: app:1.0.0 is already known")
    assert sorted(os.listdir(store)) == [refused_one.name, "z.npk"]
    with runtime.client() as client:
        client.uninstall("app:1.0.0")
    assert os.listdir(store) == [refused_one.name]
    runtime.stop()
