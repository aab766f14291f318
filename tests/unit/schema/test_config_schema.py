"""The JSON Schema of the configuration agrees with the reader."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from northstar import manifest
from northstar.model import ConfigurationError
from northstar.runtime import config
from tests import vectors

SCHEMA = config.schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
BASE = 'run_dir = "/r"\ndata_dir = "/d"\nsocket_dir = "/s"\ncgroup = "north"\n'
CONSOLE = BASE + '[console.global]\nbind = "tcp://x"\npermissions = "full"\n'


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA
    assert SCHEMA["$id"] != manifest.schema()["$id"]


def test_the_command_prints_it() -> None:
    command = [str(Path(sys.executable).with_name("northstar")), "schema"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == SCHEMA


def test_it_has_defaults_with_units() -> None:
    options = SCHEMA["properties"]["console"]["properties"]["options"]["properties"]
    assert options["npk_stream_timeout"]["default"] == "10s"
    assert options["max_npk_install_size"]["default"] == "256MiB"
    assert options["token_validity"]["description"].endswith("Unit: seconds.")


@pytest.mark.parametrize("vector", vectors.load("config"))
def test_vector(vector: dict[str, Any]) -> None:
    if "ok" in vector:
        VALIDATOR.validate(tomllib.loads(vector["input"]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        BASE + "x = 1\n",
        BASE + "shutdown_timeout = 2\n",
        BASE + 'shutdown_timeout = "2"\n',
        BASE + "event_buffer_size = 0\n",
        BASE + '[console]\noptions.max_request_size = "1 MB "\n',
        BASE + "[console]\noptions.max_request_size = 512\n",
        BASE + '[console.global]\nbind = "tcp://x"\n',
        CONSOLE.replace("tcp://x", "http://x"),
        CONSOLE.replace('"full"', '["nope"]'),
        BASE + "[repositories.a]\n",
        BASE + '[repositories.a]\ntype = "fs"\n',
        BASE + "[repositories.a]\ntype.fs = {}\n",
        BASE + "[repositories.a]\ntype.mem.x = 1\n",
        BASE + '[repositories.a]\ntype = "mem"\nverity = "none"\nkey = "k"\n',
        BASE + "[debug]\ncommands = [1]\n",
        BASE + "[logs]\nkept = -1\n",
        BASE + '[logs]\nkept = "much"\n',
        BASE + "logs = 5\n",
    ],
)
def test_it_refuses_what_the_reader_refuses(text: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(text))
    with pytest.raises(ConfigurationError):
        config.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        CONSOLE + "unknown = 1\n",
        CONSOLE.replace("tcp://x", "unix:/run/c"),
        BASE + '[repositories.a]\ntype.mem = {}\ncapacity_size = "1.5 GiB"\n',
        BASE + 'shutdown_timeout = "1m 30s"\ndebug.commands = ["true"]\n',
    ],
)
def test_it_accepts_what_the_reader_accepts(text: str) -> None:
    VALIDATOR.validate(tomllib.loads(text))
    config.loads(text)
