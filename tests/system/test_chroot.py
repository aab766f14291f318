"""A runtime in a chroot(2): its root directory is no mount point; and errors of its setup."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from northstar.linux import mount
from tests.system import host
from tests.system.containers import PROC, install, run
from tests.system.faults.intercept import Call, Interceptor
from tests.system.harness import RuntimeProcess

pytestmark = [pytest.mark.root, pytest.mark.vm]

# The tree contains bind mounts of this machine's directories; its top is a plain
# directory. The mounts end with the mount namespace of the test's runtime.
CHROOT = """
set -e
tree=$1; shift
for entry in /*; do
    if [ -L "$entry" ]; then cp -P "$entry" "$tree$entry"
    elif [ -d "$entry" ]; then mkdir "$tree$entry"; mount --rbind "$entry" "$tree$entry"
    fi
done
exec chroot "$tree" "$@"
"""

Make = Callable[..., RuntimeProcess]


@pytest.fixture
def in_chroot(tmp_path: Path, make_runtime: Make) -> Callable[..., RuntimeProcess]:
    """Make a runtime in a chroot."""
    tree = tmp_path / "tree"
    tree.mkdir()
    directory = tmp_path / "runtime"
    directory.mkdir()
    wrap = ("/bin/sh", "-c", CHROOT, "sh", str(tree))

    def make(*more: str, **options: Any) -> RuntimeProcess:
        return make_runtime(directory=directory, wrap=(*wrap, *more), **options)

    return make


def test_containers_run_in_a_chroot(in_chroot: Make, payload: Path, tmp_path: Path) -> None:
    runtime = in_chroot()
    (runtime.directory / "shown").mkdir()
    bind = {"/host": {"type": "bind", "host": str(runtime.directory), "options": ""}}
    app = install(runtime, payload, mounts={**bind, **PROC}, args="pause")
    before = runtime.snapshot()
    said = run(runtime, app, "stat /host/shown ; stat /usr")
    assert stat.S_ISDIR(said.of("stat", "/host/shown")["mode"])
    # A container sees neither the chroot's tree nor the host's.
    assert said.errno("stat", "/usr") == errno.ENOENT
    with runtime.client(subscribe=True) as client:
        client.start(app)
        client.stop(app)
        client.umount(app)
    runtime.assert_no_leak(before)
    runtime.stop()
    # All mounts were in namespaces that no longer exist.
    assert not any(entry.startswith(f"{tmp_path}/tree/") for entry in host.mounts(os.getpid()))


@pytest.mark.parametrize(
    ("name", "number", "flags", "message"),
    [
        (
            "unshare",
            errno.EPERM,
            0,
            r"cannot enter a mount namespace: .* \(EPERM\)\nhint: .*CAP_SYS_ADMIN",
        ),
        (
            "mount",
            errno.ENOMEM,
            mount.MS_SLAVE,
            r"cannot make the mounts slaves of the host's: Cannot allocate memory \(ENOMEM\)",
        ),
        (
            "mount",
            errno.EINVAL,
            mount.MS_SLAVE,
            r"cannot make / a mount point, .* \(chroot\): .* \(EINVAL\)\nhint: bind the dir",
        ),
        (
            "mount",
            errno.EINVAL,
            mount.MS_BIND | mount.MS_SLAVE,
            r"cannot make / a mount point, .*EINVAL\)\nhint: bind the directory",
        ),
        ("chroot", errno.EPERM, 0, r"cannot make / a mount point, .*EPERM\)\nhint: bind"),
    ],
    ids=["unshare", "slave", "slave-again", "bind", "chroot"],
)
def test_a_step_that_fails_is_named(
    in_chroot: Make, name: str, number: int, flags: int, message: str
) -> None:
    def decide(call: Call) -> int | None:
        return number if not flags or call.arguments[3] & flags else None

    with Interceptor([name]) as interceptor:
        interceptor.decide = decide
        runtime = in_chroot(*interceptor.wrap, pass_fds=interceptor.pass_fds, start=False)
        runtime.start(wait=False)
        runtime.wait_exit(code=1)
    assert re.search(f"^error: {message}", runtime.text(), re.MULTILINE), runtime.text()
    assert "Traceback" not in runtime.text()
