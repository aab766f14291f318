"""Every field of every document and its schema have a description, a unit and a default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest

from northstar import __version__
from northstar.manifest.load import ManifestContext
from northstar.manifest.manifest import MANIFEST
from northstar.model import ManifestError, Version
from northstar.runtime.config import CONFIG
from northstar.schema.documents import node_of
from northstar.schema.records import Field, Lazy, ListOf, MapOf, Record
from northstar.schema.scalars import Boolean, Integer, Kind, Text
from northstar.schema.values import Duration, FileMode, Nanoseconds, Size, WholeSize
from northstar.schema.variants import Wrapped

NUMBERS = Integer | Duration | FileMode | Nanoseconds | Size | WholeSize


def records(kind: Kind[Any], name: str, seen: set[int]) -> Iterator[tuple[str, Record[Any]]]:
    """Yield all records inside a kind, each once, with the name of its struct."""
    if id(kind) in seen:
        return
    seen.add(id(kind))
    if isinstance(kind, Record):
        yield getattr(kind.struct, "__name__", name), kind
    for part in kind.parts:
        yield from records(part, name, seen)


RECORDS = [*records(MANIFEST, "manifest", set()), *records(CONFIG, "configuration", set())]
FIELDS = [
    pytest.param(field, id=f"{name}.{key}")
    for name, record in RECORDS
    for key, field in record.fields.items()
    if field.name
]


def test_all_are_found() -> None:
    names = {name for name, _ in RECORDS}
    assert {"Manifest", "Tmpfs", "SyscallArgs", "ThrottleDevice", "SchedFifo"} <= names
    assert {"Config", "GlobalConsole", "ConsoleOptions", "RepositoryConfig"} <= names
    assert len(FIELDS) > 90


@pytest.mark.parametrize("field", FIELDS)
def test_description(field: Field) -> None:
    assert field.description[0].isupper() or field.description.startswith("`")
    assert field.description.endswith(".")
    assert field.schema()["description"].startswith(field.description)


@pytest.mark.parametrize("field", FIELDS)
def test_unit(field: Field) -> None:
    kind = field.kind.parts[0] if isinstance(field.kind, ListOf) else field.kind
    assert bool(field.unit) == isinstance(kind, NUMBERS)
    if field.unit:
        assert f"Unit: {field.unit}." in field.schema()["description"]


@pytest.mark.parametrize("field", FIELDS)
def test_default(field: Field) -> None:
    schema = field.schema()
    if field.required:
        assert "default" not in schema
        assert not field.absent
    elif field.default is None:
        # The default null has no meaning: the description has the behaviour without the field.
        assert schema["default"] is None
        assert schema["description"].endswith(f"Default: {field.absent}.")
        assert field.absent
    else:
        context = ManifestContext()
        node = node_of(schema["default"], context)
        assert field.kind.read(node, (), context) == field.default
        assert not field.absent


@pytest.mark.parametrize("field", FIELDS)
def test_example(field: Field) -> None:
    kind = field.kind.kind if isinstance(field.kind, Lazy) else field.kind
    if isinstance(kind, Record) and not isinstance(kind, Wrapped):
        assert field.example is None  # its fields have them
        return
    context = ManifestContext()
    kind.read(node_of(field.example, context), (), context)
    schema = field.schema()
    assert schema["examples"] == [field.example]
    jsonschema.Draft202012Validator(schema).validate(field.example)


@pytest.mark.parametrize("field", FIELDS)
def test_since(field: Field) -> None:
    if field.since:
        assert f"Not in Northstar 0.9.2; since {field.since}." in field.schema()["description"]
        assert Version.parse("0.1.0") <= Version.parse(field.since) <= Version.parse(__version__)


def test_what_a_field_needs_is_a_field_beside_it() -> None:
    for _, record in RECORDS:
        for field in record.fields.values():
            assert {*field.needs} <= record.fields.keys()


@pytest.mark.parametrize(("name", "record"), RECORDS, ids=[name for name, _ in RECORDS])
def test_a_record_is_described(name: str, record: Record[Any]) -> None:
    schema = record.schema()
    if record.struct is dict:
        assert "description" not in schema
    else:
        assert schema["description"].partition("\n")[0].endswith(".")
        # Not a docstring that is generated from the signature.
        assert not schema["description"].startswith(f"{name}(")
    if not isinstance(record, Wrapped):
        assert [*schema["properties"]] == [*record.fields]


class Point(msgspec.Struct, frozen=True):
    """A point."""

    x: Annotated[int, Field(Integer(0, 9, unit="pixels"), "From the left.")]
    y: Annotated[int, Field(Integer(0, 9, unit="pixels"), "From the top.", key="axis.y")] = 1
    shown: Annotated[bool, Field(Boolean(), "Whether it is drawn.", key="axis.shown")] = True
    note: str = ""


POINT = Record(Point, other=("note",))


def read(kind: Kind[Any], value: object) -> Any:
    context = ManifestContext()
    return context.value(kind, lambda: node_of(value, context))


def test_a_dotted_key_is_a_field_of_a_map() -> None:
    assert read(POINT, {"x": 2}) == Point(2)
    assert read(POINT, {"x": 2, "axis": {}}) == Point(2)
    assert read(POINT, {"x": 2, "axis": {"y": 3, "shown": False}}) == Point(2, 3, shown=False)
    assert POINT.dump(Point(2), tagged=False) == {"x": 2}
    assert POINT.dump(Point(2, 3), tagged=False) == {"x": 2, "axis": {"y": 3}}
    with pytest.raises(ManifestError, match=r"^axis\.y: 10 is out of range \(0 to 9\)"):
        read(POINT, {"x": 2, "axis": {"y": 10}})
    with pytest.raises(ManifestError, match=r"^axis\.z: no such field"):
        read(POINT, {"x": 2, "axis": {"z": 1}})
    with pytest.raises(ManifestError, match=r"^note: no such field"):
        read(POINT, {"x": 2, "note": "a"})


def test_a_record_refuses_a_struct_with_an_undescribed_field() -> None:
    with pytest.raises(TypeError, match=r"^Point\.note has no Field in its annotation"):
        Record(Point)


def test_bounds_on_the_number_of_entries() -> None:
    items = ListOf(tuple, Text(), max_entries=2)
    assert read(items, ["a", "b"]) == ("a", "b")
    with pytest.raises(ManifestError, match=r"^3 items are too many \(at most 2\); remove some"):
        read(items, ["a", "b", "c"])
    assert items.schema()["maxItems"] == 2
    entries = MapOf(Text(), Text(), max_entries=1)
    assert read(entries, {"a": "b"}) == {"a": "b"}
    with pytest.raises(ManifestError, match=r"^2 entries are too many \(at most 1\); remove some"):
        read(entries, {"a": "b", "c": "d"})
    assert entries.schema()["maxProperties"] == 1


def test_a_list_that_is_too_long_is_refused_before_its_items_are_read() -> None:
    context = ManifestContext(collect=True)
    items = ListOf(tuple, Integer(0, 1), max_entries=2)
    assert context.read(items, lambda: node_of(["x"] * 1000, context)) is None
    assert len(context.errors) == 1
