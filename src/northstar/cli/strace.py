"""Makes the section `seccomp` of a manifest from a log of strace(1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from northstar.launch.seccomp import ANY, Admits, rules
from northstar.launch.syscalls import is_syscall
from northstar.manifest import Seccomp, SeccompProfile

# The prefixes of strace's options -f and -Y, -t -tt -ttt, -r, -n, -i. Then a call begins, or a call
# is resumed that began on an earlier line, or before the log.
_LINE: Final = re.compile(
    r"""\s*
    (?: \[pid\s+\d+(?:<[^>]*>)?\]\s+ | \d+(?:<[^>]*>)?\s+ )?
    (?: \d\d:\d\d:\d\d(?:\.\d+)?\s+ | \d+\.\d+\s+ )?
    (?: \(\+\s*\d+\.\d+\)\s+ | \d+\.\d+\s+ )?
    (?: \[\s*\d+\]\s+ )?
    (?: \[[0-9a-f?]+\]\s+ )?
    (?: <\.\.\.\s(?P<resumed>[a-z_]\w*)\sresumed> | (?P<name>[a-z_]\w*)\((?P<arguments>.*) )""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)

_NAMELESS: Final = re.compile(r"syscall_0x[0-9a-f]+")
"""The form in which strace writes a call that is newer than strace."""

_FOREIGN: Final = re.compile(r"\[ Process PID=\d+ runs in (?:32 bit|x32) mode\. \]")

_PERSONALITY: Final = {"PER_LINUX": 0x0, "PER_LINUX32": 0x8, "UNAME26": 0x20000}
"""linux/personality.h: the values that the profile contains."""


class Call(NamedTuple):
    """A system call of a log.

    Attributes:
        name: its name.
        arguments: what follows its opening parenthesis; empty if that is not in the log.
    """

    name: str
    arguments: str


class Needs(NamedTuple):
    """The system calls that a program needs.

    Attributes:
        allow: the names to allow, sorted.
        unknown: names in the log that are no system calls.
        nameless: calls that strace has no name for.
        foreign: the log contains calls of 32-bit programs.
        found: the number of different calls in the log, without unknown and nameless ones.
    """

    allow: list[str]
    unknown: list[str]
    nameless: list[str]
    foreign: bool
    found: int


def parse_line(line: str) -> Call | None:
    """Return the call that begins or is resumed in a line of a log; None if there is none."""
    match = _LINE.match(line)
    if match is None:
        return None
    return Call(match["name"] or match["resumed"], match["arguments"] or "")


def analyse(lines: Iterable[str], profile: SeccompProfile | None) -> Needs:
    """Return the calls that a program needs beyond a profile; all of them without a profile."""
    allowed = rules(Seccomp(profile=profile), frozenset()) if profile else {}
    names: dict[str, bool] = {}  # name -> one of its calls is not allowed
    foreign = False
    for line in lines:
        foreign = foreign or _FOREIGN.search(line) is not None
        call = parse_line(line)
        if call is None:
            continue
        if not names.get(call.name):
            names[call.name] = not _is_allowed(call, allowed)
    nameless = sorted(filter(_NAMELESS.fullmatch, names))
    unknown = sorted(name for name in names if name not in nameless and not is_syscall(name))
    skipped = {*nameless, *unknown}
    allow = sorted(name for name, missing in names.items() if missing and name not in skipped)
    return Needs(allow, unknown, nameless, foreign, len(names) - len(skipped))


def _is_allowed(call: Call, allowed: dict[str, Admits]) -> bool:
    """Return whether the program works with a profile's treatment of this call."""
    if call.name in ("clone", "clone3") and allowed:
        # clone without namespaces is allowed, and C libraries use it where clone3 is missing.
        return "CLONE_NEW" not in call.arguments
    if call.name == "personality" and allowed:
        value = _personality(call.arguments)
        return any(value == comparison.value for comparison in allowed[call.name])
    return ANY in allowed.get(call.name, ())


def _personality(arguments: str) -> int | None:
    """Return the value that strace writes as names and numbers with `|` between."""
    value = 0
    for word in re.split(r"\s*\|\s*", arguments.partition(")")[0].strip()):
        try:
            value |= _PERSONALITY[word] if word in _PERSONALITY else int(word, 0)
        except ValueError:
            return None
    return value


def section(allow: Iterable[str], profile: SeccompProfile | None) -> Iterator[str]:
    """Yield the lines of the section, in YAML."""
    names = list(allow)
    yield "seccomp:"
    if profile is not None:
        yield f"  profile: {profile.value}"
    if names or profile is None:
        yield "  allow:"
    for name in names:
        yield f"    {name}: any"
