"""Compares filters, run by a BPF interpreter, with a simple model of the rules."""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from northstar.launch import seccomp
from northstar.launch.seccomp_profile import ARCHITECTURES, BASE, BY_CAPABILITY, KNOWN
from northstar.linux import seccomp as scmp
from northstar.manifest import (
    Capability,
    Seccomp,
    SeccompProfile,
    SyscallAny,
    SyscallArgs,
    SyscallRule,
)
from northstar.model import HostError, LaunchError
from tests.bpf import ALLOW, ERRNO, KILL, Data, decide
from tests.syscall_numbers import numbers

DEFAULT = SeccompProfile.DEFAULT
ENOSYS = ERRNO | errno.ENOSYS
U64 = 2**64 - 1
MACHINES = ["x86_64", "aarch64"]
TOKENS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FOREIGN = [0x40000003, 0x40000028, 0xC00000B7, 0xC000003E, 0xC0000016]
ANY = SyscallAny()


def known_numbers(machine: str) -> dict[str, int]:
    """Numbers of the kernel's headers, and of `NEWER` for calls newer than the headers."""
    return {**scmp.NEWER, **numbers(machine)}


def program(
    *capabilities: Capability,
    machine: str = "x86_64",
    profile: SeccompProfile | None = DEFAULT,
    allow: Mapping[str, SyscallRule] | None = None,
) -> bytes:
    wanted = Seccomp(profile=profile, allow=allow)
    return seccomp.compile_filter(wanted, frozenset(capabilities), ARCHITECTURES[machine]).program


def ask(filter_program: bytes, machine: str, name: str, *arguments: int) -> int:
    args = (*arguments, *(0,) * (6 - len(arguments)))
    return decide(filter_program, Data(known_numbers(machine)[name], TOKENS[machine], args))


# ---- The model


def admits(rule: SyscallRule | None, args: tuple[int, ...]) -> bool:
    if rule is None or isinstance(rule, SyscallAny):
        return rule is not None
    argument = args[rule.index]
    if rule.values is not None and argument in rule.values:
        return True
    return rule.mask is not None and argument & ~rule.mask == 0


def profile_allows(name: str, capabilities: frozenset[Capability], args: tuple[int, ...]) -> bool:
    if any(name in BY_CAPABILITY.get(capability, ()) for capability in capabilities):
        return True
    if name == "clone":
        return args[0] & 0x7E020000 == 0
    if name == "personality":
        return args[0] in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
    return name in BASE


def expected(wanted: Seccomp, capabilities: frozenset[Capability], machine: str, data: Data) -> int:
    if data.arch != TOKENS[machine] or data.nr >= 0x40000000:
        return KILL
    names = [name for name, number in known_numbers(machine).items() if number == data.nr]
    for name in names:
        if name == "execve" or admits((wanted.allow or {}).get(name), data.args):
            return ALLOW
        if wanted.profile is DEFAULT:
            if profile_allows(name, capabilities, data.args):
                return ALLOW
            if name == "clone3":
                return ENOSYS
    if data.nr > max(numbers(machine)["rseq"], numbers(machine).get("kexec_file_load", 0)) and (
        not KNOWN.intersection(names)
    ):
        return ENOSYS
    return KILL


# ---- Filters against the model

NAMES = [
    *("read", "write", "open", "execve", "exit_group", "clone", "clone3", "personality"),
    *("keyctl", "kcmp", "mount", "socket", "arch_prctl", "rseq", "fadvise64", "ptrace"),
    *("cachestat", "mount_setattr", "io_uring_setup", "pidfd_getfd", "file_setattr", "openat2"),
    *("raed", "chown32", "syslog", "pidfd_open", "quotactl_fd"),
]
VALUES = st.sampled_from(
    [0, 1, 2, 8, 0xFF, 0x7E020000, 2**31, 2**32 - 1, 2**32, 2**32 + 8, 2**63, U64 - 1, U64]
)
NUMBERS = VALUES | st.integers(0, U64)
ARGS = st.builds(
    SyscallArgs,
    index=st.integers(0, 5),
    values=st.none() | st.lists(NUMBERS, max_size=5).map(tuple),
    mask=st.none() | NUMBERS,
)
SECTIONS = st.builds(
    Seccomp,
    profile=st.none() | st.just(DEFAULT),
    allow=st.none() | st.dictionaries(st.sampled_from(NAMES), st.just(ANY) | ARGS, max_size=8),
)
CAPABILITIES = st.frozensets(st.sampled_from([*BY_CAPABILITY, Capability.CAP_KILL]), max_size=2)


def near(wanted: Seccomp) -> st.SearchStrategy[int]:
    """Values and masks of the rules, and variants with one bit changed."""
    marks = {0x7E020000, 0x20008, 0xFFFFFFFF}
    for rule in (wanted.allow or {}).values():
        if isinstance(rule, SyscallArgs):
            marks |= {*(rule.values or ()), rule.mask or 0}
    exact = st.sampled_from(sorted(marks))
    flipped = st.builds(lambda mark, bit: mark ^ 1 << bit, exact, st.integers(0, 63))
    return exact | flipped | st.builds(lambda mark, some: mark & some, exact, NUMBERS) | NUMBERS


@pytest.mark.parametrize("machine", MACHINES)
@settings(max_examples=40)
@given(wanted=SECTIONS, capabilities=CAPABILITIES, data=st.data())
def test_a_filter_decides_as_the_rules_say(
    machine: str, wanted: Seccomp, capabilities: frozenset[Capability], data: st.DataObject
) -> None:
    made = seccomp.compile_filter(wanted, capabilities, ARCHITECTURES[machine])
    assert set(made.unknown) == {"raed"} & (wanted.allow or {}).keys()
    known = known_numbers(machine)
    interesting = [known[name] for name in [*NAMES, *(wanted.allow or ())] if name in known]
    number = st.sampled_from(interesting) | st.integers(0, 600) | st.integers(0, 2**32 - 1)
    arch = st.just(TOKENS[machine]) | st.sampled_from([TOKENS[machine], *FOREIGN])
    asked = st.builds(Data, number, arch, st.tuples(*[near(wanted)] * 6), NUMBERS)
    for question in data.draw(st.lists(asked, min_size=10, max_size=30)):
        answer = decide(made.program, question)
        assert answer == expected(wanted, capabilities, machine, question), question


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("capability", [None, *BY_CAPABILITY], ids=str)
def test_every_number_under_the_profile(machine: str, capability: Capability | None) -> None:
    held = frozenset({capability} if capability else ())
    wanted = Seccomp(profile=DEFAULT)
    made = seccomp.compile_filter(wanted, held, ARCHITECTURES[machine])
    for number in [*range(640), 0x3FFFFFFF, 0x40000000, 0x40000001, 2**32 - 1]:
        question = Data(number, TOKENS[machine])
        answer = decide(made.program, question)
        assert answer == expected(wanted, held, machine, question), number


# ---- The rules one by one


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_but_execve_without_a_rule(machine: str) -> None:
    for nothing in (Seccomp(), Seccomp(allow={})):
        made = seccomp.compile_filter(nothing, frozenset(), ARCHITECTURES[machine]).program
        assert ask(made, machine, "execve") == ALLOW
        others = set(numbers(machine)) & KNOWN - {"execve"}
        assert {ask(made, machine, name) for name in others} == {KILL}


@pytest.mark.parametrize("machine", MACHINES)
def test_all_calls_of_other_architectures_are_killed(machine: str) -> None:
    allow = dict.fromkeys(["read", "getpid", "clone3", "mount_setattr"], ANY)
    made = program(*Capability, machine=machine, allow=allow)
    for token in {*FOREIGN} - {TOKENS[machine]}:
        for number in [*range(640), 0x40000000, 2**32 - 1]:
            assert decide(made, Data(number, token)) == KILL, (hex(token), number)


def test_x32_is_killed() -> None:
    made = program(*Capability, allow=dict.fromkeys(["read", "getpid"], ANY))
    for number in range(640):
        assert decide(made, Data(0x40000000 | number, TOKENS["x86_64"])) == KILL, number


def test_clone_with_and_without_namespaces() -> None:
    made = program()
    threads = 0x3D0F00
    assert ask(made, "x86_64", "clone", threads) == ALLOW
    assert ask(made, "x86_64", "clone", threads | 1 << 32) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask(made, "x86_64", "clone", threads | flag) == KILL
    assert ask(made, "x86_64", "clone3") == ENOSYS
    powerful = program(Capability.CAP_SYS_ADMIN)
    assert ask(powerful, "x86_64", "clone", 0x20000) == ALLOW
    assert ask(powerful, "x86_64", "clone3") == ALLOW


def test_calls_that_no_capability_allows() -> None:
    made = program(*Capability)
    never = ["add_key", "keyctl", "request_key", "userfaultfd", "pivot_root", "swapon", "swapoff"]
    never += ["io_uring_setup", "io_uring_enter", "io_uring_register"]
    for name in never:
        assert ask(made, "x86_64", name) == KILL, name


def test_a_capability_allows_only_its_calls() -> None:
    for capability, names in BY_CAPABILITY.items():
        held = program(capability)
        for other in BY_CAPABILITY.values():
            for name in (other & known_numbers("x86_64").keys()) - BASE - {"clone", "clone3"}:
                allowed = name in names
                assert (ask(held, "x86_64", name) == ALLOW) is allowed, (capability, name)


def test_an_entry_takes_precedence_over_the_profile() -> None:
    made = program(
        allow={
            "clone3": ANY,
            "personality": SyscallArgs(0, values=(0x40000,)),
            "keyctl": SyscallArgs(0, mask=0x3),
            "clone": SyscallArgs(1, values=(7,)),
            "io_uring_setup": ANY,
            "read": SyscallArgs(0, values=()),
        }
    )
    assert ask(made, "x86_64", "clone3") == ALLOW
    assert ask(made, "x86_64", "io_uring_setup") == ALLOW
    assert ask(made, "x86_64", "personality", 0x40000) == ALLOW
    assert ask(made, "x86_64", "personality", 8) == ALLOW
    assert ask(made, "x86_64", "personality", 9) == KILL
    assert ask(made, "x86_64", "keyctl", 2) == ALLOW
    assert ask(made, "x86_64", "keyctl", 4) == KILL
    assert ask(made, "x86_64", "clone", 0x20000, 7) == ALLOW
    assert ask(made, "x86_64", "clone", 0x20000, 8) == KILL
    assert ask(made, "x86_64", "read", 99) == ALLOW


def test_values_and_mask_of_64_bits() -> None:
    rule = SyscallArgs(2, values=(5, 2**32 + 5), mask=2**40 | 1)
    for name, refused in (("kcmp", KILL), ("clone3", ENOSYS), ("mount_setattr", ENOSYS)):
        made = program(allow={name: rule})
        for value in (0, 1, 5, 2**32 + 5, 2**40, 2**40 | 1):
            assert ask(made, "x86_64", name, 9, 9, value) == ALLOW, (name, value)
        for value in (2, 4, 2**32, 2**33 + 5, 2**32 + 1, 2**40 | 5, U64):
            assert ask(made, "x86_64", name, 5, 5, value) == refused, (name, value)


@pytest.mark.parametrize("name", ["kcmp", "clone3"])
def test_full_and_empty_masks(name: str) -> None:
    made = program(allow={name: SyscallArgs(0, mask=U64)})
    assert ask(made, "x86_64", name, U64) == ALLOW
    made = program(allow={name: SyscallArgs(0, mask=0)})
    assert ask(made, "x86_64", name, 0) == ALLOW
    assert ask(made, "x86_64", name, 1 << 63) != ALLOW


def test_a_newer_call_with_many_values_exceeds_no_jump() -> None:
    rule = SyscallArgs(5, values=tuple(range(1, 2**40, 2**40 // 50))[:50], mask=0x7)
    made = program(allow={"cachestat": rule, "mount_setattr": rule, "futex_wait": ANY})
    assert rule.values is not None
    assert ask(made, "x86_64", "mount_setattr", 0, 0, 0, 0, 0, rule.values[-1]) == ALLOW
    assert ask(made, "x86_64", "mount_setattr", 0, 0, 0, 0, 0, 8) == ENOSYS
    assert ask(made, "x86_64", "cachestat", 0, 0, 0, 0, 0, 8) == ALLOW  # the profile's own
    assert ask(made, "x86_64", "futex_wait") == ALLOW
    assert ask(made, "x86_64", "read") == ALLOW


def test_unknown_names_are_reported_but_not_those_of_other_architectures() -> None:
    wanted = Seccomp(allow=dict.fromkeys(["raed", "chown32", "open", "cachestat"], ANY))
    for machine in MACHINES:
        made = seccomp.compile_filter(wanted, frozenset(), ARCHITECTURES[machine])
        assert made.unknown == ("raed",)


def test_numbers_equal_the_kernels_headers() -> None:
    for machine in MACHINES:
        for name, number in numbers(machine).items():
            assert scmp.resolve_name_on(TOKENS[machine], name) == number


def test_compilation_is_deterministic() -> None:
    assert program() == program()


# ---- Limits and missing libraries


def test_a_filter_that_is_too_long() -> None:
    # Each value of a newer call takes five instructions.
    newer = [name for name, number in known_numbers("x86_64").items() if number >= 424]
    with pytest.raises(LaunchError, match=r"cannot install the seccomp filter: it has \d{4} instr"):
        program(profile=None, allow=dict.fromkeys(newer[:20], fifty_values(0)))


def test_a_filter_that_would_take_too_long_to_compile() -> None:
    allow = {name: fifty_values(50 * at) for at, name in enumerate(sorted(BASE - {"execve"})[:41])}
    with pytest.raises(LaunchError, match="it has 2050 values and masks, and at most 2000 are mad"):
        program(profile=None, allow=allow)


def fifty_values(first: int) -> SyscallArgs:
    return SyscallArgs(0, values=tuple(range(first, first + 50)))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scmp, "LIBRARY", "libnorthstar-nothing.so")
    scmp._function.cache_clear()
    try:
        with pytest.raises(HostError, match="libnorthstar-nothing") as caught:
            program()
        assert "libseccomp2" in str(caught.value)
    finally:
        scmp._function.cache_clear()


def test_without_descriptors_the_error_does_not_name_the_library() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    program()  # so that the library is loaded
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="seccomp-export") as caught:
            program()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("uname", (), {"machine": "riscv64"}))
    with pytest.raises(HostError, match="no seccomp filters for riscv64, only for x86_64, aarch64"):
        seccomp.native_architecture()


def test_equal_filters_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    compile_filter = seccomp.compile_filter

    def counted(*what: Any) -> seccomp.Filter:
        made.append(what)
        return compile_filter(*what)

    monkeypatch.setattr(seccomp, "_cache", {})
    monkeypatch.setattr(seccomp, "compile_filter", counted)
    none: frozenset[Capability] = frozenset()
    wanted = Seccomp(profile=DEFAULT, allow={"keyctl": ANY})
    assert seccomp.made_filter(wanted, none) is None
    first = seccomp.filter_for(wanted, none)
    same = Seccomp(profile=DEFAULT, allow={"keyctl": SyscallAny()})
    assert seccomp.made_filter(same, none) is first
    # No call depends on this capability.
    assert seccomp.filter_for(same, frozenset({Capability.CAP_KILL})) is first
    assert len(made) == 1
    assert seccomp.filter_for(wanted, frozenset({Capability.CAP_SYS_TIME})) is not first
    assert seccomp.filter_for(Seccomp(allow={"keyctl": ANY}), none) is not first
    assert len(made) == 3
    for value in range(2 * seccomp._CACHE_MAX):
        seccomp.filter_for(Seccomp(allow={"read": SyscallArgs(0, values=(value,))}), none)
    assert len(seccomp._cache) <= seccomp._CACHE_MAX


def test_the_file_of_a_filter_is_sealed() -> None:
    made = seccomp.filter_for(Seccomp(), frozenset())
    file = made.open()
    try:
        assert os.pread(file, 2**20, 0) == made.program
        with pytest.raises(PermissionError):
            os.pwrite(file, struct.pack("<HBBI", 6, 0, 0, ALLOW), 0)
    finally:
        os.close(file)
