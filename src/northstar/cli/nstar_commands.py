"""The commands of `nstar`, the client of a running runtime."""

from __future__ import annotations

import os
import signal as signals
import sys
from collections.abc import Sequence
from typing import ClassVar

import click
from click.core import ParameterSource

from northstar import __version__
from northstar.api import notification, response
from northstar.api.feature import SERVICE
from northstar.api.notification import Notification
from northstar.cli import nstar_plain
from northstar.cli.common import CommandError
from northstar.cli.groups import CommandGroup
from northstar.cli.nstar_session import DEFAULT_TIMEOUT, Session
from northstar.cli.parameters import (
    ContainerType,
    DurationType,
    SignalType,
    UrlType,
    format_option,
)
from northstar.client import address
from northstar.client.blocking import Client
from northstar.client.errors import phrase
from northstar.client.session import STOP_TIMEOUT, StopTimeout
from northstar.model import Container, Exited, Name


class Commands(CommandGroup):
    """The commands of nstar."""

    ALIASES: ClassVar = {"ls": "list", "repos": "repositories"}
    OTHER_NAMES: ClassVar = {
        "add": "install",
        "events": "notifications",
        "images": "list",
        "log": "logs",
        "ps": "list",
        "remove": "uninstall",
        "rm": "uninstall",
        "run": "start",
        "show": "inspect",
        "unmount": "umount",
        "upgrade": "update",
    }
    LATER: ClassVar = {
        "exec": ("exec_command", "exec_"),
        "keys": ("update_commands", "keys"),
        "logs": ("log_command", "logs"),
        "restart": ("service_commands", "restart"),
        "seccomp": ("seccomp_command", "seccomp"),
        "stats": ("stats_command", "stats"),
        "status": ("service_commands", "status"),
        "token": ("token_commands", "token"),
        "top": ("top_command", "top"),
        "update": ("update_commands", "update"),
        "verify-token": ("token_commands", "verify_token"),
        "wait": ("service_commands", "wait"),
    }


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 the runtime refused; 2 wrong usage; 3 cannot connect. "
    "`nstar exec` and `nstar wait` have others.",
)
@click.option(
    "-u",
    "--url",
    type=UrlType(),
    envvar=address.URL,
    default=lambda: address.default({}).url,
    show_default=f"unix://{address.SOCKET} if it exists, else {address.TCP}",
    metavar="URL",
    help="The console, tcp://HOST[:PORT] or unix:///PATH; else NORTHSTAR_URL.",
)
@click.option(
    "-j",
    "--json",
    "json_lines",
    is_flag=True,
    help="Print the JSON lines that are exchanged, in both directions, and no other text.",
)
@click.option(
    "-t",
    "--timeout",
    type=DurationType(),
    default=DEFAULT_TIMEOUT,
    metavar="TIME",
    help="How long to wait for the runtime, as 10s (the default) or 1m 30s.",
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.pass_context
def nstar(context: click.Context, url: str, json_lines: bool, timeout: float) -> None:
    """Control a Northstar container runtime.

    CONTAINER is NAME:VERSION, or NAME if only one version is installed.
    """
    chosen = None
    match context.get_parameter_source("url"):
        case ParameterSource.ENVIRONMENT:
            chosen = address.default().reason
        case ParameterSource.DEFAULT:
            chosen = address.default({}).reason
    context.obj = Session(url, json_lines, timeout, chosen)


container_argument = click.argument("container", type=ContainerType(), metavar="CONTAINER")
_containers = click.argument(
    "containers", type=ContainerType(), metavar="CONTAINER..", nargs=-1, required=True
)


@nstar.command("list")
@format_option()
@click.pass_obj
def list_containers(session: Session, as_json: bool | None) -> None:
    """List the installed containers (also: ls)."""
    nstar_plain.list_containers(session, as_json)


@nstar.command()
@format_option()
@click.pass_obj
def repositories(session: Session, as_json: bool | None) -> None:
    """List the names of the repositories (also: repos)."""
    nstar_plain.repositories(session, as_json)


@nstar.command()
@_containers
@click.pass_obj
def mount(session: Session, containers: tuple[Container | Name, ...]) -> None:
    """Mount containers."""
    with session.connect() as client:
        _report(session, client, client.mount(*containers), "mounted")


@nstar.command()
@_containers
@click.pass_obj
def umount(session: Session, containers: tuple[Container | Name, ...]) -> None:
    """Unmount containers."""
    with session.connect() as client:
        _report(session, client, client.umount(*containers), "umounted")


def _report(
    session: Session,
    client: Client,
    results: Sequence[response.Ok | response.Failed],
    done: str,
) -> None:
    """Print a line for each success, then raise the reasons of all failures."""
    for result in results:
        if isinstance(result, response.Ok):
            session.show(f"{done} {result.container}")
    session.raise_failures(client, results)


@nstar.command(context_settings={"allow_interspersed_args": False})
@click.option("--wait", is_flag=True, help="Wait until the container is ready.")
@container_argument
@click.argument("command", nargs=-1, metavar="[KEY=VALUE..] [INIT [ARGS..]]")
@click.pass_obj
def start(
    session: Session, wait: bool, container: Container | Name, command: tuple[str, ...]
) -> None:
    """Start a container.

    Leading words with a = set environment variables, the next word is the program to run, and the
    others are its arguments. Without these the manifest's values are used. <INIT> in place of the
    program stands for the manifest's init.
    """
    words = list(command)
    environment: dict[str, str] = {}
    while words and "=" in words[0]:
        key, _, value = words.pop(0).partition("=")
        if not key:
            raise click.BadParameter(f"'={value}' has no name before the =")
        environment[key] = value
    init = words.pop(0) if words else None
    with session.connect(subscribe=wait) as client:
        [resolved] = client.resolve(container)
        client.start(resolved, init, words, environment, wait=wait)
        session.show(f"started {resolved}")


@nstar.command()
@container_argument
@click.argument("signal", type=SignalType(), default=int(signals.SIGTERM), metavar="[SIGNAL]")
@click.pass_obj
def kill(session: Session, container: Container | Name, signal: int) -> None:
    """Send a signal (SIGTERM) to a container."""
    with session.connect() as client:
        [resolved] = client.resolve(container)
        client.kill(resolved, signal)
        session.show(f"signalled {resolved} with signal {signal}")


@nstar.command()
@click.option(
    "--timeout",
    type=DurationType(),
    metavar="TIME",
    help="Time to end before SIGKILL is sent, as 5s; else that of the manifest, or 10s.",
)
@container_argument
@click.pass_obj
def stop(session: Session, container: Container | Name, timeout: float | None) -> None:
    """Stop a container: send its stop signal, and SIGKILL if it has not ended in time.

    The stop signal is that of the manifest, or SIGTERM.
    """
    limit = StopTimeout.MANIFEST if timeout is None else timeout
    with session.connect_subscribed_if_permitted() as client:
        [resolved] = client.resolve(container)
        killed = client.stop(resolved, limit, kill_timeout=session.timeout).killed
        if timeout is None and SERVICE not in client.features:
            timeout = STOP_TIMEOUT
        signal = "its stop signal" if SERVICE in client.features else "SIGTERM"
        when = "in time" if timeout is None else f"within {timeout:g} s of {signal}"
        how = f", by SIGKILL: it did not end {when}" if killed else ""
        session.show(f"stopped {resolved}{how}")


def refuse_swapped(file: str, repository: str) -> None:
    """Refuse the name of a repository in the place of a file, and a file in its place."""
    if not os.path.exists(file) and os.path.isfile(repository):
        raise CommandError(
            f"{file} is not a file, and {repository} is",
            hint="write the file first, then the repository",
        )


@nstar.command()
@click.argument("file", metavar="FILE")
@click.argument("repository", metavar="REPOSITORY")
@click.pass_obj
def install(session: Session, file: str, repository: str) -> None:
    """Install the package FILE into a repository."""
    refuse_swapped(file, repository)
    with session.connect() as client, session.progress(file) as advance:
        client.install(file, repository, progress=advance)
    session.show(f"installed {file} into {repository}")


@nstar.command()
@click.option("-w", "--wipe", is_flag=True, help="Remove the persistent data too.")
@container_argument
@click.pass_obj
def uninstall(session: Session, container: Container | Name, wipe: bool) -> None:
    """Uninstall a container."""
    with session.connect() as client:
        [resolved] = client.resolve(container)
        if not session.json_lines:
            from northstar.cli.resources import warn_about_users

            warn_about_users(client, resolved)
        client.uninstall(resolved, wipe)
        session.show(f"uninstalled {resolved}")


@nstar.command()
@format_option("json")
@container_argument
@click.pass_obj
def inspect(session: Session, container: Container | Name, as_json: bool | None) -> None:
    """Print the data of a container, by default as JSON."""
    with session.connect() as client:
        [resolved] = client.resolve(container)
        data = client.inspect(resolved)
        status = nstar_plain.states_of(client, resolved) if as_json is False else None
    if session.json_lines:
        return
    if as_json is False:
        from northstar.cli import inspect_table

        inspect_table.show(resolved, data, (status or {}).get(resolved))
    else:
        from northstar.cli import json_output

        json_output.emit(data, indent=2)


@nstar.command()
@click.option(
    "-n", "--number", type=click.IntRange(min=1), metavar="COUNT", help="Exit after COUNT."
)
@click.option("--time", "times", is_flag=True, help="Print when each was received, in UTC.")
@format_option()
@click.pass_obj
def notifications(session: Session, number: int | None, times: bool, as_json: bool | None) -> None:
    """Print notifications until the runtime shuts down.

    Changes of a container's state are not among them: see `nstar status --watch`.
    """
    # A plain connection: its lines are those of Northstar 0.9.2, with --json too.
    with session.connect(subscribe=True, extended=False) as client:
        for count, message in enumerate(client.notifications(), start=1):
            if as_json or times:
                _show_with_time(session, message, as_json)
            else:
                session.show(_text(message))
            sys.stdout.flush()
            if count == number:
                break


def _show_with_time(session: Session, message: Notification, as_json: bool | None) -> None:
    import time

    now = time.time_ns()
    if not as_json:
        from northstar.cli.dates import date

        session.show(f"{date(now)} {_text(message)}")
        return
    from northstar.cli import json_output, json_values

    if (value := json_values.notified(message, now)) is not None:
        json_output.emit(value)


def _text(message: Notification) -> str:
    """Return a sentence on a terminal; a pipe gets the forms that programs parse."""
    if isinstance(message, notification.Exit) and sys.stdout.isatty():
        from northstar.cli.phrases import ended

        return f"{message.container} {ended(message.status)}"
    return describe(message)


def describe(message: Notification) -> str:
    """Return the text of a notification, in the form of Northstar 0.9.2 if it has one."""
    match message:
        case notification.Started(container):
            return f"started {container}"
        case notification.Install(container):
            return f"installed {container}"
        case notification.Uninstall(container):
            return f"uninstalled {container}"
        case notification.Exit(container, status):
            how = (
                f"exit code {status.code}"
                if isinstance(status, Exited)
                else f"signalled {status.signal}"
            )
            return f"container {container} exited with status {how}"
        case notification.CGroup(container, memory):
            counts = [(name, getattr(memory, name)) for name in memory.__struct_fields__]
            words = ", ".join(f"{name} {count}" for name, count in counts if count is not None)
            return f"container {container} met a memory limit: {words}"
        case notification.Shutdown():
            return "shutting down"
        case notification.Update(container, update):
            text = f"update of {update.previous} to {container}: {update.phase.replace('_', ' ')}"
            return f"{text}: {update.reason}" if update.reason else text
        case notification.State(container, status):
            text = f"{container}: wanted {status.wanted.value}, {phrase(status)}"
            if status.next is None:
                return text
            from northstar.cli import listing

            return f"{text}, next start in {listing.duration(status.next)}"


@nstar.command()
@click.pass_obj
def shutdown(session: Session) -> None:
    """Shut the runtime down."""
    nstar_plain.shutdown(session)


@nstar.command()
@format_option()
@click.pass_obj
def ident(session: Session, as_json: bool | None) -> None:
    """Print the identity of this client."""
    nstar_plain.ident(session, as_json)


@nstar.command()
@click.option(
    "-s", "--shell", type=click.Choice(["bash", "zsh", "fish"]), required=True, help="The shell."
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of stdout.")
@click.pass_context
def completion(context: click.Context, shell: str, output: str | None) -> None:
    """Print a script for completion in a shell.

    It completes commands, options, containers, repositories, signals and files.
    """
    from northstar.cli.completion import write_script

    write_script(context, shell, output)
