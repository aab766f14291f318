"""The client of bench/cycles.c, with a server that answers as a runtime does."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import cycles

APPS = ["app-0:1.0.0", "app-1:1.0.0"]
SIGTERM = {"signalled": {"signal": 15}}

Answer = Callable[[str, str], list[Any]]
"""From the name of a request and its container to the messages that follow it."""


def runtime(name: str, container: str) -> list[Any]:
    """Answer as a runtime: the notification of a start comes before its response."""
    other = "other:1.0.0"
    response = {"response": {name: {"ok": {"container": container}}}}
    if name == "start":
        return [{"notification": {"started": container}}, response]
    if name == "kill":
        exits = [{"notification": {"exit": [app, SIGTERM]}} for app in (other, container)]
        return [response, *exits]
    return [{"response": {name: [{"ok": {"container": container}}]}}]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cycles.compiled(tmp_path_factory.mktemp("cycles"))


class Server:
    """Answers each client in a thread, and records the requests of each container."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.requests: dict[str, list[str]] = {app: [] for app in APPS}
        self._threads = [threading.Thread(target=self._serve) for _ in APPS]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rwb", buffering=0) as stream:
            hello = json.loads(stream.readline())
            assert hello == {"connect": {"version": "0.9.2", "subscribe_notifications": True}}
            stream.write(b'{"connect_ack":null}\n')
            # The client may end at the first refusal, with answers that it has not read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for line in stream:
                    ((name, content),) = json.loads(line)["request"].items()
                    container = content.get("container") or content["containers"][0]
                    self.requests[container].append(name)
                    text = "".join(
                        json.dumps(message, separators=(",", ":")) + "\n"
                        for message in self._answer(name, container)
                    ).encode()
                    # In two pieces: a line may arrive in parts.
                    stream.write(text[:20])
                    stream.write(text[20:])

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        self._listener.close()


@pytest.fixture
def play(program: Path) -> Iterator[Callable[..., tuple[Any, dict[str, list[str]]]]]:
    with tempfile.TemporaryDirectory() as name:

        def run(answer: Answer, steps: str) -> tuple[Any, dict[str, list[str]]]:
            server = Server(Path(name) / "socket", answer)
            words = [str(program), f"{name}/socket", "0.05", steps, *APPS]
            done = subprocess.run(words, capture_output=True, text=True)
            server.close()
            return done, server.requests

        yield run


@pytest.mark.parametrize("steps", [*map(",".join, cycles.KINDS), "mount"])
def test_each_client_makes_complete_cycles(play: Any, steps: str):
    done, requests = play(runtime, steps)
    assert (done.returncode, done.stderr) == (0, "")
    made, seconds, processor = done.stdout.split()
    kind = steps.split(",")
    assert all(found == kind * (len(found) // len(kind)) for found in requests.values())
    assert min(map(len, requests.values())) > 0
    assert int(made) * len(kind) == sum(map(len, requests.values()))
    assert float(seconds) >= 0.05
    assert 0 <= float(processor) <= float(seconds)


def test_a_refused_request_is_an_error(play: Any):
    def refuse(name: str, container: str) -> list[Any]:
        error = {"error": {"container": container, "error": {"mount_busy": container}}}
        return [{"response": {name: [error]}}]

    done, _ = play(refuse, "mount,umount")
    assert done.returncode == 1
    assert "refused: " in done.stderr
    assert "mount_busy" in done.stderr


def test_an_end_of_the_runtime_is_an_error(program: Path, tmp_path: Path):
    done = subprocess.run(
        [program, tmp_path / "none", "1", "mount", *APPS], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "none: No such file or directory" in done.stderr


@pytest.mark.parametrize("steps", ["", "mount,none", "mount,umount,mount,umount,mount"])
def test_unknown_steps_are_an_error(program: Path, tmp_path: Path, steps: str):
    words = [str(program), f"{tmp_path}/none", "1", steps, *APPS]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{steps} is no list of at most 4 steps" in done.stderr
