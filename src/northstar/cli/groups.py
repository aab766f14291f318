"""Groups of commands that propose a name for an unknown one."""

from __future__ import annotations

from typing import ClassVar

import click


class SuggestingGroup(click.Group):
    """A group whose error about an unknown command says which one was probably meant.

    Attributes:
        OTHER_NAMES: names that other programs use, and the command that does it here.
    """

    OTHER_NAMES: ClassVar[dict[str, str]] = {}

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
