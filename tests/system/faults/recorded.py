"""Runs in the virtual machine: packages come and go on the disk /dev/vda, whose writes are logged.

What was answered is noted behind the file system, past the page cache: that flushes nothing which
the runtime has not flushed itself.
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
    """Do what `steps` in `directory` says; notes go to `offset` on the disk."""
    work = Path(tempfile.mkdtemp())  # it ends with the machine
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
    # No unmount: that would be no power cut.


def note(offset: int, number: int) -> None:
    """Write how many steps were answered."""
    with mmap.mmap(-1, 4096) as page:  # aligned, as O_DIRECT wants it
        page.write(NOTE + str(number).encode() + b"\n")
        fd = os.open(DISK, os.O_WRONLY | os.O_DIRECT)
        try:
            os.pwrite(fd, page, offset)
        finally:
            os.close(fd)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
