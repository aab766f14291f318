"""nstar and sextant under a parent with unusual state: they work, or fail with one sentence."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import northstar.launch
from tests.system import parent
from tests.system.harness import TIMEOUT, RuntimeProcess, wait_until

CODE = "import sys; from northstar.cli.{0} import main; sys.argv[0] = '{0}'; main()"
MANIFEST = """\
name: app
version: 1.0.0
init: /app
uid: 1000
gid: 1000
seccomp: {profile: default}
"""
PROGRAM = Path(northstar.launch.__file__).with_name("init")
CLOSED = [
    combination for count in range(4) for combination in itertools.combinations(range(3), count)
]


def command(tool: str, *arguments: str | Path, **state: Any) -> list[str]:
    program = [sys.executable, "-c", CODE.format(tool)]
    return [*parent.wrap(**state), *program, *map(str, arguments)]


def run(
    directory: Path, tool: str, *arguments: str | Path, stdout: Any = subprocess.PIPE, **state: Any
) -> subprocess.CompletedProcess[str]:
    """Run a tool under `parent`; it may print one sentence and a hint to stderr."""
    done = subprocess.run(
        command(tool, *arguments, **state),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
    )
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] in ([], ["error"], ["error", "hint"]), lines
    assert bool(lines) == (done.returncode != 0) or 2 in state.get("closed", ())
    return done


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "manifest.yaml").write_text(MANIFEST)
    (tmp_path / "root").mkdir(mode=0o755)
    shutil.copy(PROGRAM, tmp_path / "root/app")  # is static, so it needs no other file
    return tmp_path


PACK = ("pack", "-m", "manifest.yaml", "-r", "root", "-o", ".", "--salt", "ab" * 32)


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_sextant_with_closed_descriptors(work: Path, closed: tuple[int, ...]) -> None:
    """Its package is complete, and contains nothing else."""
    run(work, "sextant", "gen-key", "-n", "mine", "-o", ".")
    first = run(work, "sextant", *PACK, "-k", "mine.key").stdout
    assert first.startswith("packed ")
    package = work / "app-1.0.0.npk"
    expected = package.read_bytes()
    package.unlink()
    done = run(work, "sextant", *PACK, "-k", "mine.key", closed=closed)
    assert package.read_bytes() == expected
    assert done.returncode == (1 in closed)
    if 1 in closed and 2 not in closed:
        assert done.stderr == "error: stdout is closed, or is not open for writing\n"
    failed = run(work, "sextant", "check", "no-such-file", closed=closed)
    assert failed.returncode == 1
    usage = subprocess.run(
        command("sextant", "pack", closed=closed), cwd=work, capture_output=True, check=False
    )
    assert usage.returncode == 2


@pytest.mark.parametrize("tool", ["northstar", "nstar", "sextant"])
@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_the_version_with_closed_descriptors(
    tmp_path: Path, tool: str, closed: tuple[int, ...]
) -> None:
    done = run(tmp_path, tool, "--version", closed=closed)
    assert done.returncode == (1 in closed)
    assert bool(done.stdout) == (1 not in closed)


@pytest.mark.parametrize("tool", ["northstar", "nstar", "sextant"])
def test_a_full_or_closed_stdout(tmp_path: Path, tool: str) -> None:
    with open("/dev/full", "wb") as full:
        done = run(tmp_path, tool, "--help", stdout=full)
    assert (done.returncode, done.stderr) == (
        1,
        "error: No space left on device\nhint: make room on the file system of the output\n",
    )
    read, write = os.pipe()
    os.close(read)
    for ignored in ([], [signal.SIGPIPE]):
        with os.fdopen(os.dup(write), "wb") as closed:
            ended = subprocess.run(
                command(tool, "--help", ignored=ignored),
                stdout=closed,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")
    os.close(write)


@pytest.mark.parametrize("tool", ["northstar", "nstar", "sextant"])
@pytest.mark.parametrize("sink", ["full", "pipe"])
def test_a_full_or_closed_stderr(tmp_path: Path, tool: str, sink: str) -> None:
    """Only the exit code reports the failure; Python's default would be 120."""
    if sink == "full":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        read, stderr = os.pipe()
        os.close(read)
    failing = {
        "northstar": ("-c", "no-such-file"),
        "nstar": ("-u", "unix:///no/such", "list"),
        "sextant": ("check", "no-such-file"),
    }[tool]
    codes = {}
    for arguments in (failing, ("--nonsense",), ("--version",)):
        done = subprocess.run(
            command(tool, *arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr
        )
        codes[arguments] = done.returncode
    os.close(stderr)
    assert list(codes.values())[1:] == [2, 0]
    assert codes[failing] in (1, 3)


def test_an_ignored_sigchld_hides_no_failure_of_a_tool(work: Path) -> None:
    """With SIGCHLD ignored, Python takes the exit status of mksquashfs for 0."""
    broken = work / "mksquashfs"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = -help-all ] && exec mksquashfs "$@"\n'
        "echo FATAL ERROR: no good >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    state = {"ignored": list(range(1, parent.LAST_SIGNAL + 1)), "blocked": True}
    done = run(work, "sextant", *PACK, "--mksquashfs", "./mksquashfs", **state)
    assert done.returncode == 1
    assert "FATAL ERROR: no good" in done.stderr
    assert sorted(os.listdir(work)) == ["manifest.yaml", "mksquashfs", "root"]
    assert run(work, "sextant", *PACK, **state).returncode == 0


def test_no_environment(work: Path) -> None:
    assert run(work, "sextant", *PACK, variables=None).returncode == 0
    assert "app:1.0.0" in run(work, "sextant", "check", "manifest.yaml", variables=None).stdout
    shown = run(work, "sextant", "inspect", "app-1.0.0.npk", variables=None)
    assert "squashfs-root/app" in shown.stdout
    for tool in ("northstar", "nstar"):
        assert run(work, tool, "--help", variables=None).stdout


def test_a_removed_working_directory(work: Path) -> None:
    state = {"removed_directory": True}
    hint = "hint: the working directory was removed: change to another one\n"
    done = run(work, "sextant", *PACK, **state)
    assert done.stderr == f"error: manifest.yaml: No such file or directory\n{hint}"
    done = run(work, "sextant", "gen-key", "-n", "mine", "-o", ".", **state)
    assert done.returncode == 1
    assert done.stderr.endswith(hint)
    arguments = ("-m", work / "manifest.yaml", "-r", work / "root", "-o", work)
    assert run(work, "sextant", "pack", *arguments, **state).returncode == 0
    done = run(work, "nstar", "-u", "unix:///no/such", "list", **state)
    assert done.returncode != 0


@pytest.mark.parametrize("umask", [0, 0o077, 0o777], ids=oct)
def test_modes_of_the_files_that_sextant_creates(work: Path, umask: int) -> None:
    """Only the owner may write, and the content of the package does not depend on the umask."""
    run(work, "sextant", *PACK)
    package = work / "app-1.0.0.npk"
    expected = package.read_bytes()
    package.unlink()
    run(work, "sextant", "gen-key", "-n", "mine", "-o", ".", umask=umask)
    run(work, "sextant", *PACK, umask=umask)
    assert package.read_bytes() == expected
    run(work, "sextant", "unpack", "-n", package, "-o", "new", umask=umask)
    read = 0o044 & ~umask
    modes = {
        "mine.key": 0o600,
        "mine.pub": 0o644,
        "app-1.0.0.npk": 0o600 | read,
        "new": 0o700 | (0o055 & ~umask),
        "new/manifest.yaml": 0o600 | read,
        "new/root": 0o755,
    }
    found = {name: stat.S_IMODE((work / name).stat().st_mode) for name in modes}
    assert {name: oct(mode) for name, mode in found.items()} == {
        name: oct(mode) for name, mode in modes.items()
    }


@pytest.mark.parametrize("fs", ["squashfs", "erofs"])
@pytest.mark.parametrize("root", [True, False])
def test_an_image_does_not_depend_on_the_umask(work: Path, fs: str, *, root: bool) -> None:
    (work / "root/directory").mkdir(mode=0o755)
    mounts = "mounts:\n  /a/b/c: {type: persist}\n  /dev: {type: dev}\n"
    resource = "name: app\nversion: 1.0.0\nuid: 1000\ngid: 1000\n"
    (work / "manifest.yaml").write_text(MANIFEST + mounts if root else resource)
    arguments = [word for word in PACK if root or word not in ("-r", "root")]
    packages = []
    for umask in (0o022, 0, 0o777):
        epoch = {"SOURCE_DATE_EPOCH": "1"}
        done = run(work, "sextant", *arguments, "-f", fs, umask=umask, variables=epoch)
        assert done.returncode == 0, done.stderr
        packages.append((work / "app-1.0.0.npk").read_bytes())
    assert packages[0] == packages[1] == packages[2]


@pytest.mark.root
@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_nstar_with_closed_descriptors(
    runtime: RuntimeProcess, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    for arguments in (("list",), ("-j", "ident")):
        done = run(tmp_path, "nstar", "-u", runtime.url, *arguments, closed=closed)
        assert done.returncode == (1 in closed)
    assert not re.search("WARN|ERROR", runtime.text())


@pytest.mark.root
def test_blocked_signals_end_a_command(runtime: RuntimeProcess, tmp_path: Path) -> None:
    arguments = ("-u", runtime.url, "notifications")
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            command("nstar", *arguments, blocked=True), cwd=tmp_path, stderr=subprocess.PIPE
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(process)
            stack.callback(process.kill)
            wait_until(functools.partial(connected, process.pid), "nstar is connected")
            process.send_signal(number)
            assert process.wait(TIMEOUT) == 128 + number
            assert process.stderr is not None
            assert process.stderr.read() == b""


def connected(pid: int) -> bool:
    """Tell whether a process has a socket."""
    found = False
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found = found or os.readlink(link).startswith("socket:")
    return found


@pytest.mark.root
def test_nstar_with_unusual_process_state(make_runtime: Callable[..., Any], tmp_path: Path) -> None:
    runtime: RuntimeProcess = make_runtime()
    for state in (
        {"variables": None},
        {"removed_directory": True},
        {"ignored": list(range(1, parent.LAST_SIGNAL + 1)), "blocked": True},
        {"umask": 0o777, "leaked": 300, "odd": True},
    ):
        done = run(tmp_path, "nstar", "-u", runtime.url, "ident", **state)
        assert done.stdout == "extern:0.0.0\n"
