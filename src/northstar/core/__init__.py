"""The decisions: pure code over immutable values. No clock, no path, no event loop."""

from northstar.api.status import ContainerState, Wanted
from northstar.core import actions, boot, events
from northstar.core.choice import refuse_environment, refuse_exec_command
from northstar.core.requests import entry_of, refuse_exec, refuse_if_stopping
from northstar.core.shutdown import all_killed, with_process
from northstar.core.starts import refuse_if_running
from northstar.core.status import status_of, status_of_entry
from northstar.core.step import Changed, Refused, step
from northstar.core.values import (
    Cause,
    Deferred,
    Entry,
    History,
    Image,
    Operation,
    Repository,
    Run,
    State,
)

__all__ = [
    "Cause",
    "Changed",
    "ContainerState",
    "Deferred",
    "Entry",
    "History",
    "Image",
    "Operation",
    "Refused",
    "Repository",
    "Run",
    "State",
    "Wanted",
    "actions",
    "all_killed",
    "boot",
    "entry_of",
    "events",
    "refuse_environment",
    "refuse_exec",
    "refuse_exec_command",
    "refuse_if_running",
    "refuse_if_stopping",
    "status_of",
    "status_of_entry",
    "step",
    "with_process",
]
