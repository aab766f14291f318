"""The comparison measures every row that has a target, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench.report import ROOT, Result
from bench.targets import TARGETS
from tests.interop.reference import program
from tests.system import host

pytestmark = pytest.mark.timeout(180)  # a shared machine; 0.9.2 mounts one image after the other


def command(directory: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    environment = {
        **os.environ,
        "NORTHSTAR_COMPARE": str(program("runtime").parent),
        "TMPDIR": str(directory),
    }
    words = [sys.executable, "-m", "bench.compare", "--json", "--smoke", *arguments]
    return words, environment


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for all files of the comparison, of which nothing must be left or running."""
    # Not tmp_path, which is too long for a Unix socket in it.
    name = tempfile.mkdtemp(prefix="compare-")
    yield Path(name)
    os.rmdir(name)  # fails if something was left
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        assert name not in path.read_text()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert os.fsencode(name) not in words


def assert_no_cgroup(pid: int) -> None:
    for root in host.cgroup_roots():
        assert list(root.glob(f"northstar-compare-{pid}-*")) == []


def test_each_target_is_measured(directory: Path):
    words, environment = command(directory)
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    result = msgspec.json.decode(output, type=Result)
    assert {target.group for target in TARGETS} <= set(result.groups)
    assert result.other == "0.9.2"
    # Without its program there is no boot with a log to compare.
    installed = (program("runtime").parents[1] / "bin/northstar").exists()
    lacking = [line for line in result.unmeasured() if installed or "with its log" not in line]
    assert lacking == []
    for row in result.rows:
        assert min(value for values in row.values.values() for value in values) >= 0, row.what
    assert_no_cgroup(process.pid)


def test_an_interrupted_comparison_leaves_nothing(directory: Path):
    words, environment = command(directory, "--only", "memory,many")
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"containers, " in line:  # of the second group: runtimes have been stopped before
                break
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # ends nothing early
        output, words_left = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert output == b""
    assert b"interrupted, ending the runtimes" in words_left
    assert b"Traceback" not in words_left
    assert_no_cgroup(process.pid)
