"""The names of the features that an extended connection may offer."""

from __future__ import annotations

from typing import Final

SERVICE: Final = "service"
"""Supervision: the requests status, stop and restart, and the notification state."""

EXEC: Final = "exec"
"""The request exec, and the messages stream."""

LOGS: Final = "logs"
"""The request logs, and the messages log."""

UPDATE: Final = "update"
"""The request update, and the notification update."""

KEYS: Final = "keys"
"""The request keys."""

FEATURES: Final = (SERVICE, EXEC, LOGS, UPDATE, KEYS)
"""The features of this runtime, in the order in which they are listed."""
