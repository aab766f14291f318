"""Which modules the command `northstar` imports, and when: each costs time and memory."""

import subprocess
import sys
from pathlib import Path

LOAD = "from northstar.cli.northstar_command import _load_runtime; _load_runtime()"


def modules_after(statement: str) -> set[str]:
    """Return the modules that a new interpreter has imported after executing `statement`."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    return set(done.stdout.split())


def test_help_needs_no_runtime() -> None:
    found = modules_after("import northstar.cli.northstar_command")
    assert "northstar.runtime.config" in found
    assert not {"asyncio", "northstar.runtime.main", "yaml", "nacl"} & found


def test_the_runtime_imports_only_needed_modules() -> None:
    found = modules_after(LOAD)
    assert {"asyncio", "northstar.runtime.main"} <= found
    assert not {"ssl", "rich", "nacl", "dataclasses"} & found


def test_ssl_can_be_imported_afterwards() -> None:
    assert "ssl" in modules_after(f"{LOAD}; import ssl")
    assert "ssl" in modules_after(
        f"import ssl; {LOAD}; import asyncio; assert asyncio.base_events.ssl"
    )


def test_an_asyncio_that_needs_ssl_gets_it(tmp_path: Path) -> None:
    package = tmp_path / "asyncio"
    package.mkdir()
    (package / "__init__.py").write_text("import ssl\n")
    code = (
        "from northstar.cli import northstar_command; import sys; "
        f"sys.path.insert(0, {str(tmp_path)!r}); northstar_command._import_asyncio()"
    )
    assert {"asyncio", "ssl"} <= modules_after(code)
