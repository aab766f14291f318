"""Warnings about valid manifests: settings that are probably mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from northstar.manifest.capabilities import Capability
from northstar.manifest.manifest import Manifest
from northstar.manifest.mount import Bind, MountOption
from northstar.manifest.sched import SchedDeadline
from northstar.model.text import NAMED_MAX, quote


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
    if manifest.sched is not None and type(manifest.sched.policy) is SchedDeadline:
        yield "sched.policy: deadline needs parameters that a manifest cannot give: no start works"
