"""The files that packing adds to a root directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from northstar.manifest import loads
from northstar.model import DEVICE_LINKS, DEVICE_NODES, PackageError
from northstar.npk.mountpoints import Addition, MountPoint, mount_points, plan

BASE = "name: a\nversion: 1.0.0\ninit: /a\nuid: 1\ngid: 1\nmounts:\n"


def points(mounts: str) -> dict[str, MountPoint]:
    return {point.target: point for point in mount_points(loads(BASE + mounts))}


def paths(additions: list[Addition]) -> dict[str, int]:
    return {addition.path: addition.mode for addition in additions}


@pytest.mark.parametrize(
    ("mount", "mode"),
    [
        ("{type: bind, host: /x}", 0o555),
        ("{type: bind, host: /x, options: 'rw,noexec'}", 0o755),
        ("{type: bind, host: /x, options: rec}", 0o555),
        ("{type: persist}", 0o755),
        ("{type: tmpfs, size: 1}", 0o755),
        ("{type: sockets}", 0o755),
        ("{type: dev}", 0o755),
        ("{type: proc}", 0o444),
        ("{type: sysfs}", 0o444),
        ("{type: resource, name: r, version: '*', dir: /}", 0o555),
    ],
)
def test_modes(mount: str, mode: int):
    assert points(f"  /m: {mount}")["/m"].mode == mode


@pytest.mark.parametrize(
    ("proc", "links"),
    [("/proc: {type: proc}", True), ("/p: {type: proc}", False), ("/proc: {type: sysfs}", False)],
)
def test_links_need_proc(proc: str, *, links: bool):
    additions = plan(points(f"  /dev: {{type: dev}}\n  {proc}").values(), None)
    made = {addition.path: addition.link for addition in additions if addition.link}
    assert made == ({f"/dev/{name}": target for name, target in DEVICE_LINKS} if links else {})


def test_the_directory_of_the_notify_socket():
    service = "  /a: {type: persist}\nservice: {notify: /run/app/}"
    assert points(service)["/run/app/"] == MountPoint("/run/app/", 0o755)
    additions = plan(points(service).values(), None)
    assert paths(additions) == {"/a": 0o755, "/run": 0o755, "/run/app": 0o755}
    assert points("service: {stop: {}}") == {}


def test_the_notify_directory_cannot_be_a_file(tmp_path: Path):
    (tmp_path / "n").write_text("")
    with pytest.raises(PackageError, match="/n is a file, where the manifest needs a directory"):
        plan(points("service: {notify: /n}").values(), str(tmp_path))


def test_device_nodes():
    additions = plan([MountPoint("/x/dev", 0o755, nodes=True)], None)
    assert paths(additions[:2]) == {"/x": 0o755, "/x/dev": 0o755}
    nodes = {addition.node: addition for addition in additions if addition.node}
    assert set(nodes) == set(DEVICE_NODES)
    for node, addition in nodes.items():
        assert node is not None
        assert (addition.path, addition.mode) == (f"/x/dev/{node.name}", 0o666)


def test_parents_come_first_and_mount_points_keep_their_modes():
    targets = [MountPoint("/a/b/c/", 0o444), MountPoint("/a", 0o555), MountPoint("//d//e", 0o755)]
    additions = plan(targets, None)
    assert paths(additions) == {
        "/a": 0o555,
        "/a/b": 0o755,
        "/a/b/c": 0o444,
        "/d": 0o755,
        "/d/e": 0o755,
    }
    seen = {"/"}
    for addition in additions:
        assert os.path.dirname(addition.path) in seen
        seen.add(addition.path)


def test_the_root_itself_needs_nothing():
    assert plan([MountPoint("/", 0o555)], None) == []


def test_existing_files_are_not_added(tmp_path: Path):
    (tmp_path / "a/b").mkdir(parents=True)
    assert paths(plan([MountPoint("/a/b", 0o444), MountPoint("/a/c", 0o444)], str(tmp_path))) == {
        "/a/c": 0o444
    }


def test_a_file_may_be_bound_over(tmp_path: Path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").touch()
    assert plan([MountPoint("/etc/hosts", 0o555, file=True)], str(tmp_path)) == []
    with pytest.raises(PackageError, match=r"/etc/hosts is a file.* needs a directory"):
        plan([MountPoint("/etc/hosts", 0o755)], str(tmp_path))
    with pytest.raises(PackageError, match=r"/etc/hosts \(for the mount /etc/hosts/x\) is a file"):
        plan([MountPoint("/etc/hosts/x", 0o555, file=True)], str(tmp_path))


def test_links_are_followed_inside_the_root(tmp_path: Path):
    (tmp_path / "var").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "var/up").symlink_to("../../../../run/new")
    (tmp_path / "out").symlink_to("/usr")
    assert paths(plan([MountPoint("/var/run/x", 0o444)], str(tmp_path))) == {"/run/x": 0o444}
    assert paths(plan([MountPoint("/var/up", 0o444)], str(tmp_path))) == {"/run/new": 0o444}
    # The host has /usr/bin; the root directory does not.
    assert paths(plan([MountPoint("/out/bin", 0o444)], str(tmp_path))) == {
        "/usr": 0o755,
        "/usr/bin": 0o444,
    }


def test_a_loop_of_links(tmp_path: Path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        plan([MountPoint("/a/x", 0o755)], str(tmp_path))


def test_device_files_of_the_root(tmp_path: Path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/fd").symlink_to("/elsewhere")
    point = MountPoint("/dev", 0o755, nodes=True, links=True)
    assert "/dev/fd" not in paths(plan([point], str(tmp_path)))
    (tmp_path / "dev/null").touch()
    with pytest.raises(PackageError, match=r"/dev/null is a file.*character device null \(1:3\)"):
        plan([point], str(tmp_path))
    (tmp_path / "dev/null").unlink()
    (tmp_path / "dev/stdin").mkdir()
    with pytest.raises(PackageError, match=r"/dev/stdin is a directory.*symbolic link"):
        plan([point], str(tmp_path))


@pytest.mark.root
def test_device_nodes_of_the_root(tmp_path: Path):
    (tmp_path / "dev").mkdir()
    os.mknod(tmp_path / "dev/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    point = MountPoint("/dev", 0o755, nodes=True)
    assert "/dev/null" not in paths(plan([point], str(tmp_path)))
    os.mknod(tmp_path / "dev/zero", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with pytest.raises(PackageError, match=r"/dev/zero is a character device"):
        plan([point], str(tmp_path))


def test_a_target_that_is_longer_than_a_path_is_refused():
    target = "/a" * 2047
    assert len(plan([MountPoint(target, 0o755)], None)) == 2047
    for longer in (target + "/a", "/a" * 500_000):
        with pytest.raises(PackageError, match="longer than a path may be"):
            plan([MountPoint(longer, 0o755)], None)
