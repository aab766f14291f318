"""The answer to an inspect request, of which only the state is encoded each time.

A client that polls a container asks for its manifest each time. It does not change while the
container is installed, and encoding it would take most of the time of the request.
"""

from __future__ import annotations

from typing import Final

from northstar.api.codec import encode
from northstar.api.response import ContainerData, Inspect, InspectOk, Process
from northstar.api.shape import JsonObject
from northstar.api.writer import json_encoder
from northstar.model import Container


class InspectAnswer:
    """The answers about one installed container, the same bytes as `encode` makes."""

    __slots__ = ("_head",)

    def __init__(self, container: Container, manifest: JsonObject, repository: str) -> None:
        """Encode the parts that do not change.

        Args:
            container: its name and version.
            manifest: its manifest in the serialised form.
            repository: the repository of its package.
        """
        data = ContainerData(manifest, repository, mounted=False, process=None)
        line = encode(Inspect(InspectOk(container, data)))
        # The state is at the end, since the fields are encoded in the order of the class.
        assert line.endswith(_IDLE[False])
        self._head = line.removesuffix(_IDLE[False])

    def line(self, *, mounted: bool, process: Process | None) -> bytes:
        """Return the line of the answer.

        Args:
            mounted: whether its image is mounted.
            process: its process; None if it is not started.
        """
        if process is None:
            return self._head + _IDLE[mounted]
        return b"%s%s%s%s" % (self._head, _BUSY[mounted], json_encoder.encode(process), _END)


_END: Final = b"}}}}}\n"
_BUSY: Final = (b'false,"process":', b'true,"process":')
_IDLE: Final = tuple(begin + b"null" + _END for begin in _BUSY)
"""The end of the line, by `mounted`."""
