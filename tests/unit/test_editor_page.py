"""The page of the guide about editors: its commands are executed, its files fit the schemas."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest

from northstar import manifest
from northstar.runtime import config
from reference.__main__ import ROOT

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
BLOCKS: list[tuple[str, str, str]] = BLOCK.findall((ROOT / "docs/guide/editor.md").read_text())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which everything on the page was done, in its order."""
    directory = tmp_path_factory.mktemp("editor")
    programs = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    for language, title, text in BLOCKS:
        if title:
            (directory / title).write_text(text)
        else:
            assert language == "sh"
            subprocess.run(["sh", "-euc", text], cwd=directory, env=environment, check=True)
    return directory


def test_all_of_the_page_was_done(directory: Path) -> None:
    assert {path.name for path in directory.iterdir()} == {
        "manifest.schema.json",
        "manifest.yaml",
        "northstar.schema.json",
        "northstar.toml",
    }


def test_the_manifest_names_a_schema_that_accepts_it(directory: Path) -> None:
    text = (directory / "manifest.yaml").read_text()
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named
    schema = json.loads((directory / named[1]).read_text())
    assert schema == manifest.schema()
    jsonschema.Draft202012Validator(schema).validate(manifest.loads(text).to_builtins())


def test_the_configuration_names_a_schema_that_accepts_it(directory: Path) -> None:
    text = (directory / "northstar.toml").read_text()
    named = re.match(r"#:schema (\S+)\n", text)
    assert named
    schema = json.loads((directory / named[1]).read_text())
    assert schema == config.schema()
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads(text))
    config.loads(text)
