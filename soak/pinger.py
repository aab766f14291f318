"""A client in a separate process, which the soak stops (SIGSTOP) and continues.

    python -m soak.pinger URL

It subscribes and makes small requests until it is terminated. It may be disconnected (the runtime
was stopped, or the pinger was stopped for too long), but must never receive a wrong answer.
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
    """Make requests, and read the notifications."""
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
