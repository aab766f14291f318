"""How the images of signed packages are verified."""

from __future__ import annotations

from typing import Literal

Verity = Literal["dm", "full"]
"""`dm`: the kernel verifies each block when it is read from the disk. `full`: the whole image is
verified when it is mounted, from a copy in memory."""
