"""/proc/PID/mountinfo is parsed as the kernel writes it, with any bytes in names."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.linux import mountinfo, selinuxfs
from northstar.linux.mountinfo import MountInfo


def escape(text: str, special: str) -> str:
    r"""Escape as the kernel does: seq_path and mangle write these characters as \ooo."""
    return "".join(f"\\{ord(char):03o}" if char in special else char for char in text)


def render(mount: MountInfo) -> str:
    fields = "".join(f" {field}" for field in mount.fields)
    return (
        f"{mount.mount_id} {mount.parent_id} {mount.major}:{mount.minor}"
        f" {escape(mount.root, PATH)} {escape(mount.mount_point, PATH)}"
        f" {','.join(mount.options)}{fields} - {escape(mount.fstype, NAME)}"
        f" {escape(mount.source, NAME)} {','.join(escape(o, NAME) for o in mount.super_options)}"
    )


PATH = " \t\n\\"
NAME = " \t\n\\#"
number = st.integers(0, 2**31 - 1)
names = st.binary(max_size=20).map(lambda data: os.fsdecode(data.replace(b"\0", b"0")))
words = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
word_lists = st.lists(words, min_size=1, max_size=3).map(tuple)
mounts = st.builds(
    MountInfo,
    mount_id=number,
    parent_id=number,
    major=number,
    minor=number,
    root=names.map(lambda name: "/" + name),
    mount_point=names.map(lambda name: "/" + name),
    options=word_lists,
    fields=st.lists(words.map(lambda word: f"shared:{word}"), max_size=2).map(tuple),
    fstype=words,
    source=names,
    super_options=st.lists(
        names.map(lambda name: name.replace(",", "_")), min_size=1, max_size=3
    ).map(tuple),
)


@given(st.lists(mounts, max_size=5))
def test_lines_of_the_kernel_are_parsed(given_mounts: list[MountInfo]) -> None:
    text = "".join(render(mount) + "\n" for mount in given_mounts)
    assert list(mountinfo.parse(text)) == given_mounts


@given(st.text(max_size=60))
def test_any_other_line_raises_only_value_error(line: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(mountinfo.parse_line(line), MountInfo)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "22 27 0:21 / /proc rw proc proc rw",
        "22 27 0:21 / - proc proc rw",
        "22 27 0:21 / /proc rw - proc proc",
        "x 27 0:21 / /proc rw - proc proc rw",
        "22 27 021 / /proc rw - proc proc rw",
    ],
)
def test_a_line_that_lacks_a_field_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of mountinfo"):
        mountinfo.parse_line(line)


def test_optional_fields_and_an_empty_source() -> None:
    mount = mountinfo.parse_line(
        "9 1 0:5 / /a\\040b rw,nosuid shared:2 master:1 - tmpfs  rw,size=4k"
    )
    assert mount.mount_point == "/a b"
    assert mount.fields == ("shared:2", "master:1")
    assert mount.source == ""
    assert mount.super_options == ("rw", "size=4k")


def test_the_mounts_of_this_process() -> None:
    found = {mount.mount_point: mount for mount in mountinfo.read()}
    proc = found["/proc"]
    assert proc.fstype == "proc"
    device = os.stat("/proc").st_dev
    assert (proc.major, proc.minor) == (os.major(device), os.minor(device))


def test_the_mount_of_a_file(tmp_path: Path) -> None:
    for path, point in (("/proc/self/status", "/proc"), ("/proc", "/proc")):
        found = mountinfo.containing(path)
        assert found is not None
        assert found.mount_point == point
    below = mountinfo.containing(str(tmp_path))
    assert below is not None
    assert (below.major, below.minor) == numbers(os.stat(tmp_path).st_dev)
    with pytest.raises(FileNotFoundError):
        mountinfo.containing(str(tmp_path / "missing"))


def numbers(device: int) -> tuple[int, int]:
    return os.major(device), os.minor(device)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        mountinfo.read("/proc/self/no-such-file")
    assert caught.value.filename == "/proc/self/no-such-file"


def test_selinux_is_enabled_where_its_file_system_is_mounted() -> None:
    plain = mountinfo.parse_line("22 27 0:21 / /proc rw - proc proc rw")
    labels = mountinfo.parse_line("23 27 0:22 / /sys/fs/selinux rw - selinuxfs selinuxfs rw")
    assert selinuxfs.enabled([plain, labels])
    assert not selinuxfs.enabled([plain])
