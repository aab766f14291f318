"""Manifests: Northstar 0.9.2 reads ours, and we read its own, as the same values."""

from __future__ import annotations

import json
import random
from collections import Counter

import msgspec
import pytest

from northstar import manifest
from northstar.model import ManifestError
from tests import vectors
from tests.fuzz.manifest import TARGET
from tests.interop.differences import as_reference, comparable, is_stricter, is_wider
from tests.interop.reference import Answer, ask, examples
from tests.unit.manifest import strategies

COUNT = 2000

MUTATIONS = 12_000


@pytest.fixture(scope="module")
def values() -> list[manifest.Manifest]:
    """Manifests that use every section."""
    return examples(strategies.manifests, COUNT)


@pytest.mark.timeout(600)
def test_generated(values: list[manifest.Manifest]) -> None:
    texts = [manifest.dumps(value) for value in values]
    texts += [json.dumps(value.to_builtins()) for value in values]
    read = refused = 0
    for value, text, answer in zip(values * 2, texts, ask("manifests", texts), strict=True):
        expected = as_reference(value)
        if expected is None:
            assert answer.error is not None, text
            refused += 1
            continue
        assert answer.error is None, f"{answer.error}:\n{text}"
        assert comparable(answer.ok["json"]) == comparable(expected), text
        # Conversely: its manifests in packages, and in answers to an inspect.
        for back in (answer.ok["yaml"], json.dumps(answer.ok["json"])):
            assert comparable(manifest.loads(back).to_builtins()) == comparable(expected), back
        read += 1
    assert read > COUNT
    assert refused > 0


@pytest.mark.timeout(600)
def test_generated_services() -> None:
    """Northstar 0.9.2 refuses a manifest with `service`, and reads it without."""
    values = examples(strategies.services, COUNT // 10)
    texts = [manifest.dumps(value) for value in values]
    for text, answer in zip(texts, ask("manifests", texts), strict=True):
        assert answer.error is not None, text
    rests = [msgspec.structs.replace(value, service=None) for value in values]
    texts = [json.dumps(value.to_builtins(service=False)) for value in values]
    read = 0
    for rest, text, answer in zip(rests, texts, ask("manifests", texts), strict=True):
        expected = as_reference(rest)
        assert (answer.error is None) == (expected is not None), f"{answer.error}:\n{text}"
        if expected is not None:
            assert comparable(answer.ok["json"]) == comparable(expected), text
            read += 1
    assert read > COUNT // 20


def texts() -> list[str]:
    """Return valid and almost valid manifests: mutations of vectors, corpus and generated ones."""
    pool = TARGET.seeds()
    pool += [manifest.dumps(value).encode() for value in examples(strategies.manifests, 100)]
    found: list[str] = []
    for data in TARGET.mutations(pool, random.Random(2)):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue  # both refuse it, and JSON cannot represent it
        found.append(text)
        if manifest.check(text).manifest is not None:
            pool.append(data)  # deeper from here: most mutations are no valid manifest
        if len(found) == MUTATIONS:
            break
    return found


@pytest.mark.timeout(600)
def test_mutated() -> None:
    """Both read an accepted text as the same value; all exceptions are in the list."""
    given = texts()
    count = Counter(compare(t, a) for t, a in zip(given, ask("manifests", given), strict=True))
    # Not only invalid texts, and not only exceptions.
    assert count["same"] > MUTATIONS // 20, count
    assert count["refused"] > MUTATIONS // 20, count
    assert count["service"] > 0, count
    assert count["excepted"] < MUTATIONS // 50, count


def compare(text: str, answer: Answer) -> str:
    """Compare how both read a text; fail on an unlisted difference."""
    try:
        value = manifest.loads(text)
    except ManifestError as error:
        if answer.error is not None:
            return "refused"
        assert is_stricter(str(error), text), f"only we refuse it: {error}\n{text}"
        return "excepted"
    expected = as_reference(value)
    if answer.error is not None:
        assert expected is None or is_wider(text), f"0.9.2 refuses: {answer.error}\n{text}"
        return "excepted" if value.service is None else "service"
    assert expected is not None, f"Northstar 0.9.2 accepts round_robin or service:\n{text}"
    assert comparable(answer.ok["json"]) == comparable(expected), text
    return "same"


def test_vectors() -> None:
    """The vectors are correct for Northstar 0.9.2, including the listed differences."""
    found = [parameter.values[0] for parameter in vectors.load("manifest")]
    for vector, answer in zip(found, ask("manifests", [v["input"] for v in found]), strict=True):
        refused = "stricter" not in vector and ("error" in vector or "wider" in vector)
        assert (answer.error is not None) == refused, vector
        if answer.error is None and "ok" in vector:
            assert comparable(answer.ok["json"]) == comparable(vector["ok"]), vector


def test_vectors_of_services() -> None:
    """Northstar 0.9.2 refuses all texts with a section, and reads what is left without it."""
    found = [parameter.values[0] for parameter in vectors.load("service")]
    given = [vector for vector in found if "service" in vector.get("ok", {})]
    for vector, answer in zip(given, ask("manifests", [v["input"] for v in given]), strict=True):
        assert answer.error is not None, vector
    rests = [{key: v for key, v in vector["ok"].items() if key != "service"} for vector in given]
    texts = [json.dumps(rest) for rest in rests]
    for rest, answer in zip(rests, ask("manifests", texts), strict=True):
        assert comparable(answer.ok["json"]) == comparable(rest)
