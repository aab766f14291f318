"""Permissions: `full` does not grow, and the order in log lines."""

from __future__ import annotations

from northstar.model import EXTENDED, FULL, Permission
from northstar.model.permission import describe


def test_full_is_that_of_0_9_2() -> None:
    # The names of Northstar 0.9.2, api/model.rs. A new permission must not be added to them.
    assert {permission.value for permission in FULL} == {
        *("ident", "inspect", "install", "kill", "list", "notifications", "mount"),
        *("repositories", "shutdown", "start", "start_command", "token_create"),
        *("token_verification", "umount", "uninstall"),
    }


def test_extended_ones_are_the_last_in_log_lines() -> None:
    assert frozenset(Permission) == FULL | EXTENDED
    assert not FULL & EXTENDED
    assert describe(EXTENDED) == "exec, logs, update, upgrade"
    assert describe(Permission).endswith("umount, uninstall, exec, logs, update, upgrade")
