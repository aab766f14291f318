"""Whether the program of an app can be executed, judged from its root directory."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar import manifest
from northstar.npk.program import Findings, check_program, elf_interpreter, script_interpreter

STATIC = b"\x7fELF\x02\x01" + bytes(58)


def elf(interpreter: str, *, wide: bool = True, little: bool = True) -> bytes:
    """Return an ELF program with one segment, PT_INTERP (elf(5))."""
    order = "<" if little else ">"
    name = interpreter.encode() + b"\0"
    ident = bytes((0x7F, *b"ELF", 2 if wide else 1, 1 if little else 2)).ljust(16, b"\0")
    if wide:
        header = ident + struct.pack(
            f"{order}HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
        )
        position = 64 + 56
        segment = struct.pack(f"{order}IIQQQQQQ", 3, 4, position, 0, 0, len(name), len(name), 1)
    else:
        header = ident + struct.pack(
            f"{order}HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0
        )
        position = 52 + 32
        segment = struct.pack(f"{order}8I", 3, position, 0, 0, len(name), len(name), 4, 1)
    return header + segment + name


class Root:
    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, path: str, content: bytes = STATIC, mode: int = 0o755) -> None:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)

    def link(self, path: str, target: str) -> None:
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        (self.path / path).symlink_to(target)

    def check(self, init: str = "/bin/app", more: str = "") -> Findings:
        text = f"name: a\nversion: 1.0.0\ninit: {init}\nuid: 1\ngid: 1\n{more}"
        return check_program(manifest.loads(text), self.path)

    def error(self, init: str = "/bin/app", more: str = "") -> str:
        [error] = self.check(init, more).errors
        assert error.hint
        return str(error)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_a_static_program(root: Root):
    root.add("bin/app")
    assert root.check() == Findings()


def test_a_root_that_is_a_link(root: Root, tmp_path: Path):
    root.add("bin/app")
    link = tmp_path / "link"
    link.symlink_to(root.path)
    assert Root(link).check() == Findings()


def test_a_missing_program(root: Root):
    assert "/bin/app is missing in the root directory (/bin is missing" in root.error()
    root.add("bin/other")
    assert "/bin/app is missing in the root directory;" in root.error()


def test_a_resource_and_no_root(root: Root):
    resource = manifest.loads("name: a\nversion: 1.0.0\nuid: 1\ngid: 1\n")
    assert check_program(resource, root.path) == Findings()
    app = manifest.loads("name: a\nversion: 1.0.0\ninit: /a\nuid: 1\ngid: 1\n")
    assert check_program(app, None) == Findings()


def test_a_relative_path_needs_no_root():
    app = manifest.loads("name: a\nversion: 1.0.0\ninit: bin/app\nuid: 1\ngid: 1\n")
    [error] = check_program(app, None).errors
    assert "relative" in str(error)
    assert error.hint == "write /bin/app"


@pytest.mark.parametrize("mode", [0o644, 0o611, 0o000])
def test_a_program_that_is_not_executable(root: Root, mode: int):
    root.add("bin/app", mode=mode)
    assert f"not executable (mode {mode:04o}); chmod 755 bin/app" in root.error()


def test_a_capability_makes_any_executable_bit_enough(root: Root):
    root.add("bin/app", mode=0o701 & ~0o100)
    assert root.check(more="capabilities: [CAP_DAC_OVERRIDE]\n") == Findings()
    assert "not executable" in root.error()


def test_a_directory(root: Root):
    (root.path / "bin/app").mkdir(parents=True)
    assert "is a directory" in root.error()


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("little", [True, False])
def test_the_interpreter_of_elf(root: Root, wide: bool, little: bool):
    root.add("bin/app", elf("/lib/ld.so", wide=wide, little=little))
    assert "linked dynamically" in root.error()
    assert "'/lib/ld.so'" in root.error()
    root.add("lib/ld.so")
    assert root.check() == Findings()


def test_the_interpreter_of_scripts(root: Root):
    root.add("bin/app", b"#! /bin/run\t-x\n")
    root.add("bin/run", b"#!/bin/sh\n")
    assert "needs the interpreter '/bin/sh', which is missing" in root.error()
    root.add("bin/sh", elf("/lib/ld.so"))
    assert "'/lib/ld.so' is missing" in root.error()
    root.add("lib/ld.so")
    assert root.check() == Findings()


def test_scripts_of_scripts_end(root: Root):
    root.add("bin/app", b"#!/bin/app\n")
    assert "is a script whose interpreter is a script" in root.error()


def test_line_ends_of_windows(root: Root):
    root.add("bin/app", b"#!/bin/sh\r\necho\r\n")
    root.add("bin/sh")
    assert "CR LF" in root.error()


def test_a_text_without_interpreter_is_a_warning(root: Root):
    root.add("bin/app", b"echo hello\n")
    findings = root.check()
    assert not findings.errors
    assert "neither an ELF program nor a script" in findings.warnings[0]


def test_links_stay_inside_of_the_root(root: Root):
    root.link("bin", "usr/bin")
    root.link("usr/bin/app", "../../../../opt/app")
    root.add("opt/app")
    assert root.check() == Findings()
    root.link("usr/bin/absolute", "/opt/app")
    assert root.check("/bin/absolute") == Findings()
    # It exists on this machine, but not in the root.
    root.link("usr/bin/host", os.path.realpath("/bin/sh"))
    assert "is missing" in root.error("/bin/host")
    root.link("usr/bin/loop", "loop")
    assert "loop of symbolic links" in root.error("/bin/loop")


@pytest.mark.parametrize(
    "mount",
    [
        "{type: resource, name: r, version: '*', dir: /usr}",
        "{type: bind, host: /usr}",
        "{type: persist}",
    ],
)
def test_below_a_mount_nothing_is_known(root: Root, mount: str):
    mounts = f"mounts: {{/usr: {mount}}}\n"
    assert root.check("/usr/bin/app", mounts) == Findings()
    # The usual form: links lead into the mounted directory, whose mount point packing makes.
    root.link("lib64", "usr/lib64")
    root.add("bin/app", elf("/lib64/ld.so"))
    assert root.check(more=mounts) == Findings()
    root.add("bin/script", b"#!/usr/bin/python3\n")
    assert root.check("/bin/script", mounts) == Findings()
    # What the root has itself is judged all the same.
    assert "is missing" in root.error("/opt/app", mounts)
    assert "linked dynamically" in root.error()


def test_a_mount_on_a_file(root: Root):
    mounts = "mounts: {/opt/bin/app: {type: bind, host: /bin/app}}\n"
    assert root.check("/opt/bin/app", mounts) == Findings()
    assert "is missing" in root.error("/opt/bin/other", mounts)


def test_a_mount_on_the_root(root: Root):
    assert root.check(more="mounts: {/: {type: bind, host: /}}\n") == Findings()


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: b"#!" + b)))
def test_any_bytes_are_a_script_or_not(head: bytes):
    name = script_interpreter(head)
    assert name is None or (head.startswith(b"#!") and not set(name) & set(" \t\n\0"))


@given(data=st.data(), wide=st.booleans(), little=st.booleans())
def test_damaged_headers_are_not_an_error(data: st.DataObject, wide: bool, little: bool):
    whole = bytearray(elf("/lib/ld.so", wide=wide, little=little))
    for index, value in data.draw(
        st.lists(st.tuples(st.integers(4, len(whole) - 1), st.integers(0, 255)), max_size=8)
    ):
        whole[index] = value
    fd = os.memfd_create("elf")
    try:
        os.write(fd, whole)
        name = elf_interpreter(fd, bytes(whole[:256]))
    finally:
        os.close(fd)
    assert name is None or "\0" not in name
