"""The command of a start request."""

from __future__ import annotations

import pytest

from northstar import manifest
from northstar.api import RefusedError, error
from northstar.core.choice import choose_command
from northstar.manifest.bounds import INIT_MAX

APP = manifest.loads("name: a\nversion: 1.0.0\ninit: /bin/a\nuid: 1000\ngid: 1000\n")
RESOURCE = manifest.loads("name: a\nversion: 1.0.0\nuid: 1000\ngid: 1000\n")


def test_the_placeholder_is_replaced_by_the_init_of_the_manifest() -> None:
    assert choose_command(APP, "/strace-<INIT>-<INIT>", (), {}).init == "/strace-/bin/a-/bin/a"
    assert choose_command(RESOURCE, "/x<INIT>", (), {}).init == "/x<INIT>"


@pytest.mark.parametrize("loaded", [APP, RESOURCE])
@pytest.mark.parametrize("init", ["<INIT>" * 150_000, "x" * (INIT_MAX + 1)])
def test_an_init_that_is_too_long(loaded: manifest.Manifest, init: str) -> None:
    """A request may contain so many placeholders that their replacements exhaust the memory."""
    with pytest.raises(RefusedError) as caught:
        choose_command(loaded, init, (), {})
    assert isinstance(caught.value.error, error.InvalidArguments)
    assert f"is too long ({INIT_MAX})" in caught.value.error.cause
    choose_command(loaded, "x" * INIT_MAX, (), {})


def test_a_long_name_of_a_variable_is_cut() -> None:
    with pytest.raises(RefusedError) as caught:
        choose_command(APP, None, (), {"=" * 2**20: ""})
    assert len(str(caught.value.error)) < 200
