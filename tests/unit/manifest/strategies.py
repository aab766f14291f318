"""Hypothesis strategies for valid manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import strategies as st

from northstar import manifest as m
from northstar.manifest import bounds
from northstar.model import EXTENDED, FULL, Name, Version, VersionReq

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)

# Texts that YAML does not read as strings, and characters that its readers treat as special.
AWKWARD = st.sampled_from(
    [
        "", "~", "null", "yes", "4", "0x1F", "1.50", ".inf", "017", "2001-01-01", "=", "---", "...",
        "-", "- a", "-a", "#c", "a #c", "'", '"', "\\", "%a", "!t", "&a", "*a", "|", ">", "?",
        "? a", ":", "a:", "a: b", "@", "`", "{}", "[]", "a, b", " a", "a ", "\t", "\n", "a\nb\n",
        "\x85", "\x7f", "\xa0", "\u2028", "\ufeff", "\ufffe", "\U0001f600",
    ]
)  # fmt: skip
TEXT = AWKWARD | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
FILE_NAMES = TEXT.filter(lambda text: text not in ("", ".", "..") and "/" not in text)
NAMES = st.from_regex(r"[0-9A-Za-z._-]{1,20}", fullmatch=True).filter(
    lambda name: name not in (".", "..")
)


def short(text: str, size: int) -> bool:
    """Return whether `text` has at most `size` bytes."""
    return len(text.encode()) <= size


def paths() -> st.SearchStrategy[str]:
    """Absolute paths without dots as components."""
    component = FILE_NAMES.filter(lambda text: "/" not in text)
    joined = st.lists(component, max_size=3).map(lambda parts: "/" + "/".join(parts))
    return joined | joined.map(lambda path: path + "/")


def maps(keys: st.SearchStrategy[Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Small maps."""
    return st.dictionaries(keys, values, max_size=3)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """None or a value."""
    return st.none() | values


ATTRS = maps(FILE_NAMES, TEXT)
OPTIONS = st.frozensets(st.sampled_from(m.MountOption))
REQUIREMENTS = st.sampled_from(["*", "1", "^1.2", "~1.2.3", ">=1, <2", "1.*", "=1.2.3-a"]).map(
    VersionReq.parse
)

MOUNTS = st.one_of(
    st.builds(m.Bind, host=TEXT, options=OPTIONS),
    st.sampled_from([m.Dev(), m.Persist(), m.Proc(), m.Sysfs(), m.Sockets()]),
    st.builds(
        m.Resource,
        name=NAMES.map(Name),
        version=REQUIREMENTS,
        dir=paths(),
        options=OPTIONS.map(lambda options: options - {m.MountOption.REC}),
    ),
    st.builds(m.Tmpfs, size=U64),
)


def nested(mounts: dict[str, Any]) -> bool:
    """Return whether a bind target is inside of another one, by comparing all pairs."""
    binds = [
        [part for part in target.split("/") if part]
        for target, mount in mounts.items()
        if isinstance(mount, m.Bind)
    ]
    return any(
        a and i != j and b[: len(a)] == a for i, a in enumerate(binds) for j, b in enumerate(binds)
    )


NICE = st.integers(-20, 19)
PRIORITY = st.integers(1, 99)
SCHED = st.builds(
    m.Sched,
    policy=st.one_of(
        st.builds(m.SchedOther, NICE),
        st.builds(m.SchedBatch, NICE),
        st.builds(m.SchedFifo, PRIORITY),
        st.builds(m.SchedRoundRobin, PRIORITY),
        st.sampled_from([m.SchedIdle(), m.SchedDeadline()]),
    ),
)

WEIGHTS = st.lists(
    st.builds(m.WeightDevice, U64, U64, optional(U16), optional(U16)), max_size=2
).map(tuple)
THROTTLES = st.lists(st.builds(m.ThrottleDevice, U64, U64, U64), max_size=2).map(tuple)
CGROUPS = st.builds(
    m.Cgroups,
    parent=optional(paths().map(lambda path: path.strip("/")).filter(bool)),
    pids=optional(st.builds(m.Pids, st.integers(1, 2**22))),
    cpu=optional(
        st.builds(
            m.Cpu,
            cpus=optional(TEXT),
            mems=optional(TEXT),
            shares=optional(U64),
            quota=optional(I64),
            period=optional(U64),
            realtime_runtime=optional(I64),
            realtime_period=optional(U64),
            attrs=ATTRS,
        )
    ),
    memory=optional(
        st.builds(
            m.Memory,
            oom_monitor=st.booleans(),
            kernel_memory_limit=optional(I64),
            memory_hard_limit=optional(I64),
            memory_soft_limit=optional(I64),
            kernel_tcp_memory_limit=optional(I64),
            memory_swap_limit=optional(I64),
            swappiness=optional(U64),
            attrs=ATTRS,
        )
    ),
    blkio=optional(
        st.builds(
            m.Blkio,
            weight=optional(U16),
            leaf_weight=optional(U16),
            weight_device=WEIGHTS,
            throttle_read_bps_device=THROTTLES,
            throttle_read_iops_device=THROTTLES,
            throttle_write_bps_device=THROTTLES,
            throttle_write_iops_device=THROTTLES,
            attrs=ATTRS,
        )
    ),
)

RULES = st.one_of(
    st.just(m.SyscallAny()),
    st.builds(
        m.SyscallArgs,
        index=st.integers(0, 5),
        values=optional(st.lists(U64, max_size=3).map(tuple)),
        mask=optional(U64),
    ).filter(lambda rule: rule.values is not None or rule.mask is not None),
)
SECCOMP = st.builds(
    m.Seccomp,
    profile=optional(st.sampled_from(m.SeccompProfile)),
    allow=optional(maps(TEXT, RULES)),
)

CONTEXTS = optional(st.from_regex(r"[0-9A-Za-z:_]{1,20}", fullmatch=True))
SOCKETS = maps(
    FILE_NAMES,
    st.builds(
        m.Socket,
        type=st.sampled_from(m.SocketType),
        mode=U32,
        uid=optional(U32),
        gid=optional(U32),
        passcred=optional(st.booleans()),
    ),
)
OUTPUTS = st.sampled_from(m.Output)

ANY_TEXT = AWKWARD | st.text(st.characters(codec="utf-8"), max_size=12)
CUSTOM = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(ANY_TEXT, children, max_size=3)
    ),
    max_leaves=8,
)

COMMON: dict[str, st.SearchStrategy[Any]] = {
    "name": NAMES.map(Name),
    "version": st.builds(Version, U64, U64, U64),
    "uid": st.integers(1, 2**16 - 1),
    "gid": st.integers(1, 2**16 - 1),
    "console": optional(
        st.builds(m.Console, st.frozensets(st.sampled_from(sorted(FULL, key=str))))
    ),
    "sched": optional(SCHED),
    "mounts": maps(paths(), MOUNTS).filter(lambda mounts: not nested(mounts)),
    "network": optional(
        st.just(m.HostNetwork())
        | st.builds(m.NamedNetwork, FILE_NAMES.filter(lambda name: short(name, 256)))
    ),
    "selinux": optional(st.builds(m.Selinux, mount_context=CONTEXTS, exec=CONTEXTS)),
    "rlimits": maps(
        st.sampled_from(m.RlimitResource), st.builds(m.Rlimit, optional(U64), optional(U64))
    ),
    "sockets": SOCKETS,
    "custom": CUSTOM,
}

APP_ONLY: dict[str, st.SearchStrategy[Any]] = {
    "init": TEXT.filter(bool),
    "args": st.lists(TEXT, max_size=3).map(tuple),
    "env": maps(TEXT.filter(lambda text: short(text, 64)), TEXT),
    "autostart": optional(st.sampled_from(m.Autostart)),
    "cgroups": optional(CGROUPS),
    "seccomp": optional(SECCOMP),
    "capabilities": st.frozensets(st.sampled_from(m.Capability), max_size=4),
    "suppl_groups": st.lists(
        TEXT.filter(lambda text: short(text, 64)), max_size=3, unique=True
    ).map(tuple),
    "io": optional(st.builds(m.Io, OUTPUTS, OUTPUTS)),
}

DURATIONS = st.integers(1, bounds.SERVICE_DURATION_MAX) | st.sampled_from(
    [1, 10**3, 1500 * 10**6, 10**9, 60 * 10**9, bounds.SERVICE_DURATION_MAX]
)


def restarts() -> st.SearchStrategy[m.Restart]:
    """Restarts whose fields agree with each other."""
    limits = st.none() | st.tuples(st.integers(1, bounds.RESTART_LIMIT_MAX), DURATIONS)

    def restart(
        policy: m.RestartPolicy,
        factor: int,
        delays: tuple[int, int],
        reset_after: int,
        limit: tuple[int, int] | None,
    ) -> m.Restart:
        most, interval = (None, None) if limit is None else limit
        return m.Restart(
            policy,
            delay=min(delays),
            factor=factor,
            max_delay=max(delays),
            reset_after=reset_after,
            limit=most,
            interval=interval,
        )

    factors = st.integers(1, bounds.RESTART_FACTOR_MAX)
    delays = st.tuples(DURATIONS, DURATIONS)
    policies = st.sampled_from(m.RestartPolicy)
    plain = st.builds(m.Restart, policies)
    return plain | st.builds(restart, policies, factors, delays, DURATIONS, limits)


TARGETS = paths().filter(lambda path: path.strip("/") != "")
PROBES = st.one_of(
    st.builds(
        m.ExecProbe,
        st.lists(TEXT, min_size=1, max_size=3).map(tuple).filter(lambda command: command[0] != ""),
    ),
    st.builds(
        m.ConnectProbe,
        st.integers(1, 2**16 - 1).map(lambda port: f"tcp:{port}")
        | TARGETS.map(lambda path: f"unix:{path.rstrip('/')}"),
    ),
)
READY_PROBES = PROBES | st.just(m.NotifyProbe())

SERVICES = st.builds(
    m.Service,
    restart=optional(restarts()),
    stop=optional(st.builds(m.Stop, st.integers(1, 31), DURATIONS)),
    after=st.lists(NAMES.map(Name), max_size=3, unique=True).map(tuple),
    notify=optional(TARGETS.filter(lambda path: short(path, bounds.NOTIFY_MAX))),
    ready=optional(st.builds(m.Ready, READY_PROBES, DURATIONS)),
    watchdog=optional(DURATIONS),
    health=optional(
        st.builds(
            m.Health,
            PROBES,
            interval=DURATIONS,
            timeout=DURATIONS,
            failures=st.integers(1, bounds.PROBE_FAILURES_MAX),
            action=st.sampled_from(m.HealthAction),
        )
    ),
    log=optional(st.builds(m.Log, st.integers(16, 4096).map(lambda pages: pages * 4096))),
    update=optional(
        st.builds(
            m.Update,
            window=DURATIONS,
            tries=st.integers(1, bounds.UPDATE_TRIES_MAX),
            data=st.sampled_from(m.DataPolicy),
        )
    ),
    permissions=st.frozensets(st.sampled_from(sorted(EXTENDED, key=str))),
)


def supervise(value: m.Manifest, service: m.Service) -> m.Manifest:
    """Return a manifest with a service, without the parts of it that the manifest excludes."""
    notify = service.notify
    if notify is not None and (
        in_the_way(notify, value.mounts) or set(m.NOTIFY_ENV) & set(value.env)
    ):
        notify = None
    ready, watchdog = service.ready, service.watchdog
    if notify is None:
        watchdog = None
        ready = None if ready is not None and isinstance(ready.probe, m.NotifyProbe) else ready
    service = msgspec.structs.replace(
        service,
        after=tuple(name for name in service.after if name != value.name),
        notify=notify,
        ready=ready,
        watchdog=watchdog,
        permissions=frozenset() if value.console is None else service.permissions,
    )
    return msgspec.structs.replace(value, service=service)


def in_the_way(notify: str, mounts: Mapping[str, Any]) -> bool:
    """Return whether a mount is at, below or above a directory, by comparing texts."""
    targets = (f"/{'/'.join(filter(None, target.split('/')))}/" for target in mounts)
    own = f"/{'/'.join(filter(None, notify.split('/')))}/"
    return any(t != "//" and (own.startswith(t) or t.startswith(own)) for t in targets)


resources = st.builds(m.Manifest, **COMMON)
apps = st.builds(m.Manifest, **COMMON, **APP_ONLY)
manifests = resources | apps
"""Manifests that Northstar 0.9.2 reads, except for the intended differences."""

services = st.builds(supervise, apps, SERVICES)
"""Manifests with a section `service`, which Northstar 0.9.2 refuses."""
