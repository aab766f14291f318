"""With asyncio: print the log of a container, and stop it after some lines, at the same time."""

import asyncio
import contextlib
import sys

from northstar.client import Client


async def read(url: str, name: str, count: int) -> None:
    """Print lines of the log. A log that is followed needs a connection of its own."""
    async with await Client.connect(url) as client:
        log = client.logs(name, follow=True)
        async with contextlib.aclosing(log):
            async for entry in log:
                print(entry)
                count -= 1
                if count == 0:
                    return


async def main(url: str, name: str) -> None:
    """Start, read, and stop it; meanwhile wait for its exit."""
    async with await Client.connect(url, subscribe=True) as client:
        await client.start(name)
        exit_status = asyncio.create_task(client.wait(name))
        await read(url, name, count=3)
        await client.stop(name)
        print(f"exit: {await exit_status}")


asyncio.run(main(*sys.argv[1:]))
