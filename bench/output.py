"""Measures the output of containers; run as root: python -m bench.output [CASE ...]

rate      one writer of 80 bytes, 4 KiB and 64 KiB, nobody reads; beside a pipe that `cat` reads,
          and beside crun with a file, if it is installed
floods    ten writers of 80 bytes that nobody reads: start, exit and requests of others, beside ten
          whose output is discarded
logged    the same, and the runtime logs each line, within its budget
stopped   the runtime is stopped while a container writes a gibibyte
quiet     500 quiet containers whose output is followed: wake-ups of the runtime, memory of each

docs/targets.md contains the targets, docs/decisions/logs.md the reasons.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.runtime import UNLIMITED, connect, cpu_time, exits, row, timed, times
from bench.single import no_hybrid, oci_configuration
from northstar import npk
from northstar.client import blocking
from tests.system.conftest import compile_static
from tests.system.harness import RuntimeProcess, manifest

SOURCE = Path(__file__).parents[1] / "tests/system/output.c"
MS = 2000
FLOODS = 10
PHASES = 6
REQUESTS = 200
QUIET = 500
QUIET_SECONDS = 10
GIB = 2**30


class Bench:
    """A runtime with the program of tests/system/output.c as each container's payload."""

    def __init__(self, directory: Path, level: str) -> None:
        self.directory = directory
        self.root = directory / "root"
        for point in ("proc", "dev", "tmp"):  # mount points for crun
            (self.root / point).mkdir(parents=True)
        self.program = compile_static(SOURCE, self.root / "payload")
        self.runtime = RuntimeProcess(
            directory,
            environment={"NORTHSTAR_LOG": f"runtime=warn,container={level}"},
            console=UNLIMITED,
        ).start(wait=False)

    def install(self, client: blocking.Client, name: str, *args: str, io: str = "pipe") -> str:
        """Install an app with these steps."""
        text, out = self.directory / "manifest.yaml", self.directory / name
        text.write_text(
            manifest(
                name,
                args=list(args),
                io={"stdout": io, "stderr": io},
                mounts={"/data": {"type": "persist"}},
            )
        )
        out.mkdir()
        npk.pack(text, self.root, out)
        return str(client.install(next(out.iterdir()), "mem"))

    def took(self, name: str) -> tuple[float, int]:
        """Return the seconds and the bytes of the last write of an app."""
        words = (self.runtime.data_dir / name / "took").read_text().split()
        return int(words[1]) / 1e6, int(words[2])

    def close(self) -> None:
        """Stop the runtime."""
        self.runtime.stop()
        self.runtime.close()


def run(client: blocking.Client, app: str, *args: str) -> None:
    """Run a container to its end."""
    ended = exits(client)
    client.start(app, arguments=args)
    while next(ended) != app:
        continue


def one_writer(bench: Bench, client: blocking.Client, app: str, size: int) -> float:
    """Return the MB/s of a container that writes for `MS`, `size` bytes at a time."""
    run(client, app, f"until:1:{MS}:{size}", "save:/data/took")
    seconds, count = bench.took(app.split(":")[0])
    return count / seconds / 1e6


def rate(directory: Path) -> None:
    """One writer at full speed."""
    bench = Bench(directory, "warn")
    try:
        with connect(bench.runtime, subscribe=True) as client:
            app = bench.install(client, "writer")
            for size in (80, 4096, 65536):
                seen = [one_writer(bench, client, app, size) for _ in range(3)]
                row(f"one writer of {size} bytes", f"median {statistics.median(seen):8.0f} MB/s")
                steps = f"{bench.program} until:1:{MS}:{size} took"
                piped = words(["sh", "-c", f"{steps} | cat > /dev/null"])
                row("  a pipe that cat reads, no container", f"{piped:15.0f} MB/s")
                if shutil.which("crun"):
                    row("  crun, stdout is a file", f"{crun(bench, size):15.0f} MB/s")
    finally:
        bench.close()


def words(command: list[str]) -> float:
    """Run a command; return the MB/s that the payload reports on stderr."""
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    _, us, count = done.stderr.split()
    return int(count) / int(us)


def crun(bench: Bench, size: int) -> float:
    """Return the MB/s under crun, whose stdout is a file on the disk."""
    directory = bench.directory / f"crun-{size}"
    directory.mkdir()
    config = oci_configuration(bench.root, "writer")
    config["process"]["args"] = ["/payload", f"until:1:{MS}:{size}", "took"]
    (directory / "config.json").write_text(json.dumps(config))
    with (directory / "log").open("w") as log, no_hybrid():
        command = ["crun", "--root=/run/writer", "--cgroup-manager=disabled", "run"]
        done = subprocess.run(
            [*command, f"--bundle={directory}", "writer"],
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    _, us, count = done.stderr.split()
    return int(count) / int(us)


def floods(directory: Path) -> None:
    """Ten writers that nobody reads."""
    beside_writers(directory, "info")


def logged(directory: Path) -> None:
    """Ten writers whose lines are logged."""
    beside_writers(directory, "debug")


def beside_writers(directory: Path, level: str) -> None:
    """Start, exit and requests of others beside ten writers, and beside ten that discard."""
    bench = Bench(directory, level)
    seen: dict[str, dict[str, list[float]]] = {}
    cpu: dict[str, float] = {}
    try:
        with connect(bench.runtime, subscribe=True) as client:
            other = bench.install(client, "other", "pause")
            forever = "until:1:3600000:80"
            kinds = {
                "discarded": [bench.install(client, f"burn{n}", forever, io="discard")
                              for n in range(FLOODS)],
                "kept": [bench.install(client, f"flood{n}", forever) for n in range(FLOODS)],
            }  # fmt: skip
            for number in range(2 * PHASES):
                kind = ("discarded", "kept")[number % 2]
                ended = exits(client)
                for app in kinds[kind]:
                    client.start(app)
                time.sleep(0.5)
                before, begun = cpu_time(bench.runtime.pid), time.monotonic()
                phase(client, other, seen.setdefault(kind, {}))
                used = cpu_time(bench.runtime.pid) - before
                cpu[kind] = used / (time.monotonic() - begun)
                for app in kinds[kind]:
                    client.kill(app, signal.SIGKILL)
                    while next(ended) != app:
                        continue
    finally:
        bench.close()
    for what in seen["kept"]:
        for kind in seen:
            times(f"{what}, beside {FLOODS} writers, {kind}", seen[kind][what])
        ratio = statistics.median(seen["kept"][what]) / statistics.median(seen["discarded"][what])
        row("  ratio of the medians", f"{ratio:8.2f}")
    row("CPU of the runtime, discarded and kept", " ".join(f"{x:5.0%}" for x in cpu.values()))


def phase(client: blocking.Client, other: str, seen: dict[str, list[float]]) -> None:
    ended = exits(client)

    def kill() -> None:
        client.kill(other, signal.SIGKILL)
        while next(ended) != other:
            continue

    for _ in range(10):
        seen.setdefault("start", []).append(timed(lambda: client.start(other)))
        seen.setdefault("kill to exit", []).append(timed(kill))
    for _ in range(REQUESTS):
        seen.setdefault("request", []).append(timed(client.ident))


def stopped(directory: Path) -> None:
    """The runtime is stopped while a container writes."""
    bench = Bench(directory, "debug")
    seen: dict[bool, list[float]] = {False: [], True: []}
    try:
        with connect(bench.runtime, subscribe=True) as client:
            app = bench.install(client, "writer")
            saved = bench.runtime.data_dir / "writer/took"
            for number in range(6):
                stop = number % 2 == 1
                saved.unlink(missing_ok=True)
                ended = exits(client)
                client.start(app, arguments=(f"write:1:{GIB}:4096", "save:/data/took"))
                if stop:
                    os.kill(bench.runtime.pid, signal.SIGSTOP)
                try:
                    while not saved.exists() or not saved.read_text():
                        time.sleep(0.01)
                finally:
                    os.kill(bench.runtime.pid, signal.SIGCONT)
                while next(ended) != app:
                    continue
                seen[stop].append(bench.took("writer")[0])
    finally:
        bench.close()
    for stop, name in ((False, "runs"), (True, "is stopped")):
        times(f"a container writes 1 GiB, the runtime {name}", seen[stop])
    medians = [statistics.median(seen[stop]) for stop in (False, True)]
    row("  ratio of the medians", f"{medians[1] / medians[0]:8.2f}")


def quiet(directory: Path) -> None:
    """Many containers that have printed a line and pause, with and without a log."""
    bench = Bench(directory, "debug")
    try:
        with connect(bench.runtime) as client:
            memory = {}
            for io in ("discard", "pipe"):
                apps = [
                    bench.install(client, f"{io}{n}", "text:1:hello", "pause", io=io)
                    for n in range(QUIET // 2 if io == "discard" else QUIET)
                ]
                for app in apps:
                    client.start(app)
                memory[io] = statistics.median(memory_of(bench, app) for app in apps)
                if io == "discard":
                    for app in apps:
                        client.kill(app, signal.SIGKILL)
            time.sleep(5)
            before, used = switches(bench.runtime.pid), cpu_time(bench.runtime.pid)
            time.sleep(QUIET_SECONDS)
            row(
                f"{QUIET} quiet containers, {QUIET_SECONDS} s",
                f"{switches(bench.runtime.pid) - before} wake-ups, "
                f"CPU {cpu_time(bench.runtime.pid) - used:.4f} s",
            )
            row("memory of the cgroup of one more than without a log",
                f"{(memory['pipe'] - memory['discard']) / 1024:.1f} KiB")  # fmt: skip
    finally:
        bench.close()


def memory_of(bench: Bench, app: str) -> float:
    """Return the bytes that the cgroup of a container uses."""
    name = f"{bench.runtime.cgroup}/{app.split(':')[0]}"
    for path in (
        f"/sys/fs/cgroup/memory/{name}/memory.usage_in_bytes",
        f"/sys/fs/cgroup/{name}/memory.current",
    ):
        if os.path.exists(path):
            return float(Path(path).read_text())
    raise FileNotFoundError(f"no memory controller for {name}")


def switches(pid: int) -> int:
    """Return how often the main thread of a process has gone to sleep."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\t(\d+)$", status, re.MULTILINE)
    assert found
    return int(found[1])


CASES: dict[str, Callable[[Path], None]] = {
    "rate": rate,
    "floods": floods,
    "logged": logged,
    "stopped": stopped,
    "quiet": quiet,
}


def main() -> None:
    """Run the named cases, by default all."""
    print(f"Python {platform.python_version()}, Linux {platform.release()}")
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as directory:
            CASES[name](Path(directory))


if __name__ == "__main__":
    main()
