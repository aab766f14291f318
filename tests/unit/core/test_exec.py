"""Which requests to execute a program are refused."""

from __future__ import annotations

import signal

import pytest

from northstar import core
from northstar.api import RefusedError, error
from northstar.core import events
from northstar.manifest.bounds import INIT_MAX
from northstar.model import Container, Exited
from tests.unit.core.worlds import APP, LIB, NEWER, NOTIFY, OTHER, World, supervised, world

NOT_STARTED = error.StopContainerNotStarted(APP)


def refusal(there: World) -> error.Error | None:
    """Return the refusal of an exec in APP; None if it is allowed."""
    try:
        assert core.refuse_exec(there.state, APP) is there.entry(APP)
    except RefusedError as refused:
        return refused.error
    return None


def test_it_is_allowed_while_the_payload_runs() -> None:
    there = world()
    assert refusal(there) == NOT_STARTED
    there.launch(APP)
    assert refusal(there) == NOT_STARTED, "it is starting"
    there.also(events.Executed(APP, 42))
    assert refusal(there) is None
    there.also(events.KillRequested(APP, signal.SIGTERM))
    assert there.entry(APP).state is core.ContainerState.STOPPING
    assert refusal(there) is None
    there.also(events.ProcessExited(APP, Exited(0)))
    assert refusal(there) == NOT_STARTED, "it is being cleaned up"
    there.also(events.Released(APP))
    assert refusal(there) == NOT_STARTED


def test_it_is_allowed_before_the_container_is_ready() -> None:
    there = supervised(NOTIFY).run(APP)
    assert there.entry(APP).state is core.ContainerState.RUNNING
    assert refusal(there) is None


def test_it_is_refused_in_the_shutdown() -> None:
    there = world().run(APP)
    there.also(events.ShutdownBegan())
    assert refusal(there) == error.Unexpected("the runtime is shutting down")


@pytest.mark.parametrize("container", [LIB, NEWER])
def test_other_versions_and_resources_are_not_started(container: Container) -> None:
    there = world().run(APP)
    with pytest.raises(RefusedError) as caught:
        core.refuse_exec(there.state, container)
    assert caught.value.error == error.StopContainerNotStarted(container)


def test_an_unknown_container() -> None:
    with pytest.raises(RefusedError) as caught:
        core.refuse_exec(World().state, OTHER)
    assert caught.value.error == error.InvalidContainer(OTHER)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ([], "the command is empty"),
        ([""], "the command is empty"),
        (["", "x"], "the command is empty"),
        (["/" * (INIT_MAX + 1)], "is too long"),
    ],
)
def test_invalid_commands(command: list[str], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        core.refuse_exec_command(command)


def test_valid_commands() -> None:
    core.refuse_exec_command(["/" * INIT_MAX])
    core.refuse_exec_command(["/bin/sh", "", "x"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NORTHSTAR_NAME", "NORTHSTAR_NAME is reserved"),
        ("NORTHSTAR_CONSOLE", "NORTHSTAR_CONSOLE is reserved"),
        ("", "'' is no name of a variable"),
        ("A=B", "'A=B' is no name of a variable"),
    ],
)
def test_invalid_environments(name: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        core.refuse_environment({"A": "1", name: "2"})
