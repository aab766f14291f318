"""The two compared runtimes as processes, and a plain client for both.

The client libraries are not involved: the client writes a line of JSON, and reads lines of JSON.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from northstar import npk
from tests.system import host
from tests.system.harness import PATIENCE, manifest

TIMEOUT = 40.0 * PATIENCE
"""Seconds for an answer; then the measurement fails."""

PAYLOAD = """
#include <unistd.h>
int main(void) {
    if (write(1, "x", 1) != 1)
        return 1;
    for (;;)
        pause();
}
"""
"""Reports its start, for programs without a runtime, and pauses."""

MOUNTS = {
    "/dev": {"type": "dev"},
    "/proc": {"type": "proc"},
    "/tmp": {"type": "tmpfs", "size": "1M"},
}
PARALLEL = 20
"""Number of apps in use at once."""
BURST = 50
"""Number of small requests without a pause between them."""

IMAGE_BYTES = 1_000_000
BIG_BYTES = 20_000_000

# Northstar 0.9.2 opens device-mapper's control node when it starts, and uses it for signed packages
# only. On a machine without device-mapper an empty file lets it start. Only it sees the file: /dev
# is an overlay in a mount namespace.
_STAND_IN = """
[ -e /dev/mapper/control ] || {
    mount -t tmpfs none "$0"
    mkdir -p "$0/upper/mapper" "$0/work"
    : > "$0/upper/mapper/control"
    mount -t overlay -o "lowerdir=/dev,upperdir=$0/upper,workdir=$0/work" overlay /dev
}
"""
_READY = "echo; exec sleep infinity"

_FRAME = (1 << 55) - 1

_LACKING = 2000
"""The user of Northstar 0.9.2 where root lacks capabilities.

As root it gives each container's init all capabilities, and fails if it lacks one. As another user
it keeps its own: those that the machine has, ambient.
"""


class Packages(NamedTuple):
    """Packages for both sides.

    Attributes:
        apps: 50 apps that differ in their names.
        signed: one app, signed.
        big: a resource of 20 MB.
        key: the public key.
        root: the directory that the images contain.
    """

    apps: list[Path]
    signed: Path
    big: Path
    key: Path
    root: Path


def compile_payload(directory: Path) -> Path:
    """Compile the program `pause` in `directory`, and return its path."""
    source, program = directory / "pause.c", directory / "pause"
    source.write_text(PAYLOAD)
    compiler = shutil.which("musl-gcc") or "gcc"
    subprocess.run([compiler, "-static", "-Os", "-o", program, source], check=True)
    return program


def pack(directory: Path) -> Packages:
    """Pack below `directory`, which is empty."""
    root, apps = directory / "root", directory / "apps"
    for path in (root, apps, *(root / target.lstrip("/") for target in MOUNTS)):
        path.mkdir()
    compile_payload(root)
    (root / "ballast").write_bytes(os.urandom(IMAGE_BYTES))
    text = directory / "manifest.yaml"
    text.write_text(manifest("app", init="/pause", mounts=MOUNTS))
    npk.pack(text, root, apps, clones=50)

    npk.generate("key", directory)
    text.write_text(manifest("signed", init="/pause", mounts=MOUNTS))
    signed = directory / "signed.npk"
    npk.pack(text, root, signed, key=npk.load_secret_key(directory / "key.key"))

    (large := directory / "large").mkdir()
    (large / "data").write_bytes(os.urandom(BIG_BYTES))
    text.write_text(manifest("big", init=None))
    npk.pack(text, large, directory / "big.npk", compression="none")
    return Packages(
        sorted(apps.iterdir()), signed, directory / "big.npk", directory / "key.pub", root
    )


def lacking_capabilities() -> list[int]:
    """Return the numbers of the kernel's capabilities that this process lacks."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            have = int(line.split()[1], 16)
            return [number for number in range(last + 1) if not have >> number & 1]
    raise AssertionError("no CapPrm")


class Side:
    """One of the two runtimes: its command, and its mount namespace.

    Attributes:
        name: its name in the rows.
    """

    def __init__(self, name: str, program: list[str]) -> None:
        self.name = name
        self._program = program
        self._own_dev = tempfile.mkdtemp(prefix="northstar-compare-")
        prepare = "" if name == "ours" else _STAND_IN
        script = ["sh", "-euc", prepare + _READY, self._own_dev]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", *script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            self.close()
            raise SystemExit("error: no mount namespace could be made; this needs root")

    def command(self, configuration: Path) -> list[str]:
        """Return the command line that starts it; nsenter and setpriv count for both sides."""
        space = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        privileges = ["--keep-groups"]
        if self.name == "reference" and (lacking := lacking_capabilities()):
            capabilities = ",".join(["+all", *(f"-cap_{number}" for number in lacking)])
            privileges += [f"--reuid={_LACKING}", f"--inh-caps={capabilities}"]
            privileges.append(f"--ambient-caps={capabilities}")
        words = ["nsenter", space, "--", "setpriv", *privileges, "--"]
        return [*words, *self._program, str(configuration)]

    def close(self) -> None:
        """End the mount namespace."""
        self._holder.kill()
        self._holder.communicate()
        os.rmdir(self._own_dev)


@contextlib.contextmanager
def sides(reference: Path) -> Iterator[list[Side]]:
    """Yield our side and that of Northstar 0.9.2, whose program is `reference`."""
    ours = str(Path(sys.executable).with_name("northstar"))
    with contextlib.ExitStack() as stack:
        found = []
        for name, program in (("ours", [ours, "-c"]), ("reference", [str(reference)])):
            found.append(Side(name, program))
            stack.callback(found[-1].close)
        yield found


def _environment() -> dict[str, str]:
    kept = dict(os.environ)
    # Compiled modules, as of an installed command.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    # The program with Northstar 0.9.2 writes no log.
    return {**kept, "NORTHSTAR_LOG": "runtime=warn,container=warn"}


class Runtime:
    """A running runtime of a side, with its directories and cgroup.

    Attributes:
        pid: its process.
    """

    def __init__(self, side: Side, directory: Path, repositories: Mapping[str, str]) -> None:
        """Start it, without waiting for an answer.

        Args:
            side: its side.
            directory: a path that does not exist yet.
            repositories: ID to the lines of its TOML table.
        """
        for name in ("run", "data", "socket"):
            (directory / name).mkdir(parents=True)
            (directory / name).chmod(0o777)  # the reference may be another user
        self.name = side.name
        self._console = directory / "console"
        self._cgroup = f"northstar-compare-{os.getpid()}-{directory.name}"
        configuration = directory / "northstar.toml"
        configuration.write_text(
            f'run_dir = "{directory}/run"\n'
            f'data_dir = "{directory}/data"\n'
            f'socket_dir = "{directory}/socket"\n'
            f'cgroup = "{self._cgroup}"\n'
            "[console.global]\n"
            f'bind = "unix://{self._console}"\n'
            'permissions = "full"\n'
            "options = { max_requests_per_sec = 1000000 }\n"
            + "".join(f"[repositories.{name}]\n{text}\n" for name, text in repositories.items())
        )
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            side.command(configuration),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=_environment(),
        )
        self.pid = self._process.pid

    def console(self, *, subscribe: bool = False) -> Console:
        """Connect as soon as it listens."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return Console(self._console, subscribe=subscribe)
            except (FileNotFoundError, ConnectionRefusedError):
                self.check()
                assert time.monotonic() < deadline, "the runtime does not listen"
                time.sleep(0.0005)

    def check(self) -> None:
        """Fail with the end of its log if it has ended."""
        if self._process.poll() is not None:
            code = self._process.returncode
            raise AssertionError(f"{self.name} ended with {code}:\n{self._words()}")

    def _words(self) -> str:
        # A separate offset: the runtime writes at the shared one.
        return Path(self._log.name).read_text(errors="replace")

    def processor_time(self) -> float:
        """Return the processor time of it and its descendants, also ended ones, in ms."""
        ticks = 0
        for pid in (self.pid, *host.descendants(self.pid)):
            # utime, stime, cutime, cstime; proc_pid_stat(5) counts from 1, the name is the second
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks * 1e3 / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[int, int]:
        """Return the memory (KiB) of the runtime with its helpers, and of all but the payloads."""
        itself: set[int] = set()
        inits: set[int] = set()
        for pid in (self.pid, *host.descendants(self.pid)):
            comm = Path(f"/proc/{pid}/comm").read_text().strip()
            if comm == "pause" or host.state(pid) == "Z":
                continue
            # The two sides name their inits differently; both are in other PID namespaces.
            other = os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
            (inits if other else itself).update(pages(pid))
        size = os.sysconf("SC_PAGE_SIZE") // 1024
        return len(itself) * size, len(itself | inits) * size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut it down, or else kill it and its descendants; after a failure print its log."""
        if error is not None:
            print(f"The log of {self.name}:", self._words(), file=sys.stderr)
        below = host.descendants(self.pid)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            for pid in (self.pid, *below):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
        finally:
            self._log.close()
            for path in sorted(host.cgroups(self._cgroup), reverse=True):
                with contextlib.suppress(OSError):
                    os.rmdir(path)


def pages(pid: int) -> set[int]:
    """Return the numbers of all page frames that a process has mapped (proc_pid_pagemap(5)).

    A page that the processes of one side share counts once; a page that other programs share (the C
    library, and on our side this interpreter) counts in full, as on a device without these. The
    proportional set size would count only half of an interpreter.
    """
    size = os.sysconf("SC_PAGE_SIZE")
    found: set[int] = set()
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if line.endswith("[vsyscall]"):
                continue
            begin, end = (int(number, 16) // size for number in line.split()[0].split("-"))
            pagemap.seek(begin * 8)
            entries = array.array("Q", pagemap.read((end - begin) * 8))
            found.update(entry & _FRAME for entry in entries if entry >> 63)
    return found


class Console:
    """A connection."""

    def __init__(self, path: Path, *, subscribe: bool) -> None:
        """Connect.

        Raises:
            FileNotFoundError: the socket is not bound yet.
            ConnectionRefusedError: the runtime does not listen yet.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(TIMEOUT)
            self._socket.connect(str(path))
            self._lines = self._socket.makefile("rb")
            hello = {"version": "0.9.2", "subscribe_notifications": subscribe}
            self._send({"connect": hello})
            assert b"connect_ack" in self._read()
        except BaseException:
            self._socket.close()
            raise
        self.notifications: list[Any] = []
        """Messages that arrived before the awaited one."""
        self._exited: list[str] = []

    def _send(self, message: object, data: bytes = b"") -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n" + data)

    def _read(self) -> bytes:
        line = self._lines.readline()
        assert line, "the runtime has closed the connection"
        return line

    def send(self, request: object, data: bytes = b"") -> None:
        """Send a request, and raw data after it."""
        self._send({"request": request}, data)

    def response(self) -> bytes:
        """Return the line of the next response, which must be a success.

        The measured time ends here, so the response is not parsed.
        """
        while not (line := self._read()).startswith(b'{"response":'):
            self._note(line)
        assert b'"error":' not in line, line
        return line

    def request(self, request: object, data: bytes = b"") -> bytes:
        """Send a request and return the line of its response."""
        self.send(request, data)
        return self.response()

    def ask(self, request: object, data: bytes = b"") -> Any:
        """Send a request; return the response, also an error."""
        self.send(request, data)
        while not (line := self._read()).startswith(b'{"response":'):
            self._note(line)
        return json.loads(line)["response"]

    def wait_exit(self, container: str) -> None:
        """Wait for the exit notification of a container."""
        while container not in self._exited:
            self._note(self._read())
        self._exited.remove(container)

    def _note(self, line: bytes) -> None:
        notification = json.loads(line)["notification"]
        self.notifications.append(notification)
        if "exit" in notification:
            self._exited.append(notification["exit"][0])

    def install(self, package: bytes, repository: str) -> str:
        """Install a package; return its container."""
        request = {"install": {"repository": repository, "size": len(package)}}
        response = json.loads(self.request(request, package))["response"]
        container: str = response["install"]["ok"]["container"]
        return container

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(container: str) -> dict[str, Any]:
    """Return the request that starts a container."""
    return {"start": {"container": container, "arguments": [], "environment": {}}}


def kill(container: str) -> dict[str, Any]:
    """Return the request that kills a container."""
    return {"kill": {"container": container, "signal": 9}}


def mounts(word: str, container: str) -> dict[str, Any]:
    """Return the request that mounts or unmounts (`word`) a container."""
    return {word: {"containers": [container]}}


def summary(values: list[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile (of few values the largest)."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
