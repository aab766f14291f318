"""`sextant new` and `sextant run`: an app from nothing to its output, and nothing left behind."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import PATIENCE, manifest, pack, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
OUTPUT = {
    "c": r"Hello from process 2 of user 1000\nargument 1: x y\n",
    "python": r"Hello from Python 3.*, process 2 of user 1000\nargument: x y\n",
    "shell": r"Hello from process 2 of user 1000\nargument: x y\n",
}


def run(*words: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [BIN / "sextant", *words], cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def leftovers() -> list[str]:
    """Return what runtimes of `sextant run` have left: directories, cgroups and processes."""
    found = glob.glob(f"{tempfile.gettempdir()}/northstar-run-*")
    found += glob.glob("/sys/fs/cgroup/northstar-run-*")
    found += glob.glob("/sys/fs/cgroup/*/northstar-run-*")
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"northstar.cli.private_runtime" in Path(path).read_bytes():
                found.append(path)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Each test has a separate directory for temporary files, and leaves none."""
    # Not below tmp_path: its name is too long for the path of a socket.
    directory = tempfile.mkdtemp(prefix="ns-")
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", directory)
    monkeypatch.setattr(tempfile, "tempdir", directory)
    yield
    if getattr(request.node, "kept", False) is False:
        wait_until(lambda: not leftovers(), f"nothing left: {leftovers()}", 20 * PATIENCE)
    shutil.rmtree(directory)


@pytest.fixture
def app(tmp_path: Path, payload: Path) -> Path:
    """The directory of an app with the static test program."""
    (tmp_path / "root").mkdir()
    shutil.copy(payload, tmp_path / "root/payload")
    (tmp_path / "manifest.yaml").write_text(
        manifest("app", args=["say", "hello", ";", "pause"], seccomp={"profile": "default"})
    )
    return tmp_path


@pytest.mark.parametrize("template", OUTPUT)
def test_templates(template: str, tmp_path: Path) -> None:
    """From `sextant new` with make, as the Makefile of the template says, to a package."""
    directory = tmp_path / "my-app"
    done = run("new", "--template", template, "my-app", cwd=tmp_path)
    assert done.stdout == "created my-app: next, read its Makefile\n"
    schema = "# yaml-language-server: $schema=manifest.schema.json\n"
    assert (directory / "manifest.yaml").read_text().startswith(schema)
    assert (directory / "manifest.schema.json").exists()
    make = subprocess.run(["make"], cwd=directory, capture_output=True, text=True, env=ENVIRONMENT)
    assert make.returncode == 0, make.stderr
    assert run("check", "-r", "root", "manifest.yaml", cwd=directory).stderr == ""
    resources = ["--resource", "python.npk"] if template == "python" else []
    done = run("run", ".", *resources, "--", "x y", cwd=directory)
    assert re.fullmatch(OUTPUT[template], done.stdout)
    assert done.stderr == ""
    if template == "python":
        done = run("run", ".", cwd=directory, code=1)
        assert "mounts./usr needs the resource python >=3.11" in done.stderr
    assert run("pack", "-m", "manifest.yaml", "-r", "root", "-o", ".", cwd=directory).stderr == ""
    assert (directory / "my-app-1.0.0.npk").exists()


def test_new_refuses(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, words in (
        ("there", "there exists already"),
        ("-x", "does not begin with a letter"),
        ("a b", "a b"),
        ("missing/app", "No such file"),
    ):
        done = run("new", "--", name, cwd=tmp_path, code=1)
        assert words in done.stderr
        assert done.stderr.count("error:") == 1
    done = run("new", "app", "--capability", "NET_RAW", cwd=tmp_path, code=1)
    assert "capabilities" in done.stderr
    assert os.listdir(tmp_path) == ["there"]


def test_new_with_rights(tmp_path: Path) -> None:
    words = ["--capability", "CAP_NET_RAW", "--permission", "ident", "--permission", "list"]
    run("new", "app", *words, cwd=tmp_path)
    text = (tmp_path / "app/manifest.yaml").read_text()
    assert 'capabilities: ["CAP_NET_RAW"]' in text
    assert 'permissions: ["ident", "list"]' in text


def test_exit_codes(app: Path) -> None:
    def with_arguments(*arguments: str) -> None:
        text = manifest("app", args=list(arguments), seccomp={"profile": "default"})
        (app / "manifest.yaml").write_text(text)

    with_arguments("exit", "42")
    assert run("run", app, cwd=app, code=42).stderr == ""
    with_arguments("raise", "11")
    done = run("run", app, cwd=app, code=128 + signal.SIGSEGV)
    assert "app:1.0.0 was ended by SIGSEGV" in done.stderr


def test_an_error_before_the_start(app: Path) -> None:
    (app / "root/payload").chmod(0o644)
    done = run("run", app, cwd=app, code=1)
    assert "not executable" in done.stderr
    assert done.stderr.count("error:") == 1
    (app / "manifest.yaml").write_text(manifest("res", init=None))
    assert "is a resource" in run("run", app, cwd=app, code=1).stderr
    assert "No such file" in run("run", app / "missing", cwd=app, code=1).stderr


def test_a_resource_of_another_version(app: Path) -> None:
    mounts = {"/res": {"type": "resource", "name": "res", "version": "^2", "dir": "/"}}
    text = manifest("app", args=["exit", "0"], mounts=mounts)
    (app / "manifest.yaml").write_text(text)
    for version, code in (("1.0.0", 1), ("2.1.0", 0)):
        resource = pack(app, manifest("res", version, init=None))
        done = run("run", app, "--resource", resource, cwd=app, code=code)
        assert ("needs the resource res ^2" in done.stderr) == bool(code)


def test_keep(app: Path, request: pytest.FixtureRequest) -> None:
    request.node.kept = True
    (app / "manifest.yaml").write_text(manifest("app", args=["exit", "0"]))
    done = run("run", "--keep", app, cwd=app)
    [directory] = leftovers()
    assert f"console: unix://{directory}/console" in done.stderr
    assert f"kept {directory}" in done.stderr
    assert "Started app:1.0.0" in Path(directory, "log").read_text()
    assert run("inspect", "-s", f"{directory}/app.npk", cwd=app).stdout.startswith("name: app,")


@contextlib.contextmanager
def waiting(app: Path) -> Iterator[subprocess.Popen[str]]:
    """Run an app that prints a line and waits, until the line is there."""
    (app / "manifest.yaml").write_text(manifest("app", args=["say", "hello", ";", "pause"]))
    with subprocess.Popen(
        [BIN / "sextant", "run", app], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            assert leftovers()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_app(app: Path, number: signal.Signals) -> None:
    with waiting(app) as process:
        process.send_signal(number)
        assert process.wait(30 * PATIENCE) == 128 + number


def test_sigkill_leaves_nothing(app: Path) -> None:
    """The fixture waits until nothing is left: the runtime ends when its parent has ended."""
    with waiting(app) as process:
        process.kill()
        assert process.wait(30 * PATIENCE) == -signal.SIGKILL
