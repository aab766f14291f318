"""Fuzzes the manifest reader: checks properties on mutated texts.

Run it for a time, or for a number of texts::

    python -m tests.fuzz.manifest --seconds 60
    python -m tests.fuzz.manifest --count 100000 --seed 7

It starts with the corpus and the vectors. A text that violates a property is added to the corpus,
which `test_manifest.py` replays, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from northstar import manifest
from northstar.model import ManifestError
from tests import vectors

CORPUS = Path(__file__).parent / "corpus" / "manifest"

SLOW = 2.0
"""Most seconds of CPU time for a text, on any machine."""

DICTIONARY = [
    *(b": ", b"- ", b"? ", b"\n", b"\n  ", b"{", b"}", b"[", b"]", b", ", b"'", b'"', b"|\n"),
    *(b">\n", b"&a ", b"*a", b"!x ", b"!args ", b"!fifo ", b"!namespace ", b"!!str ", b"<<: "),
    *(b"%TAG ! a\n", b"---\n", b"...\n", b"#", b"\t", b"\\", b"\0", b" = ", b"[[a]]\n", b"NaN"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xc2\x85", b"\xe2\x80\xa8", b"\\ud800", b"1979-05-27"),
    *(b"~", b"null", b"true", b"yes", b"0x10", b"0o7", b"017", b"-1", b"1.5", b".inf", b"1e400"),
    *(b"18446744073709551616", b"10M"),
    *(name.encode() + b": " for name in manifest.Manifest.__struct_fields__),
]


def check(data: bytes) -> bool:
    """Assert the properties of `data`; return whether it is a manifest.

    It is a manifest, or it raises a ManifestError with one printable line. The check for all errors
    agrees with the check for the first one. An accepted manifest survives a round trip.
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
    return True


def seeds() -> list[bytes]:
    """Return the corpus and the inputs of the vectors."""
    files = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    inputs = [vector.values[0] for vector in vectors.load("manifest")]
    return files + [
        vector["input"].encode()
        for vector in inputs
        if isinstance(vector, dict) and len(vector["input"]) < 2000
    ]


def mutations(pool: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """Yield mutations of the texts in `pool`, which may grow meanwhile."""
    while True:
        data = bytearray(rng.choice(pool))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at, to = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
            match rng.randrange(6):
                case 0:
                    data[at:at] = rng.choice(DICTIONARY)
                case 1:
                    data[at : min(to, at + 20)] = rng.choice(DICTIONARY)
                case 2:
                    del data[at : min(to, at + 20)]
                case 3:
                    data[at:at] = data[at : min(to, at + 200)]
                case 4:
                    other = rng.choice(pool)
                    cut = rng.randint(0, len(other))
                    data[at:at] = other[cut : cut + 200]
                case _:
                    if at < len(data):
                        data[at] = rng.randrange(256)
        yield bytes(data[:20_000])


def run(rng: random.Random, *, count: int | None, seconds: float | None) -> tuple[int, int]:
    """Check `count` texts, or texts for `seconds`; return how many, and how many were accepted.

    Raises:
        AssertionError: a property is violated. The text was added to the corpus.
    """
    pool = seeds()
    end = None if seconds is None else time.monotonic() + seconds
    tried = accepted = 0
    for data in mutations(pool, rng):
        if tried == count or (end is not None and time.monotonic() > end):
            break
        tried += 1
        try:
            good = check(data)
        except BaseException:
            found = CORPUS / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
            found.write_bytes(data)
            print(f"{found}: violates a property", file=sys.stderr)
            raise
        accepted += good
        if good and len(pool) < 5000:
            # To get deeper: most mutations of a manifest are not accepted.
            pool.append(data)
    return tried, accepted


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Fuzz the manifest reader.")
    parser.add_argument("--count", type=int, help="stop after this number of texts")
    parser.add_argument("--seconds", type=float, help="stop after this time (default: 60)")
    parser.add_argument("--seed", type=int, default=None, help="make the run repeatable")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    seconds = 60.0 if args.count is None and args.seconds is None else args.seconds
    tried, accepted = run(random.Random(seed), count=args.count, seconds=seconds)
    print(f"seed {seed}: {tried} texts, {accepted} of them manifests, no property violated")


if __name__ == "__main__":
    main()
