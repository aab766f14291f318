"""The decisions: pure code over immutable values. No clock, no path, no event loop."""

from northstar.core import actions, boot, events
from northstar.core.requests import entry_of
from northstar.core.runs import refuse_if_running
from northstar.core.shutdown import with_process
from northstar.core.step import Changed, Refused, step
from northstar.core.values import Entry, Image, Operation, Phase, Repository, Run, State, Wanted

__all__ = [
    "Changed",
    "Entry",
    "Image",
    "Operation",
    "Phase",
    "Refused",
    "Repository",
    "Run",
    "State",
    "Wanted",
    "actions",
    "boot",
    "entry_of",
    "events",
    "refuse_if_running",
    "step",
    "with_process",
]
