"""A scripted peer of a console connection, on a real socket, and one interface to both clients."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from northstar import client as package
from northstar.client import blocking

TIMEOUT = 10.0
CONNECT = {"connect": {"version": "0.9.2", "subscribe_notifications": False, "extended": True}}


class Wire:
    """The runtime's end."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.file = stream.makefile("rb")

    def line(self) -> Any:
        return json.loads(self.file.readline())

    def read(self, size: int) -> bytes:
        return self.file.read(size)

    def send(self, *messages: Any) -> None:
        self.stream.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def greet(
        self,
        subscribe: bool = False,
        features: Sequence[str] | None = None,
        *,
        extended: bool = True,
    ) -> None:
        """Accept the client; without features as a runtime of version 0.9.2."""
        connect = self.line()["connect"]
        assert connect["subscribe_notifications"] is subscribe
        assert connect.get("extended") is (True if extended else None)
        self.send({"connect_ack": None if features is None else {"features": features}})

    def answer(self, request: Any, *answers: Any) -> None:
        assert self.line() == {"request": request}
        self.send(*answers)

    def expect_end(self) -> None:
        assert self.file.read() == b""


class Peer:
    """Listens on a Unix socket; a thread runs one script for one connection."""

    def __init__(self, directory: Path, script: Callable[[Wire], None]) -> None:
        self.url = f"unix://{directory}/console"
        self.error: BaseException | None = None
        self._script = script
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(TIMEOUT)
        self._listener.bind(f"{directory}/console")
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            stream = self._accept()
            with stream:
                stream.settimeout(TIMEOUT)
                wire = Wire(stream)
                with wire.file:
                    self._script(wire)
        except BaseException as error:
            self.error = error

    def _accept(self) -> socket.socket:
        return self._listener.accept()[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._thread.join(TIMEOUT)
        self._listener.close()
        assert not self._thread.is_alive()
        # If both fail, the peer's failure is usually the cause.
        if self.error is not None:
            raise self.error


class Asynchronous:
    """The asyncio client with the interface of the blocking one."""

    def __init__(self, runner: asyncio.Runner, inner: package.Client) -> None:
        self._runner = runner
        self._inner = inner

    @classmethod
    def connect(cls, url: str, **options: Any) -> Asynchronous:
        return cls._make(package.Client.connect(url, **options))

    @classmethod
    def from_env(cls, **options: Any) -> Asynchronous:
        return cls._make(package.Client.from_env(**options))

    @classmethod
    def _make(cls, connecting: Any) -> Asynchronous:
        runner = asyncio.Runner()
        try:
            return cls(runner, runner.run(connecting))
        except BaseException:
            runner.close()
            raise

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            async def run() -> Any:
                return await getattr(self._inner, name)(*arguments, **options)

            return self._runner.run(run())

        return call

    def notifications(self) -> Iterator[Any]:
        iterator = self._inner.notifications()

        async def step() -> Any:
            return await anext(iterator, None)

        while (message := self._runner.run(step())) is not None:
            yield message

    def logs(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        iterator = self._inner.logs(*arguments, **options)

        async def step() -> Any:
            return await anext(iterator, None)

        try:
            while (message := self._runner.run(step())) is not None:
                yield message
        finally:
            self._runner.run(iterator.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._runner.close()


CLIENTS: list[Any] = [blocking.Client, Asynchronous]
