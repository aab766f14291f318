"""The attackers' program, and the manifests that they come with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.attacks.enemy import POWERS, Power, Victim
from tests.system.conftest import compile_static
from tests.system.harness import RuntimeProcess


@pytest.fixture(scope="session")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static program that attacks (attack.c)."""
    out = tmp_path_factory.mktemp("attack") / "attack"
    return compile_static(Path(__file__).with_name("attack.c"), out)


@pytest.fixture(params=POWERS, ids=lambda power: power.name)
def power(request: pytest.FixtureRequest) -> Power:
    """What an attacker may do: each test is run with the least and with a lot."""
    found: Power = request.param
    return found


@pytest.fixture
def victim(runtime: RuntimeProcess) -> Iterator[Victim]:
    """The host that is attacked; whatever the test does, it must be the same afterwards."""
    found = Victim(runtime)
    yield found
    found.assert_unharmed()
