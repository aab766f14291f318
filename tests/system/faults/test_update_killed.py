"""The runtime is killed during an update: the next boot runs one version, with its own data."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.api import ContainerState, RefusedError
from northstar.model import NorthstarError
from tests.system.faults.intercept import Call, Interceptor
from tests.system.faults.killing import CALLS, is_log
from tests.system.harness import PATIENCE, wait_until
from tests.system.services.test_restart import status, wait_state
from tests.system.services.test_update import NEW, OLD, SERVE, Device

pytestmark = pytest.mark.root

COPY = ("fallocate", "copy_file_range", "ftruncate", "utimensat", "syncfs", "linkat", "symlinkat")
"""Calls that copy data, or reserve space, in addition to CALLS."""

SAMPLE = 5
"""Moments of an update at which the runtime is killed in each run of the tests."""

WORDS = {
    "commit": SERVE,
    "rollback": "notify-open - ; notify READY=1 ; sleep 0.1 ; exit 1",
}
WINDOW = {"commit": "200ms", "rollback": "10m"}
READ = "notify-open - ; read /data/version ; notify READY=1 ; pause"


class Victim(Device):
    """A device whose runtime is killed again and again; the old version does not write its data."""

    def prepare(self, interceptor: Interceptor, words: str, window: str) -> None:
        """Make the packages; nothing runs yet."""
        old = self.package("1.0.0", READ, autostart="relaxed", writes=False)
        self.old = old.read_bytes()
        self.new = self.package("1.1.0", words, autostart="relaxed", update={"window": window})
        self.start(wrap=interceptor.wrap, pass_fds=interceptor.pass_fds, start=False)

    def reset(self) -> None:
        """Begin again with the old version and its data, and start the runtime."""
        for name in os.listdir(self.store):
            (self.store / name).unlink()
        (self.store / "app.npk").write_bytes(self.old)
        shutil.rmtree(self.state_file.parent, ignore_errors=True)
        data = self.runtime.data_dir / "app"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        (data / "version").write_text("1.0.0")
        (data / "version").chmod(0o666)
        self.runtime.start()
        with self.runtime.client() as client:
            wait_state(client, ContainerState.READY)

    def update(self) -> str | None:
        """Update; return the failure, empty for a success, None without an answer."""
        try:
            with self.runtime.client() as client:
                client.update(self.new, "fs")
        except NorthstarError as failure:
            return str(failure) if "rolled back" in str(failure) else None
        return ""

    def check(self, answer: str | None, outcome: str) -> str:
        """Start the runtime, and check that the update comes to an end; return what runs."""
        since = len(self.runtime.text())
        self.runtime.start()
        wait_until(self._has_ended, "the update has ended", 60 * PATIENCE)
        with self.runtime.client() as client:
            (container,) = map(str, client.list())
        committed = container == NEW
        assert committed or container == OLD
        if answer is not None:
            assert committed == (answer == "")
        if outcome == "rollback":
            assert not committed
        self.assert_runs(container, floor="1.1.0" if committed else None)
        assert "Traceback" not in self.runtime.text()[since:]
        return container

    def _has_ended(self) -> bool:
        content = json.loads(self.state_file.read_bytes()) if self.state_file.exists() else {}
        if content.get("updates"):
            return False
        with self.runtime.client() as client:
            listed = client.list()
            return len(listed) == 1 and status(client, str(listed[0])).state is ContainerState.READY


@pytest.fixture
def victim(make_runtime: Any, tmp_path: Path, payload: Path) -> Victim:
    return Victim(make_runtime, tmp_path, payload)


def moments(total: int, every: int) -> Iterator[int]:
    yield from range(1, total + 1, every)


@pytest.mark.parametrize("outcome", sorted(WORDS))
@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(True, marks=pytest.mark.timeout(120 + 60 * PATIENCE)),
        pytest.param(False, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
    ids=["some", "all"],
)
def test_killed_before_every_call(victim: Victim, outcome: str, sample: bool) -> None:
    with Interceptor((*CALLS, *COPY)) as interceptor:
        victim.prepare(interceptor, WORDS[outcome], WINDOW[outcome])
        victim.reset()
        total = 0

        def count(call: Call) -> None:
            nonlocal total
            total += not is_log(call)

        interceptor.decide = count
        answer = victim.update()
        interceptor.decide = lambda _call: None
        assert answer is not None
        assert (answer == "") == (outcome == "commit")
        victim.runtime.kill()
        assert total > 50
        found = set()
        for moment in moments(total, max(total // SAMPLE, 1) if sample else 1):
            victim.reset()
            answer = killed_before(victim, interceptor, moment)
            try:
                found.add(victim.check(answer, outcome))
            except BaseException as failure:
                failure.add_note(f"killed before call {moment} of {total}")
                raise
            victim.runtime.kill()
        assert OLD in found
        if outcome == "commit":
            assert NEW in found


def killed_before(victim: Victim, interceptor: Interceptor, moment: int) -> str | None:
    """Update, and kill the runtime before a call; return the answer."""
    seen = 0

    def decide(call: Call) -> None:
        nonlocal seen
        seen += not is_log(call)
        if seen == moment:
            os.kill(call.pid, signal.SIGKILL)

    interceptor.decide = decide
    answer = victim.update()
    interceptor.decide = lambda _call: None
    victim.runtime.kill()
    return answer


PHASES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "staged": lambda record: record["phase"] == "staged",
    "trial": lambda record: record["phase"] == "trial",
    "commit": lambda record: record["phase"] == "commit",
    "rollback": lambda record: record["phase"] == "rollback",
}
"""A phase in the state file, after whose write the runtime is killed."""


@pytest.mark.parametrize("phase", sorted(PHASES))
@pytest.mark.parametrize("again", [False, True], ids=["once", "also-at-the-boot"])
def test_killed_in_each_phase(victim: Victim, phase: str, again: bool) -> None:
    """Right after the phase is in the file; then also at the next boot, at each later fsync(2)."""
    outcome = "rollback" if phase == "rollback" else "commit"
    with Interceptor(["fsync"]) as interceptor:
        victim.prepare(interceptor, WORDS[outcome], WINDOW[outcome])
        victim.reset()

        def decide(call: Call) -> None:
            if victim.state_file.exists():
                record = json.loads(victim.state_file.read_bytes())["updates"].get("app")
                if record is not None and PHASES[phase](record):
                    os.kill(call.pid, signal.SIGKILL)

        interceptor.decide = decide
        assert victim.update() is None
        interceptor.decide = lambda _call: None
        victim.runtime.kill()
        if again:
            met = 0

            def once(call: Call) -> None:
                nonlocal met
                met += 1
                if met == 1:
                    os.kill(call.pid, signal.SIGKILL)

            interceptor.decide = once
            victim.runtime.start(wait=False)
            wait_until(lambda: met, "the boot writes something")
            interceptor.decide = lambda _call: None
            victim.runtime.kill()
        expected = {"staged": OLD, "rollback": OLD, "trial": NEW, "commit": NEW}[phase]
        assert victim.check(None, outcome) == expected


@pytest.mark.parametrize("phase", sorted(PHASES))
def test_shut_down_in_each_phase(victim: Victim, phase: str) -> None:
    """It ends in order, and the next boot goes on; the client is answered before."""
    outcome = "rollback" if phase == "rollback" else "commit"
    with Interceptor(["fsync"]) as interceptor:
        victim.prepare(interceptor, WORDS[outcome], WINDOW[outcome])
        victim.reset()
        sent = False

        def decide(call: Call) -> None:
            nonlocal sent
            if not sent and victim.state_file.exists():
                record = json.loads(victim.state_file.read_bytes())["updates"].get("app")
                if record is not None and PHASES[phase](record):
                    sent = True
                    os.kill(call.pid, signal.SIGTERM)

        interceptor.decide = decide
        with (
            victim.runtime.client() as client,
            pytest.raises(RefusedError, match=r"the runtime is shutting down|rolled back"),
        ):
            client.update(victim.new, "fs")
        victim.runtime.wait_exit()
        interceptor.decide = lambda _call: None
        expected = {"staged": OLD, "rollback": OLD, "trial": NEW, "commit": NEW}[phase]
        assert victim.check(None, outcome) == expected


@pytest.mark.parametrize("outcome", sorted(WORDS))
@pytest.mark.parametrize(
    "number",
    [errno.EIO, pytest.param(errno.ENOSPC, marks=pytest.mark.long)],
    ids=errno.errorcode.get,
)
@pytest.mark.parametrize("which", [1, 2, 3, pytest.param(4, marks=pytest.mark.long)])
def test_a_write_of_the_state_file_fails(
    victim: Victim, outcome: str, number: int, which: int
) -> None:
    """One of its renames fails: the update is undone, or the write is done again later."""
    with Interceptor(["renameat2"]) as interceptor:
        victim.prepare(interceptor, WORDS[outcome], WINDOW[outcome])
        victim.reset()
        seen = 0

        def decide(_call: Call) -> int | None:
            nonlocal seen
            seen += 1
            return number if seen == which else None

        interceptor.decide = decide
        victim.update()
        wait_until(victim._has_ended, "the update has ended", 60 * PATIENCE)
        assert seen >= which
        with victim.runtime.client() as client:
            (container,) = map(str, client.list())
        # The first two are those of `staged` and `trial`.
        assert container == (NEW if outcome == "commit" and which > 2 else OLD)
        victim.assert_runs(container, floor="1.1.0" if container == NEW else None)
        with victim.runtime.client() as client:
            client.update(victim.package("1.3.0", update={"window": "200ms"}), "fs")
        victim.assert_runs("app:1.3.0", floor="1.3.0")
