"""Regular containers: the environment of the payload, and the report of its end."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from northstar.launch.plan_ops import NO_OPERATION, Op, Report
from tests.system.launcher.driver import (
    CLONE_NEWNET,
    NAMESPACES,
    OLDER,
    PROC,
    Launch,
    eventually,
    state_of,
)

pytestmark = pytest.mark.root

CHOWN, KILL, NET_RAW = 0, 5, 13
DO_NOTHING = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT}
STOP = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
ENDING = [n for n in range(1, 65) if n not in DO_NOTHING | STOP]


def run(launched: Launch) -> list[dict[str, Any]]:
    launched.start()
    lines = list(launched.lines())
    launched.end()
    return lines


def payload_of(launched: Launch) -> int:
    """Return the host's pid of a container's only process besides init."""
    (pid,) = set(launched.processes()) - {launched.pid}
    return pid


@pytest.mark.vm
def test_what_a_payload_finds(launch):
    launched = launch(
        "self",
        before=[(Op.HOSTNAME, "hello"), (Op.LOOPBACK,)],
        groups="7,8,1000",
        env=["A=1", "EMPTY=", "B=x y"],
        gid=1001,
    )
    (me,) = run(launched)
    assert me["args"] == ["/payload", "self"]
    assert me["env"] == ["A=1", "EMPTY=", "B=x y"]
    assert me["fds"] == {"0": "char", "1": "pipe", "2": "char"}
    assert (me["pid"], me["ppid"], me["sid"], me["pgid"]) == (2, 1, 1, 1)
    assert me["uids"] == [1000] * 3
    assert me["gids"] == [1001] * 3
    assert sorted(me["groups"]) == [7, 8, 1000]
    assert set(me["caps"].values()) == {0}
    assert (me["no_new_privs"], me["seccomp"]) == (1, 2 if OLDER else 0)
    assert (me["blocked"], me["not_default"]) == (0, [])
    assert (me["umask"], me["cwd"], me["hostname"]) == (0o022, "/", "hello")
    launched_, ready, started, exited = launched.reports
    assert launched_.kind == Report.LAUNCHED
    assert launched_.value == launched.pid
    assert (ready.kind, ready.number, ready.text) == (Report.READY, Op.AWAIT, "")
    assert (started.kind, started.value) == (Report.STARTED, 2)
    assert exited == (Report.EXITED, NO_OPERATION, 0, 0, 0, "")


@pytest.mark.vm
@pytest.mark.parametrize("uid", [0, 1000])
def test_capabilities_are_exactly_the_given_ones_in_every_set(launch, uid):
    mask = 1 << CHOWN | 1 << KILL | 1 << NET_RAW
    (me,) = run(launch("self", uid=uid, caps=hex(mask)))
    assert set(me["caps"].values()) == {mask}


def test_limits_and_scheduling(launch):
    restrict = [
        (Op.RLIMIT, 7, 100, 200),
        (Op.RLIMIT, 4, 0, "unlimited"),
        (Op.SCHED, "batch", 5),
    ]
    (me,) = run(launch("self", restrict=restrict))
    assert me["rlimits"]["7"] == [100, 200]
    assert me["rlimits"]["4"] == [0, -1]
    assert (me["policy"], me["nice"]) == (os.SCHED_BATCH, 5)


@pytest.mark.parametrize(
    ("policy", "value", "number"),
    [("other", -7, os.SCHED_OTHER), ("other", 19, os.SCHED_OTHER), ("idle", 0, os.SCHED_IDLE)],
)
def test_each_policy(launch, policy, value, number):
    (me,) = run(launch("self", restrict=[(Op.SCHED, policy, value)]))
    assert (me["policy"], me["nice"]) == (number, value)


@pytest.mark.vm
def test_exactly_the_given_descriptors_with_colliding_numbers(launch):
    # With 0, 1 and 2 closed they arrive as 0, 1, 2, 4, 5, ...: almost each requested number is in
    # use by another descriptor.
    pipes = [os.pipe() for _ in range(6)]
    order = [8, 1, 7, 6, 2, 4, 5, 3, 8]  # of indices, for the numbers 0, 1, 2, ...
    commands = ["self", *(w for n in (0, 2, 3, 5, 6, 7) for w in (";", "put", str(n), f"<{n}>"))]
    try:
        launched = launch(*commands, descriptors=order, extra=[write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        me, *puts = run(launched)
        expected = {str(n): "char" if index == 2 else "pipe" for n, index in enumerate(order)}
        assert me["fds"] == expected
        assert all(put["result"] == 3 for put in puts)
        got = [os.read(read, 100) for read, _ in pipes]  # of the indices 3 to 8
        assert got == [b"<7>", b"<5>", b"<6>", b"<3>", b"<2>", b"<0>"]
    finally:
        for read, _ in pipes:
            os.close(read)


def test_all_descriptors_that_fit_into_a_message(launch):
    read, write = os.pipe()
    extra = [write] * 250
    launched = launch("self", descriptors=[2, 1, *range(2, 253)], extra=extra)
    os.close(write)
    (me,) = run(launched)
    os.close(read)
    assert len(me["fds"]) == 253


def test_an_argument_list_of_megabytes(launch):
    env = [f"V{n}=" + "x" * 100_000 for n in range(15)]
    (me,) = run(launch("self", env=env))
    assert me["env"] == env


def test_every_exit_code(launch):
    for code in range(256):
        launched = launch("exit", str(code)).start()
        report = launched.end()
        assert (report.number, report.value) == (0, code)
        launched.close()


@pytest.mark.vm
def test_a_short_life_is_a_start_and_an_exit(launch):
    # Linux 6.1 closes close-on-exec descriptors before setpgid(2) sees the exec.
    for _ in range(100):
        launched = launch("exit", "0").start()
        assert launched.end().value == 0
        launched.close()


@pytest.mark.parametrize("group", [False, True], ids=["payload", "group"])
def test_every_fatal_signal(launch, group):
    for number in ENDING:
        if group and number == signal.SIGKILL:
            continue  # below
        launched = launch("pause").start()
        if group:
            launched.kill(number, group=True)
        else:
            os.kill(payload_of(launched), number)
        report = launched.end()
        assert (report.number, report.value) == (1, number)
        launched.close()


def test_a_signal_that_the_payload_sends_itself(launch):
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGRTMIN, 33, 64):
        launched = launch("raise", str(int(number))).start()
        report = launched.end()
        assert (report.number, report.value) == (1, number)
        launched.close()


def test_signals_that_are_ignored_by_default(launch):
    launched = launch("ready", ";", "sleep", "0.05", ";", "exit", "6").start()
    launched.wait_line("ready")
    for number in DO_NOTHING:
        launched.kill(number, group=True)
    assert launched.end()[2:5] == (0, 0, 6)


def test_a_group_kill_ends_init(launch):
    launched = launch("fork", ";", "pause").start()
    namespace = os.readlink(f"/proc/{launched.pid}/ns/pid")
    launched.kill(signal.SIGKILL, group=True)
    assert os.WTERMSIG(launched.wait()) == signal.SIGKILL
    assert launched.next() is None
    assert namespace
    assert not os.path.exists(f"/proc/{launched.pid}")


@pytest.mark.vm
def test_the_payload_is_stopped_and_continued(launch):
    launched = launch("catch", "CONT", ";", "ready", ";", "pause").start()
    launched.wait_line("ready")
    pid = payload_of(launched)
    launched.kill(signal.SIGSTOP, group=True)
    # From outside even PID 1 can be stopped. Continue init only.
    launched.kill(signal.SIGCONT)
    eventually(lambda: state_of(pid) == "T" and state_of(launched.pid) == "S", "only init runs")
    launched.kill(signal.SIGCONT, group=True)
    assert launched.wait_line("signal")["on"] == str(int(signal.SIGCONT))
    launched.kill(signal.SIGTERM, group=True)
    assert launched.end()[2:5] == (1, 0, signal.SIGTERM)


@pytest.mark.vm
def test_orphans_are_reaped(launch):
    launched = launch("orphans", "300", ";", "alone", ";", "exit", "7", mounts=[PROC])
    *_, alone = run(launched)
    assert alone == {"do": "alone", "on": "", "result": 0, "errno": 0}
    assert launched.reports[-1].value == 7


def test_the_other_processes_end_with_the_payload(launch):
    launched = launch(
        "fork", ";", "session", ";", "ignore", "TERM", "HUP", ";", "ready", ";", "pause"
    )
    launched.start().wait_line("ready")
    first, second = sorted(set(launched.processes()) - {launched.pid})
    left = os.pidfd_open(second)
    os.kill(first, signal.SIGTERM)
    assert launched.end()[2:5] == (1, 0, signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(left, 0)
    os.close(left)


def test_the_network_is_the_hosts_without_a_new_namespace(launch):
    launched = launch("pause", flags=NAMESPACES).start()
    assert os.readlink(f"/proc/{launched.pid}/ns/net") == os.readlink("/proc/self/ns/net")


def test_an_existing_network_namespace_is_entered(launch):
    other = launch("pause").start()
    namespace = os.open(f"/proc/{other.pid}/ns/net", os.O_RDONLY)
    entered = launch(
        "pause", flags=NAMESPACES, before=[(Op.SETNS, 3, CLONE_NEWNET)], extra=[namespace]
    ).start()
    os.close(namespace)
    assert os.readlink(f"/proc/{entered.pid}/ns/net") == os.readlink(f"/proc/{other.pid}/ns/net")
    assert os.readlink(f"/proc/{other.pid}/ns/net") != os.readlink("/proc/self/ns/net")


def test_loopback_is_up(launch):
    # Port 9 (discard) has no listener: ECONNREFUSED if lo is up, ENETUNREACH if it is down.
    (up,) = run(launch("connect", "9", before=[(Op.LOOPBACK,)]))
    (down,) = run(launch("connect", "9"))
    assert (os.strerror(up["errno"]), os.strerror(down["errno"])) == (
        "Connection refused",
        "Network is unreachable",
    )


@pytest.mark.vm
def test_every_namespace_is_new(launch):
    launched = launch("pause").start()
    for name in ("pid", "mnt", "ipc", "uts", "net", "cgroup"):
        inside = os.readlink(f"/proc/{payload_of(launched)}/ns/{name}")
        assert inside != os.readlink(f"/proc/self/ns/{name}"), name


def test_the_name_of_the_process(launch):
    launched = launch("pause").start()
    with open(f"/proc/{launched.pid}/comm") as file:
        assert file.read() == "northstar-init\n"


@pytest.mark.vm
def test_a_v2_cgroup_is_entered_by_the_clone(launch, v2_cgroup):
    descriptor = os.open(v2_cgroup, os.O_RDONLY | os.O_DIRECTORY)
    launched = launch("read", "/proc/self/cgroup", cgroup=3, extra=[descriptor], mounts=[PROC])
    os.close(descriptor)
    launched.expect(Report.LAUNCHED, Report.READY)
    with open(f"/proc/{launched.pid}/cgroup") as file:
        assert f"0::/{v2_cgroup.name}\n" in file.read()
    launched.go()
    launched.expect(Report.STARTED)
    # In its cgroup namespace its cgroup is the root.
    assert "0::/\n" in launched.wait_line("read")["text"]
    launched.end()
