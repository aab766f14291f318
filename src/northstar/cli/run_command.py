"""`sextant run`: runs an app from its sources, in a runtime of its own.

The package is made in memory and installed into a memory repository. The runtime is a child process
with temporary directories and a cgroup of its own; see `private_runtime`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from northstar.cli.common import FAILED, CommandError, warn
from northstar.model import Exited, HostError, PackageError, printable

if TYPE_CHECKING:
    from northstar.client.blocking import Client
    from northstar.manifest import Manifest
    from northstar.model import Container, ExitStatus

MANIFEST: Final = "manifest.yaml"
ROOT: Final = "root"
"""Names in the directory of an app."""

_REPOSITORY: Final = "mem"
_START_TIMEOUT: Final = 30.0
"""Seconds until the runtime must be ready."""
_STOP_TIMEOUT: Final = 20.0
"""Seconds until the runtime must have shut down; then it is killed. It gives containers 5 s."""
_CHECK: Final = 0.5
"""Seconds between two checks whether the runtime still runs."""


@click.command("run")
@click.option("-m", "--manifest-path", metavar="FILE", help=f"Default: DIR/{MANIFEST}.")
@click.option("-r", "--root", metavar="DIR", help=f"Default: DIR/{ROOT}, if that exists.")
@click.option(
    "--resource",
    "resources",
    multiple=True,
    metavar="FILE",
    help="A package of a resource that the app mounts; several with several options.",
)
@click.option("--keep", is_flag=True, help="Keep package, log and data, and print their directory.")
@click.argument("directory", metavar="DIR")
@click.argument("arguments", nargs=-1, metavar="[-- ARGS..]")
def run(
    directory: str,
    arguments: tuple[str, ...],
    manifest_path: str | None,
    root: str | None,
    resources: tuple[str, ...],
    *,
    keep: bool,
) -> int:
    """Run the app in DIR, in a runtime of its own, and show its output.

    ARGS follow the arguments in the manifest. The app runs once: it is not restarted. Ctrl-C stops
    it. The exit code is that of the app, or 128 and the number of the signal that ended it; 130
    after Ctrl-C. It needs root.
    """
    manifest_path = manifest_path or os.path.join(directory, MANIFEST)
    default = os.path.join(directory, ROOT)
    root = root or (default if os.path.isdir(default) else None)
    if os.geteuid() != 0:
        raise HostError("a container can be run only as root", hint="run it with sudo")
    with contextlib.ExitStack() as stack:
        # First: its start takes as long as all that is done here, which goes on meanwhile.
        runtime = stack.enter_context(_runtime(keep=keep))
        manifest = _manifest(manifest_path, root, resources)
        package = stack.enter_context(_package(manifest, root))
        if keep:
            _save(package, os.path.join(runtime.directory, f"{manifest.name}.npk"))
        if not runtime.wait_ready():
            # It has printed the reason.
            return FAILED
        status = _execute(runtime, package, resources, manifest, arguments)
    if isinstance(status, Exited):
        return status.code
    raise _signalled(manifest.container, status.signal)


def _manifest(path: str, root: str | None, resources: Sequence[str]) -> Manifest:
    """Read and check the manifest, also against the packages of resources."""
    from northstar import npk
    from northstar.cli.examine import manifest_of
    from northstar.manifest import Resource

    manifest = manifest_of(path, root, lenient=False)
    if not manifest.is_app:
        raise PackageError(
            f"{path}: {manifest.container} is a resource, which cannot be run",
            hint="run the app that mounts it, with --resource",
        )
    found = []
    for resource in resources:
        with npk.open(resource) as package:
            found.append(package.container)
    for target, mount in manifest.mounts.items():
        if isinstance(mount, Resource) and not any(
            container.name == mount.name and mount.version.matches(container.version)
            for container in found
        ):
            raise PackageError(
                f"{path}: mounts.{target} needs the resource {mount.name} {mount.version}",
                hint="name its package with --resource FILE",
            )
    return manifest


@contextlib.contextmanager
def _package(manifest: Manifest, root: str | None) -> Iterator[int]:
    """Make the package in memory, and yield its descriptor."""
    from northstar import npk

    package = os.memfd_create("northstar-package", os.MFD_CLOEXEC)
    try:
        for warning in npk.pack_into(package, _for_run(manifest), root):
            warn(warning)
        yield package
    finally:
        os.close(package)


def _for_run(manifest: Manifest) -> Manifest:
    """Return the manifest with its output to this command, and without restarts."""
    import msgspec

    from northstar.manifest import Io, Output

    service = manifest.service
    if service is not None:
        service = msgspec.structs.replace(service, restart=None)
    output = Io(stdout=Output.INHERIT, stderr=Output.INHERIT)
    return msgspec.structs.replace(manifest, io=output, autostart=None, service=service)


def _save(package: int, path: str) -> None:
    import shutil

    with open(package, "rb", closefd=False) as source, open(path, "wb") as file:
        source.seek(0)
        shutil.copyfileobj(source, file)


class _Runtime:
    """The child process.

    Attributes:
        directory: its configuration, and all that it stores.
        url: the address of its console.
    """

    def __init__(
        self, directory: str, process: subprocess.Popen[bytes], ready: socket.socket
    ) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/console"
        self._process = process
        self._ready = ready

    def wait_ready(self) -> bool:
        """Wait until it accepts connections. Return whether it does; else it has ended.

        Raises:
            HostError: it did not become ready in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            # sd_notify(3) of the runtime. The time limit is for a runtime that fails.
            if select.select([self._ready], [], [], _CHECK)[0]:
                return b"READY=1" in self._ready.recv(4096).split(b"\n")
        raise HostError(
            f"the runtime was not ready within {_START_TIMEOUT:g} s",
            hint="try it again with --keep",
        )


@contextlib.contextmanager
def _runtime(*, keep: bool) -> Iterator[_Runtime]:
    """Start a runtime; it is shut down at the end, and by the kernel if this process is killed."""
    from northstar.cli import private_runtime
    from northstar.npk import staging

    directory = tempfile.mkdtemp(prefix="northstar-run-")
    with contextlib.ExitStack() as stack:
        if keep:
            click.echo(printable(f"console: unix://{directory}/console"), err=True)
            stack.callback(click.echo, printable(f"kept {directory}"), err=True)
        else:
            # The runtime removes it; this is for one that did not start, or was killed.
            stack.callback(staging.remove, directory)
        _configure(os.path.join(directory, private_runtime.CONFIGURATION), directory)
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(os.path.join(directory, "ready"))
        lifeline, own_end = os.pipe()
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("WATCHDOG_")
        }
        environment["NOTIFY_SOCKET"] = os.path.join(directory, "ready")
        try:
            process = subprocess.Popen(
                private_runtime.command(directory, lifeline, keep=keep),
                stdin=subprocess.DEVNULL,
                pass_fds=[lifeline],
                env=environment,
                # Ctrl-C is sent to the processes of the terminal: here it stops the app in order.
                start_new_session=True,
            )
        except BaseException:
            os.close(own_end)
            raise
        finally:
            os.close(lifeline)
        stack.callback(_end, process, own_end)
        yield _Runtime(directory, process, ready)


def _configure(path: str, directory: str) -> None:
    import json

    # A basic string of TOML is one of JSON, for printable text.
    paths = {f"{name}_dir": os.path.join(directory, name) for name in ("run", "data", "socket")}
    lines = [f"{key} = {json.dumps(value)}" for key, value in paths.items()]
    lines += [
        f'cgroup = "northstar-run-{os.getpid()}"',
        'shutdown_timeout = "5s"',
        "[console.global]",
        f"bind = {json.dumps(f'unix://{directory}/console')}",
        'permissions = "full"',
        f"[repositories.{_REPOSITORY}]",
        'type = "mem"',
    ]
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def _end(process: subprocess.Popen[bytes], own_end: int) -> None:
    """Shut the runtime down and wait for its end, with all output of the app."""
    os.close(own_end)
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _execute(
    runtime: _Runtime,
    package: int,
    resources: Sequence[str],
    manifest: Manifest,
    arguments: Sequence[str],
) -> ExitStatus:
    """Install the packages, start the app, and return its exit status."""
    from northstar.client.blocking import Client

    with Client.connect(runtime.url, subscribe=True) as client:
        for resource in resources:
            client.install(resource, _REPOSITORY)
        _install(client, package)
        # The arguments of a request replace those of the manifest. Without its first ones, an
        # interpreter would not find its program.
        client.start(manifest.container, None, [*manifest.args, *arguments] if arguments else ())
        return client.wait(manifest.container)


def _install(client: Client, package: int) -> None:
    size = os.fstat(package).st_size
    with open(package, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        client.install(file, _REPOSITORY, size=size)


def _signalled(container: Container, number: int) -> CommandError:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = None
    if number == signal.SIGSYS:
        hint = "its seccomp section does not allow a system call: see `nstar seccomp`"
    return CommandError(f"{container} was ended by {name}", hint=hint, exit_code=128 + number)
