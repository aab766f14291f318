"""Fuzzes the reader of the configuration: mutated texts, and the properties of every text.

Run it for a time, or for a number of texts::

    python -m tests.fuzz.configuration --seconds 60
    python -m tests.fuzz.configuration --count 100000 --seed 7

It starts from the corpus and the vectors. A text that breaks a property is written to the corpus,
which `test_configuration.py` replays, and the exit code is 1.
"""

from __future__ import annotations

import os
import time
import tomllib
from typing import Any

from northstar.model import ConfigurationError, Permission
from northstar.model.text import MESSAGE_MAX, NAMED_MAX
from northstar.runtime import config
from northstar.runtime.config import CONFIG, Config, ConsoleOptions
from northstar.schema.documents import node_of
from northstar.schema.toml import TomlContext
from northstar.schema.values import CGROUP_LEVELS_MAX
from tests import vectors
from tests.fuzz.texts import SLOW, Target

U64_MAX = 2**64 - 1
LINE_MAX = MESSAGE_MAX + 1000
"""Most characters of an error: a cut message and a hint."""

DICTIONARY = [
    *(b" = ", b".", b"\n", b"\r\n", b"{", b"}", b"[", b"]", b", ", b"'", b'"', b"'''", b'"""'),
    *(b"#", b"\t", b"\\", b"\0", b"[a]\n", b"[[a]]\n", b"a = 1\n", b'""', b"\\u0000", b"\\ud800"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xc2\x85", b"\xe2\x80\xa8", b"1979-05-27", b"\x1b[2J"),
    *(b"true", b"false", b"0", b"-1", b"1.5", b"nan", b"inf", b"1e400", b"0x10", b"0o660", b"017"),
    *(b"18446744073709551615", b"18446744073709551616", b'"16EiB"', b'"1.5 KiB"', b'"584y"'),
    *(b'"1ns"', b'"1m 30s"', b'"100ms"', b'"full"', b'["list", "start"]', b'"mem"', b'"dm"'),
    *(b"fs = { dir = '/p' }", b'"tcp://[::1]:1"', b'"tcp://h:65536"', b'"unix:///run/c"'),
    *(b"<PID>", b"../", b"/", b"a/" * 40),
    *(b"[console.global]\n", b"[console.options]\n", b"[repositories.a]\n", b"[debug]\n"),
    *(name.encode() + b" = " for name in (*CONFIG.fields, *ConsoleOptions.__struct_fields__)),
    *(name.encode() + b" = " for name in ("bind", "permissions", "mode", "group", "verity")),
    *(name.encode() + b" = " for name in ("type", "key", "mount_on_start", "capacity_size")),
]


def check(data: bytes) -> bool:
    """Assert the properties of `data`, and return whether it is a configuration.

    It is a configuration with valid values, which can be written and read again, or it is a
    ConfigurationError with one printable line that names the file.
    """
    descriptor = os.memfd_create("configuration")
    try:
        os.write(descriptor, data)
        path = f"/proc/self/fd/{descriptor}"
        started = time.process_time()
        try:
            value = config.load(path)
        except ConfigurationError as error:
            assert str(error).startswith(path)
            assert str(error).isprintable(), ascii(str(error))
            assert len(str(error)) < LINE_MAX
            return False
        finally:
            assert time.process_time() - started < SLOW
        _check_warnings(value, path)
    finally:
        os.close(descriptor)
    _check_values(value, tomllib.loads(data.decode()))
    context = TomlContext("", path, ConfigurationError)
    again = context.value(CONFIG, lambda: node_of(CONFIG.dump(value, tagged=False), context))
    assert again == Config(**{**vars_of(value), "warnings": ()})
    return True


def vars_of(value: Config) -> dict[str, Any]:
    """Return the fields of a configuration."""
    return {name: getattr(value, name) for name in Config.__struct_fields__}


def _check_warnings(value: Config, path: str) -> None:
    assert len(value.warnings) <= NAMED_MAX + 1
    for warning in value.warnings[:NAMED_MAX]:
        assert warning.startswith(path)
    for warning in value.warnings:
        assert warning.isprintable(), ascii(warning)
        assert len(warning) < LINE_MAX


def _check_values(value: Config, written: dict[str, Any]) -> None:
    """Assert that paths are as written, and numbers in range."""
    for name in ("run_dir", "data_dir", "socket_dir", "cgroup"):
        _check_text(getattr(value, name), written[name])
    levels = value.cgroup.split("/")
    assert len(levels) <= CGROUP_LEVELS_MAX
    assert not {"", ".", ".."} & set(levels)
    for count in (value.event_buffer_size, value.notification_buffer_size):
        assert 1 <= count <= U64_MAX
    for seconds in (
        value.loop_device_timeout,
        value.shutdown_timeout,
        value.longest_shutdown,
    ):
        assert 0 <= seconds <= U64_MAX
    _check_options(value.console_options)
    for command in value.debug_commands:
        assert "\0" not in command
    _check_console(value)
    for name, repository in value.repositories.items():
        given = written["repositories"][name]
        if repository.dir is not None:
            _check_text(repository.dir, given["type"]["fs"]["dir"])
        if repository.key is not None:
            _check_text(repository.key, given["key"])
        for most in (repository.capacity_num, repository.capacity_size):
            assert most is None or 0 <= most <= U64_MAX
        assert repository.verity == given.get("verity", "dm")
        assert "verity" not in given or repository.key is not None


def _check_console(value: Config) -> None:
    console = value.console
    if console is None:
        return
    _check_options(console.options)
    assert console.permissions <= set(Permission)
    assert 0 <= console.mode <= 0o777
    if isinstance(console.bind, config.TcpAddress):
        assert console.bind.host
        assert 0 <= console.bind.port < 2**16
        assert console.group is None
    else:
        assert console.bind.path.startswith("/")
        assert "\0" not in console.bind.path
        assert console.group is None or (console.group and console.mode & 0o020)


def _check_options(options: ConsoleOptions) -> None:
    assert 0 <= options.token_validity <= U64_MAX
    assert 1e-3 <= options.npk_stream_timeout <= U64_MAX
    assert 1 <= options.max_requests_per_sec <= U64_MAX
    assert 1 <= options.max_request_size <= U64_MAX
    assert 0 <= options.max_npk_install_size <= U64_MAX


def _check_text(value: str, written: str) -> None:
    assert value == written
    assert value
    assert "\0" not in value


TARGET = Target(
    "configuration",
    check,
    DICTIONARY,
    [vector.values[0]["input"].encode() for vector in vectors.load("config")],
)


if __name__ == "__main__":
    TARGET.main()
