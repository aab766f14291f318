"""The ring with a writer of another architecture, in emulation, and the runtime's reader.

    python -m tests.unit.runtime.ring_architecture --count 1000

compiles the writer for arm64, executes it by qemu-aarch64-static (Debian: gcc-aarch64-linux-gnu,
libc6-dev-arm64-cross, qemu-user-static), and compares every byte that random schedules read. The
emulator translates the barriers of arm64 code; it does not reorder as an arm64 processor may.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
import time
from pathlib import Path

from northstar.model import Container
from northstar.runtime import ring
from northstar.runtime.bells import Bells
from northstar.runtime.logring import LogRing
from tests.unit.runtime.ring_writer import compiled
from tests.unit.runtime.test_logring import SMALL, Read, account

COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"


def schedule(program: Path, bells: Bells, seed: int) -> Read:
    """One run of the writer, read with random pauses; return what was read and lost."""
    rng = random.Random(seed)
    least, most = rng.choice([(1, 16), (1, 300), (4095, 4097), (1, 16384), (16384, 16384)])
    capacity = rng.choice([SMALL, 65536, 131072])
    count = min(3000, 4 * capacity // most + rng.randrange(300))
    log = LogRing(Container.parse("app:1.0.0"), 1, capacity, bells)
    numbers = (log.memfd, ring.PAGE + capacity, log.bell, count, least, most, (0, 30)[seed % 2])
    command = [EMULATOR, str(program), *map(str, numbers), str(seed + 1)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, pass_fds=(log.memfd, log.bell)
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        log.open()
        seen, position = Read(0, 0, 0), 0
        while not log.ended and writer.poll() is None:
            batch = log.read(position, rng.choice([1, 20000, 65536, 2**20]))
            position, seen = batch.position, account(batch, seen)
            if rng.randrange(4) == 0:
                time.sleep(rng.choice([0, 0, 0.0001, 0.001]))
        total = int(writer.stdout.read())
    assert writer.returncode == 0
    log.finish()
    while (batch := log.read(position)).records:
        position, seen = batch.position, account(batch, seen)
    assert not log.broken
    assert seen.data + seen.lost == total
    return seen


def main() -> None:
    """Run the schedules of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="number of schedules")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "writer")
        program = compiled("ring_process.c", output, "-O2", "-static", compiler=COMPILER)
        bells = Bells()
        read = lost = 0
        for seed in range(options.count):
            seen = schedule(program, bells, seed)
            read, lost = read + seen.data, lost + seen.lost
        bells.close()
    print(f"{options.count} schedules: {read} bytes read and compared, {lost} lost")


if __name__ == "__main__":
    main()
