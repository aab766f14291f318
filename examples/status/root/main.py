"""Requests this container's name and the installed containers, over its console connection.

Each message is a JSON object on one line, so a program needs no library. With the package northstar
use northstar.client.blocking.Client.from_env() instead.
"""

import json
import os
import socket

console = socket.socket(fileno=int(os.environ["NORTHSTAR_CONSOLE"]))
lines = console.makefile("r", encoding="utf-8")


def exchange(message):
    """Send a message and return the answer."""
    console.sendall(json.dumps(message).encode() + b"\n")
    return json.loads(lines.readline())


exchange({"connect": {"version": "0.9.2", "subscribe_notifications": False}})
print("I am", exchange({"request": "ident"})["response"]["ident"])
print("installed:", ", ".join(exchange({"request": "list"})["response"]["list"]))
print("shutdown:", exchange({"request": "shutdown"})["response"])
