"""Concurrent clients: the rules between containers hold in any order of requests."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import api
from northstar.api import error, notification
from northstar.client import blocking
from northstar.model import Container, Signalled
from tests.system.containers import exit_of, install, pid_of, raw
from tests.system.harness import PATIENCE, RuntimeProcess, manifest, pack, wait_until

pytestmark = [pytest.mark.root, pytest.mark.vm]

C = Container.parse


def together(*works: Callable[[], object]) -> None:
    """Call all at the same time; raise the first failure."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait()
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_one_version_of_a_name_wins(runtime: RuntimeProcess, payload: Path) -> None:
    names = [install(runtime, payload, version=f"{n}.0.0", args="pause") for n in range(1, 5)]
    for _ in range(5):
        started: list[str] = []
        answers: list[error.Error] = []

        def start(name: str, won: list[str] = started, lost: list[error.Error] = answers) -> None:
            with runtime.client() as client:
                try:
                    client.start(name)
                    won.append(name)
                except api.RefusedError as answer:
                    lost.append(answer.error)

        together(*(lambda name=name: start(name) for name in (*names, *names)))
        (winner,) = started
        assert answers == [error.StartContainerStarted(C(winner))] * 7
        with runtime.client(subscribe=True) as client:
            client.kill(winner, 9)
            assert exit_of(client, winner) == Signalled(9)


def test_a_start_is_completed_without_its_client(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args="pause")
    with runtime.client(subscribe=True, extended=False) as events:
        with raw(runtime) as stream:
            stream.sendall(
                b'{"connect":{"version":"0.9.2","subscribe_notifications":false}}\n'
                b'{"request":{"start":{"container":"app:1.0.0","arguments":[],"environment":{}}}}\n'
            )
            stream.recv(100)
        assert next(events.notifications(timeout=10)) == notification.Started(C(container))
        events.kill(container, 9)
        assert exit_of(events, container) == Signalled(9)


def test_an_init_that_is_killed_from_the_host(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, args="pause")
    with runtime.client(subscribe=True) as client:
        client.mount(container)
        before = runtime.snapshot()
        for _ in range(3):
            client.start(container)
            os.kill(pid_of(client, container), signal.SIGKILL)
            assert exit_of(client, container) == Signalled(9)
        runtime.assert_no_leak(before)


def test_kill_right_after_the_start(runtime: RuntimeProcess, payload: Path) -> None:
    """Each start has exactly one exit, whether the payload exits or is killed first."""
    container = install(runtime, payload, args="exit 0")
    started = exits = 0
    with runtime.client(subscribe=True) as events, runtime.client() as client:
        for _ in range(30):
            client.start(container)
            try:
                client.kill(container, 9)
            except api.RefusedError as answer:
                assert answer.error == error.StopContainerNotStarted(C(container))
            for event in events.notifications(timeout=10):
                started += isinstance(event, notification.Started)
                if isinstance(event, notification.Exit):
                    exits += 1
                    break
    assert (started, exits) == (30, 30)


EXPECTED = (
    error.InvalidContainer,
    error.UmountBusy,
    error.StartContainerStarted,
    error.StartContainerMissingResource,
    error.StopContainerNotStarted,
    error.InstallDuplicate,
)


@pytest.mark.parametrize("seed", [1, 2])
def test_arbitrary_operations_of_many_clients(
    runtime: RuntimeProcess, payload: Path, seed: int
) -> None:
    """In any order there are only known refusals, and nothing is left at the end."""
    before = runtime.snapshot()
    mounts = {"/r": {"type": "resource", "name": "res", "version": "*", "dir": "/"}}
    packages: dict[str, Path] = {}
    for name in ("a:1.0.0", "a:2.0.0", "b:1.0.0", "res:1.0.0", "res:2.0.0"):
        stem, version = name.split(":")
        fields: dict[str, Any] = {"args": ["pause"], "mounts": mounts}
        if stem == "res":
            fields = {"init": None}
        text = manifest(stem, version, **fields)
        packages[name] = pack(runtime.directory, text, {"payload": payload})
    end = time.monotonic() + 2.5 * PATIENCE

    def work(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        names = list(packages)
        with runtime.client() as client:
            while time.monotonic() < end:
                try:
                    act(client, chance, chance.choice(names), packages)
                except api.RefusedError as answer:
                    assert isinstance(answer.error, EXPECTED), answer

    together(*(lambda n=n: work(n) for n in range(6)))
    with runtime.client() as client:
        for container in client.list():
            # It may just be exiting by an earlier signal.
            with contextlib.suppress(api.RefusedError):
                client.kill(container, 9)
        wait_until(
            lambda: not any(client.inspect(c).process for c in client.list()), "all have exited"
        )
        for container in client.list():
            client.uninstall(container)
    shutil.rmtree(runtime.directory / "pack")
    runtime.assert_no_leak(before)
    runtime.stop()
    text = runtime.text()
    assert "Traceback" not in text
    assert text.count("Started a:") > 3
    assert text.count(" Mounted ") == text.count(" Umounted ")


def act(
    client: blocking.Client, chance: random.Random, name: str, packages: dict[str, Path]
) -> None:
    what = chance.choice(["install", "start", "start", "kill", "mount", "umount", "uninstall"])
    if what == "install":
        client.install(packages[name], "mem")
    elif what == "start":
        client.start(name, init="/payload", arguments=("pause",))
    elif what == "kill":
        client.kill(name, chance.choice([9, 9, 15]))
    elif what == "uninstall":
        if chance.random() < 0.5:
            client.uninstall(name)
    else:
        for result in getattr(client, what)(name):
            if isinstance(result, api.response.Failed):
                assert isinstance(result.error, EXPECTED), result
