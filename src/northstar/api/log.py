"""Output of containers: the messages that come before the response to a logs request."""

from __future__ import annotations

import enum
from typing import ClassVar

from northstar.api.shape import U64, Record
from northstar.model import Container


class LogStream(enum.Enum):
    """An output stream of a container.

    Attributes:
        STDOUT: its standard output.
        STDERR: its standard error.
    """

    STDOUT = "stdout"
    STDERR = "stderr"


class LogLine(Record, frozen=True):
    """A line of a container's output.

    Attributes:
        container: the container.
        run: number of the run, as in its status.
        time: when the line was read, in nanoseconds since 1970, by today's clock.
        stream: the stream that it was written to.
        text: the line without its end; bytes that are not UTF-8 are escaped.
        cursor: names the place behind this line: a request with it continues there.
    """

    TAG: ClassVar = "log"
    container: Container
    run: U64
    time: U64
    stream: LogStream
    text: str
    cursor: str


class LogLost(Record, frozen=True):
    """A gap in a container's output: it was overwritten before it was read.

    Attributes:
        container: the container.
        run: number of the run, as in its status.
        lost: number of bytes that are lost here.
    """

    TAG: ClassVar = "log"
    container: Container
    run: U64
    lost: U64


Log = LogLine | LogLost
"""A message `log`. Its member `lost` tells which one it is."""
