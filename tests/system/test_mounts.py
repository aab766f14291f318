"""The mounts of a manifest: their presence and their options, as the kernel shows them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from northstar.api import error, response
from northstar.linux import loop
from tests.system.containers import PROC, install, refused, run, run_new
from tests.system.faults.intercept import Call, Interceptor
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, enter

pytestmark = pytest.mark.root

SHARED_RUNTIME = True


DENIED = {errno.EACCES, errno.EPERM}


def writable(runtime: RuntimeProcess, name: str = "shared") -> Path:
    """Make a directory on the host that all users may write to."""
    path = runtime.directory / name
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.mark.vm
def test_the_mount_table(runtime: RuntimeProcess, payload: Path) -> None:
    install(runtime, payload, "res", init=None)
    mounts = {
        **PROC,
        "/sys": {"type": "sysfs"},
        "/dev": {"type": "dev"},
        "/tmp": {"type": "tmpfs", "size": "2MiB"},
        "/data": {"type": "persist"},
        "/sockets": {"type": "sockets"},
        "/res": {"type": "resource", "name": "res", "version": "1", "dir": "/"},
        "/bind": {"type": "bind", "host": str(writable(runtime))},
    }
    found = run_new(runtime, payload, "mounts", mounts=mounts).mounts
    assert set(found) == {"/", *mounts}
    kinds = {target: kind for target, (_, kind, _) in found.items()}
    assert kinds["/"] == kinds["/res"] == "squashfs"
    assert (kinds["/proc"], kinds["/sys"]) == ("proc", "sysfs")
    assert kinds["/tmp"] == kinds["/dev"] == "tmpfs"
    sources = {target: source for target, (source, _, _) in found.items()}
    assert (sources["/proc"], sources["/sys"], sources["/tmp"]) == ("proc", "sysfs", "none")
    assert sources["/"].startswith("/dev/")
    assert sources["/res"].startswith("/dev/")
    flags = {target: options & FLAGS for target, (_, _, options) in found.items()}
    assert flags == {
        "/": {"ro", "nosuid", "nodev"},
        "/res": {"ro", "nosuid", "nodev"},
        "/proc": {"ro", "nosuid", "nodev", "noexec"},
        "/sys": {"ro", "nosuid", "nodev", "noexec"},
        "/dev": {"ro", "nosuid", "noexec"},
        "/tmp": {"rw", "nosuid", "nodev", "noexec"},
        "/data": {"rw", "nosuid", "nodev"},
        "/sockets": {"ro", "nosuid", "nodev", "noexec"},
        "/bind": {"ro"},
    }
    assert "size=2048k" in found["/tmp"][2]


FLAGS = {"ro", "rw", "nosuid", "nodev", "noexec"}


@pytest.mark.vm
@pytest.mark.parametrize("options", ["", "rw", "noexec", "rw,nosuid,nodev", "nosuid,noexec,nodev"])
def test_bind_options(runtime: RuntimeProcess, payload: Path, options: str) -> None:
    path = writable(runtime)
    (path / "file").write_text("content")
    (path / "program").write_bytes(payload.read_bytes())
    (path / "program").chmod(0o755)
    bind = {"type": "bind", "host": str(path), **({"options": options} if options else {})}
    words = "mounts ; read /b/file ; write /b/new x ; exec /b/program say hello"
    said = run_new(runtime, payload, words, mounts={**PROC, "/b": bind})
    asked = set(options.split(",")) - {""}
    assert said.mounts["/b"][2] & FLAGS == (asked if "rw" in asked else asked | {"ro"})
    assert said.of("read", "/b/file")["text"] == "content"
    if "rw" in asked:
        assert said.of("write", "/b/new")["result"] == 1
        assert (path / "new").stat().st_uid == 1000
    else:
        assert said.errno("write", "/b/new") == errno.EROFS
    if "noexec" in asked:
        assert said.errno("exec", "/b/program") == errno.EACCES
    else:
        runtime.wait_log("DEBUG app:1.0.0: hello$")


def test_recursive_binds(runtime: RuntimeProcess, payload: Path) -> None:
    # Mounted only in the launcher's mount namespace, which ends with it.
    path = writable(runtime)
    launcher = runtime.launcher
    for inner in (path / "inner", path / "inner" / "deep"):
        subprocess.run(enter(launcher, "mkdir", str(inner)), check=True)
        mount = enter(launcher, "mount", "-t", "tmpfs", "-o", "mode=777", "none", str(inner))
        subprocess.run(mount, check=True)
    mounts = {
        **PROC,
        "/flat": {"type": "bind", "host": str(path), "options": "rw"},
        "/ro": {"type": "bind", "host": str(path), "options": "rec,noexec"},
        "/rw": {"type": "bind", "host": str(path), "options": "rw,rec,nodev"},
    }
    words = "mounts ; list /flat/inner ; write /ro/inner/deep/x x ; write /rw/inner/deep/x x"
    said = run_new(runtime, payload, words, mounts=mounts)
    below = ["", "/inner", "/inner/deep"]
    expected = {"/", "/proc", "/flat", *(f"/{k}{b}" for k in ("ro", "rw") for b in below)}
    assert set(said.mounts) == expected
    assert said.of("list", "/flat/inner")["names"] == []
    for place in below:
        assert said.mounts[f"/ro{place}"][2] >= {"ro", "noexec"}
        assert said.mounts[f"/rw{place}"][2] >= {"rw", "nodev"}
    assert said.errno("write", "/ro/inner/deep/x") == errno.EROFS
    assert said.of("write", "/rw/inner/deep/x")["result"] == 1


@pytest.mark.vm
def test_binds_of_files_links_and_missing_paths(runtime: RuntimeProcess, payload: Path) -> None:
    path = writable(runtime)
    (path / "file").write_text("one file")
    (path / "file").chmod(0o644)
    (path / "link").symlink_to("file")
    (path / "dangling").symlink_to("nothing")
    root = runtime.directory / "image"
    root.mkdir()
    (root / "target").write_text("covered")
    (root / "second").write_text("covered")
    mounts = {
        "/target": {"type": "bind", "host": str(path / "file")},
        "/second": {"type": "bind", "host": str(path / "link"), "options": "rw"},
        "/missing": {"type": "bind", "host": f"{path}/missing"},
        "/dangling": {"type": "bind", "host": str(path / "dangling")},
    }
    said = run_new(runtime, payload, "read /target ; read /second", root=root, mounts=mounts)
    assert said.of("read", "/target")["text"] == "one file"
    assert said.of("read", "/second")["text"] == "one file"
    for name in ("missing", "dangling"):
        runtime.wait_log(rf"WARN\w* .*app:1.0.0: {path}/{name} does not exist, its bind")


@pytest.mark.vm
@pytest.mark.parametrize("link", ["/real", "../../../../real", "/proc/1/root/real"])
def test_targets_and_directories_stay_inside(
    runtime: RuntimeProcess, payload: Path, link: str
) -> None:
    """Links in images resolve within these images, also for paths that exist on the host."""
    outside = writable(runtime)
    name = str(outside)
    for image in ("image", "resource"):
        (runtime.directory / image / name.lstrip("/")).mkdir(parents=True)
        (runtime.directory / image / name.lstrip("/") / "mine").write_text(image)
        target = link.replace("/real", name)
        (runtime.directory / image / "link").symlink_to(target)
    if link.startswith("/proc"):
        install(runtime, payload, "res", init=None, root=runtime.directory / "resource")
        mounts: dict[str, Any] = {
            "/r": {"type": "resource", "name": "res", "version": "1", "dir": "/link"}
        }
        container = install(runtime, payload, mounts=mounts)
        with runtime.client() as client:
            answer = refused(lambda: client.start(container))
            assert isinstance(answer, error.StartContainerMissingResource)
        return
    install(runtime, payload, "res", init=None, root=runtime.directory / "resource")
    mounts = {
        **PROC,
        "/link": {"type": "tmpfs", "size": "1MiB"},
        "/r": {"type": "resource", "name": "res", "version": "1", "dir": "/link"},
    }
    words = "mounts ; list /r ; write /link/new x"
    said = run_new(runtime, payload, words, root=runtime.directory / "image", mounts=mounts)
    assert set(said.mounts) == {"/", "/proc", name, "/r"}
    assert said.of("list", "/r")["names"] == ["mine"]
    assert said.of("write", "/link/new")["result"] == 1
    assert os.listdir(outside) == []


def test_a_bind_on_the_root(runtime: RuntimeProcess, payload: Path) -> None:
    path = writable(runtime)
    (path / "payload").write_bytes(payload.read_bytes())
    (path / "payload").chmod(0o755)
    (path / "proc").mkdir()
    (path / "other").mkdir()
    mounts = {
        "/": {"type": "bind", "host": str(path)},
        "/proc": {"type": "proc"},
        "/other": {"type": "bind", "host": str(writable(runtime, "more")), "options": "rw"},
    }
    said = run_new(runtime, payload, "list / ; write /new x ; write /other/new x", mounts=mounts)
    assert set(said.of("list", "/")["names"]) == {"payload", "proc", "other"}
    assert said.errno("write", "/new") == errno.EROFS
    assert said.of("write", "/other/new")["result"] == 1
    assert os.listdir(runtime.directory / "more") == ["new"]


@pytest.mark.vm
def test_tmpfs(runtime: RuntimeProcess, payload: Path) -> None:
    mounts = {"/tmp": {"type": "tmpfs", "size": 1048576}, "/big": {"type": "tmpfs", "size": "4MB"}}
    container = install(runtime, payload, mounts=mounts)
    said = run(runtime, container, "stat /tmp ; fill /tmp/x 2000000 ; fill /big/x 2000000")
    assert said.of("stat", "/tmp")["mode"] == stat.S_IFDIR | 0o1777
    assert said.of("fill", "/tmp/x")["errno"] == errno.ENOSPC
    assert 900_000 < said.of("fill", "/tmp/x")["result"] <= 1048576
    assert said.of("fill", "/big/x")["result"] >= 2_000_000
    # It is a new one at each start.
    assert run(runtime, container, "list /tmp").of("list", "/tmp")["names"] == []


@pytest.mark.vm
def test_dev(runtime: RuntimeProcess, payload: Path) -> None:
    nodes = {
        "full": (1, 7),
        "null": (1, 3),
        "random": (1, 8),
        "tty": (5, 0),
        "urandom": (1, 9),
        "zero": (1, 5),
    }
    links = {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
    }
    words = [f"stat /dev/{name}" for name in nodes]
    words += [f"readlink /dev/{name}" for name in links]
    words += ["list /dev", "write /dev/null x", "write /dev/full x", "read /dev/zero"]
    words += ["write /dev/new x", "try chmod /dev/null"]
    mounts = {**PROC, "/dev": {"type": "dev"}}
    said = run_new(runtime, payload, " ; ".join(words), mounts=mounts)
    assert set(said.of("list", "/dev")["names"]) == {*nodes, *links}
    for name, device in nodes.items():
        found = said.of("stat", f"/dev/{name}")
        assert (found["mode"], found["device"]) == (stat.S_IFCHR | 0o666, list(device)), name
    for name, target in links.items():
        assert said.of("readlink", f"/dev/{name}")["text"] == target
    assert said.of("write", "/dev/null")["result"] == 1
    assert said.errno("write", "/dev/full") == errno.ENOSPC
    assert said.of("read", "/dev/zero")["result"] > 0
    assert said.errno("write", "/dev/new") in {errno.EROFS, *DENIED}
    assert said.errno("chmod", "/dev/null") in {errno.EROFS, *DENIED}


# ---- Loop devices


def test_a_shutdown_does_not_wait_for_a_loop_device(make_runtime: Any, payload: Path) -> None:
    # Another process always takes the free device first.
    tried = threading.Event()

    def take_first(call: Call) -> int | None:
        if call.arguments[1] not in (loop.LOOP_CONFIGURE, loop.LOOP_SET_FD):
            return None
        tried.set()
        return errno.EBUSY

    with Interceptor(["ioctl"]) as interceptor:
        runtime = make_runtime(
            top='loop_device_timeout = "60s"', wrap=interceptor.wrap, pass_fds=interceptor.pass_fds
        )
        names = [install(runtime, payload, f"app{number}") for number in range(3)]
        interceptor.decide = take_first
        with runtime.client() as client, ThreadPoolExecutor(1) as pool:
            answers = pool.submit(client.mount, *names)
            assert tried.wait(TIMEOUT)
            begun = time.monotonic()
            runtime.stop()
            assert time.monotonic() - begun < 5 * PATIENCE
            failed = [a for a in answers.result(TIMEOUT) if isinstance(a, response.Failed)]
        assert len(failed) == len(names)
        reasons = [str(answer.error) for answer in failed]
        assert all("no loop device" in reason for reason in reasons), reasons
