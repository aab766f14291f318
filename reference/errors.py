"""docs/reference/errors.md: the errors with which the runtime refuses a request.

The texts are the docstrings of northstar.api.error.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from northstar.api import Error
from northstar.api.description import describe
from northstar.api.shape import tag_of
from northstar.api.writer import plain, variant_writer
from reference import markdown, wire
from reference.blocks import (
    SECTION,
    Block,
    Code,
    Terms,
    Text,
    Title,
    markdown_blocks,
)
from reference.examples import ERRORS

_INTRODUCTION = """
An error is the value of the member `error` in a response of the [protocol](protocol.md), such as
`{"response":{"kill":{"error":{"container":"hello:1.0.0","error":ERROR}}}}`. It is an object with
the name of the error as its only member. Before an error the runtime has undone what the request
had begun.

A request without its [permission](permissions.md) has another answer, and a message that is not
valid has none: the connection is closed.
"""


def pages() -> dict[str, str]:
    """Return the page by its path."""
    page = markdown.page(
        "Errors of the console",
        "src/northstar/api/error.py",
        markdown_blocks((Text(_INTRODUCTION.strip()), *blocks())),
    )
    return {"docs/reference/errors.md": page}


def blocks() -> Iterator[Block]:
    """Yield a section for each error."""
    for error in ERRORS:
        yield Title(SECTION, tag_of(type(error)))
        yield Text(describe(type(error)).text)
        yield Terms(wire.HEAD, wire.members(type(error)))
        yield Code(encoded(error), "json")
        yield Text(f"As a sentence: {sentence(error)}")


def encoded(error: Error) -> str:
    """Return an error as it is encoded."""
    return msgspec.json.encode(variant_writer(type(error))(error), enc_hook=plain).decode()


def sentence(error: Error) -> str:
    """Return the sentence of an error, as code."""
    return f"`{error}`"


def rows() -> tuple[tuple[str, str], ...]:
    """Return each error with its text, for the manual page."""
    return tuple((tag_of(type(error)), describe(type(error)).text) for error in ERRORS)
