"""Kinds of maps and lists: records with known fields, maps whose keys are data, and lists.

A field is one attribute of a struct: its type, kind, description and default.

    class Tmpfs(msgspec.Struct, frozen=True):
        size: Annotated[int, Field(Size(), "Size of the file system; 0 is no limit.")]

A module with such structs must not have `from __future__ import annotations`: it would turn each
annotation into a text, which is then compiled again when the record is created (see `Lazy`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterable
from collections.abc import Mapping as AbstractMapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import structs

from northstar.model import NorthstarError
from northstar.schema.context import Context, NotedError, Path
from northstar.schema.node import Mapping, Node, Scalar, Sequence, is_empty, is_null
from northstar.schema.scalars import CORE, Kind, text_of

T = TypeVar("T")
K = TypeVar("K")
S = TypeVar("S")
C = TypeVar("C", bound=Collection[Any])


_KNOWN_MAX: Final = 12
"""Most fields that a message lists."""


class Field:
    """Describes a field of a document, in the `Annotated` of an attribute of a struct.

    Attributes:
        kind: how it is read and written.
        description: its meaning, in full sentences.
        absent: the behaviour without the field, if its default is None.
        example: a value in the serialised form; None for a map whose fields have examples.
        since: the first version that has it, if that is not Northstar 0.9.2.
        needs: other fields of the map that it, or one of its forms, requires.
        entry: the name of an entry in descriptions, if it is a list of maps, or a map whose keys
            are data.
        unit: unit of its numbers; empty if it is not a number.
        key: its name in the document, if it differs from the attribute's. `a.b` is `b` in the map
            `a`, which has no struct.
        always: whether the serialised form contains it even if it has its default.
        name: in a record, the attribute of the struct; empty for a map without a struct.
        required: in a record, whether the struct has no default for it.
        default: in a record, its value if the document does not have it.
        nullable: in a record, whether null means that the field is absent.
    """

    name = ""
    required = False
    default: Any = None
    nullable = False

    def __init__(
        self,
        kind: Kind[Any],
        description: str,
        absent: str = "",
        *,
        unit: str = "",
        key: str = "",
        always: bool = False,
        example: Any = None,
        since: str = "",
        needs: tuple[str, ...] = (),
        entry: str = "",
    ) -> None:
        self.kind = kind
        self.description = description
        self.absent = absent
        self.unit = unit or kind.unit
        self.key = key
        self.always = always
        self.example = example
        self.since = since
        self.needs = needs
        self.entry = entry

    def of(self, info: structs.FieldInfo, *, nulls: bool) -> Field:
        """Return this field with the name and the default of an attribute."""
        field = copy.copy(self)
        field.name = info.name
        field.required = info.required
        if not info.required:
            made = info.default_factory
            field.default = info.default if made is msgspec.NODEFAULT else made()
            field.nullable = nulls and field.default is None
        field.always = field.always or info.required
        return field

    def schema(self) -> dict[str, Any]:
        """Return the schema of the field with description, default and example."""
        schema = self.kind.schema()
        if self.nullable and schema:
            schema = {"anyOf": [schema, {"type": "null"}]}
        if self.description:
            unit = f"Unit: {self.unit}." if self.unit else ""
            absent = f"Default: {self.absent}." if self.absent else ""
            since = f"Not in Northstar 0.9.2; since {self.since}." if self.since else ""
            parts = (self.description, since, unit, absent)
            schema["description"] = " ".join(filter(None, parts))
        if self.example is not None:
            schema["examples"] = [self.example]
        if self.name and not self.required:
            value = self.default
            schema["default"] = None if value is None else self.kind.dump(value, tagged=False)
        return schema


Check = Callable[[dict[Any, Any], dict[str, Node], Path, Context[Any]], None]
"""A rule across the members of a map. Arguments: the valid values, all nodes, path, context."""


class Record(Kind[S]):
    """A map with known fields.

    Attributes:
        struct: the class of the values.
        fields: by their keys, in the order in which they are written.
    """

    def __init__(
        self,
        struct: Callable[..., S],
        fields: dict[str, Field] | None = None,
        *,
        ignore_unknown: bool = False,
        check: Check | None = None,
        rules: Callable[[], dict[str, Any]] = dict,
        tag: str | None = None,
        nulls: bool = True,
        other: tuple[str, ...] = (),
        form: str = "",
    ) -> None:
        """Describe a record.

        A field is required if its attribute has no default; it may be null if its default is None.
        The serialised form does not contain fields with their default.

        Args:
            struct: the class of the values; each attribute has a `Field` in its annotation.
            fields: the fields, if `struct` is not a struct.
            ignore_unknown: unknown fields are a warning, not an error.
            check: the rule across the fields.
            rules: returns the same rule as keywords of the JSON Schema.
            tag: an additional field, which selected this record among several.
            nulls: whether the language has a null (TOML has none).
            other: attributes of the struct that are not fields of the document.
            form: an example, for errors about a value that is not a map.
        """
        self.struct = struct
        self._example = form
        self.fields = _fields(struct, other, nulls=nulls) if fields is None else fields
        self._ignore = ignore_unknown
        self._check = check
        self._rules = rules
        self._tag = tag
        self._required = tuple(key for key, field in self.fields.items() if field.required)
        self._sections = tuple(key for key, field in self.fields.items() if not field.name)
        self.parts = tuple(field.kind for field in self.fields.values())
        # Prepared once, because the manifests of all packages are read at each boot.
        self._readers = {
            key: (field.name or key, field.kind.read, field.nullable)
            for key, field in self.fields.items()
        }
        self._writers = [
            (key, field.name, field.kind.dump, field.always, field.nullable, field.default)
            for key, field in self.fields.items()
        ]

    def read(self, node: Node, path: Path, context: Context[Any]) -> S:
        """Return the record."""
        before = len(context.errors)
        values: dict[str, Any] = {}
        nodes: dict[str, Node] = {}
        readers = self._readers
        for key_node, value in pairs_of(node, path, context, lambda: self.form):
            key = key_node.text if type(key_node) is Scalar else text_of(key_node, path, context)
            if key in nodes:
                rule, hint = "the field is given twice", "remove one of both"
                error = context.invalid(key_node, (*path, key), rule, hint=hint)
                context.refuse(error)
                continue
            nodes[key] = value
            if key not in readers:
                if key != self._tag:
                    self._unknown(key_node, (*path, key), context)
                continue
            name, read, nullable = readers[key]
            if nullable and is_null(value):
                continue
            try:
                values[name] = read(value, (*path, key), context)
            except NorthstarError as error:
                context.refuse(error)
        for key in self._required:
            if key not in nodes:
                rule = context.words.missing
                context.refuse(context.invalid(node, (*path, key), rule, hint="add it"))
        if self._check is not None:
            self._check(values, nodes, path, context)
        if len(context.errors) > before:
            raise NotedError
        for key in self._sections:
            values.update(values.pop(key, ()))
        return self.struct(**values)

    @property
    def form(self) -> str:
        """An example of the map, for messages; without one what follows from its fields."""
        if self._example:
            return self._example
        keys = self._required or tuple(self.fields)[:1]
        return f"{{{', '.join(f'{key}: ..' for key in keys)}}}"

    def _unknown(self, key: Node, path: Path, context: Context[Any]) -> None:
        if self._ignore and not context.refuses_ignored(path):
            context.ignore(key, path)
            return
        from northstar.model.similar import similar

        hint = "remove it"
        if found := similar(path[-1], self.fields):
            hint = f"did you mean {found!r}?"
        elif 0 < len(self.fields) <= _KNOWN_MAX:
            hint = f"known are {', '.join(self.fields)}"
        context.refuse(context.invalid(key, path, context.words.unknown, hint=hint))

    def dump(self, value: S, *, tagged: bool) -> Any:
        """Return the fields, without those that have their default."""
        result: dict[str, Any] = {}
        for key, name, dump, always, nullable, default in self._writers:
            if not name:
                if section := dump(value, tagged=tagged):
                    result[key] = section
                continue
            member = getattr(value, name)
            if always:
                # None is null in an optional field; in other fields it is a value of the kind.
                null = nullable and member is None
                result[key] = None if null else dump(member, tagged=tagged)
            elif member != default:
                result[key] = dump(member, tagged=tagged)
        return result

    def schema(self) -> dict[str, Any]:
        """Return the schema of the record."""
        schema: dict[str, Any] = {"type": "object"}
        if text := self.describe():
            schema["description"] = text
        schema["properties"] = {key: field.schema() for key, field in self.fields.items()}
        if self._required:
            schema["required"] = list(self._required)
        if not self._ignore:
            schema["additionalProperties"] = False
        return schema | self._rules()

    def describe(self) -> str:
        """Return what the record is: the docstring of its struct, without the attributes."""
        if self.struct is dict:
            return ""
        # Its import takes longer than reading a manifest, and only generators need descriptions.
        import inspect

        text, _, _ = (inspect.getdoc(self.struct) or "").partition("\n\nAttributes:\n")
        return " ".join(text.split())


class Lazy(Kind[T]):
    """A kind that is made when it is first used: that of a section that few documents have.

    A module whose records are all made this way may have annotations as texts: they are compiled
    with the records, and cost nothing before.
    """

    def __init__(self, make: Callable[[], Kind[T]]) -> None:
        """Describe the kind that `make` returns."""
        self._make = make

    @functools.cached_property
    def kind(self) -> Kind[T]:
        """The kind."""
        return self._make()

    @property
    def parts(self) -> tuple[Kind[Any], ...]:  # type: ignore[override] # an attribute elsewhere
        """The kind."""
        return (self.kind,)

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the value."""
        return self.kind.read(node, path, context)

    def dump(self, value: T, *, tagged: bool) -> Any:
        """Return the value as builtins."""
        return self.kind.dump(value, tagged=tagged)

    def schema(self) -> dict[str, Any]:
        """Return the schema of the value."""
        return self.kind.schema()


def _fields(struct: Any, other: tuple[str, ...], *, nulls: bool) -> dict[str, Field]:
    """Return the fields of a struct by their keys. The fields `a.b`, `a.c` become one field `a`."""
    fields: dict[str, Field] = {}
    sections: dict[str, dict[str, Field]] = {}
    for info in structs.fields(struct):
        if info.name not in other:
            described = getattr(info.type, "__metadata__", (None,))[0]
            if not isinstance(described, Field):
                raise TypeError(f"{struct.__name__}.{info.name} has no Field in its annotation")
            field = described.of(info, nulls=nulls)
            section, _, key = (field.key or info.name).rpartition(".")
            (sections.setdefault(section, {}) if section else fields)[key] = field
    for key, part in sections.items():
        fields[key] = Field(Record(dict, part), "")
    return fields


def pairs_of(
    node: Node, path: Path, context: Context[Any], form: str | Callable[[], str] = "{KEY: VALUE}"
) -> list[tuple[Node, Node]]:
    """Return the pairs of a map. An empty node is an empty map.

    Args:
        node: the map.
        path: its path.
        context: makes the error.
        form: an example of such a map, or a function that returns one.

    Raises:
        NorthstarError: the node is not a map.
    """
    if type(node) is Mapping and node.tag in (None, CORE + "map"):
        return node.pairs
    return _nothing(node, path, context, Mapping, context.words.not_a_map, form)


def items_of(node: Node, path: Path, context: Context[Any]) -> list[Node]:
    """Return the items of a list. An empty node is an empty list.

    Raises:
        NorthstarError: the node is not a list.
    """
    if type(node) is Sequence and node.tag in (None, CORE + "seq"):
        return node.items
    form = f"[{node.text}]" if type(node) is Scalar and len(node.text) <= 32 else "[.., ..]"
    return _nothing(node, path, context, Sequence, context.words.not_a_list, form)


def _nothing(
    node: Node,
    path: Path,
    context: Context[Any],
    wanted: type,
    rule: str,
    form: str | Callable[[], str],
) -> list[Any]:
    if is_empty(node):
        return []
    hint = f"write {form if isinstance(form, str) else form()}"
    if type(node) is wanted:
        rule = f"{{}} cannot have the tag {context.show(str(node.tag))} here"
        hint = "remove the tag"
    raise context.invalid(node, path, rule.format(context.describe(node)), hint=hint)


class ListOf(Kind[C]):
    """A list of values of one kind, kept as a tuple or a frozenset."""

    def __init__(
        self,
        make: Callable[[Iterable[Any]], C],
        item: Kind[Any],
        *,
        max_entries: int | None = None,
        unique: bool = False,
        order: Callable[[Any], Any] | None = None,
    ) -> None:
        """Describe a list.

        Args:
            make: tuple or frozenset.
            item: the kind of its items.
            max_entries: most items.
            unique: whether duplicate items are an error.
            order: sort key for writing a set.
        """
        self._make = make
        self._item = item
        self._max = max_entries
        self._unique = unique
        self._order = order
        self.unit = item.unit
        self.parts = (item,)

    def read(self, node: Node, path: Path, context: Context[Any]) -> C:
        """Return the items."""
        before = len(context.errors)
        nodes = items_of(node, path, context)
        if self._max is not None and len(nodes) > self._max:
            # Refused before any item is read.
            rule = f"{len(nodes)} items are too many (at most {self._max})"
            raise context.invalid(node, path, rule, hint="remove some")
        result: list[Any] = []
        seen: set[Any] = set()
        for index, item_node in enumerate(nodes):
            try:
                item = self._item.read(item_node, (*path, index), context)
            except NorthstarError as error:
                context.refuse(error)
                continue
            if self._unique:
                if item in seen:
                    rule, hint = (
                        f"{context.describe(item_node)} is given twice",
                        "remove one of both",
                    )
                    context.refuse(context.invalid(item_node, (*path, index), rule, hint=hint))
                seen.add(item)
            result.append(item)
        if len(context.errors) > before:
            raise NotedError
        return self._make(result)

    def dump(self, value: C, *, tagged: bool) -> list[Any]:
        """Return the items."""
        items: Iterable[Any] = value
        if self._order is not None:
            items = sorted(value, key=self._order)
        return [self._item.dump(item, tagged=tagged) for item in items]

    def schema(self) -> dict[str, Any]:
        """Return the schema of the list."""
        schema: dict[str, Any] = {"type": "array", "items": self._item.schema()}
        if self._max is not None:
            schema["maxItems"] = self._max
        if self._unique:
            schema["uniqueItems"] = True
        return schema


class MapOf(Kind[AbstractMapping[K, T]]):
    """A map whose keys are data."""

    def __init__(
        self,
        key: Kind[K],
        value: Kind[T],
        *,
        max_entries: int | None = None,
        check: Check | None = None,
    ) -> None:
        """Describe a map.

        Args:
            key: the kind of the keys.
            value: the kind of the values.
            max_entries: most entries.
            check: the rule across the entries.
        """
        self._key = key
        self._value = value
        self._max = max_entries
        self._check = check
        self.parts = (key, value)

    def read(self, node: Node, path: Path, context: Context[Any]) -> AbstractMapping[K, T]:
        """Return the entries in the order of the document."""
        before = len(context.errors)
        pairs = pairs_of(node, path, context)
        if self._max is not None and len(pairs) > self._max:
            rule = f"{len(pairs)} entries are too many (at most {self._max})"
            raise context.invalid(node, path, rule, hint="remove some")
        values: dict[K, T] = {}
        nodes: dict[str, Node] = {}
        for key_node, value_node in pairs:
            name = key_node.text if type(key_node) is Scalar else text_of(key_node, path, context)
            member = (*path, name)
            if name in nodes:
                rule, hint = "the key is given twice", "remove one of both"
                context.refuse(context.invalid(key_node, member, rule, hint=hint))
                continue
            nodes[name] = key_node
            try:
                key = self._key.read(key_node, member, context)
                values[key] = self._value.read(value_node, member, context)
            except NorthstarError as error:
                context.refuse(error)
        if self._check is not None:
            self._check(values, nodes, path, context)
        if len(context.errors) > before:
            raise NotedError
        return values

    def dump(self, value: AbstractMapping[K, T], *, tagged: bool) -> dict[str, Any]:
        """Return the entries."""
        return {
            self._key.dump(key, tagged=tagged): self._value.dump(member, tagged=tagged)
            for key, member in value.items()
        }

    def schema(self) -> dict[str, Any]:
        """Return the schema of the map."""
        schema: dict[str, Any] = {
            "type": "object",
            "propertyNames": self._key.schema(),
            "additionalProperties": self._value.schema(),
        }
        if self._max is not None:
            schema["maxProperties"] = self._max
        return schema
