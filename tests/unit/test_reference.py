"""The generated pages are up to date, and the languages in which they are written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from reference import markdown, mdoc
from reference.__main__ import ROOT, main, pages

PAGES = pages()
MANUALS = sorted(path for path in PAGES if path.startswith("docs/man/"))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text() == PAGES[path], "run: make reference"
    assert re.match(r"<!-- Generated from |\.\\\" Generated from ", PAGES[path])


def test_every_page_there_is_generated() -> None:
    """A page that is no longer made must not stay. The index is written by hand."""
    there = [*(ROOT / "docs/reference").rglob("*"), *(ROOT / "docs/man").rglob("*")]
    found = {str(path.relative_to(ROOT)) for path in there if path.is_file()}
    assert found == {*PAGES, "docs/reference/README.md"}


@pytest.mark.parametrize("path", [path for path in PAGES if path.endswith(".md")])
def test_links_inside_of_a_page_have_a_heading(path: str) -> None:
    titles = re.findall(r"^#+ (.*)$", PAGES[path], re.MULTILINE)
    anchors = [markdown.anchor(title) for title in titles]
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGES[path])) <= set(anchors)


def lint(page: str, file: Path) -> str:
    """Write a manual page to a file, and return what mandoc reports about it."""
    file.write_text(page)
    return subprocess.run(
        ["mandoc", "-T", "lint", file], capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize("path", MANUALS)
def test_mandoc_accepts_a_manual_page(path: str, tmp_path: Path) -> None:
    assert lint(PAGES[path], tmp_path / Path(path).name) == ""


def shown(page: str, tmp_path: Path) -> str:
    """Return a manual page as a terminal shows it, without its fonts."""
    file = tmp_path / "page.7"
    file.write_text(page)
    done = subprocess.run(
        ["mandoc", "-T", "ascii", file], capture_output=True, text=True, check=True
    )
    return re.sub(".\b", "", done.stdout)


HOSTILE = r"""Code: `a\b -x 'y' ~ ^ .Sh`, see signal(7). 'Quoted'. .Nm is no macro! \fB neither."""


def test_a_text_is_shown_as_it_is(tmp_path: Path) -> None:
    blocks = (mdoc.text(HOSTILE), mdoc.items([('.It\'s -a \\ "b"', mdoc.text(HOSTILE))]))
    page = mdoc.page(
        "x", 7, "a page", "nothing",
        [mdoc.section("Description", *blocks, mdoc.example(".a\n'b\n\\c `d`\n\n-e")),
         mdoc.see_also("signal(7)", "nstar(1)")],
    )  # fmt: skip
    assert lint(page, tmp_path / "page.7") == ""
    text = shown(page, tmp_path)
    plain = " ".join(text.split())
    assert plain.count(" ".join(HOSTILE.replace("`", "").split())) == 2
    assert '.It\'s -a \\ "b"' in plain
    assert [line.strip() for line in text.split("\n") if line.strip() in (".a", "'b", "\\c `d`")]
    assert "nstar(1), signal(7)" in plain


def test_markdown() -> None:
    assert markdown.text("a*b <c> `<d>*` [e](f_g) h_i _j_") == (
        r"a\*b \<c> `<d>*` [e](f_g) h_i \_j\_"
    )
    assert markdown.anchor("`cgroups.cpu` is_it") == "cgroupscpu-is_it"
    with pytest.raises(ValueError, match="depend on the reader"):
        markdown.anchor("a - b")
    with pytest.raises(ValueError, match="vertical bar"):
        markdown.table(("a",), [("b|c",)])
    with pytest.raises(ValueError, match="2 cells"):
        markdown.table(("a",), [("b", "c")])


def test_the_command_reports_a_stale_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reference.__main__.ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["reference", "--check"])
    assert main() == 1
    assert {line.removeprefix("stale: ") for line in capsys.readouterr().out.splitlines()} == {
        *PAGES
    }
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["reference"])
    assert main() == 0
    monkeypatch.setattr("sys.argv", ["reference", "--check"])
    capsys.readouterr()
    assert main() == 0
    assert capsys.readouterr().out == ""
