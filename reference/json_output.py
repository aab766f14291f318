"""docs/reference/json-output.md: the values of nstar's option --format json.

The page is made of the docstrings of northstar.cli.json_output, and of those of the protocol that
it refers to; nothing else describes the values.
"""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Iterator

import msgspec

from northstar.cli.json_output import OUTPUTS
from reference import markdown

_FIELD = re.compile(r"    (\w+): (.*(?:\n {5,}.*)*)")
_INTRODUCTION = """
With `--format json` these commands print JSON: one value, or one per line where the table says so.
Members may be added in later versions; those that exist keep their names and meanings. A member
without a value is null, never absent. Times end in `_ns` and are nanoseconds, sizes in `_bytes`.
`nstar --json` is something else: it prints the lines of the [protocol](../console.md).
"""


def pages() -> dict[str, str]:
    """Return the page by its path."""
    rows: list[tuple[str, str]] = []
    found: dict[type[msgspec.Struct], None] = {}
    for command, output in OUTPUTS.items():
        each = ", one per line" if output.stream else ""
        rows.append((f"`nstar {command}`", f"{name(output.type)}{each}"))
        collect(output.type, found)
    blocks = [markdown.paragraph(_INTRODUCTION), markdown.table(("command", "value"), rows)]
    for kind in found:
        blocks += section(kind)
    page = markdown.page("JSON output of nstar", "src/northstar/cli/json_output.py", blocks)
    return {"docs/reference/json-output.md": page}


def section(kind: type[msgspec.Struct]) -> list[str]:
    """Return the section of an object."""
    text, _, attributes = (inspect.getdoc(kind) or "").partition("\n\nAttributes:\n")
    fields = {field: " ".join(text.split()) for field, text in _FIELD.findall(attributes)}
    hints = typing.get_type_hints(kind)
    rows = [
        (f"`{encoded}`", name(hints[field]), markdown.text(fields[field]))
        for field, encoded in zip(
            kind.__struct_fields__, kind.__struct_encode_fields__, strict=True
        )
    ]
    return [
        markdown.heading(2, kind.__name__) + markdown.paragraph(text),
        markdown.table(("member", "type", "meaning"), rows),
    ]


def name(kind: typing.Any) -> str:
    """Return the name of a type in JSON, with a link to that of an object."""
    if is_object(kind):
        return markdown.link(kind.__name__)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return f"array of {name(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(name(one) for one in arguments)
    if origin is typing.Literal:
        return " or ".join(f'`"{one}"`' for one in arguments)
    if origin is typing.Annotated:
        return name(arguments[0])
    if origin is dict:
        return "object"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(kind, "null")


def is_object(kind: typing.Any) -> typing.TypeGuard[type[msgspec.Struct]]:
    """Return whether a type is described by a section."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def collect(kind: typing.Any, found: dict[type[msgspec.Struct], None]) -> None:
    """Add the objects of a type, each once, in the order of the page."""
    for part in objects(kind):
        if part not in found:
            found[part] = None
            for hint in typing.get_type_hints(part).values():
                collect(hint, found)


def objects(kind: typing.Any) -> Iterator[type[msgspec.Struct]]:
    """Yield the objects that a type names."""
    if is_object(kind):
        yield kind
    for argument in typing.get_args(kind):
        if not isinstance(argument, str | enum.Enum):
            yield from objects(argument)
