"""The strict reading of `sextant check`: unknown keys below cgroups, and limits on memory."""

from __future__ import annotations

import pytest

from northstar import manifest

APP = "name: a\nversion: 1.0.0\ninit: /a\nuid: 1\ngid: 1\nseccomp: {profile: default}\n"


@pytest.mark.parametrize(
    ("section", "path", "hint"),
    [
        ("{memory: {memroy_hard_limit: 1}}", "cgroups.memory.memroy_hard_limit", "memory_hard"),
        ("{pds: {max: 1}}", "cgroups.pds", "'pids'"),
        ("{cpu: {share: 1}}", "cgroups.cpu.share", "'shares'"),
        ("{pids: {max: 1, xyz: 1}}", "cgroups.pids.xyz", "known are max"),
    ],
)
def test_unknown_keys_below_cgroups(section: str, path: str, hint: str):
    text = f"{APP}cgroups: {section}\n"
    [error] = manifest.check(text, strict=True).errors
    assert error.path == path
    assert hint in str(error)
    # The runtime, and --lenient, ignore it.
    report = manifest.check(text)
    assert report.manifest is not None
    assert not report.errors
    assert path in report.warnings[0]
    assert manifest.loads(text) == report.manifest


def test_other_ignored_keys_stay_warnings():
    text = APP + "mounts: {/proc: {type: proc, options: ro}}\n"
    report = manifest.check(text, strict=True)
    assert not report.errors
    assert "options" in report.warnings[0]


def test_names_of_attributes_are_no_unknown_keys():
    text = APP + "cgroups: {memory: {attrs: {memory.use_hierarchy: '1'}}}\n"
    assert not manifest.check(text, strict=True).errors


@pytest.mark.parametrize(
    ("value", "warned"), [(0, True), (16, True), (2**20 - 1, True), (2**20, False), (-1, False)]
)
@pytest.mark.parametrize("key", ["memory_hard_limit", "memory_soft_limit", "memory_swap_limit"])
def test_small_limits_on_memory(key: str, value: int, warned: bool):
    report = manifest.check(f"{APP}cgroups: {{memory: {{{key}: {value}}}}}\n")
    assert [f"cgroups.memory.{key}" in warning for warning in report.warnings] == [True] * warned
