"""What holds for all tests: who needs root, and when a test may be skipped.

A skipped test looks like a passed one, so with CI=true a skip is a failure. A file whose tests
cannot run on every build server says so in a list of its own, reasons word for word:

    MAY_SKIP = ("this kernel has no device-mapper",)

The virtual machine exists to have what a build server lacks. There only MAY_SKIP_IN_VM counts,
for tests of what happens on a poor machine. So every test runs somewhere.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import settings

R = TypeVar("R", pytest.TestReport, pytest.CollectReport)

CI = os.environ.get("CI") == "true"
LIST = "MAY_SKIP_IN_VM" if os.environ.get("NORTHSTAR_VM") == "1" else "MAY_SKIP"

# No deadline: a busy machine is not a slow function. In CI the same examples each time, so that
# a red build is a matter of the change; people's machines look for new ones.
settings.register_profile("northstar", deadline=None, derandomize=CI)
settings.load_profile("northstar")


@pytest.fixture
def localhost() -> str:
    """Return the name, if it has an address: a machine without it fails at once, and says why."""
    try:
        socket.getaddrinfo("localhost", None)
    except OSError as failure:
        pytest.fail(f"localhost has no address ({failure}); add it to /etc/hosts")
    return "localhost"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs root for those who are not."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


def pytest_configure() -> None:
    """Let signals do what they do, for us and for all that the tests start.

    A shell without job control ignores SIGINT for what it runs in the background, nohup SIGHUP, and
    what is ignored stays so across exec: tests that send one would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip that nobody declared into a failure."""
    report = yield
    module = getattr(item, "module", None)
    return _judge(report, getattr(module, LIST, ()))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Likewise for a whole file that skips itself: it never has a reason."""
    report = yield
    return _judge(report, ())


def _judge(report: R, allowed: tuple[str, ...]) -> R:
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        # The representation of a skip: path, line, "Skipped: reason".
        assert isinstance(report.longrepr, tuple)
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in allowed:
            report.outcome = "failed"
            report.longrepr = f"skipped with CI=true, and not in the file's {LIST}: {reason!r}"
    return report
