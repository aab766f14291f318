"""Input and output of an exec'ed process: messages between its request and its response."""

from __future__ import annotations

from typing import Annotated, Final

from northstar.api.shape import Body, MaxLength, Range, Record, Wrapper

DATA_MAX: Final = 16 * 1024
"""Most bytes of input or output in one message."""

Data = Annotated[bytes, MaxLength(DATA_MAX)]
Extent = Annotated[int, Range(0, 2**16 - 1)]


class TerminalSize(Body, frozen=True):
    """The size of a terminal, in characters.

    Attributes:
        rows: number of rows.
        columns: number of columns.
    """

    rows: Extent
    columns: Extent


class Stdin(Wrapper, frozen=True):
    """Input for the process; from the client.

    Attributes:
        data: the bytes.
    """

    data: Data


class StdinEnd(Record, frozen=True):
    """The end of its input; from the client."""


class Resize(Record, frozen=True):
    """The client's terminal has another size.

    Attributes:
        rows: number of rows.
        columns: number of columns.
    """

    rows: Extent
    columns: Extent


class Signal(Wrapper, frozen=True):
    """Send a signal to the process group; from the client.

    Attributes:
        number: the signal.
    """

    number: Annotated[int, Range(1, 31)]


class Stdout(Wrapper, frozen=True):
    """Output of the process; with a terminal all of it.

    Attributes:
        data: the bytes.
    """

    data: Data


class Stderr(Wrapper, frozen=True):
    """Output of the process on its standard error.

    Attributes:
        data: the bytes.
    """

    data: Data


ClientStream = Stdin | StdinEnd | Resize | Signal
"""The messages `stream` of a client."""

Stream = ClientStream | Stdout | Stderr
"""A message `stream`."""
