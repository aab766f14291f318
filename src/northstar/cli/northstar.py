"""`northstar`: the runtime as a command."""

from __future__ import annotations

import click

from northstar import __version__
from northstar.cli.common import run as run_command
from northstar.runtime import logs
from northstar.runtime.config import load
from northstar.runtime.main import run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "path",
    default="northstar.toml",
    show_default=True,
    metavar="FILE",
    help="The configuration.",
)
@click.option(
    "-d",
    "--disable-mount-namespace",
    is_flag=True,
    help="Stay in the host's mount namespace: mounts are seen outside, and outlive a crash.",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS),
    help="What the runtime logs at least; NORTHSTAR_LOG=runtime=info,container=debug sets both.",
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def northstar(path: str, disable_mount_namespace: bool, log_level: str | None) -> None:
    """Run the Northstar container runtime until it is told to shut down.

    SIGINT, SIGTERM and SIGHUP, or a `shutdown` request over the console, end it in order.
    """
    config = load(path)
    logs.setup(log_level)
    run(config, mount_namespace=not disable_mount_namespace)


def main() -> None:
    """Entry point."""
    run_command(northstar)
