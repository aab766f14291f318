"""The release of what a container holds."""

from __future__ import annotations

from typing import Any, cast

import pytest

from northstar.cgroups import Cgroup
from northstar.model import Container
from northstar.runtime.bells import Bells
from northstar.runtime.logring import EndedRun, LogRing
from northstar.runtime.running import HeldResources
from northstar.runtime.threads import Pools
from tests.unit.runtime.console.harness import run
from tests.unit.runtime.ring_writer import RingWriter

A = Container.parse("a:1.0.0")


class Removal:
    """Stands for a cgroup, and records whether the ring was closed when it is removed."""

    path = "a"

    def __init__(self, ring: LogRing) -> None:
        self.ring = ring
        self.closed: list[bool] = []

    def destroy_if_empty(self) -> bool:
        self.closed.append(self.ring.memfd < 0 and not self.ring.is_open)
        return False

    def destroy(self) -> None:
        self.closed.append(self.ring.memfd < 0 and not self.ring.is_open)


class Direct:
    """A pool that calls at once."""

    kernel: Direct

    def __init__(self) -> None:
        self.kernel = self

    async def run(self, call: object) -> None:
        assert callable(call)
        call()


def test_the_ring_is_closed_before_the_cgroup_is_removed() -> None:
    """Its memory belongs to the cgroup, which the kernel would keep."""

    async def test() -> None:
        ring = LogRing(A, 3, 65536, Bells())
        removal = Removal(ring)
        ended: list[EndedRun] = []
        held = HeldResources(A, (), cast("Cgroup", removal), log=ring, on_log_ended=ended.append)
        with RingWriter(ring) as init:
            assert "a log of 65536 bytes" in held.describe()
            init.write(b"last words\n")
            await held.release(cast("Pools", Direct()))
            assert removal.closed == [True, True]
        (kept,) = ended
        assert (kept.container, kept.run) == (A, 3)
        assert [record.data for record in kept.read(0).records] == [b"last words\n"]

    run(test())


def test_a_start_that_fails_before_init_is_ready_ends_no_log() -> None:
    async def test() -> None:
        ring = LogRing(A, 1, 65536, Bells())
        ended: list[EndedRun] = []
        held = HeldResources(A, (), log=ring, on_log_ended=ended.append)
        await held.release(cast("Pools", Direct()))
        assert ended == []
        assert ring.memfd == -1

    run(test())


class Closes:
    """Stands for a held resource: records its release, and may fail."""

    def __init__(self, done: list[str], name: str, failure: Exception | None = None) -> None:
        self._done, self._name, self._failure = done, name, failure

    def close(self) -> None:
        self._done.append(self._name)
        if self._failure is not None:
            raise self._failure

    unlink = close

    async def end(self) -> None:
        self.close()


class Directory:
    """Stands for a cgroup: empty, or not."""

    path = "a"

    def __init__(self, done: list[str], *, empty: bool) -> None:
        self._done, self.empty = done, empty

    def destroy_if_empty(self) -> bool:
        self._done.append("rmdir")
        return self.empty

    def destroy(self) -> None:
        self._done.append("destroy")


@pytest.mark.parametrize("failure", [None, OSError(5, "Input/output error")])
@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("executing", [True, False])
def test_the_order_of_a_release(
    *, failure: Exception | None, empty: bool, executing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """At once if nothing must be waited for; each once, the cgroup last, despite failures."""

    async def test() -> None:
        done: list[str] = []
        held = HeldResources(A, (), cast("Cgroup", Directory(done, empty=empty)))
        held.console = cast("Any", Closes(done, "console", failure))
        held.sockets = [cast("Any", Closes(done, "socket", failure))]
        held.memory = cast("Any", Closes(done, "memory", failure))
        if executing:
            held.execs = [cast("Any", Closes(done, "exec", failure))]
        whole = held.release_at_once()
        assert whole == (empty and not executing)
        closed = ["console", "socket", "memory"]
        assert done == ([] if executing else [*closed, "rmdir"])
        if not whole:
            await held.release(cast("Pools", Direct()))
        first = ["exec", *closed, "rmdir"] if executing else [*closed, "rmdir"]
        again = [] if executing or empty else ["rmdir"]
        assert done == [*first, *again, *([] if empty else ["destroy"])]
        number = 0 if failure is None else 4 if executing else 3
        assert caplog.text.count("Cannot clean up after a:1.0.0") == number

    run(test())
