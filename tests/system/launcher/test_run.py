"""A container as it is meant to be: what the payload finds, and how its end is told."""

from __future__ import annotations

import json
import os

import pytest

from northstar.launch.plan_ops import NO_OPERATION, Op, Report
from tests.system.launcher.driver import (
    NODEV,
    NOEXEC,
    NOSUID,
    PROC,
    RDONLY,
    TMP,
    Launch,
)

pytestmark = pytest.mark.root


def run(launched: Launch) -> list[dict]:
    launched.start()
    lines = list(launched.lines())
    launched.end()
    return lines


def test_what_a_payload_finds(launch):
    (me,) = run(
        launch(
            "self",
            before=[(Op.HOSTNAME, "hello"), (Op.LOOPBACK,)],
            groups="7,8,1000",
            env=["A=1", "EMPTY=", "B=x y"],
            gid=1001,
        )
    )
    assert me["args"] == ["/payload", "self"]
    assert me["env"] == ["A=1", "EMPTY=", "B=x y"]
    assert me["fds"] == {"0": "char", "1": "pipe", "2": "char"}
    assert (me["pid"], me["ppid"], me["sid"], me["pgid"]) == (2, 1, 1, 1)
    assert me["uids"] == [1000] * 3
    assert me["gids"] == [1001] * 3
    assert sorted(me["groups"]) == [7, 8, 1000]
    assert set(me["caps"].values()) == {0}
    assert me["no_new_privs"] == 1
    assert (me["blocked"], me["not_default"]) == (0, [])
    assert (me["umask"], me["cwd"], me["hostname"]) == (0o022, "/", "hello")
