"""Start a container, and print what happens to it until it exits."""

import sys

from northstar.api.notification import Exit, Started, State
from northstar.client.blocking import Client

url, name = sys.argv[1:]
with Client.connect(url, subscribe=True) as client:
    [container] = client.resolve(name)
    client.start(container)
    for message in client.notifications():
        match message:
            case Started(started) if started == container:
                print(f"{container} has started")
            case State(changed, status) if changed == container:
                print(f"{container} is {status.state.value}")
            case Exit(ended, status) if ended == container:
                print(f"{container} has ended: {status}")
                break
