"""`autostart`: whether, and how, the runtime starts the container at boot."""

from __future__ import annotations

import enum

from northstar.schema.variants import Choice


class Autostart(enum.Enum):
    """What a failure of the container means for the runtime."""

    RELAXED = "relaxed"
    """A warning."""
    CRITICAL = "critical"
    """The end."""


AUTOSTART = Choice(Autostart, "a kind of autostart")
