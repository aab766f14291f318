"""Capability sets of a process: capabilities(7), proc_pid_status(5)."""

from __future__ import annotations

from typing import NamedTuple


class Capabilities(NamedTuple):
    """The five sets, each a mask with bit N for capability number N."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int


_FIELDS = {
    "CapInh": "inheritable",
    "CapPrm": "permitted",
    "CapEff": "effective",
    "CapBnd": "bounding",
    "CapAmb": "ambient",
}


def parse(status: str) -> Capabilities:
    """Parse the sets from the text of a status file.

    Raises:
        ValueError: a set is missing.
    """
    found = {}
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key in _FIELDS:
            found[_FIELDS[key]] = int(value, 16)
    missing = [key for key, field in _FIELDS.items() if field not in found]
    if missing:
        raise ValueError(f"a process status has no line {missing[0]}")
    return Capabilities(**found)


def read(pid: int | None = None) -> Capabilities:
    """Read the sets of a process; None is the calling thread.

    Raises:
        OSError: the process does not exist.
    """
    with open(f"/proc/{'thread-self' if pid is None else pid}/status", encoding="utf-8") as file:
        return parse(file.read())
