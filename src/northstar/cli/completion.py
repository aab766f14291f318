"""Completion in bash, zsh and fish: the scripts, and the words that they request.

The kind of a parameter's words follows from its metavar: what a help text calls CONTAINER is
completed as one in every command.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    _resolve_context,
    _resolve_incomplete,
    split_arg_string,
)

from northstar.cli.common import completion_variable

SHELLS: Final = ("bash", "zsh", "fish")

_CONNECT_TIMEOUT: Final = 1.0
"""Seconds that a runtime has to answer; a shell waits meanwhile."""

Words = Callable[[click.Context, str], Iterable[CompletionItem[str]]]
"""Returns the words for an incomplete one; the caller drops those that do not match."""


def _files(_: click.Context, incomplete: str) -> Iterable[CompletionItem[str]]:
    return [CompletionItem(incomplete, type="file")]


def _directories(_: click.Context, incomplete: str) -> Iterable[CompletionItem[str]]:
    return [CompletionItem(incomplete, type="dir")]


def _containers(context: click.Context, _: str) -> Iterable[CompletionItem[str]]:
    return _ask(context, lambda client: map(str, client.list()))


def _names(context: click.Context, _: str) -> Iterable[CompletionItem[str]]:
    return _ask(context, lambda client: {str(container.name) for container in client.list()})


def _repositories(context: click.Context, _: str) -> Iterable[CompletionItem[str]]:
    return _ask(context, lambda client: client.repositories())


def _ask(
    context: click.Context, request: Callable[[Any], Iterable[str]]
) -> Iterable[CompletionItem[str]]:
    """Ask the runtime. If it does not answer, or refuses, there are no words."""
    from northstar.client.blocking import Client

    try:
        url = context.find_root().params["url"]
        with Client.connect(url, timeout=_CONNECT_TIMEOUT) as client:
            return [CompletionItem(word) for word in sorted(request(client))]
    except Exception:
        # An error message would appear in the middle of the command line.
        return []


def _signals(_: click.Context, incomplete: str) -> Iterable[CompletionItem[str]]:
    # In the form that was begun: TERM or SIGTERM.
    long = bool(incomplete) and "SIG".startswith(incomplete[:3].upper())
    names = [member.name for member in signal.Signals]
    short = [CompletionItem(name.removeprefix("SIG")) for name in names]
    return [*short, *map(CompletionItem, names)] if long else short


def _permissions(_: click.Context, __: str) -> Iterable[CompletionItem[str]]:
    from northstar.model import Permission

    return [CompletionItem(permission.value) for permission in Permission]


def _capabilities(_: click.Context, __: str) -> Iterable[CompletionItem[str]]:
    from northstar.manifest import Capability

    return [CompletionItem(capability.name) for capability in Capability]


WORDS: Final[Mapping[str, Words]] = {
    **dict.fromkeys(
        ("A", "B", "FILE", "LIST", "MANIFEST", "NPK", "PATH", "PUB", "STRACE-LOG"), _files
    ),
    "CAPABILITY": _capabilities,
    "CONTAINER": _containers,
    "DIR": _directories,
    "PERMISSION": _permissions,
    "REPOSITORY": _repositories,
    "SIGNAL": _signals,
    "TARGET": _names,
    "USER": _names,
}
"""The words of each kind of parameter, by its metavar without brackets and dots."""

FREE: Final = frozenset(
    (
        "-- ARGS",
        "BYTES",
        "COMMAND [ARG",
        "COUNT",
        "HEX",
        "ID",
        "KEY=VALUE..] [INIT [ARGS",
        "N",
        "NAME",
        "NAME=VALUE",
        "SHARED",
        "STREAMS",
        "TIME",
        "TOKEN",
        "URL",
    )
)
"""The metavars of parameters that nothing can complete."""


def metavar(parameter: click.Parameter) -> str:
    """Return the metavar of a parameter without brackets and dots around it."""
    name = parameter.metavar or (parameter.name or "").upper()
    return name.removeprefix("[").removesuffix("]").removesuffix("..").rstrip(".]")


class _Words(ShellComplete):
    """Completes the parameters by their metavars."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        """Return the words that an incomplete one may become."""
        context = _resolve_context(self.cli, self.ctx_args, self.prog_name, args)
        found, incomplete = _resolve_incomplete(context, args, incomplete)
        words = WORDS.get(metavar(found)) if isinstance(found, click.Parameter) else None
        if words is None:
            return found.shell_complete(context, incomplete)
        return [
            item
            for item in words(context, incomplete)
            if item.type != "plain" or item.value.lower().startswith(incomplete.lower())
        ]


_BASH: Final = """\
%(complete_func)s() {
    local type value reply
    COMPREPLY=()
    reply=$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1") || return
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done <<<"$reply"
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(_Words, BashComplete):
    """Bash ends words at colons and equals signs, which NAME:VERSION contains.

    So the program divides the line into words. Bash replaces only the part after the last colon;
    so only that is printed.
    """

    source_template = _BASH

    def source(self) -> str:
        """Return the script. BashComplete would run bash to check its version."""
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words before the cursor, and the incomplete one."""
        line = os.environ.get("COMP_LINE")
        if line is None:
            # A script of an earlier version.
            return super().get_completion_args()
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        return words[1:], incomplete

    def complete(self) -> str:
        """Return the lines for the script."""
        args, incomplete = self.get_completion_args()
        items = self.get_completions(args, incomplete)
        if ":" in os.environ.get("COMP_WORDBREAKS", ""):
            if incomplete.startswith("-"):
                incomplete = incomplete.partition("=")[2]
            begun = incomplete[: incomplete.rfind(":") + 1]
            for item in items:
                item.value = item.value.removeprefix(begun)
        return "\n".join(map(self.format_completion, items))


class _Zsh(_Words, ZshComplete):
    pass


class _Fish(_Words, FishComplete):
    pass


_CLASSES: Final[Mapping[str, type[ShellComplete]]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def respond(command: click.Command, program: str, variable: str, instruction: str) -> int:
    """Print what a shell requests: words (`bash_complete`), or the script (`bash_source`).

    Returns:
        The exit code.
    """
    shell, _, wanted = instruction.partition("_")
    kind = _CLASSES.get(shell)
    if kind is None or wanted not in ("complete", "source"):
        return 1
    complete = kind(command, {}, program, variable)
    if text := complete.source() if wanted == "source" else complete.complete():
        click.echo(text)
    return 0


def write_script(context: click.Context, shell: str, output: str | None) -> None:
    """Write the script for completion of the program of `context`.

    Args:
        context: of any command of the program.
        shell: one of `SHELLS`.
        output: the file; None for stdout.

    Raises:
        OSError: the file cannot be written.
    """
    root = context.find_root()
    program = root.info_name or "nstar"
    kind = _CLASSES[shell](root.command, {}, program, completion_variable(program))
    script = kind.source()
    if output is None:
        print(script)
        return
    # A shell executes the file, so no other user may write to it, whatever the umask is.
    with open(output, "w", opener=lambda path, flags: os.open(path, flags, 0o644)) as file:
        file.write(script + "\n")


@click.command()
@click.option("-s", "--shell", type=click.Choice(SHELLS), required=True, help="The shell.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of stdout.")
@click.pass_context
def completion(context: click.Context, shell: str, output: str | None) -> None:
    """Print a script for completion in a shell.

    It completes commands, options and files.
    """
    write_script(context, shell, output)
