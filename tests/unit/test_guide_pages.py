"""What a page of the guide may contain, and how its output is compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.guide.page import MAIN, Block, Page, PageError, blocks, pattern
from tests.guide.reader import order

ROOT = Path(__file__).parents[2]
GUIDE = sorted(ROOT.glob("docs/guide/*.md"))
INDEX = "README.md"


def fenced(info: str, text: str = "true\n") -> str:
    return f"Text.\n\n```{info}\n{text}```\n"


def test_blocks_in_the_order_of_the_text():
    text = fenced("sh") + fenced('yaml title="manifest.yaml"', "name: a\n") + fenced("yaml")
    assert blocks(text) == [
        Block("sh", "true\n", 4),
        Block("file", "name: a\n", 9, path="manifest.yaml"),
    ]


@pytest.mark.parametrize(
    ("title", "terminal", "code"),
    [
        ("second terminal", "second terminal", 0),
        ("exit code 3", MAIN, 3),
        ("third terminal, exit code 1", "third terminal", 1),
    ],
)
def test_titles_of_commands(title: str, terminal: str, code: int):
    [block] = blocks(fenced(f'console title="{title}"', "$ false\n"))
    assert (block.terminal, block.exit_code) == (terminal, code)


def test_commands_of_a_console_block():
    [block] = blocks(fenced("console", "$ first\n# second \\\n>   --long\nout\n\nput\n# third\n"))
    assert [(command.text, command.output, command.line) for command in block.commands] == [
        ("first", (), 4),
        ("second \\\n  --long", ("out", "", "put"), 5),
        ("third", (), 10),
    ]


def test_a_block_may_begin_with_ctrl_c():
    [block] = blocks(fenced('console title="second terminal"', "^C\nended\n"))
    [command] = block.commands
    assert (command.text, command.output) == ("^C", ("ended",))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (fenced("bash"), "line 3: bash: write sh or console"),
        (fenced(""), "line 3: not a language, or language title"),
        (fenced("sh exit=1"), "line 3: not a language, or language title"),
        (fenced('sh title="elsewhere"'), "line 3: neither a terminal nor an exit code: elsewhere"),
        ("```sh\ntrue\n", "line 1: the block has no end"),
        ("text\n\n    $ nstar list\n", "line 3: commands are in fenced blocks"),
    ],
)
def test_what_a_page_must_not_contain(text: str, error: str):
    with pytest.raises(PageError, match=f"^{re.escape(error)}"):
        blocks(text)


def test_output_without_a_command_is_refused():
    [block] = blocks(fenced("console", "out\n"))
    with pytest.raises(PageError, match=r"^line 4: output without a command: out"):
        _ = block.commands


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        (["a.b"], "a.b\n", True),
        (["a.b"], "axb\n", False),
        (["pid ... of ..."], "pid 3 of 7\n", True),
        (["pid ... of ..."], "pid 3\nof 7\n", False),
        (["...", "end"], "end\n", True),
        (["...", "end"], "1\n\n2\nend\n", True),
        (["...", "end"], "1\nend\n2\n", False),
        (["..."], "", True),
        ([], "", True),
        ([], "unexpected\n", False),
    ],
)
def test_output_is_compared(expected: list[str], output: str, *, same: bool):
    assert bool(re.fullmatch(pattern(expected), output)) is same


def test_needed_pages_come_first_and_once(tmp_path: Path):
    for name, needs in {
        "a": "",
        "b": "Needs: [A](a.md).",
        "c": "Needs: [B](b.md),\n[A](a.md#x).",
    }.items():
        (tmp_path / f"{name}.md").write_text(f"# {name}\n{needs}\n\n[later](c.md)\n")
    names = [page.path.stem for page in order(Page.read(tmp_path / "c.md"))]
    assert names == ["a", "b", "c"]


@pytest.mark.parametrize("path", GUIDE, ids=lambda path: path.stem)
def test_each_page_of_the_guide(path: Path):
    page = Page.read(path)
    for block in page.blocks:
        assert block.kind != "console" or block.commands
    if path.name != INDEX:
        assert f"]({path.name})" in (path.parent / INDEX).read_text(), "the index has no link to it"
        assert re.search(r"^## Next$", path.read_text(), re.MULTILINE), "it does not say what next"
