"""Attempts to impersonate another client with a token of the runtime."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from northstar.api import TokenResult
from tests.system.attacks.attacker import Victim
from tests.system.containers import install, run

pytestmark = [pytest.mark.root, pytest.mark.vm]

SHARED_RUNTIME = True

CONNECT = '{"connect":{"version":"0.9.0","subscribe_notifications":false}}'
CONSOLE = {"permissions": ["token_create", "token_verification"]}


def test_a_package_named_like_external_clients(victim: Victim, attack: Path) -> None:
    """A token of a package `extern` is no token of the external clients, who have this name."""
    runtime = victim.runtime
    attacker = install(runtime, attack, "extern", "0.0.0", console=CONSOLE)
    server = install(runtime, attack, "server", console=CONSOLE)

    def asked(container: str, request: object) -> dict[str, str]:
        line = json.dumps({"request": request}, separators=(",", ":"))
        said = run(runtime, container, ["console", CONNECT, ";", "console", line])
        answer: dict[str, str] = json.loads(said.of("console", line)["text"])["response"]
        return answer

    create = {"token_create": {"target": "server", "shared": ""}}
    forged = asked(attacker, create)["token"]
    with runtime.client() as client:
        true = base64.b64encode(client.token_create("server", b"")).decode()
        for token, result in ((true, TokenResult.OK), (forged, TokenResult.INVALID)):
            verify = {"token_verify": {"token": token, "user": "extern", "shared": ""}}
            assert asked(server, verify) == {"token_verification": result.value}
        # Conversely, it cannot use a token made for external clients.
        token = base64.b64encode(client.token_create("extern", b"")).decode()
        verify = {"token_verify": {"token": token, "user": "extern", "shared": ""}}
        assert asked(attacker, verify) == {"token_verification": "Invalid"}
    runtime.wait_log("WARN .*extern:0.0.0: its tokens are not valid")
