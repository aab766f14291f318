"""`io`: the destinations of the payload's standard output and standard error."""

import enum
from typing import Annotated

import msgspec

from northstar.schema.records import Field, Record
from northstar.schema.variants import Choice


class Output(enum.Enum):
    """A destination."""

    DISCARD = "discard"
    """/dev/null."""
    PIPE = "pipe"
    """A pipe whose lines the runtime logs."""
    INHERIT = "inherit"
    """The runtime's standard output or standard error."""


_OUTPUT = Choice(Output, "an output")


class Io(msgspec.Struct, frozen=True):
    """Destinations of standard output and standard error."""

    stdout: Annotated[
        Output,
        Field(
            _OUTPUT,
            "Destination of standard output: `discard` is /dev/null, `pipe` the runtime's log and "
            "`nstar logs`, `inherit` also the runtime's own standard output.",
            example="pipe",
        ),
    ]
    stderr: Annotated[
        Output, Field(_OUTPUT, "Destination of standard error, likewise.", example="pipe")
    ]


IO = Record(Io, form="{stdout: pipe, stderr: pipe}")
