"""The size of the installation, and that the installed package is complete.

It uses pip's cache and the package index of `make test`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]

SIZE_MAX = 18_000_000
"""Largest size of the installation on disk, in bytes: it is for flash memory. pip and setuptools
are not a part: a device does not need them. Bytecode is a part (40 % of it), because a runtime
without it takes four times as long to start."""

BLOCK = 4096
"""Size of a block of common file systems. The space of a file is rounded up to it here, so that the
result does not depend on the file system of the test."""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with this package, built as a wheel, and its dependencies."""
    directory = tmp_path_factory.mktemp("installation")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    # The build backend of the test environment, which has the same pinned version.
    wheel = ["wheel", "--no-build-isolation", "--no-deps", "-w", str(directory / "wheel")]
    subprocess.run([*pip, *wheel, str(ROOT)], check=True, capture_output=True)
    [built] = (directory / "wheel").glob("*.whl")
    target = directory / "target"
    subprocess.run(
        [*pip, "install", "--target", str(target), str(built)], check=True, capture_output=True
    )
    return target


def files(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): -(-path.lstat().st_size // BLOCK) * BLOCK
        for path in directory.rglob("*")
        if not path.is_dir()
    }


def test_size(installation: Path) -> None:
    sizes = files(installation)
    assert any(name.endswith(".pyc") for name in sizes)
    by_package: dict[str, int] = {}
    for name, size in sizes.items():
        top = name.split(os.sep)[0]
        by_package[top] = by_package.get(top, 0) + size
    largest = sorted(by_package.items(), key=lambda item: -item[1])[:10]
    assert sum(sizes.values()) <= SIZE_MAX, largest


def test_the_manual_pages_are_where_man_searches(installation: Path) -> None:
    pages = {str(page.relative_to(ROOT / "docs/man")) for page in (ROOT / "docs/man").rglob("*.?")}
    assert "man5/northstar.toml.5" in pages
    installed = installation / "share/man"
    assert {str(page.relative_to(installed)) for page in installed.rglob("*.?")} == pages


def test_the_commands_work_from_it(installation: Path, tmp_path: Path) -> None:
    """With the launcher, the templates of `sextant new`, and no file of this source tree."""
    names = files(installation)
    assert "northstar/launch/init" in names
    assert not [name for name in names if name.startswith("northstar/") and "/tests/" in name]
    code = "import sys; from northstar.cli.sextant import main; main()"
    environment = {"PYTHONPATH": str(installation), "PATH": os.environ["PATH"]}
    for template in ("c", "python", "shell"):
        subprocess.run(
            [sys.executable, "-S", "-P", "-c", code, "new", "--template", template, template],
            cwd=tmp_path,
            env=environment,
            check=True,
        )
        done = subprocess.run(
            [sys.executable, "-S", "-P", "-c", code, "check", f"{template}/manifest.yaml"],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
