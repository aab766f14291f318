"""Older kernels: mount(2) creates the same mounts as the mount API; init joins its cgroup."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from northstar.launch.plan_ops import Op
from northstar.linux import mount, mountinfo
from tests.system import filters
from tests.system.filters import NEWER, Thread
from tests.system.launcher.driver import (
    DEADLINE,
    NODEV,
    NOEXEC,
    NOSUID,
    PROC,
    RDONLY,
    TMP,
    Image,
    Launch,
    Operation,
    encode,
    eventually,
    operations,
)

pytestmark = pytest.mark.root

NO_API = {"open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick"}

# The calls with a substitute that each kernel lacks.
KERNELS = {
    "5.1": frozenset(NEWER),
    "5.4": frozenset(NEWER) - NO_API,
    "5.6": frozenset(NEWER) - NO_API - {"openat2"},
    "5.9": frozenset(NEWER) - NO_API - {"openat2", "close_range"},
}

DEV: Operation = (Op.DEV, "/dev", RDONLY | NOSUID | NOEXEC, "c null 1 3", "l fd /proc/self/fd")


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[Thread]:
    thread = Thread(filters.without(KERNELS[request.param]))
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with sources of binds. Tests mount on it in their own namespace only."""
    top = tmp_path_factory.mktemp("source")
    for name in ("plain", "in ner/deep", "twice/below", "over/way/below", "odd\n\\name"):
        (top / name).mkdir(parents=True)
    (top / "file").write_text("a file")
    (top / "link").symlink_to("plain")
    return top


def mounts(launched: Launch) -> list[tuple[str, str, str, str]]:
    """Run a payload that lists its mounts, and return them without the devices."""
    launched.start()
    found = [tuple(line["mount"]) for line in launched.lines() if line["do"] == "mounts"]
    launched.end()
    assert found
    return [(target, kind, options, source) for source, target, kind, options in found]


@pytest.mark.vm
def test_the_mounts_are_the_same(launch, kernel, source, image):
    (image.path / "to").mkdir(exist_ok=True)
    if not (image.path / "way").is_symlink():
        (image.path / "way").symlink_to("/proc/../../to/./../to")
    image.add("covered", "by a file")
    plan = [
        PROC,
        TMP,
        DEV,
        (Op.FILESYSTEM, "sysfs", "sysfs", "/sys", RDONLY | NOSUID | NODEV | NOEXEC),
        (Op.BIND, "", f"{source}/link", "/data", NOSUID, 0, ""),
        (Op.BIND, str(source), "/../link/../plain", "/way", RDONLY | NODEV | NOEXEC, 0, ""),
        (Op.BIND, "", f"{source}/file", "/covered", RDONLY, 0, ""),
    ]
    newer, older = (launch("mounts", mounts=plan, thread=t) for t in (None, kernel))
    found = mounts(newer)
    assert [row[0] for row in found] == [
        "/", "/proc", "/tmp", "/dev", "/sys", "/data", "/to", "/covered"
    ]  # fmt: skip
    # mount(2) also makes the new file system itself read-only, which has no visible effect.
    assert found == mounts(older)


def test_a_directory_mounted_on_the_root(launch, kernel, payload, tmp_path):
    other = Image(tmp_path / "other", payload)
    plan = launch.operations("mounts", mounts=[PROC], uid=0, gid=0)
    at = next(i for i, o in enumerate(plan) if o[0] == Op.BIND)
    plan.insert(at + 1, (Op.BIND, "", str(other.path), "/", NODEV, 0, ""))
    newer, older = (launch(plan=plan, thread=t) for t in (None, kernel))
    found = mounts(newer)
    assert found[0][0] == "/"
    assert {"rw", "nodev"} <= set(found[0][2].split(","))
    assert found == mounts(older)


def test_submounts_get_the_options_too(program, image, source):
    options = RDONLY | NOSUID | NODEV | NOEXEC
    plan = encode(
        operations(
            image,
            "pause",
            mounts=[PROC, (Op.BIND, "", str(source), "/data", options, 0, "recursive")],
        )
    )

    def prepare() -> None:
        os_unshare_mounts()
        tmpfs = ("mount", "-t", "tmpfs", "-o", "nosymfollow", "none")
        # Nested, stacked, and one whose directory another mount hides.
        for name in ("in ner", "in ner/deep", "twice", "twice", "over/way/below", "over"):
            subprocess.run([*tmpfs, f"{source}/{name}"], check=True)
            if name == "in ner":
                (source / "in ner/deep").mkdir()
        subprocess.run(["mount", "--bind", source / "plain", source / "odd\n\\name"], check=True)

    both = []
    for lacking in ((), KERNELS["5.1"], KERNELS["5.9"]):
        thread = Thread(filters.without(lacking))
        thread(prepare)
        with Launch(program, plan, thread=thread) as launched:
            launched.start()
            both.append(tree(launched.pid))
        thread.close()
    newer, *older = both
    # All mounts that a path leads to; hidden ones are unreachable and keep their options.
    shown = {"/data", "/data/in ner", "/data/in ner/deep", "/data/twice", "/data/over"}
    shown |= {"/data/odd\n\\name"}
    assert set(newer) >= shown
    for found in older:
        assert {point: found[point] for point in shown} == {p: newer[p] for p in shown}
    for point in shown:
        assert newer[point] >= {"ro", "nosuid", "nodev", "noexec"}
    assert "nosymfollow" in newer["/data/in ner"]


def os_unshare_mounts() -> None:
    """Enter a new mount namespace with this thread."""
    mount.unshare(mount.CLONE_NEWNS)
    mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)


def tree(pid: int) -> dict[str, set[str]]:
    """Return the options of each mount of `pid`; of stacked mounts those of the uppermost."""
    with open(f"/proc/{pid}/mountinfo") as file:
        lines = [mountinfo.parse_line(line) for line in file]
    return {entry.mount_point: set(entry.options) for entry in lines}


@pytest.mark.usefixtures("not_sanitized")
def test_init_joins_a_cgroup_that_clone3_cannot_enter(program, image, v2_cgroup):
    """A kernel before 5.7 answers E2BIG to the cgroup in clone3's arguments."""
    directory = os.open(v2_cgroup, os.O_RDONLY | os.O_DIRECTORY)
    plan = encode(operations(image, "pause", cgroup=3))
    clone3 = 435
    thread = Thread(filters.in_launcher(filters.USER_NOTIF, clone3), listener=True)
    assert thread.listener is not None
    with Launch(program, plan, [directory], thread=thread) as launched:
        os.close(directory)
        for error in (errno.E2BIG, 0):
            call = thread.listener.next(DEADLINE)
            assert call is not None
            thread.listener.answer(call, error)
        launched.start()
        members = (v2_cgroup / "cgroup.procs").read_text().split()
        assert str(launched.pid) in members
        assert len(members) == 2  # init and the payload
    thread.close()
    eventually(lambda: not (v2_cgroup / "cgroup.procs").read_text(), "the cgroup is empty")
