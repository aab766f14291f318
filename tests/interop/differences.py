"""All intended differences from Northstar 0.9.2 in reading manifests, with reasons."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from northstar.manifest import Manifest, SchedRoundRobin
from tests.unit.manifest.test_vectors import canonical

Form = dict[str, Any]

STRICTER: Final = [
    # The name becomes a path component, and must not lead elsewhere.
    r"is not a file name \(not empty",
    r"^network\.namespace: the name of a network namespace must not be empty",
    r"is not an absolute path without '\.' and '\.\.'",
    r"is not a relative path without '\.' and '\.\.'",
    r"^name: '\.\.?' is not a name",
    r"^mounts\..* is nested in ",  # Northstar 0.9.2 does not compare all pairs
    r"^cgroups\.pids\b",  # an addition: Northstar 0.9.2 ignores the key
    # One of the two is a mistake; Northstar 0.9.2 silently takes the last.
    r"^(env|sockets|seccomp\.allow|.*\.attrs|custom)\b.*: the key is given twice",
    r"^cgroups\..*: the field is given twice",  # two keys unknown to Northstar 0.9.2
    # Limits of the cost of a small text.
    r"^nested deeper than|^more than \d+ values|^aliases stand for|^more %TAG",
    r"(entries are too many|is too long) \(at most \d+\)",
]
"""Our messages about manifests that Northstar 0.9.2 accepts and we refuse on purpose."""

ANSWERS: Final[dict[str, Any]] = {
    # Northstar 0.9.2 answers the same if the other package is in another repository.
    "install twice": (
        {"install": {"error": {"error": {"install_duplicate": {"container": "app:1.0.0"}}}}},
        {"install": {"error": {"error": {"unexpected": ["error"]}}}},
    ),
}
"""Steps of `test_runtime` with intended differences: our answer, and that of Northstar 0.9.2."""

_NO_NUMBER: Final = re.compile(r"is not [a-z ]+ \(-?\d+ to \d+\)|is not a boolean")
_TAGGED: Final = re.compile(r"![^ \n]* +[-+0-9a-zA-Z]+")
_ONE_KEY: Final = re.compile(
    r"(other|batch|fifo|round_robin|idle|deadline|host|namespace|any|args)['\"]?\s*:"
)
_SERVICE: Final = re.compile(r"\bservice['\"]?\s*[:=\]]")


def is_stricter(message: str, text: str) -> bool:
    """Return whether we refuse a text with this message on purpose, unlike Northstar 0.9.2."""
    if any(re.search(pattern, message) for pattern in STRICTER):
        return True
    # A number with a tag is ambiguous; Northstar 0.9.2 ignores the tag.
    return _NO_NUMBER.search(message) is not None and _TAGGED.search(text) is not None


def is_wider(text: str) -> bool:
    """Return whether we accept a text on purpose, unlike Northstar 0.9.2."""
    # A byte order mark; or the JSON form of a variant, in YAML; or an absent (null) service.
    forms = _ONE_KEY, _SERVICE
    return text.startswith("\ufeff") or any(form.search(text) is not None for form in forms)


def comparable(serialised: Form) -> str:
    """Return a text that is equal for equal manifests: sets sorted, 1 and 1.0 distinct."""
    form = canonical(serialised)
    if "custom" in form:
        form["custom"] = _rounded(form["custom"])
    return json.dumps(form, sort_keys=True)


def _rounded(value: Any) -> Any:
    """Drop the last digits of floating-point numbers: Northstar 0.9.2 reads them inexactly."""
    match value:
        case float():
            return float(f"{value:.13e}")
        case list():
            return [_rounded(item) for item in value]
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
    return value


def as_reference(value: Manifest) -> Form | None:
    """Return the serialised form that Northstar 0.9.2 must read; None if it must refuse it."""
    if value.service is not None:
        return None  # an addition: what must be supervised must not run unsupervised
    if value.sched is not None and isinstance(value.sched.policy, SchedRoundRobin):
        return None  # wider: Northstar 0.9.2 refuses round_robin with every priority
    form = value.to_builtins()
    if "pids" in form.get("cgroups", {}):
        # An addition: Northstar 0.9.2 ignores the key.
        form["cgroups"] = {key: v for key, v in form["cgroups"].items() if key != "pids"}
    return form
