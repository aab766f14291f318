"""docs/reference/log-lines.md: the lines that the runtime logs.

The lines are found in the source: calls of loggers, the action `Log` of the core, and the function
of `logs.first_few`. So the page has all of them, and nothing else.
"""

from __future__ import annotations

import ast
import copy
import functools
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from reference import markdown, source
from reference.blocks import SECTION, Block, Terms, Text, Title, markdown_blocks

LEVELS: Final = ("error", "warning", "info", "debug")

_LOGGERS: Final = ("log", "self._log")
_NAMED: Final = ("signal_name",)
"""Functions whose result is better named after them than after their argument."""
_FORMAT: Final = re.compile(r"%(?:[-+ #0]*\d*(?:\.\d+)?([sdrxgf])|(%))")
_WORDS: Final = {
    "ENDED": "REASON",
    "ERROR": "REASON",
    "EXC": "REASON",
    "FAILURE": "REASON",
    "STRERROR": "REASON",
    "MESSAGE": "TEXT",
    "SENTENCE": "TEXT",
    "TOOK": "TIME",
    "UPTIME": "TIME",
    "EXCEPTION": "REASON",
    "SIGNAL_NAME": "SIGNAL",
}
"""Names of variables that are not clear to a reader, and the words for them."""

STABLE: Final = (
    ("Runtime up and running", "the boot is complete: the console answers requests."),
    ("Shutdown complete", "the last line: all containers have ended."),
    ("Client PEER connected with permissions PERMISSIONS", "a client was accepted."),
    ("Container CONTAINER connected with permissions PERMISSIONS", "so was an app's console."),
    ("Successfully installed CONTAINER", "a package was stored."),
    ("Mounted CONTAINER", "its image was mounted."),
    ("Umounted CONTAINER", "its image was unmounted."),
    ("Started CONTAINER (PID) in TIME", "its payload was executed; TIME is such as `0.012s`."),
    ("Killing CONTAINER with SIGNAL", "a signal is sent to it."),
    (
        "Process CONTAINER exited after TIME with status STATUS",
        "it ended. STATUS is `Exit(0)` or `Signalled(SIGTERM)`.",
    ),
    (
        "Critical process CONTAINER exited after TIME with status STATUS",
        "so did one that is critical: the runtime shuts down, with the level error.",
    ),
    ("Container CONTAINER exited with status STATUS", "all that it held is released."),
    ("Process CONTAINER is out of memory", "the kernel reported it."),
    ("Wiping persistent data dir PATH of CONTAINER", "an uninstall removes its data."),
)
"""Lines that other programs may look for, with their meaning. tests/system requires them."""

_INTRODUCTION: Final = """
The runtime logs to stderr, one line for each event: time, level, logger and text. If stderr is the
journal of systemd, a line begins with a priority such as `<6>`, see sd-daemon(3), in place of the
time. Control characters in a text are escaped. `--log-level` and `NORTHSTAR_LOG` set the lowest
level: see [environment](environment.md).

Words in capitals stand for values: CONTAINER for a name and a version such as `hello:1.0.0`, PEER
for a client such as `Remote(unix://unnamed)`, `Remote(tcp://127.0.0.1:40112)` or
`Container(hello:1.0.0)`, REASON for a sentence.
"""

_STABLE: Final = "Programs may look for these. They do not change within a major version."

_CONTAINERS: Final = """
A container whose manifest has `io: {stdout: pipe, stderr: pipe}` writes to this log too: each line
of its output is a line at the level debug, with the container in place of the logger. Bytes that
are not UTF-8 are escaped, long lines are split, and in a flood a part is left out, with a line that
counts the lost bytes. `nstar logs` shows the output of all containers: see
[logs](../logs.md).
"""

_ALL: Final = """
These texts are for people and may change with any version. Each is as it stands in the source: a
line without a fixed text is TEXT.
"""


class LogCall(NamedTuple):
    """A place in the source that logs.

    Attributes:
        level: one of LEVELS; empty if the place does not determine it.
        text: the text, with words in capitals for values.
        module: the file, relative to the package.
        line: the number of its line there.
    """

    level: str
    text: str
    module: str
    line: int


def pages() -> dict[str, str]:
    """Return the page by its path."""
    page = markdown.page("Log lines", "src/northstar", markdown_blocks(blocks()))
    return {"docs/reference/log-lines.md": page}


def blocks() -> Iterator[Block]:
    """Yield the text of the page."""
    yield Text(_INTRODUCTION.strip())
    yield Title(SECTION, "Stable lines")
    yield Text(_STABLE)
    found = calls()
    levels = {call.text: call.level for call in found}
    yield Terms(
        ("line", "level", "meaning"),
        tuple((text, levels[text], meaning) for text, meaning in STABLE),
    )
    yield Title(SECTION, "Output of containers")
    yield Text(_CONTAINERS.strip())
    yield Title(SECTION, "All lines")
    yield Text(_ALL.strip())
    rows: dict[str, set[tuple[str, str]]] = {level: set() for level in (*LEVELS, "")}
    for call in found:
        rows[call.level].add((call.text, f"`{call.module}`"))
    for level, lines in rows.items():
        if lines:
            yield Title(SECTION, f"Level {level}" if level else "Level as the case may be")
            yield Terms(("line", "source"), tuple(sorted(lines)))


@functools.cache
def calls() -> list[LogCall]:
    """Return all places in the source that log, without those that pass on the text of others."""
    return [
        call
        for module, tree in source.trees(r"\blog\.|_log\.|Log\(|first_few").items()
        for call in calls_of(tree, module)
        if call.level or call.text != "TEXT"
    ]


def calls_of(tree: ast.Module, module: str) -> Iterator[LogCall]:
    """Yield the places in one file that log."""
    constants = dict(_constants(tree))
    few = dict(_first_few(tree))
    for whole in ast.walk(tree):
        if isinstance(whole, ast.Call):
            for node in _alternatives(whole):
                yield from _call(node, module, constants, few)


def _alternatives(node: ast.Call) -> list[ast.Call]:
    """Return a call once for each value of the conditions in its level and its text."""
    parts = [node, *node.args[:2]]
    parts += [part for text in node.args[:2] for part in getattr(text, "values", ())]
    if not any(isinstance(getattr(part, "value", part), ast.IfExp) for part in parts):
        return [node]
    return [_Branch(taken).visit(copy.deepcopy(node)) for taken in (True, False)]


class _Branch(ast.NodeTransformer):
    """Replaces conditional expressions by one of their branches."""

    def __init__(self, taken: bool) -> None:
        self._taken = taken

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """Return the branch."""
        return self.visit(node.body if self._taken else node.orelse)  # type: ignore[no-any-return]


def _call(
    node: ast.Call, module: str, constants: dict[str, str], few: dict[str, str]
) -> Iterator[LogCall]:
    name = ast.unparse(node.func)
    owner, _, method = name.rpartition(".")
    if owner in _LOGGERS and method in (*LEVELS, "exception"):
        level = "error" if method == "exception" else method
        text, values = node.args[0], node.args[1:]
    elif (owner in _LOGGERS and method == "log") or name == "Log":
        level = _level(node.args[0])
        text, values = node.args[1], node.args[2:]
    elif method == "first_few":
        level, text = _level(node.args[0]), node.args[1]
        values = [ast.Name("number"), *node.args[2:]]
    elif name in few:
        level, text, values = few[name], node.args[0], node.args[1:]
    else:
        return
    yield LogCall(
        level, _text(text, values, constants).replace("TIMEs", "TIME"), module, node.lineno
    )


def _level(node: ast.expr) -> str:
    match node:
        case ast.Attribute(value=ast.Name(id="logging"), attr=name):
            return name.lower()
    return ""


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the texts that are assigned to names, anywhere in the file."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text)))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text)))
            ):
                yield name, text


def _first_few(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the names that functions of `logs.first_few` have, with their levels."""
    for node in ast.walk(tree):
        match node:
            case ast.withitem(
                context_expr=ast.Call(func=ast.Attribute(attr="first_few"), args=[level, *_]),
                optional_vars=ast.Name(id=name),
            ):
                yield name, _level(level)


def _text(node: ast.expr, values: list[ast.expr], constants: dict[str, str]) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return _formatted(text, values, constants)
        case ast.JoinedStr(values=parts):
            texts = [
                part.value if isinstance(part, ast.Constant) else _value(part.value)
                for part in parts
                if isinstance(part, ast.Constant | ast.FormattedValue)
            ]
            return _formatted("".join(map(str, texts)), values, constants)
        case ast.Name(id=name) if name in constants:
            return _formatted(constants[name], values, constants)
    return "TEXT"


def _value(node: ast.expr) -> str:
    """Return what a part of a text stands for: its text if it is constant."""
    return str(node.value) if isinstance(node, ast.Constant) else word(node)


def _formatted(text: str, values: list[ast.expr], constants: dict[str, str]) -> str:
    """Return a format of `logging` with words in place of its values."""
    left = iter(values)

    def replaced(match: re.Match[str]) -> str:
        if match[2]:
            return "%"
        value = next(left, None)
        if isinstance(value, ast.Name) and value.id.isupper() and value.id in constants:
            return constants[value.id]
        if match[1] in "dx":
            return "N" if not isinstance(value, ast.Attribute) else word(value)
        return "VALUE" if value is None else word(value)

    return " ".join(_FORMAT.sub(replaced, text).split()) if values else " ".join(text.split())


def word(node: ast.expr) -> str:
    """Return the word in capitals for a value: `self.path` is PATH."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            found = name.strip("_").upper()
            return _WORDS.get(found, found)
        case ast.Call(func=ast.Name(id=name)) if name in _NAMED:
            return _WORDS[name.upper()]
        case ast.Call(args=[inner, *_]) | ast.Subscript(value=inner):
            return word(inner)
        case ast.Call(func=ast.Attribute(attr=name)) | ast.Call(func=ast.Name(id=name)):
            return name.strip("_").upper()
        case ast.Await(value=inner) | ast.BoolOp(values=[inner, *_]):
            return word(inner)
        case ast.IfExp(body=inner):
            return word(inner)
    return "VALUE"
