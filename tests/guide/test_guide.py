"""Each page of docs/guide is executed as by a reader: see page.py for what it may contain."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.guide.machine import ROOT, Machine
from tests.guide.page import Page
from tests.guide.reader import Reader, order

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PAGES = [page for page in map(Page.read, sorted(ROOT.glob("docs/guide/*.md"))) if page.blocks]
WALK = "your-first-hour.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)
def test_the_page_works(page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with Machine(tmp_path) as machine:
        reader = Reader(machine)
        for one in order(page):
            reader.follow(one)
    if page.path.name == WALK:
        text = f"{WALK}: all commands of the page in {time.monotonic() - began:.1f} s"
        (ROOT / "build").mkdir(exist_ok=True)
        (ROOT / "build/walk.txt").write_text(f"{text}\n")
        with capsys.disabled():
            print(f"\n{text}")
