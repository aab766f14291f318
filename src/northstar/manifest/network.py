"""`network`: the network namespace. Without it the container has a new, empty one."""

from __future__ import annotations

from typing import Final

import msgspec

from northstar.manifest.kinds import FILE_NAME_PATTERN, Text, file_name_rule
from northstar.manifest.variants import Variant, Wrapped

NAMESPACE_MAX: Final = 256
"""Longest name of a network namespace, in bytes."""


class HostNetwork(msgspec.Struct, frozen=True):
    """The host's own network namespace."""


class NamedNetwork(msgspec.Struct, frozen=True):
    """The network namespace that is mounted as `name` in /run/netns. See ip-netns(8)."""

    name: str


Network = HostNetwork | NamedNetwork

NETWORK: Variant[Network] = Variant(
    "a network",
    units={"host": HostNetwork},
    data={
        "namespace": (
            NamedNetwork,
            Wrapped(
                NamedNetwork,
                Text(
                    "the name of a network namespace",
                    least=1,
                    most=NAMESPACE_MAX,
                    check=file_name_rule,
                    pattern=FILE_NAME_PATTERN,
                ),
            ),
        )
    },
)
