"""The three languages, their bounds, and the language whose error is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from northstar import manifest
from northstar.model import ManifestError
from northstar.schema import node

APP = "name: a\nversion: 1.0.0\ninit: /bin/a\nuid: 1000\ngid: 1000\n"
JSON: dict[str, Any] = {"name": "a", "version": "1.0.0", "init": "/bin/a", "uid": 1, "gid": 1}
TOML = "name = 'a'\nversion = '1.0.0'\ninit = '/bin/a'\nuid = 1\ngid = 1\n"


def refused(text: str | bytes, words: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        manifest.loads(text)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


def test_message() -> None:
    text = f"{APP}mounts:\n  /tmp:\n    type: tmpfs\n    size: 10X\n"
    error = refused(text, "")
    assert str(error) == (
        "mounts./tmp.size: '10X' is not a size "
        "(bytes, or a number with K, M, G, T, KiB, MiB, GiB, TiB), line 9, column 11; "
        "write it as 10MiB"
    )
    assert (error.path, error.line, error.column) == ("mounts./tmp.size", 9, 11)


@pytest.mark.parametrize("text", ["", " \n", "# comment\n", "---\n", "---\n...\n", "~", "{}"])
def test_invalid_empty(text: str) -> None:
    assert manifest.check(text).errors


def test_byte_order_mark_and_bytes() -> None:
    value = manifest.loads(APP)
    assert manifest.loads("\ufeff" + APP) == value
    assert manifest.loads(APP.encode("utf-8-sig")) == value
    assert manifest.loads(b"\xef\xbb\xbf" + json.dumps(JSON).encode()).uid == 1
    assert manifest.loads(b"\xef\xbb\xbf" + TOML.encode()).uid == 1
    assert manifest.loads(APP.replace("\n", "\r\n")) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (APP.encode() + b"# \xff", "not UTF-8 at byte 58"),
        (APP.encode("utf-16"), "not UTF-8"),
        (APP.encode("utf-16-le"), "not YAML"),
        (APP.encode() + b"\0", "not YAML: the character 0x0000"),
        (APP.encode() + b"args: ['\x07']", "the character 0x0007 must not stand in it, line 6"),
        (APP + "args: ['\ud800']", "not Unicode"),
        (json.dumps({**JSON, "args": ["\ud800"]}), "surrogate"),
        (json.dumps({**JSON, "\udc00": 1}), "surrogate"),
    ],
)
def test_invalid_characters(data: str | bytes, words: str) -> None:
    refused(data, words)


def test_invalid_second_document() -> None:
    assert manifest.loads("%YAML 1.2\n---\n" + APP + "...\n").uid == 1000
    assert refused(APP + "---\n" + APP, "a single document").line == 6
    refused("%YAML 1.3\n---\n" + APP, "incompatible")


def test_invalid_yaml_names_the_place() -> None:
    error = refused(APP + "args: [a\nenv: b\n", "not YAML: ")
    assert error.line in (7, 8)


def test_aliases() -> None:
    value = manifest.loads(APP + "args: &a [x, &b y, *b]\ncustom: [*a, &b z, *b]\n")
    assert value.args == ("x", "y", "y")
    assert value.custom == [["x", "y", "y"], "z", "z"]
    refused(APP + "args: *a\n", "no anchor 'a' stands before here, line 6, column 7")
    refused(APP + "custom: &a [*a]\n", "the alias 'a' would contain itself, line 6, column 13")
    refused(APP + "custom: &a {b: [{*a : c}]}\n", "the alias 'a' would contain itself")


def test_an_anchor_can_be_redefined_inside_itself() -> None:
    custom = manifest.loads(APP + "custom: [&a [&a x, *a], *a, &a y, *a]\n").custom
    assert custom == [["x", "x"], "x", "y", "y"]


def nested(levels: int) -> str:
    """Return a manifest that is nested `levels` deep, with its outer map."""
    return APP + "custom: " + "[" * (levels - 1) + "]" * (levels - 1) + "\n"


def test_nesting() -> None:
    manifest.loads(nested(node.NESTING_MAX))
    refused(nested(node.NESTING_MAX + 1), "nested deeper than 64 levels, line 6")
    # 33 levels inside of 33, of which 2 are those of `custom` and its list.
    inner = "[" * 32 + "]" * 32
    manifest.loads(APP + f"custom: [&a {inner}, {'[' * 30}*a{']' * 30}]\n")
    refused(APP + f"custom: [&a {inner}, {'[' * 31}*a{']' * 31}]\n", "nested deeper than 64 levels")


def test_nesting_in_json() -> None:
    custom: list[Any] = []
    for _ in range(node.NESTING_MAX - 2):
        custom = [custom]
    assert manifest.loads(json.dumps({**JSON, "custom": custom})).custom == custom
    assert manifest.from_builtins({**JSON, "custom": custom}).custom == custom
    with pytest.raises(ManifestError, match="nested deeper than 64 levels"):
        manifest.from_builtins({**JSON, "custom": [custom]})
    refused(json.dumps({**JSON, "custom": [custom]}), "nested deeper than 64 levels")


def values(count: int) -> str:
    """Return a manifest of `count` values, most of them counted twice because of an alias."""
    # The outer map with five fields, `custom`, the list, the inner list, and its alias.
    half, odd = divmod(count - 11 - 1 - 1 - 2, 2)
    return APP + f"custom: [&a [{'x,' * half}], *a{', x' * odd}]\n"


def test_values() -> None:
    manifest.loads(values(node.NODES_MAX))
    refused(values(node.NODES_MAX + 1), "more than 100000 values")
    in_json: dict[str, Any] = {**JSON, "custom": ["x"] * (node.NODES_MAX - 13)}
    manifest.from_builtins(in_json)
    with pytest.raises(ManifestError, match="more than 100000 values"):
        manifest.from_builtins({**in_json, "args": []})


def test_text_of_aliases() -> None:
    text = "custom: [&a {}" + ", *a" * 9 + "]\n"
    manifest.loads(APP + text.format("x" * 100_000))
    refused(APP + text.format("x" * 120_000), "aliases stand for more than 1048576 characters")


def test_size_of_the_text() -> None:
    fill = "#" * (node.INPUT_MAX - len(APP))
    assert manifest.loads(APP + fill) == manifest.loads(APP)
    refused(APP + fill + "#", "a manifest of 1048577 bytes is too large (at most 1048576)")
    refused(APP + fill[:-1] + "é", "a manifest of 1048577 bytes is too large")


BOMBS = {
    "lists": "[" * 500_000,
    "maps": "{a: " * 200_000,
    "block": "- " * 400_000,
    "keys": "? " * 400_000,
    "billion": APP + "a0: &a0 [x]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(20)),
    "directives": "".join(f"%TAG !{i}! a\n" for i in range(60_000)) + "---\n" + APP,
    "json lists": '{"a":' + "[" * 500_000,
    "json maps": '{"a":' * 150_000,
    "json number": '{"uid":' + "1" * 900_000 + "}",
    "number": "uid: " + "1" * 900_000,
    "toml lists": "a = " + "[" * 500_000,
    "toml key": "a" + ".a" * 400_000 + " = 1",
    "toml spaced key": "a" + " . 'a'" * 100_000 + " = 1",
    "toml table": "[[a" + ".a" * 400_000 + "]]",
    "toml inline": "a = {b = 1, a" + ".a" * 400_000 + " = 1}",
    "toml number": "uid = " + "1" * 900_000,
    "path": APP + "mounts:\n  ? " + "/a" * 200_000 + "\n  : {type: bind, host: x}\n  ? "
    + "/a" * 200_000 + "/b\n  : {type: bind, host: x}\n",
}  # fmt: skip


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name: str) -> None:
    refused(BOMBS[name], "")
    assert manifest.check(BOMBS[name]).errors


def test_json() -> None:
    value = manifest.loads(json.dumps({**JSON, "sched": {"policy": {"fifo": {"priority": 3}}}}))
    assert value.sched == manifest.Sched(manifest.SchedFifo(3))
    smile = json.dumps({**JSON, "args": ["\U0001f600\u2028a\x85 b\x7f"]})
    assert manifest.loads(smile).args == ("\U0001f600\u2028a\x85 b\x7f",)
    # YAML would read the second one as a space, and drop the spaces around the third.
    raw = json.dumps({**JSON, "args": ["a\x85b", "\x85", "a \u2028 b"]}, ensure_ascii=False)
    assert manifest.loads(raw).args == ("a\x85b", "\x85", "a \u2028 b")
    assert not manifest.loads(json.dumps({**JSON, "init": None})).is_app
    assert manifest.loads(json.dumps({**JSON, "custom": [1.5, None, True]})).custom == [
        1.5,
        None,
        True,
    ]


def test_invalid_json_is_read_as_yaml() -> None:
    # A comma at the end, a comment, a text without quotes.
    text = '{"name": "a", "version": 1.0.0, "uid": 1, "gid": 1,} # flow style'
    assert manifest.loads(text).uid == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"uid": "1"}, "uid: '1' is not a user id (1 to 65535), line 1, column 60"),
        ({"uid": 1.0}, "uid: 1.0 is not a user id"),
        ({"uid": True}, "uid: true is not a user id"),
        ({"uid": None}, "uid: null is not a user id"),
        ({"mounts": None}, "mounts: null is not a map"),
        ({"env": {"A": ["b"]}}, "env.A: a list is not a string"),
        ({"args": [None, 1, [2]]}, "args.0: null is not a string"),
        ({"custom": 2**64}, "custom: 18446744073709551616 does not fit into 64 bit"),
    ],
)
def test_invalid_json_values(change: dict[str, Any], words: str) -> None:
    refused(json.dumps({**JSON, **change}), words)


def test_invalid_json_syntax() -> None:
    error = refused('{\n "name": "a"\n "uid": 1}', "not JSON: Expecting ',' delimiter")
    assert (error.line, error.column) == (3, 2)
    refused('{"name": "a", "name": "a"}', "name: the field is given twice")
    refused('{"custom": NaN, "custom": 1}', "not JSON: NaN is not a number")
    refused('{"uid": ' + "1" * 5000 + "}", "a number has too many digits")


def test_toml() -> None:
    text = TOML + "env = {A = 'b'}\n[mounts.'/tmp']\ntype = 'tmpfs'\nsize = '1K'\n"
    value = manifest.loads("# a comment first\n\n" + text)
    assert value.env == {"A": "b"}
    assert value.mounts == {"/tmp": manifest.Tmpfs(1000)}
    assert manifest.loads(TOML + "custom.a.b = [1, 1.5, true, inf]\n").custom == {
        "a": {"b": [1, 1.5, True, None]}
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TOML.replace("1\n", "'1'\n"), "uid: '1' is not a user id"),
        (TOML + "args = [1]\n", "args.0: 1 is not a string; write it in quotes"),
        (TOML + "custom = 2001-01-01\n", "custom: 2001-01-01 has no form in JSON"),
        (TOML + "uid = 2\n", "not TOML: Cannot overwrite a value, line 6"),
        (TOML + "x\n", "not TOML: "),
        ("[mounts]\n" + TOML, "mounts.name: 'name' is not an absolute path"),
        ("# comment\n\nname = 'a'\n", "version: the field is missing"),
        ("'name' = 'a'\n", "version: the field is missing"),
    ],
)
def test_invalid_toml(text: str, words: str) -> None:
    refused(text, words)


def test_a_key_of_64_parts_is_toml() -> None:
    deepest = "custom" + ".a" * (node.NESTING_MAX - 1) + " = 1\n"
    assert manifest.loads(deepest + TOML).custom
    refused("custom" + ".a" * node.NESTING_MAX + " = 1\n" + TOML, "nested deeper than 64 levels")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {\n", "not YAML"),
        ("name\n", "'name' is not a map"),
        (" {\n", "not JSON"),
        ("name = \n", "not TOML"),
        ("[mounts]\nx", "not TOML"),
        ("a: b = c\n", "a: no such field"),
    ],
)
def test_the_error_of_the_likely_language_is_shown(text: str, words: str) -> None:
    refused(text, words)


def test_messages_have_no_control_characters() -> None:
    error = refused(APP + '"\\e[31m\\n": 1\n', "no such field")
    assert str(error).isprintable()
    error = refused(APP + 'mounts: {"\\e": {type: "\\e[0m"}}\n', "is not")
    assert str(error).isprintable()
    error = refused(APP + f"env: {{? {'A' * 5000} : b}}\n", "too long")


def test_check_finds_all() -> None:
    report = manifest.check(
        "name: a b\nversion: 1\nuid: 0\nargs: [a, [b], [c]]\nx: 1\nenv: {A: b}\n"
        "mounts: {/a: {type: bind}, /b: {type: tmpfs, size: x, y: 1}}\n"
        "seccomp: {allow: {a: !args {index: 9}}}\nselinux: {exec: '', y: 1}\n"
    )
    assert report.manifest is None
    assert [error.path for error in report.errors] == [
        "name",
        "version",
        "uid",
        "args.1",
        "args.2",
        "x",
        "mounts./a.host",
        "mounts./b.size",
        "mounts./b.y",
        "seccomp.allow.a.args.index",
        "seccomp.allow.a.args",
        "selinux.exec",
        "selinux.y",
        "gid",
        "env",
    ]


def test_check_of_an_app_with_a_wrong_init_does_not_call_it_a_resource() -> None:
    report = manifest.check(APP.replace("/bin/a", "''") + "args: [a]\n")
    assert [error.path for error in report.errors] == ["init"]


def test_check_stops_at_some_hundred_errors() -> None:
    report = manifest.check(APP + "".join(f"x{i}: 1\n" for i in range(1000)))
    assert len(report.errors) == 100


def test_check_warns() -> None:
    text = (
        APP + "cgroups: {memroy: 1}\n"
        "mounts: {/a: {type: bind, host: /x, options: rw}}\n"
        "capabilities: [CAP_SYS_ADMIN]\n"
        "rlimits: {core: {soft: 2, hard: 1}, cpu: {hard: 1}, nice: {soft: 1, hard: 1}}\n"
        "sched: {policy: deadline}\n"
    )
    report = manifest.check(text)
    assert report.manifest == manifest.loads(text)
    assert [warning.partition(":")[0] for warning in report.warnings] == [
        "cgroups.memroy",
        "mounts./a",
        "capabilities",
        "seccomp",
        "rlimits.core",
        "rlimits.cpu",
        "sched.policy",
    ]
    quiet = APP + "seccomp: {profile: default, allow: {read: any, raed: any}}\n"
    assert manifest.check(quiet).warnings == ()
    assert manifest.check(quiet, is_syscall={"read"}.__contains__).warnings == (
        "seccomp.allow.raed: no system call of this name is known",
    )
    resource = "name: a\nversion: 1.0.0\nuid: 1\ngid: 1\n"
    assert manifest.check(resource).warnings == ()
