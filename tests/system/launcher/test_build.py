"""launcher/build.py: the files that it adds to the package, and its errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from northstar.launch import plan_ops
from tests.system.launcher.conftest import BUILD, ROOT

MADE = ("northstar/launch/init", "northstar/launch/plan_ops.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources without build products."""
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "plan_ops.py", "init")
    for name in ("src", "launcher"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree / name)
    return tree


def hatchling(tree: Path, what: str) -> zipfile.ZipFile:
    """Build a wheel as an installer does, in the copy `tree`."""
    code = f"import hatchling.build as b; print(b.{what}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(tree / "dist" / done.stdout.split()[-1])


def test_a_wheel_holds_the_program_and_its_numbers(tree):
    with hatchling(tree, "build_wheel") as wheel:
        assert set(MADE) <= set(wheel.namelist())
        assert wheel.read(MADE[0])[:4] == b"\x7fELF"
        assert wheel.getinfo(MADE[0]).external_attr >> 16 & 0o111 == 0o111
        assert wheel.filename is not None
        # Of this platform, but not of this Python.
        assert f"-py3-none-linux_{os.uname().machine}.whl" in wheel.filename


def test_an_editable_install_finds_them_in_the_sources(tree):
    hatchling(tree, "build_editable").close()
    for name in MADE:
        assert (tree / "src" / name).exists()


def test_the_generated_module_passes_the_linters(tmp_path):
    # In the source tree git and the linters ignore it, so it is checked in another directory.
    (tmp_path / "plan_ops.py").write_text(generated())
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check"], ["format", "--check"]):
        subprocess.run([ruff, *command, "plan_ops.py"], cwd=tmp_path, check=True)


def test_the_package_is_built_from_this_source():
    made = Path(plan_ops.__file__).read_text()
    assert made == generated(), "plan.def has changed: run `python launcher/build.py`"


def generated() -> str:
    """Return plan_ops.py as build.py generates it."""
    code = "import build, sys; sys.stdout.write(build.plan_ops())"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=BUILD.parent, capture_output=True, text=True, check=True
    ).stdout


def test_a_malformed_entry_is_refused(tree):
    with (tree / "launcher" / "plan.def").open("a") as file:
        file.write('OP(NEW, 210, "")\n')
    done = subprocess.run(
        [sys.executable, tree / "launcher" / "build.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith('plan.def: OP(NEW, 210, "") has 3 fields\n')


@pytest.mark.parametrize("options", [[], ["--sanitize"]])
def test_without_a_compiler_the_error_names_the_packages(tree, options):
    done = subprocess.run(
        [sys.executable, tree / "launcher" / "build.py", *options],
        env={"PATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "gcc" in done.stderr
    assert "musl-tools" in done.stderr or options


def test_the_compilers_messages_are_shown(tree):
    (tree / "launcher" / "init.c").write_text("int main(void) { return nothing; }\n")
    done = subprocess.run(
        [sys.executable, tree / "launcher" / "build.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "launcher/init.c:1:" in done.stderr
    assert "undeclared" in done.stderr
    assert not (tree / "src" / MADE[0]).exists()


def test_a_build_with_glibc_works(tree):
    output = tree / "init"
    environment = {**os.environ, "CC": "gcc"}
    command = [sys.executable, tree / "launcher" / "build.py", "--output", output]
    subprocess.run(command, env=environment, check=True)
    done = subprocess.run([output], capture_output=True, check=False)
    assert done.returncode == 2
