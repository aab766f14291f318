"""The report of the comparison. Its measurements are not tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report
from bench.report import Result, Row

FACTS = {"machine": "A machine", "kernel": "6.1"}


def row(what: str, ours: list[float], reference: list[float]) -> Row:
    return Row(what, "ms", {"ours": ours, "reference": reference})


def test_a_row_has_medians_and_their_ratio():
    text = report.render(Result(FACTS, [row("mount", [1.0, 2.0, 9.0], [8.0, 4.0, 3.0])]))
    assert "## A machine\n\n- kernel: 6.1\n" in text
    assert "| mount | 3 | 2.00 ms | 9.00 | 4.00 ms | 8.00 | 0.50 | 0.33 |" in text
    assert report.SLOWER not in text


def test_other_runtimes_have_a_separate_table():
    others = Row("start", "ms", {"ours": [10.0], "reference": [20.0], "crun": [123.4]})
    text = report.render(Result(FACTS, [row("mount", [1.0], [1.0]), others]))
    assert "| mount | 1 | 1.00 ms |  | 1.00 ms |  | 1.00 |  |" in text
    assert "| 0.9.2 | 1 | 20.0 ms | 20.0 | 0.50 |" in text
    assert "| crun | 1 | 123 ms | 123 | 0.08 |" in text


@pytest.mark.parametrize(
    ("ours", "code"), [([1.0], 0), ([1.04], 0), ([1.2], 1), ([1.2, 0.9, 0.8], 0), ([1.4, 0.9], 1)]
)
def test_a_slower_row_needs_a_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ours: list[float],
    code: int,
):
    monkeypatch.setattr(report, "DOCUMENT", tmp_path / "comparison.md")
    result = Result(FACTS, [row("mount", ours, [1.0])])
    monkeypatch.setattr(report, "WHY", {})
    assert report.write([result]) == code
    assert ("has no reason: mount" in capsys.readouterr().err) == bool(code)
    monkeypatch.setattr(report, "WHY", {"mount": "A reason."})
    assert report.write([result]) == 0
    written = (tmp_path / "comparison.md").read_text()
    assert ("- *mount*: A reason." in written) == bool(code)


def test_the_document_matches_the_command():
    """Except for the values: a changed reason must be changed in the document as well."""
    text = report.DOCUMENT.read_text()
    assert text.startswith(report.PREFACE)
    _, *parts = text.split(report.SLOWER)
    assert parts
    for part in parts:
        lines = part.strip().split("\n\n")[0].splitlines()
        assert lines
        for line in lines:
            names, reason = line.removeprefix("- *").split("*: ", 1)
            assert {report.why(name) for name in names.split("; ")} == {reason}
