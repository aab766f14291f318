"""Key lists of repositories: rotation, what they refuse, and the state file that keeps them."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import npk
from northstar.api import RefusedError
from northstar.client import blocking
from northstar.model import NorthstarError
from northstar.npk import keylist
from northstar.npk.keylist import KeyList, ListedKey, Use
from tests.system.faults.intercept import Call, Interceptor
from tests.system.faults.killing import CALLS, is_log
from tests.system.harness import NO_KEY, RuntimeProcess, manifest, pack

pytestmark = pytest.mark.root

OLD, NEW, OTHER = (bytes([number]) * 32 for number in (1, 2, 3))
"""Seeds of keys."""

PERMISSIONS = '["full", "update"]'


def public(seed: bytes) -> bytes:
    return npk.key.public_key(seed)


def key_id(seed: bytes) -> str:
    return keylist.key_id(public(seed))


def made(version: int, *keys: tuple[bytes, Use], by: tuple[bytes, ...] = ()) -> KeyList:
    value = keylist.create(version, [ListedKey(public(seed), use) for seed, use in keys])
    for seed in by:
        value = keylist.sign(value, seed)
    return value


def text(value: KeyList) -> str:
    return keylist.render(value).decode()


I, L = Use.INSTALL, Use.LOAD  # noqa: E741
FIRST = made(1, (OLD, I))
BOTH = made(2, (OLD, I), (NEW, I), by=(OLD,))
RETIRED = made(3, (OLD, L), (NEW, I), by=(NEW,))
REMOVED = made(4, (NEW, I), by=(NEW,))


class Keyed:
    """A runtime whose repository `fs` has a key list."""

    def __init__(
        self, make_runtime: Callable[..., Any], store: Path, directory: Path, **options: Any
    ) -> None:
        self.anchor = directory / "keys.yaml"
        self.store = store
        self._make = make_runtime
        self._directory = directory
        self.anchor.write_bytes(keylist.render(FIRST))
        self.runtime = self.make(**options)

    def make(self, **options: Any) -> RuntimeProcess:
        table = f'type = {{ fs = {{ dir = "{self.store}" }} }}\nkeys = "{self.anchor}"'
        table += f'\nverity = "full"\n{NO_KEY}'
        runtime: RuntimeProcess = self._make(
            repositories={"fs": table, "mem": f'type = "mem"\n{NO_KEY}'},
            permissions=PERMISSIONS,
            **options,
        )
        return runtime

    @property
    def state(self) -> Path:
        return self.runtime.data_dir / ".northstar-state:" / "state.json"

    def signed(self, name: str, seed: bytes) -> Path:
        return pack(self._directory, manifest(name), {"file": "x"}, key=seed)

    def version(self) -> int:
        with self.runtime.client() as client:
            return client.keys("fs").version

    def replace(self, value: KeyList) -> None:
        with self.runtime.client() as client:
            client.keys("fs", text(value))

    def restart(self) -> None:
        self.runtime.stop()
        self.runtime.start()


@pytest.fixture
def keyed(make_runtime: Callable[..., Any], store: Path, tmp_path: Path) -> Keyed:
    return Keyed(make_runtime, store, tmp_path)


def refused(client: blocking.Client, *arguments: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        client.keys(*arguments)
    return str(caught.value)


def names(client: blocking.Client) -> list[str]:
    return [container.name for container in client.list()]


def test_a_rotation(keyed: Keyed) -> None:
    old, other, new = (
        keyed.signed("old", OLD),
        keyed.signed("other", OTHER),
        keyed.signed("new", NEW),
    )
    with keyed.runtime.client() as client:
        client.install(old, "fs")
        for package in (other, new):
            with pytest.raises(RefusedError, match="the signature does not match the key"):
                client.install(package, "fs")
        found = client.keys("fs", text(BOTH))
        assert [(key.id, key.use.value) for key in found.keys] == [
            (key_id(OLD), "install"),
            (key_id(NEW), "install"),
        ]
        client.install(new, "fs")
        with pytest.raises(RefusedError, match="any of the 2 keys"):
            client.install(other, "fs")
        client.keys("fs", text(RETIRED))
        late = keyed.signed("late", OLD)
        with pytest.raises(RefusedError, match="the signature does not match the key"):
            client.install(late, "fs")
    # A retired key still verifies what is stored.
    keyed.restart()
    with keyed.runtime.client() as client:
        assert client.keys("fs").version == 3
        assert names(client) == ["new", "old"]
        lost = refused(client, "fs", text(REMOVED))
        assert lost == (
            f"old:1.0.0 is signed by {key_id(OLD)} only, which version 4 does not have; keep that "
            "key with the use `load`, or uninstall the package before"
        )
        assert client.keys("fs").version == 3
        client.uninstall("old")
        assert client.keys("fs", text(REMOVED)).version == 4
    keyed.runtime.kill()
    keyed.runtime.start()
    assert keyed.version() == 4
    shutil.copy(late, keyed.store)
    keyed.restart()
    keyed.runtime.wait_log(r"WARN\w* .*late-1\.0\.0\.npk")
    with keyed.runtime.client() as client:
        assert names(client) == ["new"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (FIRST, "a list of version 1 cannot follow version 1: version 2 must come next"),
        (made(3, (OLD, I), by=(OLD,)), "version 2 must come next"),
        (made(2, (OLD, I)), "no valid signature by an install key of the current list"),
        (made(2, (OLD, I), by=(OTHER,)), "no valid signature by an install key of the current"),
        (made(2, (NEW, I), by=(OLD,)), "no valid signature by an install key of the new list"),
        (made(2, (NEW, I), by=(NEW,)), "no valid signature by an install key of the current list"),
    ],
)
def test_a_list_that_may_not_follow(keyed: Keyed, value: KeyList, reason: str) -> None:
    with keyed.runtime.client() as client:
        assert reason in refused(client, "fs", text(value))
        assert client.keys("fs").version == 1
    assert not keyed.state.exists()


def test_a_replay_is_refused(keyed: Keyed) -> None:
    keyed.replace(BOTH)
    keyed.replace(RETIRED)
    with keyed.runtime.client() as client:
        assert "version 4 must come next" in refused(client, "fs", text(BOTH))


def test_what_has_no_list(keyed: Keyed) -> None:
    with keyed.runtime.client() as client:
        assert refused(client, "mem") == (
            "the repository mem has no key list: its configuration has no `keys`; add it, with a "
            "list that sextant key-list made"
        )
        assert "nothing" in refused(client, "nothing")
        assert "two documents" in refused(client, "fs", "")
        assert "at most 16384 bytes" in refused(client, "fs", "x" * 20000)


def test_without_the_permission(keyed: Keyed) -> None:
    keyed.runtime.stop()
    text = keyed.runtime.configuration.read_text()
    keyed.runtime.configuration.write_text(text.replace(PERMISSIONS, '"full"'))
    keyed.runtime.start()
    done = keyed.runtime.nstar("keys", "fs", check=False)
    assert done.returncode == 1
    assert "permission" in done.stderr


def test_the_command(keyed: Keyed, tmp_path: Path) -> None:
    shown = keyed.runtime.nstar("keys", "fs")
    assert shown.stdout == f"version 1: {key_id(OLD)} install\n"
    as_json = keyed.runtime.nstar("keys", "fs", "--format", "json").stdout
    assert json.loads(as_json) == {
        "repository": "fs",
        "version": 1,
        "keys": [{"id": key_id(OLD), "use": "install"}],
    }
    new = tmp_path / "2.yaml"
    new.write_bytes(keylist.render(BOTH))
    shown = keyed.runtime.nstar("keys", "fs", str(new))
    assert shown.stdout == f"version 2: {key_id(OLD)} install, {key_id(NEW)} install\n"
    again = keyed.runtime.nstar("keys", "fs", str(new), check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("error: a list of version 2 cannot follow version 2")
    large = tmp_path / "large"
    large.write_bytes(bytes(2**20))
    assert "larger than" in keyed.runtime.nstar("keys", "fs", str(large), check=False).stderr
    missing = keyed.runtime.nstar("keys", "fs", str(tmp_path / "no"), check=False)
    assert "No such file or directory" in missing.stderr


def test_a_chain_that_is_broken_in_the_middle(keyed: Keyed) -> None:
    for value in (BOTH, RETIRED, REMOVED):
        keyed.replace(value)
    keyed.runtime.stop()
    state = json.loads(keyed.state.read_bytes())
    assert state["keys"]["fs"] == [text(BOTH), text(RETIRED), text(REMOVED)]
    state["keys"]["fs"][1] = text(made(3, (OTHER, I), by=(OTHER,)))
    keyed.state.write_text(json.dumps(state))
    keyed.runtime.start()
    keyed.runtime.wait_log(
        r"ERROR .*The key list of repository fs stays at version 2: version 3 has no valid "
    )
    assert keyed.version() == 2
    # The lists behind the break are dropped by the next change.
    keyed.replace(RETIRED)
    keyed.restart()
    assert keyed.version() == 3


def test_a_new_anchor_replaces_lists_up_to_its_version(keyed: Keyed) -> None:
    keyed.replace(BOTH)
    keyed.replace(RETIRED)
    anchor = made(2, (NEW, I), (OTHER, I))
    keyed.anchor.write_bytes(keylist.render(anchor))
    keyed.restart()
    # Version 3 is signed by a key of the new anchor.
    assert keyed.version() == 3
    keyed.anchor.write_bytes(keylist.render(made(3, (OTHER, I))))
    keyed.restart()
    assert keyed.version() == 3
    with keyed.runtime.client() as client:
        assert [key.id for key in client.keys("fs").keys] == [key_id(OTHER)]
    keyed.replace(made(4, (NEW, I), by=(OTHER, NEW)))
    keyed.restart()
    assert keyed.version() == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "state.json: No such file or directory"),
        (b"", "state.json: "),
        (b'{"format":1,"keys":{"fs"', "state.json: "),
        (b'{"format":2,"updates":{},"floors":{},"keys":{}}', "its format is 2, and not 1"),
        (b'{"format":1,"other":{}}', "state.json: "),
        (b"directory", "Is a directory"),
        (b"link", "Too many levels of symbolic links"),
    ],
    ids=["missing", "empty", "torn", "format-2", "unknown", "directory", "link"],
)
def test_a_state_file_that_cannot_be_used(keyed: Keyed, content: bytes | None, reason: str) -> None:
    keyed.replace(BOTH)
    keyed.runtime.stop()
    saved = keyed.state.read_bytes()
    keyed.state.unlink()
    if content == b"directory":
        keyed.state.mkdir()
    elif content == b"link":
        keyed.state.symlink_to("/etc/passwd")
    elif content is not None:
        keyed.state.write_bytes(content)
    since = len(keyed.runtime.text())
    keyed.runtime.start()
    if content is not None:
        keyed.runtime.wait_log(
            f"ERROR .*Cannot use the state file.*{re.escape(reason)}", since=since
        )
        bad = keyed.state.with_name("state.json.bad")
        assert os.path.lexists(bad)
        assert not keyed.state.exists()
    assert keyed.version() == 1
    keyed.replace(BOTH)
    assert keyed.state.read_bytes() == saved


def test_modes_and_what_stays(keyed: Keyed) -> None:
    keyed.replace(BOTH)
    assert keyed.state.parent.stat().st_mode & 0o7777 == 0o700
    assert keyed.state.stat().st_mode & 0o7777 == 0o600
    (keyed.state.parent / "state.json.part").write_bytes(b"left by a killed runtime")
    keyed.replace(RETIRED)
    assert os.listdir(keyed.state.parent) == ["state.json"]


def test_a_full_disk(keyed: Keyed) -> None:
    runtime = keyed.runtime
    # A file system without room, within the runtime's mount namespace.
    runtime_run(runtime, "mount", "-t", "tmpfs", "-o", "size=8k", "none", str(runtime.data_dir))
    runtime_run(runtime, "sh", "-c", f"head -c 8192 /dev/zero > {runtime.data_dir}/full")
    with runtime.client() as client:
        reason = refused(client, "fs", text(BOTH))
        assert "No space left on device" in reason
        before = runtime.snapshot()
        assert reason == refused(client, "fs", text(BOTH))
        assert client.keys("fs").version == 1
        runtime.assert_no_leak(before)
        runtime_run(runtime, "rm", f"{runtime.data_dir}/full")
        assert client.keys("fs", text(BOTH)).version == 2


def runtime_run(runtime: RuntimeProcess, *command: str) -> None:

    subprocess.run(runtime.enter(*command), check=True)


@pytest.mark.parametrize("content", [None, b"", b"x", keylist.render(FIRST)[:-30] + b"junk"])
def test_a_bad_anchor_ends_the_start(keyed: Keyed, content: bytes | None) -> None:
    keyed.runtime.stop()
    keyed.anchor.unlink()
    if content is not None:
        keyed.anchor.write_bytes(content)
    since = len(keyed.runtime.text())
    keyed.runtime.start(wait=False)
    keyed.runtime.wait_exit(code=1)
    found = keyed.runtime.text()[since:]
    assert re.match(rf"error: repositories\.fs\.keys: {re.escape(str(keyed.anchor))}", found)
    assert "\nhint: " in found
    assert "Traceback" not in found


def test_killed_before_every_call(
    make_runtime: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    """Before the answer either list may count, afterwards only the new one."""
    with Interceptor(CALLS) as interceptor:
        keyed = Keyed(
            make_runtime, store, tmp_path, wrap=interceptor.wrap, pass_fds=interceptor.pass_fds
        )
        versions = set()
        for moment in itertools.count(1):
            if moment > 1:
                shutil.rmtree(keyed.state.parent, ignore_errors=True)
                keyed.runtime.start()
            seen = 0

            def decide(call: Call, moment: int = moment) -> None:
                nonlocal seen
                seen += not is_log(call)
                if seen == moment:
                    os.kill(call.pid, signal.SIGKILL)

            answered = True
            with keyed.runtime.client() as client:
                interceptor.decide = decide
                try:
                    client.keys("fs", text(BOTH))
                except NorthstarError:
                    answered = False
                interceptor.decide = lambda _call: None
            keyed.runtime.kill()
            since = len(keyed.runtime.text())
            keyed.runtime.start()
            found = keyed.version()
            versions.add(found)
            assert found == 2 if answered else found in (1, 2), f"at call {moment}"
            assert "ERROR" not in keyed.runtime.text()[since:]
            if found == 1:
                keyed.replace(BOTH)
            assert os.listdir(keyed.state.parent) == ["state.json"]
            keyed.runtime.kill()
            if answered:
                break
        assert moment > 8
        assert versions == {1, 2}
