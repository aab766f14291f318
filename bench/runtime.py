"""Measures the speed of the runtime; run as root: python -m bench.runtime [CASE ...]

Each case uses a real runtime over its Unix socket and prints a row: name, count, median and 95th
percentile (ms), or a rate. Compare ratios on the same machine only. docs/targets.md lists targets,
and the values of other programs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from northstar import npk
from northstar.api.notification import Exit
from northstar.client import ConnectError, blocking
from northstar.model import Container
from tests.system.harness import RuntimeProcess, manifest

PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
APPS = 50
IMAGE_BYTES = 1_000_000
REQUESTS = 3000
UNLIMITED = "options = { max_requests_per_sec = 1000000 }"

CASES: dict[str, Callable[[Path], None]] = {}


def case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """Register a benchmark under its function's name."""
    CASES[function.__name__] = function
    return function


def row(what: str, text: str) -> None:
    print(f"{what:<52} {text}", flush=True)


def times(what: str, seconds: list[float]) -> None:
    """Print a row of latencies."""
    ordered = sorted(seconds)
    median, p95 = statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
    row(what, f"n={len(ordered):<5} median {median * 1e3:8.2f} ms   p95 {p95 * 1e3:8.2f} ms")


def cpu_time(pid: int) -> float:
    """Return the CPU time of the present threads of a process, in seconds."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return total / 1e9


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def packages(directory: Path, count: int) -> list[Path]:
    """Pack `count` apps with an image of about a megabyte whose payload pauses."""
    root, out = directory / "root", directory / "packages"
    root.mkdir()
    out.mkdir()
    source = directory / "pause.c"
    source.write_text(PAUSE)
    compiler = shutil.which("musl-gcc") or "gcc"
    subprocess.run([compiler, "-static", "-Os", "-o", root / "pause", source], check=True)
    (root / "ballast").write_bytes(os.urandom(IMAGE_BYTES))
    for number in range(count):
        text = directory / "manifest.yaml"
        text.write_text(
            manifest(
                f"app{number:02}",
                init="/pause",
                mounts={
                    "/dev": {"type": "dev"},
                    "/proc": {"type": "proc"},
                    "/tmp": {"type": "tmpfs", "size": "1M"},
                },
            )
        )
        npk.pack(text, root, out)
    return sorted(out.iterdir())


class Bench:
    """A runtime with apps and few log lines, and a subscribed client."""

    def __init__(self, directory: Path, count: int, **options: Any) -> None:
        self.runtime = RuntimeProcess(
            directory, environment={"NORTHSTAR_LOG": "runtime=warn,container=warn"}, **options
        )
        self.runtime.start(wait=False)
        try:
            self.client = connect(self.runtime, subscribe=True)
            self.apps = [
                str(self.client.install(package, "mem")) for package in packages(directory, count)
            ]
        except BaseException:
            self.runtime.close()
            raise
        self.exits = exits(self.client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.runtime.stop()
        self.runtime.close()

    @contextlib.contextmanager
    def counted(self, what: str, times: int) -> Iterator[None]:
        """Print a row: the rate of `what` per second, and the runtime's CPU time for one.

        CPU time is more reliable on a busy machine. It excludes that of containers.
        """
        cpu, begun = cpu_time(self.runtime.pid), time.perf_counter()
        yield
        took = time.perf_counter() - begun
        each = (cpu_time(self.runtime.pid) - cpu) / times
        row(what, f"{times / took:8.0f} /s   CPU {each * 1e6:8.0f} us")

    def kill(self, app: str) -> None:
        self.client.kill(app, 9)
        while next(self.exits) != app:
            continue


def connect(runtime: RuntimeProcess, **options: bool) -> blocking.Client:
    """Connect as soon as the runtime listens: with this log level it does not report that."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return runtime.client(**options)
        except ConnectError:
            assert time.monotonic() < deadline, runtime.text()
            time.sleep(0.001)


def exits(client: blocking.Client) -> Iterator[str]:
    for event in client.notifications(timeout=10):
        if isinstance(event, Exit):
            yield str(event.container)


@case
def one_at_a_time(directory: Path) -> None:
    """Measure latencies of single requests, after 5 and after 100 ms of idle time."""
    with Bench(directory, 1) as bench:
        client, app = bench.client, bench.apps[0]
        for idle, rounds in ((0.005, 200), (0.1, 50)):
            seen: dict[str, list[float]] = {
                name: [] for name in ("mount", "umount", "start", "kill", "cold")
            }
            for _ in range(rounds):
                for name, call in (
                    ("mount", lambda: client.mount(app)),
                    ("start", lambda: client.start(app)),
                    ("kill", lambda: bench.kill(app)),
                    ("umount", lambda: client.umount(app)),
                    ("cold", lambda: client.start(app)),
                ):
                    time.sleep(idle)
                    seen[name].append(timed(call))
                bench.kill(app)
                client.umount(app)
            for name, words in (
                ("start", "start, image mounted"),
                ("cold", "start, image not mounted"),
                ("kill", "kill -9 to exit notification"),
                ("mount", "mount"),
                ("umount", "umount"),
            ):
                times(f"{words}, {idle * 1e3:.0f} ms idle", seen[name])


@case
def in_parallel(directory: Path) -> None:
    """Measure cycles of 50 apps, each with a separate client."""
    with Bench(directory, APPS) as bench:
        container = list(map(Container.parse, bench.apps))
        ended = {app: queue.SimpleQueue[None]() for app in bench.apps}

        def listen() -> None:
            for _ in range(15 * APPS):
                ended[next(bench.exits)].put(None)

        # One subscriber for all: 50 would each receive the notifications of all 50 apps.
        listener = threading.Thread(target=listen)
        listener.start()

        def cycle(client: blocking.Client, app: str) -> None:
            client.start(app)
            client.kill(app, 9)
            ended[app].get()

        def cold(client: blocking.Client, app: str) -> None:
            cycle(client, app)
            client.umount(app)

        def mounts(client: blocking.Client, app: str) -> None:
            client.mount(app)
            client.umount(app)

        with bench.runtime.client() as client:
            client.mount(*container)
        rate(bench, "start-kill cycles, 50 in parallel", cycle, 10)
        with bench.runtime.client() as client:
            client.umount(*container)
        rate(bench, "start-kill-umount cycles, 50 in parallel", cold, 5)
        listener.join()
        rate(bench, "mount-umount, 50 in parallel", mounts, 10)


def rate(
    bench: Bench,
    what: str,
    work: Callable[[blocking.Client, str], None],
    rounds: int,
) -> None:
    clients = [bench.runtime.client() for _ in bench.apps]

    def run(client: blocking.Client, app: str) -> None:
        for _ in range(rounds):
            work(client, app)

    threads = [
        threading.Thread(target=run, args=pair) for pair in zip(clients, bench.apps, strict=True)
    ]
    with bench.counted(what, rounds * len(threads)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for client in clients:
        client.close()


@case
def requests(directory: Path) -> None:
    """Measure small requests of one client, one at a time, with 50 apps installed."""
    with Bench(directory, APPS, console=UNLIMITED) as bench:
        calls: list[tuple[str, Callable[[], object]]] = [
            ("ident", bench.client.ident),
            ("inspect", lambda: bench.client.inspect(bench.apps[0])),
            ("list of 50", bench.client.list),
        ]
        for what, call in calls:
            with bench.counted(f"{what}, with our own client", REQUESTS):
                for _ in range(REQUESTS):
                    call()


@case
def polling(directory: Path) -> None:
    """Measure requests for the statistics of 50 running apps, without a pause."""
    with Bench(directory, APPS, console=UNLIMITED) as bench:
        for app in bench.apps:
            bench.client.start(app)
        with bench.counted("inspect of a running app, asked for once", APPS):
            for app in bench.apps:
                bench.client.inspect(app)
        rounds = REQUESTS // APPS
        with bench.counted("inspect of a running app, polled", rounds * APPS):
            for _ in range(rounds):
                for app in bench.apps:
                    bench.client.inspect(app)


@case
def memory(directory: Path) -> None:
    """Measure the PSS of the runtime and of 50 running containers."""
    with Bench(directory, APPS) as bench:
        for app in bench.apps:
            bench.client.start(app)
        runtime = pss(bench.runtime.pid)
        inits = []
        for app in bench.apps:
            process = bench.client.inspect(app).process
            assert process is not None
            inits.append(pss(process.pid))
        row("PSS of the runtime, 50 containers running", f"{runtime / 1024:8.1f} MB")
        row("PSS of an init, median", f"{statistics.median(inits):8.0f} KiB")
        row("PSS of runtime and inits", f"{(runtime + sum(inits)) / 1024:8.1f} MB")


def pss(pid: int) -> int:
    """Return the proportional set size of a process in KiB (proc_pid_smaps(5))."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss")


@case
def boot(directory: Path) -> None:
    """Measure the time from the program's start to the first answer, with 50 packages."""
    store = directory / "store"
    store.mkdir()
    for package in packages(directory, APPS):
        package.rename(store / package.name)
    seen, cpu = [], []
    for number in range(5):
        home = directory / f"run{number}"
        home.mkdir()
        # The interpreter that the harness starts before the program is not counted.
        begun = f'date +%s.%N > {home}/begun; exec "$0" "$@"'
        runtime = RuntimeProcess(
            home,
            repositories={"fs": f'type = {{ fs = {{ dir = "{store}" }} }}'},
            wrap=("/bin/sh", "-c", begun),
        )
        runtime.start(wait=False)
        with connect(runtime) as client:
            assert len(client.list()) == APPS
        seen.append(time.time() - float((home / "begun").read_text()))
        cpu.append(cpu_time(runtime.pid))
        runtime.stop()
        runtime.close()
    times("boot with 50 packages to the first list answer", seen)
    times("the same in CPU time, the harness included", cpu)


@case
def install(directory: Path) -> None:
    """Measure an install of 100 MB into memory."""
    root = directory / "root"
    root.mkdir()
    (root / "data").write_bytes(os.urandom(100_000_000))
    text = directory / "manifest.yaml"
    text.write_text(manifest("big"))
    out = directory / "out"
    out.mkdir()
    npk.pack(text, root, out, compression="none")
    (package,) = out.iterdir()
    (home := directory / "home").mkdir()
    runtime = RuntimeProcess(home).start()
    seen = []
    with runtime.client() as client:
        for _ in range(5):
            seen.append(timed(lambda: client.install(package, "mem")))
            client.uninstall("big:1.0.0")
    runtime.stop()
    runtime.close()
    times("install of 100 MB into memory", seen)


def main() -> None:
    """Run the named cases, or all."""
    print(f"{platform.release()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory(prefix="northstar-bench-") as directory:
            CASES[name](Path(directory))


if __name__ == "__main__":
    main()
