"""Rules for all tests: which need root, and when a test may be skipped.

A skipped test looks like a passed one, so with CI=true a skip is a failure. A file whose tests
cannot run on every build server lists the exact reasons:

    MAY_SKIP = ("this kernel has no device-mapper",)

The virtual machine has all that a build server may lack. There only MAY_SKIP_IN_VM counts, for
tests that need a machine without a feature. So every test runs somewhere.
"""

from __future__ import annotations

import compileall
import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)

SOURCES = Path(__file__).parents[1] / "src"
CI = os.environ.get("CI") == "true"
LIST = "MAY_SKIP_IN_VM" if os.environ.get("NORTHSTAR_VM") == "1" else "MAY_SKIP"

# No deadline: on a busy machine a fast function takes long. In CI the examples are always the same,
# so that a failure comes from the change; other machines try new examples.
settings.register_profile("northstar", deadline=None, derandomize=CI)
settings.load_profile("northstar")


@pytest.fixture
def localhost() -> str:
    """Return the name, if it has an address; fail with a clear message otherwise."""
    try:
        socket.getaddrinfo("localhost", None)
    except OSError as failure:
        pytest.fail(f"localhost has no address ({failure}); add it to /etc/hosts")
    return "localhost"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need root for other users."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


def pytest_configure() -> None:
    """Reset signal handlers, for the tests and for all processes that they start; compile.

    A shell without job control ignores SIGINT for background jobs, nohup ignores SIGHUP, and an
    ignored signal stays ignored across exec: tests that send one would wait for ever.

    The tests start hundreds of runtimes and commands. With PYTHONDONTWRITEBYTECODE=1 in the
    environment each would compile all modules again, which takes longer than most tests.
    """
    compileall.compile_dir(SOURCES, quiet=2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn an undeclared skip into a failure."""
    report = yield
    module = getattr(item, "module", None)
    return _fail_undeclared_skip(report, getattr(module, LIST, ()))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole file into a failure: no reason allows it."""
    report = yield
    return _fail_undeclared_skip(report, ())


def _fail_undeclared_skip(report: R, allowed: tuple[str, ...]) -> R:
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        # The representation of a skip: path, line, "Skipped: reason".
        assert isinstance(report.longrepr, tuple)
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in allowed:
            report.outcome = "failed"
            report.longrepr = f"skipped with CI=true, but {LIST} of the file lacks {reason!r}"
    return report
