"""All manifests of the vectors are read and written."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from northstar import manifest
from northstar.model import ManifestError
from tests import vectors

SERVICES = vectors.load("service")
VECTORS = vectors.load("manifest") + SERVICES


def canonical(serialised: dict[str, Any]) -> dict[str, Any]:
    """Sort the sets of a serialised manifest."""
    result = dict(serialised)
    for name in ("capabilities", "suppl_groups"):
        if name in result:
            result[name] = sorted(result[name])
    if isinstance(permissions := result.get("console", {}).get("permissions"), list):
        result["console"] = {"permissions": sorted(permissions)}
    if permissions := result.get("service", {}).get("permissions"):
        result["service"] = {**result["service"], "permissions": sorted(permissions)}
    result["mounts"] = {
        target: {
            key: ",".join(sorted(value.split(","))) if key == "options" else value
            for key, value in mount.items()
        }
        for target, mount in result.get("mounts", {}).items()
    }
    return result


@pytest.mark.parametrize("vector", VECTORS)
def test_vector(vector: dict[str, Any]) -> None:
    if "error" in vector:
        with pytest.raises(ManifestError) as caught:
            manifest.loads(vector["input"])
        assert caught.value.path == vector.get("path", caught.value.path)
        return
    serialised = manifest.loads(vector["input"]).to_builtins()
    assert canonical(serialised) == canonical(vector["ok"])


@pytest.mark.parametrize("vector", VECTORS)
def test_check_agrees(vector: dict[str, Any]) -> None:
    report = manifest.check(vector["input"])
    if "error" in vector:
        assert report.manifest is None
        with pytest.raises(ManifestError) as caught:
            manifest.loads(vector["input"])
        assert str(caught.value) == str(report.errors[0])
    else:
        assert not report.errors
        assert report.manifest == manifest.loads(vector["input"])


@pytest.mark.parametrize("vector", [v for v in VECTORS if "ok" in v.values[0]])
def test_written_and_read_again(vector: dict[str, Any]) -> None:
    value = manifest.loads(vector["input"])
    assert manifest.loads(manifest.dumps(value)) == value
    assert manifest.loads(json.dumps(value.to_builtins())) == value
    assert manifest.from_builtins(value.to_builtins()) == value


@pytest.mark.parametrize("vector", [v for v in SERVICES if "ok" in v.values[0]])
def test_without_service(vector: dict[str, Any]) -> None:
    value = manifest.loads(vector["input"])
    rest = {name: field for name, field in vector["ok"].items() if name != "service"}
    assert canonical(value.to_builtins(service=False)) == canonical(rest)
    again = manifest.from_builtins(value.to_builtins(service=False))
    assert again == msgspec.structs.replace(value, service=None)
