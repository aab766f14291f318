"""The values of the model: vectors and properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.model import Container, InvalidValueError, Name, Version, VersionReq
from tests import vectors

u64 = st.integers(0, 2**64 - 1)
versions = st.builds(Version, u64, u64, u64)
names = st.from_regex(r"[0-9A-Za-z._-]{1,40}", fullmatch=True).filter(lambda n: n.strip("."))


@pytest.mark.parametrize("vector", vectors.load("name"))
def test_name_vector(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(InvalidValueError):
            Name(vector["input"])
    else:
        assert Name(vector["input"]) == vector["ok"]


@pytest.mark.parametrize("vector", vectors.load("version"))
def test_version_vector(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(InvalidValueError):
            Version.parse(vector["input"])
    else:
        assert str(Version.parse(vector["input"])) == vector["ok"]


@pytest.mark.parametrize("vector", vectors.load("container"))
def test_container_vector(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(InvalidValueError):
            Container.parse(vector["input"])
    else:
        assert str(Container.parse(vector["input"])) == vector["ok"]


@pytest.mark.parametrize("vector", vectors.load("req"))
def test_requirement_vector(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(InvalidValueError):
            VersionReq.parse(vector["input"])
        return
    requirement = VersionReq.parse(vector["input"])
    assert str(requirement) == vector["ok"]["display"]
    matches = [requirement.matches(Version.parse(v)) for v in vector["versions"]]
    assert matches == vector["ok"]["matches"]


@given(versions)
def test_version_round_trip(version: Version) -> None:
    assert Version.parse(str(version)) == version


@given(names, versions)
def test_container_round_trip(name: str, version: Version) -> None:
    container = Container(Name(name), version)
    assert Container.parse(str(container)) == container


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (Name, Version.parse, Container.parse, VersionReq.parse):
        try:
            assert parse(str(parse(text))) == parse(text)
        except InvalidValueError as error:
            assert str(error)


def test_containers_order_by_version_not_by_text() -> None:
    containers = [Container.parse(c) for c in ("a:10.0.0", "a:9.0.0", "B:1.0.0")]
    assert [str(c) for c in sorted(containers)] == ["B:1.0.0", "a:9.0.0", "a:10.0.0"]


def test_a_container_is_immutable() -> None:
    with pytest.raises(AttributeError):
        Container.parse("a:1.0.0").name = Name("b")


@pytest.mark.parametrize("text", ["1 .2", "> =1", "1.*.3", "1.x.*-a", "1,", "1,,2", "1 2", "\t1"])
def test_requirement_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        VersionReq.parse(text)
