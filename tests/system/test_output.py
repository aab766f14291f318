"""Output of containers on a real runtime: rates, floods, a stopped runtime, hostile containers.

bench/output.py measures; the limits here are an order of magnitude away.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from northstar.model import Exited, Signalled
from tests.system import host
from tests.system.conftest import compile_static
from tests.system.containers import PIPES, PROC, exit_of, install, pid_of, wait_ready
from tests.system.harness import PATIENCE, TIMEOUT, RuntimeProcess, wait_until

pytestmark = pytest.mark.root

MB = 10**6
DATA = {"/data": {"type": "persist"}}
LOST = re.compile(r"DEBUG app:1\.0\.0: \((\d+) bytes of its output are lost here\)$", re.MULTILINE)


@pytest.fixture(scope="session")
def printer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of output.c."""
    source = Path(__file__).with_name("output.c")
    return compile_static(source, tmp_path_factory.mktemp("output") / "output")


def install_printer(runtime: RuntimeProcess, program: Path, *steps: str, **fields: object) -> str:
    return install(runtime, program, args=list(steps), **{"mounts": DATA, **fields})  # type: ignore[arg-type]


def took(runtime: RuntimeProcess, name: str = "app") -> tuple[float, int]:
    """Return the seconds and the bytes of the last `write` of a container that has ended."""
    _, us, count = (runtime.data_dir / name / "took").read_text().split()
    return int(us) / 1e6, int(count)


def run_to_exit(runtime: RuntimeProcess, container: str) -> None:
    with runtime.client(subscribe=True) as client:
        client.start(container)
        assert exit_of(client, container) == Exited(0)


@pytest.mark.parametrize(("size", "least"), [(80, 2 * MB), (65536, 50 * MB)])
def test_rate(runtime: RuntimeProcess, printer: Path, size: int, least: int) -> None:
    """The stated rate is 50 MB/s of 80-byte lines; other tests run on the same processors."""
    total = least * 2 // size * size
    steps = [f"write:1:{total}:{size}", "save:/data/took"]
    run_to_exit(runtime, install_printer(runtime, printer, *steps))
    seconds, count = took(runtime)
    assert count >= total
    assert count / seconds > least / PATIENCE


def test_a_stopped_runtime_stops_no_container(runtime: RuntimeProcess, printer: Path) -> None:
    """It writes more than its ring and its pipe hold, while the runtime is stopped."""
    steps = ['text:2:{"do": "ready"}', "sleep:200", "write:1:64000000:4096", "save:/data/took"]
    container = install_printer(runtime, printer, *steps, "text:1:all written")
    with runtime.client(subscribe=True) as client:
        client.start(container)
        wait_ready(runtime, container)
        os.kill(runtime.pid, signal.SIGSTOP)
        try:
            saved = runtime.data_dir / "app" / "took"
            wait_until(saved.exists, "the container has written")
            assert host.state(runtime.pid) == "T"
        finally:
            os.kill(runtime.pid, signal.SIGCONT)
        assert exit_of(client, container) == Exited(0)
    # The newest is still there, and what is not is counted.
    runtime.wait_log(r"DEBUG app:1\.0\.0: all written$")
    assert LOST.search(runtime.text())


def account(text: str) -> int:
    """Return the bytes of output that the log shows, as lines, as lost, or as left out."""
    total = 0
    for line in re.findall(r"DEBUG app:1\.0\.0: (.*)$", text, re.MULTILINE):
        note = re.fullmatch(r"\((\d+) bytes of its output are (lost|left out) here\)", line)
        total += int(note[1]) if note else len(line) + 1
    return total


def test_a_flood_is_logged_in_part_and_counted_to_the_byte(
    runtime: RuntimeProcess, printer: Path
) -> None:
    total = 3_000_000 // 80 * 80
    container = install_printer(runtime, printer, f"write:1:{total}:80", "text:1:end")
    run_to_exit(runtime, container)
    runtime.wait_log(r"DEBUG app:1\.0\.0: end$")
    text = runtime.text()
    # A gap may split a line, which then ends without a line end, once before and once after it.
    gaps = len(re.findall(r"bytes of its output are", text))
    assert gaps
    assert total + 4 <= account(text) <= total + 4 + 2 * gaps


def busy(runtime: RuntimeProcess, printer: Path, count: int) -> list[str]:
    return [
        install(runtime, printer, f"flood{n}", args=["until:1:3600000:80"]) for n in range(count)
    ]


def test_ten_floods_do_not_stop_others(runtime: RuntimeProcess, printer: Path) -> None:
    """Starts, exits and requests are answered, and the runtime does not spin."""
    other = install(runtime, printer, "other", args=["pause"])
    floods = busy(runtime, printer, 10)
    with runtime.client(subscribe=True) as client:
        for flood in floods:
            client.start(flood)
        begun = time.monotonic()
        for _ in range(5):
            client.start(other)
            client.kill(other, signal.SIGKILL)
            assert exit_of(client, other) == Signalled(9)
            for _ in range(20):
                client.ident()
        assert time.monotonic() - begun < 4 * TIMEOUT
        for flood in floods:
            client.kill(flood, signal.SIGKILL)
            assert exit_of(client, flood) == Signalled(9)


def test_the_ring_of_a_run_is_released(runtime: RuntimeProcess, printer: Path) -> None:
    container = install_printer(runtime, printer, "write:1:1000000:80", "exit:0")
    run_to_exit(runtime, container)
    wait_until(lambda: maps(runtime.pid) == 0, "no ring is mapped")
    before = len(host.descriptors(runtime.pid))
    for _ in range(5):
        run_to_exit(runtime, container)
    wait_until(lambda: maps(runtime.pid) == 0, "no ring is mapped")
    wait_until(lambda: len(host.descriptors(runtime.pid)) == before, "descriptors are closed")


def maps(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:northstar-log")


def wakeups(pid: int) -> int:
    """Return how often the main thread of a process has gone to sleep by itself: proc(5)."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\t(\d+)$", status, re.MULTILINE)
    assert found
    return int(found[1])


def sleeps(runtime: RuntimeProcess) -> bool:
    """Wait for two seconds without a wake-up; work of the past may end before."""
    before = wakeups(runtime.pid)
    time.sleep(2)
    return wakeups(runtime.pid) == before


def test_quiet_containers_wake_nobody(runtime: RuntimeProcess, printer: Path) -> None:
    """Their output is followed at level debug, and they print nothing more."""
    names = [
        install(runtime, printer, f"quiet{n}", args=["text:1:hello", "pause"]) for n in range(20)
    ]
    with runtime.client() as client:
        for name in names:
            client.start(name)
        inits = [pid_of(client, name) for name in names]
    for name in names:
        runtime.wait_log(rf"DEBUG {re.escape(name)}: hello$")
    wait_until(lambda: sleeps(runtime), "the runtime sleeps", timeout=4 * TIMEOUT)
    # Page 0, and a page of records.
    for pid in inits:
        assert ring_memory(pid) == 8192


def ring_memory(pid: int) -> int:
    """Return the bytes of the ring that are in memory, by the mapping of init."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    found = re.search(r"memfd:northstar-log.*?^Rss: +(\d+) kB", smaps, re.DOTALL | re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def test_a_ring_of_another_size(runtime: RuntimeProcess, printer: Path) -> None:
    container = install_printer(
        runtime, printer, "text:1:hello", "pause", service={"log": {"size": "64KiB"}}
    )
    with runtime.client() as client:
        client.start(container)
        maps_ = Path(f"/proc/{pid_of(client, container)}/maps").read_text()
    found = re.search(r"^(\w+)-(\w+) .*memfd:northstar-log", maps_, re.MULTILINE)
    assert found
    assert int(found[2], 16) - int(found[1], 16) == 4096 + 65536


def test_discarded_output_has_no_ring(runtime: RuntimeProcess, printer: Path) -> None:
    io = {"stdout": "discard", "stderr": "discard"}
    container = install(runtime, printer, args=["text:1:hello", "pause"], io=io)
    with runtime.client() as client:
        client.start(container)
        pid = pid_of(client, container)
    assert len(os.listdir(f"/proc/{pid}/fd")) == 1
    assert maps(pid) == maps(runtime.pid) == 0


def test_a_ring_within_a_small_memory_limit(runtime: RuntimeProcess, printer: Path) -> None:
    """256 KiB of 1 MiB: the whole ring is used, and the container is not killed."""
    memory = {"memory_hard_limit": 2**20, "memory_swap_limit": 2**20}
    container = install_printer(
        runtime, printer, "write:1:4000000:4096", "exit:0", cgroups={"memory": memory}
    )
    run_to_exit(runtime, container)


def test_the_end_of_a_payload_is_seen(runtime: RuntimeProcess, printer: Path) -> None:
    """What it printed last is logged before its exit."""
    container = install_printer(runtime, printer, "text:2:cannot open queue", "exit:3")
    with runtime.client(subscribe=True) as client:
        for _ in range(5):
            client.start(container)
            assert exit_of(client, container) == Exited(3)
    found = re.findall(r"DEBUG app:1\.0\.0: cannot open queue$", runtime.text(), re.MULTILINE)
    assert len(found) == 5


def test_a_payload_that_scribbles_into_the_ring(runtime: RuntimeProcess, printer: Path) -> None:
    """With CAP_SYS_PTRACE it can. The log is given up; runtime and container go on."""
    container = install_printer(
        runtime,
        printer,
        *("text:1:before", "sleep:100", "scribble:3000", "sleep:200", "exit:7"),
        capabilities=["CAP_SYS_PTRACE"],
        mounts=PROC,
    )
    other = install(runtime, printer, "other", args=["text:1:untouched", "pause"], io=PIPES)
    with runtime.client(subscribe=True) as client:
        client.start(container)
        assert exit_of(client, container) == Exited(7)
        runtime.wait_log(r"WARN\w* .*the log of app:1\.0\.0 is not itself any more")
        client.start(other)
        runtime.wait_log(r"DEBUG other:1\.0\.0: untouched$")
    assert runtime.text().count("is not itself any more") == 1
    assert "Traceback" not in runtime.text()


def test_output_below_the_level_is_not_followed(
    make_runtime: Callable[..., RuntimeProcess], printer: Path
) -> None:
    """At level info nobody reads: the runtime is not woken once, and the container is as fast."""
    runtime = make_runtime(environment={"NORTHSTAR_LOG": "info"})
    container = install(runtime, printer, args=["until:1:3600000:80"])
    with runtime.client() as client:
        client.start(container)
    wait_until(lambda: sleeps(runtime), "the runtime sleeps", timeout=4 * TIMEOUT)
