"""docs/reference/environment.md: the environment variables of the commands and of containers.

`reads` finds the variables in the source; each must have a text in TEXTS.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from northstar.launch.plan import environment
from northstar.manifest import loads
from reference import markdown, source
from reference.blocks import SECTION, Block, Terms, Text, Title, markdown_blocks

RUNTIME: Final = "northstar"
CLIENT: Final = "nstar"
TOOL: Final = "sextant"
COMMANDS: Final = (RUNTIME, CLIENT, TOOL)


class Variable(NamedTuple):
    """A variable that a command reads.

    Attributes:
        commands: the commands that read it.
        text: what it does.
    """

    commands: tuple[str, ...]
    text: str


TEXTS: Final[Mapping[str, Variable]] = {
    "NORTHSTAR_LOG": Variable(
        (RUNTIME,),
        "The lowest levels that are logged: `runtime=info,container=debug` (the default), or one "
        "level for both; the levels are `error`, `warn`, `info` and `debug`. `--log-level` has "
        "precedence for the runtime. At `debug` the log contains the output of containers with "
        "`io: pipe`, the peers of all connections, and what apps send to their notify sockets: it "
        "is as confidential as these.",
    ),
    "JOURNAL_STREAM": Variable(
        (RUNTIME,),
        "Device and inode of the journal's stream, set by systemd. If stderr is that stream, lines "
        "begin with a priority in place of the time.",
    ),
    "NOTIFY_SOCKET": Variable(
        (RUNTIME,),
        "The socket of the service manager. The runtime sends READY=1, STOPPING=1 and, with a "
        "watchdog, WATCHDOG=1 to it, see sd_notify(3).",
    ),
    "WATCHDOG_USEC": Variable(
        (RUNTIME,),
        "The watchdog interval of the service manager in microseconds. The runtime sends a message "
        "in half of it.",
    ),
    "WATCHDOG_PID": Variable(
        (RUNTIME,),
        "The process whose watchdog it is. If it is not that of the runtime, there is none.",
    ),
    "NORTHSTAR_URL": Variable(
        (CLIENT,),
        "The address of the console, `unix:///PATH` or `tcp://HOST[:PORT]`. `--url` has "
        "precedence. Without both it is `unix:///run/northstar/console` if that exists, else "
        "`tcp://localhost:4200`.",
    ),
    "NORTHSTAR_CONSOLE": Variable(
        (),
        "In a container: the number of the descriptor of its console. `from_env` of the Python "
        "clients reads it; the commands do not.",
    ),
    "NORTHSTAR_DEBUG": Variable(
        COMMANDS,
        "With the value `1`, an error is printed with its Python traceback. It shows paths and "
        "values of the program, and belongs into a report of an error.",
    ),
    "NO_COLOR": Variable(
        COMMANDS,
        "If it is not empty, output on a terminal is not coloured, see https://no-color.org.",
    ),
    "TERM": Variable(
        (CLIENT,),
        "The kind of terminal. With `dumb`, nothing is drawn again in place. `nstar exec -t` "
        "passes it to the program.",
    ),
    "SOURCE_DATE_EPOCH": Variable(
        (TOOL,),
        "Seconds since 1970: the time of all files in an image and in a package; 0 by default, so "
        "that equal contents make equal packages.",
    ),
    "COMP_LINE": Variable(COMMANDS, "Set by a shell that completes a command: the line."),
    "COMP_WORDBREAKS": Variable(
        COMMANDS, "Set by bash that completes a command: the characters that end a word."
    ),
}
"""The variables that `reads` finds."""

BY_LIBRARIES: Final[Mapping[str, Variable]] = {
    "PATH": Variable(
        (TOOL,),
        "Where the programs mksquashfs, unsquashfs and mkfs.erofs are searched.",
    ),
    "TMPDIR": Variable((TOOL,), "The directory of temporary files; `/tmp` by default."),
    "_NSTAR_COMPLETE": Variable(
        COMMANDS,
        "Set by the script of `completion`: the command prints completions and ends.",
    ),
}
"""Variables that are read by Python's library, or whose names are made of that of the command."""

WHOLE: Final[Mapping[str, str]] = {
    "npk/tools.py": "The tools of file systems get the environment of sextant, with LC_ALL=C.",
    "launch/launcher.py": "The launcher gets the environment of the runtime; containers do not.",
    "cli/run_command.py": "The private runtime of `sextant run` gets that of sextant.",
}
"""Files that pass the whole environment on, with what gets it."""

COMPUTED: Final = ("cli/common.py", "cli/nstar_plain.py")
"""Files that read a variable whose name is computed: `_NSTAR_COMPLETE`."""

CONTAINER_TEXTS: Final[Mapping[str, str]] = {
    "NORTHSTAR_NAME": "The name of the container.",
    "NORTHSTAR_VERSION": "Its version.",
    "NORTHSTAR_CONTAINER": "Both, as `hello:1.0.0`.",
    "NORTHSTAR_CONSOLE": "The number of the descriptor of its console, if the manifest has "
    "`console`.",
    "NORTHSTAR_SOCKET_NAME": "For each socket NAME of the manifest: the number of the descriptor.",
    "NOTIFY_SOCKET": "The path of its notify socket, if the manifest has `service.notify`, see "
    "sd_notify(3).",
    "WATCHDOG_USEC": "The interval of `service.watchdog` in microseconds.",
}
"""The variables that the runtime adds to those of the manifest."""

_EVERYTHING: Final = """
name: everything
version: 1.0.0
init: /init
uid: 1000
gid: 1000
console:
  permissions: [ident]
sockets:
  NAME: {type: stream, mode: 0o600}
service:
  notify: /run/notify
  ready: {probe: notify}
  watchdog: 30s
"""

_INTRODUCTION: Final = """
The variables that the commands read, and those that programs in containers get.
"""

_CONTAINERS: Final = """
The environment of a container consists of `env` of its manifest and these. Nothing is inherited
from the runtime. The first four names and those of the notify socket are reserved: `env` and
requests may not set them. A program that `nstar exec` executes gets `env`, the variables of the
request, NORTHSTAR_NAME, NORTHSTAR_VERSION and NORTHSTAR_CONTAINER.
"""


class Read(NamedTuple):
    """A place in the source that uses the environment.

    Attributes:
        name: the variable; empty if the place uses all, or one whose name is computed.
        module: the file, relative to the package.
        line: the number of its line.
    """

    name: str
    module: str
    line: int


def pages() -> dict[str, str]:
    """Return the page by its path."""
    page = markdown.page(
        "Environment", "src/northstar and reference/environment.py", markdown_blocks(blocks())
    )
    return {"docs/reference/environment.md": page}


def blocks() -> Iterator[Block]:
    """Yield the text of the page."""
    yield Text(_INTRODUCTION.strip())
    for command in COMMANDS:
        yield Title(SECTION, f"Read by {command}")
        yield Terms(("variable", "meaning"), tuple(variables(command)))
    names = sorted({read.name for read in reads() if read.module.startswith("client/")})
    yield Title(SECTION, "Read by the Python clients")
    yield Terms(("variable", "meaning"), tuple((name, TEXTS[name].text) for name in names))
    yield Title(SECTION, "In containers")
    yield Text(_CONTAINERS.strip())
    yield Terms(
        ("variable", "value"), tuple((name, CONTAINER_TEXTS[name]) for name in in_containers())
    )
    yield Title(SECTION, "Passed on")
    yield Text(" ".join(dict.fromkeys(WHOLE[name] for name in WHOLE if name in whole_readers())))


def variables(command: str) -> Iterator[tuple[str, str]]:
    """Yield the variables of a command with their texts, sorted.

    Raises:
        KeyError: the source reads a variable that has no text.
    """
    found = {read.name: TEXTS[read.name] for read in reads() if read.name}
    for name, variable in sorted((found | dict(BY_LIBRARIES)).items()):
        if command in variable.commands:
            shown = name.replace("NSTAR", command.upper()) if name == "_NSTAR_COMPLETE" else name
            yield shown, variable.text


def in_containers() -> list[str]:
    """Return the names of all variables that the runtime adds, in its order."""
    return list(environment(loads(_EVERYTHING), {}))


def whole_readers() -> set[str]:
    """Return the files that use the environment as a whole, or by a computed name."""
    return {read.module for read in reads() if not read.name}


@functools.cache
def reads() -> list[Read]:
    """Return all places in the source that use the environment."""
    trees = source.trees(r"environ|envvar|getenv")
    constants = {name: text for tree in trees.values() for name, text in _constants(tree)}
    return [read for module, tree in trees.items() for read in reads_of(tree, module, constants)]


def reads_of(tree: ast.Module, module: str, constants: Mapping[str, str]) -> Iterator[Read]:
    """Yield the places in one file."""
    known: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case (
                ast.Call(func=ast.Attribute(value=owner, attr="get" | "setdefault"), args=[key, *_])
                | ast.Subscript(value=owner, slice=key)
                | ast.Compare(left=key, ops=[_], comparators=[owner])
            ) if _is_environment(owner):
                known.add(id(owner))
                name = _name(key, constants)
                if name or _is_own(owner):
                    yield Read(name, module, node.lineno)
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="os"), attr="getenv"), args=[key, *_]
            ):
                yield Read(_name(key, constants), module, node.lineno)
            case ast.keyword(arg="envvar", value=key):
                yield Read(_name(key, constants), module, key.lineno)
    known |= _stand_ins(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_own(node) and id(node) not in known:
            yield Read("", module, node.lineno)


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        match node:
            case (
                ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text)))
                | ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text)))
            ):
                yield name, text


def _name(key: ast.expr, constants: Mapping[str, str]) -> str:
    match key:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) if name in constants:
            return constants[name]
        case ast.Attribute(attr=name) if name in constants:
            return constants[name]
    return ""


def _is_environment(node: ast.AST) -> bool:
    """Return whether an expression is the environment, or a parameter that stands for it."""
    return _is_own(node) or (isinstance(node, ast.Name) and node.id == "environment")


def _is_own(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb"):
            return True
    return False


def _stand_ins(tree: ast.Module) -> set[int]:
    """Return the expressions whose value gets the name `environment`, which is read in their place.

    These are defaults of parameters, and the first values of conditional expressions.
    """
    found: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.arguments(defaults=defaults, kw_defaults=others):
                found |= {id(default) for default in (*defaults, *others)}
            case ast.Assign(targets=[ast.Name(id="environment")], value=ast.IfExp(body=own)):
                found.add(id(own))
    return found
