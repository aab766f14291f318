"""Fixtures of the attacks: the program, its powers, and the host that is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.attacks.attacker import POWERS, Power, Victim
from tests.system.conftest import compile_static
from tests.system.harness import RuntimeProcess


@pytest.fixture(scope="session")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static program that attacks (attack.c)."""
    out = tmp_path_factory.mktemp("attack") / "attack"
    return compile_static(Path(__file__).with_name("attack.c"), out)


@pytest.fixture(params=POWERS, ids=lambda power: power.name)
def power(request: pytest.FixtureRequest) -> Power:
    """The power of an attacker: each test runs with the least and with larger ones."""
    found: Power = request.param
    return found


@pytest.fixture
def victim(runtime: RuntimeProcess) -> Iterator[Victim]:
    """The host that is attacked; it must be unchanged after the test."""
    found = Victim(runtime)
    yield found
    found.assert_unharmed()
