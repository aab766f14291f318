"""Fuzzes the reader of manifests: mutated texts, and the properties of every text.

Run it for a time, or for a number of texts::

    python -m tests.fuzz.manifest --seconds 60
    python -m tests.fuzz.manifest --count 100000 --seed 7

It starts from the corpus and the vectors. A text that breaks a property is written to the corpus,
which `test_manifest.py` replays, and the exit code is 1.
"""

from __future__ import annotations

import json
import time

import msgspec

from northstar import manifest
from northstar.model import ManifestError
from tests import vectors
from tests.fuzz.texts import SLOW, Target

SERVICE = (
    *(manifest.Service, manifest.Restart, manifest.Stop, manifest.Ready, manifest.Health),
    *(manifest.Log, manifest.Update),
)
"""The structs of the section with the most rules between fields."""

DICTIONARY = [
    *(b": ", b"- ", b"? ", b"\n", b"\n  ", b"{", b"}", b"[", b"]", b", ", b"'", b'"', b"|\n"),
    *(b">\n", b"&a ", b"*a", b"!x ", b"!args ", b"!fifo ", b"!namespace ", b"!!str ", b"<<: "),
    *(b"%TAG ! a\n", b"---\n", b"...\n", b"#", b"\t", b"\\", b"\0", b" = ", b"[[a]]\n", b"NaN"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xc2\x85", b"\xe2\x80\xa8", b"\\ud800", b"1979-05-27"),
    *(b"~", b"null", b"true", b"yes", b"0x10", b"0o7", b"017", b"-1", b"1.5", b".inf", b"1e400"),
    *(b"18446744073709551616", b"10M", b"1m 30s", b"0s", b"64KiB", b"!exec ", b"!connect "),
    *(name.encode() + b": " for name in manifest.Manifest.__struct_fields__),
    *(name.encode() + b": " for struct in SERVICE for name in struct.__struct_fields__),
]


def check(data: bytes) -> bool:
    """Assert the properties of `data`, and return whether it is a manifest.

    It is a manifest or a ManifestError with one printable line; the search for all errors agrees
    with the search for the first; and what is accepted can be written and read again.
    """
    started = time.process_time()
    report = manifest.check(data)
    try:
        value = manifest.loads(data)
    except ManifestError as error:
        assert report.manifest is None
        assert str(report.errors[0]) == str(error)
        assert str(error).isprintable(), ascii(str(error))
        assert len(str(error)) < 2000
        return False
    finally:
        assert time.process_time() - started < SLOW
    assert report.manifest == value
    assert manifest.loads(manifest.dumps(value)) == value
    assert manifest.loads(json.dumps(value.to_builtins(), allow_nan=False)) == value
    without = msgspec.structs.replace(value, service=None)
    assert manifest.from_builtins(value.to_builtins(service=False)) == without
    return True


def _vectors() -> list[bytes]:
    # A refused section of a service differs little from an accepted one: mutations find it.
    accepted = [vector for vector in vectors.load("service") if "ok" in vector.values[0]]
    inputs = [vector.values[0] for vector in vectors.load("manifest") + accepted]
    return [
        vector["input"].encode()
        for vector in inputs
        if isinstance(vector, dict) and len(vector["input"]) < 2000
    ]


TARGET = Target("manifest", check, DICTIONARY, _vectors())


if __name__ == "__main__":
    TARGET.main()
