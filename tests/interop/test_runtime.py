"""The same requests to Northstar 0.9.2's runtime and to ours lead to the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import inputs, sides
from bench.console import Console
from bench.sides import Side
from northstar import api
from northstar.api import error
from northstar.client import MissingFeatureError, Stopped, blocking
from northstar.model import Signalled
from tests.interop.differences import ANSWERS, comparable
from tests.interop.reference import program
from tests.system.containers import exit_of
from tests.system.harness import manifest, pack

APP, NEWER, USER, LIBRARY = "app:1.0.0", "app:2.0.0", "user:1.0.0", "lib:1.2.3"
RESOURCE = {"type": "resource", "name": "lib", "version": ">=1.0.0", "dir": "/", "options": ""}


pytestmark = pytest.mark.timeout(180)  # two runtimes, and each step waits for the previous one


class Step(NamedTuple):
    """A request, and an event to wait for.

    Attributes:
        request: its form in the message.
        data: bytes to send after it.
        exit: the container whose exit to wait for.
    """

    request: Any
    data: bytes = b""
    exit: str = ""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The packages for both sides, by container."""
    directory = tmp_path_factory.mktemp("packages")
    pause = inputs.compile_payload(directory)
    resource = {"/lib": RESOURCE}
    missing = {"/lib": {**RESOURCE, "version": ">=2.0.0"}}
    made = {
        APP: manifest("app", init="/pause", console={"permissions": ["ident"]}),
        NEWER: manifest("app", "2.0.0", init="/pause"),
        LIBRARY: manifest("lib", "1.2.3", init=None),
        USER: manifest("user", init="/pause", mounts=resource, env={"KEY": "value"}),
        "needy:1.0.0": manifest("needy", init="/pause", mounts=missing),
    }
    return {
        name: pack(directory, text, {"pause": pause}).read_bytes() for name, text in made.items()
    }


@pytest.fixture(scope="module")
def both() -> Iterator[list[Side]]:
    with sides.sides(program("runtime")) as found:
        yield found


def install(package: bytes, repository: str = "mem") -> Step:
    return Step({"install": {"repository": repository, "size": len(package)}}, package)


def start(container: str, init: str | None = None, *arguments: str, **environment: str) -> Step:
    request = {"container": container, "arguments": arguments, "environment": environment}
    return Step({"start": request if init is None else {**request, "init": init}})


def kill(container: str, signal: int, *, ends: bool = False) -> Step:
    request = {"kill": {"container": container, "signal": signal}}
    return Step(request, exit=container if ends else "")


def mount(*containers: str) -> Step:
    return Step({"mount": {"containers": containers}})


def umount(*containers: str) -> Step:
    return Step({"umount": {"containers": containers}})


def inspect(container: str) -> Step:
    return Step({"inspect": {"container": container}})


def uninstall(container: str, *, wipe: bool = False) -> Step:
    return Step({"uninstall": {"container": container, "wipe": wipe}})


# No container is killed by signal 9 here: under 0.9.2 that kills its init too, and may lose the
# status.
def script(packages: dict[str, bytes]) -> dict[str, Step]:
    """Return the steps, by description."""
    return {
        "who": Step("ident"),
        "nothing is installed": Step("list"),
        "repositories": Step("repositories"),
        **{f"install {name}": install(data) for name, data in packages.items()},
        "install twice": install(packages[APP]),
        "install twice, elsewhere": install(packages[APP], "other"),
        "install into no repository": install(packages[APP], "none"),
        "install no package": install(b"no package"),
        "all are installed": Step("list"),
        "inspect": inspect(APP),
        "inspect an unknown one": inspect("none:1.0.0"),
        "inspect a resource": inspect(LIBRARY),
        "mount two": mount(APP, LIBRARY),
        "mount twice": mount(APP),
        "mount an unknown one": mount(NEWER, "none:1.0.0"),
        "mount nothing": mount(),
        "umount nothing": umount(),
        "umount what is not mounted": umount(USER),
        "umount an unknown one": umount("none:1.0.0", LIBRARY),
        "kill what does not run": kill(APP, 15),
        "start": start(APP),
        "start twice": start(APP),
        "start another version": start(NEWER),
        "start a resource": start(LIBRARY),
        "start without its resource": start("needy:1.0.0"),
        "start an unknown one": start("none:1.0.0"),
        "start what uses a resource": start(USER),
        "inspect a running one": inspect(APP),
        "mount a running one": mount(APP),
        "umount a running one": umount(APP),
        "umount a used resource": umount(LIBRARY),
        "uninstall a running one": uninstall(APP),
        "uninstall a used resource": uninstall(LIBRARY),
        "kill an unknown one": kill("none:1.0.0", 9),
        "kill with no signal": kill(APP, 0),
        "kill with a wrong signal": kill(APP, 99),
        "kill with a negative signal": kill(APP, -1),
        "kill": kill(APP, 15, ends=True),
        "kill with another signal": kill(USER, 6, ends=True),
        "kill what has ended": kill(APP, 9),
        "start with a command": start(APP, "/pause", "one", "two", KEY="value"),
        "kill that": kill(APP, 15, ends=True),
        "start with a reserved variable": start(APP, None, NORTHSTAR_NAME="x"),
        "start a resource's program": start(LIBRARY, "/pause"),
        "kill the resource": kill(LIBRARY, 15, ends=True),
        "umount": umount(APP, USER, LIBRARY, NEWER),
        "umount twice": umount(APP),
        "mount again": mount(APP),
        "uninstall a mounted one": uninstall(APP, wipe=True),
        "uninstall twice": uninstall(APP),
        "uninstall one": uninstall(LIBRARY),
        "start without its resource now": start(USER),
        "what is left": Step("list"),
    }


def normal(answer: Any) -> Any:
    """Return an answer without parts that may differ: orders, numbers, texts of errors."""
    if isinstance(answer, dict):
        answer = {key: normal(value) for key, value in answer.items()}
        if isinstance(answer.get("process"), dict):
            assert set(answer["process"]) == {"pid", "uptime", "statistics"}
            answer["process"] = "some"
        for words in ("unexpected", "invalid_arguments"):
            if words in answer:
                answer[words] = list(answer[words])
        if "manifest" in answer:
            answer["manifest"] = comparable(answer["manifest"])
        for unordered in ("list", "repositories"):
            if unordered in answer:
                answer[unordered] = sorted(answer[unordered])
    if isinstance(answer, list):
        return [normal(value) for value in answer]
    return answer


def play(side: Side, directory: Path, steps: dict[str, Step]) -> tuple[dict[str, Any], list[Any]]:
    """Return the answer to each step, and all notifications."""
    repositories = {"mem": 'type = "mem"', "other": 'type = "mem"'}
    with (
        sides.Runtime(side, directory / side.name, repositories) as runtime,
        runtime.console(subscribe=True) as console,
    ):
        answers = {}
        for name, step in steps.items():
            answers[name] = normal(console.ask(step.request, step.data))
            if step.exit:
                console.wait_exit(step.exit)
        tokens(console)
        return answers, console.notifications


def tokens(console: Console) -> None:
    """A token depends on its runtime's secret, so only its verification is compared."""
    create = {"target": "extern", "shared": "c2hhcmVk"}
    token = console.ask({"token_create": create})["token"]
    for user, shared, result in (
        ("extern", "c2hhcmVk", "Ok"),
        ("other", "c2hhcmVk", "Invalid"),
        ("extern", "c2hhcmVu", "Invalid"),
    ):
        verify = {"token": token, "user": user, "shared": shared}
        assert console.ask({"token_verify": verify}) == {"token_verification": result}


def test_the_same_answers_and_notifications(
    tmp_path: Path, both: list[Side], packages: dict[str, bytes]
):
    steps = script(packages)
    (ours, our_events), (theirs, their_events) = (play(side, tmp_path, steps) for side in both)
    different = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    assert different == ANSWERS
    assert our_events == their_events


def test_a_missing_program(tmp_path: Path, both: list[Side], packages: dict[str, bytes]):
    """Northstar 0.9.2 answers before the execution; our runtime refuses the start."""
    steps = {"install": install(packages[APP]), "start": start(APP, "/none")}
    answers, events = play(both[0], tmp_path, steps)
    (words,) = answers["start"]["start"]["error"]["error"]
    assert words == "start_container_failed"
    assert [list(event) for event in events] == [["install"]]
    answers, events = play(both[1], tmp_path, {**steps, "start": steps["start"]._replace(exit=APP)})
    assert answers["start"] == {"start": {"ok": {"container": APP}}}
    assert [list(event) for event in events] == [["install"], ["started"], ["exit"]]


def test_our_client_with_their_runtime(
    tmp_path: Path, both: list[Side], packages: dict[str, bytes]
):
    (package := tmp_path / "app.npk").write_bytes(packages[USER])
    (library := tmp_path / "library.npk").write_bytes(packages[LIBRARY])
    with sides.Runtime(both[1], tmp_path / "reference", {"mem": 'type = "mem"'}) as runtime:
        runtime.console().close()  # the runtime listens
        with blocking.Client.connect(
            f"unix://{tmp_path}/reference/console", subscribe=True
        ) as client:
            assert str(client.install(package, "mem")) == USER
            assert str(client.install(library, "mem")) == LIBRARY
            client.start(USER)
            found = client.inspect(USER)
            assert found.mounted
            assert found.process is not None
            assert found.process.statistics["memory"]
            assert sorted(map(str, client.list())) == [LIBRARY, USER]
            with pytest.raises(api.RefusedError) as caught:
                client.start(USER)
            assert isinstance(caught.value.error, error.StartContainerStarted)
            # It has no extended connections: what needs one is refused without being sent.
            assert client.features == frozenset()
            with pytest.raises(MissingFeatureError, match='it has no feature "service"'):
                client.status(USER)
            client.kill(USER, 15)
            assert exit_of(client, USER) == Signalled(15)
            client.start(USER)
            assert client.stop(USER) == Stopped(False, Signalled(15))
