"""Runs in the virtual machine: installs and uninstalls on /dev/vda, whose writes are logged.

The number of answers is written after the end of the file system, with O_DIRECT: that flushes
nothing of the runtime's writes.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.system.harness import RuntimeProcess

NOTE = b"answered "
DISK = "/dev/vda"


def main(directory: Path, offset: int) -> None:
    """Run the steps in the file `steps` of `directory`; notes go to `offset` on the disk."""
    work = Path(tempfile.mkdtemp())  # ends with the machine
    store = work / "disk"
    store.mkdir()
    subprocess.run(["mount", "-t", "ext4", DISK, str(store)], check=True)
    (store / "packages").mkdir()
    os.sync()
    table = f'type = {{ fs = {{ dir = "{store}/packages" }} }}'
    runtime = RuntimeProcess(work, repositories={"fs": table}).start()
    note(offset, 0)
    with runtime.client() as client:
        steps = json.loads((directory / "steps").read_text())
        for number, (what, which) in enumerate(steps, start=1):
            if what == "install":
                client.install(directory / f"{which}.npk", "fs")
            else:
                client.uninstall(f"{which}:1.0.0")
            note(offset, number)
    runtime.kill()
    # No unmount, as in a power cut.


def note(offset: int, number: int) -> None:
    """Write the number of answered steps."""
    with mmap.mmap(-1, 4096) as page:  # aligned, as O_DIRECT requires
        page.write(NOTE + str(number).encode() + b"\n")
        fd = os.open(DISK, os.O_WRONLY | os.O_DIRECT)
        try:
            os.pwrite(fd, page, offset)
        finally:
            os.close(fd)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
