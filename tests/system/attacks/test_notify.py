"""Attacks by the notify socket: on its file, for another container, on the reading runtime."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from northstar.linux import sysctl
from tests.system.attacks.attacker import NEVER, Power, Victim, assault, refusals
from tests.system.attacks.test_peer import NO_HANDLE
from tests.system.containers import exit_of, install, run, wait_ready

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

SERVICE: dict[str, Any] = {"service": {"notify": "/run/notify"}}


def messages(victim: Victim, container: str) -> list[str]:
    """Return the messages that the runtime has received from a container."""
    pattern = rf"DEBUG runtime: {re.escape(container)} notifies: (.*)$"
    return re.findall(pattern, victim.runtime.text(), re.MULTILINE)


def test_the_socket_cannot_be_changed_or_replaced(
    victim: Victim, attack: Path, power: Power
) -> None:
    said = assault(victim, attack, power, "replace /run/notify ; notify-open - ; notify READY=1",
                   **SERVICE)  # fmt: skip
    found = refusals(said, "replace")
    assert len(found) == 19
    assert set(found.values()) <= {*NEVER, errno.EXDEV, errno.EBUSY, errno.ENOENT, errno.EEXIST}
    # The names that it wanted did not exist: these reach the file system.
    assert {found[what] for what in ("bind", "unlink", "mkdir", "open")} <= NEVER
    assert said.of("notify", "READY=1")["result"] > 0
    assert messages(victim, "attacker:1.0.0") == ["READY=1"]


def test_privileges_of_the_owner_do_not_help(victim: Victim, attack: Path) -> None:
    """The file belongs to root. The mount is read-only for user 0 with these capabilities too."""
    power = Power("root", ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETGID",
                           "CAP_SETUID"), generous=True, before="become 0 0 ; ")  # fmt: skip
    said = assault(victim, attack, power, "replace /run/notify", **SERVICE)
    found = refusals(said, "replace")
    assert {found[what] for what in ("bind", "unlink", "mkdir", "open", "chmod", "chown")} == {
        errno.EROFS
    }


def test_speaking_for_another_container(victim: Victim, attack: Path, power: Power) -> None:
    runtime = victim.runtime
    other = install(runtime, attack, "other", args="ready ; pause", **SERVICE)
    with runtime.client(subscribe=True) as client:
        client.start(other)
        wait_ready(runtime, other)
        top = runtime.run_dir / "notify"
        assert (top / other / "socket").is_socket()
        paths = (
            f"{top}/{other}/socket",
            f"@{top}/{other}/socket",
            f"/run/notify/../{other}/socket",
            f"/proc/1/root{top}/{other}/socket",
            f"/proc/self/cwd/run/notify/../{other}/socket",
            f"/proc/{os.getpid()}/root{top}/{other}/socket",
            *(f"/proc/{pid}/fd/{fd}/socket" for pid in (1, runtime.pid) for fd in range(20)),
            *(f"@/proc/self/fd/{fd}/socket" for fd in range(20)),
        )
        words = " ; ".join(f"notify-open {path}" for path in paths)
        said = assault(victim, attack, power, f"{words} ; notify-open - ; notify STATUS=own",
                       **SERVICE)  # fmt: skip
        opened = [line["on"] for line in said if line["do"] == "notify-open"]
        assert opened == [*paths, "-"]
        reached = [line["on"] for line in said if line["do"] == "notify-open" if line["errno"] == 0]
        assert reached == ["-"]
        assert messages(victim, other) == []
        assert messages(victim, "attacker:1.0.0") == ["STATUS=own"]
        client.kill(other, 9)
        exit_of(client, other)


def test_the_socket_gives_no_handle_of_the_runtime(victim: Victim, attack: Path) -> None:
    """A socket has a peer process only after listen(2) or socketpair(2): unix(7), SO_PEERCRED."""
    container = install(victim.runtime, attack, "attacker", **SERVICE)
    said = run(victim.runtime, container, "notify-open - ; peer 3")
    assert said.of("notify-open", "-")["result"] == 3
    peer = said.of("peer", "3")
    assert peer["result"] < 0
    assert peer["errno"] in NO_HANDLE
    assert peer["pid"] == 0


def test_descriptors_in_messages(victim: Victim, attack: Path) -> None:
    """The kernel closes them: the runtime receives without room for descriptors."""
    runtime = victim.runtime
    container = install(runtime, attack, "attacker", **SERVICE)
    with runtime.client(subscribe=True) as client:
        client.start(container, arguments=("ready", ";", "pause"))
        wait_ready(runtime, container)
        before = runtime.snapshot().descriptors
        client.kill(container, 9)
        exit_of(client, container)
        runtime.wait_log("Container attacker:1.0.0 exited")
        since = len(runtime.text())
        words = "notify-open - ; rights 3 4 ; notify READY=1 ; ready ; pause"
        client.start(container, arguments=words.split())
        wait_ready(runtime, container, since=since)
        runtime.wait_log("attacker:1.0.0 notifies: READY=1", since=since)
        assert runtime.snapshot().descriptors == before
        (sent,) = re.findall(r'"do": "rights".*', runtime.text()[since:])
        assert json.loads("{" + sent)["result"] == 1
        client.kill(container, 9)
        exit_of(client, container)


def test_rubbish_and_long_messages(victim: Victim, attack: Path, power: Power) -> None:
    words = (
        "notify-open - ; notify-rubbish 60 ; notify-size READY=1 100000 ; "
        "notify-flood 20000 EXTEND_TIMEOUT_USEC=18446744073709551615"
    )
    said = assault(victim, attack, power, words, **SERVICE)
    assert said.of("notify-size", "100000")["result"] == 100_000
    text = victim.runtime.text()
    assert text.count("ignoring notify messages of more than 4096 bytes") == 1
    assert "Traceback" not in text


def test_a_short_watchdog_does_not_lift_the_limit(victim: Victim, attack: Path) -> None:
    """Before a missed ping the queue is read: a flood of pings must not make that endless."""
    runtime = victim.runtime
    service = {**SERVICE["service"], "watchdog": "1ms"}
    words = "notify-open - ; notify-flood 0 WATCHDOG=1"
    container = install(runtime, attack, "attacker", args=words, service=service)
    begun = time.monotonic()
    with runtime.client() as client:
        client.start(container)
    runtime.wait_log("State of attacker:1.0.0: failed .watchdog")
    most = 2 * 100 * (time.monotonic() - begun + 1) + 4 * (sysctl.max_dgram_qlen() + 1)
    assert len(messages(victim, container)) <= most
