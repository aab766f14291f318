"""Sentences for refusals of the runtime. It is loaded when a request was refused.

The errors of the protocol are those of Northstar 0.9.2, and some stand for two reasons. So the
runtime is asked for more: which versions are installed, whether a container runs. If it may not
answer, the sentence of the error stays.
"""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

import click

from northstar.api import RefusedError
from northstar.api import error as errors
from northstar.cli.common import CommandError
from northstar.client.blocking import Client
from northstar.client.errors import not_installed
from northstar.client.steps import container_or_name
from northstar.model import Container, InvalidValueError, Name, NorthstarError
from northstar.model.similar import similar


class Sentence(NamedTuple):
    """What is wrong, and the next step."""

    message: str
    hint: str | None = None


def refused(client: Client, error: RefusedError) -> NorthstarError:
    """Return the error to print for a refusal of the current command."""
    # One that has a hint was explained already.
    message, hint = explain(client, error.error, error.message)
    return CommandError(message, hint=error.hint or hint)


def failed(client: Client, reasons: list[tuple[Container, errors.Error]]) -> CommandError:
    """Return the error to print for a command that was refused for some of its containers."""
    facts = _Facts(client)  # shared: there may be thousands of reasons
    sentences = [
        explain(client, error, str(error), container, facts) for container, error in reasons
    ]
    texts = [
        text if str(container.name) in text else f"{container}: {text}"
        for (container, _), (text, _) in zip(reasons, sentences, strict=True)
    ]
    hints = dict.fromkeys(hint for _, hint in sentences if hint is not None)
    return CommandError("; ".join(texts), hint="; ".join(hints) or None)


def explain(
    client: Client,
    error: errors.Error,
    message: str,
    named: Container | None = None,
    facts: _Facts | None = None,
) -> Sentence:
    """Return what is wrong and the next step.

    Args:
        client: the connection on which the request was refused.
        error: the reason, in its form on the wire.
        message: the sentence that stays if nothing more is known.
        named: the container of the request; None for that of the command line.
        facts: what is known already.
    """
    try:
        return _explain(facts or _Facts(client), error, message, named)
    except NorthstarError:
        # No permission for `list`, or no connection any more.
        return Sentence(message)


class _Facts:
    """Asks the runtime, at most once for the list."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._installed: tuple[Container, ...] | None = None

    @property
    def installed(self) -> tuple[Container, ...]:
        if self._installed is None:
            self._installed = tuple(sorted(self.client.list()))
        return self._installed

    def versions(self, name: Name) -> list[Container]:
        return [one for one in self.installed if one.name == name]

    def short(self, container: Container) -> str:
        """Return the shortest form of a container for a command."""
        return str(container if len(self.versions(container.name)) > 1 else container.name)


def _explain(facts: _Facts, error: errors.Error, message: str, named: Container | None) -> Sentence:
    match error:
        case errors.InvalidContainer(container):
            return _unknown(facts, container)
        case errors.UmountBusy(container):
            return _busy(facts, container, named or _named(container))
        case errors.StartContainerStarted(container):
            return _started(facts, container, named or _named(container))
        case errors.StopContainerNotStarted(container):
            return Sentence(message, f"start it first (nstar start {facts.short(container)})")
        case errors.StartContainerResource():
            return Sentence(message, "start an app that mounts it")
        case errors.StartContainerMissingResource(_, resource, _):
            return _missing_resource(facts, message, resource)
        case errors.StartContainerFailed(_, reason):
            return Sentence(message, _start_hint(reason))
        case errors.InvalidRepository(repository):
            return _no_repository(facts, message, repository)
        case errors.InstallDuplicate(container):
            again = f"uninstall it first (nstar uninstall {facts.short(container)})"
            return Sentence(message, f"{again}, or pack a newer version")
        case errors.Unexpected(reason) if reason.startswith("cannot execute"):
            return Sentence(message, _start_hint(reason))
        case errors.MountBusy():
            return Sentence(message, "try again; nstar list shows whether it is mounted")
        case _:
            return Sentence(message)


def _named(found: Container) -> Container:
    """Return the container of the command line; `found` if it names only a name, or none."""
    context = click.get_current_context(silent=True)
    value = None if context is None else context.params.get("container")
    try:
        value = container_or_name(value) if isinstance(value, str) else value
    except InvalidValueError:
        return found
    return value if isinstance(value, Container) else found


def _unknown(facts: _Facts, container: Container) -> Sentence:
    if container in facts.installed:
        # Only a mount has two reasons for this error.
        return Sentence(f"{container} is mounted already", "nstar list shows what is mounted")
    versions = facts.versions(container.name)
    if versions:
        known = ", ".join(str(one.version) for one in versions)
        return Sentence(
            f"{container} is not installed; installed: {known}", "name one of these versions"
        )
    names = {one.name for one in facts.installed}
    return Sentence(f"{container} is not installed", not_installed(container.name, names))


def _busy(facts: _Facts, container: Container, named: Container) -> Sentence:
    """Explain that an image is in use by `container`, or not mounted."""
    data = facts.client.inspect(container)
    stop = f"stop it first (nstar stop {facts.short(container)})"
    if data.process is not None:
        if named.name == container.name:
            return Sentence(f"{container} is running", stop)
        return Sentence(f"{named} is used by {container}, which is running", stop)
    if not data.mounted:
        return Sentence(f"{container} is not mounted", "nstar list shows what is mounted")
    return Sentence(f"{container} is in use", "try again when nstar status shows no activity")


def _started(facts: _Facts, container: Container, named: Container) -> Sentence:
    short = facts.short(container)
    if named != container and named.name == container.name:
        message = f"{container} is running, and only one version of {named.name} can"
        return Sentence(message, f"stop it first (nstar stop {short})")
    return Sentence(f"{container} is running already", f"nstar restart {short} starts it again")


def _missing_resource(facts: _Facts, message: str, resource: Name) -> Sentence:
    versions = facts.versions(resource)
    if versions:
        known = ", ".join(str(one.version) for one in versions)
        return Sentence(f"{message}; installed: {known}", "install a version that matches")
    return Sentence(message, "install it first: nstar install FILE REPOSITORY")


_STEP_HINTS: Final = (
    ("network namespace", "make it first: ip netns add NAME"),
    (
        "mount",
        "are the source and the target there? sextant inspect FILE lists the targets in the image",
    ),
    ("cgroup", "does this kernel have the controller? its log and /proc/cgroups tell"),
    ("seccomp", "check the section seccomp of its manifest"),
    ("group", "add the group to this machine (groupadd), or remove it from the manifest"),
)
"""The next step for the steps of a start, other than the execution of init."""

_START_HINTS: Final = {
    "ENOENT": "is the program in the package, with its interpreter and its libraries? "
    "sextant inspect FILE lists what is there",
    "EACCES": "may its user execute it? sextant inspect FILE lists the modes of its files",
    "ENOEXEC": "is it a program for this machine, or a script that begins with #!?",
    "ENOMEM": "is the memory limit of its manifest too small?",
    "EPERM": "does its manifest lack a capability, or the kernel a feature?",
}
"""The next step for the errors of execve(2)."""


def _start_hint(reason: str) -> str | None:
    if "; " in reason:
        return None  # it has a next step
    known = None
    if reason.startswith("cannot execute"):
        # Some of them name the symbol too.
        known = next(
            (
                hint
                for name, hint in _START_HINTS.items()
                if os.strerror(getattr(errno, name)) in reason
            ),
            None,
        )
    else:
        known = next((hint for step, hint in _STEP_HINTS if step in reason), None)
    return known or "the runtime's log has more about it"


def _no_repository(facts: _Facts, message: str, repository: str) -> Sentence:
    known = sorted(facts.client.repositories())
    meant = similar(repository, known)
    if meant is not None:
        return Sentence(message, f"did you mean {meant}?")
    if not known:
        return Sentence(message, "add [repositories.NAME] to the runtime's configuration")
    return Sentence(message, f"there is {', '.join(known)}")
