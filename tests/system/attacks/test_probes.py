"""Attacks by probes: paths of Unix sockets that lead outside of the container, floods of output."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.api import ContainerState
from tests.system.containers import PROC
from tests.system.harness import RuntimeProcess, wait_until
from tests.system.services.probes import TMP, health, ready, status, wait_state
from tests.system.services.senders import HOSTED, PYTHON, SHELL, install_script

pytestmark = pytest.mark.root

LINKS = """
import os, socket, sys, time
outside = {outside!r}
os.symlink(outside, "/tmp/absolute")
os.symlink("../" * 20 + outside[1:], "/tmp/up")
os.symlink("/proc/1/root", "/tmp/root")
os.symlink("/proc/1/cwd", "/tmp/cwd")
"""
OWN = """
os.makedirs(outside)
os.chdir(outside)
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind("sock")
    sock.listen(100)
    time.sleep(1000)
"""
RACE = """
os.mkdir("/tmp/there")
os.symlink("../" * 20 + outside[1:], "/tmp/link")
os.symlink(outside, "/tmp/straight")
os.makedirs("/tmp/a/b/c")
os.symlink("a/b/c/" + "../" * 20 + outside[1:], "/tmp/deep")
while True:
    for one in ("there", "link", "straight"):
        os.rename("/tmp/" + one, "/tmp/place")
        os.rename("/tmp/place", "/tmp/" + one)
        os.rename("/tmp/a/b", "/tmp/b")
        os.rename("/tmp/b", "/tmp/a/b")
"""


class Outside:
    """A directory of the host with a socket that listens, and how often somebody connected."""

    def __init__(self, directory: str, sock: socket.socket) -> None:
        self.directory = directory
        self._sock = sock

    def connections(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._sock.accept()[0].close()
                count += 1
        return count


@pytest.fixture
def outside() -> Iterator[Outside]:
    directory = tempfile.mkdtemp(prefix="outside", dir="/tmp")
    os.chmod(directory, 0o777)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"{directory}/sock")
            os.chmod(f"{directory}/sock", 0o777)
            sock.listen(4096)
            sock.setblocking(False)
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(f"{directory}/sock")
            found = Outside(directory, sock)
            assert found.connections() == 1
            yield found
    finally:
        shutil.rmtree(directory)


def test_links_and_parents_as_the_path_of_a_socket(
    runtime: RuntimeProcess, outside: Outside
) -> None:
    there = outside.directory
    reasons = {
        "/tmp/absolute/sock": "No such file or directory",
        "/tmp/up/sock": "No such file or directory",
        f"/tmp/root{there}/sock": "Too many levels of symbolic links",
        f"/tmp/cwd{there}/sock": "Too many levels of symbolic links",
        f"/proc/1/root{there}/sock": "Too many levels of symbolic links",
    }
    for number, path in enumerate(reasons):
        service = {"ready": ready({"connect": f"unix:{path}"}, timeout="4s")}
        install_script(
            runtime,
            LINKS.format(outside=there) + "time.sleep(1000)",
            *PYTHON,
            name=f"app{number}",
            service=service,
            mounts={**HOSTED, **TMP, **PROC},
        )
    with runtime.client() as client:
        for number in range(len(reasons)):
            client.start(f"app{number}")
        for number in range(len(reasons)):
            wait_state(client, ContainerState.FAILED, f"app{number}")
    for number, (path, reason) in enumerate(reasons.items()):
        runtime.wait_log(f"Probe of app{number}:1.0.0 has failed: unix:{re.escape(path)}: {reason}")
    assert outside.connections() == 0


@pytest.mark.parametrize("link", ["absolute", "up"])
def test_the_same_path_in_the_container_is_meant(
    runtime: RuntimeProcess, outside: Outside, link: str
) -> None:
    service = {"ready": ready({"connect": f"unix:/tmp/{link}/sock"})}
    install_script(
        runtime,
        LINKS.format(outside=outside.directory) + OWN,
        *PYTHON,
        service=service,
        mounts={**HOSTED, **TMP},
    )
    with runtime.client() as client:
        client.start("app")
        wait_state(client, ContainerState.READY)
    assert outside.connections() == 0


def test_a_path_that_changes_during_the_lookup(runtime: RuntimeProcess, outside: Outside) -> None:
    probe = {"connect": "unix:/tmp/deep/sock"}
    other = {"connect": "unix:/tmp/place/sock"}
    for number in range(8):
        one = health(probe if number % 2 else other, interval="1ms", timeout="100ms", action="none")
        install_script(
            runtime,
            LINKS.format(outside=outside.directory) + RACE,
            *PYTHON,
            name=f"app{number}",
            service={"health": one},
            mounts={**HOSTED, **TMP},
        )
    with runtime.client() as client:
        for number in range(8):
            client.start(f"app{number}")
        for number in range(8):
            wait_state(client, ContainerState.UNHEALTHY, f"app{number}")
        with pytest.raises(AssertionError):
            wait_until(lambda: outside.connections() > 0, "somebody connects", 3.0)
        assert {status(client, f"app{n}").state for n in range(8)} == {ContainerState.UNHEALTHY}


def test_a_probe_that_floods_its_output(runtime: RuntimeProcess) -> None:
    probe = {"exec": [SHELL, "-c", "exec cat /dev/zero"]}
    service = {"health": health(probe, timeout="3s", failures=1)}
    mounts = {**HOSTED, "/dev": {"type": "dev"}}
    install_script(runtime, "exec sleep 1000", SHELL, service=service, mounts=mounts)

    def cpu() -> float:
        fields = Path(f"/proc/{runtime.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with runtime.client() as client:
        client.start("app")
        before = cpu()
        found = wait_state(client, ContainerState.FAILED)
        used = cpu() - before
    assert found.reason == "unhealthy: timeout: " + 200 * "\\x00"
    # Reading without a pause would take most of the 3 s.
    assert used < 1.5
