"""Print the processor time and the memory of each container that runs."""

import sys

from northstar.client import statistics
from northstar.client.blocking import Client

with Client.connect(sys.argv[1]) as client:
    for container in client.list():
        process = client.inspect(container).process
        if process is not None:
            used = statistics(process.statistics)  # the same fields for cgroup v1 and v2
            print(f"{container}: {used.cpu_ns} ns, {used.memory_bytes} bytes")
