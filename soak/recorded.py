"""Runs a counted program (soak/counted.py) that also records the events and decisions of its core.

    recorded.py RECORDING COUNTS PYTHON -c CODE ARGUMENTS...

The product cannot record: this program replaces `northstar.core.step` before the product starts.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from northstar.core.events import Event
    from soak.replay import Decided

_START_OF_LIFE: Final = None
"""The entry in the recording for the start of a runtime."""


def read(recording: Path) -> Iterator[list[tuple[Event, Decided]]]:
    """Yield the recorded steps of each life of the runtime."""
    stream = io.BytesIO(recording.read_bytes())
    life: list[tuple[Event, Decided]] | None = None
    while stream.tell() < len(stream.getbuffer()):
        entry = pickle.load(stream)
        if entry is not _START_OF_LIFE:
            assert life is not None
            life.append(entry)
            continue
        if life is not None:
            yield life
        life = []
    if life is not None:
        yield life


def record(recording: Path) -> None:
    """Append each event and the decision of the core to `recording` from now on."""
    from northstar import core
    from northstar.core import actions
    from northstar.model import Container

    # pickle cannot write a read-only view of a dict, nor read a Container: it is immutable.
    as_dict: Any = lambda view: (dict, (dict(view),))  # noqa: E731 - typed Any
    copyreg.pickle(types.MappingProxyType, as_dict)
    copyreg.pickle(Container, lambda container: (Container.parse, (str(container),)))
    step = core.step
    file = os.open(recording, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(entry: object) -> None:
        # One write(2): a killed runtime leaves only whole entries.
        os.write(file, pickle.dumps(entry))

    def recording_step(state: core.State, event: Event, now: int) -> core.Changed | core.Refused:
        result = step(state, event, now)
        if isinstance(result, core.Refused):
            write((event, result))
        else:
            kept = (actions.Complete, actions.Publish)
            write((event, tuple(a for a in result.actions if isinstance(a, kept))))
        return result

    write(_START_OF_LIFE)
    core.step = recording_step


def main() -> None:
    """Run the program in this process."""
    root = Path(__file__).parents[1]
    sys.path[:0] = [str(root / "src"), str(root)]
    from soak import counted

    record(Path(sys.argv.pop(1)))
    counted.main()


if __name__ == "__main__":
    main()
