"""A power cut at any moment of an install or uninstall: a whole package or none, and no other lost.

A runtime in the virtual machine installs and uninstalls on a disk, and QEMU logs each write. Then
the test reconstructs the disk after each write, with all or some of the unflushed writes, and loads
it with the repository's code.

    .venv/bin/pytest -m long tests/system/faults/test_power_cut.py

NORTHSTAR_FAULT_RECORDING names the temporary directory of an earlier run, to check it again.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.runtime.config import RepositoryConfig
from northstar.runtime.repository import FsRepository
from northstar.runtime.threads import Pool
from tests.system.faults import blocklog
from tests.system.faults.blocklog import State, Write
from tests.system.faults.recorded import NOTE
from tests.system.harness import IN_VM, manifest, pack

ROOT = Path(__file__).parents[3]
FILE_SYSTEM = 20 * 2**20
"""Bytes of the file system; the disk is larger, for the notes."""
DISK = FILE_SYSTEM + 2**20

STEPS = (
    ("install", "a"),
    ("install", "b"),
    ("uninstall", "a"),
    ("install", "c"),
    ("install", "a"),
    ("uninstall", "b"),
)

numbers = st.integers(0, 2**20)
entries = st.lists(
    st.builds(
        Write,
        numbers.map(lambda sector: sector * 512),
        st.integers(0, 3).flatmap(lambda n: st.binary(min_size=512 * n, max_size=512 * n)),
        st.sampled_from([0, blocklog.FLUSH, blocklog.FUA, blocklog.FLUSH | blocklog.FUA]),
    ),
    max_size=5,
)


def log_of(writes: list[Write]) -> bytes:
    head = blocklog._SUPER.pack(blocklog.MAGIC, 1, len(writes), 512).ljust(512, b"\0")
    return head + b"".join(
        blocklog._ENTRY.pack(w.offset // 512, len(w.data) // 512, w.flags, 0).ljust(512, b"\0")
        + w.data
        for w in writes
    )


@given(entries)
def test_a_log_is_read_back(writes: list[Write]) -> None:
    log = log_of(writes)
    assert blocklog.parse(log) == writes
    for cut in range(0, len(log) - 511, 256):
        with pytest.raises(ValueError, match=r"cut off|no superblock"):
            blocklog.parse(log[: cut if writes else 0])


def test_only_what_was_not_flushed_may_be_missing() -> None:
    def block(letter: str) -> bytes:
        return letter.encode() * 512

    writes = [
        Write(0, block("a"), 0),
        Write(0, b"", blocklog.FLUSH),
        Write(512, block("b"), blocklog.FUA),
        Write(1024, block("c"), 0),
    ]
    seen: dict[tuple[int, str], set[str]] = {}
    for seed in range(50):
        for state in blocklog.states(bytes(1536), writes, random.Random(seed)):
            letters = state.image[::512].replace(b"\0", b".").decode()
            seen.setdefault((state.number, state.which), set()).add(letters)
    assert seen == {
        (1, "all"): {"a.."},
        (1, "some"): {"a..", "..."},
        (2, "all"): {"a.."},
        (3, "all"): {"ab."},
        (4, "all"): {"abc"},
        (4, "some"): {"abc", "ab."},
    }


class Recording(NamedTuple):
    """The initial disk, its writes, and the packages by name."""

    image: bytes
    writes: list[Write]
    packages: dict[str, bytes]


@pytest.fixture
def recording(tmp_path: Path, payload: Path) -> Recording:
    """Run STEPS with a runtime in the machine, or load the recording of an earlier run."""
    earlier = os.environ.get("NORTHSTAR_FAULT_RECORDING")
    directory = Path(earlier) if earlier else tmp_path
    if not earlier:
        record(directory, payload)
    image, log = (directory / "before").read_bytes(), (directory / "log").read_bytes()
    packages = {name: (directory / f"{name}.npk").read_bytes() for _, name in STEPS}
    return Recording(image, blocklog.parse(log), packages)


def record(directory: Path, payload: Path) -> None:
    generator = random.Random(0)
    for name in sorted({name for _, name in STEPS}):
        noise = generator.randbytes(200_000)
        path = pack(directory, manifest(name), {"payload": payload, "noise": noise})
        shutil.copy(path, directory / f"{name}.npk")
    (directory / "steps").write_text(json.dumps(STEPS))
    disk, log = directory / "disk", directory / "log"
    disk.write_bytes(bytes(DISK))
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk), f"{FILE_SYSTEM >> 10}k"], check=True)
    shutil.copy(disk, directory / "before")
    log.touch()
    program = [sys.executable, str(ROOT / "tests/system/faults/recorded.py")]
    command = ["scripts/vm", "--timeout", "1200", "--disk", str(disk), str(log), "--", *program]
    done = subprocess.run(
        [*command, str(directory), str(FILE_SYSTEM)], cwd=ROOT, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.skipif(IN_VM or platform.machine() != "x86_64", reason="it starts a machine itself")
def test_a_whole_package_or_none(recording: Recording, tmp_path: Path) -> None:
    answered: int | None = None
    looked_at, half = 0, 0
    expected = list(after_each_step())
    generator = random.Random(0)
    image, writes, packages = recording
    for state in blocklog.states(image, writes, generator):
        if state.which == "all" and (number := noted(writes[state.number - 1])) is not None:
            answered = number
        if answered is None:
            continue  # the runtime is not up
        with mounted(state, tmp_path) as store:
            files = {path.name: path.read_bytes() for path in store.iterdir()}
            whole = {name: data for name, data in files.items() if not name.startswith(".")}
            found = load(store)
            left = sorted(path.name for path in store.iterdir())
        half += len(files) - len(whole)
        looked_at += 1
        told = f"{state.which} writes up to {state.number}, {answered} steps answered"
        assert set(found) in expected[answered : answered + 2], told
        assert whole == {f"{name}:1.0.0.npk": packages[name] for name in found}, told
        assert left == sorted(whole), told
    assert answered == len(STEPS)
    print(f"{len(writes)} writes, {looked_at} states of the disk, {half} half packages in them")
    assert half > 0, "no moment was within an install"


def after_each_step() -> Iterator[set[str]]:
    installed: set[str] = set()
    yield set(installed)
    for what, which in STEPS:
        installed ^= {which}
        assert (which in installed) == (what == "install")
        yield set(installed)


def noted(write: Write) -> int | None:
    if write.offset == FILE_SYSTEM and write.data.startswith(NOTE):
        return int(write.data.removeprefix(NOTE).split(b"\n")[0])
    return None


@contextmanager
def mounted(state: State, tmp_path: Path) -> Iterator[Path]:
    """Mount a disk, which replays its journal, and return the directory of the packages."""
    # A new file: mount(8) reuses a loop device that is still attached to the same name.
    image, target = tmp_path / f"{state.which}-{state.number}", tmp_path / "target"
    image.write_bytes(state.image)
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", "-t", "ext4", str(image), str(target)], check=True)
    try:
        yield target / "packages"
    finally:
        subprocess.run(["umount", str(target)], check=True)
        image.unlink()


def load(store: Path) -> list[str]:
    """Load a repository as the runtime does at its start, and return the packages' names."""
    pool = Pool("packages", 2)
    repository = FsRepository("fs", RepositoryConfig(dir=str(store)), None, pool, pool, str(store))
    packages = asyncio.run(repository.load())
    pool.shutdown()
    for package in packages:
        package.npk.close()
    return [str(package.container.name) for package in packages]
