"""Runs in the virtual machine: updates on /dev/vda, whose writes are logged.

The repository and the persistent data are on that disk. The number of answers is written after the
end of the file system, as in `recorded.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from northstar.api import ContainerState, RefusedError, response
from northstar.client import blocking
from tests.system.faults.recorded import DISK, note
from tests.system.harness import RuntimeProcess, wait_until

CONTAINER = "app"
PACKAGES, DATA = "packages", "data"
"""Directories on the disk."""


def main(directory: Path, kind: str, offset: int) -> None:
    """Run the updates in the file `steps` of `directory`; notes go to `offset` on the disk."""
    plan = json.loads((directory / "steps").read_text())
    work = Path(tempfile.mkdtemp())  # ends with the machine
    disk = work / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", kind, DISK, str(disk)], check=True)
    prepare(disk, directory / plan["first"])
    runtime = runtime_on(disk, work / "runtime").start()
    with runtime.client() as client:
        wait_until(lambda: state(client) is ContainerState.READY, "the first version is ready")
    os.sync()
    note(offset, 0)
    for number, (package, succeeds) in enumerate(plan["updates"], start=1):
        with runtime.client() as client:
            try:
                client.update(directory / package, "fs")
                assert succeeds, f"{package} was committed"
            except RefusedError as refused:
                assert not succeeds, f"{package} was refused: {refused}"
        note(offset, number)
        print(f"{package}: as expected", flush=True)
    runtime.kill()
    # No unmount, as in a power cut.


def prepare(disk: Path, package: Path) -> None:
    """Put the first version, and some data, on a new disk."""
    (disk / PACKAGES).mkdir()
    shutil.copy(package, disk / PACKAGES)
    data = disk / DATA / CONTAINER
    data.mkdir(parents=True)
    (data / "blob").write_bytes(bytes(range(256)) * 400)
    for path in (data, data / "blob"):
        os.chown(path, 1000, 1000)
    (disk / DATA).chmod(0o700)
    os.sync()


def runtime_on(disk: Path, directory: Path, **options: Any) -> RuntimeProcess:
    """Return a runtime (not started) that has its packages and data on the mounted disk."""
    directory.mkdir(exist_ok=True)
    data = directory / "data"
    if not data.is_symlink():
        data.symlink_to(disk / DATA)
    table = f'type = {{ fs = {{ dir = "{disk / PACKAGES}" }} }}'
    permissions = '["full", "update"]'
    return RuntimeProcess(directory, repositories={"fs": table}, permissions=permissions, **options)


def state(client: blocking.Client) -> ContainerState | None:
    """Return the state of the only version; None if there are several, or none."""
    found = client.status()
    if len(found) != 1 or not isinstance(found[0], response.StatusOk):
        return None
    return found[0].status.state


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
