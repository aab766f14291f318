"""Collects the lines that containers log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


class Lines(logging.Handler):
    """The lines of containers, with their name and level."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@contextlib.contextmanager
def collecting(level: int = logging.DEBUG) -> Iterator[Lines]:
    logger = logging.getLogger("northstar.container")
    handler, before = Lines(), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate = before[1]
        logger.setLevel(before[0])
