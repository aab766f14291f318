"""Attempts to write, to mount, to gain privileges, to use devices and settings."""

from __future__ import annotations

import errno
import os
import shutil
import struct
from pathlib import Path

import pytest

from tests.system.attacks.attacker import DENIED, NEVER, Power, Victim, assault, refusals
from tests.system.containers import PROC, install, run

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True

WRITABLE = ("/tmp", "/data", "/shared")
"""The paths that the generous manifest lets a container write to."""

EVERYWHERE = {
    "empty": ("/",),
    "generous": ("/proc/sys", "/dev", "/lib", "/host", "/data", "/tmp", "/shared"),
    "generous-as-root": ("/",),
}


def test_writing_everywhere(victim: Victim, attack: Path, power: Power) -> None:
    """It opens each file for writing, changes each mode, creates a file in each directory."""
    words = " ; ".join(f"walk {top}" for top in EVERYWHERE[power.name])
    said = assault(victim, attack, power, words)
    assert all(said.of("walk", top)["result"] > 0 for top in EVERYWHERE[power.name])
    done = {(line["do"], line["on"]) for line in said if line["do"] in ("chmod", "open", "create")}
    assert {
        path for _, path in done if not f"{path}/".startswith(tuple(f"{w}/" for w in WRITABLE))
    } == set()
    if power.generous:
        assert {("create", "/tmp"), ("create", "/shared")} <= done  # so the attempts work


SETTINGS = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sysrq-trigger",
    "/proc/self/oom_score_adj",
    "/proc/1/oom_score_adj",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
)


def test_the_kernels_settings(victim: Victim, attack: Path, power: Power) -> None:
    """Also in a user namespace, where the attacker has all capabilities."""
    tries = " ; ".join(f"write {path} |/payload" for path in SETTINGS)
    said = assault(victim, attack, power, tries)
    assert set(refusals(said, "write").values()) <= {*NEVER, errno.ENOENT}
    others = "try remount /proc ; try umount /proc ; try mount /sys ; try sethostname x"
    again = run(victim.runtime, "attacker:1.0.0", f"{power.before}userns ; {others} ; {tries}")
    assert set(refusals(again, "write").values()) <= {*NEVER, errno.ENOENT}


def test_mounting(victim: Victim, attack: Path, power: Power) -> None:
    target = "/tmp" if power.generous else "/"
    tries = [f"mount {target}", f"umount {target}", "remount /", "unshare", f"chroot {target}"]
    tries += ["sethostname x", "setns /proc/1/ns/mnt", "mknod /tmp/node"]
    said = assault(victim, attack, power, " ; ".join(f"try {words}" for words in tries))
    errors = {line["errno"] for line in said if line["do"] not in ("become", "setns")}
    assert errors <= {errno.EPERM, errno.EROFS, errno.ENOENT}
    assert said.errno("setns", "/proc/1/ns/mnt") in {*DENIED, errno.EBADF}
    if power.generous:
        assert errors == {errno.EPERM}


def test_a_user_namespace(victim: Victim, attack: Path, power: Power) -> None:
    """Where all users may create one, its owner can change only its own mounts.

    Mounts stay read-only and without devices: they are locked (mount_namespaces(7)).
    """
    tries = ["remount /", "remount /host", "remount /dev", "umount /host", "umount /lib"]
    tries += ["mknod /tmp/node", "setns /proc/1/ns/mnt"]
    words = " ; ".join(f"try {each}" for each in tries)
    more = "write /payload x ; write /host/etc/writable x ; write /lib/x x ; climb ; on-init seize"
    said = assault(victim, attack, power, f"userns ; {words} ; {more}")
    for do in ("remount", "umount", "mknod", "setns", "write", "on-init"):
        refusals(said, do)
    assert said.of("climb")["result"] == 0


def test_privileges_of_files(victim: Victim, attack: Path, power: Power) -> None:
    """Set-user-id programs and file capabilities, in the image and in a writable mount."""
    root = victim.runtime.directory / "image"
    root.mkdir()
    for directory in (root, victim.shared):
        for name in ("setuid", "capable"):
            shutil.copy(attack, directory / name)
        (directory / "setuid").chmod(0o6755)
        (directory / "capable").chmod(0o755)
        # vfs_cap_data (linux/capability.h): revision 2, all capabilities permitted.
        data = struct.pack("<IIIII", 0x02000000, 0xFFFFFFFF, 0, 0x1FF, 0)
        os.setxattr(directory / "capable", "security.capability", data)
    paths = ["/setuid", "/capable"]
    paths += ["/shared/setuid", "/shared/capable"] if power.generous else []
    said = assault(victim, attack, power, "self", root=root)
    before = said.of("self")
    for path in paths:
        me = run(victim.runtime, "attacker:1.0.0", f"{power.before}exec {path} self").of("self")
        assert (me["uids"], me["gids"]) == (before["uids"], before["gids"]), path
        gained = {k: mask & ~before["caps"][k] for k, mask in me["caps"].items()}
        assert set(gained.values()) == {0}, path


def test_devices_of_the_image(victim: Victim, attack: Path, power: Power) -> None:
    root = victim.runtime.directory / "image"
    (root / "dev").mkdir(parents=True)
    nodes = {"mem": (1, 1), "null": (1, 3), "console": (5, 1), "loop-control": (10, 237)}
    for name, number in nodes.items():
        for path in (root / name, root / "dev" / name):
            os.mknod(path, 0o20666, os.makedev(*number))
            path.chmod(0o666)
    os.mknod(root / "disk", 0o60666, os.makedev(7, 0))
    (root / "disk").chmod(0o666)
    paths = [f"/{name}" for name in (*nodes, "disk")]
    paths += ["/dev/mem", "/dev/console", "/dev/loop-control"]
    said = assault(victim, attack, power, " ; ".join(f"read {path}" for path in paths), root=root)
    assert set(refusals(said, "read").values()) <= {errno.EACCES, errno.ENOENT}


def test_devices_by_a_writable_mount(victim: Victim, attack: Path, power: Power) -> None:
    """A container cannot create nodes there; it may use those of the host as their mode allows."""
    if not power.generous:
        return
    said = assault(victim, attack, power, "try mknod /shared/node ; try mknod /data/node")
    assert set(refusals(said, "mknod").values()) <= DENIED


def test_the_cgroup_tree(victim: Victim, attack: Path, power: Power) -> None:
    """A container sees nothing of the cgroup tree, and a mount of it needs privileges."""
    words = "list /sys/fs/cgroup ; try mount /sys/fs/cgroup ; write /sys/fs/cgroup/cgroup.procs 0"
    words += " ; write /sys/fs/cgroup/release_agent /payload"
    said = assault(victim, attack, power, words)
    if power.generous:
        assert said.of("list", "/sys/fs/cgroup")["names"] == []
    assert set(refusals(said, "write").values()) <= {*NEVER, errno.ENOENT}
    assert said.errno("mount", "/sys/fs/cgroup") in {errno.EPERM, errno.ENOENT}


def test_filling_the_hosts_disk(victim: Victim, attack: Path, power: Power) -> None:
    """The image, /dev and all read-only mounts accept no data; a tmpfs accepts its size."""
    places = ["/x"]
    if power.generous:
        places += ["/dev/x", "/lib/x", "/host/x", "/host/etc/open/x", "/sockets/x", "/tmp/x"]
    words = " ; ".join(f"fill {place} 4000000" for place in places)
    said = assault(victim, attack, power, words)
    taken = {line["on"]: line["result"] for line in said if line["do"] == "fill"}
    assert taken.pop("/tmp/x", 0) <= 2**20
    assert set(taken.values()) == {0}
    assert os.listdir(victim.tree / "etc" / "open") == []


def test_set_user_id_files_in_persistent_data(victim: Victim, attack: Path, power: Power) -> None:
    """A set-user-id program that root created there gains nothing in any container."""
    mounts = {**PROC, "/data": {"type": "persist"}}
    words = "fill /data/program 100 ; try chmod /data/program"
    assault(victim, attack, power, words, mounts=mounts)
    file = victim.runtime.data_dir / "attacker" / "program"
    if file.exists():
        file.write_bytes(attack.read_bytes())
        file.chmod(0o6755)
        os.chown(file, 0, 0)
        file.chmod(0o6755)
        other = install(victim.runtime, attack, "attacker", "2.0.0", mounts=mounts)
        me = run(victim.runtime, other, "exec /data/program self").of("self")
        assert (me["uids"], set(me["caps"].values())) == ([1000] * 3, {0})
