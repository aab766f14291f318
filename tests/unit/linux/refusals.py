"""Expected errors of the kernel."""

import re

import pytest


def refused(number: int) -> pytest.RaisesExc[OSError]:
    """Expect an OSError with this errno."""
    return pytest.raises(OSError, match=re.escape(f"[Errno {number}]"))
