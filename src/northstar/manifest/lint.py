"""Warnings about valid manifests: settings that are probably mistakes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Final

from northstar.manifest.capabilities import Capability
from northstar.manifest.cgroups import Memory
from northstar.manifest.io import Output
from northstar.manifest.manifest import Manifest
from northstar.manifest.mount import Bind, MountOption, Persist
from northstar.manifest.sched import SchedDeadline
from northstar.manifest.service import (
    DataPolicy,
    HealthAction,
    Restart,
    RestartPolicy,
    Service,
    signal_text,
)
from northstar.model.text import NAMED_MAX, quote

_SUSPENDING: Final = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
"""Signals that suspend a process, signal(7)."""

_MEMORY_MIN: Final = 2**20
"""Smallest limit on memory that is not reported, in bytes: no process runs in less, and a smaller
number was probably meant in another unit."""


def lint(manifest: Manifest, *, is_syscall: Callable[[str], bool] | None = None) -> Iterator[str]:
    """Yield a warning for each setting of `manifest` that is probably a mistake.

    Args:
        manifest: the manifest.
        is_syscall: returns whether a system call has this name; None skips the check of names.
    """
    for target, mount in manifest.mounts.items():
        if type(mount) is Bind and MountOption.RW in mount.options:
            yield f"mounts.{target}: the container can write to {quote(mount.host)} of the host"
    if Capability.CAP_SYS_ADMIN in manifest.capabilities:
        yield "capabilities: CAP_SYS_ADMIN is near to being root on the host"
    if manifest.is_app and manifest.seccomp is None:
        yield "seccomp: missing, so that every system call is allowed (`profile: default` helps)"
    if manifest.seccomp is not None and is_syscall is not None:
        unknown = [name for name in manifest.seccomp.allow or () if not is_syscall(name)]
        for name in unknown[:NAMED_MAX]:
            yield f"seccomp.allow.{name}: no system call of this name is known"
        if len(unknown) > NAMED_MAX:
            yield f"seccomp.allow: {len(unknown) - NAMED_MAX} more names are not known either"
    for resource, limit in manifest.rlimits.items():
        if limit.hard is not None and (limit.soft is None or limit.soft > limit.hard):
            yield f"rlimits.{resource.value}: soft is above hard, which setrlimit(2) refuses"
    if manifest.cgroups is not None and manifest.cgroups.memory is not None:
        yield from _lint_memory(manifest.cgroups.memory)
    if manifest.service is not None:
        yield from _lint_service(manifest, manifest.service)
    if manifest.sched is not None and type(manifest.sched.policy) is SchedDeadline:
        yield "sched.policy: deadline needs parameters that a manifest cannot give: no start works"


def _lint_memory(memory: Memory) -> Iterator[str]:
    for name in memory.__struct_fields__:
        limit = getattr(memory, name) if name.endswith("_limit") else None
        # Negative values mean no limit.
        if limit is not None and 0 <= limit < _MEMORY_MIN:
            yield (
                f"cgroups.memory.{name}: {limit} bytes are less than a process needs; the unit is "
                f"bytes, 1 MiB is {_MEMORY_MIN}"
            )


def _lint_service(manifest: Manifest, service: Service) -> Iterator[str]:
    restart = service.restart
    restarts = restart is not None and restart.policy is not RestartPolicy.NEVER
    if restart is not None and not restarts and restart != Restart(restart.policy):
        yield "service.restart: with the policy never, its other fields have no effect"
    if not restarts:
        stops = service.health is not None and service.health.action is HealthAction.STOP
        for name, ends in (("watchdog", service.watchdog is not None), ("health", stops)):
            if ends:
                yield f"service.{name}: stops the container, and without restart it stays down"
    if service.stop is not None and service.stop.signal in _SUSPENDING:
        text = signal_text(service.stop.signal)
        yield f"service.stop.signal: {text} suspends the container, which then waits for SIGKILL"
    outputs = () if manifest.io is None else (manifest.io.stdout, manifest.io.stderr)
    if service.log is not None and all(output is Output.DISCARD for output in outputs):
        yield "service.log: has no effect, since io discards both outputs"
    copies = service.update is not None and service.update.data is DataPolicy.SNAPSHOT
    if copies and not any(type(mount) is Persist for mount in manifest.mounts.values()):
        yield "service.update.data: nothing is copied, since no mount has the type persist"
