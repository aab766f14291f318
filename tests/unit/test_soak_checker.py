"""The checker of the soak accepts valid histories and refuses invalid ones."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soak import model
from soak.checker import Checker, Configuration, Violation
from soak.model import OK, Answer, Operation, Program, State, refused

CLUSTER = model.Cluster(
    ("app:1.0.0", "app:2.0.0", "plain:1.0.0", "res:1.0.0", "res:2.0.0"),
    {"app": "res"},
    frozenset({"res"}),
)
APP, APP2, PLAIN, RES, RES2 = range(5)
PAUSE = Program("pause", ("pause",))
EXIT3 = Program("exit", ("exit", "3"), frozenset({"Exit(3)"}))


class History:
    """A checker, with a method for each kind of observation."""

    def __init__(self) -> None:
        self.checker = Checker(CLUSTER)

    def sent(self, kind: str, container: int = -1, **fields: object) -> Operation:
        operation = Operation(kind, container, **fields)  # type: ignore[arg-type]
        self.checker.ask(operation)
        return operation

    def did(self, kind: str, container: int = -1, answer: Answer = OK, **fields: object) -> None:
        """One request and its answer, with no concurrent request."""
        self.checker.answer(self.sent(kind, container, **fields), answer)

    def saw(self, kind: str, container: int, status: str = "") -> None:
        self.checker.announce(kind, CLUSTER.containers[container], status)

    def installed(self, *containers: int, repository: str = "mem") -> None:
        for container in containers:
            self.did("install", container, repository=repository)
            self.saw("install", container)

    def started(self, container: int, program: Program = PAUSE) -> None:
        self.did("start", container, program=program)
        self.saw("started", container)


def no(error: str, container: int) -> Answer:
    return refused(error, CLUSTER.containers[container])


def test_a_complete_history() -> None:
    history = History()
    history.installed(APP, RES)
    history.started(APP)
    history.did("list", answer=("list", frozenset({"app:1.0.0", "res:1.0.0"})))
    history.did("inspect", APP, ("inspect", "mem", True, True))
    history.did("uninstall", RES, no("UmountBusy", APP))
    history.did("kill", APP, signal=15)
    history.saw("exit", APP, "Signalled(SIGTERM)")
    history.did("umount", RES)
    history.did("inspect", RES, ("inspect", "mem", False, False))
    for container in (APP, RES):
        history.did("uninstall", container)
        history.saw("uninstall", container)
    history.checker.settle(idle=True)


def test_either_of_two_concurrent_starts_can_succeed() -> None:
    for winner, loser in ((APP, APP2), (APP2, APP)):
        history = History()
        history.installed(APP, APP2, RES)
        sent = {c: history.sent("start", c, program=PAUSE) for c in (APP, APP2)}
        history.checker.answer(sent[loser], no("StartContainerStarted", winner))
        history.checker.answer(sent[winner], OK)
        history.saw("started", winner)
        with pytest.raises(Violation):
            history.saw("started", loser)


def test_a_refusal_because_of_a_start_that_fails() -> None:
    history = History()
    history.installed(APP, APP2, RES)
    first = history.sent("start", APP, program=PAUSE._replace(init="/nothing"))
    history.did("start", APP2, no("StartContainerStarted", APP), program=PAUSE)
    history.checker.answer(first, no("StartContainerFailed", APP))
    history.started(APP2)


def test_the_state_after_a_killed_runtime() -> None:
    history = History()
    history.installed(PLAIN)
    history.installed(APP, repository="fs")
    history.sent("install", RES, repository="fs")
    history.sent("uninstall", APP)
    history.checker.restart()
    history.did("inspect", PLAIN, no("InvalidContainer", PLAIN))
    for listed in ({"app:1.0.0"}, {"res:1.0.0"}, {"app:1.0.0", "res:1.0.0"}, set()):
        assert history.checker.possibly(
            lambda state, listed=listed: installed(state) == listed  # type: ignore[misc]
        )


def installed(state: State) -> set[str]:
    """Return the installed containers."""
    return {c for c, where in zip(CLUSTER.containers, state.where, strict=True) if where}


def exit_without_a_reason(history: History) -> None:
    history.started(APP)
    history.saw("exit", APP, "Exit(0)")


def exit_with_another_status(history: History) -> None:
    history.started(APP, EXIT3)
    history.saw("exit", APP, "Exit(4)")


def exit_twice(history: History) -> None:
    history.started(APP, EXIT3)
    history.saw("exit", APP, "Exit(3)")
    history.saw("exit", APP, "Exit(3)")


def exit_before_the_start(history: History) -> None:
    history.did("start", APP, program=EXIT3)
    history.saw("exit", APP, "Exit(3)")


def signal_without_effect_that_is_an_exit(history: History) -> None:
    history.started(APP)
    history.did("kill", APP, signal=18)
    history.saw("exit", APP, "Signalled(SIGCONT)")


def two_versions_run(history: History) -> None:
    history.started(APP)
    history.started(APP2)


def start_of_a_container_that_is_not_installed(history: History) -> None:
    history.started(PLAIN)


def start_without_its_resource(history: History) -> None:
    history.did("uninstall", RES)
    history.started(APP)


def start_refused_without_a_running_container(history: History) -> None:
    history.did("start", APP, no("StartContainerStarted", APP2), program=PAUSE)


def start_never_announced(history: History) -> None:
    history.did("start", APP, program=EXIT3)
    history.checker.settle(idle=True)


def resource_unmounted_in_use(history: History) -> None:
    history.started(APP)
    history.did("umount", RES)


def uninstalled_while_running(history: History) -> None:
    history.started(APP)
    history.did("uninstall", APP)


def installed_twice(history: History) -> None:
    history.did("install", APP, repository="mem")


def installed_in_a_repository_that_is_full(history: History) -> None:
    history.did("install", PLAIN, repository="full")


def installed_silently(history: History) -> None:
    history.did("install", PLAIN, repository="mem")
    history.did("uninstall", PLAIN)
    history.saw("uninstall", PLAIN)


def missing_in_the_list(history: History) -> None:
    history.did("list", answer=("list", frozenset({"app:1.0.0"})))


def still_mounted(history: History) -> None:
    history.did("mount", APP)
    history.did("umount", APP)
    history.did("inspect", APP, ("inspect", "mem", True, False))


def still_running(history: History) -> None:
    history.started(APP, EXIT3)
    history.saw("exit", APP, "Exit(3)")
    history.did("inspect", APP, ("inspect", "mem", True, True))


def failure_without_a_fault(history: History) -> None:
    history.did("mount", APP, refused("Unexpected"))


def state_is_left(history: History) -> None:
    history.checker.settle(idle=True)


WRONG: list[Callable[[History], None]] = [
    exit_without_a_reason,
    exit_with_another_status,
    exit_twice,
    exit_before_the_start,
    signal_without_effect_that_is_an_exit,
    two_versions_run,
    start_of_a_container_that_is_not_installed,
    start_without_its_resource,
    start_refused_without_a_running_container,
    start_never_announced,
    resource_unmounted_in_use,
    uninstalled_while_running,
    installed_twice,
    installed_in_a_repository_that_is_full,
    installed_silently,
    missing_in_the_list,
    still_mounted,
    still_running,
    failure_without_a_fault,
    state_is_left,
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
def test_an_invalid_history_is_refused(wrong: Callable[[History], None]) -> None:
    history = History()
    history.installed(APP, APP2, RES, RES2)
    history.did("uninstall", RES2)
    history.saw("uninstall", RES2)
    with pytest.raises(Violation):
        wrong(history)


def order(one: Configuration) -> tuple[str, ...]:
    """Return a sort key that is equal in every process."""
    return (*sorted(map(repr, one.pending)), str(one.state.runs), str(sorted(one.state.mounted)))


@given(seed=st.integers(0, 2**32))
def test_every_history_of_the_model_is_accepted(seed: int) -> None:
    """Histories of a runtime that takes the steps of the model in any order."""
    chance = random.Random(seed)
    checker = Checker(CLUSTER)
    truth = Configuration(State(("",) * 5), frozenset(), ())
    open_: list[Operation] = []
    for number in range(60):
        if len(open_) < 4 and chance.random() < 0.4:
            kind = chance.choice(["install", "start", "start", "kill", "uninstall", "umount"])
            operation = Operation(kind, chance.choice([APP, APP2, RES, RES2]), signal=9)
            operation.number = number
            operation.repository = chance.choice(["mem", "fs"])
            operation.program = chance.choice([PAUSE, EXIT3])
            checker.ask(operation)
            open_.append(operation)
            truth = truth._replace(pending=truth.pending | {(operation, model.BEGIN)})
            continue
        if truth.notes and chance.random() < 0.5:
            (kind, who, statuses), *rest = truth.notes
            checker.announce(kind, who, chance.choice(sorted(statuses) or [""]))
            truth = truth._replace(notes=tuple(rest))
            continue
        answered = [entry for entry in truth.pending if isinstance(entry[1], tuple)]
        if answered and chance.random() < 0.5:
            operation, answer = min(answered, key=lambda entry: entry[0].number)
            assert isinstance(answer, tuple)
            checker.answer(operation, answer)
            open_.remove(operation)
            truth = truth._replace(pending=truth.pending - {(operation, answer)})
            continue
        following = sorted(Checker(CLUSTER).following(truth), key=order)
        if following:
            truth = chance.choice(following)
