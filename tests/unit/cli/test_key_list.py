"""`sextant key-list`: a rotation of keys, step by step, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from northstar import npk
from northstar.cli.common import invoke
from northstar.cli.sextant import sextant
from northstar.npk import keylist


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        npk.generate(name, ".")
    capfd.readouterr()

    def call(*arguments: str) -> Done:
        code = invoke(sextant, ("key-list", *arguments), "sextant")
        return Done(code, *capfd.readouterr())

    return call


def identifier(name: str) -> str:
    return keylist.key_id(npk.load_public_key(f"{name}.pub"))


def test_a_rotation(run: Run) -> None:
    old, new = identifier("old"), identifier("new")
    assert run("new", "old.pub", "-o", "1") == Done(0, "created 1, version 1, 1 key\n", "")
    assert run("add", "1", "new.pub", "-o", "2").out == "created 2, version 2, 2 keys\n"
    unsigned = run("check", "2", "--after", "1")
    assert unsigned.code == 1
    assert "no valid signature by an install key of the current list" in unsigned.err
    assert old in unsigned.err
    assert run("sign", "2", "-k", "old.key").out == f"signed 2, version 2, with {old}\n"
    assert run("check", "2", "--after", "1") == Done(
        0,
        f"version 2\n{old} install\n{new} install\nsignature of {old}: valid\n"
        "it may replace version 1\n",
        "",
    )
    assert run("retire", "2", old, "-o", "3").code == 0
    run("sign", "3", "-k", "old.key")
    assert run("sign", "3", "-k", "new.key").code == 0
    checked = run("check", "3", "--after", "2")
    assert checked.code == 0
    assert f"{old} load\n{new} install\n" in checked.out
    assert run("retire", "3", old, "--remove", "-o", "4").out == "created 4, version 4, 1 key\n"
    assert run("add", "3", "old.pub", "-o", "5", "--version", "9").code == 0
    assert f"version 9\n{old} install\n{new} install\n" in run("check", "5").out
    assert sorted(os.listdir()) == ["1", "2", "3", "4", "5", "new.key", "new.pub", *OLD_FILES]


OLD_FILES = ["old.key", "old.pub"]


def test_a_second_signature_by_the_same_key_replaces_the_first(run: Run) -> None:
    run("new", "old.pub", "-o", "1")
    run("sign", "1", "-k", "old.key")
    once = Path("1").read_bytes()
    run("sign", "1", "-k", "old.key")
    assert Path("1").read_bytes() == once


def test_a_signature_of_an_unknown_key_is_shown(run: Run) -> None:
    run("new", "old.pub", "-o", "1")
    run("sign", "1", "-k", "new.key")
    unknown = f"signature of {identifier('new')}: not valid, or by an unknown key\n"
    assert unknown in run("check", "1").out


def refused(done: Done, text: str) -> None:
    assert done.code == 1
    assert text in done.err.replace("\nhint: ", "; ")
    assert "Traceback" not in done.err


def test_what_is_refused(run: Run) -> None:
    run("new", "old.pub", "-o", "1")
    before = Path("1").read_bytes()
    refused(run("new", "new.pub", "-o", "1"), "1 exists already; choose another name with -o")
    refused(run("new", "old.pub", "old.pub", "-o", "2"), "is listed twice")
    refused(run("new", "old.key.pub", "-o", "2"), "old.key.pub: No such file or directory")
    refused(run("new", "1", "-o", "2"), "more bytes than the 32 of a raw Ed25519 key")
    refused(run("retire", "1", "0" * 16, "-o", "2"), f"it has {identifier('old')}")
    refused(run("retire", "1", identifier("old"), "-o", "2"), "at least one key for install")
    refused(run("check", "old.pub"), "old.pub: a key list has two documents")
    refused(run("check", "missing"), "missing: No such file or directory")
    refused(run("check", "1", "--after", "1"), "version 2 must come next")
    refused(run("sign", "1", "-k", "old.pub.key"), "old.pub.key: No such file or directory")
    refused(run("new", "old.pub", "-o", "no/list"), "No such file or directory")
    assert Path("1").read_bytes() == before
    assert not Path("2").exists()
    assert [name for name in os.listdir() if name.endswith(".part")] == []


def test_a_list_in_a_directory_that_cannot_be_written(run: Run) -> None:
    run("new", "old.pub", "-o", "1")
    refused(run("sign", "/proc/version", "-k", "old.key"), "a key list has two documents")
    refused(run("new", "old.pub", "-o", "/proc/list"), "/proc/list")
