"""The launcher that stays: one process of the C program clones the inits of all containers.

It saves each start the execution of a program, for which the kernel copies and closes all
descriptors of the runtime. In a mount namespace without the packages' images it also saves the
copies of these mounts (launcher/serve.c). Where it is missing or refuses a request, a launcher for
one plan does the same: `Launcher.launch`.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from northstar.launch.plan_ops import REQUEST_MAX, SERVE, Report
from northstar.model import Exited, ExitStatus, Signalled

log = logging.getLogger("northstar.launch")

_HEAD: Final = struct.Struct("<IIIii")
_REPORT_MAX: Final = 8192


def reap(pid: int) -> ExitStatus:
    """Wait for the end of a child, and reap it."""
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return Exited(code) if code >= 0 else Signalled(-code)


class ServingLauncher:
    """A launcher that stays.

    Attributes:
        pid: its process ID, also after its end.
        own_namespace: it was requested to enter a mount namespace of its own. Plans without ATTACH
            for their images must not be sent to it.
        ready: done when it serves, or has ended: mounts made later are in no copy of it.
        ended: its exit status, None while it runs.
    """

    def __init__(self, spawn: Callable[[socket.socket], int], *, own_namespace: bool) -> None:
        """Spawn it.

        Args:
            spawn: spawns the program with this socket, and returns its pid.
            own_namespace: let it enter a new mount namespace.

        Raises:
            OSError: it could not be spawned.
        """
        self._loop = asyncio.get_running_loop()
        self.own_namespace = own_namespace
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: ExitStatus | None = None
        self._socket, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child_end, contextlib.ExitStack() as undo:
            undo.enter_context(self._socket)
            self._socket.setblocking(False)
            self._socket.send(struct.pack("<II", SERVE, own_namespace))
            self._loop.add_reader(self._socket.fileno(), self._on_message)
            undo.callback(self._loop.remove_reader, self._socket.fileno())
            self.pid = spawn(child_end)
            undo.pop_all()

    def request(self, plan: bytes, stream: socket.socket, descriptors: Sequence[int]) -> bool:
        """Request the start of a container. Does not block.

        Args:
            plan: the encoded plan.
            stream: receives its reports; the caller keeps and closes it.
            descriptors: with the indices from 1 in the plan; the caller keeps and closes them.

        Returns:
            False if the request was not sent: it is too large, too many wait, or the launcher has
            ended.
        """
        passed = array.array("i", [stream.fileno(), *descriptors])
        head = struct.pack("<I", len(passed))
        if self.ended is not None or len(head) + len(plan) > REQUEST_MAX:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
        try:
            self._socket.sendmsg([head, plan], rights)
        except OSError as failure:
            log.debug("The launcher takes no request: %s", failure)
            return False
        return True

    def end(self) -> ExitStatus:
        """Kill it, and return its exit status; idempotent.

        An init that it has cloned and not reported yet ends by itself.
        """
        if self.ended is None:
            os.kill(self.pid, signal.SIGKILL)
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self.ended = reap(self.pid)
            if not self.ready.done():
                self.ready.set_result(None)
        return self.ended

    def failed(self) -> ExitStatus:
        """Return the exit status of a launcher that has closed a stream without a report.

        It does so only when it ends.
        """
        if self.ended is None:
            ended = self.end()
            log.warning("The launcher ended with %s; the next start spawns another", ended)
        assert self.ended is not None
        return self.ended

    def _on_message(self) -> None:
        try:
            data = self._socket.recv(_REPORT_MAX)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data and _HEAD.unpack_from(data)[0] == Report.SERVING:
            if not self.ready.done():
                self.ready.set_result(None)
            return
        # It sends nothing else but the failure that ends it.
        self.failed()
