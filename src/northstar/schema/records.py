"""Kinds of maps and lists: records with known fields, maps whose keys are data, and lists.

A field is one line of a struct: its type, its kind, what it means, and its default.

    class Tmpfs(msgspec.Struct, frozen=True):
        size: Annotated[int, Field(Size(), "Size of the file system; 0 is no limit.")]

A module with such structs must not have `from __future__ import annotations`: it would turn each
annotation into a text, which is compiled once more when the record is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from collections.abc import Mapping as AbstractMapping
from typing import Any, Final, NamedTuple, TypeVar, cast

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
    """What a document says of a field, beside its type: stands in the type's `Annotated`.

    Attributes:
        kind: how it is read and written.
        description: sentences on what it means.
        unit: of its numbers; empty for what is no number.
        absent: what holds without the field, where its default is None.
        key: its name in the document, if it differs from the struct's. `a.b` is `b` in the map
            `a`, which has no struct of its own.
        always: it is in the serialised form whatever its value.
    """

    __slots__ = ("absent", "always", "description", "key", "kind", "unit")

    def __init__(
        self,
        kind: Kind[Any],
        description: str,
        *,
        unit: str = "",
        absent: str = "",
        key: str = "",
        always: bool = False,
    ) -> None:
        self.kind = kind
        self.description = description
        self.unit = unit or kind.unit
        self.absent = absent
        self.key = key
        self.always = always


class Member(NamedTuple):
    """A field of a record, with what its struct says of it.

    Attributes:
        field: what stands in the annotation.
        name: the struct's attribute, empty for a map without a struct.
        kind: the field's.
        required: it has no default.
        default: the value without it; None if it is required.
        nullable: null is as good as nothing.
        always: it is in the serialised form whatever its value.
    """

    field: Field
    name: str
    kind: Kind[Any]
    required: bool
    default: Any
    nullable: bool
    always: bool = False

    def schema(self) -> dict[str, Any]:
        """Return the schema of the field with description and default."""
        schema = self.kind.schema()
        if not self.name:
            return schema
        if self.nullable and schema:
            schema = {"anyOf": [schema, {"type": "null"}]}
        field = self.field
        sentences = [field.description]
        if field.unit:
            sentences.append(f"Unit: {field.unit}.")
        if field.absent:
            sentences.append(f"Default: {field.absent}.")
        schema["description"] = " ".join(sentences)
        if not self.required:
            default = self.default
            schema["default"] = None if default is None else self.kind.dump(default, tagged=False)
        return schema


Check = Callable[[dict[Any, Any], dict[str, Node], Path, Context[Any]], None]
"""A rule across the members of a map: values (those that could be read), nodes, path, context."""


class _Fields(Kind[S]):
    """A map with known fields, made into a value by a function of these."""

    __slots__ = (
        "_check",
        "_ignore",
        "_make",
        "_required",
        "_rules",
        "_sections",
        "_tag",
        "members",
    )

    def __init__(
        self,
        make: Callable[..., S],
        members: dict[str, Member],
        *,
        ignore_unknown: bool = False,
        check: Check | None = None,
        rules: Callable[[], dict[str, Any]] = dict,
        tag: str | None = None,
    ) -> None:
        self._make = make
        self.members = members
        self._ignore = ignore_unknown
        self._check = check
        self._rules = rules
        self._tag = tag
        self._required = tuple(key for key, member in members.items() if member.required)
        self._sections = tuple(key for key, member in members.items() if not member.name)

    def read(self, node: Node, path: Path, context: Context[Any]) -> S:
        """Return the value."""
        before = len(context.errors)
        values: dict[str, Any] = {}
        nodes: dict[str, Node] = {}
        members = self.members
        for key_node, value in pairs_of(node, path, context):
            key = key_node.text if type(key_node) is Scalar else text_of(key_node, path, context)
            if key in nodes:
                error = context.invalid(key_node, (*path, key), "the field is given twice")
                context.refuse(error)
                continue
            nodes[key] = value
            member = members.get(key)
            if member is None:
                if key != self._tag:
                    self._unknown(key_node, (*path, key), context)
                continue
            if member.nullable and is_null(value):
                continue
            try:
                values[member.name or key] = member.kind.read(value, (*path, key), context)
            except NorthstarError as error:
                context.refuse(error)
        for key in self._required:
            if key not in nodes:
                context.refuse(context.missing(node, (*path, key)))
        if self._check is not None:
            self._check(values, nodes, path, context)
        if len(context.errors) > before:
            raise NotedError
        for key in self._sections:
            values.update(values.pop(key, ()))
        return self._make(**values)

    def _unknown(self, key: Node, path: Path, context: Context[Any]) -> None:
        if self._ignore:
            context.ignore(key, path)
            return
        hint = None
        if len(self.members) <= _KNOWN_MAX:
            hint = f"known are {', '.join(self.members)}"
        elif similar := _similar(path[-1], self.members):
            hint = f"did you mean {similar!r}?"
        context.refuse(context.unknown(key, path, hint))

    def dump(self, value: Any, *, tagged: bool) -> dict[str, Any]:
        """Return the fields, without those that are absent."""
        result: dict[str, Any] = {}
        for key, member in self.members.items():
            if not member.name:
                if section := member.kind.dump(value, tagged=tagged):
                    result[key] = section
                continue
            field = getattr(value, member.name)
            if member.always:
                # None stands for null, which no kind but the optional field itself knows.
                result[key] = None if field is None else member.kind.dump(field, tagged=tagged)
            elif field != member.default:
                result[key] = member.kind.dump(field, tagged=tagged)
        return result

    def schema(self) -> dict[str, Any]:
        """Return the schema of the map."""
        properties = {key: member.schema() for key, member in self.members.items()}
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if self._required:
            schema["required"] = list(self._required)
        if not self._ignore:
            schema["additionalProperties"] = False
        return schema | self._rules()

    def parts(self) -> list[Kind[Any]]:
        """Return the kinds of the fields."""
        return [member.kind for member in self.members.values()]


class Record(_Fields[S]):
    """A map with known fields, which is read into a struct.

    Attributes:
        struct: what is made.
        members: the fields by their keys, in the order in which they are written.
    """

    __slots__ = ("struct",)

    def __init__(
        self,
        struct: type[S],
        *,
        ignore_unknown: bool = False,
        check: Check | None = None,
        rules: Callable[[], dict[str, Any]] = dict,
        tag: str | None = None,
        nulls: bool = True,
        other: tuple[str, ...] = (),
    ) -> None:
        """Describe a record.

        The struct tells which fields are required (no default), and which may be null (the default
        is None). A field that has its default is left out of the serialised form.

        Args:
            struct: what is made; each of its attributes has a `Field` in its annotation.
            ignore_unknown: unknown fields are a warning, not an error.
            check: the rule across the fields.
            rules: returns the same for the schema, as keywords of it.
            tag: a field that is not ours, since it told that the map is this record.
            nulls: whether the language has a null (TOML has none).
            other: attributes of the struct that are no fields of the document.
        """
        members: dict[str, Member] = {}
        sections: dict[str, dict[str, Member]] = {}
        for info in structs.fields(cast("type[msgspec.Struct]", struct)):
            if info.name not in other:
                member = _member(info, nulls=nulls)
                section, _, key = (member.field.key or info.name).rpartition(".")
                part = sections.setdefault(section, {}) if section else members
                part[key] = member
        for key, part in sections.items():
            kind: Kind[Any] = _Fields(dict, part)
            field = Field(kind, "")
            members[key] = Member(field, "", kind, required=False, default={}, nullable=False)
        self.struct = struct
        super().__init__(
            struct, members, ignore_unknown=ignore_unknown, check=check, rules=rules, tag=tag
        )

    def schema(self) -> dict[str, Any]:
        """Return the schema of the record."""
        return {"description": inspect.getdoc(self.struct), **super().schema()}


def _member(info: structs.FieldInfo, *, nulls: bool) -> Member:
    (field,) = info.type.__metadata__
    default = info.default
    if info.required:
        default = None
    elif info.default_factory is not msgspec.NODEFAULT:
        default = info.default_factory()
    nullable = nulls and default is None and not info.required
    always = info.required or field.always
    return Member(field, info.name, field.kind, info.required, default, nullable, always)


def _similar(name: str, names: Iterable[str]) -> str | None:
    # Costs more to import than a manifest to read.
    import difflib

    # Its time grows with the square of the length.
    return next(iter(difflib.get_close_matches(name[:32], names, n=1)), None)


def pairs_of(node: Node, path: Path, context: Context[Any]) -> Iterable[tuple[Node, Node]]:
    """Return the pairs of a map. Nothing after a key is an empty map.

    Raises:
        NorthstarError: the node is no map.
    """
    if type(node) is Mapping:
        if node.tag is not None and node.tag != CORE + "map":
            rule = f"a map cannot have the tag {context.show(node.tag)} here"
            raise context.invalid(node, path, rule)
        return node.pairs
    if is_empty(node):
        return ()
    raise context.not_a_map(node, path)


def items_of(node: Node, path: Path, context: Context[Any]) -> list[Node]:
    """Return the items of a list. Nothing after a key is an empty list.

    Raises:
        NorthstarError: the node is no list.
    """
    if type(node) is Sequence:
        if node.tag is not None and node.tag != CORE + "seq":
            rule = f"a list cannot have the tag {context.show(node.tag)} here"
            raise context.invalid(node, path, rule)
        return node.items
    if is_empty(node):
        return []
    raise context.not_a_list(node, path)


class ListOf(Kind[C]):
    """A list of values of one kind, kept as a tuple or a frozenset."""

    __slots__ = ("_item", "_make", "_max", "_order", "_unique", "unit")

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
            unique: the same item twice is an error.
            order: sort key by which a set is written.
        """
        self._make = make
        self._item = item
        self._max = max_entries
        self._unique = unique
        self._order = order
        self.unit = item.unit

    def read(self, node: Node, path: Path, context: Context[Any]) -> C:
        """Return the items."""
        before = len(context.errors)
        nodes = items_of(node, path, context)
        if self._max is not None and len(nodes) > self._max:
            # Before anything is done with them.
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
                    rule = f"{context.describe(item_node)} is given twice"
                    context.refuse(context.invalid(item_node, (*path, index), rule))
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

    def parts(self) -> list[Kind[Any]]:
        """Return the kind of the items."""
        return [self._item]


class MapOf(Kind[AbstractMapping[K, T]]):
    """A map whose keys are data."""

    __slots__ = ("_check", "_key", "_max", "_value")

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
            key: the kind of its keys.
            value: the kind of its values.
            max_entries: most entries.
            check: the rule across the entries.
        """
        self._key = key
        self._value = value
        self._max = max_entries
        self._check = check

    def read(self, node: Node, path: Path, context: Context[Any]) -> AbstractMapping[K, T]:
        """Return the entries, in their order."""
        before = len(context.errors)
        values: dict[K, T] = {}
        nodes: dict[str, Node] = {}
        for key_node, value_node in pairs_of(node, path, context):
            name = key_node.text if type(key_node) is Scalar else text_of(key_node, path, context)
            member = (*path, name)
            if name in nodes:
                context.refuse(context.invalid(key_node, member, "the key is given twice"))
                continue
            nodes[name] = key_node
            try:
                key = self._key.read(key_node, member, context)
                values[key] = self._value.read(value_node, member, context)
            except NorthstarError as error:
                context.refuse(error)
        if self._max is not None and len(nodes) > self._max:
            rule = f"{len(nodes)} entries are too many (at most {self._max})"
            context.refuse(context.invalid(node, path, rule, hint="remove some"))
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

    def parts(self) -> list[Kind[Any]]:
        """Return the kinds of the keys and of the values."""
        return [self._key, self._value]
