"""Names of system calls, against the numbers of this machine's kernel headers."""

from __future__ import annotations

import subprocess

import pytest

from northstar.launch.syscalls import is_syscall
from northstar.linux import seccomp


def test_names() -> None:
    assert seccomp.resolve_name("read") is not None
    assert seccomp.resolve_name("nothing") is None
    assert seccomp.resolve_name("") is None


@pytest.mark.parametrize("name", ["open", "clone3", "cachestat", "socketcall", "personality"])
def test_a_system_call_of_some_architecture(name: str) -> None:
    assert is_syscall(name)
    assert not is_syscall(f"{name}x")


def test_numbers_are_those_of_the_kernels_headers() -> None:
    names = ["read", "execve", "clone3", "openat2"]
    source = "#include <sys/syscall.h>\n" + "\n".join(f"NUMBER __NR_{name}" for name in names)
    done = subprocess.run(
        ["gcc", "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True
    )
    numbers = [int(line.split()[1]) for line in done.stdout.splitlines() if "NUMBER" in line]
    assert [seccomp.resolve_name(name) for name in names] == numbers


def test_without_the_library_every_name_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "LIBRARY", "libnorthstar-nothing.so")
    seccomp._function.cache_clear()
    try:
        with pytest.raises(OSError, match="libnorthstar-nothing"):
            seccomp.resolve_name("read")
        assert is_syscall("nothing")
    finally:
        seccomp._function.cache_clear()
