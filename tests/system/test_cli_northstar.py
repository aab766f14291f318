"""The command `northstar`: errors of its start (a sentence, a hint, exit code 1), and signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from northstar import __version__
from tests.system import host
from tests.system.containers import install, wait_ready
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, enter, wait_until

pytestmark = pytest.mark.root

PROGRAM = "import sys; from northstar.cli.northstar import main; sys.argv[0] = 'northstar'; main()"


class Ended(NamedTuple):
    """The result of a run of the command."""

    code: int
    out: str
    err: str


def northstar(*arguments: str, prefix: tuple[str, ...] = (), cwd: Path | None = None) -> Ended:
    """Run the command after `prefix`, and wait for its end."""
    command = [*prefix, sys.executable, "-c", PROGRAM, *arguments]
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(source)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


class Setting:
    """A valid configuration, which tests make invalid.

    Attributes:
        file: the configuration.
        cgroup: the runtime cgroup in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "northstar.toml"
        self.cgroup = f"northstar-test-{os.getpid()}-cli"
        (directory / "store").mkdir()
        self.write()

    def write(self, old: str = "", new: str = "", more: str = "") -> None:
        text = (
            f'run_dir = "{self.directory}/run"\n'
            f'data_dir = "{self.directory}/data"\n'
            f'socket_dir = "{self.directory}/socket"\n'
            f'cgroup = "{self.cgroup}"\n'
            "[console.global]\n"
            f'bind = "unix://{self.directory}/console"\n'
            'permissions = "full"\n'
            "[repositories.fs]\n"
            f'type = {{ fs = {{ dir = "{self.directory}/store" }} }}\n'
        )
        assert old in text
        self.file.write_text(text.replace(old, new, 1) + more)

    def start(self, *prefix: str) -> Ended:
        return northstar("-c", str(self.file), prefix=prefix)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def refused(ended: Ended, what: str, hint: str = r"\S.*") -> None:
    """Check that stderr is one sentence that matches `what`, and its hint, and nothing else.

    Earlier log lines do not count.
    """
    assert ended.code == 1, ended
    assert ended.out == ""
    printed = [line for line in ended.err.splitlines() if not re.match(r"\S+ +(INFO|WARN)", line)]
    assert "Traceback" not in ended.err
    assert len(printed) == 2, ended.err
    assert re.fullmatch(f"error: {what}", printed[0]), printed[0]
    assert re.fullmatch(f"hint: {hint}", printed[1]), printed[1]


def test_version_help_and_usage(tmp_path: Path) -> None:
    assert northstar("--version") == Ended(0, f"northstar {__version__}\n", "")
    assert northstar("-V").out == f"northstar {__version__}\n"
    shown = northstar("--help")
    assert (shown.code, shown.err) == (0, "")
    for word in ("--config", "--disable-mount-namespace", "--log-level", "northstar.toml"):
        assert word in shown.out
    for arguments in (("--no-such-option",), ("argument",), ("-c",), ("--log-level", "loud")):
        ended = northstar(*arguments, cwd=tmp_path)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert "Traceback" not in ended.err
        assert re.search("^(Usage|Error): ", ended.err)


def test_a_user_other_than_root_is_refused(setting: Setting) -> None:
    # The interpreter and the tests' directories may be readable by root only.
    reads = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reads)
    refused(setting.start(*nobody), "the runtime must be run as root", r".*sudo.*")
    assert sorted(os.listdir(setting.directory)) == ["northstar.toml", "store"]


CONFIGURATIONS = [
    pytest.param("cgroup", "cgruop", r".*line 4: .*cgruop.*", id="unknown-key"),
    pytest.param("run_dir", "#run_dir", r".*run_dir.*", id="missing-key"),
    pytest.param('permissions = "full"', "permissions = 3", r".*line 7: .*", id="wrong-type"),
    pytest.param('"full"', '["lsit"]', r".*line 7: .*lsit.*", id="no-permission"),
    pytest.param("[console.global]", "[console.global", r".*TOML.*line 5.*", id="syntax"),
    pytest.param("unix://", "udp://", r".*line 6: .*udp://.*", id="bind"),
    pytest.param("fs = {", "hd = {", r".*line 9: .*hd.*", id="repository-type"),
]


@pytest.mark.parametrize(("old", "new", "what"), CONFIGURATIONS)
def test_bad_configurations(setting: Setting, old: str, new: str, what: str) -> None:
    setting.write(old, new)
    before = sorted(os.listdir(setting.directory))
    refused(setting.start(), what)
    assert sorted(os.listdir(setting.directory)) == before


def test_unreadable_configurations(setting: Setting) -> None:
    missing = northstar("-c", f"{setting.directory}/none.toml")
    refused(missing, f".*{setting.directory}/none.toml.*No such file.*", ".*--config.*")
    refused(northstar("-c", str(setting.directory)), ".*Is a directory.*")
    refused(northstar(cwd=setting.directory / "store"), ".*northstar.toml.*No such file.*")
    setting.file.write_bytes(b'a = "\xff"')
    refused(setting.start(), ".*line 1: invalid UTF-8")


def make_file(setting: Setting) -> None:
    (setting.directory / "console").write_text("precious")


def make_directory_files(setting: Setting) -> None:
    for name in ("run", "data", "socket"):
        (setting.directory / name).write_text("a file")


def remove_store(setting: Setting) -> None:
    (setting.directory / "store").rmdir()


def store_is_file(setting: Setting) -> None:
    remove_store(setting)
    (setting.directory / "store").write_text("a file")


def long_path(setting: Setting) -> None:
    setting.write("/console", "/" + "c" * 120)


def no_directory_of_console(setting: Setting) -> None:
    setting.write("/console", "/none/console")


def read_only(setting: Setting) -> None:
    setting.write(f'"{setting.directory}/run"', '"/proc/sys/kernel"')


def no_host(setting: Setting) -> None:
    setting.write(f"unix://{setting.directory}/console", "tcp://no-such-host.invalid:4200")


def other_address(setting: Setting) -> None:
    setting.write(f"unix://{setting.directory}/console", "tcp://203.0.113.1:4200")


def no_cgroup(setting: Setting) -> None:
    setting.write(setting.cgroup, "../outside")


STARTS = [
    pytest.param(make_file, r"the console cannot listen on .*/console: .*no socket.*", id="file"),
    pytest.param(make_directory_files, r"run_dir = .*/run' cannot be used: .*", id="run-dir-file"),
    pytest.param(remove_store, r"repositories\.fs: .*/store does not exist", id="no-store"),
    pytest.param(store_is_file, r"repositories\.fs: .*/store .*", id="store-is-file"),
    pytest.param(long_path, r"the console cannot listen on .*too long.*", id="long-path"),
    pytest.param(no_directory_of_console, r"the console cannot .*No such file.*", id="no-parent"),
    pytest.param(read_only, r"run_dir = '/proc/sys/kernel' cannot be used: .*", id="run-dir"),
    pytest.param(no_host, r"the console cannot listen on tcp://no-such-host.*", id="host"),
    pytest.param(other_address, r"the console cannot listen on tcp://203.*", id="address"),
    pytest.param(no_cgroup, r".*cgroup.*", id="cgroup"),
]


@pytest.mark.parametrize(("spoil", "what"), STARTS)
def test_failing_starts(setting: Setting, spoil: Callable[[Setting], None], what: str) -> None:
    spoil(setting)
    before = {name for name in os.listdir(setting.directory) if name not in DIRECTORIES}
    mounts = host.mounts(os.getpid())
    refused(setting.start(), what)
    # The directories may exist now; they are empty, and nothing else was created.
    after = set(os.listdir(setting.directory))
    assert after - set(DIRECTORIES) == before
    for name in DIRECTORIES:
        path = setting.directory / name
        assert not path.is_dir() or os.listdir(path) == []
    assert host.mounts(os.getpid()) == mounts
    assert host.cgroups(setting.cgroup) == []


DIRECTORIES = ("run", "data", "socket")


def test_the_port_is_in_use(setting: Setting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        setting.write(f"unix://{setting.directory}/console", f"tcp://127.0.0.1:{port}")
        refused(
            setting.start(), rf"the console .*tcp://127\.0\.0\.1:{port}: Address already in use"
        )
    assert host.cgroups(setting.cgroup) == []


def test_a_machine_without_loop_devices(setting: Setting) -> None:
    # A mount namespace with a bare /dev.
    script = (
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod /dev/urandom c 1 9"
        ' && exec "$@"'
    )
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    refused(setting.start(*prefix), r".*/dev/loop-control does not exist.*", ".*modprobe loop.*")


@pytest.mark.vm
def test_a_missing_directory_is_created(setting: Setting) -> None:
    setting.write(f"{setting.directory}/run", f"{setting.directory}/deep/er/run")
    process = popen(setting)
    wait_until(lambda: "up and running" in log_of(setting), "the runtime is up")
    assert (setting.directory / "deep/er/run").is_dir()
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 0


def popen(setting: Setting, **environment: str) -> subprocess.Popen[bytes]:
    with (setting.directory / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "-c", str(setting.file)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def log_of(setting: Setting) -> str:
    return (setting.directory / "log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_time_of_the_start(setting: Setting, number: int) -> None:
    """From the first import to the running console it exits soon, without a traceback."""
    for tenth in range(8):
        process = popen(setting)
        try:
            process.wait(tenth * 0.08 * PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        code = process.wait(TIMEOUT)
        # Before the command handles signals, the interpreter ends by the signal, or with 1 if
        # SIGINT interrupts its first imports.
        log = log_of(setting)
        if code != -number and "Fatal Python error: init_" not in log:
            assert code in {0, 128 + number}, log
            assert "Traceback" not in log, log
        assert host.cgroups(setting.cgroup) == []
        run = setting.directory / "run"
        assert not run.exists() or os.listdir(run) == []


SIGNALLED_IN_CALLBACK = """
import os, signal, sys, weakref
from importlib.abc import MetaPathFinder

NUMBER = int(sys.argv.pop())

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "northstar.runtime.main":
            watched = type("Watched", (), {})()
            reference = weakref.ref(watched, lambda _: os.kill(os.getpid(), NUMBER))
            del watched
        return None

sys.meta_path.insert(0, Finder())
"""
"""The signal arrives in a callback where the interpreter drops each exception, as in importlib."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_signal_of_the_start_is_lost(setting: Setting, number: int) -> None:
    program = SIGNALLED_IN_CALLBACK + PROGRAM
    command = [sys.executable, "-c", program, "-c", str(setting.file), str(int(number))]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert "Shutdown complete" in done.stderr
    assert "up and running" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_hangup_that_is_ignored_stays_ignored(setting: Setting, number: int) -> None:
    """Under nohup, in a script that starts it in the background, SIGINT is ignored as well."""
    command = ["nohup", sys.executable, "-c", PROGRAM, "-c", str(setting.file)]
    script = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with process:
        wait_until((setting.directory / "console").exists, "the console listens")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0


@pytest.mark.vm
def test_control_c_while_containers_run(make_runtime: Callable[..., Any], payload: Path) -> None:
    """The terminal sends SIGINT to the whole foreground group; containers are not in it."""
    runtime: RuntimeProcess = make_runtime()
    container = install(runtime, payload, args="catch INT ; ready ; pause")
    with runtime.client() as client:
        client.start(container)
    wait_ready(runtime, container)
    os.kill(runtime.pid, signal.SIGINT)
    os.kill(runtime.pid, signal.SIGINT)
    runtime.wait_exit()
    assert '"do": "signal"' not in runtime.text()
    assert "Traceback" not in runtime.text()


@pytest.mark.vm
def test_the_service_manager_is_notified(setting: Setting) -> None:
    path = str(setting.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(TIMEOUT)
        process = popen(setting, NOTIFY_SOCKET=path, WATCHDOG_USEC="200000")
        assert manager.recv(100) == b"READY=1"
        assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process.send_signal(signal.SIGTERM)
        last = b"WATCHDOG=1"
        while last == b"WATCHDOG=1":
            last = manager.recv(100)
        assert last == b"STOPPING=1"
        assert process.wait(TIMEOUT) == 0


def test_a_full_or_closed_stderr_does_not_end_the_runtime(setting: Setting) -> None:
    command = [sys.executable, "-c", PROGRAM, "-c", str(setting.file)]
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=full, stderr=full)
        wait_until((setting.directory / "console").exists, "the console listens")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0


def test_mounts_propagate_from_the_host_and_not_to_it(setting: Setting) -> None:
    """The runtime makes its mounts slaves of those of the namespace that it is started in."""
    shared = setting.directory / "shared"
    shared.mkdir()
    script = (
        f'mount --bind {shared} {shared} && mount --make-shared {shared} && echo ok && exec "$@"'
    )
    prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    with (setting.directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _WITHIN, PROGRAM, str(setting.file)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: "up and running" in log_of(setting), "the runtime is up")
        # The parent of the launcher, whose arguments differ.
        arguments = f"-c {setting.file}"
        (runtime,) = [p for p in host.descendants(process.pid) if arguments in host.command(p)]
        outside, inside = process.pid, runtime
        assert os.readlink(f"/proc/{outside}/ns/mnt") != os.readlink(f"/proc/{inside}/ns/mnt")
        (shared / "later").mkdir()
        mount = ["mount", "-t", "tmpfs", "none", str(shared / "later")]
        subprocess.run(enter(outside, *mount), check=True)
        assert any(f"{shared}/later " in line for line in host.mounts(inside))
        back = ["mount", "-t", "tmpfs", "none", str(shared)]
        subprocess.run(enter(inside, *back), check=True)
        assert sum(f"{shared} " in line for line in host.mounts(inside)) == 2
        assert sum(f"{shared} " in line for line in host.mounts(outside)) == 1
        os.kill(runtime, signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


_WITHIN = (
    "import subprocess, sys;"
    "sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1], '-c', sys.argv[2]]).returncode)"
)
