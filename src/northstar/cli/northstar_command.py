"""The options of `northstar`, the runtime as a command."""

from __future__ import annotations

import click

from northstar import __version__
from northstar.cli.northstar import start
from northstar.runtime import logs


def _print_schema() -> None:
    import json

    from northstar.runtime.config import schema

    click.echo(json.dumps(schema(), indent=2))


def _print_script(context: click.Context, _: click.Parameter, shell: str | None) -> None:
    if shell is not None and not context.resilient_parsing:
        from northstar.cli.completion import write_script

        write_script(context, shell, None)
        context.exit()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "path",
    default="northstar.toml",
    show_default=True,
    metavar="FILE",
    help="The configuration file.",
)
@click.option(
    "-d",
    "--disable-mount-namespace",
    is_flag=True,
    help="Stay in the host's mount namespace: mounts are visible there, and remain after a crash.",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS),
    help="Lowest level that the runtime logs; NORTHSTAR_LOG=runtime=info,container=debug sets "
    "also that of containers.",
)
@click.argument("action", type=click.Choice(["schema"]), required=False)
@click.option(
    "--completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    is_eager=True,
    expose_value=False,
    callback=_print_script,
    help="Print a script for completion in a shell, and exit.",
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def northstar(
    path: str, disable_mount_namespace: bool, log_level: str | None, action: str | None
) -> None:
    """Run the Northstar container runtime until it is shut down.

    SIGINT, SIGTERM, SIGHUP, or a `shutdown` request on the console shut it down.

    `northstar schema` prints the JSON Schema of the configuration, for editors, and ends.
    """
    if action == "schema":
        _print_schema()
        return
    start(path, mount_namespace=not disable_mount_namespace, log_level=log_level)
