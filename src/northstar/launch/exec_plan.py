"""Plans the execution of one more process in a running container, without side effects.

The launcher performs such a plan in a helper process: it joins the container's cgroups, enters its
namespaces, takes its restrictions, and only then clones the process (launcher/enter.c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from northstar.launch.plan import (
    NAMESPACES,
    HostFacts,
    LaunchPlan,
    Operation,
    execution,
    identity,
    refuse_unsupported,
    restrictions,
    selinux,
    tasks_descriptor,
)
from northstar.launch.plan_ops import Op
from northstar.manifest import Manifest
from northstar.model import LaunchError

PROCS: Final = "procs"
"""The plan's name for the descriptor of the v2 cgroup's `cgroup.procs` file."""

_STREAMS: Final = ("stdin", "stdout", "stderr")


def namespace_descriptor(name: str) -> str:
    """Return the plan's name for the descriptor of a namespace."""
    return f"namespace:{name}"


def environment(manifest: Manifest, requested: Mapping[str, str]) -> dict[str, str]:
    """Return the environment: the manifest's `env`, `requested` over it, and the NORTHSTAR_ names.

    The names of the console and the sockets are not among these: the process does not have them.
    """
    return {**manifest.env, **requested, **identity(manifest)}


def build(
    manifest: Manifest,
    command: Sequence[str],
    requested: Mapping[str, str],
    facts: HostFacts,
    groups: Sequence[int] = (),
    *,
    namespaces: Sequence[str] = tuple(NAMESPACES),
    terminal: bool = False,
) -> LaunchPlan:
    """Plan the execution of a command in a running container.

    Args:
        manifest: the container's manifest.
        command: argv; the first is a path in the container.
        requested: environment variables.
        facts: properties of this machine.
        groups: the supplementary groups of the payload.
        namespaces: names of `NAMESPACES` that this kernel has.
        terminal: descriptor 0 is a terminal, which becomes the controlling terminal.

    Raises:
        HostError: the runtime lacks a capability of the manifest.
        LaunchError: the command or a variable cannot be passed to a program.
    """
    refuse_unsupported(manifest, facts)
    _check(manifest, command, requested)
    joined = [PROCS] if facts.into_cgroup else []
    joined += map(tasks_descriptor, range(facts.joins))
    entered = [name for name in NAMESPACES if name in namespaces]
    descriptors = [*_STREAMS, *joined, *map(namespace_descriptor, entered)]
    if manifest.seccomp is not None:
        descriptors.append("seccomp")
    index = {name: str(number) for number, name in enumerate(descriptors, start=1)}
    operations = [
        *(Operation(Op.JOIN, (index[name],)) for name in joined),
        Operation(Op.KEYRING),
        *selinux(manifest, facts),
        *(
            Operation(Op.ENTER, (index[namespace_descriptor(name)], str(NAMESPACES[name])))
            for name in entered
        ),
        Operation(Op.GID, (str(manifest.gid),)),
        Operation(Op.UID, (str(manifest.uid),)),
        Operation(Op.GROUPS, (",".join(map(str, groups)),)),
        *(Operation(Op.FD, (index[name], str(n))) for n, name in enumerate(_STREAMS)),
        *([Operation(Op.TERMINAL)] if terminal else []),
        *restrictions(manifest, index, facts),
        execution(command, environment(manifest, requested)),
    ]
    return LaunchPlan(tuple(operations), tuple(descriptors))


def _check(manifest: Manifest, command: Sequence[str], requested: Mapping[str, str]) -> None:
    step = f"execute a command in {manifest.container}"
    if not command or not command[0].strip("/"):
        raise LaunchError(step, reason="it names no program; give the path of one in the container")
    for name, value in requested.items():
        if not name or "=" in name:
            raise LaunchError(step, reason=f"{name!r} is no name of an environment variable")
        if "\0" in name + value:
            raise LaunchError(step, reason=f"the variable {name!r} contains a NUL character")
    for argument in command:
        if "\0" in argument:
            raise LaunchError(step, reason=f"the argument {argument!r} contains a NUL character")
