"""The repository: linters as tests, the copy of the vectors, scripts and documents."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
SHARED_VECTORS = ROOT.parent / "shared" / "vectors"
OWN_VECTORS = frozenset(("extended.jsonl", "service.jsonl"))
"""Vectors of this project's additions to Northstar 0.9.2, of which no other copy exists."""

SCRIPTS = [ROOT / ".ci/run", *sorted((ROOT / "scripts").iterdir())]
PYTHON_SCRIPTS = [
    str(path.relative_to(ROOT))
    for path in SCRIPTS
    if path.read_text().startswith("#!/usr/bin/env python3")
]
LINTERS = {
    "ruff": ["ruff", "check", "--no-cache", "--output-format=concise", ".", *PYTHON_SCRIPTS],
    "ruff-format": ["ruff", "format", "--no-cache", "--check", ".", *PYTHON_SCRIPTS],
    "codespell": ["codespell_lib", ".", ".ci/run"],
    "mypy": ["mypy"],
    # Else all of them are the module __main__, of which there may be one.
    "mypy-scripts": ["mypy", "--scripts-are-modules", *PYTHON_SCRIPTS],
}

MAY_SKIP = ("no other copy of the vectors exists",)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("linter", LINTERS)
def test_linter(linter: str):
    command = [sys.executable, "-m", *LINTERS[linter]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_vectors_are_the_shared_ones():
    if not SHARED_VECTORS.is_dir():
        pytest.skip("no other copy of the vectors exists")
    ours, theirs = contents(VECTORS), contents(SHARED_VECTORS)
    # The own ones are described below the shared text.
    assert ours.pop("README.md").startswith(theirs.pop("README.md"))
    assert theirs.keys() == ours.keys() - OWN_VECTORS
    assert theirs == {name: ours[name] for name in theirs}


def test_own_vectors_are_described():
    described = (VECTORS / "README.md").read_text()
    for name in OWN_VECTORS:
        assert (VECTORS / name).is_file()
        assert f"`{name}`" in described


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_start_and_parse(script: Path):
    first = script.read_text().splitlines()[0]
    if script.name == "packages":
        return  # the list of packages: data
    assert script.stat().st_mode & 0o111
    assert first in ("#!/bin/sh", "#!/usr/bin/env python3")
    if first == "#!/bin/sh":
        subprocess.run(["/bin/sh", "-n", script], check=True)


def test_shellcheck():
    shell = [path for path in SCRIPTS if path.read_text().startswith("#!/bin/sh")]
    subprocess.run(["shellcheck", *shell], check=True)


def test_package_list_is_well_formed():
    lines = (ROOT / "scripts/packages").read_text().splitlines()
    entries = [line.split() for line in lines if line and not line.startswith("#")]
    groups = ("run", "test", "interop", "fuzz", "compare", "look", "fetch")
    assert all(entry[0] in groups and entry[2] == "#" for entry in entries)
    # A package that is installed here may be unpacked for the virtual machine too.
    names = [(entry[0] == "fetch", entry[1]) for entry in entries]
    assert len(names) == len(set(names))


def test_targets_of_links_in_documents_exist():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    link = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
    missing = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in link.findall(document.read_text())
        if not (document.parent / target).exists()
    ]
    assert missing == []


def test_the_commands_of_the_readme_exist():
    help_text = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    listed = {line.split()[0] for line in help_text.splitlines()}
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text()
        used = set(re.findall(r"(?:`|^ {4}.*?)\bmake ([a-z][a-z-]*)", text, re.MULTILINE))
        assert used
        assert used <= listed, document


def test_the_build_backend_has_one_version():
    """The tests import it as well (launcher/build.py), so two lists contain it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["build-system"]["requires"]) <= set(
        project["project"]["optional-dependencies"]["dev"]
    )
