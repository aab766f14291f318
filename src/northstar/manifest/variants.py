"""Kinds of values that have one of several forms.

In YAML a form with data is a tag (`!fifo {priority: 5}`), elsewhere a map of one key
(`{"fifo": {"priority": 5}}`), or a map with a field that names it (`type: bind`).
"""

from __future__ import annotations

from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

import msgspec

from northstar.manifest.kinds import Kind, text_of, variant_of
from northstar.manifest.node import Context, Node, invalid, is_null, join, show
from northstar.manifest.records import Record, pairs_of

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class Tagged(NamedTuple):
    """A variant with data, for the YAML writer: `!name data`."""

    name: str
    data: Any


class Wrapped(Kind[S]):
    """A struct of one member, written as that member alone."""

    __slots__ = ("_kind", "_member", "_struct")

    def __init__(self, struct: type[S], kind: Kind[Any]) -> None:
        self._struct = struct
        self._kind = kind
        (self._member,) = struct.__struct_fields__

    def read(self, node: Node, path: str, context: Context) -> S:
        """Return the struct."""
        return self._struct(**{self._member: self._kind.read(node, path, context)})

    def dump(self, value: S, *, tagged: bool) -> Any:
        """Return the member."""
        return self._kind.dump(getattr(value, self._member), tagged=tagged)

    def schema(self) -> dict[str, Any]:
        """Return the member's schema."""
        return self._kind.schema()


class Variant(Kind[T]):
    """One of several forms: a bare name, or a name with data (see `variant_of`)."""

    __slots__ = ("_data", "_names", "_units", "_what")

    def __init__(
        self,
        what: str,
        *,
        units: dict[str, type[msgspec.Struct]],
        data: dict[str, tuple[type[msgspec.Struct], Kind[Any]]],
    ) -> None:
        """Describe a variant.

        Args:
            what: the noun for messages.
            units: forms without data, by name.
            data: forms with data, by name.
        """
        self._what = what
        self._units = {name: struct() for name, struct in units.items()}
        self._data = {name: kind for name, (_, kind) in data.items()}
        self._names = {struct: name for name, struct in units.items()}
        self._names.update({struct: name for name, (struct, _) in data.items()})

    def read(self, node: Node, path: str, context: Context) -> T:
        """Return the form."""
        name, content = variant_of(node, path)
        if name in self._units:
            if content is None or is_null(content):
                return cast("T", self._units[name])
            raise invalid(node, path, f"{name!r} takes no data")
        kind = self._data.get(name)
        if kind is None:
            names = ", ".join([*self._units, *self._data])
            raise invalid(node, path, f"{show(name)} is not {self._what} ({names})")
        if content is None:
            raise invalid(node, path, f"{name!r} needs its data", hint=f"write it `!{name} ...`")
        return cast("T", kind.read(content, join(path, name), context))

    def dump(self, value: T, *, tagged: bool) -> Any:
        """Return the name, or the name with its data."""
        name = self._names[cast("type[msgspec.Struct]", type(value))]
        if name in self._units:
            return name
        data = self._data[name].dump(value, tagged=tagged)
        return Tagged(name, data) if tagged else {name: data}

    def schema(self) -> dict[str, Any]:
        """Return the schema: the names, and one-key objects."""
        forms: list[dict[str, Any]] = [{"enum": list(self._units)}] if self._units else []
        forms.extend(
            {
                "type": "object",
                "properties": {name: kind.schema()},
                "required": [name],
                "additionalProperties": False,
            }
            for name, kind in self._data.items()
        )
        return {"oneOf": forms}


class ByType(Kind[T], Generic[T]):
    """One of several records, told apart by their field `type`."""

    __slots__ = ("_names", "_records", "_what")

    TAG: Final = "type"

    def __init__(
        self, what: str, records: dict[str, tuple[type[msgspec.Struct], Record[Any]]]
    ) -> None:
        self._what = what
        self._records = {name: record for name, (_, record) in records.items()}
        self._names = {struct: name for name, (struct, _) in records.items()}

    def read(self, node: Node, path: str, context: Context) -> T:
        """Return the record."""
        for pair in pairs_of(node, path):
            if text_of(pair[0], path) == self.TAG:
                type_node = pair[1]
                break
        else:
            raise invalid(node, join(path, self.TAG), "the field is missing")
        name = text_of(type_node, join(path, self.TAG))
        record = self._records.get(name)
        if record is None:
            names = ", ".join(self._records)
            raise invalid(
                type_node, join(path, self.TAG), f"{show(name)} is not {self._what} ({names})"
            )
        return cast("T", record.read(node, path, context))

    def dump(self, value: T, *, tagged: bool) -> dict[str, Any]:
        """Return the record with its type."""
        name = self._names[cast("type[msgspec.Struct]", type(value))]
        return {self.TAG: name, **self._records[name].dump(value, tagged=tagged)}

    def schema(self) -> dict[str, Any]:
        """Return the schema: one of the records."""
        forms = []
        for name, record in self._records.items():
            form = record.schema()
            form["properties"] = {self.TAG: {"const": name}, **form["properties"]}
            form["required"] = [self.TAG, *form.get("required", ())]
            forms.append(form)
        return {"oneOf": forms}
