"""A client in a process of its own, which the soak stops and lets go on.

    python -m soak.pinger URL

It subscribes and asks small things until it is ended; it may be disconnected (the runtime is taken
down, or it was stopped for so long that it fell behind), but never be told anything wrong.
"""

from __future__ import annotations

import contextlib
import sys
import time

from northstar.client import ConnectError, DisconnectedError
from northstar.client.blocking import Client
from northstar.client.errors import NoAnswerError

PAUSE = 0.05


def ping(client: Client) -> None:
    """Ask, and take what was announced meanwhile."""
    while True:
        if str(client.ident()) != "extern:0.0.0" or client.repositories() != ("fs", "full", "mem"):
            sys.exit("the runtime gave a wrong answer")
        with contextlib.suppress(NoAnswerError):
            for _ in client.notifications(timeout=PAUSE):
                continue
        time.sleep(PAUSE)


def main(url: str) -> None:
    """Ping for ever."""
    while True:
        with (
            contextlib.suppress(ConnectError, DisconnectedError),
            Client.connect(url, subscribe=True, timeout=60) as client,
        ):
            print("connected", flush=True)
            ping(client)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1])
