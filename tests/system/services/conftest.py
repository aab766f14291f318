"""Fixtures of the tests with packages that are there when the runtime starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.containers import PIPES, split
from tests.system.harness import RuntimeProcess, manifest, pack


@pytest.fixture
def stored(store: Path, tmp_path: Path, payload: Path) -> Callable[..., str]:
    """Put a container with these commands into the directory of the repository `fs`."""

    def put(name: str, words: str = "pause", version: str = "1.0.0", **fields: Any) -> str:
        fields = {"args": split(words), "io": PIPES, "autostart": "relaxed", **fields}
        shutil.copy(pack(tmp_path, manifest(name, version, **fields), {"payload": payload}), store)
        return f"{name}:{version}"

    return put


@pytest.fixture
def boot(make_runtime: Callable[..., Any], store: Path) -> Callable[..., RuntimeProcess]:
    """Start a runtime with the repository `fs`; `top` are lines of its configuration."""

    def start(**options: Any) -> RuntimeProcess:
        repositories = {"fs": f'type = {{ fs = {{ dir = "{store}" }} }}', "mem": 'type = "mem"'}
        runtime: RuntimeProcess = make_runtime(repositories=repositories, **options)
        return runtime

    return start
