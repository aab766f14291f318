"""Contents of a container's /dev. The packer and the launcher create exactly these."""

from __future__ import annotations

from typing import Final, NamedTuple


class DeviceNode(NamedTuple):
    """A character device, mode 666. Numbers: Linux allocated devices (admin-guide/devices.txt)."""

    name: str
    major: int
    minor: int


DEVICE_NODES: Final = (
    DeviceNode("full", 1, 7),
    DeviceNode("null", 1, 3),
    DeviceNode("random", 1, 8),
    DeviceNode("tty", 5, 0),
    DeviceNode("urandom", 1, 9),
    DeviceNode("zero", 1, 5),
)

DEVICE_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
)
"""Symbolic links in /dev: name and target."""
