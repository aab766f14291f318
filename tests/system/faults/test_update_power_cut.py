"""A power cut at any moment of an update: one version runs, with its data, and can be updated.

A runtime in the virtual machine updates an app on a disk, and QEMU logs each write. Then the test
reconstructs the disk after each write, with all or some of the unflushed writes, and boots a real
runtime on it.

    .venv/bin/pytest -m long tests/system/faults/test_update_power_cut.py

NORTHSTAR_FAULT_RECORDING names the temporary directory of an earlier run, to check it again; below
it is one directory for each file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.api import ContainerState, RefusedError
from tests.system import disks
from tests.system.faults import blocklog, recorded_update, update_images
from tests.system.faults.blocklog import Write
from tests.system.faults.intercept import Call, Interceptor
from tests.system.faults.recorded import NOTE
from tests.system.faults.update_images import FIRST, NEXT, UPDATES, Outcome
from tests.system.harness import IN_VM, wait_until

ROOT = Path(__file__).parents[3]

SIZES = {"ext4": 24 * 2**20, "btrfs": 48 * 2**20}
"""Bytes of the file system; the disk is larger, for the notes."""

MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "btrfs": ("mkfs.btrfs", "-q", "--mixed")}
"""A btrfs without `--mixed` needs 109 MiB."""

BLOCKS = {"ext4": 512, "btrfs": 4096}
"""Bytes that the disk writes as a whole. The superblock of btrfs is one block of 4096 bytes with a
checksum, and must not be torn."""

CALLS = (
    *("fsync", "fdatasync", "syncfs", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "fallocate", "ftruncate", "truncate"),
)
"""Calls of the runtime before which the disk differs from the one before the previous call."""

SEEDS = 4
"""How often the unflushed writes that are missing are chosen anew."""

NEXT_EVERY = 4
"""Another update follows after every n-th boot."""


RIGHT = (
    (0, Outcome("1.0.0", None, frozenset({"1.0.0"}))),
    (0, Outcome("1.1.0", "1.1.0", frozenset({"1.0.0", "1.1.0"}))),
    (1, Outcome("1.1.0", "1.1.0", frozenset({"1.0.0", "1.1.0"}))),
    (4, Outcome("1.3.0", "1.3.0", frozenset({"1.0.0", "1.1.0", "1.3.0"}))),
    (4, Outcome("1.3.0", "1.3.0", frozenset({"1.0.0", "1.1.0", "1.3.0", "1.4.0"}))),
)
WRONG = {
    "a version that was replaced": (1, Outcome("1.0.0", None, frozenset({"1.0.0"}))),
    "a version that failed": (1, Outcome("1.2.0", "1.1.0", frozenset({"1.0.0", "1.1.0"}))),
    "a floor too low": (1, Outcome("1.1.0", None, frozenset({"1.0.0", "1.1.0"}))),
    "data of a newer version": (0, Outcome("1.0.0", None, frozenset({"1.0.0", "1.1.0"}))),
    "data of a version that failed": (
        2,
        Outcome("1.1.0", "1.1.0", frozenset({"1.0.0", "1.1.0", "1.2.0"})),
    ),
    "data that is lost": (3, Outcome("1.3.0", "1.3.0", frozenset({"1.0.0", "1.3.0"}))),
}


@pytest.mark.parametrize(("answered", "outcome"), RIGHT)
def test_a_right_outcome(answered: int, outcome: Outcome) -> None:
    update_images.check(outcome, answered, "")


@pytest.mark.parametrize(("answered", "outcome"), WRONG.values(), ids=WRONG)
def test_a_wrong_outcome_is_found(answered: int, outcome: Outcome) -> None:
    with pytest.raises(AssertionError):
        update_images.check(outcome, answered, "")


class Boots:
    """Boots disks with different files once, and counts."""

    def __init__(self, directory: Path, packages: dict[str, bytes], kind: str) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.states = 0
        self.next_updates = 0
        self._work = directory / "runtime"
        self._target = directory / "target"
        self._image = directory / "image"
        self._next = directory / "packages" / f"app-{NEXT}.npk"
        self._packages = packages
        self._kind = kind

    def outcome(self, image: bytes) -> tuple[Outcome, str | None]:
        """Return what a boot of a disk ends with, and the floor before the boot."""
        self.states += 1
        self._image.unlink(missing_ok=True)  # mount(8) reuses the loop device of a name
        self._image.write_bytes(image)
        with update_images.mounted(self._image, self._kind, self._target) as disk:
            key = update_images.digest(disk, self._packages)
            floor = update_images.floor_of(disk)
            if key not in self.outcomes:
                also = self._next if len(self.outcomes) % NEXT_EVERY == 0 else None
                self.next_updates += also is not None
                outcome = update_images.boot(disk, self._work, self._packages, also)
                self.outcomes[key] = outcome
        return self.outcomes[key], floor


def record(kind: str, directory: Path) -> None:
    """Run the updates with a runtime in the machine."""
    plan = {
        "first": f"app-{FIRST}.npk",
        "updates": [(f"app-{update.version}.npk", update.commits) for update in UPDATES],
    }
    (directory / "packages" / "steps").write_text(json.dumps(plan))
    disk, log = directory / "disk", directory / "log"
    with disk.open("wb") as file:
        file.truncate(SIZES[kind])
    subprocess.run([*MAKE[kind], str(disk)], check=True)
    os.truncate(disk, SIZES[kind] + 2**20)
    shutil.copy(disk, directory / "before")
    log.touch()
    program = [sys.executable, str(ROOT / "tests/system/faults/recorded_update.py")]
    command = ["scripts/vm", "--timeout", "1200", "--disk", str(disk), str(log), "--", *program]
    done = subprocess.run(
        [*command, str(directory / "packages"), kind, str(SIZES[kind])],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0


@pytest.fixture
def directory(request: pytest.FixtureRequest, tmp_path: Path, payload: Path) -> Path:
    """The directory of a recording, which is made, or of an earlier run."""
    kind: str = request.getfixturevalue("kind")
    earlier = os.environ.get("NORTHSTAR_FAULT_RECORDING")
    if earlier:
        return Path(earlier, kind)
    directory = tmp_path / kind
    (directory / "packages").mkdir(parents=True)
    update_images.pack_all(directory / "packages", payload)
    record(kind, directory)
    return directory


def cuts(directory: Path, kind: str) -> Iterator[tuple[bytes, str, int, bool]]:
    """Yield each different disk after a power cut: its contents, which it is, answers, complete."""
    image = (directory / "before").read_bytes()
    writes = blocklog.parse((directory / "log").read_bytes())
    print(f"{len(writes)} writes")
    yielded: set[bytes] = set()
    for seed in range(SEEDS):
        answered: int | None = None
        for state in blocklog.states(image, writes, random.Random(seed), BLOCKS[kind]):
            complete = state.which == "all"
            if complete:
                number = noted(writes[state.number - 1], SIZES[kind])
                answered = answered if number is None else number
            if answered is None or (complete and seed):
                continue
            content = state.image[: SIZES[kind]]
            # What was answered is a part: the same disk may be too old for a later moment.
            key = hashlib.sha256(content + bytes([answered])).digest()
            if key not in yielded:
                yielded.add(key)
                told = f"{state.which} writes up to {state.number} (seed {seed}), "
                told += f"{answered} updates answered"
                yield content, told, answered, complete
        assert answered == len(UPDATES)


def min_floor(answered: int) -> str | None:
    """Return the version that the last answered commit was for."""
    versions = [update.version for update in UPDATES[:answered] if update.commits]
    return versions[-1] if versions else None


def noted(write: Write, offset: int) -> int | None:
    """Return the number of answered updates, if this write is such a note."""
    if write.offset == offset and write.data.startswith(NOTE):
        return int(write.data.removeprefix(NOTE).split(b"\n")[0])
    return None


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.skipif(IN_VM or platform.machine() != "x86_64", reason="it starts a machine itself")
@pytest.mark.parametrize("kind", sorted(MAKE))
def test_one_version_with_its_data(directory: Path, kind: str) -> None:
    packages = {
        path.name.removeprefix("app-").removesuffix(".npk"): path.read_bytes()
        for path in (directory / "packages").glob("*.npk")
    }
    boots = Boots(directory, packages, kind)
    before = Outcome(FIRST, None, frozenset())
    for image, told, answered, complete in cuts(directory, kind):
        outcome, floor = boots.outcome(image)
        update_images.check(outcome, answered, told)
        # A floor on the disk is a commit: the boot may complete one more, and loses none.
        assert not update_images.lower(outcome.floor, floor), told
        assert not update_images.lower(floor, min_floor(answered)), told
        assert not update_images.lower(outcome.version, floor), told
        if complete:
            assert not update_images.lower(outcome.version, before.version), told
            assert not update_images.lower(floor, before.floor), told
            before = Outcome(outcome.version, floor, outcome.seen)
    found = {(outcome.version, outcome.floor) for outcome in boots.outcomes.values()}
    assert found == {each for n in range(len(UPDATES) + 1) for each in update_images.expected(n)}
    print(
        f"{kind}: {boots.states} different disks, {len(boots.outcomes)} with different files "
        f"booted, {boots.next_updates} of them updated again"
    )


class Looks:
    """The different contents of a disk at the moments when it was looked at.

    Attributes:
        answered: the number of updates that were answered so far.
        found: for each content, compressed: that number, and when it was.
    """

    def __init__(self, image: Path) -> None:
        self.answered = 0
        self.found: list[tuple[bytes, int, str]] = []
        self._image = image
        self._last = (b"", -1)

    def look(self, call: Call) -> None:
        """Look before a call of the runtime."""
        content = self._image.read_bytes()
        # The kernel may be writing: twice the same is the content of one moment.
        while content != self._last[0] and (again := self._image.read_bytes()) != content:
            content = again
        if (content, self.answered) != self._last:
            self._last = content, self.answered
            told = f"before {call.name}, {self.answered} updates answered"
            self.found.append((zlib.compress(content, 1), self.answered, told))


def look_before_calls(looks: Looks, disk: Path, directory: Path) -> None:
    """Do one update that is committed, and one that is rolled back."""
    with Interceptor(CALLS) as interceptor:
        runtime = recorded_update.runtime_on(
            disk, directory / "recorded", wrap=interceptor.wrap, pass_fds=interceptor.pass_fds
        )
        try:
            runtime.start()
            with runtime.client() as client:
                ready = ContainerState.READY
                wait_until(lambda: recorded_update.state(client) is ready, "the app is ready")
            os.sync()
            interceptor.decide = looks.look
            for update in UPDATES[:2]:
                refused = (
                    contextlib.nullcontext() if update.commits else pytest.raises(RefusedError)
                )
                with runtime.client() as client, refused:
                    client.update(directory / "packages" / f"app-{update.version}.npk", "fs")
                looks.answered += 1
        finally:
            interceptor.decide = lambda _call: None
            runtime.close()


@pytest.mark.root
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", [6, pytest.param(1, marks=pytest.mark.long)])
def test_cut_before_calls(tmp_path: Path, payload: Path, part: int) -> None:
    """The disk as the kernel has written it before calls of the runtime, without a machine."""
    (tmp_path / "packages").mkdir()
    packages = update_images.pack_all(tmp_path / "packages", payload)
    with disks.mounted("ext4", tmp_path / "live", size=SIZES["ext4"]) as disk:
        recorded_update.prepare(disk, tmp_path / "packages" / f"app-{FIRST}.npk")
        looks = Looks(tmp_path / "live" / "ext4.img")
        look_before_calls(looks, disk, tmp_path)
    boots = Boots(tmp_path, packages, "ext4")
    for compressed, answered, told in looks.found[::part]:
        outcome, _ = boots.outcome(zlib.decompress(compressed))
        update_images.check(outcome, answered, told)
    print(f"{len(looks.found)} disks, {boots.states} of them tried, {len(boots.outcomes)} booted")
    found = {outcome.version for outcome in boots.outcomes.values()}
    assert found == {FIRST, UPDATES[0].version}
