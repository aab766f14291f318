"""Fuzzes a reader of texts: mutates seeds, and checks a property of each text."""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

TEXT_MAX = 20_000
"""Most bytes of a mutated text."""

SLOW = 2.0
"""Most CPU seconds for one text of this size, on any machine."""


@dataclass(frozen=True)
class Target:
    """A reader of texts.

    Attributes:
        name: of the target, and of the directory of its corpus.
        check: asserts the properties of a text, and returns whether the reader accepts it.
        dictionary: parts that mutations insert.
        vectors: seeds besides the corpus.
    """

    name: str
    check: Callable[[bytes], bool]
    dictionary: list[bytes]
    vectors: list[bytes]

    @property
    def corpus(self) -> Path:
        """Directory of the corpus."""
        return CORPUS / self.name

    def files(self) -> list[Path]:
        """Return the files of the corpus."""
        return sorted(self.corpus.iterdir())

    def seeds(self) -> list[bytes]:
        """Return the corpus and the vectors."""
        return [path.read_bytes() for path in self.files()] + self.vectors

    def mutations(self, pool: list[bytes], rng: random.Random) -> Iterator[bytes]:
        """Yield mutated texts of `pool`. The caller may add texts to it between two steps."""
        while True:
            data = bytearray(rng.choice(pool))
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                at, to = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
                match rng.randrange(6):
                    case 0:
                        data[at:at] = rng.choice(self.dictionary)
                    case 1:
                        data[at : min(to, at + 20)] = rng.choice(self.dictionary)
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
            yield bytes(data[:TEXT_MAX])

    def run(
        self, rng: random.Random, *, count: int | None = None, seconds: float | None = None
    ) -> tuple[int, int]:
        """Check `count` texts, or for `seconds`. Return how many were checked, and accepted.

        Raises:
            AssertionError: a text breaks a property. It was written to the corpus.
        """
        pool = self.seeds()
        end = None if seconds is None else time.monotonic() + seconds
        tried = accepted = 0
        for data in self.mutations(pool, rng):
            if tried == count or (end is not None and time.monotonic() > end):
                break
            tried += 1
            try:
                good = self.check(data)
            except BaseException:
                found = self.corpus / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
                found.write_bytes(data)
                print(f"{found}: breaks a property", file=sys.stderr)
                raise
            accepted += good
            if good and len(pool) < 5000:
                # Most mutations are refused: mutating accepted texts reaches more of the reader.
                pool.append(data)
        return tried, accepted

    def replay(self, path: Path) -> None:
        """Check a file of the corpus. A name `good-*` is accepted, a name `bad-*` refused."""
        accepted = self.check(path.read_bytes())
        if not path.name.startswith("found-"):
            assert accepted == path.name.startswith("good-")

    def main(self) -> None:
        """Run as a command."""
        parser = argparse.ArgumentParser(description=f"Fuzz the reader of the {self.name}.")
        parser.add_argument("--count", type=int, help="stop after this many texts")
        parser.add_argument("--seconds", type=float, help="stop after this time (default: 60)")
        parser.add_argument("--seed", type=int, default=None, help="make the run repeatable")
        args = parser.parse_args()
        seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
        seconds = 60.0 if args.count is None and args.seconds is None else args.seconds
        tried, accepted = self.run(random.Random(seed), count=args.count, seconds=seconds)
        print(f"seed {seed}: {tried} texts, {accepted} of them accepted, no property broken")
