"""`network`: the network namespace. Without this section the container has a new, empty one."""

from typing import Annotated, Final

import msgspec

from northstar.schema.records import Field
from northstar.schema.scalars import file_name
from northstar.schema.variants import Variant, Wrapped

NAMESPACE_MAX: Final = 256
"""Longest name of a network namespace, in bytes."""

_NAME: Final = file_name("the name of a network namespace", NAMESPACE_MAX, least=1)


class HostNetwork(msgspec.Struct, frozen=True):
    """The host's network namespace."""


class NamedNetwork(msgspec.Struct, frozen=True):
    """The network namespace that is mounted on /run/netns/`name`. See ip-netns(8)."""

    name: Annotated[
        str, Field(_NAME, "Name of the namespace, as in `ip netns add`.", example="isolated")
    ]


Network = HostNetwork | NamedNetwork

NETWORK: Variant[Network] = Variant(
    "a network", {"host": HostNetwork(), "namespace": Wrapped(NamedNetwork)}
)
