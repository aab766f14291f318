"""Addresses of the console."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.client.address import CONSOLE, Tcp, Unix, environment_socket, parse
from northstar.model import InvalidValueError


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("tcp://localhost", Tcp("localhost", 4200)),
        ("tcp://localhost/", Tcp("localhost", 4200)),
        ("tcp://10.0.0.1:1", Tcp("10.0.0.1", 1)),
        ("tcp://[::1]:65535", Tcp("::1", 65535)),
        ("tcp://[fe80::1%eth0]", Tcp("fe80::1%eth0", 4200)),
        ("unix:///run/northstar/console", Unix("/run/northstar/console")),
        ("unix:///a b?#%20", Unix("/a b?#%20")),
        ("unix:/run/northstar/console", Unix("/run/northstar/console")),
    ],
)
def test_url(url: str, place: Tcp | Unix) -> None:
    assert parse(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:4200",
        "tcp://",
        "tcp://:4200",
        "tcp://a:0",
        "tcp://a:65536",
        "tcp://a:b",
        "tcp://a:\u0661",
        "tcp://::1",
        "tcp://a/b",
        "tcp://[::1",
        "tcp://a:4200\n",
        "unix://run",
        "unix:run",
        "unix:/",
        "unix:/a\0",
        "unix:///a\0",
        "http://localhost",
        "TCP://localhost",
    ],
)
def test_invalid_url(url: str) -> None:
    with pytest.raises(InvalidValueError, match="not the address of a console"):
        parse(url)


@given(st.text(max_size=30) | st.text(max_size=30).map("tcp://{}".format))
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    try:
        parse(text)
    except InvalidValueError as error:
        assert str(error)


@pytest.mark.parametrize("value", ["", "x", "-1", "1 ", "99999", "9" * 50, "²"])
def test_environment_that_names_no_descriptor(value: str) -> None:
    with pytest.raises(InvalidValueError, match=CONSOLE):
        environment_socket({CONSOLE: value})


def test_environment_without_console() -> None:
    with pytest.raises(InvalidValueError, match="is not set"):
        environment_socket({})


def test_environment_that_names_something_else() -> None:
    reader, writer = os.pipe()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with datagram:
        for descriptor in (reader, datagram.fileno()):
            with pytest.raises(InvalidValueError, match=f"{CONSOLE} is {descriptor}"):
                environment_socket({CONSOLE: str(descriptor)})
        # They belong to other code, and are still open.
        os.fstat(reader)
        os.fstat(datagram.fileno())
    os.close(reader)
    os.close(writer)
