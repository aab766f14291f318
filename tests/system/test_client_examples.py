"""The programs in examples/client, and those in README.md and docs/clients.md, do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.containers import install
from tests.system.harness import TIMEOUT, RuntimeProcess

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
URL = "unix:///run/northstar/console"
EXAMPLES = {
    "statistics": ((), r"ticker:1\.0\.0: [1-9]\d* ns, [1-9]\d* bytes\n"),
    "notifications": (
        ("hello",),
        r"(app is \w+\n)*app has started\n(app is \w+\n)*app has ended: Exit\(0\)\n".replace(
            "app", r"hello:1\.0\.0"
        ),
    ),
    "supervise": (("talker",), r"(LogLine\(.*text='tick'.*\)\n){3}exit: Signalled\(SIGTERM\)\n"),
    "errors": ((), r"refused: unknown:1\.0\.0 is not installed.*\n"),
}
"""The arguments behind the URL, and the output."""


def blocks(document: str) -> list[str]:
    """Return the indented blocks of Python of a document: those that import this package."""
    found = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", (ROOT / document).read_text(), re.MULTILINE)
    return [
        re.sub(r"^ {4}", "", block, flags=re.MULTILINE)
        for block in found
        if re.search(r"^ {4}from northstar", block, re.MULTILINE)
    ]


def run(*arguments: str, url: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "NORTHSTAR_URL": url},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_of_client_programs(
    make_runtime: Callable[..., RuntimeProcess], payload: Path
) -> None:
    runtime = make_runtime(permissions='["full", "logs"]')
    install(runtime, payload, "hello", args="say hello")
    install(runtime, payload, "ticker", args="pause")
    install(runtime, payload, "talker", args="say tick ; say tick ; say tick ; pause")
    with runtime.client() as client:
        client.start("ticker")
    assert {path.stem for path in ROOT.glob("examples/client/*.py")} == EXAMPLES.keys()
    for name, (arguments, output) in EXAMPLES.items():
        found = run(f"{ROOT}/examples/client/{name}.py", runtime.url, *arguments)
        assert re.fullmatch(output, found), f"{name}:\n{found}"
    for document in ("README.md", "docs/clients.md"):
        programs = blocks(document)
        assert programs, document
        for program in programs:
            assert run("-c", program.replace(URL, runtime.url), url=runtime.url)
