"""Temporary directories for trees."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from northstar.npk import staging

CODE = """
import os, sys
from northstar.npk import staging
outside, parent = sys.argv[1:]
with staging.directory(parent) as stage:
    os.mkdir(f"{stage}/closed")
    os.symlink(outside, f"{stage}/closed/link")
    os.link(outside, f"{stage}/closed/hard")
    os.mkdir(f"{stage}/closed/inner")
    os.chmod(f"{stage}/closed/inner", 0)
    os.chmod(f"{stage}/closed", 0o555)
"""


@pytest.mark.root
def test_cleaning_up_touches_nothing_outside(tmp_path: Path):
    """Run without the capability to write into any directory, which root has."""
    outside = tmp_path / "outside"
    outside.touch(0o640)
    parent = tmp_path / "parent"
    parent.mkdir()
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", CODE]
    subprocess.run([*command, str(outside), str(parent)], check=True)
    assert os.listdir(parent) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o640


def test_removed_after_an_error(tmp_path: Path):
    def fail() -> None:
        with staging.directory(str(tmp_path)) as stage:
            assert os.listdir(tmp_path) == [os.path.basename(stage)]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == []
