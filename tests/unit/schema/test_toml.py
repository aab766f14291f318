"""Errors in a TOML file name the line on which the statement begins."""

from __future__ import annotations

import time

from northstar.schema.toml import toml_line


def test_the_line_of_a_value() -> None:
    lines = ["a = 1", "", "[b]", "# c", "c = [", '  "x = 1",', "]", "[[d]]", "e.f = 2"]
    assert toml_line(lines, ("a",)) == 1
    assert toml_line(lines, ("b",)) == 3
    assert toml_line(lines, ("b", "c")) == 5
    assert toml_line(lines, ("b", "x")) == 3
    assert toml_line(lines, ("x",)) is None


def test_a_statement_of_many_lines() -> None:
    lines = ["[a]", "b = [", *['"c",'] * 2000, "]", "d = 1"]
    started = time.process_time()
    assert toml_line(lines, ("a", "b")) == 2
    assert toml_line(lines, ("a", "d")) == len(lines)
    assert time.process_time() - started < 2


def test_a_text_of_many_lines_that_look_like_statements() -> None:
    lines = ["a = '''", *["b = 1"] * 2000, "'''", "c = 1"]
    started = time.process_time()
    assert toml_line(lines, ("a",)) is None
    assert time.process_time() - started < 2
