"""Each possible value in a manifest, and its effect on the container."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import stat
from pathlib import Path
from typing import Any

import pytest

from northstar.linux import caps
from northstar.manifest import Capability
from tests.system import host
from tests.system.containers import OK, PROC, install, refused, run, run_new
from tests.system.harness import RuntimeProcess

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

NO_BUDGETS = "no cgroup of version 1 governs real time here"
MAY_SKIP = (NO_BUDGETS,)
MAY_SKIP_IN_VM = (NO_BUDGETS,)

UNABLE = (
    "/usr/bin/setpriv",
    "--bounding-set=-sys_resource,-chown",
    "--inh-caps=-sys_resource,-chown",
)
"""A program that starts the runtime without two capabilities."""


@pytest.mark.vm
def test_each_capability_and_all_of_them(runtime: RuntimeProcess, payload: Path) -> None:
    own = caps.read().permitted
    there = sorted((c for c in Capability if own >> c.number & 1), key=lambda c: c.number)
    assert len(there) >= 38
    container = install(runtime, payload, "all", capabilities=[c.value for c in there])
    sets = set(run(runtime, container, "self").of("self")["caps"].values())
    assert sets == {sum(1 << c.number for c in there)}
    for capability in there[::8]:
        me = run_new(runtime, payload, "self", capabilities=[capability.value]).of("self")
        assert set(me["caps"].values()) == {1 << capability.number}, capability


@pytest.mark.vm
def test_limits_and_capabilities_beyond_the_runtimes_are_refused(
    make_runtime: Any, payload: Path
) -> None:
    """It refuses capabilities that it lacks and limits above its own, with the reason."""
    runtime = make_runtime(wrap=UNABLE)
    capable = install(runtime, payload, "capable", capabilities=["CAP_CHOWN"])
    above = resource.prlimit(runtime.pid, resource.RLIMIT_NOFILE)[1] + 1
    limits = {"nofile": {"soft": above, "hard": above}}
    unlimited = install(runtime, payload, "unlimited", rlimits=limits)
    modest = install(runtime, payload, "modest", rlimits={"nofile": {"soft": 9, "hard": 9}})
    with runtime.client() as client:
        answer = str(refused(lambda: client.start(capable)))
        assert "CAP_CHOWN, which the runtime itself does not have" in answer
        answer = str(refused(lambda: client.start(unlimited)))
        assert "set resource limit 7" in answer
        assert "CAP_SYS_RESOURCE" in answer
    assert run(runtime, modest, "self").of("self")["rlimits"]["7"] == [9, 9]


KINDS = ("discard", "pipe", "inherit")


def test_every_combination_of_outputs(runtime: RuntimeProcess, payload: Path) -> None:
    for number, (out, err) in enumerate(itertools.product(KINDS, KINDS)):
        container = install(runtime, payload, f"io{number}", io={"stdout": out, "stderr": err})
        run(runtime, container, ["say", f"out{number}", ";", "cry", f"err{number}"])
        for text, kind in ((f"out{number}", out), (f"err{number}", err)):
            if kind == "discard":
                assert text not in runtime.text()
            else:
                name = rf"DEBUG io{number}:1.0.0: " if kind == "pipe" else ""
                runtime.wait_log(rf"^(?:\S+ )?{name}{text}$")
                assert len(re.findall(text, runtime.text())) == 1


def test_inherit_is_a_pipe_too(runtime: RuntimeProcess, payload: Path) -> None:
    """It is never the runtime's terminal or file, which a container could read or write."""
    io = {"stdout": "inherit", "stderr": "inherit"}
    run_new(runtime, payload, "self", io=io)
    said = runtime.wait_log(r'^\{"do": "self", .*"fds": (\{[^}]*\})')
    assert json.loads(said[1]) == {"0": "char", "1": "pipe", "2": "pipe"}


def test_names_of_sockets_are_used_unchanged(runtime: RuntimeProcess, payload: Path) -> None:
    names = ("b c", "A.b-c", "..x", "ä")
    sockets = {name: {"type": "stream", "mode": 0o600} for name in names}
    said = run_new(runtime, payload, "self ; socket 3", sockets=sockets)
    numbered = sorted(names, key=lambda name: name)
    expected = {f"NORTHSTAR_SOCKET_{name}={3 + at}" for at, name in enumerate(numbered)}
    found = {e.encode("latin-1").decode() for e in said.of("self")["env"] if "SOCKET" in e}
    assert found == expected


@pytest.mark.vm
def test_persistent_data_may_be_executed_but_gains_nothing(
    runtime: RuntimeProcess, payload: Path
) -> None:
    container = install(runtime, payload, mounts={**PROC, "/data": {"type": "persist"}})
    run(runtime, container, "write /data/program x")
    program = runtime.data_dir / "app" / "program"
    program.write_bytes(payload.read_bytes())
    program.chmod(0o6755)
    os.mknod(runtime.data_dir / "app" / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    said = run(runtime, container, "read /data/zero ; exec /data/program self")
    assert said.of("self")["uids"] == [1000] * 3
    assert said.errno("read", "/data/zero") > 0


@pytest.mark.parametrize("policy", ["fifo", "round_robin"])
def test_real_time_needs_a_budget(runtime: RuntimeProcess, payload: Path, policy: str) -> None:
    if not any((root / "cpu.rt_runtime_us").exists() for root in host.cgroup_roots()):
        pytest.skip(NO_BUDGETS)
    sched = {"policy": {policy: {"priority": 7}}}
    poor = install(runtime, payload, "poor", sched=sched)
    with runtime.client() as client:
        answer = str(refused(lambda: client.start(poor)))
    assert f"scheduling policy {policy}" in answer
    assert "cgroups.cpu.realtime_runtime" in answer
    rich = install(
        runtime, payload, "rich", sched=sched, cgroups={"cpu": {"realtime_runtime": 5000}}
    )
    said = run(runtime, rich, "self")
    assert (said.of("self")["policy"], said.of("self")["priority"]) == (
        {"fifo": 1, "round_robin": 2}[policy],
        7,
    )
    assert said.status == OK


@pytest.mark.vm
def test_real_time_with_a_budget(runtime: RuntimeProcess, payload: Path) -> None:
    if any((root / "cpu.rt_runtime_us").exists() for root in host.cgroup_roots()):
        return  # the test above
    for policy, number in (("fifo", 1), ("round_robin", 2)):
        sched = {"policy": {policy: {"priority": 7}}}
        me = run_new(runtime, payload, "self", name=policy, sched=sched).of("self")
        assert (me["policy"], me["priority"]) == (number, 7)


@pytest.mark.parametrize("mask", ["000", "077"])
def test_modes_of_the_runtimes_directories(make_runtime: Any, mask: str) -> None:
    """All users may reach the sockets; only root may reach the data of containers."""
    wrap = ("/bin/sh", "-c", f'umask {mask}; exec "$0" "$@"')
    runtime = make_runtime(wrap=wrap)
    own = (runtime.run_dir, runtime.data_dir, runtime.socket_dir)
    assert [stat.S_IMODE(path.stat().st_mode) for path in own] == [0o755, 0o700, 0o755]
    runtime.stop()
    runtime.data_dir.chmod(0o711)
    runtime.start()
    assert stat.S_IMODE(runtime.data_dir.stat().st_mode) == 0o711  # an administrator's choice
