"""Containers' cgroups on the real kernel, with the version that this host has.

The same tests run in the virtual machine, which has version 2.
"""

import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from northstar.cgroups import Cgroup, CgroupHost
from northstar.cgroups.oom_monitor import MemoryEvents
from northstar.linux import cgroupfs
from northstar.manifest.cgroups import Cgroups, Cpu, Memory, Pids
from northstar.model.errors import HostError, LaunchError
from tests.system.harness import eventually
from tests.system.linux.cgroups import (
    HOST,
    LIMITS,
    MIB,
    V1,
    attach,
    attach_and_resume,
    directories,
    pids,
    used,
    value,
)

pytestmark = [pytest.mark.root, pytest.mark.vm]


def test_this_host_has_the_usual_controllers() -> None:
    assert {"cpu", "cpuset", "memory", "blkio", "pids"} <= set(HOST.usable)


def test_a_cgroup_is_made_and_removed_in_every_hierarchy(top: str) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", None)
    assert all(os.path.isdir(path) for path in directories(f"{top}/hello"))
    assert not cgroup.warnings
    assert pids(cgroup) == set()
    cgroup.destroy()
    cgroup.destroy()
    assert not any(os.path.exists(path) for path in directories(f"{top}/hello"))
    HOST.remove_runtime_cgroup(top)
    HOST.remove_runtime_cgroup(top)
    assert not any(os.path.exists(path) for path in directories(top))


def test_the_kernel_has_the_limits_of_the_manifest(top: str) -> None:
    wanted = {"pids.max": "20", "cpuset.cpus": "0", "cpuset.mems": "0"}
    if V1:
        wanted |= {
            "cpu.shares": "512",
            "cpu.cfs_quota_us": "10000",
            "cpu.cfs_period_us": "20000",
            "memory.limit_in_bytes": str(64 * MIB),
            "memory.soft_limit_in_bytes": str(32 * MIB),
        }
    else:
        wanted |= {
            "cpu.weight": "50",
            "cpu.max": "10000 20000",
            "memory.max": str(64 * MIB),
            "memory.low": str(32 * MIB),
        }
    cgroup = Cgroup.create(HOST, top, "hello", LIMITS)
    assert not cgroup.warnings
    assert {name: value(cgroup, name.partition(".")[0], name) for name in wanted} == wanted
    cgroup.destroy()


def test_descriptors_for_joining_a_cgroup(top: str) -> None:
    """A directory for clone3(2) in version 2; files to write `0` to in version 1."""
    cgroup = Cgroup.create(HOST, top, "hello", None)
    versions = [hierarchy.version for hierarchy in HOST.hierarchies]
    tasks = [cgroup.open_tasks(number) for number in range(versions.count(1))]
    directory = cgroup.into_fd()
    assert (directory is None) == (2 not in versions)
    assert not any(map(os.get_inheritable, tasks))
    if directory is not None:
        (path,) = [cgroup.directory(h) for h in HOST.hierarchies if h.version == 2]
        assert os.path.samestat(os.fstat(directory), os.stat(path))
        assert not os.get_inheritable(directory)
        os.close(directory)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for fd in tasks:
                os.write(fd, b"0")
            status = 0
            signal.pause()
        finally:
            os._exit(status)
    try:
        for fd in tasks:
            os.close(fd)
        assert eventually(
            lambda: all(
                cgroupfs.procs(cgroup.directory(hierarchy)) == [pid]
                for hierarchy in HOST.hierarchies
                if hierarchy.version == 1
            )
        )
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    cgroup.destroy()


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (Cgroups(cpu=Cpu(cpus="4095")), "cpuset.cpus"),
        (Cgroups(cpu=Cpu(cpus="none")), "cpuset.cpus"),
        (Cgroups(cpu=Cpu(quota=1)), "cpu."),
        (Cgroups(memory=Memory(memory_hard_limit=-2)), "memory."),
    ],
)
def test_a_refused_limit_names_file_and_value_and_leaves_nothing(
    top: str, config: Cgroups, wrong: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchError) as caught:
        Cgroup.create(HOST, top, "hello", config)
    path = caught.value.path
    assert f"/{top}/hello/{wrong}" in path
    assert str(caught.value).startswith("cannot write ")
    assert path in str(caught.value)
    assert caught.value.errno in (errno.EINVAL, errno.ERANGE, errno.ENODEV)
    assert not any(os.path.exists(path) for path in directories(f"{top}/hello"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_or_refused_attribute_is_a_warning(top: str) -> None:
    config = Cgroups(memory=Memory(attrs={"memory.nonsense": "1", "memory.stat": "2"}))
    cgroup = Cgroup.create(HOST, top, "hello", config)
    missing, refused = cgroup.warnings
    assert "cannot write 1 to " in missing
    assert missing.endswith("/hello/memory.nonsense: No such file or directory")
    assert "cannot write 2 to " in refused
    cgroup.destroy()


def test_destroy_kills_all_processes_in_nested_cgroups_too(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", None)
    outer, inner = spawn(), spawn()
    attach(cgroup, outer.pid)
    directory = cgroup.controller("memory")
    assert directory is not None
    os.makedirs(f"{directory}/a/b")
    cgroupfs.write(f"{directory}/a/b/cgroup.procs", str(inner.pid))
    assert pids(cgroup) == {outer.pid, inner.pid}
    # Zombies do not keep a cgroup busy: these are reaped only afterwards.
    cgroup.destroy()
    assert outer.wait(10) == inner.wait(10) == -signal.SIGKILL
    assert not any(os.path.exists(path) for path in directories(f"{top}/hello"))


def test_only_an_empty_cgroup_is_removed_at_once(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", None)
    process = spawn()
    attach(cgroup, process.pid)
    assert not cgroup.destroy_if_empty()
    # Nobody is killed, and nobody else can have it.
    assert process.poll() is None
    assert process.pid in pids(cgroup)
    with pytest.raises(HostError):
        Cgroup.create(HOST, top, "hello", None)
    cgroup.destroy()
    assert process.wait(10) == -signal.SIGKILL
    again = Cgroup.create(HOST, top, "hello", None)
    os.rmdir(directories(f"{top}/hello")[0])  # by another program
    assert again.destroy_if_empty()
    assert not any(os.path.exists(path) for path in directories(f"{top}/hello"))
    assert again.destroy_if_empty()
    Cgroup.create(HOST, top, "hello", None).destroy()


FORKING = """
import os, sys
print(flush=True)
input()
while True:
    try:
        if os.fork() == 0:
            if os.fork():
                os._exit(0)
    except OSError:
        pass
"""


def test_a_fork_bomb_is_killed(top: str, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", Cgroups(pids=Pids(50)))
    bomb = spawn(FORKING)
    attach_and_resume(cgroup, bomb)
    assert eventually(lambda: len(pids(cgroup)) > 20)
    cgroup.destroy(timeout=10)
    assert bomb.wait(10) == -signal.SIGKILL


def test_processes_and_limits_of_an_earlier_run_are_removed(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    before = Cgroup.create(HOST, top, "hello", LIMITS)
    left = spawn()
    attach(before, left.pid)
    # The runtime that created it was killed here; the next one has no state of it.
    cgroup = Cgroup.create(CgroupHost.detect(), top, "hello", None)
    assert left.wait(10) == -signal.SIGKILL
    assert pids(cgroup) == set()
    assert value(cgroup, "pids", "pids.max") == "max"
    cgroup.destroy()


def test_a_cgroup_of_other_processes_is_neither_used_nor_emptied(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    parent = f"{top}-services"
    config = Cgroups(parent=parent)
    service = Cgroup.create(HOST, parent, "sshd", None)
    stranger = spawn()
    try:
        attach(service, stranger.pid)
        with pytest.raises(HostError, match=r"has processes that are not the container's"):
            Cgroup.create(CgroupHost.detect(), top, "sshd", config)
        assert stranger.poll() is None
        assert pids(service) == {stranger.pid}
    finally:
        service.destroy()
    # An empty one is used.
    cgroup = Cgroup.create(HOST, top, "sshd", config)
    cgroup.destroy()
    assert all(os.path.isdir(path) for path in directories(parent))
    HOST.remove_runtime_cgroup(parent)


def test_a_parent_is_created_on_every_level_and_kept(top: str) -> None:
    config = Cgroups(parent=f"{top}/a//b", pids=Pids(5), cpu=Cpu(shares=100))
    cgroup = Cgroup.create(HOST, top, "hello", config)
    assert not cgroup.warnings
    assert value(cgroup, "pids", "pids.max") == "5"
    cgroup.destroy()
    assert all(os.path.isdir(path) for path in directories(f"{top}/a/b"))
    HOST.remove_runtime_cgroup(top)
    assert not any(os.path.exists(path) for path in directories(top))


def test_a_start_that_fails_leaves_no_parent(top: str) -> None:
    """A parent cannot be created, or the container's cgroup cannot, or a limit is refused."""
    refused = "a\nb"  # by the kernel, since /proc/PID/cgroup has one cgroup per line
    with pytest.raises(OSError, match="Invalid argument"):
        Cgroup.create(HOST, top, "hello", Cgroups(parent=f"{top}/a/b/{refused}/c"))
    assert not any(os.path.exists(path) for path in directories(top))
    with pytest.raises(OSError, match="Invalid argument"):
        Cgroup.create(HOST, top, refused, Cgroups(parent=f"{top}/a/b"))
    assert not any(os.path.exists(path) for path in directories(top))
    wrong = Cgroups(parent=f"{top}/a/b", cpu=Cpu(cpus="none"))
    with pytest.raises(LaunchError):
        Cgroup.create(HOST, top, "hello", wrong)
    assert not any(os.path.exists(path) for path in directories(top))
    # A cgroup that existed before stays.
    other = Cgroup.create(HOST, top, "other", Cgroups(parent=f"{top}/a"))
    with pytest.raises(LaunchError):
        Cgroup.create(HOST, top, "hello", wrong)
    assert all(os.path.isdir(path) for path in directories(f"{top}/a/other"))
    assert not any(os.path.exists(path) for path in directories(f"{top}/a/b"))
    other.destroy()
    with pytest.raises(OSError, match="Invalid argument"):
        HOST.create_runtime_cgroup(f"{top}/a/b/{refused}")
    assert not any(os.path.exists(path) for path in directories(f"{top}/a/b"))


def test_starts_that_fail_do_not_disturb_others_with_the_same_parent(top: str) -> None:
    parent = f"{top}/a/b"

    def start(number: int) -> None:
        for _ in range(10):
            if number % 2:
                wrong = Cgroups(parent=parent, cpu=Cpu(cpus="none"))
                with pytest.raises(LaunchError):
                    Cgroup.create(host, top, f"app-{number}", wrong)
            else:
                Cgroup.create(host, top, f"app-{number}", Cgroups(parent=parent)).destroy()

    host = CgroupHost.detect()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))
    HOST.remove_runtime_cgroup(top)


def test_cgroups_of_any_depth_are_removed(top: str) -> None:
    """Other programs of the host can create them; a manifest cannot."""

    def deepen() -> None:
        path = directories(f"{top}/hello")[0]
        os.makedirs(path)
        for levels in range(1, 1101):
            os.mkdir(path + "/a" * levels)

    deepen()
    Cgroup.create(CgroupHost.detect(), top, "hello", None).destroy()
    assert not any(os.path.exists(path) for path in directories(f"{top}/hello"))
    deepen()
    HOST.remove_runtime_cgroup(top)
    assert not any(os.path.exists(path) for path in directories(top))


def test_a_removed_parent_is_created_again(top: str) -> None:
    host = CgroupHost.detect()
    for _ in range(2):
        for parent in (None, f"{top}/a/b"):
            cgroup = Cgroup.create(host, top, "hello", Cgroups(parent=parent, pids=Pids(5)))
            assert not cgroup.warnings
            assert value(cgroup, "pids", "pids.max") == "5"
            cgroup.destroy()
        host.remove_runtime_cgroup(top)


def test_a_runtimes_cgroup_with_processes_is_not_removed(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", None)
    process = spawn()
    attach(cgroup, process.pid)
    with pytest.raises(OSError, match="busy") as caught:
        HOST.remove_runtime_cgroup(top)
    assert str(caught.value.filename).endswith(f"{top}/hello")
    assert process.poll() is None
    cgroup.destroy()


def test_a_busy_cgroup_does_not_keep_its_neighbours(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    names = ("a", "b", "c")
    made = [Cgroup.create(HOST, top, name, None) for name in names]
    attach(made[1], spawn().pid)
    with pytest.raises(OSError, match="busy"):
        HOST.remove_runtime_cgroup(top)
    for name in ("a", "c"):
        assert not any(os.path.exists(path) for path in directories(f"{top}/{name}"))
    for cgroup in made:
        cgroup.destroy()


def test_a_cgroup_inside_another_containers_is_refused(top: str) -> None:
    outer = Cgroup.create(HOST, top, "outer", None)
    with pytest.raises(HostError, match=f"another container has {top}/outer"):
        Cgroup.create(HOST, top, "inner", Cgroups(parent=f"{top}/outer/a"))
    outer.destroy()
    inner = Cgroup.create(HOST, top, "inner", Cgroups(parent=f"{top}/outer/a"))
    with pytest.raises(HostError, match="is not free"):
        Cgroup.create(HOST, top, "outer", None)
    # A common prefix of the names is no conflict.
    Cgroup.create(HOST, top, "out", None).destroy()
    inner.destroy()
    Cgroup.create(HOST, top, "outer", None).destroy()


def test_a_failed_start_can_be_repeated(top: str) -> None:
    for _ in range(2):
        with pytest.raises(LaunchError):
            Cgroup.create(HOST, top, "hello", Cgroups(cpu=Cpu(cpus="none")))
    Cgroup.create(HOST, top, "hello", None).destroy()


def test_many_containers_at_the_same_time(top: str) -> None:
    def cycle(number: int) -> None:
        for _ in range(5):
            cgroup = Cgroup.create(HOST, top, f"app-{number}", LIMITS)
            assert not cgroup.warnings
            assert value(cgroup, "pids", "pids.max") == "20"
            cgroup.destroy()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cycle, range(8)))
    HOST.remove_runtime_cgroup(top)


FORKS = """
import os
print(flush=True)
input()
made = 0
try:
    for made in range(100):
        if os.fork() == 0:
            input()
except OSError as error:
    print(made, error.errno, flush=True)
"""


def test_a_process_limit_holds(top: str, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", Cgroups(pids=Pids(10)))
    process = spawn(FORKS)
    output = attach_and_resume(cgroup, process)
    assert output.readline().split() == ["9", str(errno.EAGAIN)]
    assert used(cgroup)["pids"] == {"current": 10, "max": 10}
    cgroup.destroy()


GREEDY = """
print(flush=True)
input()
data = []
while True:
    data.append(bytearray(b"x" * 1048576))
"""


def test_out_of_memory_is_reported(top: str, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    memory = Memory(memory_hard_limit=32 * MIB, swappiness=0, oom_monitor=True)
    cgroup = Cgroup.create(HOST, top, "hello", Cgroups(memory=memory))
    monitor = cgroup.oom_monitor()
    assert monitor is not None
    with monitor:
        assert monitor.read() is None
        process = spawn(GREEDY)
        attach_and_resume(cgroup, process)
        assert process.wait(30) == -signal.SIGKILL

        seen: list[MemoryEvents] = []
        deadline = time.monotonic() + 10
        while not any(event.out_of_memory for event in seen) and time.monotonic() < deadline:
            select.select([monitor], [], [], 1)
            event = monitor.read()
            if event is not None:
                seen.append(event)
        last = seen[-1]
        assert last.out_of_memory
        assert last.oom is not None
        assert last.oom >= 1
        if V1:
            assert last[:5] == (None, None, None, 1, None)
        else:
            assert last.low == 0
            assert last.max is not None
            assert last.max > 0
        statistics = used(cgroup)["memory"]["memory"]
        assert statistics["limit_in_bytes"] == 32 * MIB
        assert statistics["max_usage_in_bytes"] > 16 * MIB
        assert statistics["fail_cnt"] > 0
        assert statistics["oom_control"]["oom_kill"] >= 1
        cgroup.destroy()
        # The removal makes the descriptor readable too, but is not an event.
        assert monitor.read() is None
    assert monitor.fileno() == -1


def test_statistics_of_a_running_process(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    cgroup = Cgroup.create(HOST, top, "hello", LIMITS)
    process = spawn(
        "print(flush=True); input(); x = bytearray(8 << 20); print(flush=True); input()"
    )
    output = attach_and_resume(cgroup, process)
    output.readline()
    statistics = used(cgroup)
    # Version 2 has the time in cpu.stat.
    assert set(statistics) - {"cpuacct"} == {"memory", "cpu", "blkio", "pids"}
    assert statistics["pids"] == {"current": 1, "max": 20}
    memory = statistics["memory"]["memory"]
    assert 8 * MIB < memory["usage_in_bytes"] < 64 * MIB
    assert memory["limit_in_bytes"] == 64 * MIB
    assert memory["stat"]["rss"] + memory["stat"]["raw"].get("anon", 0) >= 8 * MIB
    assert "nr_periods" in statistics["cpu"]["stat"]
    cgroup.destroy()
    process.wait(10)
    assert used(cgroup) == {}


def test_a_host_without_hierarchies_has_no_cgroups(top: str) -> None:
    host = CgroupHost([])
    cgroup = Cgroup.create(host, top, "hello", LIMITS)
    assert len(cgroup.warnings) == 4
    assert (
        cgroup.warnings[0] == "this host has no cpuset controller: cpuset.cpus, cpuset.mems not set"
    )
    attach(cgroup, os.getpid())
    assert (pids(cgroup), used(cgroup), cgroup.oom_monitor()) == (set(), {}, None)
    assert cgroup.into_fd() is None
    cgroup.destroy()
    Cgroup.create(host, top, "hello", None).destroy()
    host.remove_runtime_cgroup(top)


def test_a_cgroup_that_contains_the_runtime_is_refused(
    top: str, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    script = f"""
import os
from northstar.model.errors import HostError
from northstar.cgroups import Cgroup, CgroupHost
from tests.system.linux.cgroups import attach
attach(Cgroup.create(CgroupHost.detect(), {top!r}, "hello", None), os.getpid())
try:
    Cgroup.create(CgroupHost.detect(), {top!r}, "hello", None)
except HostError:
    print("refused", flush=True)
"""
    process = spawn(script)
    assert process.communicate(timeout=30)[0] == "refused\n"
    assert process.returncode == 0
