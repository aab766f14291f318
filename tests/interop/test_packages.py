"""Packages in both directions: Northstar 0.9.2 loads ours, and we load and run its own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import npk
from northstar.model import NorthstarError
from tests import vectors
from tests.interop.differences import comparable
from tests.interop.reference import Answer, ask, ask_one
from tests.system.containers import OK, exit_of
from tests.system.harness import RuntimeProcess, manifest

VECTORS = vectors.DIRECTORY / "npk"
NOT_WELL_FORMED = ("extra-entry", "fsimg-unaligned", "junk-prefix", "junk-suffix")
LOADED_BY_THE_PEER = {
    ("duplicate-manifest.npk", None),
    *((f"{name}.npk", key) for name in NOT_WELL_FORMED for key in (None, "good.pub")),
}
"""Malformed packages that Northstar 0.9.2 loads, with the key.

Of two manifests it takes the unsigned one, so with a key the signature check fails.
"""

COMPRESSIONS = ["gzip", "lzo", "xz", "zstd"]

MOUNTS = {
    "/proc": {"type": "proc"},
    "/sys": {"type": "sysfs"},
    "/tmp": {"type": "tmpfs", "size": "1M"},
    "/data/deep": {"type": "persist"},
    "/opt/ro": {"type": "bind", "host": "/none"},
    "/opt/rw": {"type": "bind", "host": "/none", "options": "rw"},
    "/run/sockets": {"type": "sockets"},
}
# Our images contain mount points for these too, but 0.9.2 needs a newer mksquashfs for them.
DEV = {"/dev": {"type": "dev"}}


@pytest.fixture
def root(tmp_path: Path, payload: Path) -> Path:
    """A directory with the payload, a large file and a link."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    shutil.copy(payload, root / "payload")
    (root / "etc/data").write_bytes(os.urandom(100_000) + bytes(300_000))
    (root / "etc/link").symlink_to("data")
    return root


def load(path: Path, key: Path | None = None) -> Answer:
    """Let Northstar 0.9.2 load a package."""
    (answer,) = ask("load", [{"npk": str(path), "key": None if key is None else str(key)}])
    return answer


def key_pair(directory: Path, *, reference: bool) -> tuple[Path, Path]:
    """Generate keys with Northstar 0.9.2 or our tool; return secret and public key."""
    if reference:
        ask_one("generate-key", name="key", out=directory)
    else:
        npk.generate("key", directory)
    return directory / "key.key", directory / "key.pub"


def assert_same(theirs: Answer, ours: npk.Npk) -> None:
    """Check that both have loaded the same."""
    assert theirs.error is None, theirs.error
    assert comparable(theirs.ok["manifest"]) == comparable(ours.manifest.to_builtins())
    assert theirs.ok["version"] == str(ours.version) == "0.9.2"
    assert theirs.ok["fsimg_offset"] == ours.fsimg_offset
    assert theirs.ok["fsimg_size"] == ours.fsimg_size
    hashes, superblock = ours.hashes, ours.superblock
    if hashes is None:
        assert (theirs.ok["hashes"], theirs.ok["data_blocks"]) == (None, None)
        return
    assert superblock is not None
    assert theirs.ok["data_blocks"] == superblock.data_blocks
    assert theirs.ok["hashes"] == {
        "meta": hashes.meta,
        "manifest": hashes.manifest,
        "verity": hashes.verity,
        "verity_offset": hashes.verity_offset,
    }


@pytest.mark.parametrize("compression", ["none", *COMPRESSIONS])
@pytest.mark.parametrize("signed", [False, True])
def test_the_reference_loads_our_packages(
    tmp_path: Path, root: Path, compression: str, *, signed: bool
) -> None:
    secret, public = key_pair(tmp_path, reference=False)
    source = tmp_path / "manifest.yaml"
    source.write_text(manifest("app", mounts={**MOUNTS, **DEV}))
    package = tmp_path / "app.npk"
    key = npk.load_secret_key(secret) if signed else None
    npk.pack(source, root, package, key=key, compression=compression, block_size=65536)
    with npk.open(package) as ours:
        assert_same(load(package), ours)
    if not signed:
        assert load(package, public).error is not None
        return
    with npk.open(package, npk.load_public_key(public)) as ours:
        assert_same(load(package, public), ours)
    assert "invalid signature" in str(load(package, VECTORS / "other.pub").error)
    # Northstar 0.9.2 unpacks it into the same files.
    ask_one("unpack", npk=package, out=tmp_path / "unpacked")
    assert (tmp_path / "unpacked/root/etc/data").read_bytes() == (root / "etc/data").read_bytes()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("signed", [False, True])
def test_we_load_what_the_packed_by_reference(
    tmp_path: Path, root: Path, compression: str, *, signed: bool
) -> None:
    secret, public = key_pair(tmp_path, reference=True)
    packed = packed_by_reference(
        tmp_path, root, compression=compression, key=secret if signed else None
    )
    with npk.open(packed) as ours:
        assert ours.signed == signed
        assert_same(load(packed), ours)
        ours.check_image()
    if signed:
        key = npk.load_public_key(public)
        with npk.open(packed, key) as ours:
            assert_same(load(packed, public), ours)
            npk.verify_image(ours)
        with pytest.raises(NorthstarError):
            npk.open(packed, npk.load_public_key(VECTORS / "other.pub"))


TOOL = """#!/bin/sh
[ "$*" = -version ] && echo "mksquashfs version 4.6" && exit
for word; do
    shift
    [ "$word" = - ] && word=/dev/stdin
    set -- "$@" "$word"
done
exec mksquashfs "$@"
"""


def mksquashfs(directory: Path) -> Path:
    """Return a mksquashfs that reports the version 4.6, as 0.9.2 requires. Debian 12 has 4.5.

    Of the features in use 4.5 lacks only `-pf -`, and attributes of device nodes.
    """
    tool = directory / "mksquashfs"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    return tool


def packed_by_reference(
    directory: Path, root: Path, *, key: Path | None = None, **options: Any
) -> Path:
    """Let Northstar 0.9.2 pack an app with our usual mount points."""
    source = directory / "manifest.yaml"
    source.write_text(manifest("app", args=["self"], mounts=MOUNTS))
    out = directory / "theirs"
    out.mkdir()
    given = {} if key is None else {"key": key}
    tool = mksquashfs(directory)
    packed = ask_one(
        "pack", manifest=source, root=root, out=out, mksquashfs=tool, **given, **options
    )
    path = Path(packed["path"])
    assert path == out / "app-1.0.0.npk"
    assert packed["size"] == path.stat().st_size
    return path


def listing(package: Path, directory: Path) -> dict[str, tuple[int, int, int, str]]:
    """Return mode, uid, gid, and link target or content of everything in a package's image."""
    with npk.open(package) as opened:
        npk.unpack(opened, directory)
    found = {}
    for path in sorted((directory / "root").rglob("*")):
        status = path.lstat()
        what = ""
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = path.read_bytes().hex()
        name = str(path.relative_to(directory / "root"))
        mode = 0 if stat.S_ISLNK(status.st_mode) else status.st_mode
        found[name] = (mode, status.st_uid, status.st_gid, what)
    return found


@pytest.mark.root
def test_both_images_have_the_same_files(tmp_path: Path, root: Path) -> None:
    theirs = packed_by_reference(tmp_path, root)
    npk.pack(tmp_path / "manifest.yaml", root, tmp_path / "ours.npk")
    ours = listing(tmp_path / "ours.npk", tmp_path / "a")
    expected = listing(theirs, tmp_path / "b")
    # 0.9.2 gives a parent directory the mode of the first mount point below it, we use 755.
    assert expected["opt"][:3] == (stat.S_IFDIR | 0o555, 1000, 1000)
    expected["opt"] = (stat.S_IFDIR | 0o755, 1000, 1000, "")
    assert ours == expected
    assert ours["data/deep"][:3] == (stat.S_IFDIR | 0o755, 1000, 1000)


@pytest.mark.root
def test_veritysetup_accepts_the_hash_tree_of_the_reference(tmp_path: Path, root: Path) -> None:
    """Our verification is tested above; veritysetup is the independent check."""
    secret, public = key_pair(tmp_path, reference=True)
    packed = packed_by_reference(tmp_path, root, key=secret)
    with npk.open(packed, npk.load_public_key(public)) as ours:
        image = tmp_path / "fs.img"
        image.write_bytes(b"".join(ours.read_image()))
        assert ours.hashes is not None
        command = [
            "veritysetup", "verify", str(image), str(image), ours.hashes.verity,
            f"--hash-offset={ours.hashes.verity_offset}",
        ]  # fmt: skip
        subprocess.run(command, check=True)


@pytest.mark.root
@pytest.mark.parametrize("signed", [False, True])
def test_we_run_what_the_packed_by_reference(
    make_runtime: Callable[..., RuntimeProcess], tmp_path: Path, root: Path, *, signed: bool
) -> None:
    """A repository without a key takes signed packages too, for kernels without dm-verity."""
    secret, _ = key_pair(tmp_path, reference=True)
    packed = packed_by_reference(tmp_path, root, key=secret if signed else None)
    runtime = make_runtime()
    with runtime.client(subscribe=True) as client:
        assert str(client.install(packed, "mem")) == "app:1.0.0"
        client.start("app:1.0.0")
        assert exit_of(client, "app:1.0.0") == OK
    runtime.stop()


def test_vectors() -> None:
    """Northstar 0.9.2 loads and refuses packages as in the vectors, unless we are stricter."""
    found = [parameter.values[0] for parameter in vectors.load("npk")]
    inputs = [
        {"npk": str(VECTORS / v["input"]), "key": v["key"] and str(VECTORS / v["key"])}
        for v in found
    ]
    for vector, answer in zip(found, ask("load", inputs), strict=True):
        name, key = vector["input"], vector["key"]
        if "ok" in vector:
            assert answer.error is None, vector
            expected = vector["ok"]
            found_manifest = answer.ok["manifest"]
            container = f"{found_manifest['name']}:{found_manifest['version']}"
            assert container == expected["container"], vector
            for field in ("fsimg_offset", "fsimg_size"):
                assert answer.ok[field] == expected[field], vector
        elif (name, key) in LOADED_BY_THE_PEER:
            assert answer.error is None, vector
            assert "stricter" in vector
        else:
            assert answer.error is not None, vector
