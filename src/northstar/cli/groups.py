"""Groups of commands: some are loaded on first use; for an unknown one a name is proposed."""

from __future__ import annotations

import importlib
from typing import ClassVar

import click


class CommandGroup(click.Group):
    """A group whose error about an unknown command says which one was probably meant.

    Attributes:
        ALIASES: second, shorter names.
        OTHER_NAMES: names that other programs use, and the command that does it here.
        LATER: the commands that are loaded on first use: module of northstar.cli and attribute.
    """

    ALIASES: ClassVar[dict[str, str]] = {}
    OTHER_NAMES: ClassVar[dict[str, str]] = {}
    LATER: ClassVar[dict[str, tuple[str, str]]] = {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by one of its names."""
        if cmd_name in self.LATER:
            module, attribute = self.LATER[cmd_name]
            found = importlib.import_module(f"northstar.cli.{module}")
            command: click.Command = getattr(found, attribute)
            return command
        return super().get_command(ctx, self.ALIASES.get(cmd_name, cmd_name))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted([*super().list_commands(ctx), *self.LATER])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the first argument.

        Raises:
            click.UsageError: there is none.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if not args or args[0].startswith("-"):
                raise
            from northstar.model.similar import similar

            name = args[0]
            meant = self.OTHER_NAMES.get(name) or similar(name, self.list_commands(ctx))
            text = f"No such command {name!r}."
            if meant is not None:
                text += f" Did you mean {meant!r}?"
            raise click.UsageError(text, ctx) from None
