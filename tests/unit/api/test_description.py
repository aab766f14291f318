"""Every message, error and field of the protocol is described, and so is every value of an enum."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from northstar.api import error, message, notification, request, response, status
from northstar.api.description import describe, parts, wire_names
from northstar.api.shape import Exit, Record, Signal

PARTS = [pytest.param(kind, id=f"{kind.__module__}.{kind.__name__}") for kind in parts()]


@pytest.mark.parametrize("kind", PARTS)
def test_it_and_each_field_is_described(kind: type) -> None:
    text, fields = describe(kind)
    assert text[0].isupper()
    assert text.endswith((".", "?"))
    assert [*fields] == [*wire_names(kind).values()]
    for field in fields.values():
        assert field.endswith(".")
        assert "\n" not in field


def test_all_are_found() -> None:
    found = set(parts())
    assert {message.Features, status.Wanted, status.ContainerState, status.Status} <= found
    for union in (request.Request, response.Response, notification.Notification, error.Error):
        assert set(get_args(union)) <= found
    assert {message.Connect, message.ConnectAck, message.ConnectNack} <= found
    # Classes that are only used inside of others.
    assert {response.ContainerData, response.Process, response.Failed, Exit, Signal} <= found
    assert response.TokenResult in found
    assert notification.Memory in found


def test_names_are_those_on_the_wire() -> None:
    assert describe(response.Process).fields["uptime"] == "nanoseconds since the start."
    assert [*describe(response.TokenResult).fields] == ["Ok", "Invalid", "Expired", "Future"]
    assert describe(request.Kill).text == "Send a signal to all processes of a container."


def test_an_undescribed_field_is_missing() -> None:
    class Ping(Record, frozen=True):
        """A ping.

        Attributes:
            size: its length
                in bytes.
        """

        size: int
        count: int

    assert describe(Ping) == ("A ping.", {"size": "its length in bytes."})
    assert [*wire_names(Ping)] == ["size", "count"]


def test_the_codec_does_not_load_descriptions() -> None:
    program = "import sys, northstar.api, northstar.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert b"northstar.api.codec" in done.stdout.split()
    assert b"northstar.api.description" not in done.stdout.split()
