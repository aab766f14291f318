"""sextant as a program, and its images as mounted by the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar import manifest, npk
from tests import vectors

NPK = vectors.DIRECTORY / "npk"
CODE = "import sys; sys.argv[0] = 'sextant'; from northstar.cli.sextant import main; main()"
MANIFEST = """\
name: app
version: 1.0.0
init: /bin/app
uid: 1234
gid: 4321
mounts:
  /dev: {type: dev}
  /proc: {type: proc}
  /var/lib/my data: {type: persist}
service:
  notify: /run/notify
seccomp: {profile: default}
"""
PROGRAM = "\x7fELF, with a damaged header, which packing does not judge"


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "manifest.yaml").write_text(MANIFEST)
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/app").write_text(PROGRAM)
    (tmp_path / "root/bin/app").chmod(0o755)
    (tmp_path / "out").mkdir()
    return tmp_path


def test_from_key_to_files(work: Path):
    """gen-key, check, pack, inspect and unpack in sequence."""
    run("gen-key", "-n", "mine", "-o", work)
    assert stat.S_IMODE((work / "mine.key").stat().st_mode) == 0o600
    run("gen-key", "--name", "mine", "--out", work, code=1)
    assert "app:1.0.0, app" in run("check", work / "manifest.yaml").stdout
    packing: list[str | Path] = ["-m", work / "manifest.yaml", "-r", work / "root"]
    packing += ["-k", work / "mine.key"]
    done = run("pack", *packing, "-o", work / "out", "-c", "zstd", "-b", "65536")
    path = work / "out/app-1.0.0.npk"
    assert done.stdout == f"packed {path}\n"
    assert done.stderr == ""
    short = "name: app, version: 1.0.0, NPK version: 0.9.2, resource container: no\n"
    assert run("inspect", "-s", path).stdout == short
    assert run("inspect", path, "--short").stdout == short
    long = run("inspect", path).stdout
    sections = [line for line in long.splitlines() if line.startswith("## ")]
    assert sections == [
        "## NPK Content",
        "## manifest.yaml",
        "## signature.yaml",
        "## SquashFS listing",
    ]
    assert "squashfs-root/bin/app" in long
    run("unpack", "-n", path, "-o", work / "unpacked")
    assert sorted(os.listdir(work / "unpacked")) == ["manifest.yaml", "root", "signature.yaml"]
    assert (work / "unpacked/root/bin/app").read_text() == PROGRAM


def test_short_resource():
    done = run("inspect", "-s", NPK / "resource-signed.npk")
    assert done.stdout == (
        "name: res, version: 0.1.0, NPK version: 0.9.2, resource container: yes\n"
    )


def test_long_without_signature():
    long = run("inspect", NPK / "unsigned.npk").stdout
    assert "\nNo signature found\n" in long
    assert "## signature.yaml" not in long


def test_clones(work: Path):
    run("pack", "--manifest-path", work / "manifest.yaml", "--out", work / "out", "--clones", "2")
    assert sorted(os.listdir(work / "out")) == ["app-0-1.0.0.npk", "app-1-1.0.0.npk"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pack"], 2, "Missing option '-m'"),
        (["pack", "-m", "manifest.yaml", "-o", "out", "-b", "many"], 2, "not a valid integer"),
        (["nonsense"], 2, "No such command"),
        (["pack", "-m", "missing", "-o", "out"], 1, "error: missing: No such file"),
        (["check", str(NPK / "unsigned.npk")], 1, "unsigned.npk is a package: use sextant inspect"),
        (["check", "-r", "missing", "manifest.yaml"], 1, "missing is not a directory"),
        (["verify", "manifest.yaml"], 2, "Missing option '-k'"),
        (["diff", "manifest.yaml", "missing"], 2, "error: manifest.yaml: it is not a package"),
        (["diff", str(NPK / "unsigned.npk"), "missing"], 2, "error: missing: No such file"),
        (["pack", "-m", "manifest.yaml", "-o", "out", "-c", "rar"], 1, "hint: take one of none"),
        (["pack", "-m", "manifest.yaml", "-o", "out", "-k", "missing"], 1, "cannot read the key"),
        (["pack", "-m", "manifest.yaml", "-o", "out", "-k", "manifest.yaml"], 1, "more bytes"),
        (["pack", "-m", "manifest.yaml", "-o", "out", "--mksquashfs", "/no"], 1, "squashfs-tools"),
        (["inspect", "manifest.yaml"], 1, "error: manifest.yaml: it is not a package"),
        (["inspect", str(NPK / "truncated-half.npk")], 1, "its end is missing"),
        (["unpack", "-n", "out", "-o", "new"], 1, "error: out: it is not a regular file"),
        (["check", "missing"], 1, "No such file"),
        (["gen-key", "-n", "a/b", "-o", "."], 1, "not a name for a key file"),
        (["gen-key", "-n", "a", "-o", "missing"], 1, "No such file"),
    ],
)
def test_user_errors(
    work: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
):
    monkeypatch.chdir(work)
    done = run(*arguments, code=code)
    assert words in done.stderr
    assert done.stdout == ""
    assert sorted(os.listdir(work)) == ["manifest.yaml", "out", "root"]
    assert os.listdir("out") == []


def test_control_characters_do_not_reach_the_terminal(work: Path):
    (work / "manifest.yaml").write_text(MANIFEST + 'custom: "\\e[31mred"\n')
    (work / "root/\x1b[2J").touch()
    run("pack", "-m", work / "manifest.yaml", "-r", work / "root", "-o", work / "x.npk")
    done = run("inspect", work / "x.npk")
    assert "\x1b" not in done.stdout
    assert "\\x1b[2J" in done.stdout


def test_check_reports_all_errors(work: Path):
    (work / "manifest.yaml").write_text("name: a b\nversion: 1\nuid: 0\ngid: 1\n")
    done = run("check", work / "manifest.yaml", code=1)
    assert [word in done.stderr for word in ("name:", "version:", "uid:")] == [True] * 3


@pytest.mark.parametrize("command", ["check", "pack"])
def test_what_only_lenient_accepts(work: Path, command: str):
    words: list[str | Path] = [work / "manifest.yaml"]
    if command == "pack":
        words = ["-m", work / "manifest.yaml", "-o", work / "out"]
    words += ["-r", work / "root"]
    assert run(command, *words).stderr == ""
    changes: list[tuple[Callable[[], object], str]] = [
        (lambda: (work / "root/bin/app").chmod(0o644), "init: /bin/app is not executable"),
        (lambda: (work / "root/bin/app").unlink(), "init: /bin/app is missing"),
        (lambda: _append(work, "cgroups: {memory: {hard_limit: 1}}"), "cgroups.memory.hard_limit"),
    ]
    for change, text in changes:
        change()
        done = run(command, *words, code=1)
        assert text in done.stderr
        assert f"error: {work}/manifest.yaml: " in done.stderr
        done = run(command, *words, "--lenient")
        assert text in done.stderr
        assert "error" not in done.stderr
    # What the runtime accepts has not changed.
    assert manifest.loads((work / "manifest.yaml").read_text()).cgroups is not None


def _append(work: Path, line: str) -> None:
    with open(work / "manifest.yaml", "a") as file:
        file.write(f"{line}\n")


def test_warnings_of_check_and_pack(work: Path):
    text = MANIFEST.replace("seccomp: {profile: default}", "cgroups: {memory: {LIMIT: 16}}")
    (work / "manifest.yaml").write_text(text.replace("LIMIT", "memory_hard_limit"))
    packing: list[str | Path] = ["-m", work / "manifest.yaml", "-o", work / "out"]
    for done in (run("check", work / "manifest.yaml"), run("pack", *packing)):
        assert "seccomp: missing" in done.stderr
        assert "memory_hard_limit: 16 bytes are less than a process needs" in done.stderr
    relative = MANIFEST.replace("/bin/app", "bin/app")
    (work / "manifest.yaml").write_text(relative)
    assert "relative path" in run("check", work / "manifest.yaml", code=1).stderr


def test_verify(work: Path):
    """Every byte of manifest, signature, image and hash tree."""
    for name in ("one", "two"):
        run("gen-key", "-n", name, "-o", work)
    packing: list[str | Path] = ["pack", "-m", work / "manifest.yaml", "-r", work / "root"]
    run(*packing, "-k", work / "one.key", "-o", work / "one.npk")
    run(*packing, "-k", work / "two.key", "-o", work / "two.npk")
    run(*packing, "-o", work / "none.npk")
    keys: list[str | Path] = ["--key", work / "one.pub", "--key", work / "two.pub"]
    done = run("verify", *keys, work / "one.npk", work / "two.npk")
    assert done.stdout.splitlines() == [
        f"{work}/{name}.npk: app:1.0.0, signed with {work}/{name}.pub" for name in ("one", "two")
    ]
    names: list[str | Path] = [work / f"{name}.npk" for name in ("one", "two", "none", "missing")]
    done = run("verify", "--key", work / "one.pub", *names, code=1)
    assert done.stdout.count("\n") == 1
    assert done.stderr.count("error: ") == done.stderr.count("\n") == 3
    for name in ("two", "none", "missing"):
        assert f"error: {work}/{name}.npk: " in done.stderr

    whole = (work / "one.npk").read_bytes()
    with npk.open(work / "one.npk") as package:
        entries = package.entries()
    places = [
        place
        for entry in entries
        for place in range(entry.offset, entry.offset + entry.size, max(1, entry.size // 40))
    ]
    damaged = []
    for place in places:
        path = work / f"damaged-{place}.npk"
        path.write_bytes(whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :])
        damaged.append(path)
    done = run("verify", *keys, *damaged, code=1)
    assert done.stdout == ""
    assert done.stderr.count("error: ") == len(damaged) > 100


def test_diff(work: Path):
    packing: list[str | Path] = ["pack", "-m", work / "manifest.yaml", "-r", work / "root"]
    run(*packing, "-o", work / "a.npk")
    assert run("diff", work / "a.npk", work / "a.npk").stdout == ""
    (work / "manifest.yaml").write_text(MANIFEST.replace("1.0.0", "1.0.1"))
    (work / "root/bin/app").chmod(0o700)
    (work / "root/new\x1b").write_bytes(os.urandom(10_000))
    run(*packing, "-o", work / "b.npk")
    lines = run("diff", work / "a.npk", work / "b.npk", code=1).stdout.splitlines()
    assert lines[:5] == [
        "manifest:",
        '  version: "1.0.0" -> "1.0.1"',
        "files:",
        "  ~ /bin/app: mode 0755 -> 0700",
        "  + /new\\x1b (file, mode 0644, 10000 bytes)",
    ]
    assert lines[5].startswith("package: ")
    assert lines[6].startswith("image: ")
    assert len(lines) == 7
    # Without privilege, and from a root that its user could not read.
    done = subprocess.run(
        [*NO_CAPABILITIES, sys.executable, "-c", CODE, "diff", work / "a.npk", work / "b.npk"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (1, lines, "")


def test_schema():
    schema = json.loads(run("schema").stdout)
    assert {"name", "version", "uid", "gid"} <= set(schema["required"])


def test_version():
    assert run("--version").stdout.startswith("sextant ")


def mounted(path: Path, kind: str, offset: int) -> tuple[dict[str, Any], list[str]]:
    """Mount an image in a new mount namespace.

    Returns mode, uid, gid and device of its files, and the SELinux labels of bin/app.
    """
    code = """
import os, json, stat, sys
found = {}
for directory, names, files in os.walk("."):
    for name in [".", *names, *files] if directory == "." else [*names, *files]:
        path = os.path.normpath(os.path.join(directory, name))
        s = os.lstat(path)
        found[path] = [stat.filemode(s.st_mode), s.st_uid, s.st_gid, s.st_rdev]
labels = [os.getxattr("bin/app", name).decode() for name in os.listxattr("bin/app")]
print(json.dumps([found, labels]))
"""
    script = 'mount -t "$1" -o "ro,loop,offset=$2" "$3" "$4" && cd "$4" && exec "$5" -c "$6"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    point = path.with_suffix(".mnt")
    point.mkdir()
    done = subprocess.run(
        [*command, kind, str(offset), str(path), str(point), sys.executable, code],
        check=True,
        capture_output=True,
        text=True,
    )
    found, labels = json.loads(done.stdout)
    return found, labels


@pytest.mark.root
@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_files_of_the_mounted_image(work: Path, kind: str):
    path = work / "x.npk"
    manifest = work / "manifest.yaml"
    manifest.write_text(MANIFEST + "selinux: {mount_context: 'u:object_r:app:s0'}\n")
    run("pack", "-m", manifest, "-r", work / "root", "-o", path, "-f", kind)
    found, labels = mounted(path, kind, 4096)
    if kind == "erofs":
        assert labels == ["u:object_r:app:s0"]
    assert {(uid, gid) for _, uid, gid, _ in found.values()} == {(1234, 4321)}
    assert found["dev/null"] == ["crw-rw-rw-", 1234, 4321, os.makedev(1, 3)]
    assert found["dev/tty"] == ["crw-rw-rw-", 1234, 4321, os.makedev(5, 0)]
    assert found["dev/fd"][0] == "lrwxrwxrwx"
    names = ("proc", "dev", "var", "var/lib", "var/lib/my data", "run", "run/notify")
    modes = {name: found[name][0] for name in names}
    assert modes.pop("proc") == "dr--r--r--"
    assert set(modes.values()) == {"drwxr-xr-x"}


NO_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_packing_needs_no_privilege(work: Path, kind: str):
    """Without capabilities, from a root with a directory that its owner cannot write to."""
    (work / "root/var/lib").mkdir(parents=True)
    (work / "root/var/lib/file").touch(0o640)
    (work / "root/var/lib").chmod(0o555)
    path = work / "x.npk"
    packing = ["pack", "-m", work / "manifest.yaml", "-r", work / "root", "-o", path, "-f", kind]
    done = subprocess.run(
        [*NO_CAPABILITIES, sys.executable, "-c", CODE, *map(str, packing)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ("only root can make device nodes" in done.stderr) == (kind == "erofs")
    found, _ = mounted(path, kind, 4096)
    assert ("dev/null" in found) == (kind == "squashfs")
    assert found["var/lib"][0] == "dr-xr-xr-x"
    assert found["var/lib/my data"][:3] == ["drwxr-xr-x", 1234, 4321]
    # The root is unchanged: staging creates hard links, and their removal must not change modes.
    for name, mode in (("root/var/lib", 0o555), ("root/var/lib/file", 0o640)):
        assert stat.S_IMODE((work / name).stat().st_mode) == mode


@pytest.mark.root
def test_unpacking_without_privilege_reports_what_is_missing(work: Path):
    path = NPK / "unsigned.npk"
    command = [sys.executable, "-c", CODE, "unpack", "-n", path, "-o", work / "new"]
    done = subprocess.run([*NO_CAPABILITIES, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # unsquashfs works in parallel, so the order of its messages varies. They name the final
    # paths, not those in the temporary directory.
    assert "because Operation not permitted" in done.stderr
    assert f"{work}/new/root" in done.stderr
    assert ".northstar-" not in done.stderr
    assert "more messages of unsquashfs" in done.stderr
    assert (work / "new/root/data/hello").exists()


def test_the_same_salt_makes_the_same_signed_package(work: Path) -> None:
    run("gen-key", "-n", "mine", "-o", work)
    packing: list[str | Path] = ["pack", "-m", work / "manifest.yaml", "-r", work / "root"]
    packing += ["-k", work / "mine.key"]
    made = []
    for name, salt in (("a", "ab" * 32), ("b", "ab" * 32), ("c", "cd" * 32)):
        run(*packing, "--salt", salt, "-o", work / f"{name}.npk")
        made.append((work / f"{name}.npk").read_bytes())
    assert made[0] == made[1] != made[2]
    assert "32 bytes" in run(*packing, "--salt", "ab", "-o", work / "d.npk", code=1).stderr
    assert "hexadecimal" in run(*packing, "--salt", "x", "-o", work / "d.npk", code=2).stderr
    assert not (work / "d.npk").exists()


def test_a_bar_is_drawn_on_a_terminal_for_a_large_root(work: Path) -> None:
    (work / "root/large").write_bytes(os.urandom(17_000_000))
    words = ["pack", "-m", work / "manifest.yaml", "-r", work / "root", "-c", "gzip"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, words), "-o", str(work / "out")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        drawn = b""
        # The inner `with` closes the terminal before the wait, so that the writer cannot block.
        # EIO: the other end is closed.
        with open(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
            while data := terminal.read(65536):
                drawn += data
    assert process.returncode == 0
    assert b"packing" in drawn
    assert b"17.0 MB" in drawn
