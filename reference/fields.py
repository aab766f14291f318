"""The fields of a document, as the reference and the manual pages show them.

`describe` returns the sections of a document: its records (`northstar.schema`), in their order,
each with its fields and with examples that the document's reader has accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from northstar.model import NorthstarError
from northstar.model.units import format_size
from northstar.schema.records import Field, Lazy, ListOf, MapOf, Record
from northstar.schema.scalars import I64, U32, U64, Kind
from northstar.schema.values import WholeSize
from northstar.schema.variants import ByType, Choice, Variant, Wrapped
from reference.octal import Octal

BASE: Final = "0.9.2"
"""The version since which a field exists that says nothing else: that of Northstar itself."""

_NAMES_MAX: Final = 20
"""Most names that the type of a field lists; more have a section."""

_LARGE: Final = (U32, U64, I64)
"""Maxima of numbers that say nothing to a reader."""


@dataclass(frozen=True)
class Entry:
    """A field, or one of the forms of a field. All texts are plain, with code in backquotes.

    Attributes:
        name: its name in its section, such as `restart` or `logs.kept`.
        type: its type, with its range and, if it is a number, its unit.
        default: its default, or what happens without it.
        since: the first version that has it.
        meaning: its meaning.
        section: the title of the section that describes what it contains; empty if none does.
    """

    name: str
    type: str
    default: str
    since: str
    meaning: str
    section: str = ""


@dataclass(frozen=True)
class Example:
    """An example.

    Attributes:
        value: the part of a document, as builtins.
        text: the same in the document's language.
    """

    value: dict[str, Any]
    text: str


@dataclass(frozen=True)
class Section:
    """A record, or the forms of a field.

    Attributes:
        title: its path, such as `service.restart`; empty for the document itself.
        text: what it is.
        entries: its fields.
        examples: together they contain each field that has no section.
    """

    title: str
    text: str
    entries: tuple[Entry, ...]
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Language:
    """How a document is written and read.

    Attributes:
        name: its name for a highlighter of code.
        base: a document that is valid, to which examples are added.
        emit: returns the text of a document.
        read: reads a text, or raises NorthstarError.
    """

    name: str
    base: Mapping[str, Any]
    emit: Callable[[dict[str, Any]], str]
    read: Callable[[str], object]

    def refuses(self, value: Mapping[str, Any]) -> str:
        """Return the error that the reader finds in the base with `value`; empty if none."""
        try:
            self.read(self.emit({**self.base, **value}))
        except NorthstarError as error:
            return str(error)
        return ""


Wrap = Callable[[Any], dict[str, Any]]
"""Returns the part of a document that has a value at a certain place."""


def describe(record: Record[Any], language: Language) -> list[Section]:
    """Return the sections of a document.

    Raises:
        ValueError: a field has no example, or the reader refuses it.
    """
    walk = _Walk(language)
    walk.record("", record, BASE, dict, "", top=True)
    return walk.sections


def fields_of(record: Record[Any]) -> Iterator[tuple[tuple[str, ...], Field]]:
    """Yield the fields with their keys: two keys for a field of a map that has no struct."""
    for key, field in record.fields.items():
        if field.name:
            yield (key,), field
        else:
            inner = field.kind
            assert isinstance(inner, Record)
            for keys, below in fields_of(inner):
                yield (key, *keys), below


def kind_of(field: Field) -> Kind[Any]:
    """Return the kind of a field, made if it is not made yet."""
    return field.kind.kind if isinstance(field.kind, Lazy) else field.kind


def shown(value: Any, kind: Kind[Any], unit: str = "") -> Any:
    """Return a value in which file modes are octal."""
    if isinstance(value, int) and unit == "file mode":
        return Octal(value)
    if isinstance(value, dict) and isinstance(kind, MapOf):
        return {key: shown(member, kind.parts[1]) for key, member in value.items()}
    if isinstance(value, dict) and isinstance(kind, Record):
        fields = kind.fields
        return {
            key: shown(member, kind_of(fields[key]), fields[key].unit) if key in fields else member
            for key, member in value.items()
        }
    return value


class _Walk:
    def __init__(self, language: Language) -> None:
        self._language = language
        self._titles: dict[int, str] = {}
        self.sections: list[Section] = []

    def record(
        self,
        title: str,
        record: Record[Any],
        since: str,
        wrap: Wrap,
        text: str,
        *,
        top: bool = False,
    ) -> None:
        """Add the section of a record, and those below it."""
        if id(record) in self._titles:
            return
        self._titles[id(record)] = title
        place = len(self.sections)
        entries: list[Entry] = []
        leaves: list[tuple[str, ...]] = []
        for keys, field in fields_of(record):
            # The top level's required fields are in the base.
            siblings = {} if top else _required(record, keys, field.needs)

            def inside(value: Any, keys: tuple[str, ...] = keys, other: Any = siblings) -> Any:
                return wrap(_put(dict(other), keys, value))

            name = ".".join(keys)
            path = f"{title}.{name}" if title else name
            own_since = field.since or since
            section = self._below(path, field, own_since, inside)
            entries.append(
                Entry(
                    name,
                    _type(field, kind_of(field)),
                    _default(field),
                    own_since,
                    field.description,
                    section,
                )
            )
            if not isinstance(kind_of(field), Record) or isinstance(kind_of(field), Wrapped):
                leaves.append(keys)
        examples = tuple(self._examples(title, record, leaves, wrap))
        self.sections.insert(
            place, Section(title, text or record.describe(), tuple(entries), examples)
        )

    def _below(self, path: str, field: Field, since: str, wrap: Wrap) -> str:
        """Add the sections of what a field contains. Return the title of the first, if any."""
        kind = kind_of(field)
        if isinstance(kind, Record):
            self.record(path, kind, since, wrap, "")
            return self._titles[id(kind)]
        if isinstance(kind, MapOf):
            value = kind.parts[1]
            key = next(iter(field.example), "") if field.example else ""
            if not field.entry:
                return ""
            title = f"{path}.{field.entry}"
            if isinstance(value, ByType):
                self._by_type(title, value, since, wrap, key)
                return title
            return self._contents(title, value, since, lambda one: wrap({key: one}))
        if isinstance(kind, ListOf):
            item = kind.parts[0]
            if isinstance(item, Record):
                return self._contents(f"{path}.{field.entry}", item, since, lambda one: wrap([one]))
            names = item.schema().get("enum", ())
            if len(names) > _NAMES_MAX:
                listed = ", ".join(f"`{name}`" for name in names)
                self.sections.append(Section(path, f"One of these names: {listed}.", ()))
                return path
            return ""
        return self._contents(path, kind, since, wrap)

    def _contents(self, title: str, kind: Kind[Any], since: str, wrap: Wrap) -> str:
        """Add the sections of a kind that is not that of a field itself."""
        if isinstance(kind, Record):
            self.record(title, kind, since, wrap, "")
            return self._titles[id(kind)]
        if isinstance(kind, Variant) and not isinstance(kind, Choice):
            self._forms(title, kind, since, wrap)
            return title
        return ""

    def _by_type(self, title: str, kind: ByType[Any], since: str, wrap: Wrap, key: str) -> None:
        """Add the sections of the entries of a map; `key` is that of an example."""
        place = len(self.sections)
        entries: list[Entry] = []
        plain = {
            f"/{name}": {kind.TAG: name} for name, form in kind.forms.items() if not form.fields
        }
        for name, form in kind.forms.items():

            def typed(value: Any, name: str = name) -> dict[str, Any]:
                return wrap({key: {kind.TAG: name, **value}})

            section = f"{title}: {name}" if form.fields else ""
            if section:
                self.record(section, form, since, typed, "")
            entries.append(Entry(f"{kind.TAG}: {name}", "map", "", since, form.describe(), section))
        text = f"A map whose field `{kind.TAG}` is one of these."
        examples = (self._example(title, wrap(plain)),)
        self.sections.insert(place, Section(title, text, tuple(entries), examples))

    def _forms(self, title: str, kind: Variant[Any], since: str, wrap: Wrap) -> None:
        entries: list[Entry] = []
        examples: list[Example] = []
        for name, form in kind.forms.items():
            if isinstance(form, Wrapped):
                (field,) = form.fields.values()
                entries.append(
                    Entry(name, _type(field, kind_of(field)), "", since, field.description)
                )
                examples.append(self._example(title, wrap({name: field.example})))
                continue
            if not isinstance(form, Record) or not form.fields:
                described = form if isinstance(form, Record) else Record(type(form))
                entries.append(Entry(name, "the name alone", "", since, described.describe()))
                examples.append(self._example(title, wrap(name)))
                continue
            entries.append(Entry(name, "map", "", since, form.describe()))
            for keys, field in fields_of(form):
                inner = f"{name}.{'.'.join(keys)}"
                entries.append(
                    Entry(
                        inner,
                        _type(field, kind_of(field)),
                        _default(field),
                        field.since or since,
                        field.description,
                    )
                )
            leaves = [keys for keys, _ in fields_of(form)]

            def named(value: Any, name: str = name) -> dict[str, Any]:
                return wrap({name: value})

            examples += self._examples(title, form, leaves, named)
        self.sections.append(Section(title, "One of these forms.", tuple(entries), tuple(examples)))

    def _examples(
        self, title: str, record: Record[Any], leaves: list[tuple[str, ...]], wrap: Wrap
    ) -> Iterator[Example]:
        """Yield examples that together have all fields without a section.

        Fields that exclude each other are in different examples.
        """
        fields = dict(fields_of(record))
        left = [keys for keys in leaves if not fields[keys].required]
        required = _required(record)
        if not left and required:
            yield self._example(title, wrap(required))
        while left:
            value, postponed = required, []
            for keys in left:
                more = value
                for name in (*((one,) for one in fields[keys].needs), keys):
                    more = _put(more, name, _example_of(title, name, fields[name]))
                if self._language.refuses(wrap(more)):
                    postponed.append(keys)
                else:
                    value = more
            if postponed == left:
                text = self._language.emit(wrap(more))
                raise ValueError(f"{title}: {self._language.refuses(wrap(more))}:\n{text}")
            yield self._example(title, wrap(_ordered(value, [*fields])))
            left = postponed

    def _example(self, title: str, value: dict[str, Any]) -> Example:
        text = self._language.emit(value)
        if error := self._language.refuses(value):
            raise ValueError(f"{title}: {error}:\n{text}")
        return Example(value, text)


def _example_of(title: str, keys: tuple[str, ...], field: Field) -> Any:
    if field.example is None:
        raise ValueError(f"{title}.{'.'.join(keys)} has no example")
    return shown(field.example, kind_of(field), field.unit)


def _required(
    record: Record[Any], without: tuple[str, ...] = (), needed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the examples of the required fields, without that of one field, and of others."""
    return {
        keys[0]: _example_of("", keys, field)
        for keys, field in fields_of(record)
        if keys != without and (field.required or keys[0] in needed)
    }


def _put(value: dict[str, Any], keys: tuple[str, ...], member: Any) -> dict[str, Any]:
    """Return a map with one more member, at one key or in a map below."""
    first, *rest = keys
    if rest:
        member = _put(value.get(first, {}), tuple(rest), member)
    return {**value, first: member}


def _ordered(value: dict[str, Any], keys: list[tuple[str, ...]]) -> dict[str, Any]:
    names = list(dict.fromkeys(key[0] for key in keys))
    return {name: value[name] for name in names if name in value}


def _default(field: Field) -> str:
    if field.required:
        return "required"
    if field.default is None:
        return field.absent
    if isinstance(kind_of(field), Record):
        return "the defaults of its fields"
    if isinstance(field.kind, WholeSize):
        return f"`{format_size(field.default)}`"
    value = shown(field.kind.dump(field.default, tagged=False), field.kind, field.unit)
    if value in ([], {}, ""):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, str) else f"`{value!r}`"


def _type(field: Field, kind: Kind[Any]) -> str:
    schema = kind.schema()
    text = _of_schema(schema)
    unit = field.unit
    # A text with a unit says so itself.
    if unit and schema.get("type") != "string" and "title" not in schema:
        item = schema.get("items", schema)
        text += "" if "title" in item else f"; unit: {unit}"
    return text


def _of_schema(schema: Mapping[str, Any]) -> str:
    """Return the type of a value in words."""
    if "title" in schema:
        return str(schema["title"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return _names(schema["enum"])
    for key in ("oneOf", "anyOf"):
        if key in schema:
            forms = dict.fromkeys(_of_schema(form) for form in schema[key])
            return "map" if forms.keys() == {"map"} else ", or ".join(forms)
    match schema.get("type"):
        case "integer":
            return f"integer{_range(schema)}"
        case "string":
            most = f", at most {schema['maxLength']} bytes" if "maxLength" in schema else ""
            return f"text{most}"
        case "boolean":
            return "`true` or `false`"
        case "array":
            most = f"at most {schema['maxItems']}" if "maxItems" in schema else ""
            unique = "each once" if schema.get("uniqueItems") else ""
            bounds = ", ".join(filter(None, (most, unique)))
            return _many("list", _of_schema(schema["items"]), bounds)
        case "object":
            most = f"at most {schema['maxProperties']}" if "maxProperties" in schema else ""
            values = schema.get("additionalProperties")
            if isinstance(values, Mapping):
                return _many("map", _of_schema(values), most)
            return "map"
    return "any value"


def _many(what: str, item: str, bounds: str) -> str:
    """Return the type of a list or a map of `item`: `list of texts (at most 64), each ..`."""
    name, comma, rest = item.partition(", ")
    plurals = {name: f"{name}s" for name in ("text", "integer", "map", "container name")}
    if name not in plurals:
        plurals, name, comma = {item: item}, item, ""
    bounds = f" ({bounds})" if bounds else ""
    return f"{what} of {plurals[name]}{bounds}{f', each {rest}' if comma else ''}"


def _names(names: list[str]) -> str:
    if len(names) > _NAMES_MAX:
        return f"{len(names)} names"
    *before, last = (f"`{name}`" for name in names)
    return f"{', '.join(before)} or {last}" if before else last


def _range(schema: Mapping[str, Any]) -> str:
    least, most = schema["minimum"], schema["maximum"]
    if least == -I64 - 1:
        return ""
    if most in _LARGE:
        return f", at least {least}" if least else ", not negative"
    return f", {least} to {most}"
