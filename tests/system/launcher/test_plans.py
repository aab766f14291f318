"""Invalid plans and first messages are refused before the first operation."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from northstar.launch.plan_ops import NO_OPERATION, PLAN_VERSION, Op, Report, Step
from tests.system.launcher.driver import (
    NAMESPACES,
    PROC,
    RDONLY,
    SEALS,
    TMP,
    Launch,
    Operation,
    Received,
    encode,
    encode_operation,
    memfd,
    operations,
    reap,
)

pytestmark = pytest.mark.root

LOTS = settings(max_examples=100, suppress_health_check=list(HealthCheck))
SOME = settings(max_examples=30, suppress_health_check=list(HealthCheck))


def refusal(program: int, plan: bytes) -> Received:
    """Send a plan, which the launcher must refuse; return its report."""
    with Launch(program, plan) as launched:
        report = launched.next()
        assert report is not None, "no report"
        assert report.kind == Report.FAILED, report
        assert launched.next() is None
        assert os.waitstatus_to_exitcode(reap(launched.launcher)) == 1
        launched.launcher = 0
    return report


def refused(program: int, plan: bytes, words: str) -> None:
    report = refusal(program, plan)
    assert report == (Report.FAILED, NO_OPERATION, Step.PLAN, errno.EINVAL, 0, words)


# ---- Truncated


def refused_if_truncated(program: int, plan: bytes, lengths: Iterable[int]) -> None:
    for length in lengths:
        report = refusal(program, plan[:length])
        assert (report.number, report.errno) == (Step.PLAN, errno.EINVAL), length


def test_a_truncated_plan(program, image):
    plan = encode(operations(image, "pause", mounts=[PROC]))
    refused_if_truncated(program, plan, range(len(plan)))


def test_a_truncated_plan_under_the_sanitizers(sanitized, image):
    plan = encode(operations(image, "pause"))
    ends = [len(encode(operations(image, "pause")[:n])) for n in range(26)]
    near = {e + d for e in ends for d in (-1, 0, 1, 7, 8) if e + d < len(plan)}
    refused_if_truncated(sanitized, plan, sorted(near))


# ---- Changed


def refused_or_performed(program: int, plan: bytes) -> None:
    """Any plan is refused or performed as a container; the launcher never crashes."""
    with Launch(program, plan) as launched:
        while (report := launched.next()) is not None:
            if report.kind == Report.READY:
                launched.go()
            if report.kind == Report.STARTED:
                # The mutated plan is valid, and its container runs.
                break
        assert launched.reports, "no report"
        if launched.launcher:
            assert launched.reports[-1].kind == Report.FAILED, launched.reports
            assert os.waitstatus_to_exitcode(reap(launched.launcher)) == 1
            launched.launcher = 0
        elif report is None:
            assert launched.reports[-1].kind in {Report.FAILED, Report.EXITED}, launched.reports
            assert os.waitstatus_to_exitcode(launched.wait()) in {0, 1}


BYTES = st.lists(
    st.tuples(
        st.integers(0, 1 << 16), st.sampled_from(["set", "insert", "delete"]), st.integers(0, 255)
    ),
    min_size=1,
    max_size=6,
)
WORDS = st.sampled_from(
    [
        "",
        "-1",
        "0",
        "1",
        "2",
        "3",
        "999",
        "/",
        "/tmp",
        "//",
        "0x",
        "0xg",
        "unlimited",
        "c x 1 3",
        "l y /z",
        ",",
        "1,2",
        "recursive",
        "4294967295",
        "18446744073709551615",
        "18446744073709551616",
        "-",
        "=",
        "a=b",
        "x" * 5000,
        "/" + "y" * 4090,
        str(NAMESPACES),
        "fifo",
        "idle",
    ]
)


def mutate(plan: bytes, changes: list[tuple[int, str, int]]) -> bytes:
    changed = bytearray(plan)
    for position, what, value in changes:
        at = position % (len(changed) + 1)
        if what == "insert":
            changed.insert(at, value)
        elif at < len(changed):
            if what == "set":
                changed[at] = value
            else:
                del changed[at]
    return bytes(changed)


@LOTS
@given(changes=BYTES)
def test_a_plan_with_other_bytes(program, image, changes):
    refused_or_performed(
        program, mutate(encode(operations(image, "exit", "0", mounts=[PROC, TMP])), changes)
    )


@SOME
@given(changes=BYTES)
def test_a_plan_with_other_bytes_under_the_sanitizers(sanitized, image, changes):
    refused_or_performed(
        sanitized, mutate(encode(operations(image, "exit", "0", mounts=[TMP])), changes)
    )


EDIT = st.tuples(
    st.integers(0, 50),
    st.sampled_from(["drop", "twice", "swap", "argument", "more", "less", "number"]),
    st.integers(0, 8),
    WORDS,
    st.sampled_from([*Op, 0, 1, 9, 255, 0xFFFFFFFF]),
)


def edit(
    plan: list[Operation], changes: Iterable[tuple[int, str, int, str, int]]
) -> list[Operation]:
    plan = list(plan)
    for position, what, argument, word, number in changes:
        if not plan:
            break
        at = position % len(plan)
        operation = plan[at]
        if what == "drop":
            del plan[at]
        elif what == "twice":
            plan.insert(at, operation)
        elif what == "swap":
            plan[at], plan[-1] = plan[-1], operation
        elif what == "more":
            plan[at] = (*operation, word)
        elif what == "less" and len(operation) > 1:
            plan[at] = operation[:-1]
        elif what == "number":
            plan[at] = (number, *operation[1:])
        elif what == "argument" and len(operation) > 1:
            place = 1 + argument % (len(operation) - 1)
            plan[at] = (*operation[:place], word, *operation[place + 1 :])
    return plan


ALL_KINDS = [
    PROC,
    TMP,
    (Op.DEV, "/dev", RDONLY, "c null 1 3", "l fd /proc/self/fd"),
    (Op.BIND, "", "/usr", "/data", RDONLY, 0, "optional,recursive"),
]


def every_operation(image) -> list[Operation]:
    restrict = [(Op.RLIMIT, 7, 100, 200), (Op.SCHED, "batch", 1)]
    before = [(Op.HOSTNAME, "x"), (Op.LOOPBACK,)]
    return operations(
        image,
        "exit",
        "0",
        before=before,
        mounts=ALL_KINDS,
        restrict=restrict,
        groups="1,2",
        env=["A=B"],
    )


@LOTS
@given(changes=st.lists(EDIT, min_size=1, max_size=4))
def test_a_plan_with_other_operations(program, image, changes):
    refused_or_performed(program, encode(edit(every_operation(image), changes)))


@SOME
@given(changes=st.lists(EDIT, min_size=1, max_size=4))
def test_a_plan_with_other_operations_under_the_sanitizers(sanitized, image, changes):
    refused_or_performed(sanitized, encode(edit(every_operation(image), changes)))


@SOME
@given(plan=st.binary(max_size=200))
def test_any_bytes(program, plan):
    refusal(program, plan)


@SOME
@given(rest=st.binary(max_size=100))
def test_any_bytes_after_the_version_under_the_sanitizers(sanitized, rest):
    report = refusal(sanitized, struct.pack("<I", PLAN_VERSION) + rest)
    assert (report.number, report.errno) == (Step.PLAN, errno.EINVAL)


def test_a_whole_run_under_the_sanitizers(sanitized, image):
    with Launch(sanitized, encode(every_operation(image))) as launched:
        assert launched.start().end().value == 0


# ---- The error names what is wrong


def replace(image, number: int, *operation: object) -> bytes:
    plan = every_operation(image)
    index = next(i for i, o in enumerate(plan) if o[0] == number)
    plan[index] = operation
    return encode(plan)


WRONG: list[tuple[tuple[object, ...], str]] = [
    (
        (Op.CLONE, 0, -1),
        "operation 0 (CLONE): flags must be exactly the namespaces of a container",
    ),
    (
        (Op.CLONE, NAMESPACES | 0x10000000, -1),
        "operation 0 (CLONE): flags must be exactly the namespaces of a container",
    ),
    ((Op.CLONE, NAMESPACES, 3), "operation 0 (CLONE): invalid cgroup"),
    ((Op.CLONE, NAMESPACES, 0), "operation 0 (CLONE): invalid cgroup"),
    ((Op.CLONE, "", -1), "operation 0 (CLONE): invalid flags"),
    ((Op.CLONE, NAMESPACES), "operation 0 (CLONE): missing cgroup"),
    ((Op.CLONE, NAMESPACES, -1, 1), "operation 0 (CLONE): too many arguments"),
    ((Op.HOSTNAME, ""), "operation 3 (HOSTNAME): invalid name"),
    ((Op.HOSTNAME, "x" * 65), "operation 3 (HOSTNAME): name too long"),
    ((Op.ROOT, "relative"), "operation 5 (ROOT): invalid path"),
    ((Op.ROOT, "/" + "x" * 4095), "operation 5 (ROOT): invalid path"),
    ((Op.BIND, "r", "/", "/", 0, 0, ""), "operation 6 (BIND): invalid root"),
    ((Op.BIND, "", "/", "/", 0, 0, "recursive,huge"), "operation 6 (BIND): invalid flags"),
    ((Op.BIND, "", "/", "/", -1, 0, ""), "operation 6 (BIND): invalid attr_set"),
    ((Op.BIND, "", "/", "/", 1 << 64, 0, ""), "operation 6 (BIND): invalid attr_set"),
    ((Op.FILESYSTEM, "tmpfs", "", "/", 0, "=x"), "operation 7 (FILESYSTEM): option without a key"),
    ((Op.FILESYSTEM, "tmpfs", "", "/", 0, ""), "operation 7 (FILESYSTEM): invalid option"),
    *(
        ((Op.DEV, "/dev", 0, entry), "operation 9 (DEV): invalid entry")
        for entry in (
            "c x 1",
            "c x 1 y",
            "c x 4096 1",
            "c a/b 1 3",
            "c .. 1 3",
            "c  1 3",
            "b x 1 3",
            "c",
            "l x",
            "l x ",
            "l . y",
            "c " + "x" * 64 + " 1 3",
            "c x 1 1048576",
            "c x 1 3 ",
        )
    ),
    ((Op.GROUPS, "1,,2"), "operation 12 (GROUPS): invalid gids"),
    ((Op.GROUPS, "4294967295"), "operation 12 (GROUPS): invalid gids"),
    ((Op.GID, "4294967295"), "operation 13 (GID): invalid gid"),
    ((Op.UID, "-1"), "operation 14 (UID): invalid uid"),
    ((Op.UID, "4294967295"), "operation 14 (UID): invalid uid"),
    ((Op.FD, 1, 1), "operation 18 (FD): numbers must count from 0"),
    ((Op.FD, 0, 0), "operation 18 (FD): invalid descriptor"),
    ((Op.FD, 3, 0), "operation 18 (FD): invalid descriptor"),
    ((Op.FD, "01", 0), "operation 18 (FD): invalid descriptor"),
    ((Op.RLIMIT, 16, 1, 1), "operation 21 (RLIMIT): no such resource"),
    ((Op.RLIMIT, 1, "infinite", 1), "operation 21 (RLIMIT): invalid soft"),
    ((Op.SCHED, "deadline", 0), "operation 22 (SCHED): unknown policy"),
    ((Op.SCHED, "fifo", 0), "operation 22 (SCHED): value out of range"),
    ((Op.SCHED, "round_robin", 100), "operation 22 (SCHED): value out of range"),
    ((Op.SCHED, "other", -21), "operation 22 (SCHED): value out of range"),
    ((Op.SCHED, "idle", 1), "operation 22 (SCHED): value out of range"),
    ((Op.CAPS, "0xG"), "operation 24 (CAPS): invalid mask"),
    ((Op.EXEC, "/x", 0, "/x"), "operation 25 (EXEC): argc out of range"),
    ((Op.EXEC, "/x", 2, "/x"), "operation 25 (EXEC): argc out of range"),
    ((Op.EXEC, "x", 1, "x"), "operation 25 (EXEC): invalid path"),
]


@pytest.mark.parametrize(("operation", "words"), WRONG)
def test_the_error_names_what_is_wrong(program, image, operation, words):
    assert isinstance(operation[0], int)
    refused(program, replace(image, operation[0], *operation), words)


@pytest.mark.parametrize(
    "number",
    [Op.CLONE, Op.ROOT, Op.PIVOT, Op.GROUPS, Op.GID, Op.UID, Op.AWAIT, Op.PAYLOAD, Op.NO_NEW_PRIVS,
     Op.CAPS, Op.EXEC],
)  # fmt: skip
def test_no_isolating_operation_can_be_omitted(program, image, number):
    plan = [o for o in every_operation(image) if o[0] != number]
    refused(
        program,
        encode(plan),
        {
            # Detected by a later operation.
            Op.CLONE: "operation 3 (LOOPBACK): no new network namespace",
        }.get(number, f"missing operation {number.name}"),
    )


def test_the_standard_descriptors_are_required(program, image):
    plan = operations(image, "pause", descriptors=[2, 1])
    refused(program, encode(plan), "operation 16 (EXEC): descriptors 0, 1 and 2 are required")


def test_the_order_is_checked(program, image):
    plan = every_operation(image)
    plan[3], plan[5] = plan[5], plan[3]
    refused(program, encode(plan), "operation 4 (LOOPBACK): out of order")
    plan = every_operation(image)
    refused(program, encode([*plan, plan[-1]]), f"operation {len(plan)} (EXEC): more than once")


def test_an_unknown_operation(program, image):
    plan = encode(operations(image, "pause")) + encode_operation(77)
    refused(program, plan, "operation 18: unknown number 77")


def test_an_unterminated_argument(program, image):
    plan = encode(operations(image, "pause")[:-1])
    exec_ = struct.pack("<II", Op.EXEC, 4) + b"/x\0" + b"1"
    refused(program, plan + exec_, "operation 17: its last argument is not terminated")


def test_a_length_that_overflows(program):
    plan = struct.pack("<III", PLAN_VERSION, Op.CLONE, 0xFFFFFFFF) + bytes(64)
    refused(program, plan, "truncated in operation 0")


@pytest.mark.parametrize("plan", [b"", b"x", b"xxxx", struct.pack(">I", PLAN_VERSION)])
def test_another_version(program, plan):
    words = "not a plan of this version" if plan else "the plan is empty or larger than 16 MiB"
    refused(program, plan, words)


def test_a_plan_that_is_too_large(program):
    refused(program, bytes((16 << 20) + 1), "the plan is empty or larger than 16 MiB")


@pytest.mark.parametrize("size", [0, 7, 8 * 4097])
def test_filters_of_a_wrong_size(program, image, size):
    plan = encode(operations(image, "pause", seccomp=3))
    descriptor = memfd(bytes(size))
    with Launch(program, plan, [descriptor]) as launched:
        os.close(descriptor)
        report = launched.expect(Report.FAILED)
        words = "operation 17 (SECCOMP): filter is not an array of 1 to 4096 instructions"
        assert report.text == words


# ---- The first message


def first_message(program: int, data: bytes, descriptors: list[int]) -> Received | None:
    """Send a first message; return the launcher's report."""

    class Bare(Launch):
        def send(self, descriptors: object) -> None:
            """Send nothing: the test sends its own message."""

    with Bare(program, b"x") as launched:
        rights = [
            (
                socket.SOL_SOCKET,
                socket.SCM_RIGHTS,
                struct.pack(f"{len(descriptors)}i", *descriptors),
            )
        ]
        launched.stream.sendmsg([data], rights if descriptors else [])
        report = launched.next()
        assert launched.next() is None
        assert os.waitstatus_to_exitcode(reap(launched.launcher)) == 1
        launched.launcher = 0
    return report


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"\1\0\0", 1),
        (b"\1\0\0\0\0", 1),
        (b"\2\0\0\0", 1),
        (b"\0\0\0\0", 0),
        (b"\1\0\0\0", 0),
        (b"\1\0\0\0", 2),
    ],
)
def test_an_invalid_first_message(program, image, data, count):
    plan = memfd(encode(operations(image, "pause")))
    report = first_message(program, data, [plan] * count)
    os.close(plan)
    assert report is not None
    assert report[1:] == (
        NO_OPERATION,
        Step.RECEIVE,
        errno.EPROTO,
        0,
        "the first message must be a count and as many descriptors",
    )


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW])
def test_a_plan_that_is_not_sealed(program, image, missing):
    plan = memfd(encode(operations(image, "pause")), seals=SEALS & ~missing)
    report = first_message(program, b"\1\0\0\0", [plan])
    os.close(plan)
    assert report is not None
    assert report[2:] == (Step.RECEIVE, errno.EINVAL, 0, "the plan is not sealed")


def test_a_plan_in_a_plain_file(program, image, tmp_path):
    (tmp_path / "plan").write_bytes(encode(operations(image, "pause")))
    with (tmp_path / "plan").open("rb") as file:
        report = first_message(program, b"\1\0\0\0", [file.fileno()])
    assert report is not None
    assert report[2:] == (Step.RECEIVE, errno.EINVAL, 0, "the plan is not sealed")


def test_without_a_socket_the_program_explains_itself(program_path):
    done = subprocess.run([program_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "is a part of the Northstar runtime" in done.stderr


@pytest.mark.usefixtures("default_build")
def test_the_program_is_small(program_path):
    assert program_path.stat().st_size < 56 << 10
