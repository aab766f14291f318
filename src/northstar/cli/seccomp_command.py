"""The command `nstar seccomp`, loaded on first use."""

from __future__ import annotations

import click

from northstar.cli import strace
from northstar.cli.common import CommandError, warn
from northstar.manifest import SeccompProfile


@click.command()
@click.argument("log", metavar="STRACE-LOG")
@click.option(
    "--no-default-profile", is_flag=True, help="List every call, not only those beyond the profile."
)
def seccomp(log: str, no_default_profile: bool) -> None:
    """Print the manifest section `seccomp` for a program, from a log of its system calls.

    Make the log with: strace -f -o STRACE-LOG PROGRAM
    """
    profile = None if no_default_profile else SeccompProfile.DEFAULT
    with open(log, encoding="utf-8", errors="backslashreplace") as lines:
        needs = strace.analyse(lines, profile)
    if needs.unknown:
        warn(f"omitted, since no system call has this name: {', '.join(needs.unknown)}")
    if needs.nameless:
        warn(
            f"omitted, since strace has no name for them: {', '.join(needs.nameless)} (in a "
            "container such new system calls fail with ENOSYS)"
        )
    if needs.foreign:
        warn("the log has calls of a 32-bit program; every filter kills it at its first call")
    if not needs.found:
        raise CommandError(
            f"{log}: it contains no system calls",
            hint="make it with: strace -f -o FILE PROGRAM",
        )
    print("\n".join(strace.section(needs.allow, profile)))
