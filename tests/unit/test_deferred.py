"""Modules whose execution is deferred, see `northstar.deferred`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from northstar.deferred import DeferredModule, defer, execute


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def executed(name: str) -> bool:
    return type(sys.modules[name]) is ModuleType


def test_the_first_attribute_executes_it_once(directory: Path) -> None:
    log = directory / "log"
    code = f"with open({str(log)!r}, 'a') as file:\n    file.write('x')\nvalue = [1]\n"
    (directory / "late.py").write_text(code)
    defer("late")
    import late  # type: ignore[import-not-found]

    assert isinstance(late, DeferredModule)
    assert (late.__name__, late.__file__) == ("late", str(directory / "late.py"))
    assert not log.exists()
    assert late.value is late.value
    assert log.read_text() == "x"
    assert executed("late")
    with pytest.raises(AttributeError, match="module 'late' has no attribute 'other'"):
        _ = late.other


def test_it_can_be_executed_at_once(directory: Path) -> None:
    (directory / "late.py").write_text("value = 7\n")
    defer("late")
    execute(sys.modules["late"])
    assert executed("late")
    execute(sys.modules["late"])
    assert vars(sys.modules["late"])["value"] == 7


def test_from_import_executes_it(directory: Path) -> None:
    (directory / "late.py").write_text("value = 7\n")
    defer("late")
    from late import value

    assert value == 7


def test_submodules_of_a_deferred_package(directory: Path) -> None:
    package = directory / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("from .one import value\nother = 2\n")
    (package / "one.py").write_text("value = 1\n")
    defer("pack")
    import pack.one  # type: ignore[import-not-found]

    assert pack.one.value == 1
    assert not executed("pack")
    assert pack.other == 2
    assert pack.one is sys.modules["pack.one"]


def test_a_module_that_imports_itself(directory: Path) -> None:
    (directory / "late.py").write_text(
        "import late\ntry: late.value\nexcept AttributeError: early = True\nvalue = 1\n"
    )
    defer("late")
    assert (sys.modules["late"].early, sys.modules["late"].value) == (True, 1)


def test_an_error_is_raised_again(directory: Path) -> None:
    (directory / "late.py").write_text("raise ValueError('broken')\n")
    defer("late")
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            _ = sys.modules["late"].value


def test_threads_see_a_complete_module(directory: Path) -> None:
    (directory / "late.py").write_text("import time\nfirst = 1\ntime.sleep(0.1)\nlast = 2\n")
    defer("late")
    late = sys.modules["late"]
    begin = threading.Barrier(8)
    seen: list[int] = []

    def read() -> None:
        begin.wait()
        seen.append(late.last)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [2] * 8


def test_what_is_skipped() -> None:
    module = sys.modules["threading"]
    before = set(sys.modules)
    defer("threading", "no_such_module", "no_such_package.module")
    assert sys.modules["threading"] is module
    assert set(sys.modules) == before


YAML = """
import sys
import northstar.schema.yaml
{0}
import yaml
assert yaml.load('a: [1, x]', Loader=yaml.CSafeLoader) == {{'a': [1, 'x']}}
assert yaml.safe_load('a: 1') == {{'a': 1}}
assert yaml.dump({{'a': 1}}, Dumper=yaml.CSafeDumper) == 'a: 1\\n'
for text, error in (('a: [', yaml.parser.ParserError), ('a: "', yaml.scanner.ScannerError),
                    ('\\1', yaml.reader.ReaderError), ('*x', yaml.composer.ComposerError)):
    try:
        yaml.load(text, Loader=yaml.CSafeLoader)
    except error as found:
        assert type(found) is error
    else:
        raise AssertionError(text)
assert yaml.__with_libyaml__
assert yaml.events is sys.modules['yaml.events']
assert yaml.events.ScalarEvent is northstar.schema.yaml.ScalarEvent
"""


@pytest.mark.parametrize("before", ["", "import yaml.reader", "from yaml import safe_load"])
def test_other_users_of_yaml_get_all_of_it(before: str) -> None:
    subprocess.run([sys.executable, "-c", YAML.format(before)], check=True, timeout=60)


def test_yaml_that_was_imported_before() -> None:
    code = f"import yaml\n{YAML.format('')}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_parser_needs_little_of_yaml() -> None:
    code = "import sys, northstar.schema.yaml; print(*(m for m in sys.modules if 'yaml' in m))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    found = {name for name in done.stdout.split() if name.split(".")[0] == "yaml"}
    assert found == {"yaml", "yaml._yaml", "yaml.error", "yaml.events", "yaml.nodes", "yaml.tokens"}
