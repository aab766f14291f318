"""Other programs add, replace and remove files in a repository's directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.containers import OK, exit_of
from tests.system.harness import NO_KEY, RuntimeProcess, manifest, pack

pytestmark = pytest.mark.root

APP = "app:1.0.0"
FILE = f"{APP}.npk"
LEFT = r"WARN\w* .*{} is not the file that was loaded: .* is left alone"


@pytest.fixture
def runtime(make_runtime: Callable[..., Any], store: Path) -> RuntimeProcess:
    made: RuntimeProcess = make_runtime(repositories={"fs": table(store)})
    return made


def table(store: Path) -> str:
    return f'type = {{ fs = {{ dir = "{store}" }} }}\n{NO_KEY}'


@pytest.fixture
def package(tmp_path: Path, payload: Path) -> Path:
    return pack(tmp_path, manifest("app", args=["exit", "0"]), {"payload": payload})


def replace(store: Path, content: bytes, name: str = FILE) -> None:
    """Replace a package atomically, as a careful program does."""
    (store / "new").write_bytes(content)
    os.rename(store / "new", store / name)


def works(runtime: RuntimeProcess) -> None:
    with runtime.client(subscribe=True) as client:
        client.start(APP)
        assert exit_of(client, APP) == OK


def test_an_uninstall_keeps_a_file_of_another_program(
    runtime: RuntimeProcess, store: Path, package: Path
) -> None:
    before = runtime.snapshot()
    with runtime.client() as client:
        client.install(package, "fs")
        replace(store, b"somebody's")
        works(runtime)  # of the file that was loaded
        client.uninstall(APP)
        assert client.list() == ()
        runtime.wait_log(LEFT.format(store / FILE))
        assert (store / FILE).read_bytes() == b"somebody's"
        (store / FILE).unlink()
    runtime.assert_no_leak(before)


def test_an_install_does_not_replace_a_file_of_another_program(
    runtime: RuntimeProcess, store: Path, package: Path
) -> None:
    with runtime.client() as client:
        client.install(package, "fs")
        replace(store, b"somebody's")
        client.uninstall(APP)
        client.install(package, "fs")
        assert (store / FILE).read_bytes() == b"somebody's"
    runtime.stop()
    runtime.start()
    runtime.wait_log(f"Cannot load {store / FILE}, leaving it alone")
    works(runtime)
    with runtime.client() as client:
        client.uninstall(APP)
    assert os.listdir(store) == [FILE]


def test_an_install_keeps_a_file_created_since_the_start(
    runtime: RuntimeProcess, store: Path, package: Path
) -> None:
    newer = package.read_bytes()
    replace(store, newer)
    with runtime.client() as client:
        client.install(package, "fs")
        client.uninstall(APP)
    assert os.listdir(store) == [FILE]
    assert (store / FILE).read_bytes() == newer


def test_an_install_replaces_a_file_that_could_not_be_loaded(
    make_runtime: Callable[..., Any], store: Path, package: Path
) -> None:
    """Another install replaces a damaged package, but not a file that came in its place."""
    (store / FILE).write_bytes(b"damaged")
    runtime = make_runtime(repositories={"fs": table(store)})
    with runtime.client() as client:
        client.install(package, "fs")
        assert os.listdir(store) == [FILE]
        client.uninstall(APP)
        assert os.listdir(store) == []
        # The name no longer belongs to a damaged file.
        replace(store, b"somebody's")
        client.install(package, "fs")
        assert (store / FILE).read_bytes() == b"somebody's"
        assert len(os.listdir(store)) == 2
    runtime.stop()


def test_a_damaged_file_that_has_changed_is_kept(
    make_runtime: Callable[..., Any], store: Path, package: Path
) -> None:
    (store / FILE).write_bytes(b"damaged")
    runtime = make_runtime(repositories={"fs": table(store)})
    (store / FILE).write_bytes(b"repaired")
    with runtime.client() as client:
        client.install(package, "fs")
    assert (store / FILE).read_bytes() == b"repaired"
    runtime.stop()


@pytest.mark.parametrize("instead", ["nothing", "directory", "dangling link", "loop of links"])
def test_an_uninstall_of_a_removed_package_succeeds(
    runtime: RuntimeProcess, store: Path, package: Path, instead: str
) -> None:
    with runtime.client() as client:
        client.install(package, "fs")
        (store / FILE).unlink()
        if instead == "directory":
            (store / FILE).mkdir()
        elif instead != "nothing":
            (store / FILE).symlink_to(FILE if "loop" in instead else "nowhere")
        left = os.listdir(store)
        client.uninstall(APP)
        runtime.wait_log(LEFT.format(store / FILE))
        assert os.listdir(store) == left
        # It can be installed again.
        client.install(package, "fs")
        works(runtime)
        client.uninstall(APP)
        assert os.listdir(store) == left


def test_a_package_behind_a_link(
    make_runtime: Callable[..., Any], store: Path, tmp_path: Path, package: Path
) -> None:
    """The link belongs to the repository, its target does not."""
    elsewhere = tmp_path / "elsewhere.npk"
    shutil.copy(package, elsewhere)
    (store / "link").symlink_to(elsewhere)
    runtime = make_runtime(repositories={"fs": table(store)})
    works(runtime)
    with runtime.client() as client:
        client.uninstall(APP)
    assert os.listdir(store) == []
    assert elsewhere.exists()
    runtime.stop()
