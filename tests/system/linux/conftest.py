"""Fixtures: a cgroup and processes that end with the test."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from northstar.cgroups import CgroupHost, tree
from northstar.model.deadline import Deadline

numbers = itertools.count()


@pytest.fixture
def top() -> Iterator[str]:
    """The name of a runtime's cgroup for this test. The cgroup is removed after it."""
    name = f"northstar-test-{os.getpid()}-{next(numbers)}"
    yield name
    deadline = Deadline(5)
    for hierarchy in CgroupHost.detect().hierarchies:
        tree.remove(hierarchy, f"{hierarchy.path}/{name}", deadline)


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python programs that end with the test; the default one prints and reads a line."""
    started = []

    def start(program: str = "print(flush=True); input()") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
