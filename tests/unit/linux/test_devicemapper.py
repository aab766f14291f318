"""Decoding of the results of device-mapper's ioctls, without a kernel."""

from __future__ import annotations

import os
import struct

from hypothesis import given
from hypothesis import strategies as st

from northstar.linux import devicemapper


@given(st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1))
def test_device_numbers(major: int, minor: int) -> None:
    # new_encode_dev of the kernel's linux/kdev_t.h
    encoded = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    assert devicemapper._makedev(encoded) == os.makedev(major, minor)


@given(st.lists(st.tuples(st.text("ab-", min_size=1), st.integers(0, 8)), min_size=1))
def test_a_list_of_names(entries: list[tuple[str, int]]) -> None:
    head = devicemapper._NAME_LIST
    data = b""
    for position, (name, slack) in enumerate(entries):
        # The fields after a name (event number, uuid) are not read.
        rest = name.encode() + b"\0" + bytes(slack)
        step = head.size + len(rest) if position + 1 < len(entries) else 0
        data += head.pack(position + 1, step) + rest
    found = [
        (head.unpack_from(data, at)[0], devicemapper._text(data, at + head.size))
        for at in devicemapper._chain(data, head, 1)
    ]
    assert found == [(number + 1, name) for number, (name, _) in enumerate(entries)]


@given(st.binary(max_size=200), st.sampled_from([("=QI", 1), ("=4I", 0)]))
def test_any_list_has_an_end(data: bytes, layout: tuple[str, int]) -> None:
    head = struct.Struct(layout[0])
    for position in devicemapper._chain(data, head, layout[1]):
        assert 0 <= position <= len(data) - head.size
        assert isinstance(devicemapper._text(data, position), str)
