"""A runtime that is killed during an operation, started again, and checked."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from northstar.api import response
from northstar.client import blocking
from northstar.model import NorthstarError
from tests.system import host
from tests.system.containers import PIPES
from tests.system.faults.intercept import Call, Interceptor, from_first
from tests.system.harness import TIMEOUT, RuntimeProcess, enter, manifest, pack, wait_until

CALLS = (
    *("openat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat"),
    *("rmdir", "write", "fsync", "flock", "chmod", "fchmod", "fchmodat", "fchown", "chown"),
    *("mount", "umount2", "ioctl", "memfd_create", "clone3", "vfork", "kill", "sendmsg"),
    *("socket", "socketpair", "bind", "pipe2", "fcntl", "pidfd_send_signal"),
)
"""Calls that change something outside of the process, or its descriptors. The moment of a kill
between two of these calls makes no difference."""

APP, OTHER = "app:1.0.0", "other:1.0.0"
REMOVED = re.compile(r"WARN  runtime: Removed what an earlier run left: (.*)")


def is_log(call: Call) -> bool:
    """Return whether a call writes to the log: threads do so at any time, so it does not count."""
    return call.name == "write" and call.arguments[0] == 2


class Phase(NamedTuple):
    """An operation that is interrupted, with the level of the container before and after it.

    Levels: 0 not installed, 1 installed, 2 mounted, 3 started.
    """

    name: str
    before: int
    after: int


PHASES = (
    Phase("boot", 0, 0),
    Phase("install", 0, 1),
    Phase("mount", 1, 2),
    Phase("start", 2, 3),
    Phase("end", 3, 2),
    Phase("umount", 2, 1),
    Phase("uninstall", 1, 0),
    Phase("shutdown", 3, 1),
)


class Moment(NamedTuple):
    """When the runtime is killed: before a call of the phase, by number, or after some seconds."""

    phase: Phase
    call: int = 0
    seconds: float = 0.0


class Extent(NamedTuple):
    """The number of calls of a phase, and its duration in seconds."""

    calls: int
    seconds: float


class Victim:
    """A directory with packages, in which a runtime is started and killed repeatedly.

    The phases install, mount and start one package; another one is always installed, is started at
    each boot, and must never be lost.
    """

    def __init__(
        self,
        interceptor: Interceptor,
        make_runtime: Callable[..., RuntimeProcess],
        directory: Path,
        payload: Path,
        namespace: int | None = None,
    ) -> None:
        """Prepare the directory; nothing runs yet.

        Args:
            interceptor: an interceptor of CALLS.
            make_runtime: the fixture.
            directory: of the test.
            payload: the program in the containers.
            namespace: a process in whose mount namespace all runtimes are (`-d`), or None.
        """
        sockets = {name: {"type": "stream", "mode": 0o600} for name in "ab"}
        mounts = {"/data": {"type": "persist"}}
        common: dict[str, Any] = {"args": ["pause"], "io": PIPES}
        service = {"notify": "/run/notify"}
        text = manifest("app", **common, sockets=sockets, mounts=mounts, service=service)
        self.package = pack(directory, text, {"payload": payload})
        text = manifest("other", **common, autostart="relaxed")
        self.other = pack(directory, text, {"payload": payload}).read_bytes()
        self.store = directory / "store"
        self.store.mkdir()
        (self.store / "other.npk").write_bytes(self.other)
        self._interceptor = interceptor
        self._holder = namespace or os.getpid()
        self.runtime = make_runtime(
            start=False,
            repositories={"fs": f'type = {{ fs = {{ dir = "{self.store}" }} }}'},
            arguments=("-d",) if namespace else (),
            wrap=("/usr/bin/env", *enter(namespace), *interceptor.wrap)
            if namespace
            else interceptor.wrap,
            pass_fds=interceptor.pass_fds,
        )
        self._mounts = host.mounts(self._holder)
        # Whether the app is installed; after an interrupted install both are possible.
        self._installed = {False}

    # Phases.

    def measure(self) -> dict[str, Extent]:
        """Run all phases without a kill."""
        extents = {}
        for phase in PHASES:
            calls: list[str] = []

            def count(call: Call, calls: list[str] = calls) -> None:
                if not is_log(call):
                    calls.append(call.name)

            if phase.name == "boot":
                self._interceptor.decide = from_first("flock", count)
                begun = time.monotonic()
                self.come_up()
            else:
                if phase.name == "shutdown":
                    self._bring(phase.before)
                with self.runtime.client() as client:
                    self._interceptor.decide = count
                    begun = time.monotonic()
                    self._act(phase, client)
            extents[phase.name] = Extent(len(calls), time.monotonic() - begun)
            self._interceptor.decide = lambda _call: None
        self.runtime.wait_exit()
        self._installed = {True}
        return extents

    def live(self, moments: Sequence[Moment]) -> int:
        """Start the runtime and kill it at each moment; at the end it must shut down in order.

        Returns:
            Number of moments within an operation. At the others the operation had ended already,
            and the runtime was killed afterwards.
        """
        met = 0
        for moment in moments:
            try:
                met += self._live_until(moment)
            except BaseException as failure:
                failure.add_note(f"it was to be killed at {moment}")
                raise
        self.come_up()
        self._bring(0)
        self.runtime.stop()
        assert host.mounts(self._holder) == self._mounts
        assert os.listdir(self.store) == ["other.npk"]
        return met

    def _live_until(self, moment: Moment) -> bool:
        if moment.phase.name == "boot":
            return self._interrupt(moment, self._boot)
        self.come_up()
        self._bring(moment.phase.before)
        with self.runtime.client() as client:
            return self._interrupt(moment, lambda: self._act(moment.phase, client))

    def _interrupt(self, moment: Moment, act: Callable[[], None]) -> bool:
        """Run an action, and kill the runtime during it, or else afterwards."""
        phase, seen, met = moment.phase, 0, threading.Event()

        def decide(call: Call) -> None:
            nonlocal seen
            seen += not is_log(call)
            if seen == moment.call:
                os.kill(call.pid, signal.SIGKILL)
                met.set()

        def kill() -> None:
            process = self.runtime.process
            if process is not None and process.poll() is None:
                process.kill()
                met.set()

        is_boot = phase.name == "boot"  # changes nothing that is stored
        before = self._installed
        self._installed = before if is_boot else {phase.before > 0, phase.after > 0}
        timer = threading.Timer(moment.seconds, kill)
        if moment.call:
            self._interceptor.decide = from_first("flock", decide) if is_boot else decide
        else:
            timer.start()
        try:
            act()
        except (NorthstarError, OSError):
            assert met.wait(TIMEOUT), self.runtime.text()
        else:
            self._installed = before if is_boot else {phase.after > 0}
        finally:
            timer.cancel()
            timer.join() if moment.seconds else None
            self._interceptor.decide = lambda _call: None
        # Not `RuntimeProcess.kill`, which also waits for the end of the containers.
        assert self.runtime.process is not None
        self.runtime.process.kill()
        self.runtime.process.wait()
        self.runtime._forget()
        return met.is_set()

    # Actions.

    def _boot(self) -> None:
        since = len(self.runtime.text()) if self.runtime.log.exists() else 0
        process = self.runtime.start(wait=False).process
        assert process is not None
        wait_until(
            lambda: process.poll() is not None or "up and running" in self.runtime.text()[since:],
            "it is up or killed",
        )

    def _act(self, phase: Phase, client: blocking.Client) -> None:
        match phase.name:
            case "install":
                client.install(self.package, "fs")
            case "mount":
                assert client.mount(APP) == (response.Ok(client.list()[0]),)
            case "start":
                client.start(APP)
            case "end":
                client.kill(APP, signal.SIGKILL)
                wait_until(lambda: client.inspect(APP).process is None, "it has ended")
            case "umount":
                assert client.umount(APP) == (response.Ok(client.list()[0]),)
            case "uninstall":
                client.uninstall(APP, wipe=True)
            case "shutdown":
                process = self.runtime.process
                assert process is not None
                process.send_signal(signal.SIGTERM)
                wait_until(lambda: process.poll() is not None, "it has ended")

    def _bring(self, wanted: int) -> None:
        """Bring the app to a level."""
        up = {phase.before: phase for phase in PHASES[1:4]}
        down = {phase.before: phase for phase in PHASES[4:7]}
        with self.runtime.client() as client:
            while (level := self._level(client)) != wanted:
                self._act(up[level] if level < wanted else down[level], client)

    def _level(self, client: blocking.Client) -> int:
        if APP not in map(str, client.list()):
            return 0
        data = client.inspect(APP)
        return 3 if data.process else 2 if data.mounted else 1

    # Checks.

    def come_up(self) -> None:
        """Start the runtime; it must start normally, and log and remove all stale state."""
        left = self._left() if self.runtime.run_dir.exists() else set()
        half = [name for name in os.listdir(self.store) if name.startswith(".northstar-install:")]
        since = len(self.runtime.text()) if self.runtime.log.exists() else 0
        self.runtime.start(wait=False)
        # In some of the hundreds of starts the machine is busy.
        self.runtime.wait_log("Runtime up and running", since=since, timeout=8 * TIMEOUT)
        said = self.runtime.text()[since:]
        named = set(re.findall(r"[^ ,()]+", " ".join(REMOVED.findall(said))))
        assert left <= named, f"{left - named} is not logged:\n{said}"
        for name in half:
            assert f"Removing {self.store}/{name} of an interrupted install" in said
        warnings = re.findall(r"^.*(?:WARN|ERROR).*$", said, re.MULTILINE)
        assert all(map(REMOVED.search, warnings)), said
        assert "Traceback" not in said
        self._check_packages()
        wait_until(
            lambda: set(os.listdir(self.runtime.data_dir)) <= {"app"},
            "there is only the app's data",
        )
        wait_until(
            lambda: self._left() == {OTHER, "other"}, f"there is only what runs, not {self._left()}"
        )
        mounts = [line for line in host.mounts(self._holder) if line not in self._mounts]
        points = [f"{self.runtime.run_dir}/{OTHER}"] if "-d" in self.runtime.arguments else []
        assert [line.split(" ")[0] for line in mounts] == points
        wait_until(
            lambda: len(self.runtime.loops()) == 1, "only the other package's loop device is left"
        )

    def _left(self) -> set[str]:
        """Return the names of stale mount points, sockets and cgroups."""
        runtime = self.runtime
        groups = host.cgroups(runtime.cgroup, itself=False)
        return {
            *os.listdir(runtime.run_dir),
            *os.listdir(runtime.socket_dir),
            *(Path(path).name for path in groups if Path(path).parent.name == runtime.cgroup),
        }

    def _check_packages(self) -> None:
        with self.runtime.client() as client:
            listed = [str(container) for container in client.list()]
            assert client.inspect(OTHER).process is not None
        installed = APP in listed
        assert listed == ([APP, OTHER] if installed else [OTHER])
        assert installed in self._installed, "the state contradicts an answer"
        self._installed = {installed}
        files = {path.name: path.read_bytes() for path in self.store.iterdir()}
        whole = {"other.npk": self.other}
        if installed:
            whole[f"{APP}.npk"] = self.package.read_bytes()
        assert files == whole
