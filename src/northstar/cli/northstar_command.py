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
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def northstar(path: str, disable_mount_namespace: bool, log_level: str | None) -> None:
    """Run the Northstar container runtime until it is shut down.

    SIGINT, SIGTERM, SIGHUP, or a `shutdown` request on the console shut it down.
    """
    config = load(path)
    # Before any thread is started: a thread inherits the signal mask of the one that starts it.
    signals.hold()
    logs.setup(log_level)
    logs.capture_streams()
    _load_runtime()(config, mount_namespace=not disable_mount_namespace)


def _load_runtime() -> Callable[..., None]:
    """Import the runtime: most of the start-up time, which help and usage errors avoid."""
    _import_asyncio()
    from northstar.runtime.main import run

    # Imported objects stay until the end, so the collector need not examine them.
    gc.freeze()
    gc.enable()
    return run


def _import_asyncio() -> None:
    """Import asyncio without ssl, which asyncio imports if available and the runtime does not use.

    ssl costs 1.2 MB of resident memory (0.95 of 17.9 MB PSS) and a tenth of the import time of
    asyncio (CPython 3.11). asyncio supports a Python without ssl (`configure` without OpenSSL), and
    None in sys.modules is the documented way to make an import fail (the language reference, "The
    module cache"). There is no other way: asyncio's modules import ssl unconditionally.
    """
    if "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio
    except ImportError:
        # An asyncio that requires ssl is imported with it, below. This only costs memory.
        pass
    finally:
        del sys.modules["ssl"]
    import asyncio  # noqa: F401
