"""The parameters of a soak."""

from __future__ import annotations

from typing import NamedTuple


class Plan(NamedTuple):
    """The parameters.

    Attributes:
        seed: determines what each client does. With one client the run is always the same.
        operations: steps of all clients together.
        clients: number of concurrent clients.
        faults: fraction of the steps that are faults.
        restarts: how often the runtime is killed or shut down, all in the first third.
        round: steps between two complete checks.
        stall: the runtime's timeout for silence within a package, in seconds. On a busy machine
            the clients of the soak are slow too.
        recorded: record what the runtime's core is given and decides.
    """

    seed: int
    operations: int
    clients: int = 6
    faults: float = 0.02
    restarts: int = 0
    round: int = 1000
    stall: float = 20.0
    recorded: bool = False
