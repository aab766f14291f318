"""Packages in both directions: the peer loads what we pack, and we load and run what it packs."""

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
from tests.interop.peer import Answer, ask, ask_one
from tests.system.containers import OK, exit_of
from tests.system.harness import RuntimeProcess, manifest

VECTORS = vectors.DIRECTORY / "npk"
NOT_WELL_FORMED = ("extra-entry", "fsimg-unaligned", "junk-prefix", "junk-suffix")
LOADED_BY_THE_PEER = {
    ("duplicate-manifest.npk", None),
    *((f"{name}.npk", key) for name in NOT_WELL_FORMED for key in (None, "good.pub")),
}
"""Archives that are no well-formed packages, and with which key the peer loads them all the same.

Of two manifests it takes the one that was not signed, so there it is the signature that fails.
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
# Our images have mount points for these as well, but the peer needs a newer mksquashfs for them.
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
    """Let the peer load a package."""
    (answer,) = ask("load", [{"npk": str(path), "key": None if key is None else str(key)}])
    return answer


def key_pair(directory: Path, *, peer: bool) -> tuple[Path, Path]:
    """Let the peer, or us, make keys; return secret and public key."""
    if peer:
        ask_one("generate-key", name="key", out=directory)
    else:
        npk.generate("key", directory)
    return directory / "key.key", directory / "key.pub"


def assert_same(theirs: Answer, ours: npk.Npk) -> None:
    """What the peer loaded must be what we loaded."""
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
def test_the_peer_loads_what_we_pack(
    tmp_path: Path, root: Path, compression: str, *, signed: bool
) -> None:
    secret, public = key_pair(tmp_path, peer=False)
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
    # The peer takes it apart into the files that went in.
    ask_one("unpack", npk=package, out=tmp_path / "unpacked")
    assert (tmp_path / "unpacked/root/etc/data").read_bytes() == (root / "etc/data").read_bytes()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("signed", [False, True])
def test_we_load_what_the_peer_packs(
    tmp_path: Path, root: Path, compression: str, *, signed: bool
) -> None:
    secret, public = key_pair(tmp_path, peer=True)
    packed = peer_packs(tmp_path, root, compression=compression, key=secret if signed else None)
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
    """Return a mksquashfs of the version that the peer demands: 4.6. Debian 12 has 4.5.

    All that this one lacks of what the peer uses is `-pf -`, and device nodes' attributes.
    """
    tool = directory / "mksquashfs"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    return tool


def peer_packs(directory: Path, root: Path, *, key: Path | None = None, **options: Any) -> Path:
    """Let the peer pack an app with our usual mount points."""
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
    theirs = peer_packs(tmp_path, root)
    npk.pack(tmp_path / "manifest.yaml", root, tmp_path / "ours.npk")
    ours = listing(tmp_path / "ours.npk", tmp_path / "a")
    expected = listing(theirs, tmp_path / "b")
    # The peer gives a parent the mode of the first mount point below it, we always 755.
    assert expected["opt"][:3] == (stat.S_IFDIR | 0o555, 1000, 1000)
    expected["opt"] = (stat.S_IFDIR | 0o755, 1000, 1000, "")
    assert ours == expected
    assert ours["data/deep"][:3] == (stat.S_IFDIR | 0o755, 1000, 1000)


@pytest.mark.root
def test_the_tool_accepts_the_peers_hash_tree(tmp_path: Path, root: Path) -> None:
    """We verify it ourselves above; here the reference does, so that not both of us are wrong."""
    secret, public = key_pair(tmp_path, peer=True)
    packed = peer_packs(tmp_path, root, key=secret)
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
def test_we_run_what_the_peer_packs(
    make_runtime: Callable[..., RuntimeProcess], tmp_path: Path, root: Path, *, signed: bool
) -> None:
    """Signed packages go into an unkeyed repository too: dm-verity is not for every kernel."""
    secret, _ = key_pair(tmp_path, peer=True)
    packed = peer_packs(tmp_path, root, key=secret if signed else None)
    runtime = make_runtime()
    with runtime.client(subscribe=True) as client:
        assert str(client.install(packed, "mem")) == "app:1.0.0"
        client.start("app:1.0.0")
        assert exit_of(client, "app:1.0.0") == OK
    runtime.stop()


def test_vectors() -> None:
    """The peer loads and refuses what the vectors say, except where we are stricter."""
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
