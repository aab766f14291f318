"""Values that are valid by construction, and the error tree. Imports no other package."""

from northstar.model.container import Container
from northstar.model.devices import DEVICE_LINKS, DEVICE_NODES, DeviceNode
from northstar.model.errors import (
    ConfigurationError,
    HostError,
    InternalError,
    InvalidValueError,
    LaunchError,
    ManifestError,
    NorthstarError,
    PackageError,
    ProtocolError,
    VerificationError,
    name_errno,
    sentence,
)
from northstar.model.name import Name
from northstar.model.permission import EXTENDED, FULL, Permission, Permissions
from northstar.model.requirement import VersionReq
from northstar.model.status import Exited, ExitStatus, Signalled, signal_name
from northstar.model.text import cut, listed, printable, printable_json, quote
from northstar.model.verification import Verity
from northstar.model.version import Version

__all__ = [
    "DEVICE_LINKS",
    "DEVICE_NODES",
    "EXTENDED",
    "FULL",
    "ConfigurationError",
    "Container",
    "DeviceNode",
    "ExitStatus",
    "Exited",
    "HostError",
    "InternalError",
    "InvalidValueError",
    "LaunchError",
    "ManifestError",
    "Name",
    "NorthstarError",
    "PackageError",
    "Permission",
    "Permissions",
    "ProtocolError",
    "Signalled",
    "VerificationError",
    "Verity",
    "Version",
    "VersionReq",
    "cut",
    "listed",
    "name_errno",
    "printable",
    "printable_json",
    "quote",
    "sentence",
    "signal_name",
]
