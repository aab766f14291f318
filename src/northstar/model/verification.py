"""How the images of signed packages are verified."""

from __future__ import annotations

from typing import Literal

Verity = Literal["dm", "full"]
"""`dm`: by the kernel, each block when it is read from the disk; `full`: as a whole when they are
mounted, from a copy in memory."""
