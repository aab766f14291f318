"""`autostart`: whether the runtime starts the container at boot, and what a failure causes."""

from __future__ import annotations

import enum

from northstar.schema.variants import Choice


class Autostart(enum.Enum):
    """The effect of a failure of the container on the runtime."""

    RELAXED = "relaxed"
    """The runtime logs a warning."""
    CRITICAL = "critical"
    """The runtime shuts down."""


AUTOSTART = Choice(Autostart, "a kind of autostart")
