"""Every valid manifest can be written and read again."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from northstar import manifest
from northstar.manifest import Manifest, bounds, mount
from northstar.manifest.load import ManifestContext
from northstar.model import ManifestError, Name, Version
from northstar.schema import scalars
from northstar.schema.emit import emit
from northstar.schema.node import Mapping, Node, Scalar, Sequence
from northstar.schema.values import Nanoseconds, WholeSize
from northstar.schema.yaml import parse
from tests.unit.manifest import strategies

MANIFESTS = strategies.manifests | strategies.services
APP = {"name": "a", "version": "1.0.0", "init": "/a", "uid": 1, "gid": 1}
VALIDATOR = jsonschema.Draft202012Validator(manifest.schema())


@given(MANIFESTS)
def test_yaml_round_trip(value: Manifest) -> None:
    assert manifest.loads(manifest.dumps(value)) == value


@given(MANIFESTS)
def test_json_round_trip(value: Manifest) -> None:
    assert manifest.loads(json.dumps(value.to_builtins())) == value
    assert manifest.loads(json.dumps(value.to_builtins(), ensure_ascii=False)) == value
    assert manifest.from_builtins(value.to_builtins()) == value


@given(MANIFESTS)
def test_serialised_form_fits_schema(value: Manifest) -> None:
    VALIDATOR.validate(json.loads(json.dumps(value.to_builtins())))


@given(MANIFESTS)
def test_serialised_form_is_stable(value: Manifest) -> None:
    again = manifest.loads(manifest.dumps(value))
    assert list(again.to_builtins()) == list(value.to_builtins())
    assert manifest.dumps(again) == manifest.dumps(value)


@given(strategies.services)
def test_without_service_it_is_a_manifest_of_0_9_2(value: Manifest) -> None:
    form = value.to_builtins(service=False)
    assert manifest.from_builtins(form) == structs.replace(value, service=None)
    assert form == structs.replace(value, service=None).to_builtins()
    assert [*value.to_builtins().keys() - form.keys()] == ["service"]


def plain(node: Node) -> Any:
    match node:
        case Scalar():
            return node.text
        case Sequence():
            return [plain(item) for item in node.items]
        case Mapping():
            return {plain(key): plain(value) for key, value in node.pairs}
    raise AssertionError(node)


TREES = st.recursive(
    strategies.ANY_TEXT,
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(strategies.ANY_TEXT, children, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(strategies.ANY_TEXT, TREES, max_size=3))
def test_emitted_text_is_read_by_another_parser(tree: dict[str, Any]) -> None:
    text = emit(tree)
    assert yaml.safe_load(text) == tree
    assert plain(parse(text.encode(), ManifestContext())) == tree


def test_long_keys_are_written_as_explicit_ones() -> None:
    tree = {"k" * 5000: {"\x00" * 900: ["x", {"y" * 1025: "z"}]}}
    assert yaml.safe_load(emit(tree)) == tree
    assert plain(parse(emit(tree).encode(), ManifestContext())) == tree


@given(st.text() | st.binary())
def test_any_text_is_a_manifest_or_an_error(text: str | bytes) -> None:
    report = manifest.check(text)
    try:
        value = manifest.loads(text)
    except ManifestError as error:
        assert report.manifest is None
        assert str(report.errors[0]) == str(error)
    else:
        assert report.manifest == value


def read(kind: scalars.Kind[Any], text: str) -> Any:
    return kind.read(Scalar(text, plain=True), ("x",), ManifestContext())


@given(st.integers(-(2**63), 2**64 - 1))
def test_integers_in_all_bases(number: int) -> None:
    kind = scalars.Integer(-(2**63), 2**64 - 1)
    sign, digits = ("-" if number < 0 else "", abs(number))
    for text in (str(number), f"{sign}{digits:#x}", f"{sign}{digits:#o}", f"{sign}{digits:#b}"):
        assert read(kind, text) == number
    if number >= 0:
        assert read(kind, f"+{number}") == number


@given(st.integers() | st.integers(2**64, 2**80), st.integers(0, 2**64 - 1))
def test_integers_out_of_range(number: int, most: int) -> None:
    kind = scalars.Integer(0, most)
    if 0 <= number <= most:
        assert read(kind, str(number)) == number
    else:
        with pytest.raises(ManifestError, match=r"^x: -?\d+ is not|^x: '.*' is not an integer"):
            read(kind, str(number))


@given(st.integers(0, 2**64 - 1), st.sampled_from(["", "B", "K", "M", "G", "T"]), st.data())
def test_sizes(number: int, unit: str, data: st.DataObject) -> None:
    kind = WholeSize()
    suffix = data.draw(st.sampled_from(["", "B", "iB"])) if unit not in ("", "B") else ""
    factor = (1024 if suffix == "iB" else 1000) ** " KMGT".index(unit.replace("B", "") or " ")
    written = unit + suffix
    written = data.draw(st.sampled_from([written, written.lower(), written.upper()]))
    text = f"{number}{data.draw(st.sampled_from(['', ' ']))}{written}"
    if number * factor < 2**64:
        assert read(kind, text) == number * factor
    else:
        with pytest.raises(ManifestError, match="is not a size"):
            read(kind, text)


@given(strategies.DURATIONS, st.integers(0, 3))
def test_durations(duration: int, blanks: int) -> None:
    kind = Nanoseconds(bounds.SERVICE_DURATION_MAX)
    assert read(kind, kind.dump(duration, tagged=False)) == duration
    seconds, rest = divmod(duration, 10**9)
    space = " " * blanks
    assert read(kind, f"{space}{seconds}{space}s{space}{rest}ns{space}") == duration


@given(st.integers(bounds.SERVICE_DURATION_MAX + 1, 10**30))
def test_durations_out_of_range(duration: int) -> None:
    kind = Nanoseconds(bounds.SERVICE_DURATION_MAX)
    with pytest.raises(ManifestError, match=r"^x: '.*' is (too long|not a duration)"):
        read(kind, f"{duration // 10**9}s {duration % 10**9}ns")


@given(st.integers(0, 2**25))
def test_sizes_of_pages(size: int) -> None:
    kind = WholeSize(bounds.LOG_SIZE_MIN, bounds.LOG_SIZE_MAX, multiple=4096)
    if bounds.LOG_SIZE_MIN <= size <= bounds.LOG_SIZE_MAX and not size % 4096:
        assert read(kind, str(size)) == size
    else:
        with pytest.raises(ManifestError, match=r"^x: '\d+' is (out of range|not a multiple)"):
            read(kind, str(size))


@given(st.text(max_size=20) | st.from_regex(r"(tcp|unix):[0-9/a.]{0,9}", fullmatch=True))
def test_any_address_of_a_probe_is_a_port_or_a_path(text: str) -> None:
    probe = {"connect": text}
    value = {**APP, "service": {"ready": {"probe": probe}}}
    try:
        service = manifest.from_builtins(value).service
    except ManifestError as error:
        assert error.path == "service.ready.probe.connect"
        return
    assert service == manifest.Service(ready=manifest.Ready(manifest.ConnectProbe(text)))
    scheme, _, rest = text.partition(":")
    if scheme == "tcp":
        assert str(int(rest)) == rest
        assert 1 <= int(rest) <= 65535
    else:
        assert scheme == "unix"
        assert rest.startswith("/")
        assert not {".", ".."} & set(rest.split("/"))


@given(st.frozensets(st.sampled_from(manifest.MountOption)), st.randoms())
def test_mount_options(options: frozenset[manifest.MountOption], random: Any) -> None:
    kind = mount.OPTIONS
    names = [option.value for option in options]
    random.shuffle(names)
    assert read(kind, " , ".join(names)) == options
    assert read(kind, kind.dump(options, tagged=False)) == options


@given(
    st.dictionaries(
        st.lists(st.sampled_from("abc"), max_size=3).map(lambda parts: "/" + "/".join(parts)),
        st.sampled_from([manifest.Bind("/x"), manifest.Bind("/x"), manifest.Proc()]),
        max_size=5,
    )
)
def test_nested_binds_are_found(mounts: dict[str, Any]) -> None:
    value = Manifest(name=Name("x"), version=Version(1, 0, 0), uid=1, gid=1, mounts=mounts)
    if strategies.nested(mounts):
        with pytest.raises(ManifestError, match="is nested in"):
            manifest.from_builtins(value.to_builtins())
    else:
        assert manifest.from_builtins(value.to_builtins()) == value


@given(st.floats())
def test_floats_in_custom(number: float) -> None:
    value = manifest.from_builtins(
        {"name": "x", "version": "1.0.0", "uid": 1, "gid": 1, "custom": [number]}
    )
    assert value.custom == [number if math.isfinite(number) else None]
