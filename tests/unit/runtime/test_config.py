"""The configuration: vectors, every rule, and the lines that errors name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from northstar.model import FULL, ConfigurationError, Permission, Permissions
from northstar.model.units import format_duration, format_size, parse_duration, parse_size
from northstar.runtime import config
from northstar.runtime.config import (
    Config,
    ConsoleOptions,
    GlobalConsole,
    RepositoryConfig,
    TcpAddress,
    UnixAddress,
)
from tests import vectors

BASE = 'run_dir = "/r"\ndata_dir = "/d"\nsocket_dir = "/s"\ncgroup = "north"\n'
UNIX = '[console.global]\nbind = "unix:///c"\npermissions = "full"\n'
TCP = '[console.global]\nbind = "tcp://x"\npermissions = "full"\n'


def refused(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        config.loads(text, "n.toml")
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("vector", vectors.load("config"))
def test_vector(vector: dict[str, Any]) -> None:
    if "error" in vector:
        assert refused(vector["input"])
    else:
        assert config.loads(vector["input"]).warnings == ()


def test_defaults() -> None:
    assert config.loads(BASE) == Config(
        run_dir="/r",
        data_dir="/d",
        socket_dir="/s",
        cgroup="north",
        event_buffer_size=256,
        notification_buffer_size=128,
        loop_device_timeout=10.0,
        shutdown_timeout=2.0,
        shutdown_limit=None,
        max_probes=4,
        console=None,
        console_options=ConsoleOptions(
            token_validity=60.0,
            max_requests_per_sec=1000,
            max_request_size=1048576,
            max_npk_install_size=268435456,
            npk_stream_timeout=10.0,
        ),
        repositories={},
        debug_commands=(),
        logs_kept=4 * 2**20,
        warnings=(),
    )


@pytest.mark.parametrize(
    ("text", "permissions"),
    [
        ('"full"', FULL),
        ('["full"]', FULL),
        ('["full", "logs", "exec"]', FULL | {Permission.LOGS, Permission.EXEC}),
        ('["exec", "full", "list", "exec"]', FULL | {Permission.EXEC}),
        ('["update", "upgrade"]', frozenset({Permission.UPDATE, Permission.UPGRADE})),
        ("[]", frozenset()),
    ],
)
def test_permissions(text: str, permissions: Permissions) -> None:
    console = config.loads(f'{BASE}[console.global]\nbind = "tcp://x"\npermissions = {text}\n')
    assert console.console is not None
    assert console.console.permissions == permissions


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ("", 30.0),
        ('shutdown_timeout = "29s"', 30.0),
        ('shutdown_timeout = "1m"', 60.0),
        ('shutdown_limit = "5s"', 5.0),
        ('shutdown_limit = "5s"\nshutdown_timeout = "1m"', 5.0),
        ('shutdown_limit = "0s"', 0.0),
    ],
)
def test_the_longest_shutdown(lines: str, seconds: float) -> None:
    """An older configuration may have a `shutdown_timeout` above the limit's default."""
    assert config.loads(f"{BASE}{lines}\n").longest_shutdown == seconds


def test_everything() -> None:
    read = config.loads(
        """
        run_dir = "r"
        data_dir = "d"
        socket_dir = "s"
        cgroup = "a/b"
        event_buffer_size = 1
        notification_buffer_size = 2
        loop_device_timeout = "1m 30s"
        shutdown_timeout = "0s"
        shutdown_limit = "1m"
        max_probes = 7
        console.global.bind = "unix:///run/n.sock"
        console.global.permissions = ["list", "token_create"]
        console.global.options.max_request_size = "1KiB"
        console.options.npk_stream_timeout = "100ms"
        debug.commands = ["strace -p <PID>", "true"]
        logs.kept = "1MiB"
        [repositories.memory]
        type = { mem = {} }
        [repositories.disk]
        type.fs.dir = "packages"
        key = "k.pub"
        verity = "full"
        mount_on_start = true
        capacity_num = 10
        capacity_size = "1GB"
        """
    )
    assert read == Config(
        run_dir="r",
        data_dir="d",
        socket_dir="s",
        cgroup="a/b",
        event_buffer_size=1,
        notification_buffer_size=2,
        loop_device_timeout=90.0,
        shutdown_timeout=0.0,
        shutdown_limit=60.0,
        max_probes=7,
        console=GlobalConsole(
            UnixAddress("/run/n.sock"),
            frozenset({Permission.LIST, Permission.TOKEN_CREATE}),
            ConsoleOptions(max_request_size=1024),
        ),
        console_options=ConsoleOptions(npk_stream_timeout=0.1),
        repositories={
            "memory": RepositoryConfig(None),
            "disk": RepositoryConfig("packages", "k.pub", True, 10, 10**9, "full"),
        },
        debug_commands=("strace -p <PID>", "true"),
        logs_kept=2**20,
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("1m 30s", 90.0),
        ("1m30s", 90.0),
        ("2 days", 172800.0),
        ("100ms", 0.1),
        ("7us 3ns", 7.003e-6),
        ("1M", 30.44 * 86400),
        ("1y", 365.25 * 86400),
        ("0s", 0.0),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "5", "s", "5 5s", "5q", "-1s", "5s,", "9" * 19 + "y"])
def test_duration_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        ("0", 0),
        ("1b", 1),
        ("100MB", 10**8),
        ("1M", 10**6),
        ("1MiB", 2**20),
        ("1mi", 2**20),
        ("1.5 KiB", 1536),
        ("1.1k", 1100),
        (".5k", 500),
        ("0.0005k", 0),
        ("15E", 15 * 10**18),
        ("2 gIb", 2**31),
    ],
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", ".", "x", "1 0", "1e3", "-1", "+1", "1KX", "16EiB", "1\n", "1 ", "1 MB ", " 1MB", "1MB\t"],
)
def test_size_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|64 bit"):
        parse_size(text)


@given(st.text(max_size=12) | st.from_regex(r"[0-9. ]{0,9}[a-zA-Z]{0,6}", fullmatch=True))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert 0 <= parse(text) < 2**64


@given(st.integers(0, 2**64 - 1) | st.integers(0, 15).map(lambda power: 2 ** (4 * power)))
def test_bytes_round_trip(size: int) -> None:
    assert parse_size(str(size)) == size
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**15) | st.integers(0, 10**6).map(lambda seconds: seconds * 10**9))
def test_nanoseconds_round_trip(nanoseconds: int) -> None:
    seconds = nanoseconds / 1e9
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (60.0, "60s"), (0.1, "100ms"), (7e-6, "7us"), (3e-9, "3ns")]
)
def test_duration_as_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1000, "1000"), (2**20, "1MiB"), (3 * 2**19, "1536KiB")]
)
def test_size_as_written(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tcp://localhost", TcpAddress("localhost", 4200)),
        ("tcp://0.0.0.0:0", TcpAddress("0.0.0.0", 0)),
        ("tcp://[::1]:1", TcpAddress("::1", 1)),
        ("tcp://[fe80::1%eth0]/", TcpAddress("fe80::1%eth0", 4200)),
        ("unix:///a b/c", UnixAddress("/a b/c")),
        ("unix:/run/n.sock", UnixAddress("/run/n.sock")),
    ],
)
def test_bind(url: str, address: TcpAddress | UnixAddress) -> None:
    console = config.loads(
        f'{BASE}[console.global]\nbind = "{url}"\npermissions = "full"\n'
    ).console
    assert console == GlobalConsole(address, FULL)
    assert isinstance(console, GlobalConsole)
    assert (
        config.loads(
            f'{BASE}[console.global]\nbind = "{console.bind}"\npermissions = "full"\n'
        ).console
        == console
    )


def test_mode_and_group_of_the_console() -> None:
    address = UnixAddress("/c")
    assert config.loads(BASE + UNIX).console == GlobalConsole(address, FULL, mode=0o600, group=None)
    read = config.loads(f'{BASE}{UNIX}mode = 0o660\ngroup = "adm"\n')
    assert read.console == GlobalConsole(address, FULL, mode=0o660, group="adm")
    assert read.warnings == ()


@pytest.mark.parametrize(
    "url",
    ["", "tcp://", "tcp://:1", "tcp://x:65536", "tcp://x:y", "tcp://x/y", "tcp://::1", "unix://a",
     "unix:///", "unix:/", "unix:", "unix:a", "http://x", "TCP://x", "tcp://x:\u0661",
     "tcp://x:" + "9" * 5000],
)  # fmt: skip
def test_bind_refused(url: str) -> None:
    message = refused(f'{BASE}[console.global]\nbind = "{url}"\npermissions = "full"\n')
    assert message == f"n.toml, line 6: console.global.bind: {url!r} is not an address to listen on"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "n.toml, line 5: x: unknown key"),
        ("[console]\n\nx = 1", "n.toml, line 7: console.x: unknown key"),
        ("[nope.deeper]", "n.toml, line 5: nope: unknown key"),
        ("[debug]\nx.y = 1", "n.toml, line 6: debug.x: unknown key"),
        (
            "[console.options]\r\n# note\r\nmax = 1\r\n",
            "n.toml, line 7: console.options.max: unknown key",
        ),
        (
            '[repositories.a]\ntype = "mem"\nsize = 1',
            "n.toml, line 7: repositories.a.size: unknown key",
        ),
        (
            '[repositories]\na = { type = "mem", n = 1 }',
            "n.toml, line 6: repositories.a.n: unknown key",
        ),
        (
            '[debug]\ncommands = [\n  "x = 1",\n]\nx = """\nx\n"""',
            "n.toml, line 9: debug.x: unknown key",
        ),
        (
            '[repositories."a b"]\nkey = "k"',
            "n.toml, line 5: repositories.'a b'.type: is missing",
        ),
        ("[repositories.a]\ntype = {}", "n.toml, line 6: repositories.a.type: {} is not"),
        ('[repositories.a]\ntype = "fs"', "n.toml, line 6: repositories.a.type: 'fs' is not"),
        (
            "[repositories.a]\ntype.fs = {}",
            "n.toml, line 6: repositories.a.type.fs.dir: is missing",
        ),
        ("[repositories.a]\ntype.mem.x = 1", "n.toml, line 6: repositories.a.type.mem.x: unknown"),
        ("[[repositories.a]]", "n.toml, line 5: repositories.a: must be a table"),
        ("repositories = 3", "n.toml, line 5: repositories: must be a table"),
        ("debug = 3", "n.toml, line 5: debug: must be a table"),
        ('debug.commands = "x"', "n.toml, line 5: debug.commands: 'x' is not an array"),
        ("debug.commands = [3]", "n.toml, line 5: debug.commands: 3 is not a string"),
        ("event_buffer_size = 0", "n.toml, line 5: event_buffer_size: 0 is out of range"),
        ("event_buffer_size = true", "n.toml, line 5: event_buffer_size: True is not an integer"),
        ("loop_device_timeout = 5", "n.toml, line 5: loop_device_timeout: 5 is not a string"),
        ("max_probes = 0", "n.toml, line 5: max_probes: 0 is out of range"),
        ('shutdown_limit = "2"', "n.toml, line 5: shutdown_limit: '2' is not a duration"),
        ('shutdown_timeout = "2"', "n.toml, line 5: shutdown_timeout: '2' is not a duration"),
        (
            'console.options.npk_stream_timeout = "0s"',
            "n.toml, line 5: console.options.npk_stream_timeout: '0s' is too short",
        ),
        (
            'console.options.max_request_size = "0"',
            "n.toml, line 5: console.options.max_request_size: '0' is too small",
        ),
        (
            "console.options.max_request_size = 512",
            "n.toml, line 5: console.options.max_request_size: 512 is not a string",
        ),
        (
            '[repositories.a]\ntype = "mem"\nmount_on_start = "true"',
            "n.toml, line 7: repositories.a.mount_on_start: 'true' is not a boolean",
        ),
        (
            '[repositories.a]\ntype = "mem"\nkey = "k"\nverity = "none"',
            "n.toml, line 8: repositories.a.verity: 'none' is not a way to verify",
        ),
        (
            '[repositories.a]\ntype = "mem"\nkey = "k"\nverity = { dm = {} }',
            "n.toml, line 8: repositories.a.verity: {'dm': {}} is not a way to verify",
        ),
        (
            '[repositories.a]\ntype = "mem"\nverity = "full"',
            "n.toml, line 7: repositories.a.verity: nothing is verified without a key",
        ),
        (
            '[console.global]\nbind = "tcp://x"\npermissions = "all"',
            "n.toml, line 7: console.global.permissions: 'all' is not a set of permissions",
        ),
        (
            '[console.global]\nbind = "tcp://x"\npermissions = ["nope"]',
            "n.toml, line 7: console.global.permissions: 'nope' is not a valid permission",
        ),
        ('[console.global]\nbind = "tcp://x"', "n.toml, line 5: console.global.permissions: is mi"),
        (
            '[console.global]\nbind = "tcp://x"\npermissions = []\noptions.x = 1',
            "n.toml, line 8: console.global.options.x: unknown key",
        ),
        (f'{UNIX}mode = "0600"', "n.toml, line 8: console.global.mode: '0600' is not a file mode"),
        (f"{UNIX}mode = 600", "n.toml, line 8: console.global.mode: 600 is not a file mode (0o000"),
        (f"{UNIX}mode = -1", "n.toml, line 8: console.global.mode: -1 is not a file mode"),
        (f"{UNIX}mode = true", "n.toml, line 8: console.global.mode: True is not a file mode"),
        (f'{UNIX}group = ""', "n.toml, line 8: console.global.group: an empty name"),
        (f"{UNIX}group = 7", "n.toml, line 8: console.global.group: 7 is not a string"),
        (
            f'{UNIX}group = "adm"',
            "n.toml, line 8: console.global.group: the mode 0o600 does not let the group connect",
        ),
        (
            f'{UNIX}group = "adm"\nmode = 0o644',
            "n.toml, line 8: console.global.group: the mode 0o644 does not let the group connect",
        ),
        (
            f"{TCP}mode = 0o600",
            "n.toml, line 8: console.global.mode: is for a Unix socket, and `bind` is a TCP",
        ),
        (
            f'{TCP}group = "adm"\nmode = 0o660',
            "n.toml, line 9: console.global.mode: is for a Unix socket, and `bind` is a TCP",
        ),
        (
            f'{TCP}group = "adm"',
            "n.toml, line 8: console.global.group: is for a Unix socket, and `bind` is a TCP",
        ),
    ],
)
def test_refused(text: str, message: str) -> None:
    assert refused(BASE + text).startswith(message)


@pytest.mark.parametrize("size", ["1MB ", "512 ", "1 MiB\\t", "1K\\n", " 1MB"])
def test_white_space_around_a_size_is_refused(size: str) -> None:
    message = refused(f'{BASE}console.options.max_request_size = "{size}"')
    assert message.startswith("n.toml, line 5: console.options.max_request_size: ")
    assert message.endswith("is not a size")


def test_white_space_around_full() -> None:
    text = f'{BASE}[console.global]\nbind = "tcp://x"\npermissions = " full\\t"\n'
    console = config.loads(text).console
    assert isinstance(console, GlobalConsole)
    assert console.permissions == FULL


@pytest.mark.parametrize("key", ["run_dir", "data_dir", "socket_dir", "cgroup"])
def test_required(key: str) -> None:
    text = "".join(line for line in BASE.splitlines(keepends=True) if not line.startswith(key))
    assert refused(text) == f"n.toml: {key}: is missing"
    assert refused(text + f'{key} = ""\n').startswith(f"n.toml, line 4: {key}: ")


@pytest.mark.parametrize("name", ["/abs", "a/", "a//b", ".", "a/../b", "..", "a/./b", "a\\u0000"])
def test_cgroup_leads_downwards(name: str) -> None:
    text = BASE.replace('"north"', f'"{name}"')
    assert refused(text).startswith("n.toml, line 4: cgroup: ")


def test_a_cgroup_has_a_bounded_number_of_levels() -> None:
    deep = "/".join("a" * 32)
    assert config.loads(BASE.replace("north", deep)).cgroup == deep
    text = BASE.replace("north", deep + "/a")
    assert refused(text).startswith("n.toml, line 4: cgroup: a cgroup with more than 32 levels")


def test_a_key_alone_means_verification_by_the_kernel() -> None:
    read = config.loads(f'{BASE}[repositories.a]\ntype = "mem"\nkey = "k"\n')
    assert read.repositories["a"].verity == "dm"


def test_unknown_key_of_the_global_console_is_a_warning() -> None:
    read = config.loads(
        BASE + '[console.global]\nbind = "tcp://x"\nnope = 1\npermissions = "full"\n', "n.toml"
    )
    assert read.console == GlobalConsole(TcpAddress("x", 4200), FULL)
    assert read.warnings == ("n.toml, line 7: console.global.nope: unknown key, ignored",)


def test_syntax_error_names_the_line() -> None:
    assert "line 5" in refused(BASE + "x =\ny = 1")
    assert "nested too deeply" in refused(BASE + "x = " + "[" * 100_000)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "n.toml"
    with pytest.raises(ConfigurationError, match="No such file or directory; name another"):
        config.load(str(path))
    path.write_bytes(BASE.encode() + b'\nx = "\xff"')
    with pytest.raises(ConfigurationError, match="line 6: invalid UTF-8"):
        config.load(str(path))
    path.write_text(BASE)
    assert config.load(str(path)) == config.loads(BASE)


KEYS = """run_dir cgroup event_buffer_size console global options bind permissions repositories a
type fs mem dir debug commands max_request_size x"""
keys = st.sampled_from(KEYS.split())
values = st.recursive(
    st.integers()
    | st.booleans()
    | st.sampled_from(['"full"', '"mem"', '"5s"', '"a\\u0000"', "[]"]),
    lambda inner: st.dictionaries(keys, inner, max_size=3).map(
        lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
    ),
    max_leaves=6,
)


@given(st.dictionaries(keys, values, max_size=5))
def test_any_document_is_read_or_refused(table: dict[str, Any]) -> None:
    lines = [f"{key} = {str(value).lower()}\n" for key, value in table.items()]
    base = "".join(line for line in BASE.splitlines(keepends=True) if line.split()[0] not in table)
    try:
        config.loads(base + "".join(lines))
    except ConfigurationError as error:
        assert error.hint
