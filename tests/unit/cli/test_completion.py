"""Words for the completion in shells; tests/system/test_completion.py runs the shells."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from northstar.cli import completion
from northstar.cli.northstar_command import northstar
from northstar.cli.nstar_commands import nstar
from northstar.cli.sextant import sextant


def parameters(
    command: click.Command, parent: click.Context | None = None
) -> Iterator[tuple[str, click.Parameter]]:
    with command.make_context(command.name, [], parent=parent, resilient_parsing=True) as context:
        for parameter in command.get_params(context):
            yield f"{context.command_path} {parameter.name}", parameter
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from parameters(found, context)


ALL = [pair for command in (northstar, nstar, sextant) for pair in parameters(command)]


@pytest.mark.parametrize("parameter", [p for _, p in ALL], ids=[name for name, _ in ALL])
def test_each_parameter_has_words_or_is_free(parameter: click.Parameter):
    if isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count):
        return
    if isinstance(parameter.type, click.Choice):
        return
    metavar = completion.metavar(parameter)
    assert (metavar in completion.WORDS) != (metavar in completion.FREE), metavar


def test_no_metavar_is_listed_that_no_parameter_has():
    used = {completion.metavar(parameter) for _, parameter in ALL}
    assert completion.WORDS.keys() | completion.FREE <= used


def bash(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    breaks: str = " \t\n=:",
) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_WORDBREAKS", breaks)
    command = {"nstar": nstar, "sextant": sextant}[line.split()[0]]
    assert completion.respond(command, "program", "_PROGRAM_COMPLETE", "bash_complete") == 0
    return capsys.readouterr().out.splitlines()


def test_bash_replaces_only_what_follows_a_colon(monkeypatch, capsys):
    words = {"CONTAINER": lambda *_: map(click.shell_completion.CompletionItem, ["a:1.0.0", "b:2"])}
    monkeypatch.setattr(completion, "WORDS", words)
    assert bash(monkeypatch, capsys, "nstar start ") == ["plain,a:1.0.0", "plain,b:2"]
    assert bash(monkeypatch, capsys, "nstar start a:1") == ["plain,1.0.0"]
    assert bash(monkeypatch, capsys, "nstar start a:1", " \t\n") == ["plain,a:1.0.0"]
    assert bash(monkeypatch, capsys, "nstar mount a:1.0.0 b:") == ["plain,2"]


def test_kinds_of_words(monkeypatch, capsys):
    assert bash(monkeypatch, capsys, "sextant pack -m x") == ["file,x"]
    assert bash(monkeypatch, capsys, "sextant pack --root=x") == ["dir,x"]
    assert bash(monkeypatch, capsys, "nstar kill a:1.0.0 ki") == ["plain,KILL"]
    assert bash(monkeypatch, capsys, "nstar kill a:1.0.0 sigk") == ["plain,SIGKILL"]
    assert "plain,SIGSTOP" in bash(monkeypatch, capsys, "nstar kill a:1.0.0 S")
    line = "sextant new x --capability CAP_SYS_A"
    assert bash(monkeypatch, capsys, line) == ["plain,CAP_SYS_ADMIN"]


def test_without_a_runtime_there_are_no_words_and_no_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NORTHSTAR_URL", f"unix://{tmp_path}/none")
    assert bash(monkeypatch, capsys, "nstar start a") == []
    assert bash(monkeypatch, capsys, "nstar install x ") == []


@pytest.mark.parametrize("instruction", ["tcsh_complete", "bash_other", "bash"])
def test_unknown_instructions(instruction: str):
    assert completion.respond(nstar, "nstar", "_NSTAR_COMPLETE", instruction) == 1
