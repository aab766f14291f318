"""The formats of cgroup files, and errors of reads and writes."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.linux import cgroup2, cgroupfs
from tests.unit.linux.refusals import refused

keys = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="_.:"), min_size=1
)
numbers = st.integers(0, 2**64 - 1)


@given(st.dictionaries(keys, numbers))
def test_flat_keyed(values: dict[str, int]) -> None:
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    assert cgroupfs.flat_keyed(text) == values


@given(st.dictionaries(keys, st.dictionaries(keys, numbers, min_size=1)))
def test_nested_keyed(values: dict[str, dict[str, int]]) -> None:
    text = "".join(
        f"{key} {' '.join(f'{name}={value}' for name, value in inner.items())}\n"
        for key, inner in values.items()
    )
    assert cgroupfs.nested_keyed(text) == values


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    assert all(type(value) is int for value in cgroupfs.flat_keyed(text).values())
    for inner in cgroupfs.nested_keyed(text).values():
        assert all(type(value) is int for value in inner.values())


def test_values_that_are_not_numbers_are_left_out() -> None:
    assert cgroupfs.flat_keyed("a 1\nb max\nc\n") == {"a": 1}
    assert cgroupfs.nested_keyed("8:0 rbps=1 wbps=max\n8:16\n") == {"8:0": {"rbps": 1}, "8:16": {}}


def test_a_value_is_written_and_read(tmp_path: Path) -> None:
    file = tmp_path / "pids.max"
    file.write_text("")
    cgroupfs.write(str(file), "20")
    assert cgroupfs.read(str(file)) == "20"


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    path = str(tmp_path / "pids.max")
    for act in (lambda: cgroupfs.write(path, "1"), lambda: cgroupfs.read(path)):
        with pytest.raises(FileNotFoundError) as caught:
            act()
        assert caught.value.filename == path
    assert not list(tmp_path.iterdir())


def test_errors_of_reads_and_writes_name_the_file() -> None:
    with refused(errno.EIO) as caught:  # nothing is mapped at address 0
        cgroupfs.read("/proc/self/mem")
    assert caught.value.filename == "/proc/self/mem"
    with refused(errno.ENOSPC) as caught:
        cgroupfs.write("/dev/full", "1")
    assert caught.value.filename == "/dev/full"


def test_processes_of_other_pid_namespaces_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("12\n0\n7\n")
    assert cgroupfs.procs(str(tmp_path)) == [12, 7]


def test_children_are_directories_only(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "below").mkdir()
    assert cgroupfs.children(str(tmp_path)) == [str(tmp_path / "below")]
    assert cgroupfs.children(str(tmp_path / "gone")) == []


def test_files_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    directory = str(tmp_path)
    assert cgroup2.controllers(directory) == {"cpu", "io", "memory"}
    assert cgroup2.subtree_control(directory) == frozenset()
    cgroup2.enable(directory, ["cpu", "memory"])
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory"
