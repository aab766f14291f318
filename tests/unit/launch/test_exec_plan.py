"""Plans that execute a process in a running container."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.launch import exec_plan
from northstar.launch.plan import (
    NAMESPACES,
    ContainerPaths,
    HostFacts,
    LaunchPlan,
    Operation,
    build,
)
from northstar.launch.plan_ops import Op
from northstar.linux import mount as lm
from northstar.manifest import Capability, Command, Manifest, RlimitResource, from_builtins
from northstar.model import HostError, LaunchError

FACTS = HostFacts(capabilities=(1 << 41) - 1)
RESTRICTING = {Op.RLIMIT, Op.SCHED, Op.NO_NEW_PRIVS, Op.DENY_GETFD, Op.CAPS}


def manifest(**fields: Any) -> Manifest:
    return from_builtins(
        {"name": "a", "version": "1.0.0", "init": "/init", "uid": 1000, "gid": 1001, **fields}
    )


def plan(*command: str, facts: HostFacts = FACTS, **fields: Any) -> LaunchPlan:
    return exec_plan.build(manifest(**fields), command or ("/bin/sh",), {}, facts, (5, 6))


def ops(planned: LaunchPlan) -> list[Op]:
    return [operation.op for operation in planned.operations]


def test_a_bare_process_in_its_order() -> None:
    assert ops(plan()) == [
        Op.KEYRING,
        *[Op.ENTER] * 6,
        Op.GID,
        Op.UID,
        Op.GROUPS,
        *[Op.FD] * 3,
        Op.NO_NEW_PRIVS,
        Op.CAPS,
        Op.EXEC,
    ]


def test_cgroups_are_joined_first() -> None:
    """The helper must not use what the container's limits do not count."""
    planned = plan(facts=HostFacts(FACTS.capabilities, into_cgroup=True, joins=2))
    assert ops(planned)[:4] == [Op.JOIN, Op.JOIN, Op.JOIN, Op.KEYRING]
    assert planned.descriptors[3:6] == ("procs", "tasks:0", "tasks:1")


def test_the_mount_and_the_pid_namespace_are_entered_last() -> None:
    entered = [o.arguments[1] for o in plan().operations if o.op is Op.ENTER]
    assert [int(flag) for flag in entered] == [
        lm.CLONE_NEWNET,
        lm.CLONE_NEWUTS,
        lm.CLONE_NEWIPC,
        lm.CLONE_NEWCGROUP,
        lm.CLONE_NEWNS,
        lm.CLONE_NEWPID,
    ]


def test_a_failure_to_enter_names_the_namespace() -> None:
    steps = [o.describe() for o in plan().operations if o.op is Op.ENTER]
    assert steps[0] == "enter the net namespace"
    assert steps[-2:] == ["enter the mnt namespace", "enter the pid namespace"]


def test_a_kernel_without_cgroup_namespaces() -> None:
    names = [name for name in NAMESPACES if name != "cgroup"]
    planned = exec_plan.build(manifest(), ("/x",), {}, FACTS, namespaces=names)
    assert ops(planned).count(Op.ENTER) == 5
    assert "namespace:cgroup" not in planned.descriptors


def test_the_selinux_context_is_set_before_the_containers_proc() -> None:
    selinux = {"mount_context": "m", "exec": "e"}
    planned = plan(facts=HostFacts(FACTS.capabilities, selinux=True), selinux=selinux)
    assert ops(planned)[:3] == [Op.KEYRING, Op.SELINUX, Op.ENTER]


@given(
    st.sets(st.sampled_from([c.value for c in Capability])),
    st.dictionaries(
        st.sampled_from([r.value for r in RlimitResource]),
        st.fixed_dictionaries({"soft": st.integers(0, 9), "hard": st.integers(9, 99)}),
    ),
    st.booleans(),
    st.sampled_from([None, {"priority": 1, "policy": {"other": {"nice": 5}}}]),
)
def test_the_restrictions_are_those_of_the_payload(
    capabilities: set[str], rlimits: dict[str, Any], filtered: bool, sched: Any
) -> None:
    fields: dict[str, Any] = {"capabilities": sorted(capabilities), "rlimits": rlimits}
    if filtered:
        fields["seccomp"] = {"profile": "default"}
    if sched is not None:
        fields["sched"] = {"policy": sched["policy"]}
    paths = ContainerPaths("/r", "/p", "/s", "/n")
    payload = build(manifest(**fields), Command("/init", (), {}), paths, FACTS, (5, 6))

    def restricting(planned: LaunchPlan) -> list[Operation]:
        ids = {Op.GID, Op.UID, Op.GROUPS}
        return [o for o in planned.operations if o.op in RESTRICTING | ids]

    process = plan(**fields)
    assert restricting(process) == restricting(payload)
    assert (Op.SECCOMP in ops(process)) == filtered == (Op.SECCOMP in ops(payload))
    assert ops(process)[-1] is Op.EXEC


def test_exactly_three_descriptors_are_passed() -> None:
    fields: dict[str, Any] = {
        "console": {"permissions": ["ident"]},
        "sockets": {"a": {"type": "stream", "mode": 448}},
    }
    planned = plan(**fields)
    passed = [o.arguments for o in planned.operations if o.op is Op.FD]
    assert passed == [("1", "0"), ("2", "1"), ("3", "2")]
    assert planned.descriptors[:3] == ("stdin", "stdout", "stderr")


def test_the_environment() -> None:
    found = exec_plan.environment(
        manifest(env={"A": "1", "B": "2"}, console={"permissions": ["ident"]}),
        {"B": "3", "TERM": "vt100", "NORTHSTAR_NAME": "other"},
    )
    assert found == {
        "A": "1",
        "B": "3",
        "TERM": "vt100",
        "NORTHSTAR_NAME": "a",
        "NORTHSTAR_VERSION": "1.0.0",
        "NORTHSTAR_CONTAINER": "a:1.0.0",
    }


def test_a_terminal() -> None:
    planned = exec_plan.build(manifest(), ("/x",), {}, FACTS, terminal=True)
    assert Op.TERMINAL in ops(planned)
    assert Op.TERMINAL not in ops(plan())


@pytest.mark.parametrize(
    ("command", "variables", "sentence"),
    [
        ((), {}, "it names no program; give the path of one in the container"),
        (("",), {}, "it names no program; give the path of one in the container"),
        (("/",), {}, "it names no program; give the path of one in the container"),
        (("/x", "a\0b"), {}, r"the argument 'a\x00b' contains a NUL character"),
        (("/x",), {"": "1"}, "'' is no name of an environment variable"),
        (("/x",), {"A=B": "1"}, "'A=B' is no name of an environment variable"),
        (("/x",), {"A": "\0"}, "the variable 'A' contains a NUL character"),
    ],
)
def test_what_cannot_be_passed_to_a_program(
    command: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        exec_plan.build(manifest(), command, variables, FACTS)
    assert str(caught.value) == f"cannot execute a command in a:1.0.0: {sentence}"


def test_a_capability_that_the_runtime_lacks() -> None:
    with pytest.raises(HostError, match="CAP_KILL"):
        plan(facts=HostFacts(capabilities=0), capabilities=["CAP_KILL"])
