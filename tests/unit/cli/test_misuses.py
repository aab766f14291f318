"""Mistakes of somebody new that need no runtime: each is answered by a sentence and a next step."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from northstar import launch
from northstar.cli.common import invoke
from northstar.cli.northstar_command import northstar
from northstar.cli.nstar_commands import nstar
from northstar.cli.sextant import sextant
from tests.misuse import CANNOT_CONNECT, FAILED, USAGE, Misuse, check, rows

MANIFEST = {
    "name": "myapp",
    "version": "1.0.0",
    "init": "/hello",
    "uid": "1000",
    "gid": "1000",
    "seccomp": "{profile: default}",
}
CONFIGURATION = """\
run_dir = "run"
data_dir = "data"
socket_dir = "socket"
cgroup = "northstar"
"""

Run = Callable[[Misuse], None]

PROGRAM = Path(launch.__file__).with_name("init")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with right and wrong files."""
    made = tmp_path_factory.mktemp("misuses")
    (made / "good.yaml").write_text("".join(f"{key}: {MANIFEST[key]}\n" for key in MANIFEST))
    (made / "root").mkdir()
    shutil.copy(PROGRAM, made / "root/hello")  # is static, so it needs no other file
    (made / "root/hello").chmod(0o755)
    (made / "empty").mkdir()
    (made / "text").write_text("hello\n")
    (made / "nothing").write_text("")
    os.mkfifo(made / "fifo")
    (made / "loop").symlink_to("loop")
    assert invoke(sextant, ["gen-key", "-n", "my", "-o", str(made)], "sextant") == 0
    (made / "copy.key").write_bytes((made / "my.pub").read_bytes())
    (made / "copy.pub").write_bytes((made / "my.pub").read_bytes())
    packing = ["pack", "-m", str(made / "good.yaml"), "-r", str(made / "root")]
    assert invoke(sextant, [*packing, "-o", str(made / "app.npk")], "sextant") == 0
    (made / "cut.npk").write_bytes((made / "app.npk").read_bytes()[:5000])
    (made / "archive.npk").write_bytes(b"PK\x05\x06" + bytes(18))
    (made / "strace.log").write_text("hello\n")
    (made / "bytes.toml").write_bytes(b'run_dir = "\xff"\n')
    return made


@pytest.fixture
def in_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(directory)
    monkeypatch.delenv("NORTHSTAR_URL", raising=False)
    return directory


PACK = "pack -m good.yaml -r root"


@rows(
    ("pack", "Missing option '-m' / '--manifest-path'", "sextant pack --help", USAGE),
    ("pack -m good.yaml", "Missing option '-o' / '--out'", "sextant pack --help", USAGE),
    ("pack good.yaml", "Missing option '-m' / '--manifest-path'", "sextant pack --help", USAGE),
    ("pack -m no.yaml -o a.npk", "no.yaml: No such file or directory", "check the path"),
    ("pack -m empty -o a.npk", "empty: Is a directory", "name a file, not a directory"),
    ("pack -m app.npk -o a.npk", "app.npk is a package", "use sextant inspect"),
    ("pack -m text -o a.npk", "text: 'hello' is not a map", "write {name: hello"),
    ("pack -m good.yaml -r no -o a.npk", "no is not a directory", "give the root directory"),
    ("pack -m good.yaml -r text -o a.npk", "text is not a directory", "give the root directory"),
    (f"{PACK} -k no.key -o a.npk", "cannot read the key no.key", "sextant gen-key makes keys"),
    (f"{PACK} -k my.pub -o a.npk", "my.pub is a public key", "name the .key file"),
    (f"{PACK} -k copy.key -o a.npk", "copy.key is a public key", "name the .key file"),
    (f"{PACK} -k text -o a.npk", "the key text has fewer bytes", "that sextant gen-key made"),
    (f"{PACK} -k app.npk -o a.npk", "the key app.npk has more bytes", "that sextant gen-key made"),
    (f"{PACK} -k empty -o a.npk", "the key empty is not a regular file", "sextant gen-key made"),
    (f"{PACK} -o no/a.npk", "{}/no is not a directory", "create it first"),
    (f"{PACK} -o text/a.npk", "{}/text is not a directory", "create it first"),
    (f"{PACK} -o root/a.npk", "{}/root/a.npk is inside of the root", "write the package elsewhere"),
    (f"{PACK} -o fifo", "{}/fifo exists and is not a regular file", "choose another name"),
    (f"{PACK} -o /proc/a.npk", "/proc/a.npk: No such file or directory", "check the path"),
    (f"{PACK} -o a.npk -c zip", "squashfs has no compression 'zip'", "take one of none, gzip"),
    (f"{PACK} -o a.npk -b 1000", "1000 is not a block size", "a power of two such as 131072"),
    (f"{PACK} -o a.npk -b big", "'big' is not a valid integer", "sextant pack --help", USAGE),
    (f"{PACK} -o a.npk --fs ext4", "'ext4' is not one of 'squashfs', 'erofs'", "", USAGE),
    (f"{PACK} -o a.npk --fs erofs -b 4096", "no option for the block size", "leave it out"),
    (f"{PACK} -o a.npk --salt zz", "'zz' is not hexadecimal", "sextant pack --help", USAGE),
    (f"{PACK} -o a.npk --salt abcd", "a salt has 32 bytes, not 2", "write 64 hexadecimal digits"),
    (f"{PACK} -o no --clones 3", "no is not a directory", "create it first"),
    (f"{PACK} -o empty --clones 0", "0 clones cannot be made", "a number in this range"),
    (f"{PACK} -o a.npk --mksquashfs /no", "/no is not a program", "package squashfs-tools"),
    (f"{PACK} --rot root -o a.npk", "No such option '--rot'", "Did you mean", USAGE),
    ("inspect", "Missing argument 'NPK'", "sextant inspect --help", USAGE),
    ("inspect no.npk", "no.npk: No such file or directory", "check the path"),
    ("inspect empty", "empty: it is not a regular file", "name a package"),
    ("inspect fifo", "fifo: it is not a regular file", "name a package"),
    ("inspect text", "text: it is not a package", "pack it again"),
    ("inspect nothing", "nothing: it is not a package", "pack it again"),
    ("inspect cut.npk", "cut.npk: it is not a package, or its end is missing", "copy it again"),
    ("inspect archive.npk", "archive.npk: manifest.yaml is missing", "pack it again"),
    ("inspect --unsquashfs /no app.npk", "/no is not a program", "package squashfs-tools"),
    ("inspect app.npk app.npk", "unexpected extra argument (app.npk)", "", USAGE),
    ("unpack app.npk", "Missing option '-n' / '--npk'", "sextant unpack --help", USAGE),
    ("unpack -n no.npk -o out", "no.npk: No such file or directory", "check the path"),
    ("unpack -n app.npk -o text", "text: File exists", "choose another name"),
    ("check", "Missing argument 'MANIFEST'", "sextant check --help", USAGE),
    ("check no.yaml", "no.yaml: No such file or directory", "check the path"),
    ("check empty", "empty: Is a directory", "name a file, not a directory"),
    ("check app.npk", "app.npk is a package", "use sextant inspect"),
    ("check loop", "loop: Too many levels of symbolic links", "check the path"),
    ("check nothing", "nothing: the manifest is empty", "write at least name"),
    ("gen-key", "Missing option '-n' / '--name'", "sextant gen-key --help", USAGE),
    ("gen-key -n a/b -o .", "'a/b' is not a name for a key file", "--out names the directory"),
    ("gen-key -n my -o .", "my.key exists already", "choose another name"),
    ("gen-key -n new -o no", "no/new.key: No such file or directory", "check the path"),
    ("gen-key -n new -o text", "text/new.key: Not a directory", "check the path"),
    ("pak", "No such command 'pak'", "Did you mean 'pack'?", USAGE),
    ("key-list neww", "No such command 'neww'", "sextant key-list --help", USAGE),
    ("key-list new -o list no.pub", "cannot read the key no.pub", "check the path"),
    ("key-list new -o list text", "the key text has fewer bytes", "sextant gen-key made"),
    ("key-list check my.pub", "my.pub: a key list has two documents", "sextant key-list new"),
)
def test_sextant(misuse: Misuse, in_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(in_directory.iterdir())
    code = invoke(sextant, shlex.split(misuse.arguments), "sextant")
    check(misuse, code, *capfd.readouterr(), names=str(in_directory))
    assert sorted(in_directory.iterdir()) == before, "something is left behind"


@rows(
    ("uid: 0", "uid: '0' is not a user id", "of a user that is not root"),
    ("uid: root", "uid: 'root' is not a user id", "write the number of a user"),
    ("version: 1.0", "version: '1.0' is not a version", "write it as 1.2.3"),
    ("version: v1.0.0", "version: 'v1.0.0' is not a version", "write it as 1.2.3"),
    ("name: my app", "name: 'my app' is not a name", "write a name such as"),
    ("name: ''", "name: a name must not be empty", "write a name such as"),
    ("init: [/hello]", "init: a list is not a string", "write a text"),
    ("args: hello", "args: 'hello' is not a list", "write [hello]"),
    ("env: [A=B]", "env: a list is not a map", "write {KEY: VALUE}"),
    ("env: {NORTHSTAR_NAME: a}", "is set by the runtime", "choose another name"),
    ("io: pipe", "io: 'pipe' is not a map", "write {stdout: pipe, stderr: pipe}"),
    ("io: {stdout: file, stderr: pipe}", "io.stdout: 'file' is not an output", "one of them"),
    ("seccomp: default", "seccomp: 'default' is not a map", "write {profile: default}"),
    ("seccomp: {profile: strict}", "'strict' is not a seccomp profile (default)", "write one"),
    ("capabilities: [NET_ADMIN]", "'NET_ADMIN' is not a capability,", "mean CAP_NET_ADMIN?"),
    ("capabilities: [cap_kill]", "'cap_kill' is not a capability,", "did you mean CAP_KILL?"),
    ("capabilities: [CAP_FOO]", "'CAP_FOO' is not a capability,", "capabilities(7) lists them"),
    ("capabilities: CAP_KILL", "capabilities: 'CAP_KILL' is not a list", "write [CAP_KILL]"),
    (
        "sockets: {s: {type: stream, mode: 0777}}",
        "sockets.s.mode: '0777' is not a file mode",
        "write 0o777",
    ),
    (
        "sockets: {s: {type: stream, mode: '0660'}}",
        "sockets.s.mode: '0660' is not a file mode",
        "write 0o660",
    ),
    (
        "sockets: {s: {type: tcp, mode: 0o660}}",
        "sockets.s.type: 'tcp' is not a type of socket",
        "write one of them",
    ),
    (
        "cgroups: {memory: {memory_hard_limit: 16MiB}}",
        "cgroups.memory.memory_hard_limit: '16MiB' is not an integer",
        "it is in bytes: write 16777216",
    ),
    (
        "cgroups: {cpu: {quota: 50ms}}",
        "cgroups.cpu.quota: '50ms' is not an integer",
        "it is in microseconds: write 50000",
    ),
    ("cgroups: {pids: 100}", "cgroups.pids: '100' is not a map", "write {max: ..}"),
    ("cgroups: {pids: {max: lots}}", "'lots' is not a number of processes", "in this range"),
    ("mounts: [/tmp]", "mounts: a list is not a map", "write {KEY: VALUE}"),
    ("mounts: {/tmp: tmpfs}", "mounts./tmp: 'tmpfs' is not a map", "write {type: bind"),
    ("mounts: {/tmp: {type: tmp}}", "'tmp' is not a type of mount", "did you mean tmpfs?"),
    ("mounts: {/tmp: {type: tmpfs}}", "mounts./tmp.size: the field is missing", "add it"),
    ("mounts: {/tmp: {type: tmpfs, size: big}}", "'big' is not a size", "write it as 10MiB"),
    ("mounts: {tmp: {type: proc}}", "'tmp' is not an absolute path", "write it as /data"),
    (
        "mounts: {/l: {type: resource, name: l, version: 1.2, dir: /}}",
        "mounts./l.version: '1.2' is not a string",
        "in quotes",
    ),
    ("rlimits: {nofiles: {soft: 9}}", "'nofiles' is not a resource", "did you mean nofile?"),
    ("rlimits: {nofile: 1024}", "rlimits.nofile: '1024' is not a map", "write {soft: ..}"),
    ("sched: {policy: fifo}", "sched.policy: 'fifo' is not", "write {fifo: {priority: ..}}"),
    ("autostart: yes", "autostart: 'yes' is not a kind of autostart", "write one of them"),
    ("network: bridge", "network: 'bridge' is not a network (host, namespace)", "one of them"),
    ("console: full", "console: 'full' is not a map", "write {permissions: ..}"),
    ("service: {restart: always}", "service.restart: 'always' is not a map", "{policy: ..}"),
    ("service: {watchdog: 30}", "service.watchdog", "5s"),
    ("Init: /hello", "Init: no such field", "did you mean 'init'?"),
    ("memory: 16M", "memory: no such field", "remove it"),
    ("name: myapp", "name: the field is given twice", "remove one of both"),
)
def test_a_manifest(misuse: Misuse, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = dict(MANIFEST)
    key, _, _ = misuse.arguments.partition(": ")
    lines = [f"{one}: {manifest[one]}" for one in manifest if one != key or "twice" in misuse.says]
    path = tmp_path / "m.yaml"
    path.write_text("\n".join([*lines, misuse.arguments, ""]))
    code = invoke(sextant, ["check", str(path)], "sextant")
    check(misuse, code, *capfd.readouterr(), names=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "says", "advises"),
    [
        ("[]", "a list is not a map", "write {name: hello"),
        ("- name: a", "a list is not a map", "write {name: hello"),
        ("{", "not JSON", "correct the syntax"),
        ("name: a\n\tuid: 1\n", "not YAML", "indent with spaces"),
        ("name = 'a'\nuid 1\n", "not TOML", "correct the syntax"),
        ("name: 'a\n", "not YAML", "correct the syntax"),
    ],
)
def test_the_format_that_it_most_likely_is(
    text: str, says: str, advises: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    code = invoke(sextant, ["check", str(path)], "sextant")
    check(Misuse("", says, advises), code, *capfd.readouterr())


@rows(
    ("lsit", "No such command 'lsit'", "Did you mean 'list'?", USAGE),
    ("ps", "No such command 'ps'", "Did you mean 'list'?", USAGE),
    ("list hello", "unexpected extra argument (hello)", "nstar list --help", USAGE),
    ("start", "Missing argument 'CONTAINER'", "nstar start --help", USAGE),
    ("start 'my app'", "'my app' is not a name", "write a name such as", USAGE),
    ("start hello:1", "'hello:1': '1' is not a version", "write it as 1.2.3", USAGE),
    ("start hello =x", "'=x' has no name before the =", "nstar start --help", USAGE),
    ("kill hello NOSIG", "'NOSIG' is not a signal", "as 15, TERM or SIGTERM", USAGE),
    ("stop --timeout 5 hello", "'5' is not a duration", "as 10s, 1m 30s or 500ms", USAGE),
    ("install a.npk", "Missing argument 'REPOSITORY'", "nstar install --help", USAGE),
    ("install apps app.npk", "apps is not a file, and app.npk is", "write the file first"),
    ("uninstall -w", "Missing argument 'CONTAINER'", "nstar uninstall --help", USAGE),
    ("uninstall --wip hello", "No such option '--wip'", "Did you mean '--wipe'?", USAGE),
    ("logs hello -n x", "'x' is not a valid integer", "nstar logs --help", USAGE),
    ("logs hello --since now", "'now' is not a duration", "as 10s, 1m 30s", USAGE),
    ("logs hello --streams stdout", "'stdout' is not a stream", "out or err", USAGE),
    ("exec hello", "Missing argument 'COMMAND [ARG]..'", "nstar exec --help", USAGE),
    ("exec -t hello sh", "-t needs a terminal on stdin", "use -i alone", USAGE),
    ("exec -e A hello sh", "'A' is not NAME=VALUE", "nstar exec --help", USAGE),
    ("wait --for never hello", "'never' is not one of 'started'", "nstar wait --help", USAGE),
    ("notifications -n 0", "0 is not in the range", "nstar notifications --help", USAGE),
    ("token a/b x", "'a/b' is not a name", "write a name such as", USAGE),
    ("verify-token abc x y", "'abc' is not base64", "nstar verify-token --help", USAGE),
    ("verify-token AAAA x y", "a token has 40 bytes, not 3", "nstar verify-token --help", USAGE),
    ("completion -s tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'", "", USAGE),
    ("completion -s bash -o no/x", "no/x: No such file or directory", "check the path"),
    ("seccomp no.log", "no.log: No such file or directory", "check the path"),
    ("seccomp strace.log", "strace.log: it contains no system calls", "strace -f -o FILE"),
    ("-u http://x list", "'http://x' is not the address", "unix:///PATH", USAGE),
    ("-u tcp://localhost:0 list", "it has port 0", "nstar --help", USAGE),
    ("-t never list", "'never' is not a duration", "as 10s, 1m 30s or 500ms", USAGE),
    ("-u unix://{}/no list", "cannot connect to unix://{}/no: No such file", "console.global.bind"),
    ("-u unix://{}/text list", "unix://{}/text: Connection refused", "console.global.bind"),
    ("-u tcp://127.0.0.1:1 list", "tcp://127.0.0.1:1: Connection refused", "--url or NORTHSTAR"),
)
def test_nstar_without_a_runtime(
    misuse: Misuse, in_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if misuse.arguments.startswith("-u ") and misuse.code == FAILED:
        misuse = misuse._replace(code=CANNOT_CONNECT)
    arguments = shlex.split(misuse.arguments.replace("{}", str(in_directory)))
    code = invoke(nstar, arguments, "nstar")
    check(misuse, code, *capfd.readouterr(), names=str(in_directory))


@pytest.mark.parametrize(
    ("change", "says", "advises"),
    [
        ("run_dir = run", "c.toml: not TOML: Invalid value, line 1", "correct the syntax"),
        ('run_dir = ""', "run_dir: a path must not be empty", "name a file or directory"),
        ("run_dir = 1", "run_dir: 1 is not a string", "write it in quotes"),
        ("", "run_dir: is missing", "add it"),
        ('cgroup = "/northstar"', "cgroup: '/northstar' is not the name of a cgroup", "northstar"),
        ('shutdown_timeout = "5"', "'5' is not a duration", '"5s"'),
        ("shutdown_timeout = 5", "shutdown_timeout: 5 is not a string", "write it in quotes"),
        ('runn_dir = "x"', "runn_dir: unknown key", "did you mean 'run_dir'?"),
        ('[console.global]\npermissions = "full"', "console.global.bind: is missing", "add it"),
        ('[console.global]\nbind = "tcp://x"', "console.global.permissions: is missing", "add"),
        (
            '[console.global]\nbind = "localhost:4200"\npermissions = "full"',
            "'localhost:4200' is not an address to listen on",
            "unix:///path",
        ),
        (
            '[console.global]\nbind = "tcp://x"\npermissions = "all"',
            "'all' is not a set of permissions",
            'write "full" or a list',
        ),
        (
            '[console.global]\nbind = "tcp://x"\npermissions = ["lists"]',
            "'lists' is not a valid permission",
            "did you mean list?",
        ),
        (
            '[console.global]\nbind = "tcp://x"\npermissions = "full"\nmode = 0o600',
            "console.global.mode: is for a Unix socket",
            "remove mode",
        ),
        (
            '[console.global]\nbind = "unix:///x"\npermissions = "full"\nmode = "0660"',
            "console.global.mode: '0660' is not a file mode",
            "write 0o660",
        ),
        (
            '[console.global]\nbind = "unix:///x"\npermissions = "full"\ngroup = "x"',
            "does not let the group connect",
            "add mode = 0o660",
        ),
        ('[repositories.a]\ntype = "fs"', "'fs' is not a type of repository", 'write "mem" or'),
        ('[repositories.a]\ntype = "disk"', "'disk' is not a type of repository", 'write "mem" or'),
        ('[repositories.a]\ndir = "/x"', "repositories.a.dir: unknown key", "key"),
        (
            '[repositories.a]\ntype = "mem"\nverity = "full"',
            "nothing is verified without a key",
            "add `key`",
        ),
        (
            '[repositories.a]\ntype = "mem"\nkey = "a"\nkeys = "b"',
            "`key` names the only key already",
            "remove one of both",
        ),
    ],
)
def test_a_configuration(
    change: str, says: str, advises: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key = change.partition(" = ")[0] if not change.startswith("[") else ""
    lines = CONFIGURATION.splitlines()
    if change:
        lines = [line for line in lines if not line.startswith(f"{key} = ")] if key else lines
        text = "\n".join([change, *lines] if key else [*lines, change])
    else:
        text = "\n".join(lines[1:])
    path = tmp_path / "c.toml"
    path.write_text(text + "\n")
    code = invoke(northstar, ["-c", str(path)], "northstar")
    check(Misuse("", says, advises), code, *capfd.readouterr(), names=str(tmp_path))


@rows(
    ("", "the configuration northstar.toml cannot be read", "--config FILE"),
    ("-c no.toml", "the configuration no.toml cannot be read: No such file", "--config FILE"),
    ("-c empty", "the configuration empty cannot be read: Is a directory", "--config FILE"),
    ("-c bytes.toml", "bytes.toml, line 1: invalid UTF-8", "save the file as UTF-8"),
    ("-c", "Option '-c' requires an argument", "northstar --help", USAGE),
    ("good.toml", "'good.toml' is not 'schema'", "northstar --help", USAGE),
    ("--log-level all", "'all' is not one of", "northstar --help", USAGE),
    ("--confg x", "No such option '--confg'", "Did you mean '--config'?", USAGE),
)
def test_northstar(misuse: Misuse, in_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = invoke(northstar, shlex.split(misuse.arguments), "northstar")
    check(misuse, code, *capfd.readouterr(), names=str(in_directory))
