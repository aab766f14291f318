"""The section `service`: its values, the sentences and the lines of what is refused, warnings.

The vectors have an accepted or a refused text for each of its rules.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from northstar import manifest
from northstar.manifest import (
    ConnectProbe,
    DataPolicy,
    ExecProbe,
    Health,
    HealthAction,
    Log,
    NotifyProbe,
    Ready,
    Restart,
    RestartPolicy,
    Service,
    Stop,
    Update,
)
from northstar.manifest.service import signal_text
from northstar.model import ManifestError, Name, Permission

APP = "name: a\nversion: 1.0.0\ninit: /a\nuid: 1\ngid: 1\n"
SECOND = 10**9

EVERY = """\
console:
  permissions: []
service:
  restart:
    policy: on-failure
    delay: 2s
    factor: 3
    max_delay: 1m 30s
    reset_after: 1500ms
    limit: 20
    interval: 1h
  stop:
    signal: INT
    timeout: 3s
  after:
    - broker
    - net.d
  notify: /run/notify
  ready:
    probe: notify
    timeout: 4s
  watchdog: 5s
  health:
    probe:
      exec: [/bin/check, --fast]
    interval: 6s
    timeout: 7s
    failures: 8
    action: none
  log:
    size: 512KiB
  update:
    window: 9s
    tries: 10
    data: snapshot
  permissions: [logs, exec]
"""


def service(text: str) -> Service:
    """Return the section of an app with these lines."""
    found = manifest.loads(APP + text).service
    assert found is not None
    return found


def refused(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        manifest.loads(APP + text)
    return caught.value


def test_every_field() -> None:
    assert service(EVERY) == Service(
        restart=Restart(
            RestartPolicy.ON_FAILURE,
            delay=2 * SECOND,
            factor=3,
            max_delay=90 * SECOND,
            reset_after=1500 * 10**6,
            limit=20,
            interval=3600 * SECOND,
        ),
        stop=Stop(signal=2, timeout=3 * SECOND),
        after=(Name("broker"), Name("net.d")),
        notify="/run/notify",
        ready=Ready(NotifyProbe(), 4 * SECOND),
        watchdog=5 * SECOND,
        health=Health(
            ExecProbe(("/bin/check", "--fast")), 6 * SECOND, 7 * SECOND, 8, HealthAction.NONE
        ),
        log=Log(512 * 1024),
        update=Update(9 * SECOND, 10, DataPolicy.SNAPSHOT),
        permissions=frozenset((Permission.EXEC, Permission.LOGS)),
    )


def test_the_written_form() -> None:
    written = manifest.dumps(manifest.loads(APP + EVERY))
    assert '    max_delay: "90s"\n    reset_after: "1500ms"\n' in written
    assert "  log:\n    size: 524288\n" in written
    assert "  stop:\n    signal: INT\n" in written
    assert '    probe:\n      exec:\n        - /bin/check\n        - "--fast"\n' in written
    assert "  permissions:\n    - exec\n    - logs\n" in written


def test_defaults() -> None:
    assert manifest.loads(APP).service is None
    assert service("service: {}\n") == Service(None, None, (), None, None, None, None, None, None)
    text = "service: {restart: {policy: always}, stop: {}, log: {}, update: {}}\n"
    found = service(text)
    assert found.restart == Restart(
        RestartPolicy.ALWAYS, 1 * SECOND, 2, 300 * SECOND, 600 * SECOND, None, None
    )
    assert found.stop == Stop(15, 10 * SECOND)
    assert found.log == Log(256 * 1024)
    assert found.update == Update(60 * SECOND, 3, DataPolicy.KEEP)
    probe = "{probe: {connect: 'tcp:80'}}"
    found = service(f"service: {{ready: {probe}, health: {probe}}}\n")
    assert found.ready == Ready(ConnectProbe("tcp:80"), 60 * SECOND)
    assert found.health == Health(
        ConnectProbe("tcp:80"), 10 * SECOND, 5 * SECOND, 3, HealthAction.STOP
    )


MOUNT = "mounts:\n  /run:\n    type: tmpfs\n    size: 1M\n"

SENTENCES = {
    "watchdog": (
        "service:\n  watchdog: 30s\n",
        (
            "service.watchdog: needs service.notify: the app has no socket to say WATCHDOG=1 on, "
            "line 7, column 13"
        ),
    ),
    "watchdog with null": (
        "service:\n  notify:\n  watchdog: 30s\n",
        (
            "service.watchdog: needs service.notify: the app has no socket to say WATCHDOG=1 on, "
            "line 8, column 13"
        ),
    ),
    "ready": (
        "service:\n  ready:\n    timeout: 1s\n    probe: notify\n",
        (
            "service.ready.probe: needs service.notify: the app has no socket to say READY=1 on, "
            "line 9, column 12"
        ),
    ),
    "permissions": (
        "service:\n  permissions:\n    - logs\n",
        "service.permissions: needs console: the app has no console connection, line 8, column 5",
    ),
    "in a mount": (
        f"{MOUNT}service:\n  notify: /run/notify\n",
        (
            "service.notify: /run/notify lies in the tmpfs on /run, line 11, column 11; "
            "choose a directory of the image"
        ),
    ),
    "hides a mount": (
        "service:\n  notify: /\u00e4\nmounts:\n  /\u00e4/b:\n    type: persist\n",
        (
            "service.notify: /\u00e4 would hide the persist mount on /\u00e4/b, line 7, column 11; "
            "choose a directory of the image"
        ),
    ),
    "env": (
        "service:\n  notify: /n\nenv:\n  A: b\n  NOTIFY_SOCKET: x\n",
        "env.NOTIFY_SOCKET: is set by the runtime, line 10, column 18",
    ),
    "after itself": (
        "service:\n  after:\n    - b\n    - a\n",
        "service.after.1: 'a' is the container's own name, line 9, column 7",
    ),
    "limit": (
        "service:\n  restart:\n    policy: always\n    limit: 3\n",
        "service.restart.limit: needs service.restart.interval, line 9, column 12",
    ),
    "delay": (
        "service:\n  restart:\n    policy: always\n    delay: 6m\n",
        (
            "service.restart.delay: the delay (360s) is longer than max_delay (300s), "
            "line 9, column 12; set max_delay too"
        ),
    ),
    "duration": (
        "service:\n  stop:\n    timeout: 366d\n",
        "service.stop.timeout: '366d' is too long, line 8, column 14; at most 365 days",
    ),
    "unknown": (
        "service:\n  restart:\n    policy: always\n    burst: 3\n",
        (
            "service.restart.burst: no such field, line 9, column 5; known are policy, delay, "
            "factor, max_delay, reset_after, limit, interval"
        ),
    ),
    "a version": (
        'service:\n  after: ["b:1.0.0"]\n',
        (
            "service.after.0: 'b:1.0.0' is not a name (characters 0-9 A-Z a-z . _ - only, not '.' "
            "or '..'), line 7, column 11; write the name without a version"
        ),
    ),
}


@pytest.mark.parametrize("rule", SENTENCES)
def test_sentences(rule: str) -> None:
    text, sentence = SENTENCES[rule]
    assert str(refused(text)) == sentence


def test_json_has_lines_too() -> None:
    value = json.loads('{"name":"a","version":"1.0.0","init":"/a","uid":1,"gid":1}')
    text = json.dumps({**value, "service": {"after": ["b", "a"]}}, indent=1)
    with pytest.raises(ManifestError) as caught:
        manifest.loads(text)
    assert (caught.value.path, caught.value.line) == ("service.after.1", 10)


def test_check_finds_all_errors_of_a_valid_section() -> None:
    text = (
        f"{APP}env: {{NOTIFY_SOCKET: x, WATCHDOG_USEC: x}}\n"
        "mounts: {/n/a: {type: proc}, /n: {type: persist}}\n"
        "service: {after: [b, a], notify: /n, permissions: [logs]}\n"
    )
    assert [error.path for error in manifest.check(text).errors] == [
        "service.after.1",
        "service.permissions",
        "env.NOTIFY_SOCKET",
        "env.WATCHDOG_USEC",
        "service.notify",
        "service.notify",
    ]


@pytest.mark.parametrize(
    ("section", "paths"),
    [
        ("{watchdog: 1s, notify: relative}", ["service.notify"]),
        ("{watchdog: 0s, ready: {probe: notify}}", ["service.watchdog", "service.ready.probe"]),
        ("{restart: {policy: x, delay: 0s, max_delay: 1ms}}", ["policy", "delay"]),
        ("{restart: {policy: always, limit: x, interval: 1s}}", ["limit"]),
    ],
)
def test_no_error_follows_from_another(section: str, paths: list[str]) -> None:
    report = manifest.check(f"{APP}service: {section}\n")
    found = [error.path for error in report.errors]
    assert all(path.endswith(wanted) for path, wanted in zip(found, paths, strict=True))


def test_an_invalid_console_is_the_only_error() -> None:
    text = "console: {permissions: all}\nservice: {permissions: [logs]}\n"
    report = manifest.check(APP + text)
    assert [error.path for error in report.errors] == ["console.permissions"]


def test_signals() -> None:
    for number in range(1, 32):
        text = signal_text(number)
        assert isinstance(text, str)
        for written in (number, text, f"SIG{text}", text.lower()):
            stop = service(f"service: {{stop: {{signal: {written}}}}}\n").stop
            assert stop == Stop(signal=number)
    # Real-time signals have no common numbers: a libc reserves some.
    assert signal_text(32) == 32


def test_yaml_tags_of_probes() -> None:
    found = service("service: {ready: {probe: !connect unix:/run/a}}\n")
    assert found.ready == Ready(ConnectProbe("unix:/run/a"))
    error = refused("service: {ready: {probe: !exec [/a]}}\n")
    assert error.path == "service.ready.probe"


WARNINGS: list[tuple[str, str, str | None]] = [
    ("", "{}", None),
    ("", "{restart: {policy: never}}", None),
    ("", "{restart: {policy: never, delay: 2s}}", "service.restart: with the policy never"),
    ("", "{restart: {policy: always, delay: 2s}}", None),
    (
        "",
        "{notify: /n, watchdog: 1s}",
        "service.watchdog: stops the container, and without restart",
    ),
    ("", "{notify: /n, watchdog: 1s, restart: {policy: always}}", None),
    ("", "{health: {probe: {exec: [/c]}}}", "service.health: stops the container, and without"),
    ("", "{health: {probe: {exec: [/c]}, action: none}}", None),
    ("", "{stop: {signal: STOP}}", "service.stop.signal: STOP suspends the container"),
    ("", "{stop: {signal: INT}}", None),
    ("", "{log: {}}", "service.log: has no effect"),
    ("io: {stdout: discard, stderr: discard}\n", "{log: {}}", "service.log: has no effect"),
    ("io: {stdout: discard, stderr: pipe}\n", "{log: {}}", None),
    ("", "{update: {data: snapshot}}", "service.update.data: nothing is copied"),
    ("mounts: {/d: {type: persist}}\n", "{update: {data: snapshot}}", None),
    ("", "{update: {data: keep}}", None),
]


@pytest.mark.parametrize(("before", "section", "words"), WARNINGS)
def test_warnings(before: str, section: str, words: str | None) -> None:
    text = f"{APP}seccomp: {{profile: default}}\n{before}service: {section}\n"
    warnings = manifest.check(text).warnings
    assert len(warnings) == (words is not None)
    assert all(warning.startswith(words or "") for warning in warnings)


def test_the_schema_has_units_and_defaults() -> None:
    (section, _) = manifest.schema()["properties"]["service"]["anyOf"]
    fields: dict[str, Any] = section["properties"]
    (restart, _) = fields["restart"]["anyOf"]
    delay = restart["properties"]["max_delay"]
    assert delay["default"] == "300s"
    assert "Unit: duration such as `5s` or `1m 30s`." in delay["description"]
    (log, _) = fields["log"]["anyOf"]
    size = log["properties"]["size"]
    assert size["default"] == 256 * 1024
    assert size["oneOf"][0] == {
        "type": "integer",
        "minimum": 64 * 1024,
        "maximum": 16 * 1024 * 1024,
        "multipleOf": 4096,
    }
