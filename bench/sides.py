"""The two compared runtimes as processes."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bench.console import TIMEOUT, Console
from bench.runtime import pss
from tests.system import host

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


def lacking_capabilities() -> list[int]:
    """Return the numbers of the kernel's capabilities that this process lacks."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            have = int(line.split()[1], 16)
            return [number for number in range(last + 1) if not have >> number & 1]
    raise AssertionError("no CapPrm")


class Programs(NamedTuple):
    """The programs of a side.

    Attributes:
        runtime: the command to which the path of the configuration is appended.
        logging: the same, of the program that writes its usual log; None if there is none.
        nstar: the client; None if there is none.
    """

    runtime: list[str]
    logging: list[str] | None = None
    nstar: Path | None = None

    @classmethod
    def ours(cls, directory: Path) -> Self:
        """Return those of an installation of ours, whose commands are in `directory`."""
        runtime = [str(directory / "northstar"), "-c"]
        return cls(runtime, runtime, directory / "nstar")

    @classmethod
    def reference(cls, runtime: Path) -> Self:
        """Return those of Northstar 0.9.2: `runtime`, and those that `make compare` installs."""
        installed = runtime.parents[1] / "bin"
        logging, nstar = installed / "northstar", installed / "northstar-nstar"
        return cls(
            [str(runtime)],
            [str(logging), "-c"] if logging.exists() else None,
            nstar if nstar.exists() else None,
        )


class Side:
    """One of the two runtimes: its programs, and its mount namespace.

    Attributes:
        name: its name in the rows.
        programs: its programs.
    """

    def __init__(self, name: str, programs: Programs, *, other: bool) -> None:
        """Make the mount namespace.

        Args:
            name: its name.
            programs: its programs.
            other: whether they are those of Northstar 0.9.2.
        """
        self.name = name
        self.programs = programs
        self._other = other
        self._own_dev = tempfile.mkdtemp(prefix="northstar-compare-")
        script = ["sh", "-euc", (_STAND_IN if other else "") + _READY, self._own_dev]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", *script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Ctrl-C ends the measurement, which then ends its processes in order.
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            self.close()
            raise SystemExit("error: no mount namespace could be made; this needs root")

    def command(self, configuration: Path, *, logging: bool = False) -> list[str]:
        """Return the command line that starts it; nsenter and setpriv count for both sides."""
        program = self.programs.logging if logging else self.programs.runtime
        assert program is not None
        space = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        privileges = ["--keep-groups"]
        if self._other and (lacking := lacking_capabilities()):
            capabilities = ",".join(["+all", *(f"-cap_{number}" for number in lacking)])
            privileges += [f"--reuid={_LACKING}", f"--inh-caps={capabilities}"]
            privileges.append(f"--ambient-caps={capabilities}")
        words = ["nsenter", space, "--", "setpriv", *privileges, "--"]
        return [*words, *program, str(configuration)]

    def close(self) -> None:
        """End the mount namespace."""
        self._holder.kill()
        self._holder.communicate()
        os.rmdir(self._own_dev)


@contextlib.contextmanager
def sides(reference: Path) -> Iterator[list[Side]]:
    """Yield our side and the other one.

    Args:
        reference: the program with the crate of Northstar 0.9.2, or the directory of another tree
            of ours, which has a virtual environment.
    """
    tree = reference.is_dir()
    theirs = Programs.ours(reference / ".venv/bin") if tree else Programs.reference(reference)
    with contextlib.ExitStack() as stack:
        found = []
        for name, programs, other in (
            ("ours", Programs.ours(Path(sys.executable).parent), False),
            ("reference", theirs, not tree),
        ):
            found.append(Side(name, programs, other=other))
            stack.callback(found[-1].close)
        yield found


_COMPILED = """
import compileall, importlib, os, sys
import northstar
compileall.compile_dir(os.path.dirname(northstar.__file__), quiet=1)
for command in ("northstar", "nstar"):
    importlib.import_module("northstar.cli." + command)
specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
files = [spec.cached for spec in specs if spec is not None and spec.cached]
print(*(file for file in files if not os.path.exists(file)))
"""


def compile_modules(python: Path) -> None:
    """Compile the modules of the tree to which `python` belongs, as those of an installed command.

    Otherwise the first start would compile them, or each one if the directory cannot be written.
    """
    command = [str(python), "-c", _COMPILED]
    done = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE)
    if lacking := done.stdout.decode().split():
        raise SystemExit(f"error: these modules of {python} are not compiled: {lacking}")


def environment(*, logging: bool = False) -> dict[str, str]:
    """Return the environment of a program, with or without its usual log."""
    kept = dict(os.environ)
    # Compiled modules, as of an installed command.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    # The program with the crate of Northstar 0.9.2 writes no log.
    return kept if logging else {**kept, "NORTHSTAR_LOG": "runtime=warn,container=warn"}


class Runtime:
    """A running runtime of a side, with its directories and cgroup.

    Attributes:
        pid: its process.
        socket: the address of its console.
    """

    def __init__(
        self,
        side: Side,
        directory: Path,
        repositories: Mapping[str, str],
        *,
        logging: bool = False,
    ) -> None:
        """Start it, without waiting for an answer.

        Args:
            side: its side.
            directory: a path that does not exist yet.
            repositories: ID to the lines of its TOML table.
            logging: whether to start the program that writes its usual log.
        """
        for name in ("run", "data", "socket"):
            (directory / name).mkdir(parents=True)
            (directory / name).chmod(0o777)  # the reference may be another user
        self.name = side.name
        self.socket = directory / "console"
        self._cgroup = f"northstar-compare-{os.getpid()}-{directory.name}"
        configuration = directory / "northstar.toml"
        configuration.write_text(
            f'run_dir = "{directory}/run"\n'
            f'data_dir = "{directory}/data"\n'
            f'socket_dir = "{directory}/socket"\n'
            f'cgroup = "{self._cgroup}"\n'
            "[console.global]\n"
            f'bind = "unix://{self.socket}"\n'
            'permissions = "full"\n'
            "options = { max_requests_per_sec = 1000000 }\n"
            + "".join(f"[repositories.{name}]\n{text}\n" for name, text in repositories.items())
        )
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            side.command(configuration, logging=logging),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment(logging=logging),
            start_new_session=True,
        )
        self.pid = self._process.pid

    def console(self, *, subscribe: bool = False) -> Console:
        """Connect as soon as it listens."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return Console(self.socket, subscribe=subscribe)
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
        for pid, is_init in self._processes():
            (inits if is_init else itself).update(pages(pid))
        size = os.sysconf("SC_PAGE_SIZE") // 1024
        return len(itself) * size, len(itself | inits) * size

    def proportional(self) -> tuple[int, int]:
        """Return the same as proportional set sizes (PSS), proc_pid_smaps(5)."""
        itself = inits = 0
        for pid, is_init in self._processes():
            if is_init:
                inits += pss(pid)
            else:
                itself += pss(pid)
        return itself, itself + inits

    def _processes(self) -> Iterator[tuple[int, bool]]:
        """Yield the processes without the payloads, and whether each is the init of a container."""
        # The two sides name their inits differently; both are in other PID namespaces.
        here = os.readlink("/proc/self/ns/pid")
        for pid in (self.pid, *host.descendants(self.pid)):
            comm = Path(f"/proc/{pid}/comm").read_text().strip()
            if comm != "pause" and host.state(pid) != "Z":
                yield pid, os.readlink(f"/proc/{pid}/ns/pid") != here

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut it down, or else kill it and its descendants; after a failure print its log."""
        if isinstance(error, Exception):
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
