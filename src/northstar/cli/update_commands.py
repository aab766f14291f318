"""The commands of `nstar` for updates and keys. They are loaded on first use."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from typing import Final

import click

from northstar.api import ContainerState, notification
from northstar.api.notification import Notification
from northstar.cli.common import CommandError
from northstar.cli.nstar_commands import refuse_swapped
from northstar.cli.nstar_session import Session
from northstar.cli.parameters import format_option
from northstar.model import Container, printable

_LIST_MAX: Final = 64 * 1024
"""Largest file that is sent as a key list, in bytes."""


@click.command()
@click.argument("file", metavar="FILE")
@click.argument("repository", metavar="REPOSITORY")
@click.pass_obj
def update(session: Session, file: str, repository: str) -> int:
    """Replace an app by the newer version in the package FILE.

    The new version is tried: it must become ready and stay so for a time that its manifest gives.
    Otherwise the old one runs again. Ctrl-C after the package is sent does not end the update.
    """
    refuse_swapped(file, repository)
    with session.connect_subscribed_if_permitted() as client, contextlib.ExitStack() as bar:
        advance = bar.enter_context(session.progress(file))
        phases = _Phases(session)
        sent = False

        def progress(done: int, total: int) -> None:
            nonlocal sent
            if advance is not None:
                advance(done, total)
            if done == total:
                # What follows is printed below it.
                bar.close()
                sent = True

        watch = phases.see if client.subscribed else None
        try:
            done = client.update(file, repository, progress=progress, watch=watch)
        except KeyboardInterrupt:
            if sent:
                phases.end()
                hint = "the update goes on: `nstar status` shows how far it is"
                print(hint, file=sys.stderr)
            return 128 + signal.SIGINT
        finally:
            phases.end()
    session.show(f"updated {done.previous} to {done.container}")
    return 0


class _Phases:
    """Prints the phases of an update: on a terminal in one line, else a line for each."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._joined = sys.stdout.isatty() and not session.json_lines
        self._begun = False
        self._new: Container | None = None
        self._old: Container | None = None
        self._old_stopped = False
        self._ready: float | None = None

    def see(self, message: Notification) -> None:
        """Print the phase that a notification means, if any."""
        match message:
            case notification.Update(container, update):
                if update.phase == "staged":
                    self._new, self._old = container, update.previous
                    self._print(f"{container} received")
                elif update.phase == "commit" and container == self._new:
                    if self._ready is None:
                        self._print(f"{container} has succeeded")
                    else:
                        self._print(f"healthy for {round(time.monotonic() - self._ready)}s")
            case notification.State(container, status) if container == self._old:
                if status.state is ContainerState.INSTALLED and not self._old_stopped:
                    self._old_stopped = True
                    self._print(f"{container} stopped")
            case notification.State(container, status) if container == self._new:
                if status.state is ContainerState.READY:
                    self._ready = time.monotonic()
                    self._print(f"{container} ready")

    def _print(self, text: str) -> None:
        if not self._joined:
            self._session.show(text)
            sys.stdout.flush()
            return
        print(f"{', ' if self._begun else ''}{printable(text)}", end="", flush=True)
        self._begun = True

    def end(self) -> None:
        """End the line. Idempotent."""
        if self._begun:
            print(flush=True)
            self._begun = False


@click.command()
@format_option()
@click.argument("repository")
@click.argument("path", metavar="[LIST]", required=False)
@click.pass_obj
def keys(session: Session, repository: str, path: str | None, as_json: bool | None) -> None:
    """Show the key list of a repository; with LIST, replace it before.

    `sextant key-list` makes lists.
    """
    new = None if path is None else _read_list(path)
    with session.connect() as client:
        found = client.keys(repository, new)
    if as_json:
        from northstar.cli import json_output, json_values

        json_output.emit(json_values.key_list(found))
        return
    listed = ", ".join(f"{key.id} {key.use.value}" for key in found.keys)
    session.show(f"version {found.version}: {listed}")


def _read_list(path: str) -> str:
    with open(path, "rb") as file:
        # The runtime refuses what is not a list; this only bounds the message.
        content = file.read(_LIST_MAX + 1)
    if len(content) > _LIST_MAX:
        raise CommandError(f"{path} is larger than a key list can be")
    return content.decode("ascii", "replace")
