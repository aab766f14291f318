"""Mistakes of somebody new with a real runtime: each is answered by a sentence and a next step."""

from __future__ import annotations

import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar import npk
from northstar.cli.common import invoke
from northstar.cli.nstar_commands import nstar
from northstar.cli.sextant import sextant
from northstar.client import ConnectError, RefusedError
from northstar.client.blocking import Client
from tests.misuse import Misuse, check, rows
from tests.system import disks
from tests.system.harness import TIMEOUT, RuntimeProcess, manifest, pack

pytestmark = pytest.mark.root

PERMISSIONS = '["full", "exec", "logs", "update"]'
LIMITS = '[console.global.options]\nmax_npk_install_size = "400kB"'


class World:
    """A runtime with installed containers, and a directory with packages under short names."""

    def __init__(self, runtime: RuntimeProcess, directory: Path, disk: Path) -> None:
        self.runtime = runtime
        self.directory = directory
        self.disk = disk

    def package(self, name: str, *, files: Any = None, key: Any = None, **fields: Any) -> Path:
        """Pack NAME.npk."""
        fields = {"init": "/payload", **fields}
        packed = pack(self.directory, manifest(name, **fields), files or {}, key=key)
        target = self.directory / f"{name}-{fields.get('version', '1.0.0')}.npk"
        return packed.rename(target)


def executable(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("misuses")
    for name in ("run", "disk", "files", "signed", "read-only", "work"):
        (directory / name).mkdir()
    assert invoke(sextant, ["gen-key", "-n", "my", "-o", str(directory)], "sextant") == 0
    with (
        disks.mounted("tmpfs", directory / "disk", size=256 * 1024) as disk,
        disks.mounted("tmpfs", directory / "read-only", size=256 * 1024) as read_only,
    ):
        repositories = {
            "mem": 'type = "mem"',
            "disk": f'type = {{ fs = {{ dir = "{disk}" }} }}',
            "locked": f'type = {{ fs = {{ dir = "{read_only}" }} }}',
            "signed": f'type = "mem"\nkey = "{directory}/my.pub"\nverity = "full"',
            "small": 'type = "mem"\ncapacity_num = 0',
            "tiny": 'type = "mem"\ncapacity_size = "1kB"',
        }
        runtime = RuntimeProcess(
            directory / "run", repositories=repositories, permissions=PERMISSIONS, console=LIMITS
        )
        world = World(runtime, directory / "work", disk)
        try:
            runtime.start()
            prepare(world, payload)
            subprocess.run(runtime.enter("mount", "-o", "remount,ro", str(read_only)), check=True)
            yield world
            with runtime.client() as client:
                client.stop("running")
            runtime.stop()
        finally:
            runtime.close()


def prepare(world: World, payload: Path) -> None:
    """Make the files, and install and start containers."""
    work = world.directory
    script = executable(work / "script", b"#!/bin/nothing\n")
    garbage = executable(work / "garbage", b"garbage")
    program = {"/payload": payload}
    resource = {"type": "resource", "dir": "/"}
    installed = [
        world.package("running", files=program, args=["pause"]),
        world.package("quiet", files=program, args=["pause"]),
        world.package("lib", init=None, files={"/file": b"x"}),
        world.package(
            "user",
            files={**program, "/lib/x": b"x"},
            args=["pause"],
            mounts={"/lib": {**resource, "name": "lib", "version": "^1"}},
        ),
        world.package(
            "needs", files=program, mounts={"/lib": {**resource, "name": "lib", "version": "^2"}}
        ),
        world.package("without", init="/missing"),
        world.package("script", init="/script", files={"/script": script}),
        world.package("garbage", init="/garbage", files={"/garbage": garbage}),
        world.package("plain", init="/plain", files={"/plain": b"#!/bin/sh\n"}),
        world.package("dynamic", init="/ls", files={"/ls": Path("/bin/ls")}),
        world.package("netns", files=program, network={"namespace": "nothing"}),
    ]
    with world.runtime.client() as client:
        for package in installed:
            client.install(package, "mem")
        client.start("running")
    world.package("new", files=program)
    world.package("large", files={"/data": os.urandom(300_000)})
    world.package("huge", files={"/data": os.urandom(500_000)})
    other = work / "other"
    other.mkdir()
    npk.generate("other", other)
    world.package("stranger", key=npk.load_secret_key(other / "other.key"))
    (work / "text").write_text("hello\n")
    (work / "cut.npk").write_bytes((work / "new-1.0.0.npk").read_bytes()[:4000])
    (work / "empty").mkdir()
    os.mkfifo(work / "fifo")


NSTAR = rows(
    ("install no.npk mem", "no.npk: No such file or directory", "check the path"),
    ("install empty mem", "empty: Is a directory", "name a file, not a directory"),
    ("install fifo mem", "fifo is not a regular file", "name a package"),
    ("install text mem", "text: it is not a package", "pack it again"),
    ("install text disk", "text: it is not a package", "pack it again"),
    ("install cut.npk disk", "cut.npk: it is not a package, or its end is missing", "copy it"),
    ("update text disk", "text: it is not a package", "pack it again"),
    ("install new-1.0.0.npk memm", "there is no repository 'memm'", "did you mean mem?"),
    ("install new-1.0.0.npk apps", "there is no repository 'apps'", "there is disk, locked, mem"),
    ("install new-1.0.0.npk small", "repository small is full: its capacity_num is 0", "uninstall"),
    ("install new-1.0.0.npk tiny", "repository tiny is full: ", "uninstall something first"),
    ("install lib-1.0.0.npk disk", "lib:1.0.0 is installed already", "nstar uninstall lib"),
    ("install new-1.0.0.npk signed", "new-1.0.0.npk: it is not signed", "only signed packages"),
    ("install stranger-1.0.0.npk signed", "stranger-1.0.0.npk: ", "another key"),
    (
        "install large-1.0.0.npk disk",
        "repository disk is full: 3",
        "uninstall something or make room on the file system",
    ),
    ("update large-1.0.0.npk disk", "repository disk is full: 3", "uninstall something or make"),
    ("install new-1.0.0.npk locked", "repository locked cannot store it: the file system", "mount"),
    (
        "install huge-1.0.0.npk mem",
        "is larger than 400000, the limit of max_npk_install_size",
        "console.global.options",
    ),
    ("install mem new-1.0.0.npk", "mem is not a file, and new-1.0.0.npk is", "the file first"),
    ("uninstall nothing", "no container nothing is installed", "nstar list shows"),
    ("uninstall running2", "no container running2 is installed", "did you mean running?"),
    ("uninstall lib:9.9.9", "lib:9.9.9 is not installed; installed: 1.0.0", "one of these"),
    ("uninstall running", "running:1.0.0 is running", "stop it first (nstar stop running)"),
    ("umount running", "running:1.0.0 is running", "stop it first (nstar stop running)"),
    ("umount quiet", "quiet:1.0.0 is not mounted", "nstar list shows what is mounted"),
    ("mount running", "running:1.0.0 is mounted already", "nstar list shows what is mounted"),
    ("mount nothing:1.0.0", "nothing:1.0.0 is not installed", "nstar list shows"),
    ("start lib:9.9.9", "lib:9.9.9 is not installed; installed: 1.0.0", "one of these"),
    ("start running", "running:1.0.0 is running already", "nstar restart running"),
    ("start lib", "lib:1.0.0 is a resource container", "start an app that mounts it"),
    ("start needs", "needs the resource lib (^2)", "install a version that matches"),
    ("start without", "cannot execute /missing: No such file", "is the program in the package"),
    ("start script", "cannot execute /script: /bin/nothing: No such file", "its interpreter"),
    ("start plain", "cannot execute /plain: /bin/sh: No such file", "its interpreter"),
    ("start garbage", "cannot execute /garbage: Exec format error", "a program for this machine"),
    ("start dynamic", "cannot execute /ls: /lib", "its libraries"),
    ("start netns", "the network namespace nothing", "ip netns add"),
    ("start quiet /no", "cannot execute /no: No such file", "is the program in the package"),
    ("start quiet NORTHSTAR_NAME=x", "NORTHSTAR_NAME is reserved", "leave it out"),
    ("kill quiet", "quiet:1.0.0 is not running", "start it first (nstar start quiet)"),
    ("kill running 99", "signal 99 is not within 1..31", "name one as TERM"),
    ("stop nothing", "no container nothing is installed", "nstar list shows"),
    ("restart lib", "lib:1.0.0 is a resource container", "start an app that mounts it"),
    ("logs quiet", "quiet:1.0.0 has no log", "set one of them to pipe or inherit"),
    ("logs lib", "lib:1.0.0 is a resource, which prints nothing", "name the app that uses it"),
    ("exec quiet /bin/sh", "quiet:1.0.0 is not running", "start it first (nstar start quiet)"),
    ("exec running /bin/sh", "/bin/sh", "sextant inspect"),
    ("inspect nothing:1.0.0", "nothing:1.0.0 is not installed", "nstar list shows"),
    ("wait quiet", "quiet:1.0.0 is not running", "start it first (nstar start quiet)"),
    ("wait --for ready quiet", "quiet:1.0.0 is not ready", "start it first (nstar start quiet)"),
    ("wait --timeout 1ms running", "running:1.0.0 has not exited", "nstar status", 124),
    ("update lib-1.0.0.npk mem", "lib:1.0.0 is a resource", "install it"),
    ("update new-1.0.0.npk mem", "new", "install"),
    ("keys mem", "the repository mem has no key list", "add it, with a list"),
    ("keys memm", "there is no repository 'memm'", "did you mean mem?"),
)


@NSTAR
def test_nstar(
    misuse: Misuse,
    world: World,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(world.directory)
    arguments = ["-u", world.runtime.url, *shlex.split(misuse.arguments)]
    code = invoke(nstar, arguments, "nstar")
    out, err = capfd.readouterr()
    check(misuse, code, "" if "status" in arguments else out, err, str(world.directory.parent))
    # Nothing was changed: the next row meets the same containers.
    assert not list(world.disk.iterdir())


def test_the_reason_of_a_closed_connection_reaches_the_python_client(world: World) -> None:
    with world.runtime.client() as client, pytest.raises(Exception, match="max_npk_install_size"):
        client.install(world.directory / "huge-1.0.0.npk", "mem")
    # And a line that is no message, of an extended connection.
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(TIMEOUT)
        raw.connect(world.runtime.url.removeprefix("unix://"))
        raw.sendall(
            b'{"connect":{"version":"0.9.2","subscribe_notifications":false,"extended":true}}\n'
        )
        with raw.makefile("rb") as stream:
            assert b"connect_ack" in stream.readline()
            raw.sendall(b'{"request":"lst"}\n')
            assert stream.read() == (
                b'{"notification":{"closing":{"reason":"request: \'lst\' is unknown"}}}\n'
            )


def test_a_plain_connection_is_closed_without_a_word(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(TIMEOUT)
        raw.connect(world.runtime.url.removeprefix("unix://"))
        raw.sendall(b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n')
        with raw.makefile("rb") as stream:
            assert stream.readline() == b'{"connect_ack":null}\n'
            raw.sendall(b'{"request":"lst"}\n')
            assert stream.read() == b""


def test_the_python_client_names_the_package(world: World) -> None:
    path = world.directory / "text"
    with world.runtime.client() as client:
        with pytest.raises(RefusedError, match=f"^{path}: it is not a package") as caught:
            client.install(path, "disk")
        assert ".northstar" not in str(caught.value.error)
        with pytest.raises(RefusedError, match=r"^the package: it is not a package"):
            client.install(b"hello", "disk")


def test_the_python_client_without_a_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORTHSTAR_URL", f"unix://{tmp_path}/console")
    with pytest.raises(ConnectError, match=r"NORTHSTAR_URL names it\): No such file"):
        Client.connect()


def test_uninstall_of_a_resource_warns(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    since = len(world.runtime.text())
    code = invoke(nstar, ["-u", world.runtime.url, "uninstall", "lib"], "nstar")
    assert (code, capfd.readouterr()) == (
        0,
        (
            "uninstalled lib:1.0.0\n",
            "warning: user:1.0.0 needs lib:1.0.0, and cannot start without it\n",
        ),
    )
    world.runtime.wait_log(r"WARN.*user:1\.0\.0 needs lib:1\.0\.0", since=since)
    with world.runtime.client() as client:
        client.install(world.directory / "lib-1.0.0.npk", "mem")


def test_notifications_on_a_terminal(world: World) -> None:
    """A pipe gets the forms of Northstar 0.9.2, a terminal sentences."""
    terminal, end = os.openpty()
    code = "from northstar.cli.nstar import main; main()"
    options = ["-u", world.runtime.url, "notifications"]
    with subprocess.Popen([sys.executable, "-c", code, *options], stdout=end) as shown:
        os.close(end)
        try:
            text = b""
            # What happens before it has subscribed is not shown: so it happens again.
            while b"SIGSYS" not in text:
                with world.runtime.client(subscribe=True) as client:
                    client.start("quiet")
                    client.kill("quiet", signal.SIGSYS)
                    client.wait("quiet", timeout=TIMEOUT)
                while select.select([terminal], [], [], 0.2)[0]:
                    text += os.read(terminal, 4096)
        finally:
            shown.kill()
            os.close(terminal)
    assert b"quiet:1.0.0 was killed by its seccomp filter (SIGSYS); see nstar seccomp" in text


CONFIGURATION = """\
run_dir = "{dir}/r"
data_dir = "{dir}/d"
socket_dir = "{dir}/s"
cgroup = "{cgroup}"
[console.global]
bind = "{bind}"
permissions = ["ident"]
"""
"""A configuration that works, if nothing is changed."""


@pytest.mark.parametrize(
    ("change", "says", "advises"),
    [
        (('bind = "{bind}"', 'bind = "unix://{dir}/no/c"'), "{dir}/no/c: No such file", "create"),
        (('bind = "{bind}"', 'bind = "unix://{dir}/text"'), "{dir}/text", "remove it, or bind"),
        (
            ('bind = "{bind}"', 'bind = "unix://{dir}"'),
            "{dir}: it is a directory",
            "name a file in it",
        ),
        (
            ('bind = "{bind}"', 'bind = "unix://{dir}/' + 120 * "x" + '"'),
            "path too long",
            "choose a path shorter than 108 bytes",
        ),
        (('bind = "{bind}"', 'bind = "tcp://127.0.0.1:{port}"'), "Address already in use", "end"),
        (('bind = "{bind}"', 'bind = "tcp://no.invalid"'), "no.invalid", "console.global.bind"),
        (
            ('bind = "{bind}"', 'bind = "{bind}"\nmode = 0o660\ngroup = "no-such"'),
            "no group 'no-such'",
            "groupadd no-such",
        ),
        (('"{dir}/r"', '"{dir}/text"'), "{dir}/text' cannot be used", "name a directory"),
        (('"{dir}/d"', '"{dir}/text/d"'), "{dir}/text/d' cannot be used", "name a directory"),
        (
            ("", '[repositories.a]\ntype = {{ fs = {{ dir = "{dir}/no" }} }}\n'),
            "repositories.a: the directory {dir}/no does not exist",
            "make it",
        ),
        (
            ("", '[repositories.a]\ntype = "mem"\nkey = "{dir}/no.pub"\n'),
            "repositories.a.key: cannot read the key {dir}/no.pub",
            "check the path",
        ),
        (
            ("", '[repositories.a]\ntype = "mem"\nkey = "{dir}/text"\n'),
            "repositories.a.key: the key {dir}/text has fewer bytes",
            "sextant gen-key",
        ),
        (
            ("", '[repositories.a]\ntype = "mem"\nkeys = "{dir}/text"\n'),
            "{dir}/text",
            "sextant key-list",
        ),
    ],
)
def test_a_runtime_that_cannot_start(
    change: tuple[str, str], says: str, advises: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello\n")
    old, new = change
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        template = CONFIGURATION.replace(old, new) if old else CONFIGURATION + new
        values = {
            "dir": str(tmp_path),
            "cgroup": f"northstar-misuse-{os.getpid()}",
            "bind": f"unix://{tmp_path}/console",
            "port": used.getsockname()[1],
        }
        configuration = tmp_path / "c.toml"
        configuration.write_text(template.format(**values))
        done = northstar(configuration)
    assert done.returncode == 1, done
    text = "".join(
        line + "\n" for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))
    )
    misuse = Misuse("", says.format(**values), advises)
    check(misuse, done.returncode, "", text)


def northstar(configuration: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "from northstar.cli.northstar import main; main()"
    return subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, "-c", str(configuration)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        **options,
    )


@pytest.mark.parametrize(
    ("bind", "permissions"),
    [
        ("tcp://127.0.0.1:0", '"full"'),
        ("tcp://0.0.0.0:0", '"full"'),
        ("tcp://127.0.0.1:0", '["ident"]'),
        ("unix", '"full"'),
    ],
)
def test_a_tcp_console_that_anybody_may_use_is_a_warning(
    bind: str, permissions: str, tmp_path: Path
) -> None:
    runtime = RuntimeProcess(tmp_path, permissions=permissions)
    text = runtime.configuration.read_text()
    if bind != "unix":
        runtime.configuration.write_text(text.replace(f'"{runtime.url}"', f'"{bind}"'))
    try:
        runtime.start()
        found = [line for line in runtime.text().splitlines() if "Every user of" in line]
        if bind == "unix" or permissions != '"full"':
            assert found == []
        else:
            [line] = found
            assert "WARN" in line
            assert ("of its network" in line) is ("0.0.0.0" in bind)
            assert 'use a Unix socket, bind = "unix:///run/northstar/console"' in line
        runtime.stop()
    finally:
        runtime.close()


def test_the_console_may_be_in_run_dir(tmp_path: Path) -> None:
    """As in the documentation: /run/northstar/console, with the run_dir /run/northstar."""
    runtime = RuntimeProcess(tmp_path)
    text = runtime.configuration.read_text()
    url = f"unix://{runtime.run_dir}/console"
    runtime.configuration.write_text(text.replace(f'"{runtime.url}"', f'"{url}"'))
    runtime.url = url
    try:
        for _ in range(2):  # the socket of the first run is in the way of the second one
            runtime.start()
            assert runtime.nstar("ident").stdout == "extern:0.0.0\n"
            assert (runtime.run_dir / "console").stat().st_mode & 0o777 == 0o600
            assert runtime.process is not None
            runtime.process.send_signal(signal.SIGTERM)
            assert runtime.process.wait(TIMEOUT) == 0
            runtime._forget()
    finally:
        runtime.close()
