"""`console`: a console connection for the container, and what it may ask for there."""

from __future__ import annotations

from typing import Any

import msgspec

from northstar.manifest.kinds import Choice, Kind
from northstar.manifest.node import Context, Node, Scalar, describe, invalid, is_empty
from northstar.manifest.records import ListOf, Record
from northstar.model import FULL, Permission, Permissions


class Console(msgspec.Struct, frozen=True):
    """A console connection with these permissions."""

    permissions: Permissions


_ORDER = {permission: index for index, permission in enumerate(Permission)}


class _Permissions(Kind[Permissions]):
    """`full`, or a list of permissions."""

    __slots__ = ()

    _LIST = ListOf(frozenset, Choice(Permission, "a permission"), order=_ORDER.__getitem__)

    def read(self, node: Node, path: str, context: Context) -> Permissions:
        if type(node) is Scalar:
            if node.text == "full":
                return FULL
            # Nothing after the key is no list here: it would be a console that may do nothing,
            # which is to be asked for in so many words.
            what = "nothing" if is_empty(node) else describe(node)
            raise invalid(node, path, f"{what} is neither 'full' nor a list of permissions")
        return self._LIST.read(node, path, context)

    def dump(self, value: Permissions, *, tagged: bool) -> Any:
        return "full" if value == FULL else self._LIST.dump(value, tagged=tagged)

    def schema(self) -> dict[str, Any]:
        return {"oneOf": [{"const": "full"}, self._LIST.schema()]}


CONSOLE = Record(Console, {"permissions": _Permissions()})
