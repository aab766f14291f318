"""Compiled code for a read-only file system, see docs/decisions/start-up.md."""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "northstar"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package without compiled code, in an empty directory."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SRC, tmp_path / "northstar", ignore=ignore)
    return tmp_path


def compiled_in_memory(directory: Path) -> set[str]:
    """Return the modules of the package that the runtime's command compiles at each start."""
    code = (
        "import sys; sys.dont_write_bytecode = True\n"  # as on a read-only file system
        f"sys.path.insert(0, {str(directory)!r})\n"
        "from importlib.machinery import SourceFileLoader as Loader\n"
        "compile_ = Loader.source_to_code\n"
        "def source_to_code(self, data, path, **options):\n"
        "    print(self.name)\n"
        "    return compile_(self, data, path, **options)\n"
        "Loader.source_to_code = source_to_code\n"
        "from northstar.cli.northstar import _load_runtime; _load_runtime()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return {name for name in done.stdout.split() if name.startswith("northstar")}


def change_times(directory: Path) -> None:
    """Set the times of all files to 0, as programs that make reproducible images do."""
    for path in directory.rglob("*"):
        os.utime(path, (0, 0))


def test_the_documented_command_makes_code_that_is_valid_whatever_the_times(
    installed: Path,
) -> None:
    document = (SRC.parents[1] / "docs/decisions/start-up.md").read_text()
    (command,) = (line for line in document.splitlines() if "-m compileall" in line)
    words = command.split()[1:]
    words[words.index("DIRECTORY")] = str(installed)
    words[words.index("ROOT")] = str(installed)
    subprocess.run([sys.executable, *words], check=True, timeout=60)
    change_times(installed)
    assert compiled_in_memory(installed) == set()


def test_code_that_pip_compiles_is_invalid_with_other_times(installed: Path) -> None:
    mode = py_compile.PycInvalidationMode.TIMESTAMP
    compileall.compile_dir(installed, quiet=1, invalidation_mode=mode)
    assert compiled_in_memory(installed) == set()
    change_times(installed)
    assert len(compiled_in_memory(installed)) > 100
