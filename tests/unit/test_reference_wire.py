"""Pages about protocol, errors, permissions, log lines, environment, exit codes and commands."""

from __future__ import annotations

import ast
import re
import shlex
from typing import get_args

import click
import pytest

from northstar import api
from northstar.api import error, response
from northstar.api.description import describe
from northstar.api.shape import I32, U64, tag_of
from northstar.manifest.manifest import RESERVED_ENV
from northstar.model import Container, ExitStatus, Permission
from reference import (
    commands,
    environment,
    errors,
    examples,
    exit_codes,
    log_lines,
    permissions,
    protocol,
    source,
    wire,
)
from reference.blocks import Terms

KINDS = [
    pytest.param(kind, id=f"{kind.__module__}.{kind.__name__}") for kind in get_args(api.Message)
]


# Protocol ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_message_has_an_example(kind: type) -> None:
    assert type(api.decode_extended(examples.example(kind).encode())) is kind


@pytest.mark.parametrize("line", examples.SESSION)
def test_the_codec_reads_and_writes_an_example(line: str) -> None:
    message = api.decode_extended(line.encode())
    assert message is not None
    assert api.encode(message) == line.encode() + b"\n"


def test_plain_messages_are_those_of_plain_connections() -> None:
    """A message without `Only ..` on the page is accepted on a connection that is not extended."""
    page = protocol.pages()["docs/reference/protocol.md"]
    sections = re.split(r"^### ", page, flags=re.MULTILINE)
    found = 0
    for section in sections:
        if section.startswith(("Request ", "Notification ")):
            [line, *_] = re.findall(r"^\{.*\}$", section, re.MULTILINE)
            extended = "Only with the feature" in section or "Only on extended" in section
            found += 1
            if extended:
                with pytest.raises(Exception, match="is unknown"):
                    api.decode(line.encode())
            else:
                api.decode(line.encode())
    assert found > 25


def test_each_request_has_a_response_and_permissions() -> None:
    for kind in get_args(api.Request):
        assert protocol.response_of(kind) in get_args(api.Response)
        assert protocol.permission_text(kind)
    others = {protocol.response_of(kind) for kind in get_args(api.Request)}
    assert {*get_args(api.Response)} - others == {response.PermissionDenied}


def test_each_member_of_a_message_has_a_type_and_a_text() -> None:
    for kind in (*get_args(api.Message), *protocol.objects()):
        for name, kind_text, text in wire.members(kind):
            assert name
            assert text.endswith(".")
            assert kind_text or describe(kind).fields
            assert "typing" not in kind_text
            assert "<" not in kind_text


def test_each_feature_has_a_text() -> None:
    assert [name for name, text in protocol.features() if text] == [*api.feature.FEATURES]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (bytes | None, "base64 or null"),
        (tuple[api.Status, ...], "array of [Status](#status)"),
        (api.Error, "[error](errors.md)"),
        (api.response.Ok | api.response.Failed, "`ok` ([Ok](#ok)) or `error` ([Failed](#failed))"),
        (ExitStatus | None, "exit status or null"),
        (U64, "integer, 0 to 2^64 - 1"),
        (I32, "integer, -2^31 to 2^31 - 1"),
    ],
)
def test_the_text_of_a_type(hint: object, text: str) -> None:
    assert wire.type_text(hint) == text


def test_an_unknown_type_has_no_text() -> None:
    with pytest.raises(TypeError, match="no type"):
        wire.type_text(complex | list[int])


# Errors and permissions -------------------------------------------------------------------


@pytest.mark.parametrize("kind", get_args(error.Error))
def test_each_error_has_an_example_and_says_what_to_do(kind: type) -> None:
    [one] = [one for one in examples.ERRORS if type(one) is kind]
    failed = f'{{"container":"a:1.0.0","error":{errors.encoded(one)}}}'
    message = api.decode(f'{{"response":{{"kill":{{"error":{failed}}}}}}}'.encode())
    assert message == response.Kill(response.Failed(Container.parse("a:1.0.0"), one))
    described = " ".join(describe(kind).text.split())
    assert "To do: " in described
    assert described.endswith(".")


def test_errors_that_the_runtime_never_sends_are_marked() -> None:
    used = {
        node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        for module, tree in source.trees("rror").items()
        if module.startswith(("core/", "runtime/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    for kind in get_args(error.Error):
        assert ("This runtime does not send it" in describe(kind).text) == (
            kind.__name__ not in used
        ), kind.__name__


def test_each_permission_is_on_the_page_once() -> None:
    tables = [block for block in permissions.blocks() if isinstance(block, Terms)]
    rows = [row for table in tables for row in table.rows]
    assert sorted(row[0] for row in rows) == sorted(one.value for one in Permission)
    assert [*describe(Permission).fields] == [one.value for one in Permission]
    without = [name for name, _, requests in rows if not requests]
    assert without == ["upgrade"]
    assert "reserved" in describe(Permission).fields["upgrade"]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
    assert named == {"connect", *(tag_of(kind) for kind in get_args(api.Request))}


# Log lines --------------------------------------------------------------------------------

LOGS = """
FEW = "few"
def f(log, logs, container, number, critical):
    log.warning("%s: 100%% of %d, %.1f s", container, len(number), limit.seconds)
    log.exception("Failed")
    self._log.log(self._level, "%s", text)
    draft.act(Log(logging.INFO if critical else logging.ERROR, f"{'A' if critical else 'B'} {x.y}"))
    with logs.first_few(logging.INFO, "%d more of %s", container) as line:
        line("One of %s", FEW)
    other.info("not a logger")
"""


def test_places_that_log_are_found() -> None:
    found = [(one.level, one.text) for one in log_lines.calls_of(ast.parse(LOGS), "x.py")]
    assert sorted(found) == sorted(
        [
            ("warning", "CONTAINER: 100% of N, SECONDS s"),
            ("error", "Failed"),
            ("", "TEXT"),
            ("info", "A Y"),
            ("error", "B Y"),
            ("info", "N more of CONTAINER"),
            ("info", "One of few"),
        ]
    )


def test_loggers_have_the_names_that_are_searched() -> None:
    """A logger with another name would be missing on the page."""
    found = [
        (module, ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target))
        for module, tree in source.trees("getLogger").items()
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and ast.unparse(node.value).startswith("logging.getLogger(")
    ]
    assert len(found) > 20
    assert {name for _, name in found} == {"log", "_container_logger"}


def test_stable_lines_are_logged() -> None:
    texts = {call.text for call in log_lines.calls()}
    assert {text for text, _ in log_lines.STABLE} <= texts


# Environment ------------------------------------------------------------------------------

READS = """
import os
NAME = "CONSTANT"
def f(environment=os.environ):
    environment.get("PARAMETER")
    environment.get(computed)
def g():
    os.environ["ITEM"], "MEMBER" in os.environ, os.environ.get(NAME), os.getenv("GETENV")
    option(envvar="OPTION")
    environment = environment if environment else os.environ
def h():
    os.environ.get(computed)
    return {**os.environ}
"""


def test_uses_of_the_environment_are_found() -> None:
    tree = ast.parse(READS)
    found = [one.name for one in environment.reads_of(tree, "x.py", {"NAME": "CONSTANT"})]
    assert sorted(found) == sorted(
        ["PARAMETER", "ITEM", "MEMBER", "CONSTANT", "GETENV", "OPTION", "", "", ""]
    )


def test_each_variable_that_is_read_has_a_text_and_the_reverse() -> None:
    assert {read.name for read in environment.reads() if read.name} == environment.TEXTS.keys()
    assert environment.whole_readers() == {*environment.WHOLE, *environment.COMPUTED}


def test_each_variable_of_a_container_has_a_text() -> None:
    found = environment.in_containers()
    assert found == [*environment.CONTAINER_TEXTS]
    assert set(RESERVED_ENV) <= set(found)


def test_the_launcher_reads_no_variable() -> None:
    files = [*(source.DIRECTORY.parents[1] / "launcher").glob("*.c")]
    assert len(files) > 10
    readers = re.compile(r"\b(secure_)?getenv\(|environ\b")
    assert not [file.name for file in files if readers.search(file.read_text())]


# Exit codes and commands ------------------------------------------------------------------


def test_each_exit_code_is_on_the_page() -> None:
    found = list(exit_codes.declared())
    assert {1, 2, 3, 124} <= {code for _, code in found}
    listed = {code for rows in exit_codes.CODES.values() for code, _ in rows}
    for module, code in found:
        known = str(code) in listed or (code > 128 and exit_codes.SIGNALLED in listed)
        assert known, f"{module}: {code} is not in reference/exit_codes.py"


def test_commands_with_exit_codes_of_their_own_exist() -> None:
    for title in exit_codes.CODES:
        program, *names = title.split()
        command = commands.MANUALS[program].command
        for name in names:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), name)
            assert found is not None, title
            command = found


@pytest.mark.parametrize("name", commands.MANUALS)
def test_a_manual_page_has_all_commands_and_options(name: str) -> None:
    page = commands.pages()[f"docs/man/man1/{name}.1"].replace("\\-", "-")
    group = commands.MANUALS[name].command
    context = click.Context(group, info_name=name)
    inner = [(group, context)]
    while inner:
        command, where = inner.pop()
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                assert option in page, f"{where.command_path} {option}"
        if isinstance(command, click.Group):
            for sub, found, deeper in commands.subcommands(command, context):
                inner.append((found, deeper))
                assert sub in page


def test_a_command_or_an_option_without_a_text_is_an_error() -> None:
    bare = click.Command("bare", params=[click.Option(["--bare"])])
    with pytest.raises(ValueError, match="bare has no docstring"):
        commands.help_text(bare, "bare")
    with pytest.raises(ValueError, match="--bare has no help"):
        list(commands.options(bare, click.Context(bare, info_name="bare")))


EXAMPLES = [line for manual in commands.MANUALS.values() for line in manual.examples]


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_a_valid_command_line(line: str) -> None:
    program, *words = shlex.split(line)
    command = commands.MANUALS[program].command
    context = command.make_context(program, words)
    if isinstance(command, click.Group):
        words = [*context._protected_args, *context.args]
        _, found, rest = command.resolve_command(context, words)
        assert found is not None
        found.make_context(found.name, rest, parent=context)
