"""Fuzzes the package reader: `python -m tests.fuzz.npk --seconds 60`.

Packages of the corpus are damaged at random, mostly in headers and numbers, by changes, cuts and
splices. Opening such a file must succeed or raise PackageError. For an opened package:

- every offset and size is within the file;
- Python's ZIP reader, if it accepts the file, finds the same entries with the same bytes;
- opened with a key, manifest and root digest are the signed ones.

An input that violates a rule is written to the directory of `--findings`. Add those worth keeping
to tests/fuzz/corpus/npk, which a normal test replays.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import struct
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from northstar import npk
from northstar.manifest import dumps, loads
from northstar.model import PackageError
from northstar.npk import key as keys

CORPUS = Path(__file__).parent / "corpus" / "npk"
SEED = b"northstar fuzzing, not a secret!"
"""The key that signed the packages of the corpus."""

_MAGICS = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"verity\0\0", b"---", b"\n")
_NUMBERS = (0, 1, 2, 7, 8, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


def corpus() -> list[Path]:
    """Return the files of the corpus."""
    return sorted(CORPUS.iterdir())


def check(data: bytes, trusted: frozenset[tuple[bytes, str]] = frozenset()) -> str:
    """Open `data` and assert the rules; return the outcome.

    Args:
        data: the file.
        trusted: pairs of manifest and root digest that were signed with the key.
    """
    fd = os.memfd_create("fuzz")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        outcome = _check_opened(fd, data, None)
        signed = _check_opened(fd, data, keys.public_key(SEED), trusted)
        return f"{outcome}, {signed} with a key"
    finally:
        os.close(fd)


def signed_content(path: Path) -> tuple[bytes, str] | None:
    """Return the signed manifest and root digest of a package of the corpus, or None."""
    try:
        with npk.open(path, keys.public_key(SEED)) as package:
            assert package.hashes is not None
            return package.read_entry("manifest.yaml"), package.hashes.verity
    except PackageError:
        return None


def _check_opened(
    fd: int, data: bytes, key: bytes | None, trusted: frozenset[tuple[bytes, str]] = frozenset()
) -> str:
    try:
        package = npk.open(fd, key)
    except PackageError as error:
        assert str(error)
        return "refused"
    with package:
        manifest = package.read_entry("manifest.yaml")
        assert loads(dumps(package.manifest)) == package.manifest
        assert package.fsimg_offset % 4096 == 0
        assert package.fsimg_offset + package.fsimg_size <= package.size == len(data)
        if key is not None:
            assert package.hashes is not None
            assert not trusted or (manifest, package.hashes.verity) in trusted
            assert package.hashes.verity_offset < package.fsimg_size
            try:
                npk.verify_image(package)
            except PackageError:
                return "opened, image refused"
        _compare(package, data)
    return "opened"


def _compare(package: npk.Npk, data: bytes) -> None:
    """Compare with another reader: two readers that disagree on a file enable an attack."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as other:
            names = other.namelist()
            manifest = other.read("manifest.yaml")
            with other.open("fs.img") as image:
                offset = image._orig_compress_start  # type: ignore[attr-defined]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error):
        return
    assert sorted(names) == sorted(entry.name for entry in package.entries())
    assert manifest == package.read_entry("manifest.yaml")
    assert offset == package.fsimg_offset


def mutations(source: random.Random, bases: list[bytes]) -> Iterator[bytes]:
    """Yield damaged packages without end."""
    while True:
        data = bytearray(source.choice(bases))
        for _ in range(source.choice((1, 1, 1, 2, 2, 3, 5))):
            if data:
                _damage(source, data, bases)
        yield bytes(data)


def _damage(source: random.Random, data: bytearray, bases: list[bytes]) -> None:
    at = _place(source, data)
    match source.randrange(7):
        case 0:
            data[at] ^= 1 << source.randrange(8)
        case 1:
            data[at] = source.randrange(256)
        case 2:
            number = source.choice((*_NUMBERS, at, len(data), len(data) - at))
            raw = struct.pack(source.choice(("<H", "<I", "<Q")), number & 0xFFFF)
            if source.random() < 0.7:
                raw = struct.pack("<I", (number + source.randrange(-1, 2)) & 0xFFFF_FFFF)
            data[at : at + len(raw)] = raw
        case 3:
            del data[at : at + source.choice((1, 2, 4, 16, 4096))]
        case 4:
            other = source.choice(bases)
            start = source.randrange(len(other))
            data[at:at] = other[start : start + source.choice((1, 4, 30, 46, 200))]
        case 5:
            del data[at:]
        case _:
            data[at:at] = source.choice(_MAGICS)


def _place(source: random.Random, data: bytearray) -> int:
    """Return a position: mostly in a header, rarely in the long runs of zeros."""
    if source.random() < 0.8:
        magic = source.choice(_MAGICS)
        places: list[int] = []
        at = data.find(magic)
        while at >= 0 and len(places) < 16:
            places.append(at)
            at = data.find(magic, at + 1)
        if places:
            return min(source.choice(places) + source.randrange(80), len(data) - 1)
    return source.randrange(len(data))


def main() -> int:
    """Fuzz until the count or the time is reached, or a rule is violated."""
    parser = argparse.ArgumentParser(description="Fuzz the package reader.")
    parser.add_argument("--count", type=int, help="number of inputs (default: no limit)")
    parser.add_argument("--seconds", type=float, default=60, help="most seconds (default: 60)")
    parser.add_argument("--seed", type=int, help="make the run repeatable")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="a directory")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    bases = [path.read_bytes() for path in corpus() if path.stat().st_size]
    trusted = frozenset(filter(None, map(signed_content, corpus())))
    outcomes: dict[str, int] = {}
    slowest = 0.0
    started = time.monotonic()
    for number, data in enumerate(mutations(random.Random(seed), bases)):
        now = time.monotonic()
        if number == options.count or now - started > options.seconds:
            break
        try:
            outcome = check(data, trusted)
        except Exception:
            options.findings.mkdir(exist_ok=True)
            path = options.findings / f"npk-{seed}-{number}"
            path.write_bytes(data)
            print(f"{path}: violates a rule", file=sys.stderr)
            raise
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        slowest = max(slowest, time.monotonic() - now)
    total = sum(outcomes.values())
    print(f"{total} inputs, {total / (time.monotonic() - started):.0f} a second")
    for outcome, count in sorted(outcomes.items(), key=lambda item: -item[1]):
        print(f"{count:9} {outcome}")
    print(f"slowest {slowest * 1000:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
