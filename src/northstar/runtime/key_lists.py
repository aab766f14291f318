"""The key lists of repositories: from the anchor in the configuration to the current list."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from northstar.api import RefusedError, error
from northstar.model import ConfigurationError, NorthstarError, VerificationError
from northstar.npk import keylist
from northstar.runtime.repository import Keys, Repository
from northstar.runtime.state_store import StateStore
from northstar.runtime.statefile import StoredState

if TYPE_CHECKING:
    from northstar.npk.keylist import KeyList

log: Final = logging.getLogger("northstar.runtime")


def load_anchor(path: str, field: str) -> KeyList:
    """Return the list that the configuration names.

    Args:
        path: its file.
        field: the key of the configuration, for the error.

    Raises:
        ConfigurationError: it cannot be read, or is malformed.
    """
    hint = "make a list with `sextant key-list new`"
    try:
        # O_NONBLOCK: opening a FIFO must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            return keylist.parse(file.read(keylist.SIZE_MAX + 1))
    except OSError as failure:
        reason = f"{path}: {failure.strerror}"
    except NorthstarError as failure:
        reason, hint = f"{path}: {failure.message}", failure.hint or hint
    raise ConfigurationError(f"{field}: {reason}", hint=hint)


def keys_of(current: KeyList) -> Keys:
    """Return the keys of a list, by what they verify."""
    install = current.with_use(keylist.Use.INSTALL)
    return Keys(install, install + current.with_use(keylist.Use.LOAD))


class KeyLists:
    """The current lists of all repositories with `keys`; replaced one at a time."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        anchors: Mapping[str, KeyList],
        store: StateStore,
    ) -> None:
        """Begin with the anchors; `load` follows the stored lists.

        Args:
            repositories: all of them, by identifier.
            anchors: the lists that the configuration names, by repository.
            store: contains the lists that followed.
        """
        self._repositories = repositories
        self._current = dict(anchors)
        self._store = store
        self._chains: dict[str, tuple[str, ...]] = {}
        self._replacing = asyncio.Lock()

    def load(self) -> None:
        """Follow each repository's stored lists from its anchor."""
        for identifier, anchor in self._current.items():
            current, self._chains[identifier], broken = _follow(
                anchor, self._store.state.keys.get(identifier, ())
            )
            if broken is not None:
                log.error(
                    "The key list of repository %s stays at version %d: %s",
                    identifier,
                    current.version,
                    broken,
                )
            self._use(identifier, current)

    def current(self, identifier: str) -> KeyList:
        """Return the current list of a repository.

        Raises:
            RefusedError: it does not exist, or has no list.
        """
        if identifier not in self._repositories:
            raise RefusedError(error.InvalidRepository(identifier))
        if identifier not in self._current:
            raise RefusedError(
                error.Unexpected(
                    f"the repository {identifier} has no key list: its configuration has no "
                    "`keys`; add it, with a list that sextant key-list made"
                )
            )
        return self._current[identifier]

    async def replace(self, identifier: str, document: str) -> KeyList:
        """Replace the current list of a repository by the one that follows it.

        Raises:
            RefusedError: there is no list to replace.
            VerificationError: the new one may not follow it, or a package would lose its key.
            OSError: it could not be stored.
        """
        async with self._replacing:
            current = self.current(identifier)
            new = keylist.parse(document.encode("ascii", "replace"))
            keylist.check_successor(current, new)
            self._refuse_lost_packages(identifier, new)
            before, after = keys_of(current), keys_of(new)
            # Packages that are verified meanwhile must be valid whatever comes of this.
            both = tuple(key for key in before.install if key in after.install)
            self._repositories[identifier].keys = Keys(both, before.load)
            chain = (*self._chains[identifier], document)

            def with_chain(state: StoredState) -> StoredState:
                return replace(state, keys={**state.keys, identifier: chain})

            await self._store.change(with_chain)
            self._chains[identifier] = chain
            self._use(identifier, new)
            log.info("The key list of repository %s is now version %d", identifier, new.version)
            return new

    def _use(self, identifier: str, current: KeyList) -> None:
        self._current[identifier] = current
        self._repositories[identifier].keys = keys_of(current)

    def _refuse_lost_packages(self, identifier: str, new: KeyList) -> None:
        valid = keys_of(new).load
        for container, package in sorted(self._repositories[identifier].packages.items()):
            signer = package.npk.signer
            if signer is not None and signer not in valid:
                raise VerificationError(
                    f"{container} is signed by {keylist.key_id(signer)} only, which version "
                    f"{new.version} does not have",
                    hint="keep that key with the use `load`, or uninstall the package before",
                )


def _follow(
    anchor: KeyList, documents: tuple[str, ...]
) -> tuple[KeyList, tuple[str, ...], str | None]:
    """Follow stored lists.

    Returns:
        The last valid list, the documents that lead to it, and why the next one is not valid.
    """
    lists: list[KeyList] = []
    unreadable = None
    for document in documents:
        try:
            lists.append(keylist.parse(document.encode("ascii", "replace")))
        except VerificationError as failure:
            unreadable = str(failure)
            break
    current, broken = keylist.follow(anchor, lists)
    used = range(anchor.version + 1, current.version + 1)
    chain = tuple(d for d, read in zip(documents, lists, strict=False) if read.version in used)
    return current, chain, broken or unreadable
