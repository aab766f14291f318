"""Each failure is reported with operation, errno and object, and leaks nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar.launch.plan_ops import GO, NO_OPERATION, Op, Report, Step
from tests.system import filters
from tests.system.launcher.driver import (
    CLONE_NEWNET,
    NAMESPACES,
    OLDER,
    PROC,
    TMP,
    Launch,
    encode,
    memfd,
    processes_in,
)

pytestmark = pytest.mark.root

NO_V1 = "there is no v1 hierarchy of the pids controller"
SELINUX = "SELinux is enabled"
MAY_SKIP = (NO_V1, SELINUX)


def expect(launched: Launch, number: int, error: int, text: str, value: int = 0) -> None:
    failed = launched.failure()
    assert failed[2:] == (number, error, value, text)
    if launched.pid:
        assert os.waitstatus_to_exitcode(launched.wait()) == 1


# ---- Before the payload


def test_an_invalid_cgroup(launch):
    # Descriptor 1 is the pipe.
    expect(launch(cgroup=1), Op.CLONE, errno.EBADF, "")


def test_an_invalid_namespace(launch):
    setns = (Op.SETNS, 1, CLONE_NEWNET)
    expect(launch(flags=NAMESPACES, before=[setns]), Op.SETNS, errno.EINVAL, "")


def test_an_invalid_cgroup_file(launch):
    read, write = os.pipe()
    os.close(read)
    expect(launch(before=[(Op.JOIN, 3)], extra=[write]), Op.JOIN, errno.EPIPE, "")
    os.close(write)


def test_a_context_without_selinux(launch):
    if os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip(SELINUX)
    failed = launch(before=[(Op.SELINUX, "a:b:c")]).failure()
    assert failed.number == Op.SELINUX
    assert failed.errno in {errno.EINVAL, errno.ENOENT}
    assert failed.text in {"a:b:c", "/proc/thread-self/attr/exec"}


MISMATCH = "a directory can be mounted only on a directory, a file only on a file"

MOUNTS: list[tuple[tuple[Any, ...], int, str]] = [
    ((Op.BIND, "", "/nowhere", "/data", 0, 0, ""), errno.ENOENT, "/nowhere"),
    ((Op.BIND, "", "/nowhere", "/data", 0, 0, "recursive"), errno.ENOENT, "/nowhere"),
    ((Op.BIND, "/nowhere", "/x", "/data", 0, 0, ""), errno.ENOENT, "/nowhere/x"),
    ((Op.BIND, "/etc", "/nowhere", "/data", 0, 0, ""), errno.ENOENT, "/etc/nowhere"),
    ((Op.BIND, "", "/etc", "/nowhere", 0, 0, ""), errno.ENOENT, "/nowhere"),
    ((Op.BIND, "", "/etc", "/payload", 0, 0, "optional"), errno.EINVAL, f"/payload: {MISMATCH}"),
    ((Op.BIND, "", "/etc/passwd", "/data", 0, 0, ""), errno.EINVAL, f"/data: {MISMATCH}"),
    ((Op.BIND, "", "/etc", "/data", 1 << 40, 0, ""), errno.EINVAL, "/data"),
    ((Op.FILESYSTEM, "nosuchfs", "", "/data", 0), errno.ENODEV, "/data"),
    ((Op.FILESYSTEM, "tmpfs", "none", "/nowhere", 0), errno.ENOENT, "/nowhere"),
    (
        (Op.FILESYSTEM, "tmpfs", "none", "/data", 0, "size=lots"),
        errno.EINVAL,
        "/data: size=lots: tmpfs: Bad value for 'size'",
    ),
    (
        (Op.FILESYSTEM, "tmpfs", "none", "/data", 0, "mode=755", "colour=blue"),
        errno.EINVAL,
        "/data: colour=blue: tmpfs: Unknown parameter 'colour'",
    ),
    (
        (Op.FILESYSTEM, "tmpfs", "none", "/data", 0, "k" * 64 + "=v"),
        errno.EINVAL,
        f"/data: {'k' * 64}=v",
    ),
    ((Op.FILESYSTEM, "proc", "proc", "/data", 1 << 30), errno.EINVAL, "/data"),
    ((Op.DEV, "/nowhere", 0), errno.ENOENT, "/nowhere"),
    ((Op.DEV, "/data", 0, "c x 1 3", "l x /y"), errno.EEXIST, "/data/x"),
]


# mount(2) returns no message of the kernel.
LEGACY_TEXTS = {
    "/data: size=lots: tmpfs: Bad value for 'size'": "/data: size=lots",
    "/data: colour=blue: tmpfs: Unknown parameter 'colour'": "/data: mode=755,colour=blue",
}


@pytest.mark.vm
@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
@pytest.mark.parametrize(("operation", "error", "text"), MOUNTS)
def test_mounts(launch, older_kernel, operation, error, text, older):
    launched = launch(mounts=[operation], thread=older_kernel if older else None)
    failed = launched.failure()
    if older or OLDER:
        text = LEGACY_TEXTS.get(text, text)
    assert failed[2:] == (operation[0], error, 0, text)
    assert failed.operation == 5  # of the plan, counted from 0


def test_a_root_that_does_not_exist(launch):
    plan = [(Op.ROOT, "/nowhere") if o[0] == Op.ROOT else o for o in launch.operations()]
    expect(launch(plan=plan), Op.ROOT, errno.ENOENT, "/nowhere")


def test_a_root_that_is_not_a_mount(launch, image):
    plan = [o for o in launch.operations() if o[0] != Op.BIND]
    # pivot_root(2): EBUSY on the mount of the current root, EINVAL on any other one.
    on_root = mount_id(image.path) == mount_id(Path("/"))
    refusal = errno.EBUSY if on_root else errno.EINVAL
    expect(launch(plan=plan), Op.PIVOT, refusal, str(image.path))


def mount_id(path: Path) -> str:
    """Return the id of the mount that a directory is on, as in proc_pid_fdinfo(5)."""
    descriptor = os.open(path, os.O_PATH)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    finally:
        os.close(descriptor)
    return next(line for line in lines if line.startswith("mnt_id:"))


def test_another_message_than_go(launch):
    launched = launch()
    launched.expect(Report.LAUNCHED, Report.READY)
    launched.stream.send(struct.pack("<I", GO ^ 1))
    assert launched.expect(Report.FAILED)[2:] == (Op.AWAIT, errno.EPROTO, 0, "")
    launched = launch()
    launched.expect(Report.LAUNCHED, Report.READY)
    launched.stream.send(struct.pack("<II", GO, 0))
    assert launched.expect(Report.FAILED)[2:] == (Op.AWAIT, errno.EPROTO, 0, "")


def test_a_fork_that_is_refused(launch, v1_pids):
    tasks = os.open(v1_pids / "tasks", os.O_WRONLY)
    (v1_pids / "pids.max").write_text("1")
    launched = launch("pause", before=[(Op.JOIN, 3)], extra=[tasks])
    os.close(tasks)
    expect(launched, Step.FORK, errno.EAGAIN, "")


def test_init_is_in_the_cgroup_that_it_joins(launch, v1_pids):
    tasks = os.open(v1_pids / "tasks", os.O_WRONLY)
    launched = launch("pause", before=[(Op.JOIN, 3)], extra=[tasks])
    os.close(tasks)
    launched.expect(Report.LAUNCHED, Report.READY)
    assert (v1_pids / "cgroup.procs").read_text().split() == [str(launched.pid)]
    launched.close()


@pytest.fixture
def v1_pids() -> Iterator[Path]:
    if not os.path.exists("/sys/fs/cgroup/pids/tasks"):
        pytest.skip(NO_V1)
    directory = Path(f"/sys/fs/cgroup/pids/northstar-test-launcher-{os.getpid()}")
    directory.mkdir()
    yield directory
    directory.rmdir()


# ---- In the payload's process

RESTRICTIONS: list[tuple[dict[str, Any], int, int, str]] = [
    ({"restrict": [(Op.RLIMIT, 7, 9, 8)]}, Op.RLIMIT, errno.EINVAL, "resource 7"),
    (
        {"restrict": [(Op.RLIMIT, 7, "unlimited", "unlimited")]},
        Op.RLIMIT,
        errno.EPERM,
        "resource 7",
    ),
    ({"caps": hex(1 << 63)}, Op.CAPS, errno.EINVAL, "capability 63"),
    ({"argv": ["/nowhere"]}, Op.EXEC, errno.ENOENT, "/nowhere"),
    ({"argv": ["/payload/x"]}, Op.EXEC, errno.ENOTDIR, "/payload/x"),
    ({"argv": ["/etc"]}, Op.EXEC, errno.EACCES, "/etc"),
    ({"env": ["X" * 200_000]}, Op.EXEC, errno.E2BIG, "/payload"),
]


@pytest.mark.parametrize(("options", "number", "error", "text"), RESTRICTIONS)
def test_restrictions_and_programs(launch, options, number, error, text):
    expect(launch("pause", **options), number, error, text)


def test_a_program_that_is_not_executable(launch, image):
    image.add("plain", "x", 0o644)
    image.add("private", "x", 0o700)
    image.add("script", "#!/nowhere\n")
    expect(launch(argv=["/plain"]), Op.EXEC, errno.EACCES, "/plain")
    expect(launch(argv=["/private"]), Op.EXEC, errno.EACCES, "/private")
    expect(launch(argv=["/script"]), Op.EXEC, errno.ENOENT, "/nowhere")


def test_a_path_of_maximum_length_is_reported_in_full(launch):
    path = "/" + "d/" * 2046 + "x"
    assert len(path) == 4094
    expect(launch(argv=[path]), Op.EXEC, errno.ENOENT, path)


# ---- Under a filter

LOAD_NUMBER = struct.pack("<HBBI", 0x20, 0, 0, 0)
KILL_PROCESS, ALLOW, ERRNO_1 = 0x80000000, 0x7FFF0000, 0x00050001
EXECVE = {"x86_64": 59, "aarch64": 221}[os.uname().machine]


def filter_of(execve: int, others: int) -> int:
    """Return a file with a seccomp filter: the actions for execve and for all other calls."""
    equal = struct.pack("<HBBI", 0x15, 0, 1, EXECVE)
    returns = (struct.pack("<HBBI", 0x06, 0, 0, answer) for answer in (execve, others))
    return memfd(LOAD_NUMBER + equal + b"".join(returns))


def under(launch, execve: int, others: int, **options) -> Launch:
    descriptor = filter_of(execve, others)
    launched: Launch = launch("pause", seccomp=3, extra=[descriptor], **options)
    os.close(descriptor)
    return launched


@pytest.mark.vm
@pytest.mark.usefixtures("not_sanitized")
def test_a_failing_execve_is_reported_if_the_filter_kills_the_reporter(launch, image):
    image.add("plain", "x", 0o644)
    launched = under(launch, ALLOW, KILL_PROCESS, argv=["/plain"])
    expect(launched, Op.EXEC, errno.EACCES, "/plain")


@pytest.mark.usefixtures("not_sanitized")
def test_a_failing_execve_is_reported_if_every_other_call_fails(launch, image):
    # exit_group fails with EPERM: the reporter cannot even exit.
    image.add("plain", "x", 0o644)
    launched = under(launch, ALLOW, ERRNO_1, argv=["/plain"])
    expect(launched, Op.EXEC, errno.EACCES, "/plain")


@pytest.mark.vm
def test_a_payload_that_dies_before_its_execve(launch):
    launched = under(launch, KILL_PROCESS, ALLOW)
    expect(launched, Op.EXEC, 0, "/payload", value=signal.SIGSYS)


def test_a_payload_that_dies_right_after_its_execve(launch):
    launched = under(launch, ALLOW, KILL_PROCESS).start()
    assert launched.end()[2:5] == (1, 0, signal.SIGSYS)


def test_a_filter_is_in_force(launch):
    descriptor = memfd(struct.pack("<HBBI", 0x06, 0, 0, ALLOW))
    launched = launch("self", seccomp=3, extra=[descriptor]).start()
    os.close(descriptor)
    assert launched.wait_line("self")["seccomp"] == 2
    launched.end()


def test_a_filter_that_the_kernel_refuses(launch):
    descriptor = memfd(bytes(8))
    launched = launch(seccomp=3, extra=[descriptor])
    os.close(descriptor)
    expect(launched, Op.SECCOMP, errno.EINVAL, "the filter")


# ---- An older kernel, a runtime with fewer privileges

DEPRIVED = """
import ctypes, json, os, struct, sys
from tests.system.launcher.driver import Launch
number, error, program = map(int, sys.argv[1:])
# In children of this process the system call fails, as on a kernel that lacks it. (-1: no call.)
answers = (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)
code = (0x20, 0, 0, 0), (0x15, 0, 1, number & 0xFFFFFFFF), *answers
filter = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *c) for c in code))
prog = struct.pack("HxxxxxxP", len(code), ctypes.addressof(filter))
libc = ctypes.CDLL(None, use_errno=True)
if number >= 0 and libc.prctl(22, 2, prog, 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
with Launch(program, sys.stdin.buffer.read()) as launched:
    launched.next()
    while launched.reports[-1].kind not in (4, 5) and launched.next():
        if launched.reports[-1].kind == 3:
            launched.go()
    print(json.dumps(launched.reports[-1]))
"""

NEW_CALLS = [
    ("clone3", 435, errno.ENOSYS, Op.CLONE),
    *((name, number, errno.ENOSYS, None) for name, number in filters.NEWER.items()),
    *((name, number, errno.EPERM, None) for name, number in filters.NEWER.items()),
    ("keyctl", {"x86_64": 250, "aarch64": 219}[os.uname().machine], errno.ENOSYS, None),
    ("unshare", {"x86_64": 272, "aarch64": 97}[os.uname().machine], errno.EINVAL, None),
    ("unshare", {"x86_64": 272, "aarch64": 97}[os.uname().machine], errno.EPERM, Op.CGROUPNS),
]


def deprived(launch, *prefix: str, number: int = -1, error: int = 0, **options: Any) -> list[Any]:
    """Launch from a process without a system call or a capability; return the last report."""
    plan = encode(launch.operations("exit", "0", mounts=[TMP], **options))
    arguments = [str(number), str(error), str(launch.program)]
    command = [*prefix, sys.executable, "-c", DEPRIVED, *arguments]
    done = subprocess.run(
        command, input=plan, capture_output=True, pass_fds=[launch.program], check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    report: list[Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize(("name", "number", "error", "operation"), NEW_CALLS)
def test_a_kernel_without(launch, name, number, error, operation):
    report = deprived(launch, number=number, error=error)
    if operation is None:  # a substitute exists, or there is nothing to hide
        assert report[0] == Report.STARTED, name
    else:
        assert report[0] == Report.FAILED, name
        assert report[2:4] == [operation, error], name


def test_a_runtime_without_a_capability(launch):
    chown, setpcap = 0, 8
    without = ("setpriv", "--bounding-set=-chown")
    report = deprived(launch, *without, caps=hex(1 << chown))
    assert report[2:] == [Op.CAPS, errno.EPERM, 0, "capability 0"]
    assert deprived(launch, *without)[0] == Report.STARTED
    report = deprived(launch, "setpriv", "--bounding-set=-setpcap", caps=hex(1 << setpcap))
    assert report[2:4] == [Step.SHIELD, errno.EPERM]


# ---- Order of reports


def test_reports_come_in_order_even_if_init_fails_at_once(launch):
    for _ in range(50):
        launched = launch(before=[(Op.HOSTNAME, "x")], mounts=[MOUNTS[0][0]])
        launched.failure()
        assert [report.kind for report in launched.reports] == [Report.LAUNCHED, Report.FAILED]
        launched.close()


def test_a_failure_leaves_no_process(launch):
    launched = launch("pause", argv=["/nowhere"], mounts=[PROC, TMP])
    launched.expect(Report.LAUNCHED)
    namespace = os.readlink(f"/proc/{launched.pid}/ns/pid")
    launched.failure()
    launched.wait()
    assert processes_in(namespace) == []
    assert launched.reports[-1].operation != NO_OPERATION
