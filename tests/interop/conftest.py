"""These tests need the programs that `make interop` builds, and run only with them."""

from __future__ import annotations

import os

from tests.system.conftest import make_runtime, payload, runtime

__all__ = ["make_runtime", "payload", "runtime"]

collect_ignore_glob = [] if "NORTHSTAR_INTEROP" in os.environ else ["test_*.py"]
