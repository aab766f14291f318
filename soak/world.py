"""The containers of the soak, their packages and their programs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

from northstar.model import Exited, Signalled
from soak.model import Cluster, Program
from tests.system.harness import manifest, pack

VERSIONS: Final = ("1.0.0", "2.0.0")
CONNECT: Final = {"version": "0.9.2", "subscribe_notifications": False}

TALK: Final = 42
"""Exit code of a program that has received its answers from the console."""


def clusters(number: int) -> list[Cluster]:
    """Return independent clusters: an app that uses every feature and its resource; a plain app."""
    app, plain, resource = f"app{number}", f"plain{number}", f"res{number}"
    rich = tuple(f"{name}:{version}" for name in (app, resource) for version in VERSIONS)
    return [
        Cluster(rich, {app: resource}, frozenset({resource})),
        Cluster(tuple(f"{plain}:{version}" for version in VERSIONS), {}, frozenset()),
    ]


def fields(group: Cluster, name: str) -> dict[str, Any]:
    """Return the fields of a container's manifest, without name and version."""
    if name in group.resources:
        return {"init": None}
    if name not in group.uses:
        return {"args": ["pause"], "cgroups": {"memory": {"memory_hard_limit": 64 << 20}}}
    used = {"type": "resource", "name": group.uses[name], "version": "*", "dir": "/"}
    return {
        "args": ["pause"],
        "io": {"stdout": "pipe", "stderr": "pipe"},
        "console": {"permissions": "full"},
        "sockets": {"s": {"type": "stream", "mode": 0o600}},
        "cgroups": {
            "memory": {"memory_hard_limit": 64 << 20, "oom_monitor": True},
            "cpu": {"shares": 512},
            "pids": {"max": 40},
        },
        "rlimits": {"core": {"soft": 0, "hard": 0}},
        "mounts": {
            "/proc": {"type": "proc"},
            "/dev": {"type": "dev"},
            "/tmp": {"type": "tmpfs", "size": "1M"},
            "/data": {"type": "persist"},
            "/res": used,
        },
    }


def packages(directory: Path, group: Cluster, payload: Path) -> list[bytes]:
    """Pack all containers of a cluster; return their packages in the same order."""
    made = []
    for container in group.containers:
        name, version = container.split(":")
        text = manifest(name, version, **fields(group, name))
        made.append(pack(directory, text, {"payload": payload}).read_bytes())
    return made


def exits(code: int) -> frozenset[str]:
    """Return the statuses of a program that exits with this code."""
    return frozenset({str(Exited(code))})


def program(chance: random.Random, container: str) -> Program:
    """Choose the program of a start."""
    rich = container.startswith("app")
    kinds = ["pause", "exit", "crash", "brief", "orphans", "stubborn", "forks", "manifest"]
    if rich:
        kinds += ["talk", "suicide", "flood", "bomb", "persist"]
    kinds += ["nothing", "reserved"]
    kind = chance.choice(kinds)
    made = _program(kind, chance, container)
    if container.startswith("res") and chance.random() < 0.8:
        # The manifest of a resource has no init; a start request without one must be refused.
        ends = made.ends if made.arguments or made.missing else exits(0)
        made = made._replace(init=made.init or "/payload", ends=ends)
    return made


def _program(kind: str, chance: random.Random, container: str) -> Program:
    code = chance.choice([0, 1, 7, 255])
    match kind:
        case "manifest":
            return Program(kind, ())
        case "pause":
            return Program(kind, ("pause",), environment=(("A", "b"),))
        case "exit":
            return Program(kind, ("exit", str(code)), exits(code))
        case "crash":
            number = chance.choice([6, 8, 11])
            return Program(kind, ("raise", str(number)), frozenset({str(Signalled(number))}))
        case "brief":
            seconds = f"{chance.random() / 20:.3f}"
            return Program(kind, ("sleep", seconds, ";", "exit", str(code)), exits(code))
        case "orphans":
            return Program(kind, ("orphans", "8", ";", "exit", str(code)), exits(code))
        case "stubborn":
            return Program(kind, ("ignore", "TERM", "INT", "HUP", ";", "pause"))
        case "forks":
            return Program(kind, ("fork", ";", "fork", ";", "pause"))
        case "talk":
            messages = ({"connect": CONNECT}, {"request": "ident"}, {"request": "list"})
            return Program(kind, (*_console(*messages), "exit", str(TALK)), exits(TALK))
        case "suicide":
            kill = {"kill": {"container": container, "signal": 9}}
            words = (*_console({"connect": CONNECT}, {"request": kill}), "pause")
            return Program(kind, words, frozenset({str(Signalled(9))}))
        case "flood":
            return Program(kind, ("flood", "200000", ";", "exit", str(code)), exits(code))
        case "bomb":
            return Program(kind, ("bomb", ";", "exit", str(code)), exits(code))
        case "persist":
            words = ("write", "/data/file", "text", ";", "exit", str(code))
            return Program(kind, words, exits(code))
        case "nothing":
            return Program(kind, (), init="/nothing")
        case "reserved":
            return Program(kind, ("pause",), environment=(("NORTHSTAR_NAME", "x"),))
    raise AssertionError(kind)


def _console(*messages: object) -> list[str]:
    words: list[str] = []
    for message in messages:
        words += ["console", json.dumps(message), ";"]
    return words
