"""The payload cannot attack init, the launcher or the host."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import struct
from pathlib import Path
from typing import Any

import pytest

from northstar.launch.plan_ops import Op, Report
from tests.system.launcher import driver
from tests.system.launcher.driver import (
    NODEV,
    NOEXEC,
    NOSUID,
    PROC,
    RDONLY,
    TMP,
    Launch,
    eventually,
    state_of,
)

pytestmark = pytest.mark.root

DEV = (
    Op.DEV,
    "/dev",
    RDONLY | NOSUID | NOEXEC,
    "c null 1 3",
    "c zero 1 5",
    "l fd /proc/self/fd",
)


def run(launched: Launch) -> dict[tuple[str, str], dict[str, Any]]:
    """Run the payload; return its output lines by command and object."""
    launched.start()
    results = {(line["do"], line.get("on", "")): line for line in launched.lines()}
    launched.end()
    return results


def mounts_of(launched: Launch) -> dict[str, tuple[str, str, set[str]]]:
    launched.start()
    found = [line["mount"] for line in launched.lines()]
    launched.end()
    return {target: (source, kind, set(o.split(","))) for source, target, kind, o in found}


# ---- Mounts


@pytest.mark.vm
def test_mounts_are_as_planned(launch):
    found = mounts_of(launch("mounts", mounts=[PROC, TMP, DEV]))
    assert list(found) == ["/", "/proc", "/tmp", "/dev"]
    assert found["/"][2] >= {"ro", "nosuid", "nodev"}
    assert found["/proc"][:2] == ("proc", "proc")
    assert found["/proc"][2] >= {"ro", "nosuid", "nodev", "noexec"}
    assert found["/tmp"][:2] == ("none", "tmpfs")
    assert found["/tmp"][2] >= {"rw", "nosuid", "nodev", "size=1024k"}
    assert found["/dev"][:2] == ("none", "tmpfs")
    assert found["/dev"][2] >= {"ro", "nosuid", "noexec", "mode=755"}


def test_tmp_is_writable_and_the_root_is_not(launch):
    results = run(
        launch(
            *("stat", "/tmp", ";", "write", "/tmp/x", "hello", ";", "read", "/tmp/x", ";"),
            *("write", "/payload", "x", ";", "write", "/new", "x"),
            mounts=[TMP],
        )
    )
    assert results["stat", "/tmp"]["mode"] == 0o41777
    assert results["read", "/tmp/x"]["text"] == "hello"
    assert results["write", "/new"]["errno"] == errno.EROFS
    assert results["write", "/payload"]["errno"] in {errno.EROFS, errno.EACCES}


@pytest.mark.vm
def test_dev_contains_exactly_the_planned_entries(launch):
    results = run(
        launch(
            *("list", "/dev", ";", "stat", "/dev/null", ";", "readlink", "/dev/fd", ";"),
            *("write", "/dev/null", "x", ";", "write", "/dev/new", "x", ";", "stat", "/dev"),
            mounts=[DEV],
        )
    )
    assert sorted(results["list", "/dev"]["names"]) == ["fd", "null", "zero"]
    assert results["stat", "/dev"]["mode"] == 0o40755
    assert results["stat", "/dev/null"]["mode"] == 0o20666
    assert results["stat", "/dev/null"]["device"] == [1, 3]
    assert results["readlink", "/dev/fd"]["text"] == "/proc/self/fd"
    assert results["write", "/dev/null"]["result"] == 1
    assert results["write", "/dev/new"]["errno"] in {errno.EROFS, errno.EACCES}


@pytest.mark.vm
def test_a_bind_has_its_attributes(launch, tmp_path):
    tmp_path.chmod(0o777)
    (tmp_path / "file").write_text("from the host")
    binds = [(Op.BIND, "", str(tmp_path), "/data", NOEXEC | NODEV, 0, "optional")]
    results = run(launch("read", "/data/file", ";", "write", "/data/new", "x", mounts=binds))
    assert results["read", "/data/file"]["text"] == "from the host"
    assert (tmp_path / "new").read_text() == "x"
    readonly = [(*binds[0][:4], RDONLY, 0, "")]
    results = run(launch("write", "/data/newer", "x", mounts=readonly))
    assert results["write", "/data/newer"]["errno"] == errno.EROFS
    assert os.listdir(tmp_path) == ["file", "new"] or not (tmp_path / "newer").exists()


def test_a_noexec_bind_does_not_execute(launch, tmp_path, image):
    tmp_path.chmod(0o755)
    shutil.copy(image.path / "payload", tmp_path / "payload")
    binds = [(Op.BIND, "", str(tmp_path), "/data", NOEXEC, 0, "")]
    failed = launch(mounts=binds, argv=["/data/payload"]).failure()
    assert failed[2:] == (Op.EXEC, errno.EACCES, 0, "/data/payload")


@pytest.mark.vm
def test_a_recursive_bind_is_read_only_in_all_mounts(launch):
    # /sys contains nested mounts.
    below = {t.replace("/sys", "/data", 1) for t in host_mounts() if t.startswith("/sys/")}
    assert below
    bind = (Op.BIND, "", "/sys", "/data", RDONLY | NOEXEC, 0, "recursive")
    found = mounts_of(launch("mounts", mounts=[PROC, bind]))
    assert below | {"/", "/proc", "/data"} == set(found)
    assert all({"ro", "noexec"} <= found[target][2] for target in below | {"/data"})


def test_a_plain_bind_has_no_submounts(launch):
    bind = (Op.BIND, "", "/sys", "/data", RDONLY, 0, "")
    assert set(mounts_of(launch("mounts", mounts=[PROC, bind]))) == {"/", "/proc", "/data"}


def host_mounts() -> set[str]:
    with open("/proc/self/mounts") as file:
        return {line.split()[1] for line in file}


def test_an_optional_bind_without_a_source_is_skipped_and_reported(launch):
    bind = (Op.BIND, "", "/nowhere/to/be/found", "/data", RDONLY, 0, "optional")
    launched = launch("list", "/data", mounts=[bind])
    skipped = launched.expect(Report.LAUNCHED, Report.SKIPPED)
    assert (skipped.number, skipped.text) == (Op.BIND, "/nowhere/to/be/found")
    launched.expect(Report.READY)
    launched.go()
    launched.expect(Report.STARTED)
    assert launched.wait_line("list")["names"] == []
    launched.end()


@pytest.mark.vm
@pytest.mark.vm
@pytest.mark.vm
@pytest.mark.vm
@pytest.mark.parametrize(
    "link", ["/outside", "/../../outside", "../../../../outside", "dots/../.."]
)
def test_targets_are_resolved_inside_the_root(launch, image, link):
    # The link leads to a directory of the image, not of the host.
    name = f"link{abs(hash(link)) % 10**9}"
    inside = image.path / "outside"
    inside.mkdir(exist_ok=True)
    (image.path / "dots").mkdir(exist_ok=True)
    os.symlink(link, image.path / name)
    target = f"/{name}" if link.endswith("outside") else f"/{name}/outside"
    mounts = [PROC, (*TMP[:3], target, *TMP[4:])]
    assert set(mounts_of(launch("mounts", mounts=mounts))) == {"/", "/proc", "/outside"}
    os.unlink(image.path / name)


def test_a_source_inside_an_image_is_resolved_inside_it(launch, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "mine").write_text("the resource's")
    os.symlink("/etc", tmp_path / "link")
    os.symlink("../../../../../../etc", tmp_path / "dots")
    for directory in ("/etc", "/link", "/dots", "/../../etc/."):
        bind = (Op.BIND, str(tmp_path), directory, "/data", RDONLY, 0, "")
        results = run(launch("list", "/data", mounts=[bind]))
        assert results["list", "/data"]["names"] == ["mine"], directory


def test_a_magic_link_is_refused_as_a_target(launch, image):
    os.symlink("/proc/self/root/tmp", image.path / "magic")
    failed = launch(mounts=[PROC, (*TMP[:3], "/magic", *TMP[4:])]).failure()
    assert failed[2:] == (Op.FILESYSTEM, errno.ELOOP, 0, "/magic")
    os.unlink(image.path / "magic")


def test_a_device_node_of_the_image_cannot_be_opened(launch, image):
    os.mknod(image.path / "node", 0o20666, os.makedev(1, 3))
    os.chmod(image.path / "node", 0o666)
    results = run(launch("read", "/node", ";", "stat", "/node"))
    assert results["stat", "/node"]["device"] == [1, 3]
    assert results["read", "/node"]["errno"] == errno.EACCES
    os.unlink(image.path / "node")


def test_no_mount_of_the_host_remains(launch):
    # Not even below the root, where pivot_root puts the old one.
    launched = launch("pause").start()
    with open(f"/proc/{launched.pid}/mountinfo") as file:
        assert len(file.readlines()) == 1


# ---- init


@pytest.mark.vm
@pytest.mark.parametrize("uid", [0, 1000])
def test_init_keeps_nothing(launch, uid):
    launched = launch("pause", uid=uid, mounts=[PROC]).start()
    directory = f"/proc/{launched.pid}"
    (descriptor,) = os.listdir(f"{directory}/fd")
    assert os.readlink(f"{directory}/fd/{descriptor}").startswith("socket:")
    status = dict(
        line.split(":\t", 1) for line in Path(directory, "status").read_text().splitlines()
    )
    assert {int(status[f"Cap{s}"], 16) for s in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    # A user that no manifest can name; the saved id protects from prlimit(2) with CAP_SETUID.
    assert status["Uid"].split() == [str(n) for n in (2**32 - 2, 2**32 - 2, 2**32 - 3, 2**32 - 2)]
    # Not dumpable: its files in /proc belong to root.
    assert os.stat(f"{directory}/environ").st_uid == 0
    assert "memfd:northstar-plan" not in Path(directory, "maps").read_text()


@pytest.mark.usefixtures("default_build")
def test_init_is_small(launch):
    launched = launch("pause").start()
    rollup = Path(f"/proc/{launched.pid}/smaps_rollup").read_text()
    kilobytes = {w[0]: int(w[1]) for w in map(str.split, rollup.splitlines()[1:])}
    # The other pages are those of the memfd, which all containers share. The stack starts at a
    # random offset: 20 to 28 KiB were seen. Walking paths by hand takes two more pages of it.
    more = 8 if driver.OLDER else 0
    assert kilobytes["Anonymous:"] <= 28 + more, rollup
    assert kilobytes["Rss:"] <= 80 + more, rollup


@pytest.mark.parametrize("uid", [0, 1000])
def test_init_cannot_be_read_traced_or_controlled(launch, uid):
    results = run(
        launch(
            *(
                "try",
                "ptrace",
                "1",
                ";",
                "try",
                "vm-read",
                "1",
                ";",
                "read",
                "/proc/1/environ",
                ";",
            ),
            *(
                "list",
                "/proc/1/root",
                ";",
                "readlink",
                "/proc/1/exe",
                ";",
                "read",
                "/proc/1/mem",
                ";",
            ),
            *("write", "/proc/1/mem", "x", ";", "readlink", "/proc/1/fd/3", ";"),
            *(
                "list",
                "/proc/1/cwd/",
                ";",
                "write",
                "/proc/1/exe",
                "x",
                ";",
                "try",
                "setns",
                "/proc/1/ns/mnt",
            ),
            mounts=[(*PROC[:4], NOSUID)],
            uid=uid,
        )
    )
    assert len(results) == 11
    wrong = {what: line for what, line in results.items() if line["result"] >= 0}
    assert not wrong
    refused = {line["errno"] for line in results.values()}
    assert refused <= {errno.EPERM, errno.EACCES, errno.EBADF}


@pytest.mark.parametrize("uid", [0, 1000])
def test_no_signal_from_inside_reaches_init(launch, uid):
    launched = launch(
        *("kill", "1", "KILL", ";", "kill", "1", "STOP", ";", "kill", "1", "SEGV", ";"),
        *("storm", "1", "1", "64", "200", ";", "queue", "1", "34", "20000", ";"),
        *("queue", "1", "CHLD", "20000", ";", "kill", "1", "KILL", ";", "exit", "5"),
        uid=uid,
    ).start()
    lines = list(launched.lines())
    assert len(lines) == 7
    assert launched.end()[2:5] == (0, 0, 5)


def test_a_payload_that_stops_its_group_does_not_stop_init(launch):
    launched = launch("kill", "0", "STOP", ";", "exit", "3").start()
    (payload,) = set(launched.processes()) - {launched.pid}
    eventually(lambda: state_of(payload) == "T", "the payload stops")
    eventually(lambda: state_of(launched.pid) == "S", "init sleeps on")
    os.kill(payload, signal.SIGCONT)
    assert launched.end().value == 3


# ---- The launcher


MAGIC = ["/proc/self/exe", "/proc/1/exe", "/proc/self/fd/1", "/dev/fd/0", "/proc/self/root/payload"]


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("path", MAGIC)
def test_the_launcher_is_not_reached_as_a_program(launch, uid, path):
    failed = launch(argv=[path], uid=uid, mounts=[PROC, DEV]).failure()
    assert failed[2:] == (Op.EXEC, errno.ELOOP, 0, path)


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("mode", [0o755, 0o711])
def test_the_launcher_is_not_reached_as_an_interpreter(launch, image, uid, mode):
    image.add("script", "#! /proc/self/exe x\n", mode)
    image.add("outer", "#!/script\n", mode)
    for path in ("/script", "/outer"):
        failed = launch(argv=[path], uid=uid, mounts=[PROC]).failure()
        assert failed[2:] == (Op.EXEC, errno.ELOOP, 0, "/proc/self/exe")


def test_the_launcher_is_not_reached_as_a_loader(launch, image):
    image.add("loaded", elf_with_loader(b"/proc/self/exe\0"))
    failed = launch(argv=["/loaded"], mounts=[PROC]).failure()
    assert failed[2:] == (Op.EXEC, errno.ELOOP, 0, "/proc/self/exe")


def elf_with_loader(loader: bytes) -> bytes:
    """Return the smallest ELF file with a loader: a header and one PT_INTERP segment."""
    machine = {"x86_64": 62, "aarch64": 183}[os.uname().machine]
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 120, 120, len(loader), len(loader), 1)
    return ident + header + segment + loader


def test_scripts_work(launch, image):
    image.add("good", "#!/payload say\n")
    launched = launch(argv=["/good", "x"]).start()
    assert os.read(launched.output, 100) == b"/good\n"
    launched.end()


@pytest.mark.parametrize(
    "content", ["#!", "#!\n", "#! \t \n", "", "#!" + "x" * 300, "\x7fELF", "\0"]
)
def test_invalid_programs_are_refused_by_the_kernel(launch, image, content):
    image.add("odd", content)
    failed = launch(argv=["/odd"]).failure()
    assert failed.number == Op.EXEC
    # EACCES: the kernel's answer to an empty interpreter name at the end of a file.
    assert failed.errno in {errno.ENOEXEC, errno.ENOENT, errno.EACCES}


def test_endless_scripts_are_refused(launch, image):
    image.add("endless", "#!/endless\n")
    failed = launch(argv=["/endless"]).failure()
    assert failed[2:] == (Op.EXEC, errno.ELOOP, 0, "/endless")


def test_a_fifo_as_a_program_does_not_block_the_start(launch, image):
    os.mkfifo(image.path / "fifo", 0o755)
    failed = launch(argv=["/fifo"]).failure()
    assert failed[2:] == (Op.EXEC, errno.EACCES, 0, "/fifo")
    os.unlink(image.path / "fifo")


# ---- The host


@pytest.mark.vm
def test_the_runtimes_session_keyring_is_not_inherited(launch):
    libc = ctypes.CDLL(None, use_errno=True)
    add_key, keyctl_revoke = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
    name = f"northstar-test-{os.getpid()}".encode()

    def prepare() -> int:
        # A new keyring (1: KEYCTL_JOIN_SESSION_KEYRING), not the login session's.
        assert libc.syscall(keyctl_revoke, 1, None) > 0
        added: int = libc.syscall(add_key, b"user", name, b"secret", 6, -3)
        assert added > 0, os.strerror(ctypes.get_errno())
        return added

    # Keyrings are per thread: the key belongs into that of the thread that spawns the launcher.
    thread = driver.older_kernel()
    key = thread(prepare) if thread else prepare()
    results = run(launch("try", "keyctl-search", name.decode(), uid=0, gid=0))
    assert results["keyctl-search", name.decode()]["errno"] == errno.ENOKEY
    plan = launch.operations("try", "keyctl-search", name.decode(), uid=0, gid=0)
    without = [operation for operation in plan if operation[0] != Op.KEYRING]
    assert run(launch(plan=without))["keyctl-search", name.decode()]["result"] == key


def test_privileged_calls_are_refused(launch):
    tries = [
        ("mount", "/tmp"),
        ("umount", "/tmp"),
        ("remount", "/"),
        ("mknod", "/tmp/node"),
        ("chroot", "/tmp"),
        ("setuid", "0"),
        ("unshare", ""),
        ("sethostname", "x"),
    ]
    words = [w for name, on in tries for w in ("try", name, on, ";")]
    results = run(launch(*words, mounts=[TMP]))
    assert {(name, results[name, on]["errno"]) for name, on in tries} == {
        (name, errno.EPERM) for name, _ in tries
    }


def test_a_setuid_program_gains_nothing(launch, image):
    shutil.copy(image.path / "payload", image.path / "setuid")
    os.chmod(image.path / "setuid", 0o6755)
    results = run(launch("exec", "/setuid", "self"))
    me = results["self", ""]
    assert me["uids"] == [1000] * 3
    assert set(me["caps"].values()) == {0}


# ---- The payload's execve comes after init has dropped its privileges

PTRACE_DETACH, PTRACE_GETEVENTMSG, PTRACE_SEIZE = 17, 0x4201, 0x4206
PTRACE_O_TRACEFORK, PTRACE_EVENT_FORK = 2, 1
FUTEX = {"x86_64": "202", "aarch64": "98"}
STOPPED_BY_FORK = PTRACE_EVENT_FORK << 8 | signal.SIGTRAP


def ptrace(request: int, pid: int, data: object = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_long(request), ctypes.c_long(pid), None)
    assert libc.ptrace(*arguments, data) == 0, os.strerror(ctypes.get_errno())


def test_the_payload_waits_for_init_to_give_up_its_privileges(launch):
    """Otherwise a payload with CAP_SYS_PTRACE controls an init with all capabilities of the host.

    init is stopped at the fork of the payload's process, to simulate a busy machine.
    """
    launched = launch("ready", ";", "pause")
    launched.expect(Report.LAUNCHED, Report.READY)
    init = launched.pid
    ptrace(PTRACE_SEIZE, init, ctypes.c_void_p(PTRACE_O_TRACEFORK))
    launched.go()
    assert os.waitpid(init, 0)[1] >> 8 == STOPPED_BY_FORK
    forked = ctypes.c_ulong()
    ptrace(PTRACE_GETEVENTMSG, init, ctypes.byref(forked))
    child = forked.value
    os.waitpid(child, 0x40000000)  # __WALL; it is traced as well
    ptrace(PTRACE_DETACH, child)
    program = os.readlink(f"/proc/{init}/exe")

    def waits_or_runs() -> bool:
        if os.readlink(f"/proc/{child}/exe") != program:
            return True
        with open(f"/proc/{child}/syscall") as file:
            return file.read().split()[0] == FUTEX[os.uname().machine]

    eventually(waits_or_runs, "the payload's process waits, or executes its program")
    assert os.readlink(f"/proc/{child}/exe") == program
    ptrace(PTRACE_DETACH, init)
    launched.expect(Report.STARTED)
    launched.wait_line("ready")
