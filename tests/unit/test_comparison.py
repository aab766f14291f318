"""The report of the comparison. Its measurements are not tested."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import pytest

from bench import compare, report, targets
from bench.report import Result, Row

FACTS = {"machine": "A machine", "kernel": "6.1"}


def row(what: str, ours: list[float], reference: list[float]) -> Row:
    return Row(what, "ms", {"ours": ours, "reference": reference})


def test_a_row_has_medians_and_their_ratio():
    text = report.render(Result(FACTS, [row("mount", [1.0, 2.0, 9.0], [8.0, 4.0, 3.0])]))
    assert "## A machine\n\n- kernel: 6.1\n" in text
    assert "| mount | 3 | 2.00 ms | 9.00 | 4.00 ms | 8.00 | 0.50 | 0.33 |  |" in text
    assert report.SLOWER not in text


def test_other_runtimes_have_a_separate_table():
    others = Row("start", "ms", {"ours": [10.0], "reference": [20.0], "crun": [123.4]})
    text = report.render(Result(FACTS, [row("mount", [1.0], [1.0]), others]))
    assert "| mount | 1 | 1.00 ms |  | 1.00 ms |  | 1.00 |  |  |" in text
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


def result(*rows: Row, groups: tuple[str, ...] = ("life",), tree: bool = False) -> Result:
    return Result(FACTS, list(rows), list(groups), tree)


@pytest.mark.parametrize(
    ("ours", "lines"),
    [
        ([2.8, 2.8], []),
        ([2.84, 2.84], []),  # shown as 0.28
        ([1.0, 4.0], []),  # the median
        ([2.9, 2.9], ["- *start, image mounted*: ratio 0.29, wanted 0.28"]),
        (
            [11.0, 11.0],
            [
                "- *start, image mounted*: ratio 1.10, wanted 0.28",
                "- *start, image mounted*: of the least 1.10, wanted 1.00",
            ],
        ),
    ],
)
def test_rows_that_fall_short_are_listed(ours: list[float], lines: list[str]):
    found = result(row("start, image mounted", ours, [10.0, 10.0]))
    assert found.short() == lines
    text = report.render(found)
    assert "| 0.28, of the least 1.00 |" in text
    assert (report.SHORT in text) == bool(lines)
    assert all(line in text for line in lines)


def test_targets_apply_to_selected_groups():
    """So there are none in the virtual machine, and beside another tree."""
    slow = row("start, image mounted", [11.0], [10.0])
    for groups in ((), ("bursts",)):
        found = result(slow, groups=groups)
        assert found.short() == []
        assert report.SHORT not in report.render(found)
        assert "0.28" not in report.render(found)


@pytest.mark.parametrize(
    ("what", "group", "unit", "values", "line"),
    [
        (
            "growth of a start from the first 20 to the last 20 of 500",
            "many",
            "x",
            {"ours": [1.39], "reference": [1.28]},
            "ours 1.39, wanted 1.15",
        ),
        (
            "growth of a start from the first 20 to the last 20 of 500",
            "many",
            "x",
            {"ours": [1.1], "reference": [0.9]},
            None,
        ),
        (
            "`nstar ident` as a command",
            "commands",
            "ms",
            {"ours": [100.0], "reference": [5.0], targets.BARE: [20.0]},
            "ours / `python -c pass` 5.00, wanted 4.00",
        ),
        (
            "`nstar ident` as a command",
            "commands",
            "ms",
            {"ours": [80.0], "reference": [5.0], targets.BARE: [20.0]},
            None,
        ),
        (
            "output of a container, lines of 80 bytes",
            "output",
            "MB/s",
            {"ours": [1.0]},
            "ours, at least 1.00, wanted 50.0",
        ),
        ("output of a container, lines of 80 bytes", "output", "MB/s", {"ours": [51.0]}, None),
    ],
)
def test_other_kinds_of_targets(
    what: str, group: str, unit: str, values: dict[str, list[float]], line: str | None
):
    found = result(Row(what, unit, values), groups=(group,))
    assert found.short() == ([f"- *{what}*: {line}"] if line else [])
    (target,) = targets.of_row(what, [group])
    assert target.words in report.render(found)


def test_a_missing_side_is_reported():
    """A program of Northstar 0.9.2 that is not installed does not hide a target."""
    what = "mount"
    found = result(Row(what, "ms", {"ours": [1.0]}))
    text = report.render(found)
    assert f"| {what} | 1 | 1.00 ms | 1.00 | 0.07 |" in text
    assert found.short() == []
    assert "- *mount*: ratio" in found.unmeasured()
    assert report.UNMEASURED in text
    # Also if other rows of the group were measured, and this one not at all.
    assert "- *umount*: ratio" in found.unmeasured()
    assert not any("ident" in line for line in found.unmeasured())


def test_without_the_client_of_the_other_side():
    what = "`nstar ident` as a command"
    found = result(Row(what, "ms", {"ours": [60.0], targets.BARE: [20.0]}), groups=("commands",))
    assert found.unmeasured() == found.short() == []
    assert f"| {targets.BARE} | 1 | 20.0 ms | 20.0 | 3.00 |" in report.render(found)


@pytest.mark.parametrize(
    ("ours", "is_worse"),
    [([10.4, 10.4], False), ([11.0, 11.0], True), ([9.0, 12.0, 12.0], False)],
)
def test_another_tree(ours: list[float], is_worse: bool):
    found = result(row("mount", ours, [10.0]), groups=(), tree=True)
    text = report.render(found)
    assert "| other tree, median |" in text
    assert "0.9.2" not in text
    assert report.SLOWER not in text
    assert len(found.worse()) == is_worse
    assert all(line in text for line in found.worse())
    assert result(row("mount", ours, [10.0])).worse() == []


def test_each_target_is_of_a_known_group():
    assert {target.group for target in targets.TARGETS} <= set(compare.GROUPS)
    names = [(target.what, target.measure) for target in targets.TARGETS]
    assert len(set(names)) == len(names)


def test_the_document_of_targets_has_their_table():
    text = targets.DOCUMENT.read_text()
    assert targets.table() in text
    assert targets.written(text) == text, "run: python -m bench.targets"


def test_groups_are_selected_by_name(tmp_path: Path):
    assert compare.only("boots,life") == ["boots", "life"]
    with pytest.raises(argparse.ArgumentTypeError, match="no group none; groups: life, bursts"):
        compare.only("life,none")
    with pytest.raises(argparse.ArgumentTypeError, match=r"run `make \.venv/\.run` there"):
        compare.tree(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "ours", "code"),
    [(["--native"], 9.0, 0), (["--only", "life", "--strict"], 9.0, 1), (["--json"], 9.0, 0)],
)
def test_a_short_row_is_a_failure_only_if_strict(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], ours: float, code: int
):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(report, "reference", lambda: Path("/none"))
    measured = result(row("mount", [ours], [1.0]))
    monkeypatch.setattr(compare, "measure", lambda *_: measured)
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    with pytest.raises(SystemExit) as caught:
        compare.main()
    assert caught.value.code == code
