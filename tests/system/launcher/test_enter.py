"""Exec plans: one more process in a running container."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from northstar.launch.plan import NAMESPACES
from northstar.launch.plan_ops import GO, NO_OPERATION, Op, Report, Step
from tests.system import filters
from tests.system.launcher.driver import (
    DEADLINE,
    OLDER,
    PROC,
    Launch,
    Operation,
    encode,
    eventually,
    namespace_of,
    processes_in,
    reap,
    state_of,
)

pytestmark = pytest.mark.root

SETNS = {"x86_64": 308, "aarch64": 268}[filters.MACHINE]
CLONE3, EXECVE = 435, {"x86_64": 59, "aarch64": 221}[filters.MACHINE]

FIRST = 3
"""Index of the first namespace's descriptor in a plan."""


def exec_plan(
    *commands: str,
    names: Sequence[str] = tuple(NAMESPACES),
    uid: int = 1000,
    restrict: Sequence[Operation] = (),
    argv: Sequence[str] = (),
    descriptors: Sequence[int] = (2, 1, 2),
    join: int = 0,
) -> list[Operation]:
    argv = argv or ("/payload", *commands)
    return [
        *([(Op.JOIN, join)] if join else []),
        (Op.KEYRING,),
        *((Op.ENTER, FIRST + list(NAMESPACES).index(name), NAMESPACES[name]) for name in names),
        (Op.GROUPS, ""),
        (Op.GID, 1000),
        (Op.UID, uid),
        *((Op.FD, index, number) for number, index in enumerate(descriptors)),
        *restrict,
        (Op.NO_NEW_PRIVS,),
        (Op.CAPS, "0"),
        (Op.EXEC, argv[0], len(argv), *argv),
    ]


class Entered(Launch):
    """One exec plan, from the spawn of its launcher to its end."""

    def forked(self) -> int:
        """Receive FORKED; return the pid of the process."""
        return self.expect(Report.FORKED).value

    def start(self) -> Any:
        self.process = self.forked()
        self.go()
        assert self.expect(Report.STARTED).value == self.process
        return self

    def finish(self) -> int:
        """Close the stream; return the exit code of the launcher."""
        self.stream.close()
        code = os.waitstatus_to_exitcode(reap(self.launcher))
        self.launcher = 0
        return code


class Container:
    """A container and its namespaces."""

    def __init__(self, program: int, launched: Launch) -> None:
        self.program = program
        self.init = launched
        self.namespace = namespace_of(launched.pid)
        self.entered: list[Entered] = []
        self.namespaces = [
            os.open(f"/proc/{launched.pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES
        ]

    def enter(
        self,
        *commands: str,
        plan: list[Operation] | None = None,
        thread: filters.Thread | None = None,
        extra: Sequence[int] = (),
        **options: Any,
    ) -> Entered:
        encoded = encode(exec_plan(*commands, **options) if plan is None else plan)
        found = Entered(self.program, encoded, [*self.namespaces, *extra], thread)
        self.entered.append(found)
        return found

    def members(self) -> list[int]:
        """Return all processes but init and the payload."""
        return sorted(set(processes_in(self.namespace)) - {self.init.pid})[1:]

    def close(self) -> None:
        for descriptor in self.namespaces:
            os.close(descriptor)
        for entered in self.entered:
            entered.close()


@pytest.fixture
def container(program: int, launch: Any) -> Iterator[Container]:
    """A running container, in which nothing may be left after the test but its payload."""
    launched = launch("ready", ";", "pause", mounts=[PROC]).start()
    launched.wait_line("ready")
    found = Container(program, launched)
    yield found
    found.close()
    eventually(lambda: found.members() == [], "no process is left in the container")


def failed(entered: Entered) -> tuple[int, int, int, str]:
    """Return number, errno, value and text of the FAILED report that must come."""
    while (report := entered.next()) is not None and report.kind != Report.FAILED:
        if report.kind == Report.FORKED:
            entered.go()
    assert report is not None
    assert entered.finish() in {0, 1}
    return report.number, report.errno, report.value, report.text


# ---- What it finds


def test_what_a_process_finds(container):
    entered = container.enter("self").start()
    (me,) = list(entered.lines())
    assert me["fds"] == {"0": "char", "1": "pipe", "2": "char"}
    assert (me["ppid"], me["sid"], me["pgid"]) == (0, me["pid"], me["pid"])
    assert me["uids"] == me["gids"] == [1000] * 3
    assert set(me["caps"].values()) == {0}
    assert (me["no_new_privs"], me["seccomp"]) == (1, 2 if OLDER else 0)
    assert (me["blocked"], me["not_default"], me["umask"], me["cwd"]) == (0, [], 0o022, "/")
    assert entered.expect(Report.EXITED)[1:5] == (NO_OPERATION, 0, 0, 0)
    assert entered.finish() == 0


def test_its_namespaces_are_those_of_the_container(container):
    entered = container.enter("pause").start()
    for name in NAMESPACES:
        inside = os.readlink(f"/proc/{entered.process}/ns/{name}")
        assert inside == os.readlink(f"/proc/{container.init.pid}/ns/{name}")
        own = os.readlink(f"/proc/{entered.launcher}/ns/{name}")
        assert own == os.readlink(f"/proc/self/ns/{name}")


def test_the_launcher_keeps_nothing(container):
    entered = container.enter("ready", ";", "pause").start()
    entered.wait_line("ready")
    with open(f"/proc/{entered.launcher}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert status["Uid"].split() == ["1000"] * 4
    assert [status[f"Cap{name}"] for name in ("Prm", "Eff", "Bnd")] == ["0" * 16] * 3
    assert status["NoNewPrivs"] == "1"
    assert len(os.listdir(f"/proc/{entered.launcher}/fd")) == 2
    children = f"/proc/{entered.launcher}/task/{entered.launcher}/children"
    with open(children) as file:
        assert file.read().split() == [str(entered.process)]


def test_before_its_execve_it_has_only_what_it_needs(container):
    """Between the clone and GO it is visible in the container."""
    entered = container.enter("pause")
    pid = entered.forked()
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert status["Uid"].split() == ["1000"] * 4
    assert {status[f"Cap{name}"] for name in ("Prm", "Eff", "Inh", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    links = {n: os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
    assert {"0", "1", "2"} < links.keys()
    assert len(links) == 5
    assert all(t.startswith("pipe:") for n, t in links.items() if int(n) > 2)
    assert (os.readlink(f"/proc/{pid}/cwd"), os.readlink(f"/proc/{pid}/root")) != ("", "")
    inside = os.stat(f"/proc/{container.init.pid}/root")
    for name in ("cwd", "root"):
        found = os.stat(f"/proc/{pid}/{name}")
        assert (found.st_dev, found.st_ino) == (inside.st_dev, inside.st_ino)
    # Not dumpable: its directory belongs to root, proc(5).
    assert os.stat(f"/proc/{pid}/fd").st_uid == 0


# ---- Its end


def test_exit_codes_and_signals(container):
    for code in (0, 1, 77, 255):
        entered = container.enter("exit", str(code)).start()
        assert entered.expect(Report.EXITED)[2:5] == (0, 0, code)
        assert entered.finish() == 0
    for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL, 64):
        entered = container.enter("raise", str(int(number))).start()
        assert entered.expect(Report.EXITED)[2:5] == (1, 0, number)
        assert entered.finish() == 0


def test_a_short_life_is_a_start_and_an_exit(container):
    for _ in range(100):
        entered = container.enter("exit", "0").start()
        entered.expect(Report.EXITED)
        assert entered.finish() == 0


def test_it_is_reaped_only_after_the_stream_is_closed(container):
    """Until then its number belongs to it, so a signal to the group reaches nobody else."""
    entered = container.enter("exit", "0").start()
    entered.expect(Report.EXITED)
    assert state_of(entered.process) == "Z"
    assert entered.finish() == 0
    assert not os.path.exists(f"/proc/{entered.process}")


@pytest.mark.parametrize("when", ["before the plan", "before FORKED", "before GO", "after STARTED"])
def test_the_end_of_the_stream_ends_all(container, when):
    entered = container.enter("ignore", "TERM", "HUP", ";", "pause")
    if when == "before GO":
        entered.forked()
    elif when == "after STARTED":
        entered.start()
    entered.finish()
    eventually(lambda: container.members() == [], "the process has ended")


@pytest.mark.parametrize("killed", [True, False])
def test_a_stream_that_is_closed_before_a_report(container, *, killed):
    """The launcher reaps the process nevertheless: only then can the container end."""
    entered = container.enter("pause" if killed else "exit 7")
    process = entered.forked()
    if killed:
        entered.go()
        assert entered.expect(Report.STARTED).value == process
    os.kill(entered.launcher, signal.SIGSTOP)
    eventually(lambda: state_of(entered.launcher) == "T", "the launcher is stopped")
    if killed:
        os.kill(process, signal.SIGKILL)
        eventually(lambda: state_of(process) == "Z", "the process has ended")
    else:
        entered.go()
    entered.stream.close()
    os.kill(entered.launcher, signal.SIGCONT)
    assert entered.finish() == 0
    assert not os.path.exists(f"/proc/{process}")


@pytest.mark.parametrize("started", [False, True])
def test_the_end_of_the_launcher_ends_the_process(container, started):
    entered = container.enter("pause")
    if started:
        entered.start()
    else:
        entered.forked()
    os.kill(entered.launcher, signal.SIGKILL)
    assert entered.next() is None
    eventually(lambda: container.members() == [], "the process has ended")


def test_the_end_of_the_container(container):
    entered = container.enter("pause").start()
    container.init.kill(signal.SIGKILL)
    assert entered.expect(Report.EXITED)[2:5] == (1, 0, signal.SIGKILL)
    # init is a zombie only after the launcher has reaped the process.
    assert entered.finish() == 0
    assert os.WTERMSIG(container.init.wait()) == signal.SIGKILL


def test_a_container_that_has_ended(container):
    container.init.kill(signal.SIGKILL)
    container.init.wait()
    # No process can be created in a PID namespace without init: pid_namespaces(7).
    assert failed(container.enter("pause")) == (Step.FORK, errno.ENOMEM, 0, "")


def test_a_process_that_dies_before_its_execve(container):
    entered = container.enter("pause")
    os.kill(entered.forked(), signal.SIGKILL)
    entered.go()
    assert failed(entered) == (Step.FORK, 0, signal.SIGKILL, "")


def test_another_message_than_go(container):
    entered = container.enter("pause")
    entered.forked()
    entered.stream.send(struct.pack("<I", GO + 1))
    assert entered.next() is None
    assert entered.finish() == 0


# ---- Cgroups


@pytest.fixture
def procs(v2_cgroup: Path, container: Container) -> Iterator[int]:
    """A descriptor of `cgroup.procs` of a new cgroup."""
    descriptor = os.open(v2_cgroup / "cgroup.procs", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)
    for entered in container.entered:
        entered.close()
    eventually(lambda: not (v2_cgroup / "cgroup.procs").read_text(), "the cgroup is empty")


def test_the_process_is_in_the_cgroup_and_the_launcher_is_not(container, v2_cgroup, procs):
    entered = container.enter("pause", join=FIRST + 6, extra=[procs]).start()
    assert (v2_cgroup / "cgroup.procs").read_text().split() == [str(entered.process)]


def test_a_frozen_cgroup(container, v2_cgroup, procs):
    """A process cannot be created while its cgroup is frozen, but the launcher can be ended."""
    (v2_cgroup / "cgroup.freeze").write_text("1")
    waiting = container.enter("exit", "5", join=FIRST + 6, extra=[procs])
    given_up = container.enter("exit", "5", join=FIRST + 6, extra=[procs])

    def frozen() -> bool:
        return len((v2_cgroup / "cgroup.procs").read_text().split()) == 2

    eventually(frozen, "both helpers have joined it")
    assert given_up.finish() == 0
    (v2_cgroup / "cgroup.freeze").write_text("0")
    assert waiting.start().expect(Report.EXITED).value == 5
    assert waiting.finish() == 0


def test_a_cgroup_that_is_frozen_meanwhile(container, v2_cgroup, procs):
    entered = container.enter("pause", join=FIRST + 6, extra=[procs]).start()
    (v2_cgroup / "cgroup.freeze").write_text("1")
    assert entered.finish() == 0
    eventually(lambda: container.members() == [], "it is killed")


# ---- Failures


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("name", NAMESPACES)
def test_a_kernel_that_cannot_enter_a_namespace(container, name, error):
    program = [
        filters.load(0),
        filters.equal(SETNS, otherwise=3),
        filters.load(16 + 8),
        filters.equal(NAMESPACES[name], otherwise=1),
        filters.answer(filters.ERRNO | error),
        filters.answer(filters.ALLOW),
    ]
    thread = filters.Thread(program)
    try:
        assert failed(container.enter("pause", thread=thread)) == (Op.ENTER, error, 0, "")
    finally:
        thread.close()


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_descriptor_that_is_no_namespace(container, name):
    plan = exec_plan("pause")
    plan = [(o[0], 2, o[2]) if o[0] == Op.ENTER and o[2] == NAMESPACES[name] else o for o in plan]
    assert failed(container.enter(plan=plan)) == (Op.ENTER, errno.EINVAL, 0, "")


def test_a_kernel_without_cgroup_namespaces(container):
    names = [name for name in NAMESPACES if name != "cgroup"]
    entered = container.enter("exit", "3", names=names).start()
    assert entered.expect(Report.EXITED).value == 3
    assert entered.finish() == 0


@pytest.mark.usefixtures("not_sanitized")
@pytest.mark.parametrize("number", [CLONE3, EXECVE], ids=["clone3", "execve"])
def test_a_refused_call(container, number):
    thread = filters.Thread(filters.in_launcher(filters.ERRNO | errno.EAGAIN, number))
    try:
        step, error, value, text = failed(container.enter("pause", thread=thread))
    finally:
        thread.close()
    expected = Step.FORK if number == CLONE3 else Op.EXEC
    assert (step, error, value) == (expected, errno.EAGAIN, 0)
    assert text == ("" if number == CLONE3 else "/payload")


def test_a_program_that_does_not_exist(container):
    found = failed(container.enter(argv=["/missing"]))
    assert found == (Op.EXEC, errno.ENOENT, 0, "/missing")


def test_a_terminal_that_is_none(container):
    found = failed(container.enter("pause", restrict=[(Op.TERMINAL,)]))
    assert found[:2] == (Op.TERMINAL, errno.ENOTTY)


# ---- Refused plans

ENTER_ALL = tuple(NAMESPACES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("net", "uts", "ipc", "cgroup", "mnt")}, "ENTER is missing for a namespace"),
        ({"names": (*ENTER_ALL, "net")}, "type entered before"),
        ({"descriptors": (2, 1)}, "descriptors 0, 1 and 2 are required"),
        ({"descriptors": (2, 1, 2, 2)}, "passes descriptors 0, 1 and 2 only"),
    ],
)
def test_plans_that_would_give_more_or_less(container, change, words):
    step, error, _, text = failed(container.enter("pause", **change))
    assert (step, error) == (Step.PLAN, errno.EINVAL)
    assert words in text


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ((Op.HOSTNAME, "host"), "a plan with ENTER cannot contain HOSTNAME"),
        ((Op.SESSION,), "a plan with ENTER cannot contain SESSION"),
        ((Op.SETNS, 3, NAMESPACES["net"]), "a plan with ENTER cannot contain SETNS"),
        ((Op.CGROUPNS,), "a plan with ENTER cannot contain CGROUPNS"),
        ((Op.LISTEN, 1, 1), "a plan with ENTER cannot contain LISTEN"),
        ((Op.SELINUX, "context"), "must precede ENTER"),
        ((Op.ENTER, 3, 0x10000000), "type is not a namespace of a container"),
        ((Op.ENTER, 3, 0), "type is not a namespace of a container"),
    ],
)
def test_operations_that_an_exec_plan_cannot_have(container, operation, words):
    plan = exec_plan("pause")
    at = next((n for n, o in enumerate(plan) if o[0] // 10 > operation[0] // 10), len(plan))
    plan.insert(at, operation)
    step, error, _, text = failed(container.enter(plan=plan))
    assert (step, error) == (Step.PLAN, errno.EINVAL)
    assert words in text


def test_a_launch_plan_has_no_terminal(launch):
    launched = launch("pause", restrict=[(Op.TERMINAL,)])
    report = launched.failure()
    assert (report.number, report.errno) == (Step.PLAN, errno.EINVAL)
    assert "in a plan without ENTER" in report.text


@pytest.mark.usefixtures("not_sanitized")
def test_nothing_is_left_when_each_call_of_the_launcher_fails(container):
    """One of its first system calls fails with ENOMEM: it reports that or ends."""
    thread = filters.Thread(filters.in_launcher(filters.USER_NOTIF), listener=True)
    try:
        for number in range(0, 100, 3):
            _fail_call(container, thread, number)
            eventually(lambda: container.members() == [], f"nothing is left after call {number}")
    finally:
        thread.close()


def _fail_call(container: Container, thread: filters.Thread, number: int) -> None:
    assert thread.listener is not None
    entered = container.enter("exit", "0", thread=thread)
    count = 0
    deadline = time.monotonic() + DEADLINE
    while os.waitpid(entered.launcher, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline, f"the launcher hangs after call {number}"
        call = thread.listener.next(0.02)
        if call is not None:
            thread.listener.answer(call, errno.ENOMEM if count == number else 0)
            count += 1
        elif entered.stream.fileno() >= 0 and not select.select([entered.stream], [], [], 0.2)[0]:
            entered.stream.close()
        elif entered.stream.fileno() >= 0:
            report = entered.next()
            if report is not None and report.kind == Report.FORKED:
                entered.go()
            elif report is None or report.kind in {Report.EXITED, Report.FAILED}:
                entered.stream.close()
    entered.launcher = 0
    entered.close()
