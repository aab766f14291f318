"""Kinds of values that have one of several forms.

In YAML a form with data is a tag (`!fifo {priority: 5}`), elsewhere a map of one key
(`{"fifo": {"priority": 5}}`), or a map with a field that names it (`type: bind`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from northstar.schema.context import Context, Path
from northstar.schema.node import Node, is_null
from northstar.schema.records import Record, pairs_of
from northstar.schema.scalars import Kind, text_of, variant_of

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class Tagged(NamedTuple):
    """A variant with data, for the YAML writer: `!name data`."""

    name: str
    data: Any


class Wrapped(Kind[S]):
    """A struct of one member, written as that member alone.

    Attributes:
        struct: what is made.
        kind: the member's.
    """

    __slots__ = ("_member", "kind", "struct")

    def __init__(self, struct: type[S]) -> None:
        self.struct = struct
        ((self._member, member),) = Record(struct).members.items()
        self.kind = member.kind

    def read(self, node: Node, path: Path, context: Context[Any]) -> S:
        """Return the struct."""
        return self.struct(**{self._member: self.kind.read(node, path, context)})

    def dump(self, value: S, *, tagged: bool) -> Any:
        """Return the member."""
        return self.kind.dump(getattr(value, self._member), tagged=tagged)

    def schema(self) -> dict[str, Any]:
        """Return the member's schema."""
        return self.kind.schema()

    def parts(self) -> list[Kind[Any]]:
        """Return the member's kind."""
        return [self.kind]


class Variant(Kind[T]):
    """One of several forms: a bare name, or a name with data (see `variant_of`)."""

    __slots__ = ("_forms", "_names", "_tables", "_units", "_what")

    def __init__(
        self, what: str, forms: dict[str, Record[Any] | Wrapped[Any]], *, tables: bool = False
    ) -> None:
        """Describe a variant.

        Args:
            what: the noun for messages.
            forms: by name; a record without fields is written as its bare name.
            tables: as in TOML: a bare name may be an empty table, too, and there are no tags.
        """
        self._what = what
        self._forms = forms
        self._tables = tables
        self._units = {
            name: form.struct()
            for name, form in forms.items()
            if isinstance(form, Record) and not form.members
        }
        self._names = {form.struct: name for name, form in forms.items()}

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the form."""
        name, content = variant_of(node, path, context)
        form = self._forms.get(name)
        if form is None:
            rule = f"{context.show(name)} is not {self._what} ({', '.join(self._forms)})"
            raise context.invalid(node, path, rule)
        unit: T | None = self._units.get(name)
        if unit is not None:
            if content is None or is_null(content):
                return unit
            if not self._tables:
                raise context.invalid(node, path, f"{name!r} takes no data")
        elif content is None:
            if self._tables:
                rule = f"{name!r} is not {self._what} without its data"
                raise context.invalid(node, path, rule, hint=f"write it {{ {name} = {{ .. }} }}")
            rule, hint = f"{name!r} needs its data", f"write it `!{name} ...`"
            raise context.invalid(node, path, rule, hint=hint)
        value: T = form.read(content, (*path, name), context)
        return value

    def dump(self, value: T, *, tagged: bool) -> Any:
        """Return the name, or the name with its data."""
        name = self._names[type(value)]
        if name in self._units:
            return name
        data = self._forms[name].dump(value, tagged=tagged)
        return Tagged(name, data) if tagged else {name: data}

    def schema(self) -> dict[str, Any]:
        """Return the schema: the names, and one-key objects."""
        forms: list[dict[str, Any]] = [{"enum": list(self._units)}] if self._units else []
        forms.extend(
            {
                "type": "object",
                "properties": {name: form.schema()},
                "required": [name],
                "additionalProperties": False,
            }
            for name, form in self._forms.items()
            if self._tables or name not in self._units
        )
        return {"oneOf": forms}

    def parts(self) -> list[Kind[Any]]:
        """Return the forms."""
        return [*self._forms.values()]


class ByType(Kind[T]):
    """One of several records, told apart by their field `type`."""

    __slots__ = ("_names", "_records", "_what")

    TAG: Final = "type"

    def __init__(self, what: str, records: dict[str, Record[Any]]) -> None:
        self._what = what
        self._records = records
        self._names = {record.struct: name for name, record in records.items()}

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the record."""
        for pair in pairs_of(node, path, context):
            if text_of(pair[0], path, context) == self.TAG:
                type_node = pair[1]
                break
        else:
            raise context.missing(node, (*path, self.TAG))
        name = text_of(type_node, (*path, self.TAG), context)
        record = self._records.get(name)
        if record is None:
            rule = f"{context.show(name)} is not {self._what} ({', '.join(self._records)})"
            raise context.invalid(type_node, (*path, self.TAG), rule)
        value: T = record.read(node, path, context)
        return value

    def dump(self, value: T, *, tagged: bool) -> dict[str, Any]:
        """Return the record with its type."""
        name = self._names[type(value)]
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

    def parts(self) -> list[Kind[Any]]:
        """Return the records."""
        return [*self._records.values()]
