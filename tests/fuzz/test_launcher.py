"""The launcher's parsers under the sanitizers: corpus, plans of the planner, mutations."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import launcher


@pytest.fixture(scope="module", params=launcher.SOURCES)
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def program(target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("fuzz") / target
    launcher.compile_target(target, output)
    return output


def test_corpus(target, program):
    """The name of a file states whether it is accepted."""
    paths = launcher.corpus(target)
    answers = launcher.replay(program, [path.read_bytes() for path in paths])
    assert len(paths) > 5
    for path, accepted in zip(paths, answers, strict=True):
        assert accepted == path.name.startswith("good-"), path.name


def test_the_seeds_are_accepted(target, program):
    """For plans: the launcher accepts every plan of the planner."""
    seeds = launcher.seeds(target)
    answers = launcher.replay(program, seeds.values())
    assert [name for name, good in zip(seeds, answers, strict=True) if not good] == []


def test_some_mutations(target, program):
    rng = random.Random(1)
    bases = [*launcher.seeds(target).values(), *(p.read_bytes() for p in launcher.corpus(target))]
    answers = launcher.replay(program, [mutated(rng, rng.choice(bases)) for _ in range(10_000)])
    assert 100 < sum(answers) < 9_900


def mutated(rng: random.Random, base: bytes) -> bytes:
    data = bytearray(base)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(data))
        match rng.randrange(3):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case _:
                data[at:at] = data[at : at + rng.randint(1, 300)]
    return bytes(data)


def test_an_input_that_crashes_the_target_is_reported(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nprintf 1\necho 'what went wrong' >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(AssertionError, match=r"(?s)input 1, b'bad'.*what went wrong"):
        launcher.replay(broken, [b"good", b"bad"])
