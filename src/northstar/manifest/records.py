"""Kinds of maps and lists: records with known fields, maps whose keys are data, and lists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Mapping as AbstractMapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import structs

from northstar.manifest.kinds import CORE, Kind, text_of
from northstar.manifest.node import (
    Context,
    Mapping,
    Node,
    NotedError,
    Scalar,
    Sequence,
    describe,
    invalid,
    is_empty,
    is_null,
    join,
    show,
)
from northstar.model import ManifestError

T = TypeVar("T")
K = TypeVar("K")
S = TypeVar("S", bound=msgspec.Struct)
C = TypeVar("C", bound=Collection[Any])


_KNOWN_MAX: Final = 8
"""Most fields that a message lists."""


class _Field(NamedTuple):
    kind: Kind[Any]
    required: bool
    default: Any
    nullable: bool
    always: bool


Check = Callable[[dict[Any, Any], dict[str, Node], str, Context], None]
"""A rule across the members of a map: values (those that could be read), nodes, path, context."""


class Record(Kind[S]):
    """A map with known fields."""

    __slots__ = ("_check", "_fields", "_ignore", "_required", "_rules", "_struct", "_tag")

    def __init__(
        self,
        struct: type[S],
        kinds: dict[str, Kind[Any]],
        *,
        always: tuple[str, ...] = (),
        ignore_unknown: bool = False,
        check: Check | None = None,
        rules: dict[str, Any] | None = None,
        tag: str | None = None,
    ) -> None:
        """Describe a record.

        The struct tells which fields are required (no default), and which may be null (the default
        is None). A field that has its default is left out of the serialised form.

        Args:
            struct: what is made; its attributes are the fields.
            kinds: the kinds of the fields, in the order in which they are written.
            always: fields that are in the serialised form whatever their value.
            ignore_unknown: unknown fields are a warning, not an error.
            check: the rule across the fields.
            rules: the same for the schema, as keywords of it.
            tag: a field that is not ours, since it told that the map is this record.
        """
        infos = {info.name: info for info in structs.fields(struct)}
        assert infos.keys() == kinds.keys(), f"{struct.__name__} and its kinds differ"
        self._struct = struct
        self._fields: dict[str, _Field] = {}
        for name, kind in kinds.items():
            info = infos[name]
            factory = info.default_factory
            default = info.default if factory is msgspec.NODEFAULT else factory()
            self._fields[name] = _Field(
                kind, info.required, default, default is None, info.required or name in always
            )
        self._ignore = ignore_unknown
        self._check = check
        self._rules = rules or {}
        self._tag = tag
        self._required = tuple(name for name, field in self._fields.items() if field.required)

    def read(self, node: Node, path: str, context: Context) -> S:
        """Return the record."""
        before = len(context.errors)
        values: dict[str, Any] = {}
        nodes: dict[str, Node] = {}
        fields = self._fields
        prefix = f"{path}." if path else ""
        for key_node, value in pairs_of(node, path):
            name = key_node.text if type(key_node) is Scalar else text_of(key_node, path)
            if name in nodes:
                context.refuse(invalid(key_node, prefix + name, "the field is given twice"))
                continue
            nodes[name] = value
            field = fields.get(name)
            if field is None:
                if name != self._tag:
                    self._unknown(key_node, path, name, context)
                continue
            if field.nullable and is_null(value):
                continue
            try:
                values[name] = field.kind.read(value, prefix + name, context)
            except ManifestError as error:
                context.refuse(error)
        for name in self._required:
            if name not in nodes:
                context.refuse(invalid(node, join(path, name), "the field is missing"))
        if self._check is not None:
            self._check(values, nodes, path, context)
        if len(context.errors) > before:
            raise NotedError
        return self._struct(**values)

    def _unknown(self, key: Node, path: str, name: str, context: Context) -> None:
        if self._ignore:
            context.warn(key, join(path, name), "an unknown field, which is ignored")
            return
        hint = None
        if len(self._fields) <= _KNOWN_MAX:
            hint = f"known are {', '.join(self._fields)}"
        elif similar := _similar(name, self._fields):
            hint = f"did you mean {similar!r}?"
        context.refuse(invalid(key, join(path, name), "no such field", hint=hint))

    def dump(self, value: S, *, tagged: bool) -> dict[str, Any]:
        """Return the fields, without those that are absent."""
        result: dict[str, Any] = {}
        for name, field in self._fields.items():
            member = getattr(value, name)
            if field.always:
                # None stands for null, which no kind but the optional field itself knows.
                dump = None if member is None else field.kind.dump(member, tagged=tagged)
                result[name] = dump
            elif member != field.default:
                result[name] = field.kind.dump(member, tagged=tagged)
        return result

    def schema(self) -> dict[str, Any]:
        """Return the schema of the record."""
        properties = {
            name: _nullable(field.kind.schema()) if field.nullable else field.kind.schema()
            for name, field in self._fields.items()
        }
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if self._required:
            schema["required"] = list(self._required)
        if not self._ignore:
            schema["additionalProperties"] = False
        return schema | self._rules


def _similar(name: str, names: Iterable[str]) -> str | None:
    # Costs more to import than a manifest to read.
    import difflib

    # Its time grows with the square of the length.
    return next(iter(difflib.get_close_matches(name[:32], names, n=1)), None)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema


def pairs_of(node: Node, path: str) -> Collection[tuple[Node, Node]]:
    """Return the pairs of a map. Nothing after a key is an empty map.

    Raises:
        ManifestError: the node is no map.
    """
    if type(node) is Mapping:
        if node.tag is not None and node.tag != CORE + "map":
            raise invalid(node, path, f"a map cannot have the tag {show(node.tag)} here")
        return node.pairs
    if is_empty(node):
        return ()
    raise invalid(node, path, f"{describe(node)} is not a map")


def items_of(node: Node, path: str) -> list[Node]:
    """Return the items of a list. Nothing after a key is an empty list.

    Raises:
        ManifestError: the node is no list.
    """
    if type(node) is Sequence:
        if node.tag is not None and node.tag != CORE + "seq":
            raise invalid(node, path, f"a list cannot have the tag {show(node.tag)} here")
        return node.items
    if is_empty(node):
        return []
    raise invalid(node, path, f"{describe(node)} is not a list")


class ListOf(Kind[C]):
    """A list of values of one kind, kept as a tuple or a frozenset."""

    __slots__ = ("_item", "_make", "_most", "_order", "_unique")

    def __init__(
        self,
        make: Callable[[Iterable[Any]], C],
        item: Kind[Any],
        *,
        most: int | None = None,
        unique: bool = False,
        order: Callable[[Any], Any] | None = None,
    ) -> None:
        """Describe a list.

        Args:
            make: tuple or frozenset.
            item: the kind of its items.
            most: most items.
            unique: the same item twice is an error.
            order: sort key by which a set is written.
        """
        self._make = make
        self._item = item
        self._most = most
        self._unique = unique
        self._order = order

    def read(self, node: Node, path: str, context: Context) -> C:
        """Return the items."""
        before = len(context.errors)
        nodes = items_of(node, path)
        if self._most is not None and len(nodes) > self._most:
            raise invalid(node, path, f"{len(nodes)} items are too many (at most {self._most})")
        result: list[Any] = []
        seen: set[Any] = set()
        for index, item_node in enumerate(nodes):
            try:
                item = self._item.read(item_node, f"{path}.{index}", context)
            except ManifestError as error:
                context.refuse(error)
                continue
            if self._unique:
                if item in seen:
                    context.refuse(
                        invalid(
                            item_node, join(path, index), f"{describe(item_node)} is given twice"
                        )
                    )
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
        if self._most is not None:
            schema["maxItems"] = self._most
        if self._unique:
            schema["uniqueItems"] = True
        return schema


class MapOf(Kind[AbstractMapping[K, T]]):
    """A map whose keys are data."""

    __slots__ = ("_check", "_key", "_most", "_value")

    def __init__(
        self,
        key: Kind[K],
        value: Kind[T],
        *,
        most: int | None = None,
        check: Check | None = None,
    ) -> None:
        """Describe a map.

        Args:
            key: the kind of its keys.
            value: the kind of its values.
            most: most entries.
            check: the rule across the entries.
        """
        self._key = key
        self._value = value
        self._most = most
        self._check = check

    def read(self, node: Node, path: str, context: Context) -> AbstractMapping[K, T]:
        """Return the entries, in their order."""
        before = len(context.errors)
        pairs = pairs_of(node, path)
        if self._most is not None and len(pairs) > self._most:
            # Before anything is done with them.
            raise invalid(node, path, f"{len(pairs)} entries are too many (at most {self._most})")
        values: dict[K, T] = {}
        nodes: dict[str, Node] = {}
        for key_node, value_node in pairs:
            name = key_node.text if type(key_node) is Scalar else text_of(key_node, path)
            member = f"{path}.{name}"
            if name in nodes:
                context.refuse(invalid(key_node, member, "the key is given twice"))
                continue
            nodes[name] = key_node
            try:
                key = self._key.read(key_node, member, context)
                values[key] = self._value.read(value_node, member, context)
            except ManifestError as error:
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
        if self._most is not None:
            schema["maxProperties"] = self._most
        return schema
