"""Which modules the command `northstar` imports, and when: each costs time and memory."""

import subprocess
import sys
from pathlib import Path

LOAD = "from northstar.cli.northstar import _load_runtime; _load_runtime()"


def modules_after(statement: str) -> set[str]:
    """Return the modules that a new interpreter has imported after executing `statement`."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    return set(done.stdout.split())


def test_help_needs_no_runtime() -> None:
    found = modules_after("import northstar.cli.northstar_command")
    assert "click" in found
    assert not {"asyncio", "northstar.runtime.main", "yaml", "nacl"} & found


def test_the_runtime_imports_only_needed_modules() -> None:
    found = modules_after(LOAD)
    assert {"asyncio", "northstar.runtime.main"} <= found
    assert not {"ssl", "click", "nacl", "dataclasses"} & found
    # What only containers with the section `service` need.
    assert not {"graphlib", "northstar.runtime.notify", "northstar.model.notify"} & found


def test_the_usual_command_line_needs_no_click(tmp_path: Path) -> None:
    """`-c FILE` starts the runtime as click would, and reports the same errors."""
    missing = tmp_path / "missing.toml"
    program = (
        "import sys; from northstar.cli import northstar; sys.argv[0] = 'northstar'\n"
        "try: northstar.main()\n"
        "finally: print('click' in sys.modules, flush=True)"
    )

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stderr, done.stdout.strip()

    usual = run("-c", str(missing))
    assert usual == run("--config", str(missing))
    assert usual[2] == "False"
    parsed = run(f"--config={missing}")
    assert parsed == (usual[0], usual[1], "True")
    assert (usual[0], str(missing) in usual[1]) == (1, True)
    # As for click, the word after `-c` is its value.
    assert run("-c", "--help") == (1, usual[1].replace(str(missing), "--help"), "False")


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
        "from northstar.cli import imports; import sys; "
        f"sys.path.insert(0, {str(tmp_path)!r}); imports.import_asyncio()"
    )
    assert {"asyncio", "ssl"} <= modules_after(code)
