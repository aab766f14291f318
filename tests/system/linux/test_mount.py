"""Mounts and namespaces on the real kernel, each test in a mount namespace of its own."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.root

PREPARE = """
import errno, json, os, sys, tempfile
from northstar.linux import mount as m, mountinfo, netns
m.unshare(m.CLONE_NEWNS)
m.mount(None, "/", None, m.MS_REC | m.MS_PRIVATE)
m.mount("none", "/mnt", "tmpfs", m.MS_NOSUID | m.MS_NODEV, "mode=755,size=1m")
os.mkdir("/mnt/a"); os.mkdir("/mnt/b")
def info(point):
    return next(x for x in reversed(mountinfo.read()) if x.mount_point == point)
def error(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except OSError as e:
        return [errno.errorcode[e.errno], e.filename, e.filename2]
"""


def run(script: str) -> Any:
    """Run a script as root in a mount namespace of its own; it prints JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + script], capture_output=True, text=True, timeout=50
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_mount_and_umount() -> None:
    result = run("""
x = info("/mnt")
busy = open("/mnt/file", "w")
out = [x.fstype, x.source, sorted(set(x.options) & {"nosuid", "nodev", "noexec"})]
out.append("size=1024k" in x.super_options)
out.append(error(m.umount2, "/mnt", m.UMOUNT_NOFOLLOW))
m.umount2("/mnt", m.MNT_DETACH)
out.append(error(m.umount2, "/mnt", 0))
print(json.dumps(out))
""")
    assert result == [
        "tmpfs",
        "none",
        ["nodev", "nosuid"],
        True,
        ["EBUSY", "/mnt", None],
        ["EINVAL", "/mnt", None],
    ]


def test_a_file_system_is_configured_by_descriptor() -> None:
    result = run("""
fs = m.fsopen("tmpfs")
m.fsconfig_set_string(fs, "source", "none")
m.fsconfig_set_string(fs, "mode", "1777")
bad = error(m.fsconfig_set_string, fs, "nonsense", "1")
log = m.fscontext_log(fs)
m.fsconfig_set_flag(fs, "ro")
m.fsconfig_create(fs)
fd = m.fsmount(fs, attributes=m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NOEXEC)
os.close(fs)
target = m.openat2(m.AT_FDCWD, "/mnt/a", os.O_PATH)
m.move_mount(fd, "", target, "", m.MOVE_MOUNT_F_EMPTY_PATH | m.MOVE_MOUNT_T_EMPTY_PATH)
x = info("/mnt/a")
out = [bad, log, x.source, x.options, x.super_options[0], error(m.fsopen, "nofs")]
print(json.dumps([*out, os.get_inheritable(fd)]))
""")
    bad, log, source, options, read_only, unknown, inheritable = result
    assert bad == ["EINVAL", "nonsense", None]
    assert any("nonsense" in line for line in log)
    assert source == "none"
    assert {"nosuid", "noexec"} <= set(options)
    assert read_only == "ro"
    assert unknown == ["ENODEV", "nofs", None]
    assert not inheritable


def test_attributes_hold_for_what_is_below_too() -> None:
    result = run("""
m.mount("none", "/mnt/a", "tmpfs")
os.mkdir("/mnt/a/below")
m.mount("none", "/mnt/a/below", "tmpfs")
tree = m.open_tree(m.AT_FDCWD, "/mnt/a", m.OPEN_TREE_CLONE | m.OPEN_TREE_CLOEXEC | m.AT_RECURSIVE)
attributes = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NODEV
m.mount_setattr(tree, "", m.AT_EMPTY_PATH | m.AT_RECURSIVE, attr_set=attributes)
m.move_mount(tree, "", m.AT_FDCWD, "/mnt/b", m.MOVE_MOUNT_F_EMPTY_PATH)
points = ("/mnt/b", "/mnt/b/below", "/mnt/a/below")
out = [sorted(set(info(point).options) & {"ro", "nodev"}) for point in points]
out.append(error(open, "/mnt/b/below/file", "w"))
m.mount_setattr(m.AT_FDCWD, "/mnt/b", 0, attr_clr=m.MOUNT_ATTR_RDONLY)
out.append(sorted(set(info("/mnt/b").options) & {"ro", "nodev"}))
out.append(error(m.mount_setattr, m.AT_FDCWD, "/mnt/missing", 0, attr_set=1))
print(json.dumps(out))
""")
    assert result == [
        ["nodev", "ro"],
        ["nodev", "ro"],
        [],
        ["EROFS", "/mnt/b/below/file", None],
        ["nodev"],
        ["ENOENT", "/mnt/missing", None],
    ]


def test_a_network_namespace_is_entered_by_its_name() -> None:
    result = run("""
own = os.readlink("/proc/self/ns/net")
open("/mnt/a/blue", "w").close()
open("/mnt/a/empty", "w").close()
m.unshare(m.CLONE_NEWNET)
blue = os.readlink("/proc/self/ns/net")
m.mount("/proc/self/ns/net", "/mnt/a/blue", None, m.MS_BIND)
m.unshare(m.CLONE_NEWNET)
fd = netns.open_named("blue", ("/mnt/b", "/mnt/a"))
wrong = error(m.setns, fd, m.CLONE_NEWNS)
m.setns(fd, m.CLONE_NEWNET)
now = os.readlink("/proc/self/ns/net")
print(json.dumps([now == blue, blue != own, wrong, error(netns.open_named, "empty", ("/mnt/a",))]))
""")
    assert result == [True, True, ["EINVAL", None, None], ["EINVAL", "/mnt/a/empty", None]]
