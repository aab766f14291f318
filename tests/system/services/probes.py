"""Containers with probes, for the tests."""

from __future__ import annotations

from typing import Any

from northstar.api import ContainerState, response
from northstar.api.status import Status
from northstar.client import blocking
from tests.system.harness import wait_until
from tests.system.services.senders import HOSTED, PYTHON

RESTART: dict[str, Any] = {"policy": "on-failure", "delay": "20ms", "max_delay": "40ms"}

TMP: dict[str, Any] = {"/tmp": {"type": "tmpfs", "size": "1MiB"}}

LISTEN = """
import socket, sys, time
kind, place = sys.argv[1:]
if kind == "tcp":
    family, address = socket.AF_INET, ("127.0.0.1", int(place))
elif kind == "tcp6":
    family, address = socket.AF_INET6, ("::1", int(place))
else:
    family, address = socket.AF_UNIX, place
kind = socket.SOCK_SEQPACKET if kind == "packets" else socket.SOCK_STREAM
with socket.socket(family, kind) as sock:
    sock.bind(address)
    sock.listen(100)
    print("listening", flush=True)
    while True:
        sock.accept()[0].close()
"""
"""A script: listens at KIND and PLACE, and accepts all connections."""


def health(probe: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a section with a probe that is repeated in short intervals, unless `fields` differ."""
    return {"probe": probe, "interval": "100ms", "timeout": "20s", **fields}


def ready(probe: dict[str, Any], timeout: str = "60s") -> dict[str, Any]:
    return {"probe": probe, "timeout": timeout}


def status(client: blocking.Client, container: str = "app") -> Status:
    (result,) = client.status(container)
    assert isinstance(result, response.StatusOk), result
    return result.status


def wait_state(client: blocking.Client, state: ContainerState, container: str = "app") -> Status:
    wait_until(lambda: status(client, container).state is state, f"{container} is {state.value}")
    return status(client, container)


def listener(kind: str, place: object, **fields: Any) -> dict[str, Any]:
    """Return the fields of a container that runs `LISTEN`, for `install_script`."""
    init, *before = PYTHON
    mounts = {**HOSTED, **TMP, **fields.pop("mounts", {})}
    return {
        "init": init,
        "args": [*before, "/script", kind, str(place)],
        "mounts": mounts,
        **fields,
    }
