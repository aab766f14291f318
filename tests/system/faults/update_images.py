"""The updates that the power cuts interrupt, and what must be true after each of them.

A disk that a power cut left is mounted, and a real runtime boots on it. Many disks have the same
files; one boot is enough for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from northstar.api import ContainerState
from northstar.model import Version
from northstar.runtime import statefile
from tests.system.containers import PIPES, split
from tests.system.faults.recorded_update import CONTAINER, DATA, PACKAGES, runtime_on, state
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until

FIRST = "1.0.0"
NEXT = "2.0.0"
"""The version of an update after a power cut."""


class Update(NamedTuple):
    """An update to a version.

    Attributes:
        version: of the package.
        data: `keep` or `snapshot`.
        commits: whether it succeeds; otherwise the app exits with 1 in the window.
    """

    version: str
    data: str
    commits: bool


UPDATES = (
    Update("1.1.0", "snapshot", True),
    Update("1.2.0", "snapshot", False),
    Update("1.3.0", "keep", True),
    Update("1.4.0", "keep", False),
)


class Outcome(NamedTuple):
    """What a boot ended with.

    Attributes:
        version: the version that runs.
        floor: in the state file; None without one.
        seen: the versions that have written to the data.
    """

    version: str
    floor: str | None
    seen: frozenset[str]


def package(directory: Path, payload: Path, update: Update) -> Path:
    """Pack a version; it leaves a file with its version in its persistent data at each start."""
    end = "pause" if update.commits else "exit 1"
    version = update.version
    words = f"write /data/seen-{version} {version} ; write /data/version {version} ; "
    text = manifest(
        CONTAINER,
        version,
        args=split(f"{words} notify-open - ; notify READY=1 ; {end}"),
        io=PIPES,
        autostart="relaxed",
        mounts={"/data": {"type": "persist"}},
        service={
            "notify": "/run/notify",
            "ready": {"probe": "notify"},
            "update": {"window": "300ms", "data": update.data},
        },
    )
    # Some content, so that a package takes several writes.
    noise = bytes(hashlib.shake_256(version.encode()).digest(40_000))
    path = pack(directory, text, {"payload": payload, "noise": noise})
    return Path(shutil.copy(path, directory / f"{CONTAINER}-{version}.npk"))


def pack_all(directory: Path, payload: Path) -> dict[str, bytes]:
    """Pack all versions into `directory`; return the contents of the packages by version."""
    every = (Update(FIRST, "keep", True), *UPDATES, Update(NEXT, "snapshot", True))
    return {each.version: package(directory, payload, each).read_bytes() for each in every}


def expected(answered: int) -> set[tuple[str, str | None]]:
    """Return the possible versions and floors when this number of updates was answered."""
    version, floor = FIRST, None
    after: list[tuple[str, str | None]] = [(version, floor)]
    for update in UPDATES:
        if update.commits:
            version, floor = update.version, update.version
        after.append((version, floor))
    return set(after[answered : answered + 2])


def check(outcome: Outcome, answered: int, told: str) -> None:
    """Check the outcome of a boot after a power cut."""
    assert (outcome.version, outcome.floor) in expected(answered), f"{told}: {outcome}"
    committed = {u.version for u in UPDATES if u.commits and not lower(outcome.version, u.version)}
    # With `keep` what a version wrote stays when it is rolled back.
    kept = {u.version for u in UPDATES if u.data == "keep" and outcome.version == "1.3.0"}
    assert {FIRST} | committed <= outcome.seen <= {FIRST} | committed | kept, f"{told}: {outcome}"


def lower(one: str | None, other: str | None) -> bool:
    """Return whether a version is older than another one; None is older than all others."""
    if one is None or other is None:
        return one is None and other is not None
    return Version.parse(one) < Version.parse(other)


@contextlib.contextmanager
def mounted(image: Path, kind: str, target: Path) -> Iterator[Path]:
    """Mount the image of a disk, which replays its journal."""
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", "-t", kind, str(image), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


def digest(disk: Path, packages: Mapping[str, bytes]) -> str:
    """Return a digest of all files that a boot can distinguish.

    A half package is like any other half package, and nothing reads `state.json.part`.
    """
    whole = set(packages.values())
    lines = []
    for path in sorted((disk / PACKAGES).iterdir()):
        name = path.name.partition(":")[0] if path.name.startswith(".") else path.name
        content = path.read_bytes()
        lines.append(f"{name} {content in whole and hashlib.sha256(content).hexdigest()}")
    for where, directories, files in os.walk(disk / DATA):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = Path(where, name)
            status = path.lstat()
            content = b""
            if stat.S_ISREG(status.st_mode) and name != "state.json.part":
                content = path.read_bytes()
            shown = str(path.relative_to(disk))
            if shown.startswith(f"{DATA}/.northstar-wipe:"):
                shown = f"{DATA}/.northstar-wipe:/{path.relative_to(disk / DATA).parts[1:]}"
            sum_ = hashlib.sha256(content.rstrip()).hexdigest()
            lines.append(f"{shown} {status.st_mode:o} {status.st_uid} {sum_}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def floor_of(disk: Path) -> str | None:
    """Return the floor in the state file of a disk; None without one."""
    try:
        content = (disk / DATA / statefile.DIRECTORY / "state.json").read_bytes()
    except FileNotFoundError:
        return None
    floor: str | None = json.loads(content)["floors"].get(CONTAINER)
    return floor


def boot(disk: Path, work: Path, packages: Mapping[str, bytes], next_: Path | None) -> Outcome:
    """Boot a runtime on a disk until no update is in progress, check that nothing is left.

    Args:
        disk: the mounted disk.
        work: the directory of the runtime, for all boots.
        packages: contents by version.
        next_: a package to which the app is updated afterwards.

    Returns:
        What the boot ended with, before the update to `next_`.
    """
    (work / "log").unlink(missing_ok=True)
    runtime = runtime_on(disk, work, forked=True)
    try:
        runtime.start()
        outcome = settled(runtime, disk, packages)
        if next_ is not None:
            with runtime.client() as client:
                client.update(next_, "fs")
            after = settled(runtime, disk, packages)
            assert after == Outcome(NEXT, NEXT, outcome.seen | {NEXT}), after
        runtime.stop()
    except BaseException:
        print(runtime.text())
        raise
    finally:
        runtime.close()
    return outcome


def settled(runtime: RuntimeProcess, disk: Path, packages: Mapping[str, bytes]) -> Outcome:
    """Wait until one version is ready and the rest is removed; return it with its data."""
    with runtime.client() as client:
        what = "one version is ready, and nothing is left of an update"
        try:
            wait_until(lambda: state(client) is ContainerState.READY and not left(disk), what, 60)
        except AssertionError:
            print(f"left: {left(disk)}, versions: {client.list()}, {state(client)}")
            raise
        (container,) = client.list()
    version = str(container.version)
    (file,) = (disk / PACKAGES).iterdir()
    assert file.read_bytes() == packages[version], f"{file.name} is not {container}"
    data = disk / DATA / CONTAINER
    assert (data / "version").read_text() == version
    assert (data / "blob").read_bytes() == bytes(range(256)) * 400
    seen = frozenset(path.name.removeprefix("seen-") for path in data.glob("seen-*"))
    assert {path.name for path in data.iterdir()} == {
        "version",
        "blob",
        *(f"seen-{each}" for each in seen),
    }
    return Outcome(version, floor_of(disk), seen)


def left(disk: Path) -> list[str]:
    """Return what is left of an update: files, and the record in the state file."""
    packages = sorted(os.listdir(disk / PACKAGES))
    found = packages if len(packages) != 1 else []
    found += set(os.listdir(disk / DATA)) - {statefile.DIRECTORY, CONTAINER}
    directory = disk / DATA / statefile.DIRECTORY
    if directory.exists():
        found += set(os.listdir(directory)) - {"state.json", "data"}
        if (directory / "data").exists():
            found += os.listdir(directory / "data")
    with contextlib.suppress(FileNotFoundError):
        found += json.loads((directory / "state.json").read_bytes())["updates"]
    return found
