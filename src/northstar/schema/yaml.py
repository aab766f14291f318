"""Parses YAML to nodes, from the events of libyaml.

Only the events are used: the later stages of a YAML library (composer, constructor) lose the source
text of scalars, and have no bounds. Facts behind this module:

- A recursive composer overflows the stack on `[[[[...`: here a list keeps the open levels.
- Aliases can expand a kilobyte to a gigabyte. They are not copied, and count with their full size.
- libyaml compares each %TAG directive with all before it, and does not release the GIL meanwhile.
- libyaml accepts UTF-16 with a byte order mark. Here the caller decodes, strictly as UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from northstar.model import NorthstarError
from northstar.model.text import quote
from northstar.schema._libyaml import (
    CParser,
    MappingEndEvent,
    MappingStartEvent,
    MarkedYAMLError,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    YAMLError,
)
from northstar.schema.context import Context
from northstar.schema.node import (
    INPUT_MAX,
    NESTING_MAX,
    NODES_MAX,
    Mapping,
    Node,
    Scalar,
    Sequence,
)

_DIRECTIVES_MAX: Final = 1000
"""Most occurrences of `%TAG`. libyaml takes seconds for more, and no manifest needs one."""


def parse(data: bytes, context: Context[Any]) -> Node:
    """Return the document.

    Args:
        data: UTF-8 without a byte order mark.
        context: makes the errors.

    Raises:
        NorthstarError: it is not one document of YAML, or exceeds a bound.
    """
    if data.count(b"%TAG") > _DIRECTIVES_MAX:
        raise context.error("more %TAG directives than a manifest can need")
    try:
        return _Composer(CParser(data), context).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise context.error(
            f"not YAML: {error.problem or error.context}",
            place=None if mark is None else (mark.line + 1, mark.column + 1),
            hint=(
                "indent with spaces, not with tabs"
                if " tab" in (error.problem or "") or "'\\t'" in (error.problem or "")
                else "correct the syntax"
            ),
        ) from None
    except YAMLError as error:
        # Not imported above: it takes 5 ms.
        from yaml.reader import ReaderError

        if not isinstance(error, ReaderError):
            raise
        line = data.count(b"\n", 0, error.position) + 1
        column = error.position - data.rfind(b"\n", 0, error.position)
        rule = f"not YAML: the character {error.character:#06x} must not stand in it"
        raise context.error(rule, place=(line, column), hint="remove it") from None


class _Size(NamedTuple):
    """Size of a node with its aliases expanded."""

    nodes: int
    text: int
    levels: int


class _Composer:
    def __init__(self, parser: CParser, context: Context[NorthstarError]) -> None:
        self._context = context
        # Any: the stubs do not declare the attributes of the events.
        self._next: Callable[[], Any] = parser.get_event
        # None: the anchor's node is not complete.
        self._anchors: dict[str, Node | None] = {}
        self._sizes: dict[int, _Size] = {}

    def document(self) -> Node:
        """Return the only document."""
        self._next()
        if type(self._next()) is StreamEndEvent:
            raise self._context.error(
                "the manifest is empty", hint="write at least name, version, uid and gid"
            )
        root = self._root()
        self._next()
        event = self._next()
        if type(event) is not StreamEndEvent:
            raise self._refused(
                "a manifest is a single document, and here another one starts", event
            )
        return root

    def _root(self) -> Node:
        """Return the node that starts with the next event.

        One loop, for speed: a manifest of 40 lines has 200 events.
        """
        next_event, anchors = self._next, self._anchors
        # The open maps and lists: their start event, and their siblings so far.
        opened: list[tuple[Any, list[Node]]] = []
        children: list[Node] = []
        nodes = aliased_text = 0
        node: Node
        while True:
            event = next_event()
            kind = type(event)
            if kind is ScalarEvent:
                node = Scalar(event.value, not event.style, event.tag, event.start_mark)
                nodes += 1
                if event.anchor is not None:
                    anchors[event.anchor] = node
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if len(opened) >= NESTING_MAX:
                    raise self._refused(self._context.words.too_deep, event)
                if event.anchor is not None:
                    anchors[event.anchor] = None
                nodes += 1
                opened.append((event, children))
                children = []
                continue
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                start, siblings = opened.pop()
                if kind is MappingEndEvent:
                    pairs = list(zip(children[::2], children[1::2], strict=True))
                    node = Mapping(pairs, start.tag, start.start_mark)
                else:
                    node = Sequence(children, start.tag, start.start_mark)
                children = siblings
                if start.anchor is not None and anchors[start.anchor] is None:
                    # Else a node inside has redefined the anchor.
                    anchors[start.anchor] = node
            else:
                node, size = self._alias(event)
                nodes += size.nodes
                aliased_text += size.text
                if len(opened) + size.levels > NESTING_MAX:
                    raise self._refused(self._context.words.too_deep, event)
                if aliased_text > INPUT_MAX:
                    raise self._refused(
                        f"aliases stand for more than {INPUT_MAX} characters", event
                    )
            if nodes > NODES_MAX:
                raise self._refused(f"more than {NODES_MAX} values", event)
            if not opened:
                return node
            children.append(node)

    def _alias(self, event: Any) -> tuple[Node, _Size]:
        try:
            node = self._anchors[event.anchor]
        except KeyError:
            raise self._refused(
                f"no anchor {quote(event.anchor)} stands before here", event
            ) from None
        if node is None:
            raise self._refused(f"the alias {quote(event.anchor)} would contain itself", event)
        return node, self._size(node)

    def _size(self, node: Node) -> _Size:
        """Measure a node. Recursion is safe: nesting is bounded."""
        if type(node) is Scalar:
            return _Size(1, len(node.text), 0)
        known = self._sizes.get(id(node))
        if known is None:
            nodes, text, levels = 1, 0, 0
            for child in _children(node):
                size = self._size(child)
                nodes += size.nodes
                text += size.text
                levels = max(levels, size.levels)
            known = self._sizes[id(node)] = _Size(nodes, text, levels + 1)
        return known

    def _refused(self, rule: str, event: Any) -> NorthstarError:
        mark = event.start_mark
        return self._context.error(rule, place=(mark.line + 1, mark.column + 1))


def _children(node: Node) -> Iterator[Node]:
    if type(node) is Mapping:
        for pair in node.pairs:
            yield from pair
    elif type(node) is Sequence:
        yield from node.items
