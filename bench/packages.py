"""Measures how fast packages are read, packed and verified: `python -m bench.packages`.

Packing is compared with the tools alone on the same input: mksquashfs, then `veritysetup format` on
its image. Each side syncs its result, the sides take turns, and the median of the ratios counts,
since the speed of a shared machine changes. On a loaded machine only the ratio of processor time
(including that of the tools) is meaningful.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from northstar import npk
from northstar.manifest import loads
from northstar.npk import key as keys

SEED = bytes(32)
MANIFEST = "name: bench\nversion: 1.0.0\ninit: /bin/app\nuid: 1000\ngid: 1000\nmounts:\n"
MANIFEST += "  /dev: {type: dev}\n  /proc: {type: proc}\n  /data: {type: persist}\n"


def measured(function: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def processor_time(function: Callable[[], object]) -> float:
    """Return the processor time of a call and of the programs it runs, in seconds."""

    def used() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    started = used()
    function()
    return used() - started


def make_root(directory: Path, megabytes: int) -> None:
    """Write files that compress to about half, like programs."""
    source = random.Random(1)
    directory.mkdir()
    for number in range(megabytes):
        noise = source.randbytes(1 << 19)
        halves = [noise[at : at + 4096] + bytes(4096) for at in range(0, len(noise), 4096)]
        (directory / f"file{number:03}").write_bytes(b"".join(halves))


def bench_read(work: Path, count: int, repeat: int) -> None:
    """Open many small packages, as at boot."""
    out = work / "many"
    out.mkdir()
    paths = npk.pack(loads(MANIFEST), None, out, clones=count, key=SEED).paths
    for name, key in (("unsigned", None), ("signed", keys.public_key(SEED))):

        def read(key: bytes | None = key) -> None:
            for path in paths:
                npk.open(path, key).close()

        times = [measured(read) for _ in range(repeat)]
        report(f"open {count} packages, {name}", times, f"{min(times) / count * 1e6:.0f} us each")


def bench_pack(work: Path, megabytes: int, repeat: int, compression: str) -> None:
    """Pack and sign, compared with the tools alone."""
    root = work / "root"
    image, package = work / "image", work / "package.npk"
    manifest = loads(MANIFEST)

    def ours() -> None:
        npk.pack(manifest, root, package, key=SEED, compression=compression)

    def theirs() -> None:
        image.unlink(missing_ok=True)
        tools = ["mksquashfs", str(root), str(image), "-noappend", "-no-progress", "-quiet"]
        subprocess.run([*tools, "-comp", compression], check=True, stdout=subprocess.DEVNULL)
        verity = ["/usr/sbin/veritysetup", "format", str(image), str(image)]
        offset = f"--hash-offset={image.stat().st_size}"
        subprocess.run([*verity, offset], check=True, stdout=subprocess.DEVNULL)
        fd = os.open(image, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    theirs()
    pairs = [(measured(ours), measured(theirs)) for _ in range(repeat)]
    ratio = statistics.median(mine / other for mine, other in pairs)
    report(f"mksquashfs + veritysetup, {megabytes} MB {compression}", [b for _, b in pairs], "")
    busy = statistics.median(processor_time(ours) / processor_time(theirs) for _ in range(repeat))
    note = f"x {ratio:.3f}, processor time x {busy:.3f}"
    report(f"pack, {megabytes} MB {compression}, signed", [a for a, _ in pairs], note)


def bench_verify(work: Path, megabytes: int, repeat: int) -> None:
    """Verify a whole image."""
    package = work / "plain.npk"
    npk.pack(loads(MANIFEST), work / "root", package, key=SEED, compression="none")
    with npk.open(package, keys.public_key(SEED)) as opened:
        times = [measured(lambda: npk.verify_image(opened)) for _ in range(repeat)]
        assert opened.hashes is not None
        speed = opened.hashes.verity_offset / min(times) / 1e6
    report(f"verify the image, {megabytes} MB", times, f"{speed:.0f} MB/s")


def report(what: str, times: list[float], note: str) -> None:
    """Print one line of the table: best and median in milliseconds."""
    best, median = min(times) * 1000, statistics.median(times) * 1000
    print(f"{what:44} {best:9.1f} {median:9.1f}  {note}", flush=True)


def main() -> int:
    """Run all benchmarks and print a table."""
    parser = argparse.ArgumentParser(description="Benchmark packages.")
    parser.add_argument("--packages", type=int, default=500, help="how many to read (500)")
    parser.add_argument("--megabytes", type=int, default=100, help="size of the root (100)")
    parser.add_argument("--repeat", type=int, default=5, help="how often (5)")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="northstar-bench-"))
    try:
        print(f"{'':44} {'best ms':>9} {'median ms':>9}")
        bench_read(work, options.packages, options.repeat)
        make_root(work / "root", options.megabytes)
        for compression in ("gzip", "zstd"):
            bench_pack(work, options.megabytes, options.repeat, compression)
        bench_verify(work, options.megabytes, options.repeat)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"peak memory of this process {peak / 1024:.0f} MiB")
    finally:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
