"""YAML to nodes, from the events of libyaml.

Events only: what comes after them in a YAML library (anchors to objects, tags to types) loses the
source text of scalars, and has no bounds. Facts that shape this module:

- A composer that calls itself for each level dies of `[[[[...`: levels are kept in a list here.
- Aliases can make a gigabyte of a kilobyte. They are counted as what they stand for, not copied.
- libyaml compares each %TAG directive with all before it, and holds the interpreter meanwhile.
- It guesses UTF-16 from a byte order mark. We decode before, and are strict.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from yaml.cyaml import CParser
from yaml.error import MarkedYAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from northstar.manifest.node import (
    INPUT_MAX,
    NESTING_MAX,
    NODES_MAX,
    Mapping,
    Node,
    Scalar,
    Sequence,
    show,
)
from northstar.model import ManifestError

_DIRECTIVES_MAX: Final = 1000
"""More of `%TAG` than this would take libyaml seconds, and nobody means them."""


def parse(data: bytes) -> Node:
    """Return the document.

    Args:
        data: UTF-8 without a byte order mark.

    Raises:
        ManifestError: it is not one document of YAML, or exceeds a bound.
    """
    if data.count(b"%TAG") > _DIRECTIVES_MAX:
        raise ManifestError("more %TAG directives than a manifest can need")
    try:
        return _Composer(CParser(data)).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ManifestError(
            f"not YAML: {error.problem or error.context}",
            line=None if mark is None else mark.line + 1,
            column=None if mark is None else mark.column + 1,
        ) from None
    except ReaderError as error:
        line = data.count(b"\n", 0, error.position) + 1
        raise ManifestError(
            f"not YAML: the character {error.character:#06x} must not stand in it", line=line
        ) from None


class _Size(NamedTuple):
    """What a node comes to once its aliases are expanded."""

    nodes: int
    text: int
    levels: int


class _Open(NamedTuple):
    """A map or list whose end has not come yet: its event, and what is outside of it."""

    event: Any
    siblings: list[Node]
    levels: int
    nodes: int
    text: int


class _Composer:
    def __init__(self, parser: CParser) -> None:
        self._next = parser.get_event
        # None: the anchor's node is not complete.
        self._anchors: dict[str, tuple[Node, _Size] | None] = {}

    def document(self) -> Node:
        """Return the only document."""
        while True:
            event = self._next()
            if type(event) is StreamEndEvent:
                raise ManifestError("the manifest is empty")
            if type(event) is DocumentStartEvent:
                break
        root = self._root()
        self._next()
        event = self._next()
        if type(event) is not StreamEndEvent:
            raise _refused("a manifest is a single document, and here another one starts", event)
        return root

    def _root(self) -> Node:
        """Return the node that starts with the next event.

        One loop, since this is where the time goes: 190 events in a manifest of 40 lines.
        """
        next_event, anchors = self._next, self._anchors
        opened: list[_Open] = []
        children: list[Node] = []
        levels = nodes = text = 0
        node: Node
        while True:
            event = next_event()
            kind = type(event)
            if kind is ScalarEvent:
                value = event.value
                node = Scalar(value, not event.style, event.tag, event.start_mark)
                nodes += 1
                text += len(value)
                if event.anchor is not None:
                    anchors[event.anchor] = node, _Size(1, len(value), 0)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if len(opened) >= NESTING_MAX:
                    raise _refused(f"nested deeper than {NESTING_MAX} levels", event)
                if event.anchor is not None:
                    anchors[event.anchor] = None
                nodes += 1
                opened.append(_Open(event, children, levels, nodes - 1, text))
                children = []
                levels = 0
                continue
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                start, siblings, outer, nodes_before, text_before = opened.pop()
                if kind is MappingEndEvent:
                    pairs = list(zip(children[::2], children[1::2], strict=True))
                    node = Mapping(pairs, start.tag, start.start_mark)
                else:
                    node = Sequence(children, start.tag, start.start_mark)
                children = siblings
                levels += 1
                if start.anchor is not None:
                    size = _Size(nodes - nodes_before, text - text_before, levels)
                    anchors[start.anchor] = node, size
                levels = max(levels, outer)
            else:
                node, size = self._alias(event)
                nodes += size.nodes
                text += size.text
                levels = max(levels, size.levels)
                if len(opened) + size.levels > NESTING_MAX:
                    raise _refused(f"nested deeper than {NESTING_MAX} levels", event)
            if nodes > NODES_MAX:
                raise _refused(f"more than {NODES_MAX} values", event)
            if text > INPUT_MAX:
                raise _refused(f"more than {INPUT_MAX} characters after expanding aliases", event)
            if not opened:
                return node
            children.append(node)

    def _alias(self, event: AliasEvent) -> tuple[Node, _Size]:
        try:
            known = self._anchors[event.anchor]
        except KeyError:
            raise _refused(f"no anchor {show(event.anchor)} stands before here", event) from None
        if known is None:
            raise _refused(f"the alias {show(event.anchor)} would contain itself", event)
        return known


def _refused(rule: str, event: Any) -> ManifestError:
    mark = event.start_mark
    return ManifestError(rule, line=mark.line + 1, column=mark.column + 1)
