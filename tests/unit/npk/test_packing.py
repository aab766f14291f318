"""Packing and unpacking with the real tools. Needs no root."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from northstar import npk
from northstar.manifest import Manifest, loads
from northstar.model import HostError, PackageError
from northstar.npk import key as keys
from northstar.npk import tools

SEED = bytes(range(32))
SALT = bytes(range(32, 64))
BASE = "name: app\nversion: 1.2.3\ninit: /bin/app\nuid: 1234\ngid: 4321\n"


def manifest(more: str = "") -> Manifest:
    return loads(BASE + more)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/app").write_text("#!/bin/sh\n")
    (root / "bin/app").chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/link").symlink_to("../bin/app")
    for path in [*root.rglob("*"), root]:
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    return out


def listing(path: str | Path) -> dict[str, str]:
    """Return type, mode, owner and link target of each file of a squashfs package."""
    with npk.open(path) as package:
        done = subprocess.run(
            ["unsquashfs", "-lln", "-offset", str(package.fsimg_offset), str(path)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"},
        )
    lines = [
        re.fullmatch(r"(\S+ \S+) +(?:\d+|\d+, +\d+) (\S+ \S+) squashfs-root(.*)", line)
        for line in done.stdout.splitlines()
    ]
    return {match[3] or "/": f"{match[1]} {match[2]}" for match in lines if match}


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_files_owners_and_times(root: Path, out: Path):
    packed = npk.pack(manifest("mounts:\n  /proc: {type: proc}\n"), root, out)
    assert packed.paths == (str(out / "app-1.2.3.npk"),)
    assert packed.warnings == ()
    then, never = "2001-09-09 01:46", "1970-01-01 00:00"
    assert listing(packed.paths[0]) == {
        "/": f"drwxr-xr-x 1234/4321 {then}",
        "/bin": f"drwxr-xr-x 1234/4321 {then}",
        "/bin/app": f"-rwxr-xr-x 1234/4321 {then}",
        "/etc": f"drwxr-xr-x 1234/4321 {then}",
        "/etc/link -> ../bin/app": f"lrwxrwxrwx 1234/4321 {then}",
        "/proc": f"dr--r--r-- 1234/4321 {never}",
    }
    assert os.listdir(out) == ["app-1.2.3.npk"]


def test_without_a_root(out: Path):
    packed = npk.pack(manifest("mounts:\n  /dev: {type: dev}\n  /proc: {type: proc}\n"), None, out)
    files = listing(packed.paths[0])
    assert files["/"].startswith("drwxr-xr-x 1234/4321 1970")
    assert files["/dev/null"].startswith("crw-rw-rw- 1234/4321")
    assert "/dev/stderr -> /proc/self/fd/2" in files


@pytest.mark.parametrize("fs", ["squashfs", "erofs"])
def test_same_input_gives_the_same_bytes(root: Path, out: Path, fs: npk.FileSystem):
    content = []
    value = manifest("mounts:\n  /a/b: {type: persist}\n")
    for name in ("one", "two"):
        npk.pack(value, root, out / name, key=SEED, salt=SALT, fs=fs)
        content.append((out / name).read_bytes())
    with npk.open(out / "one") as package:
        head = next(package.read_image())
    # The times of creation are zero (squashfs: mkfs_time; EROFS: build_time).
    assert not any(head[8:12] if fs == "squashfs" else head[1024 + 24 : 1024 + 36])
    assert content[0] == content[1]
    npk.pack(value, root, out / "salted", key=SEED, fs=fs)
    assert (out / "salted").read_bytes() != content[0]


def test_source_date_epoch(root: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    packed = npk.pack(manifest("mounts:\n  /proc: {type: proc}\n"), root, out)
    assert {line[-16:] for line in listing(packed.paths[0]).values()} == {"1970-01-02 00:00"}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(PackageError, match="SOURCE_DATE_EPOCH=yesterday"):
        npk.pack(manifest("mounts:\n  /proc: {type: proc}\n"), root, out)


@pytest.mark.parametrize("fs", ["squashfs", "erofs"])
def test_signed(root: Path, out: Path, fs: npk.FileSystem):
    path = out / "x.npk"
    npk.pack(manifest(), root, path, key=SEED, fs=fs)
    with npk.open(path, keys.public_key(SEED)) as package:
        assert package.filesystem == fs
        assert package.hashes is not None
        assert package.superblock is not None
        assert len(package.superblock.salt) == 32
        package.check_image()
        npk.verify_image(package)
        (out / "image").write_bytes(b"".join(package.read_image()))
        image, offset = str(out / "image"), f"--hash-offset={package.hashes.verity_offset}"
        command = ["/usr/sbin/veritysetup", "verify", offset, image, image]
        subprocess.run([*command, package.hashes.verity], check=True)


def test_other_readers_accept_the_archive(root: Path, out: Path):
    npk.pack(manifest(), root, out / "x.npk", key=SEED)
    subprocess.run([sys.executable, "-m", "zipfile", "-t", out / "x.npk"], check=True)


@pytest.mark.parametrize(
    ("compression", "number"), [("gzip", 1), ("lzo", 3), ("xz", 4), ("zstd", 6), ("none", 1)]
)
def test_compression_and_block_size(root: Path, out: Path, compression: str, number: int):
    # One megabyte of zeros, which compression removes.
    (root / "zeros").write_bytes(bytes(1 << 19) + b"\1" * (1 << 19))
    npk.pack(manifest(), root, out / "x", compression=compression, block_size=8192)
    with npk.open(out / "x") as package:
        head = next(package.read_image())
        assert int.from_bytes(head[12:16], "little") == 8192
        assert int.from_bytes(head[20:22], "little") == number
        assert (package.fsimg_size > 1 << 19) == (compression == "none")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compression": "lz4"}, "squashfs has no compression 'lz4'.*none, gzip, lzo, xz, zstd"),
        ({"compression": "gzip", "fs": "erofs"}, "EROFS has no compression 'gzip'"),
        ({"block_size": 8192, "fs": "erofs"}, "no option for the block size"),
        ({"block_size": 5000}, "5000 is not a block size"),
        ({"block_size": 2048}, "2048 is not a block size"),
        ({"block_size": 1 << 21}, "is not a block size"),
        ({"block_size": -4096}, "is not a block size"),
        ({"salt": b"short"}, "a salt has 32 bytes"),
        ({"clones": 0}, "0 clones"),
        ({"root": "nowhere"}, "No such file"),
        ({"root": __file__}, "is not a directory"),
        ({"out": "/nowhere/x.npk"}, "/nowhere is not a directory"),
        ({"out": "/dev/null"}, "/dev/null exists and is not a regular file"),
        ({"manifest": "nowhere"}, "No such file"),
        ({"manifest": __file__}, r"test_packing\.py: .*line"),
    ],
)
def test_refused(root: Path, out: Path, options: dict[str, object], reason: str):
    arguments = {"manifest": manifest(), "root": root, "out": out, **options}
    with pytest.raises((PackageError, FileNotFoundError), match=reason):
        npk.pack(**arguments)  # type: ignore[arg-type]
    assert os.listdir(out) == []


TARGETS = ["/with space", '/with"quote', "/with\\slash", "/#hash", "/ä/é", "/a'b"]


def test_targets_with_special_characters(out: Path):
    mounts = "".join(f"  {json.dumps(target)}: {{type: persist}}\n" for target in TARGETS)
    packed = npk.pack(manifest(f"mounts:\n{mounts}"), None, out)
    files = listing(packed.paths[0])
    assert {"/", "/ä", *TARGETS} == set(files)


@pytest.mark.parametrize("target", ["/a\\nb", "/a\\tb", "/a\\u007fb"])
def test_refused_targets(out: Path, target: str):
    value = manifest(f'mounts:\n  "{target}": {{type: persist}}\n')
    with pytest.raises(PackageError, match="control character"):
        npk.pack(value, None, out)
    assert os.listdir(out) == []


def test_other_languages_become_yaml(tmp_path: Path, out: Path):
    path = tmp_path / "manifest.json"
    path.write_text('{"name": "x", "version": "1.0.0", "init": "/a", "uid": 1, "gid": 2}')
    packed = npk.pack(path, None, out)
    with npk.open(packed.paths[0]) as package:
        text = package.read_entry("manifest.yaml").decode()
        assert text.startswith("name: x\n")
        assert package.manifest == loads(path.read_text())


def test_existing_package_is_replaced_and_a_link_followed(root: Path, out: Path):
    (out / "real.npk").write_text("old")
    (out / "link.npk").symlink_to("real.npk")
    assert npk.pack(manifest(), root, out / "link.npk").paths == (str(out / "real.npk"),)
    assert (out / "link.npk").is_symlink()
    npk.open(out / "real.npk").close()


def test_not_into_the_packed_root(root: Path):
    with pytest.raises(PackageError, match="is inside of the root directory"):
        npk.pack(manifest(), root, root / "etc")
    assert os.listdir(root / "etc") == ["link"]


@pytest.mark.parametrize(
    ("count", "names"),
    [(1, ["0"]), (3, ["0", "1", "2"]), (10, [f"{i:02}" for i in range(10)])],
)
def test_clones(root: Path, out: Path, count: int, names: list[str]):
    packed = npk.pack(manifest(), root, out, clones=count, key=SEED)
    assert [os.path.basename(path) for path in packed.paths] == [
        f"app-{name}-1.2.3.npk" for name in names
    ]
    for path, name in zip(packed.paths, names, strict=True):
        with npk.open(path, keys.public_key(SEED)) as package:
            assert package.manifest.name == f"app-{name}"
            package.check_image()
            npk.verify_image(package)


def test_a_resource_is_not_cloned(out: Path):
    resource = loads("name: res\nversion: 1.0.0\nuid: 1\ngid: 1\n")
    packed = npk.pack(resource, None, out, clones=5)
    assert os.listdir(out) == ["res-1.0.0.npk"]
    assert len(packed.paths) == 1


def test_clones_go_into_a_directory(out: Path):
    with pytest.raises(PackageError, match="is not a directory"):
        npk.pack(manifest(), None, out / "x.npk", clones=2)


def test_a_clone_does_not_start_after_itself(out: Path):
    text = "name: app\nversion: 1.0.0\ninit: /a\nuid: 1\ngid: 1\nservice: {after: [app-1]}\n"
    with pytest.raises(PackageError, match=r"^service\.after: app-1 is the name of a clone"):
        npk.pack(loads(text), None, out, clones=2)
    assert os.listdir(out) == []
    assert len(npk.pack(loads(text), None, out, clones=1).paths) == 1


def test_missing_tools_are_named(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match=r"mksquashfs is not installed.*package squashfs-tools"):
        npk.pack(manifest(), None, out)
    with pytest.raises(HostError, match=r"mkfs\.erofs is not installed.*package erofs-utils"):
        npk.pack(manifest(), None, out, fs="erofs")
    with pytest.raises(HostError, match="/my/mksquashfs is not a program"):
        npk.pack(manifest(), None, out, mksquashfs="/my/mksquashfs")
    assert os.listdir(out) == []


HELP = 'if [ "$1" = -help-all ]; then exec mksquashfs "$@"; fi'


def test_a_tool_that_is_too_old(tmp_path: Path, out: Path):
    tool = script(tmp_path / "old", "echo 'mksquashfs version 4.2'")
    with pytest.raises(HostError, match="is too old"):
        npk.pack(manifest(), None, out, mksquashfs=tool)


def test_a_tool_that_fails(tmp_path: Path, out: Path):
    """No file stays, and the error contains the tool's message."""
    text = f'{HELP}\necho junk >> "$2"; echo "FATAL ERROR: disk ate itself" >&2; exit 1'
    with pytest.raises(PackageError, match="failing failed: FATAL ERROR: disk ate itself"):
        npk.pack(manifest(), None, out, mksquashfs=script(tmp_path / "failing", text))
    assert os.listdir(out) == []


def test_a_tool_that_is_killed(tmp_path: Path, out: Path):
    tool = script(tmp_path / "killed", f"{HELP}\nkill -9 $$")
    with pytest.raises(PackageError, match="ended by signal 9"):
        npk.pack(manifest(), None, out, mksquashfs=tool)
    assert os.listdir(out) == []


def test_a_tool_that_writes_nothing(tmp_path: Path, out: Path):
    tool = script(tmp_path / "idle", f"{HELP}\nexit 0")
    with pytest.raises(PackageError, match="wrote no image"):
        npk.pack(manifest(), None, out, mksquashfs=tool)
    assert os.listdir(out) == []


def test_labels_where_the_tool_can(tmp_path: Path, out: Path):
    """Tested with two scripts: one tool without -xattrs-add, and one with it."""
    value = manifest("selinux: {mount_context: 'u:object_r:app:s0'}\n")
    without = 'if [ "$1" = -help-all ]; then mksquashfs "$@" | grep -v -- -xattrs-add; exit 1; fi\n'
    old = script(tmp_path / "old", f'{without}exec mksquashfs "$@"')
    packed = npk.pack(value, None, out, clones=2, mksquashfs=old)
    assert len(packed.warnings) == 1
    assert "cannot label files" in packed.warnings[0]
    # This one removes the option before it runs the real tool, which may lack it.
    new = script(
        tmp_path / "new",
        'if [ "$1" = -help-all ]; then mksquashfs "$@"; echo "-xattrs-add <name=val>"; exit 1; fi\n'
        f'echo "$@" > {tmp_path}/arguments\n'
        "for a; do shift\n"
        'case "$a" in -xattrs-add|security.*) ;; *) set -- "$@" "$a";; esac; done\n'
        'exec mksquashfs "$@"',
    )
    assert npk.pack(value, None, out, mksquashfs=new).warnings == ()
    assert (
        "-xattrs-add security.selinux=0tu:object_r:app:s0" in (tmp_path / "arguments").read_text()
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path: Path, out: Path, number: signal.Signals):
    """Ctrl-C while mksquashfs runs: the process is killed, and its files are removed."""
    started = tmp_path / "started"
    text = f'{HELP}\necho junk > "$2"; echo $$ > {started}.new; mv {started}.new {started}\n'
    tool = script(tmp_path / "slow", text + "exec sleep 60")
    (tmp_path / "manifest.yaml").write_text(BASE)
    code = "import sys; from northstar.cli.sextant import main; sys.argv[0] = 'sextant'; main()"
    command = [sys.executable, "-c", code, "pack", "-m", str(tmp_path / "manifest.yaml")]
    with subprocess.Popen(
        [*command, "-o", str(out), "--mksquashfs", tool],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for(started.exists)
        assert len(os.listdir(out)) == 1
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert output == ""
    assert "Traceback" not in errors
    assert os.listdir(out) == []
    child = int(started.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_memory_does_not_grow_with_the_image(root: Path, out: Path):
    with (root / "large").open("wb") as file:
        for _ in range(48):
            file.write(os.urandom(1 << 20))
    tracemalloc.start()
    try:
        npk.pack(manifest(), root, out, compression="none", key=SEED)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert os.path.getsize(out / "app-1.2.3.npk") > 48 << 20
    assert peak < 12 << 20


@pytest.mark.parametrize("fs", ["squashfs", "erofs"])
def test_unpack(root: Path, out: Path, tmp_path: Path, fs: npk.FileSystem):
    packed = npk.pack(manifest(), root, out, key=SEED, fs=fs)
    target = tmp_path / "unpacked"
    with npk.open(packed.paths[0]) as package:
        npk.unpack(package, target)
        assert sorted(os.listdir(target)) == ["manifest.yaml", "root", "signature.yaml"]
        for name in ("manifest.yaml", "signature.yaml"):
            assert (target / name).read_bytes() == package.read_entry(name)
        assert (target / "root/bin/app").read_text() == "#!/bin/sh\n"
        assert os.readlink(target / "root/etc/link") == "../bin/app"
        # Existing files are not overwritten.
        with pytest.raises(PackageError, match="exists already"):
            npk.unpack(package, target)
    assert sorted(os.listdir(target)) == ["manifest.yaml", "root", "signature.yaml"]
    # The unpacked files can be packed again.
    again = npk.pack(target / "manifest.yaml", target / "root", tmp_path / "again.npk")
    with npk.open(again.paths[0]) as package:
        assert package.manifest == manifest()


def test_unpack_beside_other_files(root: Path, out: Path):
    packed = npk.pack(manifest(), root, out)
    with npk.open(packed.paths[0]) as package:
        npk.unpack(package, out)
    assert sorted(os.listdir(out)) == ["app-1.2.3.npk", "manifest.yaml", "root"]


@pytest.mark.parametrize("fs", ["squashfs", "erofs"])
def test_failed_unpack_leaves_nothing(root: Path, out: Path, tmp_path: Path, fs: npk.FileSystem):
    (path,) = npk.pack(manifest(), root, out, fs=fs).paths
    data = bytearray(Path(path).read_bytes())
    with npk.open(path) as package:
        data[package.fsimg_offset + 2000] ^= 0xFF
    damaged = tmp_path / "damaged.npk"
    damaged.write_bytes(data)
    with npk.open(damaged) as package, pytest.raises(PackageError, match="CRC"):
        npk.unpack(package, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unpack_whose_tool_fails(root: Path, out: Path, tmp_path: Path):
    (path,) = npk.pack(manifest(), root, out).paths
    with npk.open(path) as package:
        for directory in (tmp_path / "new", out):
            with pytest.raises(PackageError, match="false failed: exit code 1"):
                npk.unpack(package, directory, unsquashfs="/bin/false")
    assert not (tmp_path / "new").exists()
    assert os.listdir(out) == ["app-1.2.3.npk"]


def test_listing(root: Path, out: Path):
    kinds: list[npk.FileSystem] = ["squashfs", "erofs"]
    for fs in kinds:
        (path,) = npk.pack(manifest(), root, out / fs, fs=fs).paths
        with npk.open(path) as package:
            lines = npk.list_image(package).splitlines()
        assert any(line.endswith(f"{fs}-root/bin/app") for line in lines)
        assert any(f"{fs}-root/etc/link" in line and line.startswith("l") for line in lines)


def test_reasons_of_tools():
    with pytest.raises(PackageError, match="sh failed: first; second"):
        tools.run(["sh", "-c", "echo first >&2; echo second >&2; exit 3"])
    with pytest.raises(PackageError, match="exit code 3"):
        tools.run(["sh", "-c", "exit 3"])
    assert tools.run(["sh", "-c", "echo out; exit 3"], accept=[3]) == ("out\n", "")
