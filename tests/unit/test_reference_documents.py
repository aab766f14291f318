"""The pages of manifest and configuration: all fields, with examples that are accepted."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar import manifest
from northstar.manifest.manifest import MANIFEST
from northstar.runtime import config
from northstar.schema.records import Field, Record
from northstar.schema.scalars import Integer, Text
from reference import toml, yaml
from reference.documents import TOML, YAML
from reference.fields import Entry, Example, Language, Section, describe
from reference.octal import Octal
from tests import vectors
from tests.unit.schema.test_fields import records

DOCUMENTS: dict[str, tuple[Record[Any], Language, Callable[[], dict[str, Any]]]] = {
    "manifest": (MANIFEST, YAML, manifest.schema),
    "configuration": (config.CONFIG, TOML, config.schema),
}
SECTIONS = {name: describe(record, language) for name, (record, language, _) in DOCUMENTS.items()}
EXAMPLES = [
    pytest.param(name, example, id=f"{name}-{section.title}-{number}")
    for name, sections in SECTIONS.items()
    for section in sections
    for number, example in enumerate(section.examples)
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_an_example_is_accepted_as_it_is_printed(name: str, example: Example) -> None:
    """The text itself, after the fields of the base that it does not contain."""
    _, language, schema = DOCUMENTS[name]
    base = {key: value for key, value in language.base.items() if key not in example.value}
    text = (language.emit(base) if base else "") + example.text
    language.read(text)
    whole = {**language.base, **example.value}
    jsonschema.Draft202012Validator(schema()).validate(whole)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_schema_s_examples_fit_their_place(name: str) -> None:
    count = 0
    for part in parts(DOCUMENTS[name][2]()):
        for example in part.get("examples", ()):
            jsonschema.Draft202012Validator(part).validate(example)
            count += 1
    assert count > 25


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield all parts of a schema that are maps."""
    if isinstance(schema, dict):
        yield schema
        for key, part in schema.items():
            if key not in ("default", "examples"):
                yield from parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from parts(part)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_field_is_in_the_page_and_in_an_example(name: str) -> None:
    sections = SECTIONS[name]
    entries = [entry for section in sections for entry in section.entries]
    keys = {key for section in sections for one in section.examples for key in members(one.value)}
    for _, record in records(DOCUMENTS[name][0], "", set()):
        for key, field in record.fields.items():
            if field.name:
                found = [entry for entry in entries if entry.meaning == field.description]
                assert found, key
                assert all(entry.type and entry.since for entry in found)
                # A form's only field is written without its name.
                assert key in keys or {entry.name for entry in found} & keys, key


def members(value: Any) -> Iterator[str]:
    """Yield all keys of a value."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield key
            yield from members(member)
    elif isinstance(value, list):
        for member in value:
            yield from members(member)


def test_what_northstar_has_is_not_said_to_be_new() -> None:
    """All fields in the vectors of Northstar 0.9.2 are from there, and those with `since` not."""
    old = set[str]()
    for parameters in vectors.load("manifest"):
        (vector,) = parameters.values
        assert isinstance(vector, dict)
        old |= set(paths(vector.get("ok", {}), ""))
    assert "sched.policy.fifo.priority" in old
    for section in SECTIONS["manifest"]:
        for entry in section.entries:
            path = f"{section.title}.{entry.name}".lstrip(".")
            if entry.since != "0.9.2" and path not in ("cgroups.pids", "cgroups.pids.max"):
                assert path not in old


def paths(value: Any, before: str) -> Iterator[str]:
    """Yield the paths of all members of maps."""
    if isinstance(value, dict):
        for key, member in value.items():
            path = f"{before}.{key}".lstrip(".")
            yield path
            yield from paths(member, path)


def test_a_refused_example_is_an_error() -> None:
    def made(field: Field) -> list[Section]:
        record: Record[Any] = Record(dict, {"name": field})
        field.name = "name"
        return describe(record, Language("yaml", {}, yaml.emit, manifest.loads))

    with pytest.raises(ValueError, match="has no example"):
        made(Field(Text(), "A name."))
    with pytest.raises(ValueError, match="version"):
        made(Field(Text(), "A name.", example="a"))


def test_types_in_words() -> None:
    entries: dict[str, Entry] = {
        f"{section.title}.{entry.name}": entry
        for section in (*SECTIONS["manifest"], *SECTIONS["configuration"])
        for entry in section.entries
    }
    assert entries[".args"].type == "list of texts (at most 4096), each at most 131072 bytes"
    assert entries[".uid"].type == "integer, 1 to 65535; unit: user id"
    assert entries["service.after"].type == "list of container names (at most 64, each once)"
    assert entries["service.log.size"].default == "`256KiB`"
    assert entries["console.global.mode"].default == "`0o600`"
    assert entries["cgroups.memory.memory_hard_limit"].type == (
        "integer; unit: bytes, -1 for no limit"
    )
    assert entries["cgroups.pids.max"].since == entries["service.stop.timeout"].since == "0.1.0"
    assert entries["service.restart.policy"].default == "required"


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_toml_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    assert tomllib.loads(toml.emit(value)) == value


def test_the_forms_of_toml_and_yaml() -> None:
    value = {"a": {"b": {"c": {"d": Octal(0o660)}, "e": [True, "x y"]}}, "f": -1}
    assert toml.emit(value) == ('f = -1\n\n[a.b]\nc = { d = 0o660 }\ne = [true, "x y"]\n')
    assert yaml.emit(value) == ("a:\n  b:\n    c: {d: 0o660}\n    e: [true, x y]\nf: -1\n")
    assert re.match("a: 0o644$", yaml.emit({"a": Octal(0o644)}))


def test_an_integer_without_bounds() -> None:
    record: Record[Any] = Record(dict, {"n": Field(Integer(0, 2**64 - 1), "A number.", example=1)})
    record.fields["n"].name = "n"
    (section,) = describe(record, Language("toml", {}, toml.emit, str))
    assert section.entries[0].type == "integer, not negative"
