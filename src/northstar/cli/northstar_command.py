"""`northstar`: the runtime as a command."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import click

from northstar import __version__
from northstar.runtime import logs, signals
from northstar.runtime.config import load


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
    # Before any thread is there: each takes the mask of the one that starts it.
    signals.hold()
    logs.setup(log_level)
    logs.capture_streams()
    _load_runtime()(config, mount_namespace=not disable_mount_namespace)


def _load_runtime() -> Callable[..., None]:
    """Import the runtime: most of the start, which help and usage errors can do without."""
    _import_asyncio()
    from northstar.runtime.main import run

    # What has come in stays, so it need not be looked at either.
    gc.freeze()
    gc.enable()
    return run


def _import_asyncio() -> None:
    """Import asyncio without ssl, which it imports if it can, for connections that we do not have.

    ssl costs 1.2 MB of resident memory (0.95 of 17.9 MB PSS) and a tenth of the time that asyncio
    takes (CPython 3.11). asyncio supports a Python without it (`configure` without OpenSSL), and
    None in sys.modules is the documented way to have an import fail (the language reference, "The
    module cache"). There is no other: asyncio imports ssl in its own modules, unconditionally.
    """
    if "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio
    except ImportError:
        # An asyncio that does need it is imported with it, below: memory is all that it costs.
        pass
    finally:
        del sys.modules["ssl"]
    import asyncio  # noqa: F401
