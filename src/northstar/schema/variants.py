"""Kinds of values that have one of several forms.

A form with data is a tag in YAML (`!fifo {priority: 5}`), a map of one key
(`{"fifo": {"priority": 5}}`), or a map whose field `type` names the form (`type: bind`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple, TypeVar

from northstar.schema.context import Context, Path
from northstar.schema.node import Mapping, Node, is_null
from northstar.schema.records import Record, pairs_of
from northstar.schema.scalars import Kind, text_of, variant_of

T = TypeVar("T")


def _listed(names: Collection[str]) -> str:
    """Return all names in parentheses; nothing if they are too many for a message."""
    from northstar.schema.hints import NAMES_MAX

    return f" ({', '.join(names)})" if len(names) <= NAMES_MAX else ""


def _hint(name: str, names: Collection[str], hint: str | None = None) -> str | None:
    """Return the name that was probably meant; without one `hint`."""
    from northstar.schema import hints

    return hints.choice(name, names, hint)


class Tagged(NamedTuple):
    """A variant with data, for the YAML writer: `!name data`."""

    name: str
    data: Any


class Wrapped(Record[T]):
    """A struct with a single field. The document contains the field's value instead of a map."""

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the struct."""
        (field,) = self.fields.values()
        return self.struct(field.kind.read(node, path, context))

    def dump(self, value: T, *, tagged: bool) -> Any:
        """Return the field."""
        (wrapped,) = super().dump(value, tagged=tagged).values()
        return wrapped

    def schema(self) -> dict[str, Any]:
        """Return the field's schema."""
        (field,) = self.fields.values()
        return field.schema()


class Variant(Kind[T]):
    """One of several forms: a bare name, or a name with data (see `variant_of`).

    Attributes:
        forms: by name, a record for a form with data, and the value for a bare name.
    """

    def __init__(self, what: str, forms: dict[str, Any], *, hint: str | None = None) -> None:
        """Describe a variant.

        Args:
            what: the noun for messages.
            forms: by name, a record for a form with data, and the value for a bare name.
                A record without fields may be written without data.
            hint: what to write instead of what is refused.
        """
        self.forms = forms
        self._what = what
        self._records = {name: form for name, form in forms.items() if isinstance(form, Record)}
        self._units = {name: form for name, form in forms.items() if name not in self._records}
        self._names = {record.struct: name for name, record in self._records.items()}
        self._unit_names = {unit: name for name, unit in self._units.items()}
        self._forms = tuple(forms)
        self._hint = hint
        self.parts = tuple(self._records.values())

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the form."""
        name, content = variant_of(node, path, context)
        value: T
        if name in self._units and (content is None or is_null(content)):
            value = self._units[name]
            return value
        record = self._records.get(name)
        if record is not None and (content is not None or not record.fields):
            value = record.read(content or Mapping([]), (*path, name), context)
            return value
        shown = context.show(name) if content is None else context.describe(node)
        rule, hint = f"{shown} is not {self._what}", self._hint
        if record is not None:
            rule, hint = (
                f"{rule}: {name!r} needs its data",
                hint or f"write {{{name}: {record.form}}}",
            )
        elif name in self._units:
            rule += f": {name!r} takes no data"
            hint = hint or f"write {name}"
        else:
            rule = f"{context.show(name)} is not {self._what}{_listed(self._forms)}"
            hint = _hint(name, self._forms, hint)
        raise context.invalid(node, path, rule, hint=hint)

    def dump(self, value: Any, *, tagged: bool) -> Any:
        """Return the name, or the name with its data."""
        name = self._names.get(type(value))
        if name is None:
            return self._unit_names[value]
        data = self._records[name].dump(value, tagged=tagged)
        return Tagged(name, data) if tagged else {name: data}

    def schema(self) -> dict[str, Any]:
        """Return the schema: the names, and one-key objects."""
        records = self._records
        bare = [*self._units, *(name for name, record in records.items() if not record.fields)]
        forms: list[dict[str, Any]] = [{"enum": bare}] if bare else []
        forms.extend(
            {
                "type": "object",
                "properties": {name: record.schema()},
                "required": [name],
                "additionalProperties": False,
            }
            for name, record in records.items()
        )
        return {"oneOf": forms} if records else forms[0]


class Choice(Variant[Any]):
    """One of several names: the values of an enumeration, or texts. `!name` equals `name`."""

    def __init__(self, members: Iterable[Any], what: str, *, hint: str | None = None) -> None:
        forms = {getattr(member, "value", member): member for member in members}
        super().__init__(what, forms, hint=hint)


class OneKey(Variant[T]):
    """A variant that is written as a map of one key in YAML too: a list cannot have a tag."""

    def dump(self, value: Any, *, tagged: bool) -> Any:  # noqa: ARG002 - as in all kinds
        """Return the name, or the map."""
        return super().dump(value, tagged=False)


class ByType(Kind[T]):
    """One of several records, selected by the field `type`.

    Attributes:
        forms: the records, by the value of the field.
    """

    TAG: Final = "type"

    def __init__(self, what: str, records: dict[str, Record[Any]]) -> None:
        self.forms = records
        self._what = what
        self._records = records
        self._names = {record.struct: name for name, record in records.items()}
        self.parts = tuple(records.values())

    def read(self, node: Node, path: Path, context: Context[Any]) -> T:
        """Return the record."""
        form = "{type: bind, host: ..}" if "bind" in self._records else f"{{{self.TAG}: ..}}"
        for pair in pairs_of(node, path, context, form):
            if text_of(pair[0], path, context) == self.TAG:
                type_node = pair[1]
                break
        else:
            raise context.invalid(node, (*path, self.TAG), context.words.missing, hint="add it")
        name = text_of(type_node, (*path, self.TAG), context)
        record = self._records.get(name)
        if record is None:
            rule = f"{context.show(name)} is not {self._what}{_listed(self._records)}"
            hint = _hint(name, self._records)
            raise context.invalid(type_node, (*path, self.TAG), rule, hint=hint)
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
