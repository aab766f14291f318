"""The one owner of the state file's contents, which several parts of the runtime change."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from northstar.core.update_values import Record
from northstar.model import Name, Version, sentence
from northstar.runtime.directories import LockedDirectory
from northstar.runtime.statefile import StateFile, StoredState, StoredUpdate
from northstar.runtime.threads import Pool

log: Final = logging.getLogger("northstar.runtime")


class StateStore:
    """The contents in memory and on the disk, changed one after the other.

    Attributes:
        state: what the file contains.
        lost: the file could not be used at the boot: it is empty since.
    """

    def __init__(self, data_dir: LockedDirectory, pool: Pool) -> None:
        """Begin with the empty state; `load` reads the file.

        Args:
            data_dir: contains the state file.
            pool: for blocking calls.
        """
        self.state = StoredState()
        self.lost = False
        self._data_dir = data_dir
        self._file = StateFile(data_dir.path)
        self._pool = pool
        self._lock = asyncio.Lock()
        self._reserving: Counter[Name] = Counter()

    async def load(self) -> None:
        """Read the file. Of an update in progress reserve the blocks of the next files again."""
        self.state = await self._pool.run(self._file.read)
        self.lost = self._file.lost
        names = tuple(self.state.records())
        try:
            for name in names:
                await self.reserve(name)
            if not names:
                await self._pool.run(self._file.release_left)
        except OSError as failure:
            log.warning(
                "Cannot reserve or free blocks for the next state file: %s", sentence(failure)
            )

    async def change(self, change: Callable[[StoredState], StoredState]) -> None:
        """Replace the contents durably by what `change` returns for them.

        Raises:
            OSError, NorthstarError: they could not be written; `state` is the former one.
        """
        async with self._lock:
            state = change(self.state)
            if state != self.state:
                await self._pool.run(self._write, state)
                self.state = state

    async def write_record(
        self, name: Name, record: Record | None, floor: Version | None = None
    ) -> None:
        """Write the phase of an update, and a floor in the same rename.

        Args:
            name: of the update.
            record: what is stored of it; None to remove it, which ends its reservation too.
            floor: the new floor of the name; None for no change. A floor never goes down.

        Raises:
            OSError, NorthstarError: as `change`.
        """

        def changed(state: StoredState) -> StoredState:
            updates = {n: update for n, update in state.updates.items() if n != name}
            if record is not None:
                updates[str(name)] = StoredUpdate.of(record)
            floors = state.floors
            known = state.floor_versions().get(name)
            if floor is not None and (known is None or known < floor):
                floors = {**floors, str(name): str(floor)}
            return replace(state, updates=updates, floors=floors)

        await self.change(changed)
        if record is None:
            await self.release(name)

    async def write_floors(self, floors: Mapping[Name, Version]) -> None:
        """Replace all floors.

        Raises:
            OSError, NorthstarError: as `change`.
        """
        texts = {str(name): str(version) for name, version in floors.items()}
        await self.change(lambda state: replace(state, floors=texts))

    async def reserve(self, name: Name) -> None:
        """Allocate the blocks of the next files, until as many calls of `release`.

        Raises:
            OSError: there is no room.
        """
        async with self._lock:
            await self._pool.run(self._reserve)
            self._reserving[name] += 1

    async def release(self, name: Name) -> None:
        """Free the reserved blocks, unless another update needs them."""
        async with self._lock:
            self._reserving[name] -= 1
            self._reserving = +self._reserving
            if self._reserving:
                return
            try:
                await self._pool.run(self._file.release)
            except OSError as failure:
                log.warning("Cannot free the blocks of the next state file: %s", sentence(failure))

    def _write(self, state: StoredState) -> None:
        self._data_dir.restore()
        self._file.write(state)

    def _reserve(self) -> None:
        self._data_dir.restore()
        self._file.reserve()
