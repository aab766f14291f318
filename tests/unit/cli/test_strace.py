"""Logs of strace: how they are parsed, and the manifest section that is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from northstar import manifest
from northstar.cli import strace
from northstar.cli.common import invoke
from northstar.cli.nstar_commands import nstar
from northstar.cli.strace import Call, analyse, parse_line
from northstar.manifest import SeccompProfile

DEFAULT = SeccompProfile.DEFAULT

# As strace 6.1 writes them with various options.
LINES = [
    ('execve("/bin/true", ["true"], 0x7ffdc /* 9 vars */) = 0', "execve"),
    ("10608 brk(NULL)                         = 0x555d8c24d000", "brk"),
    ('[pid 10618] 21:46:41.408536 openat(AT_FDCWD, "x(", O_RDONLY) = 3 <0.000052>', "openat"),
    ("[pid 10618] 21:46:41.408468 rt_sigaction(SIGINT, {...},  <unfinished ...>", "rt_sigaction"),
    ("[pid 10617] 21:46:41.408328 <... clone resumed>, child_tidptr=0x7f) = 10618", "clone"),
    ("21:46:41 clone(child_stack=NULL, flags=SIGCHLDstrace: Process 7 attached", "clone"),
    ("10626      0.000294 [  12] [00007f0b765a5c47] brk(NULL) = 0x55dcf1742000", "brk"),
    ("     0.000294 brk(NULL) = 0x55dcf1742000", "brk"),
    ("12:00:01 (+     0.000294) brk(NULL) = 0x55dcf1742000", "brk"),
    ("10637 1795556801.624196 kill(10637, SIGKILL) = ?", "kill"),
    ("1795556801.624196 kill(10637, SIGKILL) = ?", "kill"),
    ("10637<bash> exit_group(0)               = ?", "exit_group"),
    ("[pid 10637<sleep>] exit_group(0)        = ?", "exit_group"),
    ("7 [????????????????] rt_sigreturn({mask=[]}) = 0", "rt_sigreturn"),
    ("syscall_0x1f4(0, 0x1, 0x2) = -1 ENOSYS", "syscall_0x1f4"),
    (" <unfinished ...>", None),
    ("10637 +++ exited with 0 +++", None),
    ("10637 1795556801.624389 +++ killed by SIGKILL +++", None),
    ("21:46:41.478558 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---", None),
    ("strace: Process 10618 attached", None),
    ("[ Process PID=5 runs in 32 bit mode. ]", None),
    ("% time     seconds  usecs/call     calls    errors syscall", None),
    ("Hello, (world)", None),
    ("", None),
]


@pytest.mark.parametrize(("line", "name"), LINES)
def test_a_line(line: str, name: str | None) -> None:
    call = parse_line(line + "\n")
    assert (call.name if call else None) == name


class Written(NamedTuple):
    line: str
    name: str


def _written(names: st.SearchStrategy[str]) -> st.SearchStrategy[Written]:
    number = st.integers(0, 2**32).map(str)
    fraction = st.integers(0, 999999).map("{:06}".format)
    pid = st.just("") | number.map("{} ".format) | number.map("[pid {:>5}] ".format)
    clock = st.sampled_from(["", "01:02:03 "]) | st.builds("23:59:59.{} ".format, fraction)
    clock |= st.builds("{}.{} ".format, number, fraction)
    relative = st.just("") | st.builds("(+     {}.{}) ".format, number, fraction)
    where = st.sampled_from(["", "[00007fa9ad925ad7] ", "[????????] "])
    place = st.sampled_from(["", "[  59] "])
    text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
    end = st.sampled_from(
        [") = 0\n", ") = -1 ENOENT (No such file) <0.1>\n", " <unfinished ...>\n"]
    )

    def begun(*parts: str) -> Written:
        *front, name, arguments, after = parts
        return Written(f"{''.join(front)}{name}({arguments}{after}", name)

    def resumed(*parts: str) -> Written:
        *front, name, arguments, after = parts
        return Written(f"{''.join(front)}<... {name} resumed>{arguments}{after}", name)

    front = (pid, clock, relative, place, where)
    return st.builds(begun, *front, names, text, end) | st.builds(resumed, *front, names, text, end)


NAMES = ["read", "keyctl", "io_uring_setup", "pread64", "umount2", "openat2", "rt_sigreturn"]


@settings(max_examples=50)
@given(st.lists(_written(st.sampled_from(NAMES))))
def test_calls_are_found_with_any_prefix(written: list[Written]) -> None:
    found = [parse_line(one.line) for one in written]
    assert [call.name if call else None for call in found] == [one.name for one in written]
    needs = analyse([one.line for one in written], None)
    assert needs.allow == sorted({one.name for one in written})
    beyond = analyse([one.line for one in written], DEFAULT).allow
    assert beyond == sorted({one.name for one in written} & {"keyctl", "io_uring_setup", "umount2"})


@given(st.lists(st.text() | st.text("0123456789:. []()<>?+-ab_=\n\t")))
def test_any_text_can_be_parsed(lines: list[str]) -> None:
    needs = analyse(lines, DEFAULT)
    # The printed section is valid in a manifest.
    assert set(needs.allow) <= set(read_section(needs.allow, DEFAULT).allow or ())


def read_section(allow: list[str], profile: SeccompProfile | None) -> manifest.Seccomp:
    text = "\n".join(strace.section(allow, profile))
    app = manifest.loads(f"name: a\nversion: 1.0.0\ninit: /a\nuid: 1\ngid: 1\n{text}\n")
    assert app.seccomp is not None
    return app.seccomp


def test_the_section_is_valid_in_a_manifest() -> None:
    anything = manifest.SyscallAny()
    section = read_section(["keyctl"], DEFAULT)
    assert section == manifest.Seccomp(profile=DEFAULT, allow={"keyctl": anything})
    assert read_section([], DEFAULT) == manifest.Seccomp(profile=DEFAULT)
    assert read_section(["read"], None) == manifest.Seccomp(allow={"read": anything})


PROFILE = [
    ("clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD)", []),
    ("clone(child_stack=NULL, flags=CLONE_NEWUSER|SIGCHLD)", ["clone"]),
    ("clone3({flags=CLONE_VM|CLONE_FS, exit_signal=0}, 88)", []),
    ("clone3({flags=CLONE_NEWNET, exit_signal=SIGCHLD}, 88)", ["clone3"]),
    ("personality(0xffffffff) = 0 (PER_LINUX)", []),
    ("personality(PER_LINUX32|UNAME26) = 0", []),
    ("personality(PER_LINUX|ADDR_NO_RANDOMIZE) = 0", ["personality"]),
    ("personality(0x40000)", ["personality"]),
    ("<... personality resumed>) = 0", ["personality"]),
    ("ptrace(PTRACE_TRACEME) = 0", []),
    ("mount(NULL, 0) = 0", ["mount"]),
    ("statmount(1) = 0", []),
    ("open_tree_attr(1) = 0", ["open_tree_attr"]),
]


@pytest.mark.parametrize(("line", "allow"), PROFILE)
def test_calls_beyond_the_profile(line: str, allow: list[str]) -> None:
    assert analyse([line], DEFAULT).allow == allow
    assert analyse([line, "read(0)", line], DEFAULT).allow == allow


def test_one_call_that_is_not_allowed_is_enough() -> None:
    lines = ["clone(flags=SIGCHLD)", "clone(flags=CLONE_NEWNS)", "clone(flags=SIGCHLD)"]
    assert analyse(lines, DEFAULT).allow == ["clone"]
    assert parse_line(lines[1]) == Call("clone", "flags=CLONE_NEWNS)")


# ---- The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_bytes(b'1 read(3, "\xff\xfe", 2) = 2\n1 keyctl(0) = 1\n1 +++ exited with 0 +++\n')
    assert invoke(nstar, ["seccomp", str(log)], "nstar") == 0
    assert capsys.readouterr() == (
        "seccomp:\n  profile: default\n  allow:\n    keyctl: any\n",
        "",
    )
    assert invoke(nstar, ["seccomp", "--no-default-profile", str(log)], "nstar") == 0
    assert capsys.readouterr() == ("seccomp:\n  allow:\n    keyctl: any\n    read: any\n", "")


def test_omitted_calls_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text(
        "[ Process PID=5 runs in 32 bit mode. ]\nprintf(1)\nsyscall_0x1f4(0) = 0\nread(0) = 0\n"
    )
    assert invoke(nstar, ["seccomp", str(log)], "nstar") == 0
    said = capsys.readouterr()
    assert said.out == "seccomp:\n  profile: default\n"
    assert "no system call has this name: printf\n" in said.err
    assert "strace has no name for them: syscall_0x1f4 (" in said.err
    assert "of a 32-bit program" in said.err


@pytest.mark.parametrize("content", ["", "Hello\n", "printf(1)\n", "10637 +++ exited with 0 +++\n"])
def test_a_log_without_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    log = tmp_path / "log"
    log.write_text(content)
    assert invoke(nstar, ["seccomp", str(log)], "nstar") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"error: {log}: it contains no system calls\nhint: make it with: strace" in said.err


def test_a_missing_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(nstar, ["seccomp", str(tmp_path / "nothing")], "nstar") == 1
    assert "nothing: No such file or directory" in capsys.readouterr().err
    assert invoke(nstar, ["seccomp", str(tmp_path)], "nstar") == 1
    assert "Is a directory" in capsys.readouterr().err
    assert invoke(nstar, ["seccomp"], "nstar") == 2
