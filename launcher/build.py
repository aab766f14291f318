"""Builds the C program and generates plan_ops.py from plan.def, for the package.

Hatchling runs it as a build hook for wheels and editable installs; by hand:
`python launcher/build.py`. `--sanitize` builds another program, for the tests, with the address
and the undefined behaviour sanitizers.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE: Final = Path(__file__).resolve().parent
SOURCES: Final = sorted(HERE.glob("*.c"))
PLAN: Final = HERE / "plan.def"
PACKAGE: Final = HERE.parent / "src" / "northstar" / "launch"
PROGRAM: Final = PACKAGE / "init"
PLAN_OPS: Final = PACKAGE / "plan_ops.py"
SANITIZED: Final = HERE.parent / "build" / "init-sanitize"

WARNINGS: Final = (
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wshadow",
    "-Wconversion",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wundef",
    "-Wvla",
    "-Wformat=2",
)
COMMON: Final = ("-std=c11", "-D_GNU_SOURCE", *WARNINGS)
# Small, since one runs in each container, and not relocatable, so that no page is written at start.
SMALL: Final = (
    "-Os",
    "-static",  # implies -no-pie, which clang refuses here as unused
    "-fno-pie",
    "-fno-asynchronous-unwind-tables",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wl,--gc-sections,--build-id=none,-z,noseparate-code",
    "-s",
)
SANITIZE: Final = (
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


class Entry(NamedTuple):
    """One line of plan.def. `extra` is the occurrence and the arguments of an OP."""

    macro: str
    name: str
    number: str
    extra: tuple[str, ...]
    text: str


_PLAN_OPS_HEAD: Final = '''\
"""The operations of a launch plan and the reports on it. Generated from plan.def."""

from __future__ import annotations

import enum
from typing import Final

'''

_ENTRY: Final = re.compile(r"^(VALUE|OP|STEP|REPORT)\((.*)\)$", re.MULTILINE)
_FIELD: Final = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^",]+?)\s*(?:,|$)')


class BuildError(Exception):
    """The program cannot be built; the message contains the cause."""


def entries() -> list[Entry]:
    """Return the entries of plan.def in order.

    Raises:
        BuildError: an entry has the wrong number of fields.
    """
    found = []
    for macro, fields in _ENTRY.findall(PLAN.read_text()):
        parts = [field.strip('"') for field in _FIELD.findall(fields)]
        if len(parts) != (5 if macro == "OP" else 3):
            raise BuildError(f"{PLAN}: {macro}({fields}) has {len(parts)} fields")
        name, number, *extra, text = parts
        found.append(Entry(macro, name, number, tuple(extra), text))
    return found


def _docstring(text: str, indent: str) -> str:
    lines = textwrap.wrap(text, 100 - len(indent) - 3)
    if len(lines) == 1 and len(indent) + len(lines[0]) + 6 <= 100:
        return f'{indent}"""{lines[0]}"""\n'
    body = "".join(f"{indent}{line}\n" for line in lines[1:])
    return f'{indent}"""{lines[0]}\n{body}{indent}"""\n'


def plan_ops() -> str:
    """Return the source of northstar/launch/plan_ops.py."""
    everything = entries()
    parts = [_PLAN_OPS_HEAD]
    parts += (
        f"{entry.name}: Final = {entry.number}\n{_docstring(entry.text, '')}\n"
        for entry in everything
        if entry.macro == "VALUE"
    )
    classes = {
        "Op": ("OP", "An operation of a plan, with the names of its arguments."),
        "Step": ("STEP", "A step that is not an operation but can fail."),
        "Report": ("REPORT", "A report of the launcher or of init to the runtime."),
    }
    for name, (macro, doc) in classes.items():
        parts.append(f'\nclass {name}(enum.IntEnum):\n    """{doc}"""\n')
        for entry in everything:
            if entry.macro == macro:
                names = " ".join(a.split(":")[1] for a in entry.extra[-1:] for a in a.split())
                text = f"{entry.text} Arguments: {names}." if names else entry.text
                parts.append(f"\n    {entry.name} = {entry.number}\n{_docstring(text, '    ')}")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def compiler() -> list[str]:
    """Return the C compiler with the options that a static build needs.

    `CC` in the environment takes precedence, for example for cross-compilation.

    Raises:
        BuildError: no compiler was found.
    """
    if own := shlex.split(os.environ.get("CC", "")):
        return own
    gcc = shutil.which("gcc")
    if gcc and shutil.which("musl-gcc"):
        # musl-gcc searches musl's headers only; the kernel's headers are the host's. They come
        # last, since the same directories contain the headers of the host's C library.
        multiarch = _run([gcc, "-print-multiarch"]).strip()
        return ["musl-gcc", "-idirafter", "/usr/include", "-idirafter", f"/usr/include/{multiarch}"]
    if gcc:
        return [gcc]
    raise BuildError(
        "no C compiler to build the launcher with; "
        "install one (Debian packages: gcc, musl-tools) or name it in CC"
    )


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} failed:\n{done.stderr.rstrip()}")
    return done.stdout


def compile_program(output: Path = PROGRAM, *, sanitize: bool = False) -> None:
    """Compile the program.

    Args:
        output: the program's path; replaced atomically, so that a running program is not modified.
        sanitize: with the sanitizers, which require dynamic linking.

    Raises:
        BuildError: no compiler was found, or it failed.
    """
    command = ["gcc", *SANITIZE] if sanitize else [*compiler(), *SMALL]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".init-") as directory:
        made = Path(directory, "init")
        prefix = f"-ffile-prefix-map={HERE}=launcher"
        _run([*command, *COMMON, prefix, "-o", str(made), *map(str, SOURCES)])
        made.replace(output)


def write_plan_ops() -> None:
    """Write northstar/launch/plan_ops.py atomically, only if it changes."""
    content = plan_ops()
    if PLAN_OPS.exists() and PLAN_OPS.read_text() == content:
        return
    new = PLAN_OPS.with_suffix(".new")
    new.write_text(content)
    new.replace(PLAN_OPS)


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the program and plan_ops.py to the package before hatchling collects its files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build both; the wheel is tagged for this platform and any Python 3."""
        try:
            write_plan_ops()
            compile_program()
        except BuildError as error:
            self.app.abort(str(error))
        build_data["artifacts"] += [
            f"/{path.relative_to(HERE.parent)}" for path in (PROGRAM, PLAN_OPS)
        ]
        build_data["pure_python"] = False
        platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
        build_data["tag"] = f"py3-none-{platform}"


def main() -> None:
    """Build by hand."""
    parser = argparse.ArgumentParser(description="Build the launcher.")
    parser.add_argument("--sanitize", action="store_true", help=f"build {SANITIZED.name} instead")
    parser.add_argument("--output", type=Path, help="path of the program")
    options = parser.parse_args()
    try:
        write_plan_ops()
        compile_program(
            options.output or (SANITIZED if options.sanitize else PROGRAM),
            sanitize=options.sanitize,
        )
    except BuildError as error:
        sys.exit(f"build.py: {error}")


if __name__ == "__main__":
    main()
