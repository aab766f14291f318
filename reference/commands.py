"""northstar(1), nstar(1) and sextant(1): the commands with all of their options.

The texts are those of `--help`: the docstrings of the commands, and `help` of their options.
Environment and exit codes are those of the pages about them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import click

from northstar.cli.northstar_command import northstar
from northstar.cli.nstar_commands import nstar
from northstar.cli.sextant import sextant
from reference import environment, mdoc
from reference.blocks import SECTION, SUBSECTION, Block, Code, Terms, Text, Title, mdoc_sections
from reference.exit_codes import CODES


class Manual(NamedTuple):
    """What the page of a command has beyond the texts of `--help`.

    Attributes:
        command: the command.
        summary: one phrase, for the section NAME.
        files: files with their meaning.
        examples: command lines.
        see_also: other manual pages.
    """

    command: click.Command
    summary: str
    files: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    see_also: tuple[str, ...]


MANUALS: Final[Mapping[str, Manual]] = {
    "northstar": Manual(
        northstar,
        "container runtime for embedded devices",
        (
            ("northstar.toml", "The configuration, see northstar.toml(5)."),
            (
                "run_dir, data_dir, socket_dir",
                (
                    "Directories that the configuration names: mounts of images and of containers, "
                    "persistent data, and sockets of containers."
                ),
            ),
            ("/run/northstar/console", "The socket of the console in the examples."),
        ),
        ("northstar --config /etc/northstar.toml", "northstar -c northstar.toml --log-level debug"),
        ("nstar(1)", "sextant(1)", "northstar.toml(5)", "northstar-console(7)", "systemd.exec(5)"),
    ),
    "nstar": Manual(
        nstar,
        "control a container runtime",
        (("/run/northstar/console", "The console, if it exists and no address is given."),),
        (
            "nstar --url unix:///run/northstar/console list",
            "nstar install hello-1.0.0.npk apps",
            "nstar start --wait hello",
            "nstar logs -f hello",
            "nstar exec -it hello /bin/sh",
            "nstar stop --timeout 5s hello:1.0.0",
        ),
        ("northstar(1)", "sextant(1)", "northstar-console(7)", "northstar-manifest(5)"),
    ),
    "sextant": Manual(
        sextant,
        "create, check, show and unpack packages of containers",
        (
            ("manifest.yaml", "The manifest of a package, see northstar-manifest(5)."),
            ("NAME.key", "A secret key, with the mode 0600. It stays on the build machine."),
            ("NAME.pub", "Its public key, for the `key` of a repository on the device."),
            ("NAME-VERSION.npk", "A package."),
        ),
        (
            "sextant gen-key --name build --out .",
            "sextant check manifest.yaml",
            "sextant pack -m manifest.yaml -r root -k build.key -o hello-1.0.0.npk",
            "sextant inspect --short hello-1.0.0.npk",
        ),
        ("northstar(1)", "nstar(1)", "northstar-manifest(5)", "mksquashfs(1)", "mkfs.erofs(1)"),
    ),
}
"""The manual pages, by the name of the command."""


def pages() -> dict[str, str]:
    """Return the manual pages by their paths."""
    return {f"docs/man/man1/{name}.1": page(name, manual) for name, manual in MANUALS.items()}


def page(name: str, manual: Manual) -> str:
    """Return the manual page of a command."""
    context = click.Context(manual.command, info_name=name)
    codes = [(title, rows) for title, rows in CODES.items() if title.split()[0] == name]
    sections = [
        mdoc.section("Synopsis", synopsis(name, manual.command.collect_usage_pieces(context))),
        *mdoc_sections(_description(manual.command, context)),
        *mdoc_sections(_variables(name)),
        *mdoc_sections([Title(SECTION, "Files"), Terms(("file", ""), manual.files)]),
        *mdoc_sections(_exit_status(name, codes)),
        *mdoc_sections([Title(SECTION, "Examples"), Code("\n".join(manual.examples))]),
        mdoc.see_also(*manual.see_also),
    ]
    return mdoc.page(
        name, 1, manual.summary, "src/northstar/cli and reference/commands.py", sections
    )


def synopsis(name: str, pieces: list[str]) -> str:
    """Return the lines of a synopsis: `[OPTIONS] COMMAND [ARGS]...` as macros."""
    lines = [f".Nm {name}\n"]
    for piece in pieces:
        word = re.sub(r"[\[\].]", "", piece).lower()
        more = " ..." if piece.endswith("...") else ""
        lines.append(f".Op Ar {word}{more}\n" if piece.startswith("[") else f".Ar {word}{more}\n")
    return "".join(lines)


def _description(command: click.Command, context: click.Context) -> Iterator[Block]:
    yield Title(SECTION, "Description")
    yield Text(help_text(command, context.info_name or ""))
    yield Terms(("option", ""), tuple(options(command, context)))
    if isinstance(command, click.Group):
        yield Title(SECTION, "Commands")
        yield from _commands(command, context, "")


def _commands(group: click.Group, context: click.Context, before: str) -> Iterator[Block]:
    for name, command, inner in subcommands(group, context):
        if isinstance(command, click.Group):
            yield from _commands(command, inner, f"{before}{name} ")
            continue
        usage = " ".join([before + name, *command.collect_usage_pieces(inner)])
        yield Title(SUBSECTION, before + name)
        yield Text(f"`{usage.replace('[OPTIONS]', '[options]')}`\n\n{help_text(command, name)}")
        yield Terms(("option", ""), tuple(options(command, inner)))


def subcommands(
    group: click.Group, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield the commands of a group that are not hidden: name, command and context."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield name, command, click.Context(command, info_name=name, parent=context)


def help_text(command: click.Command, name: str) -> str:
    """Return the text of a command.

    Raises:
        ValueError: it has none.
    """
    if not command.help:
        raise ValueError(f"the command {name} has no docstring")
    text = command.help.replace("\b\n", "").strip()
    return "\n\n".join([text, *([command.epilog] if command.epilog else [])])


def options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the options of a command with their texts, without --help.

    Raises:
        ValueError: an option has no text.
    """
    for parameter in command.get_params(context):
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        if "--help" in parameter.opts:
            continue
        if not parameter.help:
            raise ValueError(f"{context.command_path} {parameter.opts[-1]} has no help")
        term = ", ".join([*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag:
            term += f" {parameter.make_metavar(context)}"
        text = parameter.help if parameter.help.endswith(".") else f"{parameter.help}."
        if parameter.required:
            text += " It is required."
        if parameter.show_default and isinstance(parameter.default, str | int | float):
            text += f" The default is `{parameter.default}`."
        yield term, text


def _variables(name: str) -> Iterator[Block]:
    yield Title(SECTION, "Environment")
    yield Terms(("variable", ""), tuple(environment.variables(name)))


def _exit_status(
    name: str, codes: list[tuple[str, tuple[tuple[str, str], ...]]]
) -> Iterator[Block]:
    yield Title(SECTION, "Exit status")
    for title, rows in codes:
        if title != name:
            yield Title(SUBSECTION, title)
        yield Terms(("code", ""), rows)
