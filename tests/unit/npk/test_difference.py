"""The comparison of packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar import npk
from northstar.cli.diff_command import describe
from northstar.npk.difference import ABSENT, FileInfo, compare, compare_fields, parse_listing

MANIFEST = "name: a\nversion: 1.0.0\nuid: 1000\ngid: 1000\n"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)
MAPS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


@given(MAPS)
def test_equal_manifests(value):
    assert compare_fields(value, value) == []


@given(MAPS, MAPS)
def test_changes_lead_from_the_old_manifest_to_the_new(old, new):
    changes = compare_fields(old, new)
    back = compare_fields(new, old)
    assert {(c.path, repr(c.old), repr(c.new)) for c in changes} == {
        (c.path, repr(c.new), repr(c.old)) for c in back
    }
    assert (repr(sorted(old.items(), key=repr)) == repr(sorted(new.items(), key=repr))) <= (
        not changes
    )
    for key in old.keys() ^ new.keys():
        [change] = [change for change in changes if change.path == key]
        assert ABSENT in (change.old, change.new)


def test_listing_of_unsquashfs():
    listing = """\
drwxr-xr-x 0/0                   100 2026-01-01 00:00 squashfs-root
-rwsr-x--T 1000/1001              12 2026-01-01 00:00 squashfs-root/a b
lrwxrwxrwx 0/0                     3 2026-01-01 00:00 squashfs-root/l -> a b
crw-rw-rw- 0/0                1,   3 2026-01-01 00:00 squashfs-root/null
"""
    assert parse_listing(listing) == {
        "a b": FileInfo("-", 0o5750, 1000, 1001, 12, ""),
        "l": FileInfo("l", 0o777, 0, 0, 0, ""),
        "null": FileInfo("c", 0o666, 0, 0, 0, "1,3"),
    }


@pytest.mark.parametrize("fs", ["squashfs", "erofs"])
def test_files(tmp_path: Path, fs):
    (tmp_path / "m.yaml").write_text(MANIFEST)
    root = tmp_path / "root"
    root.mkdir()
    for name in ("same", "content", "longer", "mode", "kind", "removed"):
        (root / name).write_text("1")
    (root / "link").symlink_to("same")
    npk.pack(tmp_path / "m.yaml", root, tmp_path / "a.npk", fs=fs)
    (root / "content").write_text("2")
    (root / "longer").write_text("22")
    (root / "mode").chmod(0o600)
    for name in ("kind", "removed", "link"):
        (root / name).unlink()
    (root / "kind").mkdir()
    (root / "link").symlink_to("mode")
    (root / "added").touch()
    (tmp_path / "m.yaml").write_text(MANIFEST.replace("uid: 1000", "uid: 1001"))
    npk.pack(tmp_path / "m.yaml", root, tmp_path / "b.npk", fs=fs)
    with npk.open(tmp_path / "a.npk") as a, npk.open(tmp_path / "b.npk") as b:
        lines = [line.strip() for line in describe(compare(a, b))]
        assert compare(a, a).same
        assert not compare(a, b).same
    owner = "owner 1000:1000 -> 1001:1000"
    assert lines[: lines.index("+ /added (file, mode 0644, 0 bytes)")] == [
        "manifest:",
        "uid: 1000 -> 1001",
        "files:",
    ]
    for line in (
        f"~ /content: {owner}, content",
        f"~ /longer: {owner}, size 1 -> 2",
        f"~ /mode: mode 0644 -> 0600, {owner}",
        f"~ /kind: file -> directory, mode 0644 -> 0755, {owner}",
        f"~ /link: {owner}, target",
        f"~ /same: {owner}",
        "- /removed (file, mode 0644, 1 bytes)",
    ):
        assert line in lines
