"""System calls that need no root: their results, and the paths in their errors."""

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from northstar.linux import caps, inotify, memfd, mount, mountinfo, netns, notify, pidfd, statfs
from northstar.linux._libc import path_bytes
from tests.unit.linux.refusals import refused


def test_an_error_names_source_and_target(tmp_path: Path) -> None:
    target = str(tmp_path / "missing")
    # The kernel looks the path up before it checks the permission.
    with refused(errno.ENOENT) as caught:
        mount.mount("the-source", target, "tmpfs")
    assert (caught.value.filename, caught.value.filename2) == ("the-source", target)


def test_a_name_with_a_nul_never_reaches_the_kernel(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NUL"):
        mount.umount2(f"{tmp_path}\0/elsewhere", 0)
    with pytest.raises(ValueError, match="NUL"):
        path_bytes(b"a\0b")


def test_a_sealed_memfd_cannot_change() -> None:
    fd = memfd.create("image")
    try:
        os.write(fd, b"data")
        assert memfd.seals(fd) & memfd.F_SEAL_WRITE == 0
        memfd.seal(fd)
        wanted = memfd.F_SEAL_SEAL | memfd.F_SEAL_SHRINK | memfd.F_SEAL_GROW | memfd.F_SEAL_WRITE
        assert memfd.seals(fd) & wanted == wanted
        with pytest.raises(PermissionError):
            os.write(fd, b"more")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        with pytest.raises(PermissionError):
            memfd.seal(fd, memfd.F_SEAL_FUTURE_WRITE)
        assert os.pread(fd, 10, 0) == b"data"
    finally:
        os.close(fd)


@pytest.mark.parametrize(("executable", "mode"), [(False, 0o600), (True, 0o700)])
def test_the_mode_of_a_memfd(executable: bool, mode: int) -> None:
    fd = memfd.create("program", mode=0o600, executable=executable)
    try:
        assert stat.S_IMODE(os.fstat(fd).st_mode) == mode
        assert not os.get_inheritable(fd)
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:program")
    finally:
        os.close(fd)


def test_a_memfd_with_too_long_a_name() -> None:
    with refused(errno.EINVAL):
        memfd.create("x" * 300)


def test_a_memfd_opened_anew_is_read_only_and_has_its_own_offset() -> None:
    fd = memfd.create("image")
    try:
        os.write(fd, b"data")
        again = memfd.reopen_read_only(fd)
        try:
            assert os.read(again, 10) == b"data"
            with refused(errno.EBADF):
                os.write(again, b"x")
        finally:
            os.close(again)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", pidfd.WaitStatus(0, None)),
        ("exit 255", pidfd.WaitStatus(255, None)),
        ("kill -9 $$", pidfd.WaitStatus(None, 9)),
        ("kill -TERM $$", pidfd.WaitStatus(None, 15)),
    ],
)
def test_the_end_of_a_process(script: str, expected: pidfd.WaitStatus) -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], {})
    fd = pidfd.open(pid)
    try:
        assert pidfd.wait(fd) == expected
        with pytest.raises(ChildProcessError):
            pidfd.wait(fd)
        with pytest.raises(ProcessLookupError):
            pidfd.send_signal(fd, signal.SIGTERM)
    finally:
        os.close(fd)


def test_a_process_is_signalled_and_waited_for() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        fd = pidfd.open(process.pid)
        try:
            assert pidfd.wait(fd, block=False) is None
            with refused(errno.EINVAL):
                pidfd.send_signal(fd, 65)
            pidfd.send_signal(fd, signal.SIGKILL)
            assert pidfd.wait(fd) == pidfd.WaitStatus(None, signal.SIGKILL)
            process.returncode = -signal.SIGKILL  # reaped above, so Popen must not wait for it
        finally:
            os.close(fd)


def test_a_pid_that_does_not_exist() -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    with pytest.raises(ProcessLookupError):
        pidfd.open(process.pid)


def test_the_capabilities_of_this_process() -> None:
    own = caps.read()
    assert own == caps.read(os.getpid())
    assert own.effective & ~own.permitted == 0
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert own.bounding >> (last + 1) == 0


def test_capabilities_are_parsed() -> None:
    text = "Name:\tx\nCapInh:\t00\nCapPrm:\t01ff\nCapEff:\t0f\nCapBnd:\tff\nCapAmb:\t01\n"
    assert caps.parse(text) == caps.Capabilities(0, 0x1FF, 0xF, 0xFF, 1)
    with pytest.raises(ValueError, match="CapAmb"):
        caps.parse(text.rpartition("CapAmb")[0])


def test_a_change_of_a_file_is_an_event(tmp_path: Path) -> None:
    file = tmp_path / "memory.events"
    file.write_text("low 0\n")
    fd = inotify.init()
    try:
        watch = inotify.add_watch(fd, str(file), inotify.IN_MODIFY)
        assert inotify.read(fd) == []
        file.write_text("low 1\n")
        events = inotify.read(fd)
        assert events
        assert {(event.watch, event.mask, event.name) for event in events} == {
            (watch, inotify.IN_MODIFY, "")
        }
        with pytest.raises(FileNotFoundError) as caught:
            inotify.add_watch(fd, str(tmp_path / "missing"), inotify.IN_MODIFY)
        assert caught.value.filename == str(tmp_path / "missing")
    finally:
        os.close(fd)


def test_events_with_names_are_split(tmp_path: Path) -> None:
    fd = inotify.init()
    try:
        inotify.add_watch(fd, str(tmp_path), inotify.IN_MODIFY)
        for name in ("a", "a longer name"):
            (tmp_path / name).write_text("x")
        assert [event.name for event in inotify.read(fd)] == ["a", "a longer name"]
    finally:
        os.close(fd)


@pytest.mark.parametrize("data", [b"\0" * 15, b"\0" * 12 + b"\x10\0\0\0" + b"x" * 15])
def test_an_incomplete_event_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="incomplete"):
        inotify.parse(data)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_reaches_the_service_manager(tmp_path: Path, abstract: bool) -> None:
    value = f"@northstar-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    target = notify.address(value)
    with refused(errno.ECONNREFUSED if abstract else errno.ENOENT) as caught:
        notify.send("READY=1", target)
    assert caught.value.filename == value
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(target)
        notify.send("READY=1\nSTATUS=up", target)
        manager.settimeout(10)
        assert manager.recv(100) == b"READY=1\nSTATUS=up"


def test_a_manager_that_does_not_read_does_not_block_the_sender(tmp_path: Path) -> None:
    target = notify.address(str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(target)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 100_000:
                notify.send("WATCHDOG=1", target)
                sent += 1
        # The queue (net.unix.max_dgram_qlen) was full long before.
        assert 0 < sent < 100_000


@pytest.mark.parametrize("value", ["", "@", "relative", "vsock:2:1"])
def test_an_invalid_address_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="NOTIFY_SOCKET"):
        notify.address(value)


def test_the_watchdog_of_this_process() -> None:
    assert notify.watchdog_interval({}, 7) is None
    assert notify.watchdog_interval({"WATCHDOG_USEC": "1500000"}, 7) == 1.5
    assert notify.watchdog_interval({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "7"}, 7) == 1e-6
    assert notify.watchdog_interval({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}, 7) is None
    for wrong in ("0", "-1", "x", ""):
        with pytest.raises(ValueError, match="WATCHDOG_USEC"):
            notify.watchdog_interval({"WATCHDOG_USEC": wrong}, 7)


def test_only_a_network_namespace_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "net").symlink_to("/proc/self/ns/net")
    (tmp_path / "mnt").symlink_to("/proc/self/ns/mnt")
    directories = (str(tmp_path / "absent"), str(tmp_path))
    fd = netns.open_named("net", directories)
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") == os.readlink("/proc/self/ns/net")
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    for name in ("file", "mnt"):
        with pytest.raises(OSError, match="not a network namespace") as caught:
            netns.open_named(name, directories)
        assert caught.value.filename == str(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such network namespace"):
        netns.open_named("missing", directories)


@pytest.mark.parametrize(
    ("path", "magic"), [("/proc/self", 0x9FA0), ("/sys/kernel", 0x62656572)], ids=["proc", "sysfs"]
)
def test_the_type_of_a_file_system(path: str, magic: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        assert statfs.file_system(fd) == magic
        assert magic not in statfs.IN_MEMORY
    finally:
        os.close(fd)
    with refused(errno.EBADF):
        statfs.file_system(fd)


@pytest.mark.parametrize("directory", ["/dev/shm", "/run", "/tmp", "/"])
def test_file_systems_in_memory(directory: str) -> None:
    found = mountinfo.containing(directory)
    assert found is not None
    fd = os.open(directory, os.O_RDONLY)
    try:
        in_memory = statfs.file_system(fd) in statfs.IN_MEMORY
    finally:
        os.close(fd)
    assert in_memory == (found.fstype in ("tmpfs", "ramfs"))
