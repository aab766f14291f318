"""The program. Its standard library is in /usr, from the resource."""

import os
import sys

print(f"Hello from Python {sys.version.split()[0]}, process {os.getpid()} of user {os.getuid()}")
for argument in sys.argv[1:]:
    print(f"argument: {argument}")
