"""Compares the profile with the list of container engines: the document lists every difference."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from northstar import manifest
from northstar.launch import seccomp
from northstar.launch.seccomp_profile import (
    BASE,
    BY_CAPABILITY,
    CLONE_NAMESPACES,
    KNOWN,
    PERSONALITIES,
)
from northstar.linux.seccomp import NEWER, resolve_name
from northstar.manifest import Capability, Seccomp, SeccompProfile
from tests.syscall_numbers import numbers
from tests.unit.launch import engines

DOCUMENT = Path(__file__).parents[3] / "docs/seccomp.md"
FACTS: dict[str, Any] = json.loads(engines.FACTS.read_text())
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
CAPABILITIES = [None, *Capability]
SOME = "some arguments"


def theirs(machine: str, capability: Capability | None) -> dict[str, str]:
    """The calls that the engines allow with at most one capability: `yes` or `SOME`."""
    found: dict[str, str] = {}
    held = {capability.value} if capability else set()
    for rule in FACTS["allowed"]:
        if not held.issuperset(rule.get("includes caps", ())):
            continue
        if held.intersection(rule.get("excludes caps", ())):
            continue
        if ARCHITECTURES[machine] not in rule.get("includes arches", ARCHITECTURES.values()):
            continue
        for name in rule["names"].split():
            if found.get(name) != "yes":
                found[name] = SOME if rule["arguments"] else "yes"
    return found


def ours(_machine: str, capability: Capability | None) -> dict[str, str]:
    held = frozenset({capability} if capability else ())
    rules = seccomp.rules(Seccomp(profile=SeccompProfile.DEFAULT), held)
    return {name: "yes" if seccomp.ANY in admits else SOME for name, admits in rules.items()}


def states(machine: str, allowed: Any) -> dict[str, str]:
    """For each call of an architecture `yes`, `no`, or the conditions on which it is allowed."""
    every = [(c.value if c else "", allowed(machine, c)) for c in CAPABILITIES]
    found = {}
    for name in {**numbers(machine), **NEWER}:
        words = [every[0][1][name]] if name in every[0][1] else []
        words += [c for c, calls in every[1:] if calls.get(name, "") != every[0][1].get(name, "")]
        found[name] = ", ".join(words) or "no"
    return found


def table() -> dict[str, tuple[str, str]]:
    """The rows of the document: for each call the answer of the engines and of the profile."""
    rows = {}
    for names, engine, here, why in re.findall(
        r"^\| (`.*`) \| (.*?) \| (.*?) \| (.*?) \|$", DOCUMENT.read_text(), re.MULTILINE
    ):
        assert len(why) > 10
        for name in re.findall(r"`(\w+)`", names):
            assert name not in rows
            rows[name] = (engine, here)
    return rows


def test_every_difference_is_explained() -> None:
    found: dict[str, tuple[str, str]] = {}
    for machine in ARCHITECTURES:
        engine, here = states(machine, theirs), states(machine, ours)
        different = {n: (engine[n], here[n]) for n in engine if engine[n] != here[n]}
        assert all(found.get(name, pair) == pair for name, pair in different.items())
        found |= different
    assert table() == found


def test_the_section_in_the_document_is_valid() -> None:
    (block,) = re.findall(r"^    seccomp:\n(?:    .*\n)+", DOCUMENT.read_text(), re.MULTILINE)
    app = "name: a\nversion: 1.0.0\ninit: /a\nuid: 1\ngid: 1\n" + textwrap.dedent(block)
    section = manifest.loads(app).seccomp
    assert section is not None
    profile = seccomp.rules(Seccomp(profile=SeccompProfile.DEFAULT), frozenset())
    allowed = seccomp.rules(section, frozenset())
    # Each of its entries adds something.
    assert all(allowed[name] != profile.get(name) for name in section.allow or ())


def test_arguments_equal_those_of_the_engines() -> None:
    rules = [r for r in FACTS["allowed"] if r["names"] == "personality"]
    assert [r["arguments"] for r in rules] == [[[0, "EQ", value]] for value in PERSONALITIES]
    # linux/sched.h: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
    flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    assert sum(flags) == CLONE_NAMESPACES


def test_every_name_is_a_system_call() -> None:
    assert [name for name in KNOWN if resolve_name(name) is None] == []
    here = {**numbers("x86_64"), **numbers("aarch64"), **NEWER}
    assert BASE - here.keys() == set()


@pytest.mark.parametrize("capability", BY_CAPABILITY, ids=str)
def test_a_call_with_a_capability_is_in_no_other_list(capability: Capability) -> None:
    assert BY_CAPABILITY[capability].isdisjoint(BASE)
    shared = {"syslog"}
    for other, names in BY_CAPABILITY.items():
        if other is not capability:
            assert BY_CAPABILITY[capability] & names <= shared
