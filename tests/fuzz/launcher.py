"""Fuzzes the launcher's parsers: `python -m tests.fuzz.launcher plan --runs 1000000`.

Two targets in C (tests/fuzz/targets): `plan`, the launch plan, and `program`, the file to execute.
libFuzzer drives them, which needs clang; a normal test drives them without it, built by gcc. Both
builds have the address and the undefined behaviour sanitizers.

Failing inputs are written to the directory of `--findings`. Add those worth keeping to
tests/fuzz/corpus/TARGET, which a normal test replays.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from northstar.launch import exec_plan
from northstar.launch.plan import ContainerPaths, HostFacts, build
from northstar.launch.plan_ops import PLAN_VERSION, Op
from northstar.manifest import Command, Resource, loads
from northstar.model import HostError, LaunchError, ManifestError
from tests import vectors

HERE = Path(__file__).parent
TARGETS = HERE / "targets"
LAUNCHER = HERE.parents[1] / "launcher"

SOURCES = {
    "plan": [TARGETS / "plan.c", LAUNCHER / "plan.c"],
    "program": [
        TARGETS / "program.c",
        *(LAUNCHER / f"{name}.c" for name in ("plan", "report", "resolve")),
    ],
}
COMMON = ("-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fno-sanitize-recover=all")

FACTS = HostFacts(capabilities=(1 << 41) - 1, into_cgroup=True, joins=2, selinux=True)
COMMAND = Command("/bin/app", ("one", ""), {"A": "b", "EMPTY": ""})


def corpus(target: str) -> list[Path]:
    """Return the files that a target's test replays: only `good-*` must be accepted."""
    directory = HERE / "corpus" / target
    return sorted(directory.iterdir())


def plans() -> Iterator[bytes]:
    """Yield the plans of the manifests in the vectors."""
    for vector in vectors.load("manifest"):
        (case,) = vector.values
        try:
            manifest = loads(case["input"])
            resources = {
                target: f"/run/northstar/{mount.name}:1.0.0"
                for target, mount in manifest.mounts.items()
                if isinstance(mount, Resource)
            }
            paths = ContainerPaths(
                "/run/northstar/a:1.0.0", "/data/a", "/sockets", "/notify", resources
            )
            yield build(manifest, COMMAND, paths, FACTS, (5, 6)).encode()
            yield exec_plan.build(
                manifest, ("/bin/app", ""), {"A": ""}, FACTS, (5,), terminal=True
            ).encode()
        except (ManifestError, HostError, LaunchError):
            continue


def seeds(target: str) -> dict[str, bytes]:
    """Return the initial inputs of a run, by name."""
    if target == "plan":
        # Many manifests lead to the same plan.
        return {f"plan-{number}": plan for number, plan in enumerate(dict.fromkeys(plans()))}
    return {
        "script": b"#! /bin/sh -e\n",
        "elf": Path(shutil.which("true") or sys.executable).read_bytes()[:4096],
    }


def words(target: str) -> list[bytes]:
    """Return the dictionary of a target: byte strings with a meaning in its inputs."""
    if target == "program":
        return [b"#!", b"#! /", b"\x7fELF\2\1\1", struct.pack("<I", 3), struct.pack("<H", 56)]
    numbers = [struct.pack("<I", number) for number in (PLAN_VERSION, *Op)]
    values = [
        "unlimited",
        "-1",
        "0x",
        "recursive",
        "optional",
        "c null 1 3\0",
        "l fd /proc",
        "fifo",
    ]
    return [*numbers, *(value.encode() for value in values), b"/\0", b"0\0"]


def compile_target(target: str, output: Path, *, libfuzzer: bool = False) -> None:
    """Compile a target.

    Raises:
        subprocess.CalledProcessError: the compiler failed.
        FileNotFoundError: the compiler is not installed.
    """
    if libfuzzer:
        compiler = ["clang-14", "-fsanitize=fuzzer,address,undefined", "-DLIBFUZZER"]
        driver = TARGETS / "libfuzzer.c"
    else:
        compiler = ["gcc", "-fsanitize=address,undefined"]
        driver = TARGETS / "replay.c"
    sources = [driver, *SOURCES[target]]
    command = [*compiler, *COMMON, "-o", str(output), *map(str, sources)]
    subprocess.run(command, check=True)


def replay(program: Path, inputs: Iterable[bytes]) -> list[bool]:
    """Run a target on inputs; return for each whether it was accepted.

    Raises:
        AssertionError: the target crashed; names the input.
    """
    inputs = list(inputs)
    data = b"".join(struct.pack("=I", len(part)) + part for part in inputs)
    done = subprocess.run(
        [program],
        input=data,
        capture_output=True,
        env={"ASAN_OPTIONS": "detect_leaks=0"},
        check=False,
    )
    count = len(done.stdout)
    assert done.returncode == 0, f"input {count}, {inputs[count]!r}:\n{done.stderr.decode()}"
    assert count == len(inputs)
    return [answer == ord("1") for answer in done.stdout]


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Fuzz the launcher's parsers.")
    parser.add_argument("target", choices=SOURCES)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs to try")
    parser.add_argument("--seed", type=int, default=0, help="make the run repeatable")
    parser.add_argument("--findings", type=Path, default=Path(), help="a directory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="northstar-fuzz-") as name:
        directory = Path(name)
        compile_target(args.target, directory / "target", libfuzzer=True)
        inputs = directory / "corpus"
        inputs.mkdir()
        for path in corpus(args.target):
            shutil.copy(path, inputs)
        for seed, data in seeds(args.target).items():
            (inputs / seed).write_bytes(data)
        dictionary = directory / "words"
        dictionary.write_text(
            "".join(
                '"{}"\n'.format("".join(f"\\x{byte:02x}" for byte in word))
                for word in words(args.target)
            )
        )
        command = [
            *(str(directory / "target"), str(inputs)),
            *(f"-runs={args.runs}", f"-seed={args.seed}", f"-dict={dictionary}"),
            *("-max_len=8192", "-print_final_stats=1", "-detect_leaks=0"),
            f"-artifact_prefix={args.findings.absolute()}/",
        ]
        sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
