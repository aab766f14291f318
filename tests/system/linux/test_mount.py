"""Mounts and namespaces on the real kernel, each test in a new mount namespace."""

import json
import subprocess
import sys
from typing import Any

import pytest

from northstar.linux import open_tree

pytestmark = pytest.mark.root

PREPARE = """
import errno, json, os, sys, tempfile
from northstar.linux import mount as m, mountinfo, netns, open_tree
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
    """Run a script in a new mount namespace; return the JSON that it prints."""
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


@pytest.mark.skipif(not open_tree.supported(), reason="open_tree(2) is of Linux 5.2")
def test_a_copy_of_a_mount_is_detached_and_ends_with_its_descriptor() -> None:
    result = run("""
m.mount("none", "/mnt/a", "tmpfs", 0, "")
open("/mnt/a/file", "w").close()
before = len(mountinfo.read())
copy = open_tree.clone("/mnt/a")
m.umount2("/mnt/a", 0)
out = [len(mountinfo.read()) - before, os.listdir(f"/proc/self/fd/{copy}")]
out.append(os.get_inheritable(copy))
os.close(copy)
out.append(error(open_tree.clone, "/mnt/missing"))
print(json.dumps(out))
""")
    assert result == [-1, ["file"], False, ["ENOENT", "/mnt/missing", None]]
