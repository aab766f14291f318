"""A running container: its init, and the resources that it holds until its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from northstar.launch.launcher import Init
from northstar.model import Container, ExitStatus
from northstar.runtime.listeners import BoundSocket
from northstar.runtime.logring import EndedRun, LogRing
from northstar.runtime.oom_watch import OomWatch
from northstar.runtime.stdio import RingOutput
from northstar.runtime.stopping import stop_members
from northstar.runtime.threads import Pools

if TYPE_CHECKING:
    from northstar.cgroups import Cgroup
    from northstar.model.notify import NotifyMessage
    from northstar.runtime.exec import ExecProcess
    from northstar.runtime.notify import NotifySocket

log = logging.getLogger("northstar.runtime")


class ConsoleConnection(Protocol):
    """The runtime's side of a container's console connection."""

    def close(self) -> None:
        """Close it; idempotent."""


class HeldResources(msgspec.Struct, eq=False):
    """Resources that a container holds: filled while it starts, released as a whole at its end.

    Attributes:
        container: the container.
        mounts: the mount points that it uses; they stay mounted after its end.
        cgroup: its cgroup.
        memory: reports memory events of the cgroup.
        log: the ring of its output, None if it discards both streams.
        output: passes on its output with `io: pipe` or `inherit`.
        sockets: the files of its Unix sockets.
        notify: its notify socket.
        console: the runtime's side of its console connection.
        groups: the ids of its supplementary groups.
        execs: the exec'ed processes that have not ended.
        on_log_ended: called with what the ring contained at the end, if init had created it.
        closed: all but the cgroup and the exec'ed processes is released.
    """

    container: Container
    mounts: tuple[str, ...]
    cgroup: Cgroup | None = None
    memory: OomWatch | None = None
    log: LogRing | None = None
    output: RingOutput | None = None
    sockets: list[BoundSocket] = []
    notify: NotifySocket | None = None
    console: ConsoleConnection | None = None
    groups: Sequence[int] = ()
    execs: list[ExecProcess] = []
    on_log_ended: Callable[[EndedRun], None] | None = None
    closed: bool = False

    def describe(self) -> str:
        """Return one line that lists all of them, for the log."""
        parts = [f"mounts {', '.join(self.mounts)}"]
        if self.cgroup is not None:
            parts.append(f"cgroup {self.cgroup.path}")
        if self.memory is not None:
            parts.append("memory events")
        if self.log is not None:
            parts.append(f"a log of {self.log.capacity} bytes")
        if self.sockets:
            parts.append(f"sockets {', '.join(bound.path for bound in self.sockets)}")
        if self.notify is not None:
            parts.append("a notify socket")
        if self.console is not None:
            parts.append("a console connection")
        if self.execs:
            parts.append(f"{len(self.execs)} exec'ed processes")
        return "; ".join(parts)

    def release_at_once(self) -> bool:
        """Release all of them without waiting, if that is possible.

        Returns:
            False if something is left, which `release` releases.
        """
        if self.execs:
            return False
        self._close()
        return self._remove_cgroup()

    async def release(self, pools: Pools) -> None:
        """Release all of them, the cgroup last, when nothing uses it any more; idempotent.

        A failure is logged, and that resource is left behind.

        Args:
            pools: removes in a thread a cgroup that is not empty.
        """
        try:
            for process in tuple(self.execs):  # the end of each removes it
                with self._failure_logged():
                    await process.end()
        finally:
            self._close()
            if not self._remove_cgroup():
                assert self.cgroup is not None
                with self._failure_logged():
                    await pools.kernel.run(self.cgroup.destroy)

    def _close(self) -> None:
        """Release everything but the cgroup and the exec'ed processes; idempotent."""
        if self.closed:
            return
        self.closed = True
        if self.console is not None:
            with self._failure_logged():
                self.console.close()
        if self.notify is not None:
            with self._failure_logged():
                self.notify.close()
        for bound in reversed(self.sockets):
            with self._failure_logged():
                bound.unlink()
        if self.log is not None:
            with self._failure_logged():
                self._end_log(self.log)
        if self.memory is not None:
            with self._failure_logged():
                self.memory.close()

    def _remove_cgroup(self) -> bool:
        """Remove the cgroup if that needs no waiting; return whether it is gone."""
        return self.cgroup is None or self.cgroup.destroy_if_empty()

    @contextlib.contextmanager
    def _failure_logged(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            log.exception("Cannot clean up after %s", self.container)

    def _end_log(self, ring: LogRing) -> None:
        created = ring.is_open
        ended = ring.finish()
        if self.output is not None:
            self.output.close()
        if created and self.on_log_ended is not None:
            self.on_log_ended(ended)


class RunningContainer:
    """A container whose payload was executed.

    Attributes:
        container: the container.
        pid: pid of its init, on the host.
        held: the resources that it holds.
    """

    def __init__(self, container: Container, init: Init, held: HeldResources, pools: Pools) -> None:
        self.container = container
        self.pid = init.pid
        self.held = held
        self._init = init
        self._pools = pools

    @property
    def cgroup(self) -> Cgroup:
        """Its cgroup."""
        assert self.held.cgroup is not None
        return self.held.cgroup

    @property
    def exited(self) -> asyncio.Future[ExitStatus]:
        """Done when all processes of the container have ended."""
        return self._init.exited

    def when_exited(self, report: Callable[[ExitStatus], object]) -> None:
        """Call `report` with the exit status as soon as `exited` is done, now if it is already."""
        if self._init.exited.done():
            report(self._init.exited.result())
        else:
            self._init.on_exit = report

    def drain_notify(self) -> list[NotifyMessage]:
        """Return the messages that wait in its notify socket, in order; none without a socket.

        Messages that it has sent before its end are there until `release`.
        """
        return [] if self.held.notify is None else self.held.notify.drain()

    def release_at_once(self) -> bool:
        """Release all resources that it holds if that needs no waiting; else return False."""
        return self.held.release_at_once()

    async def release(self) -> None:
        """Release all resources that it holds, or that `release_at_once` has left."""
        await self.held.release(self._pools)

    def send_signal(self, number: int) -> None:
        """Send a signal except SIGSTOP to its process group; a missing group is no error."""
        # Until init is reaped, the group exists, and the kernel does not reuse its number.
        if not self._init.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def stop(self) -> None:
        """Send SIGSTOP to its process group except init: see `stop_members`."""
        if self._init.exited.done():
            return
        init = self._init.duplicate_pidfd()
        try:
            stopping = asyncio.wrap_future(self._pools.kernel.submit(stop_members, self.pid, init))
        except BaseException:
            os.close(init)
            raise
        # The thread continues if this task is cancelled.
        stopping.add_done_callback(lambda _: os.close(init))
        await asyncio.shield(stopping)
