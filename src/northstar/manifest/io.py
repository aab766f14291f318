"""`io`: where the payload's standard output and standard error go."""

from __future__ import annotations

import enum

import msgspec

from northstar.manifest.kinds import Choice
from northstar.manifest.records import Record


class Output(enum.Enum):
    """A destination."""

    DISCARD = "discard"
    """/dev/null."""
    PIPE = "pipe"
    """A pipe whose lines the runtime logs."""
    INHERIT = "inherit"
    """The runtime's own."""


class Io(msgspec.Struct, frozen=True):
    """Destinations of standard output and standard error."""

    stdout: Output
    stderr: Output


_OUTPUT = Choice(Output, "an output")

IO = Record(Io, {"stdout": _OUTPUT, "stderr": _OUTPUT})
