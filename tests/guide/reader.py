"""Follows pages on a private machine: executes their commands, and compares the output."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.guide.machine import Machine, Terminal
from tests.guide.page import INTERRUPT, MAIN, Block, Command, Page, pattern

TRACEBACK = "Traceback (most recent call last)"


def order(page: Page) -> list[Page]:
    """Return the pages to follow: those that it needs, each once, and itself at the end."""
    found: dict[Path, Page] = {}

    def add(one: Page) -> None:
        for name, anchor in one.needs:
            path = one.path.parent / name
            if path not in found:
                add(Page.read(path).until(anchor))
        found[one.path] = one

    add(page)
    return list(found.values())


class Reader:
    """Follows pages, each block as it stands."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._busy: set[Terminal] = set()

    def follow(self, page: Page) -> None:
        """Execute a page.

        Raises:
            AssertionError: something is not as the page says; names the page and the line.
        """
        for block in page.blocks:
            where = f"{page.path.name}, line {block.line}"
            terminal = self.machine.terminal(block.terminal)
            try:
                if block.kind == "console":
                    self._console(terminal, block)
                else:
                    self._script(terminal, block)
            except (AssertionError, TimeoutError, EOFError) as error:
                raise AssertionError(f"{where}: {error}\n\n{self._others(terminal)}") from None
            if TRACEBACK not in block.text:
                assert TRACEBACK not in terminal.output(), f"{where}:\n{terminal.output()}"

    def _script(self, terminal: Terminal, block: Block) -> None:
        path = self.machine.store(block.text)
        if block.kind == "file":
            path = self.machine.store(f"cp {path} {shlex.quote(block.path)}\n")
        assert terminal not in self._busy, "something still runs in this terminal"
        code, output = terminal.run(path)
        assert code == block.exit_code, f"exit code {code}, not {block.exit_code}\n{output}"

    def _console(self, terminal: Terminal, block: Block) -> None:
        commands = block.commands
        if commands and commands[0].text == INTERRUPT:
            self._interrupt(terminal, commands.pop(0))
        for command in commands:
            last = command is commands[-1]
            assert terminal not in self._busy, "something still runs in this terminal"
            terminal.start(self.machine.store(f"{command.text}\n"))
            if len(command.parts) > 1:
                terminal.wait_for(command.parts[0])
                self._interrupt(terminal, command)
            elif last and block.terminal != MAIN and terminal.wait_for(command.parts[0]):
                self._busy.add(terminal)
            else:
                code, output = terminal.wait()
                _compare(command.text, command.parts, output)
                wanted = block.exit_code if last else 0
                assert code == wanted, f"{command.text}\nexit code {code}, not {wanted}\n{output}"

    def _interrupt(self, terminal: Terminal, command: Command) -> None:
        """Press Ctrl-C, during this command, or if it is ^C itself, during that before it."""
        before = [pattern(["..."])] if command.text == INTERRUPT else []
        _, output = terminal.interrupt()
        self._busy.discard(terminal)
        # The terminal shows the key in the output, at the beginning of a line or behind a text.
        _compare(command.text, [*before, *command.parts], output.replace("^C", ""))

    def _others(self, failed: Terminal) -> str:
        """Return the ends of the other terminals' output, where the log of the runtime is."""
        return "\n".join(
            f"--- {name}:\n{terminal.output()[-3000:]}"
            for name, terminal in self.machine.terminals.items()
            if terminal is not failed
        )


def _compare(command: str, parts: list[str], output: str) -> None:
    if not re.fullmatch("".join(parts), output):
        shown = re.sub(r"\\(.)", r"\1", "".join(parts))
        raise AssertionError(f"{command}\n--- expected:\n{shown}\n--- printed:\n{output}")
