"""Which modules the commands have executed when they answer: each costs time and memory.

A test that fails here asks a question: does the boot need this module? If not, import it where it
is used, or defer it (`northstar.cli.imports`). If it does, raise the bound.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.runtime import container_modules
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until

pytestmark = pytest.mark.root

EXECUTED_RUNTIME = True

RUNTIME_MAX = 311
NSTAR_MAX = 100
"""Measured, and two more."""

LISTS = """
import signal, sys
_before = set(sys.modules)
def _write(*_):
    from types import ModuleType
    with open({path!r}, "w") as file:
        for name, module in sys.modules.items():
            if type(module) is ModuleType and name not in _before | {{"sitecustomize"}}:
                file.write(name + " ")
        file.write("sys.")
"""


def modules_of(runtime: RuntimeProcess, out: Path) -> set[str]:
    """Return what has been executed in a runtime since `site`."""
    out.unlink(missing_ok=True)
    os.kill(runtime.pid, signal.SIGUSR2)
    wait_until(lambda: out.exists() and out.read_text().endswith("sys."), "the list of modules")
    return {*out.read_text().split()} - {"sys."}


def test_the_boot_executes_only_needed_modules(
    make_runtime: Callable[..., Any], tmp_path: Path, payload: Path
) -> None:
    store, site, out = (tmp_path / name for name in ("store", "site", "modules"))
    store.mkdir()
    site.mkdir()
    pack(tmp_path, manifest("hello"), {"payload": payload}).rename(store / "hello.npk")
    code = LISTS.format(path=str(out)) + "signal.signal(signal.SIGUSR2, _write)\n"
    (site / "sitecustomize.py").write_text(code)
    runtime = make_runtime(
        repositories={"fs": f'type = {{ fs = {{ dir = "{store}" }} }}'},
        environment={"PYTHONPATH": str(site)},
        forked=False,
    )
    with runtime.client() as client:
        assert [str(container) for container in client.list()] == ["hello:1.0.0"]
        found = modules_of(runtime, out)
    assert {"asyncio", "northstar.runtime.main", "northstar.schema.yaml"} <= found
    unneeded = {
        "ssl", "_ssl", "hashlib", "_hashlib", "typing_extensions",
        "inspect", "ast", "dis", "tokenize", "textwrap", "dataclasses", "tempfile",
        "yaml", "yaml.reader", "yaml.constructor", "msgspec.inspect", "asyncio.sslproto",
        "click", "rich", "nacl", "cffi",
        "northstar.cgroups.cgroup", "northstar.cgroups.stats", "northstar.devices.image_mount",
        "northstar.launch.seccomp", "northstar.npk.keylist", "northstar.npk.packing",
        "northstar.runtime.data_snapshot", "northstar.runtime.exec",
        "northstar.runtime.log_requests", "northstar.runtime.notify", "northstar.runtime.probes",
    }  # fmt: skip
    assert unneeded & found == set()
    assert len(found) <= RUNTIME_MAX, sorted(found)
    # Without a container too, all that containers need is imported shortly after the boot.
    later = {"northstar.cgroups.cgroup", *container_modules.DEFERRED}
    wait_until(lambda: later <= modules_of(runtime, out), "the modules of containers")


def test_nstar_executes_only_needed_modules(
    make_runtime: Callable[..., Any], tmp_path: Path
) -> None:
    out, site = tmp_path / "modules", tmp_path / "site"
    site.mkdir()
    # nstar ends with os._exit, which calls no function of atexit.
    code = LISTS.format(path=str(out)) + (
        "import os\n_exit = os._exit\ndef _end(code):\n    _write()\n    _exit(code)\n"
        "os._exit = _end\n"
    )
    (site / "sitecustomize.py").write_text(code)
    runtime = make_runtime()
    nstar = str(Path(sys.executable).with_name("nstar"))
    done = subprocess.run(
        [nstar, "--url", runtime.url, "ident"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "extern:0.0.0\n"
    found = {*out.read_text().split()} - {"sys."}
    assert {"northstar.client.blocking", "msgspec"} <= found
    unneeded = {"asyncio", "click", "rich", "yaml", "inspect", "tempfile", "ssl", "hashlib"}
    assert unneeded & found == set()
    assert len(found) <= NSTAR_MAX, sorted(found)
