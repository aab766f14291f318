"""One test per rule: its limits, what it refuses, and the error text."""

from __future__ import annotations

from typing import Any

import pytest

from northstar import manifest
from northstar.manifest import Manifest
from northstar.model import FULL, ManifestError, Permission, Version

APP = "name: a\nversion: 1.0.0\ninit: /bin/a\nuid: 1000\ngid: 1000\n"
RESOURCE = "name: a\nversion: 1.0.0\nuid: 1000\ngid: 1000\n"


def app(text: str) -> Manifest:
    return manifest.loads(APP + text)


def refused(text: str, words: str, *, base: str = APP, line: int | None = 6) -> ManifestError:
    """Assert that a manifest with these lines is refused with `words`, at `line`."""
    with pytest.raises(ManifestError) as caught:
        manifest.loads(base + text)
    assert words in str(caught.value)
    assert caught.value.line == line
    assert len(str(caught.value)) < 1000
    return caught.value


def field(name: str, value: str) -> str:
    """Return an app with one of its first five fields replaced."""
    lines = APP.splitlines()
    return "\n".join(f"{name}: {value}" if x.startswith(f"{name}:") else x for x in lines) + "\n"


@pytest.mark.parametrize("name", ["name", "version", "uid", "gid"])
def test_invalid_missing(name: str) -> None:
    text = "".join(x + "\n" for x in APP.splitlines() if not x.startswith(f"{name}:"))
    error = refused("", f"{name}: the field is missing", base=text, line=1)
    assert error.path == name


@pytest.mark.parametrize("value", ["", "a b", ".", "..", "a/b", "ä", "a" * 1025, "a\\x00"])
def test_invalid_name(value: str) -> None:
    refused("", "name: ", base=field("name", f'"{value}"'), line=1)


def test_names_edge() -> None:
    assert len(manifest.loads(field("name", "a" * 1024)).name) == 1024


@pytest.mark.parametrize("value", ["1", "1.2", "1.2.3.4", "01.2.3", "1.2.-3", "''", "[1]", "1.2.x"])
def test_invalid_version(value: str) -> None:
    refused("", "version: ", base=field("version", value), line=2)


def test_invalid_version_64_bit() -> None:
    assert manifest.loads(field("version", f"{2**64 - 1}.0.0")).version == Version(2**64 - 1, 0, 0)
    refused("", "64 bit", base=field("version", f"{2**64}.0.0"), line=2)


def test_invalid_init() -> None:
    assert manifest.loads(field("init", "é" * 2048)).init == "é" * 2048
    refused("", "init: init of 4097 bytes is too long", base=field("init", "i" * 4097), line=3)
    refused("", "init must not be empty", base=field("init", "''"), line=3)
    refused("", "NUL", base=field("init", '"/bin\\0"'), line=3)


@pytest.mark.parametrize("name", ["uid", "gid"])
@pytest.mark.parametrize(
    "value", ["0", "-1", "65536", "'1000'", "01750", "1_000", "1.0", "1e3", "ten", "~", "", "[1]"]
)
def test_invalid_ids(name: str, value: str) -> None:
    line = 4 if name == "uid" else 5
    refused("", f"{name}: ", base=field(name, value), line=line)


@pytest.mark.parametrize(
    "value", ["1000", "0x3E8", "0o1750", "0b1111101000", "+1000", "!!int 1000"]
)
def test_integers(value: str) -> None:
    assert manifest.loads(field("uid", value)).uid == 1000


def test_quotes_around_an_integer_are_named() -> None:
    error = refused("", "'1000' is not a user id", base=field("uid", "'1000'"), line=4)
    assert error.hint == "write it without quotes"


def test_invalid_unknown_field() -> None:
    error = refused("netwrok: host\n", "netwrok: no such field")
    assert error.hint == "did you mean 'network'?"
    assert refused("zzzzz: host\n", "no such field").hint == "remove it"


def test_invalid_duplicate_field() -> None:
    refused("uid: 1000\n", "uid: the field is given twice")


def test_args() -> None:
    assert app("args: [a, 1, ~, '', 1.50, yes]\n").args == ("a", "1", "~", "", "1.50", "yes")
    assert app("args:\n").args == ()
    refused("args: a\n", "args: 'a' is not a list")
    refused("args: {a: b}\n", "args: a map is not a list")
    refused("args: [a, [b]]\n", "args.1: a list is not a string")
    refused('args: ["\\0"]\n', "args.0: '\\x00' has a NUL character")


def test_env() -> None:
    assert app("env: {A: , B: ~, C: 0o17}\n").env == {"A": "", "B": "~", "C": "0o17"}
    assert app("env:\n").env == {}
    many = "env:\n" + "".join(f"  V{i}: x\n" for i in range(64))
    assert len(app(many).env) == 64
    refused(many + "  W: x\n", "env: 65 entries are too many (at most 64)", line=7)
    refused("env: [A]\n", "env: a list is not a map")
    refused("env: {A: [b]}\n", "env.A: a list is not a string")
    refused("env: {A: b, A: c}\n", "env.A: the key is given twice")
    refused("env: {[A]: b}\n", "env: a list is not a string")


def test_invalid_env_lengths() -> None:
    app(f"env: {{{'é' * 32}: {'v' * 1024}}}\n")
    refused(f"env: {{{'N' * 65}: v}}\n", "of 65 bytes is too long (at most 64)")
    refused(f"env: {{N: {'é' * 513}}}\n", "of 1026 bytes is too long (at most 1024)")


@pytest.mark.parametrize("name", sorted(manifest.RESERVED_ENV))
def test_invalid_env_reserved(name: str) -> None:
    refused(f"env: {{{name}: x}}\n", f"env.{name}: '{name}' is set by the runtime")


def test_console() -> None:
    assert app("console: {permissions: full}\n").console == manifest.Console(FULL)
    listed = app("console: {permissions: [list, kill, list]}\n").console
    assert listed == manifest.Console(frozenset((Permission.LIST, Permission.KILL)))
    assert app("console: {permissions: []}\n").console == manifest.Console(frozenset())
    assert app("console:\n").console is None
    every = ", ".join(permission.value for permission in FULL)
    serialised = app(f"console: {{permissions: [{every}]}}\n").to_builtins()
    assert serialised["console"] == {"permissions": "full"}


@pytest.mark.parametrize("full", ["' full '", '"full\\t"', '"\\u00a0full\\n"'])
def test_white_space_around_full(full: str) -> None:
    assert app(f"console: {{permissions: {full}}}\n").console == manifest.Console(FULL)


def test_invalid_console() -> None:
    refused("console: {permissions: ' '}\n", "neither 'full' nor a list")
    refused("console: {permissions: [' kill ']}\n", "' kill ' is not a permission")
    refused("console: {}\n", "console.permissions: the field is missing")
    refused("console: {permissions: all}\n", "neither 'full' nor a list")
    refused("console: {permissions: }\n", "nothing is neither 'full' nor a list")
    refused("console: {permissions: [Kill]}\n", "console.permissions.0: 'Kill' is not a permission")
    refused("console: {permissions: full, x: 1}\n", "known are permissions")


@pytest.mark.parametrize("policy", ["other", "batch"])
def test_nice(policy: str) -> None:
    for nice in (-20, 19):
        value = app(f"sched: {{policy: !{policy} {{nice: {nice}}}}}\n")
        assert value.to_builtins()["sched"] == {"policy": {policy: {"nice": nice}}}
    for nice in (-21, 20):
        refused(f"sched: {{policy: !{policy} {{nice: {nice}}}}}\n", "a nice value (-20 to 19)")


@pytest.mark.parametrize("policy", ["fifo", "round_robin"])
def test_priority(policy: str) -> None:
    for priority in (1, 99):
        value = app(f"sched: {{policy: {{{policy}: {{priority: {priority}}}}}}}\n")
        assert value.to_builtins()["sched"] == {"policy": {policy: {"priority": priority}}}
    for priority in (0, 100):
        refused(f"sched: {{policy: !{policy} {{priority: {priority}}}}}\n", "(1 to 99)")


def test_invalid_sched() -> None:
    assert app("sched: {policy: !idle }\n").sched == manifest.Sched(manifest.SchedIdle())
    assert app("sched: {policy: {idle: ~}}\n").sched == manifest.Sched(manifest.SchedIdle())
    refused("sched: {}\n", "sched.policy: the field is missing")
    refused("sched: {policy: rr}\n", "'rr' is not a scheduling policy (idle, deadline, other,")
    refused("sched: {policy: fifo}\n", "'fifo' needs its data")
    refused("sched: {policy: !fifo }\n", "sched.policy.fifo.priority: the field is missing")
    refused("sched: {policy: !idle {nice: 1}}\n", "'idle' takes no data")
    refused("sched: {policy: !fifo [1]}\n", "cannot have the tag '!fifo'")
    refused("sched: {policy: {fifo: {priority: 1}, idle: }}\n", "a map is not a name, or a map")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sched: {policy: idle, x: 1}\n", "sched.x"),
        ("sched: {policy: !fifo {priority: 1, x: 1}}\n", "sched.policy.fifo.x"),
        ("rlimits: {core: {soft: 1, x: 1}}\n", "rlimits.core.x"),
        ("cgroups: {x: 1}\n", "cgroups.x"),
        ("cgroups: {cpu: {x: 1}}\n", "cgroups.cpu.x"),
        ("cgroups: {memory: {x: 1}}\n", "cgroups.memory.x"),
        ("cgroups: {pids: {max: 1, x: 1}}\n", "cgroups.pids.x"),
        *((f"mounts: {{/m: {{type: {t}, options: ro}}}}\n", "mounts./m.options")
          for t in ("dev", "proc", "sysfs", "persist", "sockets")),
    ],
)  # fmt: skip
def test_ignored_fields_are_warnings(text: str, path: str) -> None:
    _, warnings = manifest.loads_with_warnings(APP + text)
    (warning,) = warnings
    assert warning.startswith(f"{path}: an unknown field, which is ignored, line 6, column ")


def test_mounts() -> None:
    value = app("mounts:\n  /a/: {type: tmpfs, size: 1}\n  /b c: {type: dev}\n")
    assert value.mounts == {"/a/": manifest.Tmpfs(1), "/b c": manifest.Dev()}
    assert app("mounts:\n").mounts == {}
    refused("mounts: ~\n", "mounts: '~' is not a map")
    refused("mounts: {/a: }\n", "mounts./a.type: the field is missing")
    refused("mounts: {/a: proc}\n", "mounts./a: 'proc' is not a map")
    refused("mounts: {/a: {type: overlay}}\n", "'overlay' is not a type of mount (bind, dev,")
    refused("mounts: {/a: {type: dev, type: proc}}\n", "mounts./a.type: the field is given twice")
    refused("mounts: {/a: {type: dev}, /a: {type: proc}}\n", "mounts./a: the key is given twice")


@pytest.mark.parametrize("target", ["a", "''", "./a", "/a/../b", "/..", "/a/.", "/./a"])
def test_invalid_mount_target(target: str) -> None:
    refused(f"mounts: {{{target}: {{type: proc}}}}\n", "is not an absolute path without '.' and")
    refused(
        f"mounts: {{/r: {{type: resource, name: r, version: '1', dir: {target}}}}}\n",
        "mounts./r.dir: ",
    )


def test_dots_inside_of_names_are_allowed() -> None:
    value = app("mounts: {/.a/..b/c..: {type: resource, name: r, version: '1', dir: /.../x.}}\n")
    assert [*value.mounts] == ["/.a/..b/c.."]


def test_bind() -> None:
    value = app("mounts: {/a: {type: bind, host: /x, options: ' rw , rec '}}\n")
    options = frozenset((manifest.MountOption.RW, manifest.MountOption.REC))
    assert value.mounts["/a"] == manifest.Bind("/x", options)
    assert app("mounts: {/a: {type: bind, host: x, options: }}\n").mounts["/a"] == manifest.Bind(
        "x"
    )
    refused("mounts: {/a: {type: bind}}\n", "mounts./a.host: the field is missing")
    refused("mounts: {/a: {type: bind, host: /x, y: 1}}\n", "mounts./a.y: no such field")
    refused("mounts: {/a: {type: bind, host: /x, options: rw;rec}}\n", "'rw;rec' is not a mount op")
    refused("mounts: {/a: {type: bind, host: /x, options: [rw]}}\n", "a list is not a string")
    error = refused("mounts: {/a: {type: bind, host: /x, options: ro}}\n", "'ro' is not a mount")
    assert error.hint == "leave it out: read only is the default"


@pytest.mark.parametrize("inner", ["/a", "/a/", "//a", "/a/b", "/a//b/c"])
def test_invalid_nested_binds(inner: str) -> None:
    outer = (
        "  /a: {type: bind, host: /x}\n" if inner != "/a" else "  /a///: {type: bind, host: /x}\n"
    )
    # A target that sorts between them as text must not hide the nesting.
    between = "  /a-: {type: bind, host: /x}\n  /a.b: {type: bind, host: /x}\n"
    # Others come before and after it.
    between += "  /A: {type: bind, host: /x}\n  /z: {type: bind, host: /x}\n"
    text = f"mounts:\n{outer}{between}  {inner}: {{type: bind, host: /y}}\n"
    with pytest.raises(ManifestError, match="is nested in that of"):
        app(text)


def test_binds_that_are_not_nested() -> None:
    app("mounts: {/: {type: bind, host: /x}, /a: {type: bind, host: /x}, /ab: {type: dev}}\n")
    app("mounts: {/a: {type: bind, host: /x}, /ab: {type: bind, host: /x}, /a/b: {type: proc}}\n")


def test_resource() -> None:
    mount = "mounts: {/r: {type: resource, name: r, version: '>=1, <2', dir: /d, options: rw}}\n"
    value = app(mount).mounts["/r"]
    assert isinstance(value, manifest.Resource)
    assert value.options == {manifest.MountOption.RW}
    refused(mount.replace("rw", "rec"), "mounts./r.options: a resource cannot have 'rec'")
    refused(mount.replace("'>=1, <2'", "'>=1,'"), "mounts./r.version: ")
    refused(mount.replace("name: r", "name: r/s"), "mounts./r.name: 'r/s' is not a name")
    refused(mount.replace(", options: rw", ", rw: "), "mounts./r.rw: no such field")


@pytest.mark.parametrize(
    "version", ["1", "1.2", "1e3", "0x1", "+1", ".5", "01.2", "~", "true", "!!float 1.2", "!!int 1"]
)
def test_a_number_is_not_a_version_requirement(version: str) -> None:
    mount = "mounts: {{/r: {{type: resource, name: r, version: {}, dir: /d}}}}\n"
    error = refused(mount.format(version), "mounts./r.version: ")
    assert error.rule.endswith("is not a string")
    assert error.hint == "write a string, in quotes"
    for text in ("'1.2'", '"1"', "!!str 1.2", "1.2.3", "1.*", "^1.2", "~1"):
        assert app(mount.format(text)).mounts


@pytest.mark.parametrize("value", ["5", "1.5", "true", "~", ""])
def test_the_source_of_a_mount_must_be_a_string(value: str) -> None:
    bind = "mounts: {{/a: {{type: bind, host: {}}}}}\n"
    resource = "mounts: {{/a: {{type: resource, name: {}, version: '1', dir: /}}}}\n"
    for mount, key in ((bind, "host"), (resource, "name")):
        error = refused(mount.format(value), f"mounts./a.{key}: ")
        assert error.hint == "write a string, in quotes"
    assert app(bind.format("'5'")).mounts == {"/a": manifest.Bind("5")}
    assert app(resource.format("'5'")).mounts


def test_a_number_of_json_is_not_a_version_requirement() -> None:
    mount = {"type": "resource", "name": "r", "version": 1.2, "dir": "/d"}
    value = {"name": "a", "version": "1.0.0", "uid": 1, "gid": 1, "mounts": {"/r": mount}}
    with pytest.raises(ManifestError, match=r"^mounts\./r\.version: 1\.2 is not a str") as caught:
        manifest.from_builtins(value)
    assert caught.value.hint == "write it in quotes"


@pytest.mark.parametrize(
    "size",
    [
        "10X", "1.5M", "''", "", "~", "-1", "10M0", "M", "1 0M", "[1]", "'0x10'", "10iB", "10PB",
        str(2**64), "19000000T", "1" * 100,
    ],
)  # fmt: skip
def test_invalid_size(size: str) -> None:
    error = refused(
        f"mounts:\n  /tmp:\n    type: tmpfs\n    size: {size}\n",
        "is not a size (bytes, or a number with K, M, G, T, KiB, MiB, GiB, TiB)",
        line=9,
    )
    assert error.path == "mounts./tmp.size"


def test_tmpfs() -> None:
    assert app(f"mounts: {{/t: {{type: tmpfs, size: {2**64 - 1}}}}}\n").mounts["/t"] == (
        manifest.Tmpfs(2**64 - 1)
    )
    refused("mounts: {/t: {type: tmpfs}}\n", "mounts./t.size: the field is missing")
    refused("mounts: {/t: {type: tmpfs, size: 1, mode: 1}}\n", "mounts./t.mode: no such field")


def test_invalid_autostart() -> None:
    assert app("autostart: !critical\n").autostart is manifest.Autostart.CRITICAL
    assert app("autostart: ~\n").autostart is None
    refused("autostart: yes\n", "'yes' is not a kind of autostart (relaxed, critical)")
    refused("autostart: !critical x\n", "autostart: ")


def test_cgroups() -> None:
    deep = "a//" * 32
    assert app(f"cgroups: {{parent: {deep}}}\n").cgroups == manifest.Cgroups(parent=deep)
    text = "cgroups: {parent: a/b, pids: {max: 1}, cpu: {quota: -1}, memory: , blkio: ~}\n"
    assert app(text).cgroups == manifest.Cgroups(
        parent="a/b", pids=manifest.Pids(1), cpu=manifest.Cpu(quota=-1)
    )
    assert app("cgroups: {memory: {}}\n").to_builtins()["cgroups"] == {
        "memory": {"oom_monitor": False}
    }


def test_blkio() -> None:
    lists = [f"throttle_{rw}_{x}_device" for rw in ("read", "write") for x in ("bps", "iops")]
    devices = "".join(f"    {name}: [{{major: 8, minor: 0, rate: 1}}]\n" for name in lists)
    text = (
        "cgroups:\n  blkio:\n    weight: 10\n    weight_device: [{major: 8, minor: 1, weight: 5}]\n"
        + devices
    )
    rate = [{"major": 8, "minor": 0, "rate": 1}]
    assert app(text).to_builtins()["cgroups"]["blkio"] == {
        "weight": 10,
        "weight_device": [{"major": 8, "minor": 1, "weight": 5}],
        **dict.fromkeys(lists, rate),
    }
    for name in ("weight_device", *lists):
        less = "".join(x + "\n" for x in text.splitlines() if not x.startswith(f"    {name}:"))
        refused(less, f"cgroups.blkio.{name}: the field is missing", line=8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parent: /a", "cgroups.parent: '/a' is not a relative path"),
        ("parent: a/../b", "cgroups.parent: "),
        ("parent: .", "cgroups.parent: "),
        ("parent: ''", "cgroups.parent: "),
        ("parent: " + "/".join("a" * 33), "cgroups.parent: 'a/a/a/a"),
        ("parent: a//" + "/".join("a" * 1099), "has more than 32 levels"),
        ("pids: {max: 0}", "cgroups.pids.max: 0 is not a number of processes"),
        ("pids: {max: max}", "cgroups.pids.max: "),
        ("pids: {}", "cgroups.pids.max: the field is missing"),
        ("cpu: {shares: -1}", "cgroups.cpu.shares: "),
        ("cpu: {period: 1.0}", "cgroups.cpu.period: "),
        ("cpu: {cpus: [0]}", "cgroups.cpu.cpus: a list is not a string"),
        ("cpu: {attrs: {a/b: 1}}", "cgroups.cpu.attrs.a/b: 'a/b' is not a file name"),
        ("cpu: {attrs: {..: 1}}", "is not a file name"),
        ("cpu: {attrs: {a: 1, a: 2}}", "cgroups.cpu.attrs.a: the key is given twice"),
        ("memory: {memory_hard_limit: 10M}", "'10M' is not an integer"),
        ("memory: {oom_monitor: yes}", "cgroups.memory.oom_monitor: 'yes' is not a boolean"),
        ("memory: {oom_monitor: 'true'}", "'true' is not a boolean"),
        ("memory: {oom_monitor: }", "nothing is not a boolean"),
        ("memory: {oom_monitor: true, oom_monitor: true}", "the field is given twice"),
        (f"memory: {{swappiness: {2**64}}}", "cgroups.memory.swappiness: "),
        (f"memory: {{memory_soft_limit: {2**63}}}", "cgroups.memory.memory_soft_limit: "),
        ("blkio: {weight: 65536}", "cgroups.blkio.weight: "),
        ("blkio: {weight_device: [{major: 1}]}", "cgroups.blkio.weight_device.0.minor: the field"),
    ],
)
def test_invalid_cgroups(text: str, words: str) -> None:
    words = words.replace("0 is", "'0' is")
    refused(f"cgroups: {{{text}}}\n", words)


@pytest.mark.parametrize("value", ["true", "True", "TRUE"])
def test_booleans(value: str) -> None:
    cgroups = app(f"cgroups: {{memory: {{oom_monitor: {value}}}}}\n").cgroups
    assert cgroups is not None
    assert cgroups.memory == manifest.Memory(oom_monitor=True)


def test_network() -> None:
    assert app("network: host\n").network == manifest.HostNetwork()
    assert app("network: {host: }\n").network == manifest.HostNetwork()
    assert app("network: {namespace: n}\n").network == manifest.NamedNetwork("n")
    assert app("network: \n").network is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "n" * 257, '"a\\0"'])
def test_invalid_network(name: str) -> None:
    refused(f"network: !namespace {name}\n", "network.namespace: ")
    refused("network: bridge\n", "'bridge' is not a network (host, namespace)")
    refused("network: namespace\n", "'namespace' needs its data")
    refused("network: !host x\n", "'host' takes no data")


def test_seccomp() -> None:
    text = "seccomp: {profile: , allow: {a: any, b: !args {index: 5, values: []}, c: {any: }}}\n"
    assert app(text).to_builtins()["seccomp"] == {
        "allow": {"a": "any", "b": {"args": {"index": 5, "values": []}}, "c": "any"}
    }
    assert app("seccomp: {allow: {}}\n").to_builtins()["seccomp"] == {"allow": {}}
    assert app("seccomp: {allow: ~}\n").to_builtins()["seccomp"] == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{profile: strict}", "seccomp.profile: 'strict' is not a seccomp profile (default)"),
        ("{deny: {}}", "seccomp.deny: no such field"),
        ("{allow: {a: ANY}}", "seccomp.allow.a: 'ANY' is not a rule for a system call (any, args)"),
        ("{allow: {a: any, a: any}}", "seccomp.allow.a: the key is given twice"),
        ("{allow: {a: !args {index: 6, mask: 1}}}", "seccomp.allow.a.args.index: '6' is not the"),
        ("{allow: {a: !args {mask: 1}}}", "seccomp.allow.a.args.index: the field is missing"),
        ("{allow: {a: !args {index: 1}}}", "a rule for an argument needs 'values' or 'mask'"),
        ("{allow: {a: !args {index: 1, mask: ~}}}", "needs 'values' or 'mask'"),
        ("{allow: {a: !args {index: 1, mask: 1, x: 1}}}", "seccomp.allow.a.args.x: no such field"),
        (f"{{allow: {{a: !args {{index: 1, values: {[1] * 51}}}}}}}", "51 items are too many"),
        ("{allow: {a: !args {index: 1, values: [-1]}}}", "seccomp.allow.a.args.values.0: '-1' is"),
        ("{allow: {a: args}}", "'args' needs its data"),
    ],
)
def test_invalid_seccomp(text: str, words: str) -> None:
    refused(f"seccomp: {text}\n", words)


def test_selinux() -> None:
    value = app("selinux: {mount_context: , exec: a_1:b}\n")
    assert value.to_builtins()["selinux"] == {"mount_context": None, "exec": "a_1:b"}
    assert app(f"selinux: {{exec: {'a' * 65535}}}\n").selinux is not None
    refused(f"selinux: {{exec: {'a' * 65536}}}\n", "of 65536 bytes is too long (at most 65535)")
    refused("selinux: {exec: ''}\n", "selinux.exec: an SELinux context must not be empty")
    refused("selinux: {exec: a-b}\n", "'a-b' is not an SELinux context")
    refused("selinux: {exec: aé}\n", "is not an SELinux context")
    refused("selinux: {context: a}\n", "known are mount_context, exec")


def test_capabilities() -> None:
    value = app("capabilities: [CAP_CHECKPOINT_RESTORE, CAP_CHOWN]\n")
    assert [capability.number for capability in manifest.Capability] == [*range(41)]
    assert manifest.Capability.CAP_SYS_ADMIN.number == 21
    assert manifest.Capability.CAP_BPF.number == 39
    assert value.to_builtins()["capabilities"] == ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]
    error = refused(
        "capabilities: [cap_chown]\n", "capabilities.0: 'cap_chown' is not a capability"
    )
    assert error.hint == "did you mean CAP_CHOWN?"
    refused("capabilities: [CAP_KILL, CAP_KILL]\n", "capabilities.1: 'CAP_KILL' is given twice")


def test_suppl_groups() -> None:
    names = [f"g{i}" for i in range(64)]
    assert app(f"suppl_groups: {names}\n").suppl_groups == tuple(names)
    refused(f"suppl_groups: {[*names, 'x']}\n", "65 items are too many (at most 64)")
    refused(f"suppl_groups: [{'g' * 65}]\n", "of 65 bytes is too long (at most 64)")
    refused("suppl_groups: [a, b, a]\n", "suppl_groups.2: 'a' is given twice")


def test_rlimits() -> None:
    value = app("rlimits: {nproc: , core: {hard: 1}, nice: {soft: ~, hard: 0x10}}\n")
    assert value.to_builtins()["rlimits"] == {
        "nproc": {"soft": None, "hard": None},
        "core": {"soft": None, "hard": 1},
        "nice": {"soft": None, "hard": 16},
    }
    refused("rlimits: {NOFILE: {soft: 1}}\n", "'NOFILE' is not a resource with a limit")
    refused("rlimits: {core: {soft: -1}}\n", "rlimits.core.soft: '-1' is not a limit")
    refused(f"rlimits: {{core: {{soft: {2**64}}}}}\n", "rlimits.core.soft: ")
    refused("rlimits: {core: 5}\n", "rlimits.core: '5' is not a map")
    refused("rlimits: {core: ~}\n", "rlimits.core: '~' is not a map")
    refused("rlimits: {core: {}, core: {}}\n", "rlimits.core: the key is given twice")


def test_rlimit_numbers_are_the_kernels() -> None:
    import resource

    for limit in manifest.RlimitResource:
        # All of them are valid for getrlimit, and all differ.
        resource.getrlimit(limit.number)
    assert sorted(limit.number for limit in manifest.RlimitResource) == [*range(16)]
    assert manifest.RlimitResource.NOFILE.number == resource.RLIMIT_NOFILE


def test_sockets() -> None:
    value = app("sockets: {a: {type: stream, mode: 0o600, uid: ~, gid: 0, passcred: }}\n")
    assert value.to_builtins()["sockets"] == {"a": {"type": "stream", "mode": 384, "gid": 0}}
    for text, words in (
        ("a: {type: raw, mode: 1}", "'raw' is not a type of socket (stream, datagram, seq_packet)"),
        ("a: {type: stream}", "sockets.a.mode: the field is missing"),
        ("a: {type: stream, mode: '0o600'}", "sockets.a.mode: '0o600' is not a file mode"),
        ("a: {type: stream, mode: 0600}", "sockets.a.mode: "),
        (f"a: {{type: stream, mode: 1, uid: {2**32}}}", "sockets.a.uid: "),
        ("a: {type: stream, mode: 1, passcred: yes}", "sockets.a.passcred: "),
        ("a: {type: stream, mode: 1, x: 1}", "sockets.a.x: no such field"),
        ("a/b: {type: stream, mode: 1}", "sockets.a/b: 'a/b' is not a file name"),
        ("..: {type: stream, mode: 1}", "is not a file name"),
        ("a: {type: stream, mode: 1}, a: {type: stream, mode: 1}", "the key is given twice"),
    ):
        refused(f"sockets: {{{text}}}\n", words)


def test_io() -> None:
    assert app("io: {stdout: inherit, stderr: discard}\n").io == manifest.Io(
        manifest.Output.INHERIT, manifest.Output.DISCARD
    )
    refused("io: {stdout: pipe}\n", "io.stderr: the field is missing")
    refused(
        "io: {stdout: pipe, stderr: file}\n", "'file' is not an output (discard, pipe, inherit)"
    )
    refused("io: {stdout: pipe, stderr: pipe, stdin: pipe}\n", "io.stdin: no such field")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("017", "017"), ("-017", "-017"), ("yes", "yes"), ("0", 0), ("-0x10", -16), ("0b11", 3),
        ("+5", 5), ("0o17", 15), ("0X1F", "0X1F"), ("1_0", "1_0"), ("1.50", 1.5), (".5", 0.5),
        ("5.", 5.0), ("1e3", 1000.0), ("-1.5E-3", -0.0015), (".inf", None), ("-.Inf", None),
        (".NaN", None), ("1e400", "1e400"), ("TRUE", True), ("tRUE", "tRUE"), ("Null", None),
        ("nULL", "nULL"), ("", None), ("'~'", "~"), ("'5'", "5"), ("!!str 5", "5"),
        ("!!int 5", 5), ("! 5", "5"),
        ("!!null ~", None), ("!!float 1.5", 1.5), ("!!bool true", True), ("!!map {}", {}),
        ("2001-01-01", "2001-01-01"), ("1:30", "1:30"), ("=", "="), ("|\n  a\n", "a\n"),
        (str(2**64 - 1), 2**64 - 1), (str(-(2**63)), -(2**63)), ("[1, [a]]", [1, ["a"]]),
        ("{1: a, ~: b, 0x1: c}", {"1": "a", "~": "b", "0x1": "c"}), ("{}", {}), ("[]", []),
        ('"\\0"', "\0"),
    ],
)  # fmt: skip
def test_custom(text: str, value: Any) -> None:
    custom = app(f"custom: {text}\n").custom
    assert custom == value
    assert type(custom) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (str(2**64), "does not fit into 64 bit"),
        (str(-(2**63) - 1), "does not fit into 64 bit"),
        ("1" * 100, "does not fit into 64 bit"),
        ("0x" + "1" * 17, "does not fit into 64 bit"),
        ("!x a", "cannot have the tag '!x'"),
        ("!!binary aGk=", "cannot have the tag"),
        ("!!int a", "'a' cannot have the tag"),
        ("!!float 1", "'1' cannot have the tag"),
        ("!x {a: b}", "a map cannot have the tag '!x' here"),
        ("!x [a]", "a list cannot have the tag '!x' here"),
        ("{a: 1, a: 2}", "custom.a: the key is given twice"),
        ("{{a: 1}: 2}", "custom: a map is not a string"),
    ],
)
def test_invalid_custom(text: str, words: str) -> None:
    refused(f"custom: {text}\n", words)


@pytest.mark.parametrize(
    ("name", "value", "empty"),
    [
        ("args", "[a]", "[]"),
        ("env", "{A: b}", "{}"),
        ("capabilities", "[CAP_KILL]", "[]"),
        ("suppl_groups", "[a]", "[]"),
        ("autostart", "relaxed", "~"),
        ("cgroups", "{}", "~"),
        ("io", "{stdout: pipe, stderr: pipe}", "~"),
        ("seccomp", "{}", "~"),
        ("service", "{}", "~"),
    ],
)
def test_invalid_in_a_resource(name: str, value: str, empty: str) -> None:
    refused(f"{name}: {value}\n", f"{name}: a resource", base=RESOURCE, line=5)
    assert not manifest.loads(f"{RESOURCE}{name}: {empty}\n").is_app
    assert app(f"{name}: {value}\n").is_app


def test_tags_of_strings_are_ignored() -> None:
    assert app("args: [!x a, !!str b, ! c, !!int d]\n").args == ("a", "b", "c", "d")
    refused("rlimits: {core: {soft: !x 1}}\n", "rlimits.core.soft: ")
    refused("rlimits: {core: {soft: !!str 1}}\n", "rlimits.core.soft: ")
    refused("env: !x {A: b}\n", "a map cannot have the tag '!x' here")


def test_container() -> None:
    assert str(app("").container) == "a:1.0.0"
