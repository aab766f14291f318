"""Real processes of this machine with the interface of an exec'ed process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

from northstar.api.stream import TerminalSize
from northstar.model import Exited, ExitStatus, NorthstarError, Signalled


class LocalProcess:
    """A child of the test, the leader of a session.

    Attributes:
        signals: the signals that were sent to its group.
        closed: `close` has been called.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: bool,
        terminal: TerminalSize | None,
    ) -> None:
        self.signals: list[int] = []
        self.closed = False
        become_foreground = None
        if terminal is not None:
            become_foreground = functools.partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0)
            master, slave = os.openpty()
            ends = slave, slave, slave
            self.stdin = self.stdout = master
            self.stderr = -1
            self.resize(terminal.rows, terminal.columns)
        else:
            read_in, self.stdin = os.pipe()
            if not stdin:
                os.close(self.stdin)
                self.stdin = -1
            self.stdout, write_out = os.pipe()
            self.stderr, write_err = os.pipe()
            ends = read_in, write_out, write_err
        try:
            self._child = subprocess.Popen(
                command,
                stdin=ends[0],
                stdout=ends[1],
                stderr=ends[2],
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=become_foreground,
            )
        except OSError as error:
            self._close_all()
            reason = os.strerror(error.errno or errno.EIO)
            raise NorthstarError(f"cannot execute {command[0]}: {reason}") from None
        finally:
            for descriptor in set(ends):
                os.close(descriptor)
        for descriptor in self._descriptors():
            os.set_blocking(descriptor, False)
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[ExitStatus] = loop.create_future()
        self._pidfd = os.pidfd_open(self._child.pid)
        loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._child.wait()
        self.exited.set_result(Exited(code) if code >= 0 else Signalled(-code))

    def _descriptors(self) -> set[int]:
        return {self.stdin, self.stdout, self.stderr} - {-1}

    def _close_all(self) -> None:
        for descriptor in self._descriptors():
            os.close(descriptor)
        self.stdin = self.stdout = self.stderr = -1

    def signal(self, number: int) -> None:
        if not self.exited.done():
            self.signals.append(number)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    def resize(self, rows: int, columns: int) -> None:
        if self.stderr == -1:
            fcntl.ioctl(self.stdin, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def close_stdin(self) -> None:
        if self.stdin != self.stdout and self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    async def close(self) -> None:
        self.signal(signal.SIGKILL)
        await self.exited
        self._close_all()
        self.closed = True
