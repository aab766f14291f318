"""The site: what is made of the documents. `make site` builds it, with warnings as errors."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from website import build

MAY_SKIP = ("Sphinx is not installed (make .venv/.site)",)
TREE = {
    "README.md": "# First\n\n[contents](docs/contents.md), [a](docs/a.md#part)\n",
    "CHANGELOG.md": "# Changes\n",
    "CONTRIBUTING.md": "# Contributing\n",
    "examples/README.md": "# Examples\n",
    "docs/contents.md": "# Contents\n\n## Guide\n- [A](a.md): a page\n\n## For maintainers\n"
    "- [Changes](../CHANGELOG.md): changes\n- [Contributing](../CONTRIBUTING.md): how\n"
    "- [Examples](../examples/README.md): small\n",
    "docs/a.md": '# A\n## Part\n```yaml title="manifest.yaml"\nname: a\n```\n[b](../b.py)\n',
    "b.py": "print('```')\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tree"
    for path, text in TREE.items():
        build.write(root / path, text)
    monkeypatch.setattr(build, "ROOT", root)
    return root


def test_the_contents_name_each_document_once() -> None:
    """Git hosts show docs/contents.md; the site takes its navigation from it."""
    below = [page for parts in build.contents().values() for _, pages in parts for page in pages]
    documents = {str(path.relative_to(build.ROOT)) for path in build.ROOT.glob("docs/**/*.md")}
    documents |= build.OUTSIDE.keys() - {"README.md"}
    assert [page for page, count in Counter(below).items() if count > 1] == []
    assert documents - set(below) == set()
    assert set(below) - documents == set()


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("README.md", "[a](docs/a.md#part)", "[a](a.md#part)"),
        ("docs/a.md", "[r](../README.md)", "[r](index.md)"),
        ("docs/a.md", "![p](d/p.svg) [b](../b.py)", "![p](d/p.svg) [b](files/b.py.md)"),
        ("docs/a.md", "[w](https://a.b/c) [l](#part)", "[w](https://a.b/c) [l](#part)"),
        ("docs/a.md", "[n](nothing.md)", "[n](nothing.md)"),
        ("docs/a.md", "```sh\n[r](../README.md)\n```", "```sh\n[r](../README.md)\n```"),
        (
            "docs/a.md",
            '````toml title="/a b"\nx\n```\n````\n[r](../README.md)',
            "````{code-block} toml\n:caption: /a b\n\nx\n```\n````\n[r](index.md)",
        ),
    ],
)
def test_documents_become_pages(tree: Path, source: str, text: str, expected: str) -> None:
    (tree / source).write_text(text)
    build.write(tree / "docs/d/p.svg", "")
    assert build.convert(source, lambda _: None) == expected


@pytest.mark.usefixtures("tree")
def test_linked_files_are_pages(tmp_path: Path) -> None:
    build.write_sources(tmp_path / "sources")
    page = (tmp_path / "sources/files/b.py.md").read_text()
    assert page == "---\norphan: true\n---\n# b.py\n\n````python\nprint('```')\n````\n"
    index = (tmp_path / "sources/index.md").read_text()
    assert re.findall(r":caption: (.*)\n\n([^`]*)\n```", index) == [
        ("Guide", "contents.md\na.md"),
        ("For maintainers", "project/changelog.md\nproject/contributing.md\nproject/examples.md"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "loads"),
    [
        ("a.html", '<script src="https://a.b/c.js"></script>', True),
        ("a.html", '<link rel="stylesheet" href="//a.b/c.css">', True),
        ("a.html", '<a href="https://a.b">a</a> <img src="d/a.svg">', False),
        ("a.css", "@font-face { src: url('https://a.b/c.woff2') }", True),
        ("a.css", "@import \"http://a.b\"; a { background: url('x.png') }", True),
        ("a.css", "a { background: url(data:image/png;base64,AA) }", False),
    ],
)
def test_resources_from_elsewhere_are_found(
    tmp_path: Path, name: str, text: str, loads: bool
) -> None:
    (tmp_path / name).write_text(text)
    assert bool(build.external(tmp_path)) is loads


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("# A\n## Other\n[n](nothing.md)\n```nonsense\n```", ("nothing.md", "part", "nonsense")),
        ("# A\n## Part\n", ()),
    ],
)
def test_what_leads_nowhere_ends_the_build(tree: Path, text: str, errors: tuple[str, ...]) -> None:
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("Sphinx is not installed (make .venv/.site)")
    (tree / "docs/a.md").write_text(text)
    sources, site = tree.parent / "sources", tree.parent / "site"
    build.write_sources(sources)
    done = subprocess.run(
        [*build.SPHINX, str(sources), str(site)], capture_output=True, text=True, check=False
    )
    assert [error for error in errors if error not in done.stderr] == []
    assert (done.returncode == 0) == (not errors)
    if not errors:
        assert done.stderr == ""
        assert build.external(site) == []
