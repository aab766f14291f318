"""The sentences that nstar makes of refusals, which it asks the runtime about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from northstar.cli.common import invoke
from northstar.cli.nstar_commands import nstar
from tests.unit.client.peer import Peer, Wire

APP = "myapp:1.0.0"
PROCESS = {"pid": 4711, "uptime": 1, "statistics": {}}
DENIED = {"permission_denied": "list"}


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run nstar against a runtime that expects exactly these requests and sends these answers."""

    def run(*arguments: str, talk: tuple[Any, ...], subscribe: bool = False) -> Done:
        def script(wire: Wire) -> None:
            wire.greet(subscribe)
            for request, answer in talk:
                wire.answer(request, {"response": answer})
            wire.expect_end()

        for old in tmp_path.iterdir():
            old.unlink()
        with Peer(tmp_path, script) as peer:
            code = invoke(nstar, ["-u", peer.url, *arguments], "nstar")
        return Done(code, *capfd.readouterr())

    return run


def listing(*containers: str) -> Any:
    return ("list", {"list": list(containers)})


def inspected(container: str, *, init: str | None = "/x", **changes: Any) -> Any:
    name, version = container.split(":")
    manifest: dict[str, Any] = {"name": name, "version": version, **changes.pop("manifest", {})}
    if init is not None:
        manifest["init"] = init
    data = {"repository": "r", "mounted": False, "process": None, **changes}
    answer = {"ok": {"container": container, "data": {"manifest": manifest, **data}}}
    return ({"inspect": {"container": container}}, {"inspect": answer})


def start(container: str = APP) -> dict[str, Any]:
    return {"start": {"container": container, "init": None, "arguments": [], "environment": {}}}


def error(request: str, kind: str, container: str = APP, named: str = APP, **members: Any) -> Any:
    answer = {"container": named, "error": {kind: {"container": container, **members}}}
    return {request: {"error": answer}}


def invalid(request: str, container: str = APP) -> Any:
    return error(request, "invalid_container", container, container)


def uninstall(container: str = APP) -> Any:
    return {"uninstall": {"container": container, "wipe": False}}


@pytest.mark.parametrize(
    ("installed", "message", "hint"),
    [
        (
            ("myapp:1.0.0", "myapp:1.1.0"),
            "myapp:9.9.9 is not installed; installed: 1.0.0, 1.1.0",
            "name one of these versions",
        ),
        (("my-app:1.0.0",), "myapp:9.9.9 is not installed", "did you mean my-app?"),
        (("other:1.0.0",), "myapp:9.9.9 is not installed", "nstar list shows what is installed"),
        ((), "myapp:9.9.9 is not installed", "nothing is installed: begin with nstar install"),
    ],
)
def test_an_unknown_version(run: Run, installed: tuple[str, ...], message: str, hint: str) -> None:
    unknown = "myapp:9.9.9"
    talk = ((start(unknown), invalid("start", unknown)), listing(*installed))
    done = run("start", unknown, talk=talk)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {message}\nhint: {hint}")


def test_an_unknown_name(run: Run) -> None:
    done = run("start", "myap", talk=(listing("myapp:1.0.0"),))
    assert done.err == "error: no container myap is installed\nhint: did you mean myapp?\n"
    done = run("start", "myap", talk=(listing(),))
    assert "hint: nothing is installed: begin with nstar install FILE REPOSITORY" in done.err


def test_the_error_stays_without_the_permission_to_ask(run: Run) -> None:
    talk = ((start(), invalid("start")), ("list", DENIED))
    done = run("start", APP, talk=talk)
    assert done == (1, "", "error: myapp:1.0.0 is not installed, or is mounted already\n")


def test_with_json_nothing_more_is_asked(run: Run) -> None:
    done = run("-j", "start", APP, talk=((start(), invalid("start")),))
    assert done.code == 1
    assert done.err == "error: myapp:1.0.0 is not installed, or is mounted already\n"
    assert len(done.out.splitlines()) == 4


def test_uninstall_of_a_running_app(run: Run) -> None:
    busy = error("uninstall", "umount_busy")
    running = inspected(APP, process=PROCESS, mounted=True)
    talk = (inspected(APP), (uninstall(), busy), running, listing(APP))
    done = run("uninstall", APP, talk=talk)
    assert done == (
        1,
        "",
        "error: myapp:1.0.0 is running\nhint: stop it first (nstar stop myapp)\n",
    )


def test_uninstall_of_a_resource_in_use(run: Run) -> None:
    lib, need = "lib:1.0.0", {"mounts": {"/lib": {"type": "resource", "name": "lib"}}}
    need["mounts"]["/lib"] |= {"version": "^1", "dir": "/"}
    busy = error("uninstall", "umount_busy", APP, lib)
    talk = (
        inspected(lib, init=None),
        listing(lib, APP),
        inspected(lib, init=None),
        inspected(APP, manifest=need),
        (uninstall(lib), busy),
        inspected(APP, process=PROCESS, mounted=True),
        listing(lib, APP, "myapp:2.0.0"),
    )
    done = run("uninstall", lib, talk=talk)
    assert done.err == (
        "warning: myapp:1.0.0 needs lib:1.0.0, and cannot start without it\n"
        "error: lib:1.0.0 is used by myapp:1.0.0, which is running\n"
        "hint: stop it first (nstar stop myapp:1.0.0)\n"
    )


@pytest.mark.parametrize(
    ("requirement", "others", "warned"),
    [("^1", (), True), ("*", (), True), ("^2", (), False), ("^1", ("lib:1.1.0",), False)],
)
def test_who_needs_a_resource(
    run: Run, requirement: str, others: tuple[str, ...], warned: bool
) -> None:
    lib = "lib:1.0.0"
    mount = {"type": "resource", "name": "lib", "version": requirement, "dir": "/"}
    talk = (
        inspected(lib, init=None),
        listing(lib, *others, APP),
        *(inspected(one, init=None) for one in (lib, *others)),
        inspected(APP, manifest={"mounts": {"/lib": mount}}),
        (uninstall(lib), {"uninstall": {"ok": {"container": lib}}}),
    )
    done = run("uninstall", lib, talk=talk)
    assert done.out == "uninstalled lib:1.0.0\n"
    assert done.err.startswith("warning: myapp:1.0.0 needs lib:1.0.0") is warned


def test_uninstall_of_an_app_asks_no_more(run: Run) -> None:
    ok = {"uninstall": {"ok": {"container": APP}}}
    done = run("uninstall", APP, talk=(inspected(APP), (uninstall(), ok)))
    assert done == (0, "uninstalled myapp:1.0.0\n", "")
    wipe = {"uninstall": {"container": APP, "wipe": True}}
    done = run("uninstall", "--wipe", APP, talk=(inspected(APP), (wipe, ok)))
    assert done == (0, "uninstalled myapp:1.0.0\n", "")
    # Without the permission to inspect, there is no warning.
    denied = ({"inspect": {"container": APP}}, {"permission_denied": "list"})
    done = run("uninstall", APP, talk=(denied, (uninstall(), ok)))
    assert done == (0, "uninstalled myapp:1.0.0\n", "")


def test_umount(run: Run) -> None:
    request = {"umount": {"containers": [APP]}}
    busy = {"umount": [{"error": {"container": APP, "error": {"umount_busy": {"container": APP}}}}]}
    done = run("umount", APP, talk=((request, busy), inspected(APP), listing(APP)))
    assert done.err == (
        "error: myapp:1.0.0 is not mounted\nhint: nstar list shows what is mounted\n"
    )
    running = inspected(APP, process=PROCESS, mounted=True)
    done = run("umount", APP, talk=((request, busy), running, listing(APP)))
    assert done.err == "error: myapp:1.0.0 is running\nhint: stop it first (nstar stop myapp)\n"
    starting = inspected(APP, mounted=True)
    done = run("umount", APP, talk=((request, busy), starting, listing(APP)))
    assert "error: myapp:1.0.0 is in use\nhint: try again" in done.err


def test_mount_twice(run: Run) -> None:
    request = {"mount": {"containers": [APP]}}
    failed = {"error": {"container": APP, "error": {"invalid_container": {"container": APP}}}}
    done = run("mount", APP, talk=((request, {"mount": [failed]}), listing(APP)))
    assert done.err.startswith("error: myapp:1.0.0 is mounted already\nhint: ")


@pytest.mark.parametrize(
    ("kind", "members", "asked", "text"),
    [
        (
            "start_container_started",
            {},
            (listing(APP),),
            "myapp:1.0.0 is running already\nhint: nstar restart myapp starts it again\n",
        ),
        (
            "start_container_started",
            {"container": "myapp:2.0.0"},
            (listing(APP, "myapp:2.0.0"),),
            (
                "myapp:2.0.0 is running, and only one version of myapp can\n"
                "hint: stop it first (nstar stop myapp:2.0.0)\n"
            ),
        ),
        (
            "start_container_resource",
            {},
            (),
            (
                "myapp:1.0.0 is a resource container: it has no init to start\n"
                "hint: start an app that mounts it\n"
            ),
        ),
        (
            "start_container_missing_resource",
            {"resource": "lib", "version": "^2"},
            (listing(APP, "lib:1.0.0"),),
            (
                "myapp:1.0.0 needs the resource lib (^2), which is not installed or lacks the "
                "directory; installed: 1.0.0\nhint: install a version that matches\n"
            ),
        ),
        (
            "start_container_missing_resource",
            {"resource": "lib", "version": "^2"},
            (listing(APP),),
            (
                "myapp:1.0.0 needs the resource lib (^2), which is not installed or lacks the "
                "directory\nhint: install it first: nstar install FILE REPOSITORY\n"
            ),
        ),
        (
            "start_container_failed",
            {"error": "cannot execute /x: No such file or directory (ENOENT)"},
            (),
            (
                "myapp:1.0.0 could not be started: cannot execute /x: No such file or directory "
                "(ENOENT)\nhint: is the program in the package, with its interpreter and its"
            ),
        ),
        (
            "start_container_failed",
            {"error": "cannot do it; do something else"},
            (),
            "myapp:1.0.0 could not be started: cannot do it; do something else\n",
        ),
    ],
)
def test_a_start(run: Run, kind: str, members: dict[str, Any], asked: Any, text: str) -> None:
    container = members.pop("container", APP) if "container" in members else APP
    refusal = error("start", kind, container, **members)
    done = run("start", APP, talk=((start(), refusal), *asked))
    assert done.err.startswith(f"error: {text}")
    assert done.err.count("\n") <= 2


@pytest.mark.parametrize(
    ("known", "hint"),
    [
        (["apps", "mem"], "did you mean apps?"),
        (["mem", "system"], "there is mem, system"),
        ([], "add [repositories.NAME] to the runtime's configuration"),
    ],
)
def test_an_unknown_repository(
    run: Run, tmp_path_factory: pytest.TempPathFactory, known: list[str], hint: str
) -> None:
    package = tmp_path_factory.mktemp("package") / "a.npk"
    package.write_bytes(b"")
    request = {"install": {"repository": "app", "size": 0}}
    refusal = {"install": {"error": {"error": {"invalid_repository": {"repository": "app"}}}}}
    talk = ((request, refusal), ("repositories", {"repositories": known}))
    done = run("install", str(package), "app", talk=talk)
    assert done == (1, "", f"error: there is no repository 'app'\nhint: {hint}\n")


def test_a_package_has_the_name_that_the_user_gave(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = tmp_path_factory.mktemp("package") / "a.npk"
    package.write_bytes(b"")
    request = {"install": {"repository": "r", "size": 0}}
    text = "the package: it is not a package; copy it again"
    refusal = {"install": {"error": {"error": {"unexpected": {"error": text}}}}}
    done = run("install", str(package), "r", talk=((request, refusal),))
    assert done == (1, "", f"error: {package}: it is not a package; copy it again\n")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("log", "logs"), ("ps", "list"), ("rm", "uninstall"), ("install2", "install"), ("stat", None)],
)
def test_an_unknown_command(
    word: str, meant: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert invoke(nstar, [word], "nstar") == 2
    err = capfd.readouterr().err
    assert f"Error: No such command {word!r}." in err
    if meant is not None:
        assert err.endswith(f"Did you mean {meant!r}?\n")


def test_an_unknown_option(capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke(nstar, ["uninstall", "--wip", "a"], "nstar") == 2
    assert "No such option '--wip'. Did you mean '--wipe'?" in capfd.readouterr().err
