"""Handle what can go wrong: no runtime, a refusal, a missing permission."""

import sys

from northstar.api import RefusedError
from northstar.client import ConnectError, PermissionDeniedError
from northstar.client.blocking import Client

try:
    with Client.connect(sys.argv[1], timeout=5) as client:
        client.start("unknown:1.0.0")
except ConnectError as error:
    print(f"no runtime: {error}")
except PermissionDeniedError as error:
    print(f"not permitted: {error}")
except RefusedError as error:
    print(f"refused: {error}")
