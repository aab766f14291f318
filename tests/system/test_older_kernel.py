"""Runs the tests of test_mounts.py with a runtime on a simulated older kernel.

NORTHSTAR_TEST_FALLBACK=1 runs all system tests so.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system import test_mounts
from tests.system.containers import shared_runtime
from tests.system.harness import RuntimeProcess

pytestmark = pytest.mark.root

SHARED_RUNTIME = True

globals().update({name: t for name, t in vars(test_mounts).items() if name.startswith("test_")})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    """One runtime without the newer system calls, for all tests of this file."""
    yield from shared_runtime(tmp_path_factory, older=True)
