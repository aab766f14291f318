"""Seccomp filters: the rules of a manifest, and their compilation to BPF.

`rules` decides: it returns a rule for each allowed system call. `compile_filter` compiles the rules
with libseccomp, and puts instructions in front that libseccomp cannot express (seccomp_bpf.py).
All other calls kill the process by SIGSYS.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

import msgspec

from northstar.launch import seccomp_bpf as bpf
from northstar.launch.seccomp_profile import (
    ARCHITECTURES,
    BASE,
    BY_CAPABILITY,
    CLONE_NAMESPACES,
    KNOWN,
    PERSONALITIES,
    Architecture,
)
from northstar.linux import memfd
from northstar.linux import seccomp as scmp
from northstar.linux.seccomp import (
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    Comparison,
)
from northstar.manifest import Capability, Seccomp, SeccompProfile, SyscallArgs, SyscallRule
from northstar.model import HostError, LaunchError

U64: Final = 2**64 - 1
ENOSYS: Final = SECCOMP_RET_ERRNO | errno.ENOSYS

ANY: Final = Comparison(0, 0, 0)
"""Always true."""

Admits = frozenset[Comparison]
"""A system call is allowed if one of these is true."""

_ALWAYS: Final[Admits] = frozenset({ANY})
_NEVER: Final[Admits] = frozenset()

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that are not the library's."""

COMPARISONS_MAX: Final = 2000
"""Most values and masks in a filter. libseccomp needs seconds for more."""


class Filter(msgspec.Struct, frozen=True):
    """A compiled filter.

    Attributes:
        program: an array of struct sock_filter, seccomp(2).
        unknown: names in the manifest that no architecture has.
    """

    program: bytes
    unknown: tuple[str, ...] = ()

    def open(self) -> int:
        """Return a descriptor of a sealed file with the program. The caller owns it."""
        return memfd.sealed("northstar-seccomp", self.program)


def rules(seccomp: Seccomp, capabilities: frozenset[Capability]) -> dict[str, Admits]:
    """Return the calls that a manifest allows, with their conditions; names may be unknown."""
    allowed: dict[str, Admits] = {}
    if seccomp.profile is SeccompProfile.DEFAULT:
        allowed = dict.fromkeys(BASE, _ALWAYS)
        allowed["clone"] = frozenset({Comparison(0, CLONE_NAMESPACES, 0)})
        allowed["personality"] = frozenset(Comparison(0, U64, value) for value in PERSONALITIES)
        for capability in capabilities:
            allowed |= dict.fromkeys(BY_CAPABILITY.get(capability, ()), _ALWAYS)
    for name, rule in (seccomp.allow or {}).items():
        allowed[name] = allowed.get(name, _NEVER) | _admits(rule)
    allowed["execve"] = _ALWAYS
    return {name: _ALWAYS if ANY in admits else admits for name, admits in allowed.items()}


def _admits(rule: SyscallRule) -> Admits:
    if not isinstance(rule, SyscallArgs):
        return _ALWAYS
    admits = {Comparison(rule.index, U64, value) for value in rule.values or ()}
    if rule.mask is not None:
        outside = ~rule.mask & U64
        admits.add(Comparison(rule.index, outside, 0) if outside else ANY)
    return frozenset(admits)


def filter_for(seccomp: Seccomp, capabilities: frozenset[Capability]) -> Filter:
    """Return a manifest's filter for this machine; the first call takes some milliseconds.

    Raises:
        HostError: libseccomp is missing or too old, or this machine's architecture is not
            supported.
        OSError: no memory or no free descriptor.
        LaunchError: the filter exceeds the kernel's limit, or `COMPARISONS_MAX`.
    """
    key = _key(seccomp, capabilities)
    if (made := _cache.get(key)) is None:
        made = compile_filter(seccomp, capabilities, native_architecture())
        if len(_cache) >= _CACHE_MAX:
            _cache.clear()
        _cache[key] = made
    return made


def made_filter(seccomp: Seccomp, capabilities: frozenset[Capability]) -> Filter | None:
    """Return the filter if it is cached; takes no time."""
    return _cache.get(_key(seccomp, capabilities))


_CACHE_MAX: Final = 64
_cache: Final[dict[object, Filter]] = {}


def _key(seccomp: Seccomp, capabilities: frozenset[Capability]) -> object:
    return (
        seccomp.profile,
        frozenset((seccomp.allow or {}).items()),
        capabilities.intersection(BY_CAPABILITY),
    )


def native_architecture() -> Architecture:
    """Return this machine's architecture.

    Raises:
        HostError: filters are not supported on it.
    """
    machine = os.uname().machine
    try:
        return ARCHITECTURES[machine]
    except KeyError:
        raise HostError(
            f"there are no seccomp filters for {machine}, only for {', '.join(ARCHITECTURES)}",
            hint="remove `seccomp` from the manifest",
        ) from None


def compile_filter(
    seccomp: Seccomp, capabilities: frozenset[Capability], architecture: Architecture
) -> Filter:
    """Compile a manifest's filter for any supported architecture.

    Raises:
        HostError, OSError, LaunchError: as `filter_for`.
    """
    table = rules(seccomp, capabilities)
    comparisons = sum(map(len, table.values())) - list(table.values()).count(_ALWAYS)
    if comparisons > COMPARISONS_MAX:
        raise _too_large(f"{comparisons} values and masks", f"at most {COMPARISONS_MAX} are made")
    try:
        made = _compile(seccomp, table, architecture)
    except OSError as failure:
        if failure.errno in _EXHAUSTED:
            raise
        raise HostError(
            f"the manifest asks for a seccomp filter, which libseccomp cannot make: {failure}",
            hint="install libseccomp 2.5 or newer (Debian: libseccomp2)",
        ) from failure
    count = len(made.program) // bpf.SIZE
    if count > bpf.INSTRUCTIONS_MAX:
        raise _too_large(f"{count} instructions", f"the kernel takes {bpf.INSTRUCTIONS_MAX}")
    return made


def _too_large(what: str, limit: str) -> LaunchError:
    reason = f"it has {what}, and {limit}: give fewer rules and values"
    return LaunchError("install the seccomp filter", reason=reason)


def _compile(seccomp: Seccomp, table: Mapping[str, Admits], architecture: Architecture) -> Filter:
    token, newer_from = architecture
    newer: dict[int, bpf.Decision] = {}
    unknown = []
    with scmp.Filter(token) as older:
        # Also the known calls without a rule: a newer one of these is killed, an unknown one is
        # answered with ENOSYS.
        for name in sorted(KNOWN | table.keys()):
            admits = table.get(name, _NEVER)
            number = scmp.resolve_name_on(token, name)
            if number is None:
                # A name of another architecture is no mistake: a manifest may be for several.
                if name in (seccomp.allow or ()) and scmp.resolve_name(name) is None:
                    unknown.append(name)
            elif number >= newer_from:
                newer[number] = _decision(seccomp, name, admits)
            else:
                for comparison in sorted(admits):
                    older.allow(name, *() if comparison == ANY else (comparison,))
        program = bpf.newer(architecture, newer, ENOSYS) + older.export_bpf()
    return Filter(program, tuple(unknown))


def _decision(seccomp: Seccomp, name: str, admits: Admits) -> bpf.Decision:
    """Return the decision on a newer call."""
    if ANY in admits:
        return bpf.Decision((), SECCOMP_RET_ALLOW)
    # After ENOSYS from clone3 a C library calls clone, whose flags a filter can check.
    refused = name in KNOWN and not (name == "clone3" and seccomp.profile is not None)
    return bpf.Decision(tuple(sorted(admits)), SECCOMP_RET_KILL_PROCESS if refused else ENOSYS)
