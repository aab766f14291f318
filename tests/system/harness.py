"""A real runtime for a test, with a separate mount and network namespace, cgroup and log.

    runtime = RuntimeProcess(tmp_path).start()
    with runtime.client() as client:
        client.install(pack(tmp_path, manifest("hello"), {"payload": payload}), "mem")
    runtime.stop()

The runtime is a child of the test (`unshare` and a helper execute it), so its pid leads to the
namespaces, and its mounts always end with it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from northstar import npk
from northstar.client import blocking
from northstar.npk import signature
from northstar.runtime.writer import DELAY
from tests import vectors
from tests.system import host
from tests.system.host import Snapshot
from tests.system.zygote import Forked, Zygote

IN_VM = os.environ.get("NORTHSTAR_VM") == "1"

PATIENCE = 6.0 if IN_VM else 1.0
"""Factor for all time limits: the virtual machine is emulated."""

TIMEOUT = 15.0 * PATIENCE
"""Seconds until a test fails that waits for a condition."""

MEM: Mapping[str, str] = {"mem": 'type = "mem"'}
"""The default repositories of a runtime: ID to lines of its TOML table."""

OLDER = os.environ.get("NORTHSTAR_TEST_FALLBACK") == "1"
"""Runtimes and launchers run as on a kernel without each feature that has a fallback."""

VERITY = os.environ.get("NORTHSTAR_TEST_VERITY", "")
"""`dm` or `full`: tests without keys use signed packages in repositories with a key."""

NO_KEY = "# no key"
"""A line of a repository's table that gets no key, for any value of VERITY."""

T = TypeVar("T")

_KEY = vectors.DIRECTORY / "npk/good.key"
_ENTER = str(Path(__file__).with_name("enter.py"))
_COMMAND = "import sys; from northstar.cli.{0} import main; sys.argv[0] = '{0}'; sys.exit(main())"
_UNSHARE = ("unshare", "--mount", "--net", "--propagation", "slave")
_PR_SET_CHILD_SUBREAPER = 36
_counter = itertools.count(1)


def wait_until(condition: Callable[[], T], what: str, timeout: float = TIMEOUT) -> T:
    """Poll until `condition` returns a true value, and return that."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"after {timeout:g} s still not: {what}"
        time.sleep(0.005)
    return result


def eventually(condition: Callable[[], bool], timeout: float = 10) -> bool:
    """Return whether a condition becomes true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def manifest(name: str, version: str = "1.0.0", **fields: Any) -> str:
    """Return the text of a manifest (JSON): uid and gid 1000, and `init: /payload` by default.

    `init=None` makes a resource.
    """
    fields = {"init": "/payload", "uid": 1000, "gid": 1000, **fields}
    if fields["init"] is None:
        del fields["init"]
    return json.dumps({"name": name, "version": version, **fields})


def pack(
    directory: Path,
    manifest_text: str,
    files: Mapping[str, Path | bytes | str] | None = None,
    *,
    root: Path | None = None,
    key: Any = None,
    **options: Any,
) -> Path:
    """Pack `files` (path in the image to a file to copy, or content) below `directory`.

    A file given as a path keeps its mode; content gets 0644. For symbolic links and other objects a
    test creates a directory, and passes it as `root`.

    Returns:
        The package, in a new directory.
    """
    work = directory / "pack" / str(next(_counter))
    out = work / "out"
    out.mkdir(parents=True)
    if root is None:
        root = work / "root"
        root.mkdir()
    for target, content in (files or {}).items():
        path = root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = work / "manifest.yaml"
    source.write_text(manifest_text)
    if key is None and VERITY:
        key = _KEY.read_bytes()
    npk.pack(source, root, out, key=key, **options)
    (package,) = out.iterdir()
    return package


def sign_again(document: bytes, manifest_text: str) -> bytes:
    """Return the signature.yaml `document` of a package of `pack`, for another manifest."""
    hashes = signature.verify(document, _KEY.with_suffix(".pub").read_bytes())
    digest = hashlib.sha256(manifest_text.encode()).hexdigest()
    return signature.render(hashes._replace(manifest=digest), _KEY.read_bytes())


def exchange_manifest(package: Path, text: str) -> None:
    """Put another manifest, of any content, into a package of `pack`; renew its signature."""
    with zipfile.ZipFile(package) as archive:
        image, comment = archive.read("fs.img"), archive.comment
        entries = {"manifest.yaml": text.encode()}
        if "signature.yaml" in archive.namelist():
            entries["signature.yaml"] = sign_again(archive.read("signature.yaml"), text)
    with zipfile.ZipFile(package, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        entry = zipfile.ZipInfo("fs.img")
        start = archive.fp.tell() + 30 + len("fs.img")  # type: ignore[union-attr]
        padding = -(start + 4) % 4096
        entry.extra = (0xD935).to_bytes(2, "little") + padding.to_bytes(2, "little")
        entry.extra += bytes(padding)
        archive.writestr(entry, image)
        archive.comment = comment


def enter(pid: int, *command: str, spaces: tuple[str, ...] = ("--mount",)) -> list[str]:
    """Return the command line that runs `command` in namespaces of `pid`."""
    # In a chroot the root of the test differs from that of the mount namespace: hence --root.
    return ["nsenter", f"--target={pid}", *spaces, "--root", "--wd", "--", *command]


class RuntimeProcess:
    """The program `northstar`, run with directories below `directory` and a separate cgroup.

    Attributes:
        pid: the runtime's process.
        url: the address of its console.
        cgroup: the name of the runtime cgroup.
        log: the file with its stdout and stderr.
    """

    def __init__(
        self,
        directory: Path,
        *,
        repositories: Mapping[str, str] = MEM,
        tcp: bool = False,
        permissions: str = '"full"',
        console: str = "",
        top: str = "",
        tables: str = "",
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        wrap: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
        older: bool = OLDER,
        forked: bool = IN_VM,
    ) -> None:
        """Write the configuration; nothing runs yet.

        Args:
            directory: an empty directory, or one of an earlier runtime.
            repositories: ID to the lines of its table.
            tcp: bind the console to TCP in the runtime's network namespace, not to a Unix socket.
            permissions: TOML of `console.global.permissions`.
            console: more lines for `[console.global]`.
            top: more lines for the top level.
            tables: more tables.
            arguments: more arguments of the command line.
            environment: added to the runtime's environment.
            wrap: a command that executes the program that follows it.
            pass_fds: descriptors that it inherits.
            older: run it as on an older kernel.
            forked: fork it from a process that has imported it (`zygote.py`), unless `wrap` or
                `pass_fds` is given: it starts in a fifth of the time.
        """
        self.directory = directory
        self.run_dir = directory / "run"
        self.data_dir = directory / "data"
        self.socket_dir = directory / "socket"
        self.log = directory / "log"
        self.cgroup = f"northstar-test-{os.getpid()}-{next(_counter)}"
        self.url = "tcp://127.0.0.1:4200" if tcp else f"unix://{directory}/console"
        self.arguments = arguments
        self.environment = dict(environment or {})
        self.wrap = wrap
        self.pass_fds = pass_fds
        self.older = older
        self.forked = forked and not wrap and not pass_fds
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._last = 0
        self._before: set[int] = set()
        self._probe: socket.socket | None = None
        self.configuration = directory / "northstar.toml"
        self.configuration.write_text(
            f'run_dir = "{self.run_dir}"\n'
            f'data_dir = "{self.data_dir}"\n'
            f'socket_dir = "{self.socket_dir}"\n'
            f'cgroup = "{self.cgroup}"\n'
            f"{top}\n"
            "[console.global]\n"
            f'bind = "{self.url}"\n'
            f"permissions = {permissions}\n"
            f"{console}\n"
            + "".join(
                f"[repositories.{name}]\n{_keyed(text)}\n" for name, text in repositories.items()
            )
            + tables
        )

    @property
    def pid(self) -> int:
        """The runtime's process."""
        assert self.process is not None, "the runtime was not started"
        return self.process.pid

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and by default wait until it runs."""
        assert self.process is None, "the runtime runs already"
        since = len(self.text()) if self.log.exists() else 0
        # Orphans of the runtime become children of this process, which finds them so.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        zygote = _zygote() if self.forked else None
        self._before = set(host.descendants(os.getpid()))
        arguments = ["-c", str(self.configuration), *self.arguments]
        program = [sys.executable, "-c", _COMMAND.format("northstar")]
        environment = _environment(self.environment)
        with self.log.open("ab") as log:
            if zygote is not None:
                self.process = zygote.spawn(
                    arguments, self.directory, environment, log, older=self.older
                )
            else:
                helper = [sys.executable, "-I", _ENTER, *(["--older"] if self.older else [])]
                self.process = subprocess.Popen(
                    [*_UNSHARE, *helper, *self.wrap, *program, *arguments],
                    pass_fds=self.pass_fds,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    env=environment,
                )
        self._last = self.process.pid
        if wait:
            self.wait_log("Runtime up and running", since=since)
        return self

    def client(self, **options: Any) -> blocking.Client:
        """Return a blocking client that is connected to the console (a Unix socket)."""
        return blocking.Client.connect(self.url, **options)

    def enter(self, *command: str) -> list[str]:
        """Return the command line that runs `command` in the runtime's two namespaces."""
        return enter(self.pid, *command, spaces=("--mount", "--net"))

    @property
    def launcher(self) -> int:
        """The launcher that clones the inits: it looks up the sources of bind mounts."""
        found = host.descendants(self.pid)
        (pid,) = (pid for pid in found if host.comm(pid) == "nstar-launcher")
        return pid

    def nstar(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `nstar` against this runtime; with `check` it must exit with 0."""
        command = [sys.executable, "-c", _COMMAND.format("nstar"), *arguments]
        done = subprocess.run(
            self.enter(*command),
            env=_environment({"NORTHSTAR_URL": self.url}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert not check or done.returncode == 0, f"nstar {arguments}: {done}"
        return done

    def text(self) -> str:
        """Return the log so far.

        The runtime writes lines some milliseconds late (`writer.DELAY`); here they are waited for.
        """
        if self.process is not None and self.process.poll() is None:
            time.sleep(5 * DELAY)
        return self._logged()

    def _logged(self) -> str:
        return self.log.read_text(errors="backslashreplace")

    def wait_log(self, pattern: str, *, since: int = 0, timeout: float = TIMEOUT) -> re.Match[str]:
        """Wait for `pattern` (a regular expression) in the log, from character `since` on."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self.process is not None and self.process.poll() is not None
            text = self._logged()
            match = re.compile(pattern, re.MULTILINE).search(text, since)
            if match:
                return match
            assert not ended, f"the runtime ended before {pattern!r} was logged:\n{text}"
            assert time.monotonic() < deadline, f"{pattern!r} was not logged:\n{text}"
            time.sleep(0.005)

    def stop(self, *, code: int = 0, timeout: float = TIMEOUT) -> None:
        """Send SIGTERM and wait; it must exit with `code` and leave nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.wait_exit(code=code, timeout=timeout)

    def wait_exit(self, *, code: int = 0, timeout: float = TIMEOUT) -> None:
        """Wait for its end, and check that nothing is left."""
        assert self.process is not None
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {timeout:g} s:\n{self.text()}") from None
        assert status == code, f"it ended with {status}, not {code}:\n{self.text()}"
        self._forget()
        self.assert_nothing_left()

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait for the end of its processes and loop devices.

        Cgroups may stay, since no process removes them.
        """
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._forget()
        wait_until(lambda: not self._orphans(), "processes of the killed runtime are gone")
        if "-d" not in self.arguments:  # else its mounts stay, with their loop devices
            wait_until(lambda: not self.loops(), "loop devices of the killed runtime are gone")

    def _forget(self) -> None:
        self.process = None
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def snapshot(self) -> Snapshot:
        """Return the objects that the runtime holds now."""
        self._settle()
        return Snapshot.take(self.pid, self.directory, self.cgroup)

    def _settle(self) -> None:
        """Wait until the runtime has processed the end of closed connections.

        An answer to a later request shows that. The request uses a connection that stays open.
        """
        if self._probe is None:
            self._probe = socket.socket(socket.AF_UNIX)
            self._probe.settimeout(TIMEOUT)
            self._probe.connect(self.url.removeprefix("unix://"))
            version = b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n'
            self._probe.sendall(version)
            assert self._probe.recv(4096).endswith(b"\n")
        # There is an answer also without permission. The second answer comes a turn of the event
        # loop after the first; in between the loop closes transports.
        for _ in range(2):
            self._probe.sendall(b'{"request":"ident"}\n')
            assert self._probe.recv(4096).endswith(b"\n")

    def assert_no_leak(self, before: Snapshot, timeout: float = 3 * PATIENCE) -> None:
        """Wait until the runtime holds exactly the same objects as `before`.

        The kernel frees some objects (loop devices, zombies) after the system call has returned,
        hence the wait.
        """
        deadline = time.monotonic() + timeout
        while difference := before.difference(self.snapshot()):
            assert time.monotonic() < deadline, f"the runtime leaks:\n{difference}"
            time.sleep(0.01)

    def assert_nothing_left(self) -> None:
        """Check that no process, loop device, mount, cgroup or mount point of it is left."""
        wait_until(lambda: not self._orphans(), "no processes left", 3 * PATIENCE)
        wait_until(lambda: not self.loops(), "no loop devices left", 3 * PATIENCE)
        assert host.cgroups(self.cgroup) == []
        assert not [line for line in host.mounts(os.getpid()) if f"{self.directory}/" in line]
        if self.run_dir.exists():
            assert host.files(self.run_dir) == []

    def close(self) -> None:
        """Kill it if it runs, and remove its cgroups; for the fixture, after any test."""
        if self.process is not None:
            self.kill()
        for path in sorted(host.cgroups(self.cgroup), reverse=True):
            wait_until(functools.partial(_rmdir, path), f"cgroup {path} is empty", 3 * PATIENCE)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def loops(self) -> list[str]:
        """Return the backing files of the loop devices of this runtime, or of the last one."""
        return host.loops(self._last, self.directory)

    def _orphans(self) -> list[int]:
        # The zygote may have started after this runtime, and stays.
        others = {*self._before, *([_zygote().pid] if _zygote.cache_info().currsize else [])}
        found = [pid for pid in host.descendants(os.getpid()) if pid not in others]
        for pid in found:
            if host.state(pid) == "Z":
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue  # its parent is another orphan, or it was reaped meanwhile
        return found


@functools.cache
def _zygote() -> Zygote:
    return Zygote()


def _keyed(table: str) -> str:
    if not VERITY or "key =" in table or NO_KEY in table:
        return table
    return f'{table}\nkey = "{_KEY.with_suffix(".pub")}"\nverity = "{VERITY}"'


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    # Tests wait for a debug line at the end of a container's clean-up.
    return {**kept, "LANG": "C.UTF-8", "NORTHSTAR_LOG": "runtime=debug", **extra}


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True
