"""`sextant`: creates, shows and unpacks packages."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import ClassVar, Final

import click

from northstar import __version__
from northstar.cli.common import FAILED, run, warn
from northstar.cli.groups import CommandGroup
from northstar.model import printable

LARGE: Final = 16 * 2**20
"""Smallest size of a root directory for which a progress bar is drawn, in bytes."""

# Each command imports the package `npk` itself: `--help` and completions do not wait for it.


class Commands(CommandGroup):
    """The commands of sextant."""

    LATER: ClassVar = {
        "completion": ("completion", "completion"),
        "diff": ("diff_command", "diff"),
        "key-list": ("key_list", "key_list"),
        "new": ("new_command", "new"),
        "run": ("run_command", "run"),
        "verify": ("verify_command", "verify"),
    }


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def sextant() -> None:
    """Create, check, run and show Northstar packages."""


lenient_option = click.option(
    "--lenient",
    is_flag=True,
    help="Only warn about what the runtime and Northstar 0.9.2 accept: unknown keys below cgroups, "
    "and a program that is missing or cannot be executed.",
)


@sextant.command()
@click.option("-m", "--manifest-path", required=True, metavar="FILE", help="The manifest.")
@click.option("-r", "--root", metavar="DIR", help="The container's files; default: none.")
@click.option("-k", "--key", metavar="FILE", help="The secret key (NAME.key) to sign with.")
@click.option(
    "-o", "--out", required=True, metavar="PATH", help="The package, or the directory for it."
)
@click.option(
    "-c",
    "--compression",
    metavar="NAME",
    help="none, gzip (default), lzo, xz or zstd; for EROFS none, lz4 or lz4hc (default).",
)
@click.option(
    "-b", "--block-size", type=int, metavar="BYTES", help="Block size of the squashfs image."
)
@click.option(
    "--clones", type=int, metavar="N", help="Create N packages, NAME-0 and so on, in a directory."
)
@click.option(
    "--salt",
    metavar="HEX",
    help="Salt of the hash tree, 32 bytes: equal salts give equal packages; default: random.",
)
@click.option(
    "-f",
    "--fs",
    type=click.Choice(["squashfs", "erofs"]),
    default="squashfs",
    show_default=True,
    help="The file system of the image.",
)
@click.option("--mksquashfs", metavar="PATH", help="The program mksquashfs.")
@lenient_option
def pack(
    manifest_path: str,
    root: str | None,
    key: str | None,
    out: str,
    compression: str | None,
    block_size: int | None,
    salt: str | None,
    clones: int | None,
    fs: str,
    mksquashfs: str | None,
    lenient: bool,
) -> None:
    """Create a package from a manifest and a root directory.

    The manifest is checked as by `sextant check`.
    """
    from northstar import npk
    from northstar.cli.examine import manifest_of

    manifest = manifest_of(manifest_path, root, lenient=lenient)
    with contextlib.ExitStack() as stack:
        packed = npk.pack(
            manifest,
            root,
            out,
            key=None if key is None else npk.load_secret_key(key),
            salt=None if salt is None else _salt(salt),
            compression=compression,
            block_size=block_size,
            clones=clones,
            mksquashfs=mksquashfs,
            fs="erofs" if fs == "erofs" else "squashfs",
            progress=_bar(stack, f"packing {root}") if sys.stderr.isatty() else None,
        )
    for warning in packed.warnings:
        warn(warning)
    for path in packed.paths:
        click.echo(f"packed {printable(path)}")


def _salt(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not hexadecimal", param_hint="--salt") from None


def _bar(stack: contextlib.ExitStack, title: str) -> Callable[[int, int], None]:
    """Return a function that draws a progress bar if the total is large."""
    draw: Callable[[int, int], None] | None = None

    def advance(done: int, total: int) -> None:
        nonlocal draw
        if draw is None and total >= LARGE:
            from northstar.cli.progress import progress

            draw = stack.enter_context(progress(title))
        if draw is not None:
            draw(done, total)

    return advance


@sextant.command()
@click.option("-n", "--npk", "path", required=True, metavar="FILE", help="The package.")
@click.option("-o", "--out", required=True, metavar="DIR", help="The directory for its parts.")
@click.option("--unsquashfs", metavar="PATH", help="The program unsquashfs.")
def unpack(path: str, out: str, unsquashfs: str | None) -> None:
    """Write manifest.yaml, signature.yaml and root/ of a package into a directory."""
    from northstar import npk

    with npk.open(path) as package:
        for warning in npk.unpack(package, out, unsquashfs=unsquashfs):
            warn(warning)


@sextant.command()
@click.option("-s", "--short", is_flag=True, help="One line.")
@click.option("--unsquashfs", metavar="PATH", help="The program unsquashfs.")
@click.argument("path", metavar="NPK")
def inspect(path: str, *, short: bool, unsquashfs: str | None) -> None:
    """Show the contents of a package."""
    from northstar import npk

    with npk.open(path) as package:
        if short:
            resource = "no" if package.manifest.is_app else "yes"
            click.echo(
                f"name: {package.manifest.name}, version: {package.manifest.version}, "
                f"NPK version: {package.version}, resource container: {resource}"
            )
            return
        package.check_image()
        kind = {"squashfs": "SquashFS", "erofs": "EROFS"}[package.filesystem]
        listing = npk.list_image(package, unsquashfs=unsquashfs)
        content = "".join(
            f"{entry.name} ({entry.size} bytes at offset {entry.offset})\n"
            for entry in package.entries()
        )
        sections = [
            ("## NPK Content", content),
            ("## manifest.yaml", _text(package.read_entry("manifest.yaml"))),
            ("## signature.yaml", _text(package.read_entry("signature.yaml")))
            if package.signed
            else ("No signature found", ""),
            (f"## {kind} listing", listing),
        ]
    for title, body in sections:
        click.echo(title)
        click.echo(f"{printable(body, lines=True).strip()}\n" if body else "")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


@sextant.command("gen-key")
@click.option("-n", "--name", required=True, help="Name of the files.")
@click.option("-o", "--out", required=True, metavar="DIR", help="The directory for the files.")
def gen_key(name: str, out: str) -> None:
    """Create a key pair: NAME.key, which is secret, and NAME.pub."""
    from northstar import npk

    secret, public = npk.generate(name, out)
    click.echo(
        f"created {printable(secret)} (keep it secret, and on this machine) and "
        f"{printable(public)} (copy it to the device)"
    )


@sextant.command()
@click.option(
    "-r", "--root", metavar="DIR", help="The container's files: look for its program there."
)
@lenient_option
@click.argument("path", metavar="MANIFEST")
def check(path: str, root: str | None, *, lenient: bool) -> int:
    """Report all errors of a manifest, and settings that are probably mistakes."""
    from northstar.cli.examine import examine

    examined = examine(path, root, lenient=lenient)
    for warning in examined.warnings:
        warn(warning)
    for error in examined.errors:
        click.echo(printable(f"error: {error}"), err=True)
    if examined.errors:
        return FAILED
    manifest = examined.manifest
    assert manifest is not None, "no errors, but no manifest"
    kind = "app" if manifest.is_app else "resource"
    click.echo(f"{printable(path)}: {manifest.container}, {kind}")
    return 0


@sextant.command()
def schema() -> None:
    """Print the JSON Schema of manifests, for editors."""
    import json

    from northstar.manifest import schema as manifest_schema

    click.echo(json.dumps(manifest_schema(), indent=2))


def main() -> None:
    """Entry point."""
    run(sextant)
