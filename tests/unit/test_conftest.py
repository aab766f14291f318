"""The rule for skipped tests, tested with a small suite in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = """
import pytest
MAY_SKIP = ("this machine has no unicorn",)
MAY_SKIP_IN_VM = ("the virtual machine has no unicorn",)

def test_declared():
    pytest.skip("this machine has no unicorn")

def test_declared_for_the_virtual_machine():
    pytest.skip("the virtual machine has no unicorn")

@pytest.mark.skipif(True, reason="undeclared reason")
def test_undeclared(): ...

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_failure():
    assert False
"""


def run(tmp_path: Path, **environment: str) -> str:
    (tmp_path / "test_it.py").write_text(SUITE)
    (tmp_path / "test_file.py").write_text('import pytest\npytest.importorskip("no_such_module")\n')
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    clean = {n: v for n, v in os.environ.items() if n not in ("CI", "NORTHSTAR_VM")}
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "--continue-on-collection-errors",
            str(tmp_path),
        ],
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("environment", "result"),
    [
        ({}, "4 skipped, 1 xfailed"),
        ({"CI": "true"}, "1 failed, 1 skipped, 1 xfailed, 2 errors"),
        ({"CI": "true", "NORTHSTAR_VM": "1"}, "1 failed, 1 skipped, 1 xfailed, 2 errors"),
    ],
    ids=["on a workstation", "on a build server", "in the virtual machine"],
)
def test_skips(tmp_path: Path, environment: dict[str, str], result: str):
    assert run(tmp_path, **environment).startswith(result)
