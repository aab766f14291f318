"""The verdict on a run that has ended: one test for each case, and the delays."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import replace

from northstar.api.status import ContainerState, Wanted
from northstar.core.values import Deferred, Entry, History
from northstar.core.verdict import End, Verdict, delay, exit_reason, recent, verdict
from northstar.manifest import Restart, RestartPolicy
from northstar.model import Exited, Signalled
from tests.unit.core.worlds import APP, NOW, SECOND, manifest

SUCCESS = End("exit 0", Exited(0))
FAILURE = End("exit 1", Exited(1))
SIGNAL = End("SIGSEGV", Signalled(11))
FAULT = End("watchdog", Exited(0), failed=True)
NOT_STARTED = End("start failed: why", failed=True)
HEARD = replace(NOT_STARTED, heard=True)
ENDS = (SUCCESS, FAILURE, SIGNAL, FAULT, NOT_STARTED, HEARD)


def entry(
    policy: str | None = "on-failure", *, critical: bool = False, up: bool = True, **restart: Any
) -> Entry:
    service = {} if policy is None else {"restart": {"policy": policy, **restart}}
    autostart = "critical" if critical else "relaxed"
    wanted = Wanted.UP if up else Wanted.DOWN
    return Entry(APP, manifest(APP, service=service, autostart=autostart), "one", 0, wanted=wanted)


def decide(one: Entry, end: End, *, shutdown: bool = False) -> Verdict:
    return verdict(one, end, NOW, shutdown=shutdown)


def states(policy: str | None, end: End) -> tuple[ContainerState, Wanted]:
    decided = decide(entry(policy), end)
    assert (decided.start is not None) is (decided.state is ContainerState.BACKOFF)
    return decided.state, decided.wanted


INSTALLED = (ContainerState.INSTALLED, Wanted.DOWN)
FAILED = (ContainerState.FAILED, Wanted.DOWN)
BACKOFF = (ContainerState.BACKOFF, Wanted.UP)


# Case 1.


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("policy", ["always", "on-failure", "never", None])
def test_1_not_wanted_or_shutdown(policy: str | None, end: End) -> None:
    for up, shutdown in ((False, False), (False, True), (True, True)):
        decided = decide(entry(policy, up=up), end, shutdown=shutdown)
        assert (decided.state, decided.wanted) == INSTALLED
        assert decided.start is None


def test_1_comes_before_a_restart_request() -> None:
    one = replace(entry(up=False), deferred=frozenset({Deferred.RESTART}))
    assert decide(one, FAILURE).state is ContainerState.INSTALLED


# Case 2: a restart request.


@pytest.mark.parametrize("end", [SUCCESS, FAILURE, SIGNAL, FAULT])
@pytest.mark.parametrize("policy", ["always", "on-failure", "never", None])
def test_2_a_restart_request_starts_at_once(policy: str | None, end: End) -> None:
    one = replace(entry(policy, critical=True), deferred=frozenset({Deferred.RESTART}))
    assert decide(one, end) == Verdict(*BACKOFF, "restart requested", NOW)


def test_2_a_failure_that_the_client_receives_is_not_repeated() -> None:
    one = replace(entry(), deferred=frozenset({Deferred.RESTART}))
    assert decide(one, HEARD).state is ContainerState.FAILED


# Case 3.


@pytest.mark.parametrize(
    ("policy", "end", "expected"),
    [
        ("never", SUCCESS, INSTALLED),
        ("never", FAILURE, FAILED),
        ("never", SIGNAL, FAILED),
        ("never", FAULT, FAILED),
        ("never", NOT_STARTED, FAILED),
        (None, SUCCESS, INSTALLED),
        (None, FAILURE, FAILED),
        (None, SIGNAL, FAILED),
        ("on-failure", SUCCESS, INSTALLED),
        ("on-failure", HEARD, FAILED),
        ("always", HEARD, FAILED),
    ],
)
def test_3_success_or_never(
    policy: str | None, end: End, expected: tuple[ContainerState, Wanted]
) -> None:
    assert states(policy, end) == expected


# Case 4.


def limited(times: tuple[int, ...], **fields: Any) -> Entry:
    one = entry(limit=2, interval="10s", **fields)
    return replace(one, history=History(recent=times))


def test_4_the_limit_is_used_up() -> None:
    decided = decide(limited((NOW - 9 * SECOND, NOW - SECOND)), FAILURE)
    assert decided == Verdict(*FAILED, "exit 1, 2 restarts within 10s")


def test_4_restarts_before_the_interval_do_not_count() -> None:
    decided = decide(limited((NOW - 10 * SECOND, NOW - SECOND)), FAILURE)
    assert decided.state is ContainerState.BACKOFF


def test_4_a_success_comes_before_it() -> None:
    decided = decide(limited((NOW - SECOND, NOW - SECOND)), SUCCESS)
    assert decided.state is ContainerState.INSTALLED


# Case 5.


@pytest.mark.parametrize(
    ("policy", "end"),
    [
        *itertools.product(["always", "on-failure"], [FAILURE, SIGNAL, FAULT, NOT_STARTED]),
        ("always", SUCCESS),
    ],
)
def test_5_back_off(policy: str, end: End) -> None:
    assert decide(entry(policy), end) == Verdict(*BACKOFF, end.reason, NOW + SECOND)


@pytest.mark.parametrize(
    ("restart", "expected"),
    [
        ({}, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]),
        ({"delay": "2s", "factor": 3, "max_delay": "1m"}, [2, 6, 18, 54, 60, 60]),
        ({"factor": 1}, [1, 1, 1, 1]),
        ({"delay": "10s", "max_delay": "10s", "factor": 10}, [10, 10, 10]),
    ],
)
def test_5_the_delays(restart: dict[str, Any], expected: list[int]) -> None:
    one = entry(**restart)
    for number, seconds in enumerate(expected):
        decided = decide(replace(one, history=History(in_a_row=number)), FAILURE)
        assert decided.start == NOW + seconds * SECOND


@given(
    first=st.integers(1, 365 * 86400 * SECOND),
    most=st.integers(1, 365 * 86400 * SECOND),
    factor=st.integers(1, 10),
    number=st.integers(0, 10**12),
)
def test_a_delay_is_exact_or_the_longest(first: int, most: int, factor: int, number: int) -> None:
    restart = Restart(RestartPolicy.ALWAYS, delay=first, factor=factor, max_delay=most)
    found = delay(restart, number)
    assert 1 <= found <= most
    if number < 64:
        assert found == min(most, first * factor**number)
    elif factor > 1:
        assert found == most


def test_only_a_container_with_a_limit_has_recent_restarts() -> None:
    one = replace(entry(), history=History(recent=(NOW,)))
    assert recent(one, NOW) == ()


# Critical containers.


@pytest.mark.parametrize(
    ("policy", "end", "expected"),
    [
        (None, SUCCESS, False),
        (None, FAILURE, True),
        (None, NOT_STARTED, True),
        (None, HEARD, False),
        ("never", SUCCESS, False),
        ("never", FAILURE, True),
        ("never", FAULT, True),
        ("on-failure", SUCCESS, False),
        ("on-failure", FAILURE, False),
        ("on-failure", HEARD, False),
        ("always", FAILURE, False),
        ("always", SUCCESS, False),
    ],
)
def test_critical_ends_the_runtime(policy: str | None, end: End, expected: bool) -> None:
    assert decide(entry(policy, critical=True), end).ends_runtime is expected
    assert not decide(entry(policy), end).ends_runtime


@pytest.mark.parametrize("critical", [True, False])
def test_critical_ends_the_runtime_at_the_limit(critical: bool) -> None:
    one = limited((NOW - SECOND, NOW - SECOND), critical=critical)
    assert decide(one, FAILURE).ends_runtime is critical


def test_a_killed_critical_container_ends_the_runtime_only_without_a_policy() -> None:
    killed = End("SIGKILL", Signalled(9))
    assert decide(entry(None, critical=True, up=False), killed).ends_runtime
    assert not decide(entry(critical=True, up=False), killed).ends_runtime


def test_a_critical_container_may_be_stopped_on_request() -> None:
    one = replace(entry(None, critical=True, up=False), deferred=frozenset({Deferred.STOP}))
    assert not decide(one, End("SIGTERM", Signalled(15))).ends_runtime


def test_a_critical_container_may_end_in_the_shutdown() -> None:
    for policy in ("never", None):
        assert not decide(entry(policy, critical=True), FAILURE, shutdown=True).ends_runtime


# Reasons.


def test_reasons() -> None:
    assert exit_reason(Exited(3), oom=False) == "exit 3"
    assert exit_reason(Signalled(11), oom=False) == "SIGSEGV"
    assert exit_reason(Signalled(9), oom=True) == "oom"


def test_the_reason_after_a_requested_end() -> None:
    assert decide(entry(up=False), SIGNAL).reason == "stopped"
