"""The packages that both sides install."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from northstar import npk
from tests.system.harness import manifest

PAYLOAD = """
#include <unistd.h>
int main(void) {
    if (write(1, "x", 1) != 1)
        return 1;
    for (;;)
        pause();
}
"""
"""Reports its start, for programs without a runtime, and pauses."""

MOUNTS = {
    "/dev": {"type": "dev"},
    "/proc": {"type": "proc"},
    "/tmp": {"type": "tmpfs", "size": "1M"},
}
APPS = 50
"""Number of installed apps."""
PARALLEL = 20
"""Number of apps in use at once."""
BURST = 50
"""Number of small requests without a pause between them."""

IMAGE_BYTES = 1_000_000
BIG_BYTES = 20_000_000


class Packages(NamedTuple):
    """Packages for both sides.

    Attributes:
        apps: apps that differ in their names.
        signed: one app, signed.
        big: a resource of 20 MB.
        key: the public key.
        root: the directory that the images contain.
    """

    apps: list[Path]
    signed: Path
    big: Path
    key: Path
    root: Path


def compile_payload(directory: Path) -> Path:
    """Compile the program `pause` in `directory`, and return its path."""
    source, program = directory / "pause.c", directory / "pause"
    source.write_text(PAYLOAD)
    compiler = shutil.which("musl-gcc") or "gcc"
    subprocess.run([compiler, "-static", "-Os", "-o", program, source], check=True)
    return program


def pack(directory: Path, count: int) -> Packages:
    """Pack below `directory`, which is empty, `count` apps and the others."""
    root, apps = pack_apps(directory, count)
    text = directory / "manifest.yaml"
    npk.generate("key", directory)
    text.write_text(manifest("signed", init="/pause", mounts=MOUNTS))
    signed = directory / "signed.npk"
    npk.pack(text, root, signed, key=npk.load_secret_key(directory / "key.key"))

    (large := directory / "large").mkdir()
    (large / "data").write_bytes(os.urandom(BIG_BYTES))
    text.write_text(manifest("big", init=None))
    npk.pack(text, large, directory / "big.npk", compression="none")
    return Packages(
        sorted(apps.iterdir()), signed, directory / "big.npk", directory / "key.pub", root
    )


def pack_apps(directory: Path, count: int) -> tuple[Path, Path]:
    """Pack `count` apps below `directory`; return the root and the directory of the packages."""
    root, apps = directory / "root", directory / "apps"
    for path in (root, apps, *(root / target.lstrip("/") for target in MOUNTS)):
        path.mkdir()
    compile_payload(root)
    (root / "ballast").write_bytes(os.urandom(IMAGE_BYTES))
    text = directory / "manifest.yaml"
    text.write_text(manifest("app", init="/pause", mounts=MOUNTS))
    npk.pack(text, root, apps, clones=count)
    return root, apps
