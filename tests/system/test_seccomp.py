"""Seccomp filters of containers: every kind of rule, tested by real system calls."""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from northstar.model import Exited, Signalled
from tests.syscall_numbers import numbers
from tests.system.containers import OK, PROC, Said, exit_of, install, refused, run, run_new, split
from tests.system.harness import OLDER, RuntimeProcess

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

NO_32_BIT = "this kernel runs no 32-bit programs"
MAY_SKIP = (NO_32_BIT,)

NUMBERS = numbers(os.uname().machine)
DEFAULT = {"profile": "default"}
SIGSYS = int(signal.SIGSYS)
NEWUSER = 0x10000000


def call(name: str | int, *arguments: int) -> str:
    """Return the payload's command for a system call."""
    number = name if isinstance(name, int) else NUMBERS[name]
    return f"call {' '.join(map(hex, (number, *arguments)))}"


KEYCTL = call("keyctl", 99)
UNSUPPORTED = errno.errorcode[errno.EOPNOTSUPP]


def outcome(said: Said, command: str) -> str:
    """Return how a call went: `killed`, the symbol of its errno, or `done`."""
    do, _, on = command.partition(" ")
    line = said.of(do, on)
    if line["signal"]:
        assert line["signal"] == SIGSYS
        return "killed"
    return errno.errorcode[line["errno"]] if line["errno"] else "done"


def outcomes(
    runtime: RuntimeProcess, payload: Path, commands: list[str], **fields: Any
) -> list[str]:
    """Run commands in one container, and return how each went."""
    said = run_new(runtime, payload, " ; ".join(commands), **fields)
    assert said.status == OK
    return [outcome(said, command) for command in commands]


@pytest.mark.vm
def test_programs_run_under_the_profile(runtime: RuntimeProcess, payload: Path) -> None:
    words = "self ; mounts ; orphans 3 ; exit 3"
    said = run_new(runtime, payload, words, seccomp=DEFAULT, mounts=PROC)
    me = said.of("self")
    assert (me["seccomp"], me["no_new_privs"]) == (2, 1)
    assert said.status == Exited(3)


@pytest.mark.vm
def test_what_the_profile_answers(runtime: RuntimeProcess, payload: Path) -> None:
    expected = {
        call("getpid"): "done",
        # Killed with any arguments.
        call("keyctl", 0): "killed",
        call("add_key"): "killed",
        call("userfaultfd"): "killed",
        call("io_uring_setup", 1): "killed",
        call("pivot_root"): "killed",
        call("mount"): "killed",
        call("unshare", 0): "killed",
        call("setns"): "killed",
        call("bpf"): "killed",
        call("kcmp"): "killed",
        call("clock_settime"): "killed",
        call("reboot"): "killed",
        # ENOSYS, so that a library falls back to an older call.
        call("clone3"): "ENOSYS",
        call("mount_setattr"): "ENOSYS",
        call(469): "ENOSYS",
        call(500): "ENOSYS",
        call(0x3FFFFFFF): "ENOSYS",
        # Left to the kernel.
        call("mknodat", 0, 0): "EFAULT",
        # Depends on the arguments, all 64 bits of them.
        call("personality", 0xFFFFFFFF): "done",
        call("personality", 0): "done",
        call("personality", 0x20008): "done",
        call("personality", 0x40000): "killed",
        call("personality", 0x100000000): "killed",
        call("clone", 17): "done",
        call("clone", NEWUSER | 17): "killed",
    }
    assert outcomes(runtime, payload, [*expected], seccomp=DEFAULT) == [*expected.values()]


def test_without_a_filter_nothing_is_killed(runtime: RuntimeProcess, payload: Path) -> None:
    commands = [call("keyctl", 0), call("userfaultfd"), call("unshare", 0), call("clone3")]
    assert "killed" not in outcomes(runtime, payload, commands)


@pytest.mark.vm
def test_a_capability_allows_its_calls(runtime: RuntimeProcess, payload: Path) -> None:
    commands = {
        "CAP_SYS_ADMIN": call("unshare", 0),
        "CAP_SYS_PTRACE": call("kcmp"),
        "CAP_SYS_NICE": call("get_mempolicy"),
        "CAP_SYSLOG": call("syslog", 10),
        "CAP_SYS_CHROOT": call("chroot"),
    }
    for held in commands:
        went = outcomes(
            runtime, payload, [*commands.values()], seccomp=DEFAULT, capabilities=[held]
        )
        allowed = {name for name, how in zip(commands, went, strict=True) if how != "killed"}
        # syslog is allowed with either of two capabilities, as by the kernel.
        assert allowed == {held} | ({"CAP_SYSLOG"} if held == "CAP_SYS_ADMIN" else set())


def test_namespaces_with_the_capability(runtime: RuntimeProcess, payload: Path) -> None:
    commands = [call("clone", 0x20000 | 17), call("clone3")]
    powerful = outcomes(runtime, payload, commands, seccomp=DEFAULT, capabilities=["CAP_SYS_ADMIN"])
    assert powerful == ["done", "EINVAL"]


@pytest.mark.vm
def test_entries_allow_calls(runtime: RuntimeProcess, payload: Path) -> None:
    allow = {
        "keyctl": "any",
        "clone3": "any",
        "personality": {"args": {"index": 0, "values": [0x40000]}},
        "kcmp": {"args": {"index": 3, "values": [7, 0x100000007], "mask": 0x8000000000000018}},
        "mount_setattr": {"args": {"index": 2, "mask": 0x3}},
    }
    expected = {
        KEYCTL: UNSUPPORTED,
        call("clone3"): "EINVAL",
        call("personality", 0x40000): "done",
        call("personality", 0x20000): "done",
        call("personality", 0x60000): "killed",
        call("mount_setattr", 0, 0, 4): "ENOSYS",
        call("userfaultfd"): "killed",
    }
    admitted = [7, 0x100000007, 0, 8, 0x10, 0x18, 0x8000000000000000, 0x8000000000000018]
    refused_ones = [6, 0x200000007, 0x100000000, 0x8000000000000007, 0xFFFFFFFFFFFFFFFF]
    kcmp = [call("kcmp", 0, 0, 99, value) for value in (*admitted, *refused_ones)]
    mounts = [call("mount_setattr", 0, 0, 3)]
    went = outcomes(
        runtime, payload, [*expected, *kcmp, *mounts], seccomp={**DEFAULT, "allow": allow}
    )
    assert went[: len(expected)] == [*expected.values()]
    of_kcmp = [how == "killed" for how in went[len(expected) : -1]]
    assert of_kcmp == [False] * len(admitted) + [True] * len(refused_ones)
    assert went[-1] != "killed"
    assert OLDER or went[-1] != "ENOSYS"


@pytest.mark.vm
def test_a_list_without_the_profile(runtime: RuntimeProcess, payload: Path) -> None:
    needed = ["writev", "write", "ioctl", "exit_group", "arch_prctl", "set_tid_address", "brk"]
    allow = dict.fromkeys([*needed, "mmap", "rt_sigaction", "rt_sigprocmask", "fstat"], "any")
    container = install(runtime, payload, seccomp={"allow": allow})
    said = run(runtime, container, "say hello ; try number 9999 ; exit 4")
    assert said.errno("number", "9999") == errno.ENOSYS
    assert said.status == Exited(4)
    assert run(runtime, container, f"try number {NUMBERS['getpid']}").status == Signalled(SIGSYS)
    assert run(runtime, container, f"try number {NUMBERS['clone3']}").status == Signalled(SIGSYS)


def test_an_empty_section_allows_execve_and_nothing_else(
    runtime: RuntimeProcess, payload: Path
) -> None:
    sections: list[dict[str, Any]] = [{}, {"allow": {}}]
    for section in sections:
        container = install(runtime, payload, seccomp=section)
        with runtime.client(subscribe=True) as client:
            client.start(container)  # succeeds: the program was executed
            assert exit_of(client, container) == Signalled(SIGSYS)
            client.uninstall(container)


@pytest.mark.vm
def test_a_failing_execve_is_reported_if_the_reporter_is_killed(
    runtime: RuntimeProcess, payload: Path
) -> None:
    root = runtime.directory / "image"
    root.mkdir()
    (root / "text").write_text("no program")
    (root / "text").chmod(0o755)
    container = install(runtime, payload, root=root, seccomp={})
    with runtime.client() as client:
        for init, reason in (
            ("/nothing", "No such file or directory (ENOENT)"),
            ("/payload/x", "Not a directory (ENOTDIR)"),
            ("/text", "Exec format error (ENOEXEC)"),
        ):
            answer = refused(functools.partial(client.start, container, init=init))
            assert f"cannot execute {init}: {reason}" in str(answer)


@pytest.mark.vm
def test_other_architectures_are_killed(runtime: RuntimeProcess, payload: Path) -> None:
    getpid = f"foreign {20:#x}"
    x32 = call(0x40000000 | NUMBERS["getpid"])
    plain = run_new(runtime, payload, f"{getpid} ; {x32}")
    if plain.of("foreign", "0x14")["signal"] or plain.of("foreign", "0x14")["result"] < 0:
        pytest.skip(NO_32_BIT)
    allow = dict.fromkeys(["getpid", "write", "read"], "any")
    for section in (DEFAULT, {**DEFAULT, "allow": allow}):
        went = outcomes(runtime, payload, [getpid, x32, call("getpid")], seccomp=section)
        assert went == ["killed", "killed", "done"]


def test_an_unknown_name_is_a_warning(runtime: RuntimeProcess, payload: Path) -> None:
    allow = {"raed": "any", "chown32": "any", "keyctl": "any"}
    said = run_new(runtime, payload, call("keyctl", 99), seccomp={**DEFAULT, "allow": allow})
    assert said.status == OK
    warnings = re.findall(r"there is no system call (\w+), it is left out", runtime.text())
    assert warnings == ["raed"]


def test_without_libseccomp_only_containers_with_a_filter_fail(
    make_runtime: Callable[..., RuntimeProcess], payload: Path
) -> None:
    runtime = make_runtime()
    (library,) = Path("/usr/lib").glob(f"{os.uname().machine}-*/libseccomp.so.2")
    hide = runtime.enter("mount", "--bind", "/dev/null", str(library.resolve()))
    subprocess.run(hide, check=True)
    container = install(runtime, payload, seccomp=DEFAULT)
    with runtime.client() as client:
        answer = str(refused(functools.partial(client.start, container)))
    assert "which libseccomp cannot make" in answer
    assert "install libseccomp 2.5 or newer (Debian: libseccomp2)" in answer
    assert run_new(runtime, payload, "self", "other").of("self")["seccomp"] == 2 * OLDER
    runtime.stop()


def test_a_compiled_filter_is_used_again(runtime: RuntimeProcess, payload: Path) -> None:
    container = install(runtime, payload, seccomp=DEFAULT)
    run(runtime, container, "self")
    before = runtime.snapshot()
    for _ in range(3):
        assert run(runtime, container, "self").of("self")["seccomp"] == 2
    runtime.assert_no_leak(before)


def test_a_list_generated_from_a_strace_log(runtime: RuntimeProcess, payload: Path) -> None:
    log = runtime.directory / "traced" / "log"
    log.parent.mkdir()
    words = f"say hello ; orphans 2 ; {KEYCTL}"
    subprocess.run(["strace", "-f", "-tt", "-o", log, payload, *split(words)], check=True)
    section = runtime.nstar("seccomp", "--no-default-profile", str(log)).stdout
    wanted = yaml.safe_load(section)["seccomp"]
    said = run_new(runtime, payload, words, seccomp=wanted)
    assert (said.status, outcome(said, KEYCTL)) == (OK, UNSUPPORTED)
    del wanted["allow"]["keyctl"]
    assert outcome(run_new(runtime, payload, words, seccomp=wanted), KEYCTL) == "killed"
    # The only call that the profile does not allow.
    section = runtime.nstar("seccomp", str(log)).stdout
    assert yaml.safe_load(section)["seccomp"] == {**DEFAULT, "allow": {"keyctl": "any"}}
