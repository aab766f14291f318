"""Plans of a start. The planner is pure, so no test needs root."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec
import pytest

from northstar.launch.plan import (
    DESCRIPTORS_MAX,
    ContainerPaths,
    HostFacts,
    LaunchPlan,
    Operation,
    build,
    descriptor_numbers,
    environment,
    mount_order,
)
from northstar.launch.plan_ops import PLAN_VERSION, Op
from northstar.linux import mount as lm
from northstar.manifest import Command, Manifest, Rlimit, RlimitResource, from_builtins
from northstar.model import HostError, LaunchError

FACTS = HostFacts(capabilities=(1 << 41) - 1)
PATHS = ContainerPaths(
    root="/run/n/a:1.0.0",
    persist="/data/a",
    sockets="/sockets",
    notify="/run/n/notify/a:1.0.0",
)
COMMAND = Command("/init", ("one",), {"A": "b"})

RO, NOSUID, NODEV, NOEXEC = (
    lm.MOUNT_ATTR_RDONLY,
    lm.MOUNT_ATTR_NOSUID,
    lm.MOUNT_ATTR_NODEV,
    lm.MOUNT_ATTR_NOEXEC,
)


def manifest(**fields: Any) -> Manifest:
    return from_builtins(
        {"name": "a", "version": "1.0.0", "init": "/init", "uid": 1000, "gid": 1001, **fields}
    )


def plan(facts: HostFacts = FACTS, paths: ContainerPaths = PATHS, **fields: Any) -> LaunchPlan:
    return build(manifest(**fields), COMMAND, paths, facts, (5, 6))


def only(planned: LaunchPlan, op: Op) -> tuple[str, ...]:
    (operation,) = (o for o in planned.operations if o.op is op)
    return operation.arguments


def ops(planned: LaunchPlan) -> list[Op]:
    return [operation.op for operation in planned.operations]


def bind(planned: LaunchPlan) -> tuple[str, str, str, int, str]:
    root, source, target, attributes, cleared, flags = only(planned, Op.BIND)
    assert cleared == "0"
    return root, source, target, int(attributes), flags


def test_a_bare_start_in_its_order() -> None:
    assert ops(plan()) == [
        Op.CLONE,
        Op.KEYRING,
        Op.SESSION,
        Op.HOSTNAME,
        Op.LOOPBACK,
        Op.ROOT,
        Op.PIVOT,
        Op.GID,
        Op.UID,
        Op.GROUPS,
        Op.AWAIT,
        Op.CGROUPNS,
        Op.PAYLOAD,
        Op.FD,
        Op.FD,
        Op.FD,
        Op.NO_NEW_PRIVS,
        Op.CAPS,
        Op.EXEC,
    ]


def test_identity() -> None:
    planned = plan()
    assert only(planned, Op.UID) == ("1000",)
    assert only(planned, Op.GID) == ("1001",)
    assert only(planned, Op.GROUPS) == ("5,6",)
    assert only(planned, Op.HOSTNAME) == ("a",)
    assert only(planned, Op.CAPS) == ("0x0",)


def test_a_long_name_is_truncated_to_a_host_name() -> None:
    planned = build(manifest(name="n" * 100), COMMAND, PATHS, FACTS)
    assert only(planned, Op.HOSTNAME) == ("n" * 64,)


def test_exec_has_argv_then_the_environment() -> None:
    path, count, *rest = only(plan(), Op.EXEC)
    assert (path, count, rest[:2]) == ("/init", "2", ["/init", "one"])
    assert rest[2:] == [
        "A=b",
        "NORTHSTAR_NAME=a",
        "NORTHSTAR_VERSION=1.0.0",
        "NORTHSTAR_CONTAINER=a:1.0.0",
    ]


def test_a_relative_init_starts_at_the_root() -> None:
    planned = build(manifest(), Command("bin/x", (), {}), PATHS, FACTS)
    assert only(planned, Op.EXEC)[:3] == ("/bin/x", "1", "bin/x")


def test_descriptors_have_no_gaps_and_sockets_are_sorted_by_name() -> None:
    sockets = {name: {"type": "stream", "mode": 511} for name in ("z", "b", "m")}
    with_all = manifest(console={"permissions": "full"}, sockets=sockets)
    names = ["stdin", "stdout", "stderr", "console", "socket:b", "socket:m", "socket:z"]
    assert dict(descriptor_numbers(with_all)) == {name: n for n, name in enumerate(names)}
    added = environment(with_all, {})
    assert added["NORTHSTAR_CONSOLE"] == "3"
    assert [added[f"NORTHSTAR_SOCKET_{name}"] for name in "bmz"] == ["4", "5", "6"]


def test_the_variables_of_the_runtime_take_precedence() -> None:
    assert environment(manifest(), {"NORTHSTAR_NAME": "x"})["NORTHSTAR_NAME"] == "a"


def test_too_many_sockets_are_refused() -> None:
    sockets = {f"s{n}": {"type": "stream", "mode": 511} for n in range(251)}
    with pytest.raises(LaunchError, match="at most 252"):
        plan(sockets=sockets)


@pytest.mark.parametrize(
    ("network", "new"), [(None, True), ("host", False), ({"namespace": "blue"}, False)]
)
def test_network(network: Any, new: bool) -> None:
    planned = plan(**({"network": network} if network else {}))
    flags = int(only(planned, Op.CLONE)[0])
    assert bool(flags & lm.CLONE_NEWNET) is new
    assert (Op.LOOPBACK in ops(planned)) is new
    assert (Op.SETNS in ops(planned)) is (network == {"namespace": "blue"})
    always = lm.CLONE_NEWNS | lm.CLONE_NEWPID | lm.CLONE_NEWIPC | lm.CLONE_NEWUTS
    assert flags & always == always


def test_cgroup_v2_is_entered_by_the_clone() -> None:
    planned = plan(HostFacts(capabilities=0, into_cgroup=True))
    index = only(planned, Op.CLONE)[1]
    assert planned.descriptors[int(index) - 1] == "cgroup"
    assert only(plan(), Op.CLONE)[1] == "-1"


def test_bind_is_read_only_unless_rw() -> None:
    mounts = {"/m": {"type": "bind", "host": "/h"}}
    assert bind(plan(mounts=mounts)) == ("", "/h", "/m", RO, "optional")
    mounts["/m"]["options"] = "rw,rec,nosuid,nodev,noexec"
    attributes = NOSUID | NODEV | NOEXEC
    assert bind(plan(mounts=mounts)) == ("", "/h", "/m", attributes, "optional,recursive")


def test_a_relative_bind_source_is_refused() -> None:
    with pytest.raises(LaunchError, match="no absolute path"):
        plan(mounts={"/m": {"type": "bind", "host": "h"}})


def test_persist_and_sockets() -> None:
    planned = plan(mounts={"/p": {"type": "persist"}})
    assert bind(planned) == ("", "/data/a", "/p", NOSUID | NODEV, "")
    planned = plan(mounts={"/s": {"type": "sockets"}})
    assert bind(planned) == ("", "/sockets", "/s", RO | NOSUID | NODEV | NOEXEC, "")


NOTIFY: dict[str, Any] = {"notify": "/run/notify"}


def test_the_notify_directory_is_read_only() -> None:
    planned = plan(service=NOTIFY)
    attributes = RO | NOSUID | NODEV | NOEXEC
    assert bind(planned) == ("", "/run/n/notify/a:1.0.0", "/run/notify", attributes, "")


@pytest.mark.parametrize("notify", ["/run/notify", "/run/notify/", "//run//notify"])
def test_the_notify_directory_is_mounted_at_its_normal_path(notify: str) -> None:
    assert bind(plan(service={"notify": notify}))[2] == "/run/notify"
    assert environment(manifest(service={"notify": notify}), {}) == {
        "NORTHSTAR_NAME": "a",
        "NORTHSTAR_VERSION": "1.0.0",
        "NORTHSTAR_CONTAINER": "a:1.0.0",
        "NOTIFY_SOCKET": "/run/notify/socket",
    }


def test_the_notify_directory_is_mounted_after_a_mount_on_the_root() -> None:
    mounts = {"/tmp": {"type": "tmpfs", "size": 4096}, "/": {"type": "persist"}}
    planned = plan(service=NOTIFY, mounts=mounts)
    targets = [o.arguments[2] for o in planned.operations if o.op in (Op.BIND, Op.FILESYSTEM)]
    assert targets == ["/", "/run/notify", "/tmp"]


@pytest.mark.parametrize(
    ("watchdog", "microseconds"),
    [("30s", "30000000"), ("1ms", "1000"), ("1999ns", "1"), ("1ns", "1"), (None, None)],
)
def test_the_watchdog_is_announced(watchdog: str | None, microseconds: str | None) -> None:
    """In whole microseconds; 0 would be an error of sd_watchdog_enabled(3)."""
    service = NOTIFY if watchdog is None else {**NOTIFY, "watchdog": watchdog}
    added = environment(manifest(service=service), {"NOTIFY_SOCKET": "/x"})
    assert added["NOTIFY_SOCKET"] == "/run/notify/socket"
    assert added.get("WATCHDOG_USEC") == microseconds
    assert "WATCHDOG_PID" not in added


def test_other_parts_of_a_service_do_not_change_the_plan() -> None:
    service = {"restart": {"policy": "always"}, "stop": {"signal": "INT"}, "after": ["b"]}
    assert plan(service=service).encode() == plan().encode()


def test_a_resource_is_always_read_only() -> None:
    paths = ContainerPaths(
        root="/r", persist="/p", sockets="/s", notify="/n", resources={"/x": "/run/n/res:2.0.0"}
    )
    mount = {"type": "resource", "name": "res", "version": "2", "dir": "/d", "options": "rw,noexec"}
    planned = plan(paths=paths, mounts={"/x": mount})
    assert bind(planned) == ("/run/n/res:2.0.0", "/d", "/x", RO | NODEV | NOEXEC, "")


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"type": "proc"}, ("proc", "proc", "/m", str(RO | NOSUID | NODEV | NOEXEC))),
        ({"type": "sysfs"}, ("sysfs", "sysfs", "/m", str(RO | NOSUID | NODEV | NOEXEC))),
        (
            {"type": "tmpfs", "size": 4096},
            ("tmpfs", "none", "/m", str(NOSUID | NODEV | NOEXEC), "mode=1777", "size=4096"),
        ),
    ],
)
def test_filesystems(mount: Any, words: tuple[str, ...]) -> None:
    assert only(plan(mounts={"/m": mount}), Op.FILESYSTEM) == words


def test_dev_has_exactly_the_six_nodes_and_four_links() -> None:
    target, attributes, *entries = only(plan(mounts={"/dev": {"type": "dev"}}), Op.DEV)
    assert (target, int(attributes)) == ("/dev", RO | NOSUID | NOEXEC)
    nodes = [entry.split()[1:] for entry in entries if entry.startswith("c ")]
    links = [entry.split()[1:] for entry in entries if entry.startswith("l ")]
    assert nodes == [
        ["full", "1", "7"],
        ["null", "1", "3"],
        ["random", "1", "8"],
        ["tty", "5", "0"],
        ["urandom", "1", "9"],
        ["zero", "1", "5"],
    ]
    assert [name for name, _ in links] == ["fd", "stderr", "stdin", "stdout"]


def test_parents_are_mounted_before_what_is_inside_them() -> None:
    targets = ["/a/b", "/a-b", "/", "/a", "//a//c/", "/ab"]
    assert mount_order(dict.fromkeys(targets)) == ["/", "/a", "/a/b", "//a//c/", "/a-b", "/ab"]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"other": {"nice": 5}}, ("other", "5")),
        ({"batch": {"nice": -5}}, ("batch", "-5")),
        ({"fifo": {"priority": 1}}, ("fifo", "1")),
        ({"round_robin": {"priority": 99}}, ("round_robin", "99")),
        ("idle", ("idle", "0")),
    ],
)
def test_scheduling(policy: Any, words: tuple[str, str]) -> None:
    assert only(plan(sched={"policy": policy}), Op.SCHED) == words


def test_deadline_is_refused_with_the_reason() -> None:
    with pytest.raises(LaunchError, match="no runtime, deadline and period"):
        plan(sched={"policy": "deadline"})


def test_limits_and_capabilities() -> None:
    planned = plan(rlimits={"nofile": {"soft": 1, "hard": None}}, capabilities=["CAP_KILL"])
    assert only(planned, Op.RLIMIT) == ("7", "1", "unlimited")
    assert only(planned, Op.CAPS) == ("0x20",)


def test_a_limit_that_the_runtime_raised_for_itself_is_restored() -> None:
    before = {RlimitResource.NOFILE: Rlimit(1024, 4096)}
    facts = HostFacts(capabilities=0, rlimits=before)
    assert only(plan(facts), Op.RLIMIT) == ("7", "1024", "4096")
    wanted = {"nofile": {"soft": 5, "hard": 6}}
    assert only(plan(facts, rlimits=wanted), Op.RLIMIT) == ("7", "5", "6")


def test_a_capability_that_the_runtime_lacks_is_refused() -> None:
    with pytest.raises(HostError, match="CAP_KILL, which the runtime itself does not have"):
        plan(HostFacts(capabilities=0), capabilities=["CAP_KILL"])


@pytest.mark.parametrize("field", ["ready", "health"])
def test_a_unix_probe_that_the_kernel_cannot_do_is_refused(field: str) -> None:
    facts = HostFacts(capabilities=0, in_root=False)
    service: dict[str, Any] = {field: {"probe": {"connect": "unix:/run/app.sock"}}}
    with pytest.raises(HostError, match=rf"service\.{field}\.probe: .* older than Linux 5\.6"):
        plan(facts, service=service)
    plan(HostFacts(capabilities=0), service=service)
    for probe in ({"connect": "tcp:80"}, {"exec": ["/unix:"]}):
        plan(facts, service={field: {"probe": probe}})


def test_the_filter_is_installed_last_of_all() -> None:
    planned = plan(seccomp={"profile": "default"}, capabilities=["CAP_KILL"])
    assert ops(planned)[-3:] == [Op.CAPS, Op.SECCOMP, Op.EXEC]
    (index,) = only(planned, Op.SECCOMP)
    assert planned.descriptors[int(index) - 1] == "seccomp"
    assert "seccomp" not in plan().descriptors
    assert Op.SECCOMP not in ops(plan())
    assert Op.SECCOMP in ops(plan(seccomp={}))


@pytest.mark.parametrize("seccomp", [None, {"allow": {"pidfd_getfd": "any"}}])
def test_pidfd_getfd_is_denied_to_a_payload_with_cap_sys_ptrace(seccomp: Any) -> None:
    fields: dict[str, Any] = {} if seccomp is None else {"seccomp": seccomp}
    planned = ops(plan(capabilities=["CAP_SYS_PTRACE"], **fields))
    assert planned.index(Op.NO_NEW_PRIVS) < planned.index(Op.DENY_GETFD) < planned.index(Op.CAPS)
    assert Op.DENY_GETFD not in ops(plan(capabilities=["CAP_KILL"], **fields))


def test_console_and_sockets_are_created_in_the_container() -> None:
    sockets = {
        "a": {"type": "stream", "mode": 511},
        "b": {"type": "datagram", "mode": 511},
        "c": {"type": "seq_packet", "mode": 511},
    }
    planned = plan(console={"permissions": "full"}, sockets=sockets)
    (console,) = only(planned, Op.CONSOLE)
    assert planned.descriptors[int(console) - 1] == "console"
    assert (
        ops(planned).index(Op.UID) < ops(planned).index(Op.CONSOLE) < ops(planned).index(Op.AWAIT)
    )
    listening = [o.arguments for o in planned.operations if o.op is Op.LISTEN]
    names = [planned.descriptors[int(index) - 1] for index, _ in listening]
    assert names == ["socket:a", "socket:c"]
    made = [o.arguments for o in planned.operations if o.op is Op.SOCKET]
    names = [planned.descriptors[int(index) - 1] for index, _ in made]
    assert names == ["socket:a", "socket:b", "socket:c"]
    assert [int(kind) for _, kind in made] == [
        socket.SOCK_STREAM,
        socket.SOCK_DGRAM,
        socket.SOCK_SEQPACKET,
    ]
    assert Op.CONSOLE not in ops(plan())
    assert Op.LISTEN not in ops(plan())


def test_the_selinux_context_is_set_where_selinux_is_enabled() -> None:
    selinux = {"exec": "a:b", "mount_context": None}
    planned = plan(HostFacts(capabilities=0, selinux=True), selinux=selinux)
    assert only(planned, Op.SELINUX) == ("a:b",)
    assert Op.SELINUX not in ops(plan(selinux=selinux))


def test_every_operation_has_a_description() -> None:
    mounts = {"/m": {"type": "bind", "host": "/h"}, "/t": {"type": "tmpfs", "size": 1}}
    described = {o.op: o.describe() for o in plan(mounts=mounts).operations}
    assert described[Op.BIND] == "bind /h on /m"
    assert described[Op.FILESYSTEM] == "mount tmpfs on /t"
    assert described[Op.EXEC] == "execute /init"
    for op in Op:
        assert Operation(op, tuple("abcdef")).describe()


def test_encoding() -> None:
    encoded = LaunchPlan((Operation(Op.UID, ("7",)), Operation(Op.PIVOT)), ()).encode()
    assert encoded == struct.pack("<III2sII", PLAN_VERSION, Op.UID, 2, b"7\0", Op.PIVOT, 0)


def test_v1_cgroups_are_joined_right_after_the_clone() -> None:
    planned = plan(HostFacts(capabilities=0, joins=2))
    assert ops(planned)[:4] == [Op.CLONE, Op.JOIN, Op.JOIN, Op.KEYRING]
    indices = [o.arguments[0] for o in planned.operations if o.op is Op.JOIN]
    assert [planned.descriptors[int(i) - 1] for i in indices] == ["tasks:0", "tasks:1"]


@pytest.mark.parametrize(
    ("out", "err", "pipes"),
    [("pipe", "inherit", "12"), ("pipe", "discard", "1-"), ("discard", "inherit", "-1")],
)
def test_the_log_reads_what_is_not_discarded(out: str, err: str, pipes: str) -> None:
    """Init creates nothing for it: the ring, the bell and the pipes come from the runtime."""
    made = plan(io={"stdout": out, "stderr": err})
    (log,) = [operation for operation in made.operations if operation.op is Op.LOG]
    names = ("-1", *made.descriptors)
    ring, bell, *read = (names[max(0, int(index))] for index in log.arguments)
    assert (ring, bell) == ("ring", "bell")
    streams = zip(pipes, ("stdout", "stderr"), strict=True)
    assert read == ["-1" if pipe == "-" else f"output:{stream}" for pipe, stream in streams]
    operations = [operation.op for operation in made.operations]
    assert operations.index(Op.LOG) < operations.index(Op.AWAIT)


@pytest.mark.parametrize("io", [None, {"stdout": "discard", "stderr": "discard"}])
def test_discarded_output_needs_no_log(io: dict[str, str] | None) -> None:
    made = plan(io=io)
    assert Op.LOG not in [operation.op for operation in made.operations]
    assert "ring" not in made.descriptors


ATTACHING = msgspec.structs.replace(FACTS, attach=True)
SHARED = ContainerPaths(
    root="/run/n/a:1.0.0",
    persist="/data/a",
    sockets="/sockets",
    notify="/run/n/notify/a:1.0.0",
    resources={"/one": "/run/n/r:1.0.0", "/two": "/run/n/r:1.0.0"},
)


def test_each_image_is_attached_once_and_before_the_new_root() -> None:
    resource = {"type": "resource", "name": "r", "version": "*", "dir": "/"}
    planned = plan(ATTACHING, SHARED, mounts={"/one": resource, "/two": resource})
    attached = [o.arguments for o in planned.operations if o.op is Op.ATTACH]
    first = planned.descriptors.index("image:0") + 1
    assert attached == [(str(first), SHARED.root), (str(first + 1), "/run/n/r:1.0.0")]
    assert SHARED.images == (SHARED.root, "/run/n/r:1.0.0")
    order = ops(planned)
    assert order[order.index(Op.ATTACH) :][:3] == [Op.ATTACH, Op.ATTACH, Op.ROOT]
    assert planned.attaches


def test_images_stay_where_they_are_without_open_tree_or_with_too_many() -> None:
    assert not plan().attaches
    assert Op.ATTACH not in ops(plan())
    many = {f"/{number}": f"/run/n/r{number}:1.0.0" for number in range(DESCRIPTORS_MAX)}
    planned = plan(ATTACHING, msgspec.structs.replace(SHARED, resources=many))
    assert not planned.attaches
    assert Op.ATTACH not in ops(planned)
    few = dict(list(many.items())[: DESCRIPTORS_MAX - 4])  # three streams and the root
    assert plan(ATTACHING, msgspec.structs.replace(SHARED, resources=few)).attaches
