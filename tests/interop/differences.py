"""Where we read a manifest differently from the peer, on purpose: the whole list, with reasons."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from northstar.manifest import Manifest, SchedRoundRobin
from tests.unit.manifest.test_vectors import canonical

Form = dict[str, Any]

STRICTER: Final = [
    # The name of a thing becomes a path component, and must not lead elsewhere.
    r"is not a file name \(not empty",
    r"^network\.namespace: the name of a network namespace must not be empty",
    r"is not an absolute path without '\.' and '\.\.'",
    r"is not a relative path without '\.' and '\.\.'",
    r"^name: '\.\.?' is not a name",
    r"^mounts\..* is nested in ",  # the peer does not compare all pairs
    r"^cgroups\.pids\b",  # an addition: the peer ignores the key
    # One of the two is a mistake, and the peer takes the last without a word.
    r"^(env|sockets|seccomp\.allow|.*\.attrs|custom)\b.*: the key is given twice",
    r"^cgroups\..*: the field is given twice",  # two keys that the peer does not know
    # Bounds on what a small text may cost.
    r"^nested deeper than|^more than \d+ values|^aliases stand for|^more %TAG",
    r"(entries are too many|is too long) \(at most \d+\)",
]
"""Our messages about manifests that the peer accepts and we refuse on purpose."""

ANSWERS: Final[dict[str, Any]] = {
    # The peer says so too where the other package is in another repository.
    "install twice": (
        {"install": {"error": {"error": {"install_duplicate": {"container": "app:1.0.0"}}}}},
        {"install": {"error": {"error": {"unexpected": ["error"]}}}},
    ),
}
"""Steps of `test_runtime` with our answer and the peer's, where they differ on purpose."""

_NO_NUMBER: Final = re.compile(r"is not [a-z ]+ \(-?\d+ to \d+\)|is not a boolean")
_TAGGED: Final = re.compile(r"![^ \n]* +[-+0-9a-zA-Z]+")
_ONE_KEY: Final = re.compile(
    r"(other|batch|fifo|round_robin|idle|deadline|host|namespace|any|args)['\"]?\s*:"
)


def is_stricter(message: str, text: str) -> bool:
    """Tell whether we refuse a text, with this message, on purpose although the peer accepts it."""
    if any(re.search(pattern, message) for pattern in STRICTER):
        return True
    # A number with a tag says two things; the peer ignores the tag.
    return _NO_NUMBER.search(message) is not None and _TAGGED.search(text) is not None


def is_wider(text: str) -> bool:
    """Tell whether we accept a text on purpose although the peer refuses it."""
    # A byte order mark; the form of variants that JSON has, in YAML.
    return text.startswith("\ufeff") or _ONE_KEY.search(text) is not None


def comparable(serialised: Form) -> str:
    """Return a text that is equal for equal manifests: sets sorted, 1 and 1.0 told apart."""
    form = canonical(serialised)
    if "custom" in form:
        form["custom"] = _rounded(form["custom"])
    return json.dumps(form, sort_keys=True)


def _rounded(value: Any) -> Any:
    """Cut the last digits off floating-point numbers: the peer's JSON reader gets them wrong."""
    match value:
        case float():
            return float(f"{value:.13e}")
        case list():
            return [_rounded(item) for item in value]
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
    return value


def as_peer(value: Manifest) -> Form | None:
    """Return the serialised form in which the peer must read a manifest; None: it refuses it."""
    if value.sched is not None and isinstance(value.sched.policy, SchedRoundRobin):
        return None  # wider: the peer refuses round_robin with every priority
    form = value.to_builtins()
    if "pids" in form.get("cgroups", {}):
        # An addition: the peer ignores the key.
        form["cgroups"] = {key: v for key, v in form["cgroups"].items() if key != "pids"}
    return form
