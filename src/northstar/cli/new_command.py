"""`sextant new`: makes the directory of a new app from a template."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from typing import Final

import click

from northstar.model import InvalidValueError, Name, PackageError, printable

TEMPLATES: Final = ("c", "python", "shell")
"""The directories in `templates`."""

MANIFEST: Final = "manifest.yaml"
SCHEMA: Final = "manifest.schema.json"
"""Files in each of them; the second one is written by this command."""

_LINKS: Final = {"python": {"root/lib": "usr/lib", "root/lib64": "usr/lib64"}}
"""Symbolic links of a template: a wheel cannot contain any."""

_PLACEHOLDER: Final = b"@NAME@"


@click.command()
@click.option(
    "--template",
    type=click.Choice(TEMPLATES),
    default="c",
    show_default=True,
    help="The language of its program.",
)
@click.option(
    "--capability",
    "capabilities",
    multiple=True,
    metavar="CAPABILITY",
    help="A capability of its process, as CAP_NET_RAW; several with several options.",
)
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    metavar="PERMISSION",
    help="A request that it may send to the runtime; several with several options.",
)
@click.argument("path", metavar="NAME")
def new(
    path: str, template: str, capabilities: tuple[str, ...], permissions: tuple[str, ...]
) -> None:
    """Make the directory NAME with the manifest, the sources and a Makefile of a new app.

    NAME may be a path, whose last part is the name of the app.
    """
    from northstar.manifest import loads
    from northstar.npk import staging

    path = path.rstrip("/") or path
    name = _name(os.path.basename(path))
    if os.path.lexists(path):
        raise PackageError(f"{path} exists already", hint="choose another name, or remove it")
    added = _added(capabilities, permissions)
    with staging.directory(os.path.dirname(path) or ".") as stage:
        made = os.path.join(stage, name)
        os.mkdir(made)
        _write(made, template, name)
        with open(os.path.join(made, MANIFEST), "a") as file:
            file.write(added)
        with open(os.path.join(made, MANIFEST), "rb") as file:
            # An unknown capability or permission is refused as in any manifest.
            loads(file.read())
        os.rename(made, path)
    click.echo(f"created {printable(path)}: next, read its Makefile")


def _name(text: str) -> Name:
    try:
        name = Name(text)
    except InvalidValueError as error:
        raise PackageError(error.message, hint=error.hint or "choose another name") from error
    if not text[0].isalnum():
        # Valid in a package, but an option of each command, or a hidden directory.
        raise PackageError(f"{text} does not begin with a letter or digit", hint="choose another")
    return name


def _added(capabilities: Sequence[str], permissions: Sequence[str]) -> str:
    """Return the lines for the end of the manifest. JSON is YAML too."""
    text = ""
    if capabilities:
        text += f"capabilities: {json.dumps(capabilities)} # see capabilities(7)\n"
    if permissions:
        text += "console: # its connection to the runtime, and the requests that it may send\n"
        text += f"  permissions: {json.dumps(permissions)}\n"
    return text


def _write(directory: str, template: str, name: Name) -> None:
    """Write all files into an empty directory."""
    from northstar.manifest import schema

    source = importlib.resources.files("northstar.cli") / "templates" / template
    for relative, file in _files("", source):
        target = os.path.join(directory, relative)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        content = file.read_bytes().replace(_PLACEHOLDER, name.encode())
        # An installed file may have lost its mode.
        mode = 0o777 if content.startswith(b"#!") else 0o666
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as out:
            out.write(content)
    for link, destination in _LINKS.get(template, {}).items():
        os.symlink(destination, os.path.join(directory, link))
    with open(os.path.join(directory, SCHEMA), "w") as out:
        json.dump(schema(), out, indent=2)
        out.write("\n")


def _files(above: str, directory: Traversable) -> Iterator[tuple[str, Traversable]]:
    for entry in directory.iterdir():
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _files(f"{above}{entry.name}/", entry)
        elif not entry.name.endswith(".pyc"):
            yield f"{above}{entry.name}", entry
