"""What a soak is to do."""

from __future__ import annotations

from typing import NamedTuple


class Plan(NamedTuple):
    """What to do.

    Attributes:
        seed: determines what each client does. With one client the run is always the same.
        operations: steps of the clients, in all.
        clients: how many work at the same time.
        faults: the part of the steps that are faults.
        restarts: how often the runtime is killed or shut down, all in the first third.
        round: steps between two complete checks.
        stall: seconds of silence within a package that the runtime allows. On a busy machine we are
            as silent ourselves.
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
