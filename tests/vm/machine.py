"""The virtual machine: Debian's kernel in QEMU, with the files of this machine.

Any machine can run tests that need cgroup v2 or device-mapper this way, as root and without
changes to the machine: the guest sees the host's root read only, below a layer in memory. QEMU
emulates the processor in software. This works everywhere, also in containers and other virtual
machines, and is about ten times slower than the machine itself.

The kernel and busybox are Debian's packages, downloaded and unpacked in a cache, not installed.
This module uses only the standard library, since it runs before the project is set up.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import lzma
import os
import platform
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
PACKAGES = HERE.parents[1] / "scripts" / "packages"
MODULES = (
    "virtio_pci",
    "virtio_console",
    "9p",
    "9pnet_virtio",
    "overlay",
    "loop",
    "squashfs",
    "virtio_blk",
    "ext4",
    "crc32c_generic",  # erofs and btrfs ask the crypto API for it by name
    "btrfs",
    "erofs",
    "dm-mod",
    "dm-verity",
)
"""Modules for the initramfs; their dependencies are added."""

TIMED_OUT, NO_EXIT_CODE = 124, 125
"""Exit codes: the job exceeded its timeout (as timeout(1)); the machine ended without the job's."""

_SHARED = "security_model=none,multidevs=remap"
"""The host's files have their real owners and modes, and inode numbers that are unique across the
host's file systems."""

_KERNEL = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check"
"""The kernel's command line. The last option skips the kernel's check of its timers: on a busy
machine an emulated timer can be late, and the kernel would panic."""

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "CI", "PYTEST_ADDOPTS", "NORTHSTAR_DEBUG")
"""Environment variables that are passed to the job."""


class MachineError(Exception):
    """The machine cannot be prepared or started; the text contains what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `scripts/vm`."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        image = prepare(cache_directory() / "vm")
        if options.shell or not options.command:
            return shell(image)
        disk = _disk(*options.disk) if options.disk else []
        return run(image, options.command, options.timeout, disk)
    except MachineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/vm",
        description="Run a command as root in a virtual machine with cgroup v2 and device-mapper, "
        "which sees this machine's files (changes are lost). Exits with the command's code; "
        f"{TIMED_OUT} after the timeout, {NO_EXIT_CODE} if the machine ended without one.",
    )
    parser.add_argument("--shell", action="store_true", help="a shell on this terminal")
    parser.add_argument("--timeout", type=float, default=600, help="seconds (default %(default)s)")
    parser.add_argument(
        "--disk",
        nargs=2,
        metavar=("IMAGE", "LOG"),
        help="a file for the disk /dev/vda, and a file for a log of all writes to it",
    )
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after --, with arguments")
    return parser


def _disk(image: str, log: str) -> list[str]:
    """Return QEMU's options for a disk and a log of its writes and flushes, in their order."""
    log_driver = "driver=blklogwrites,node-name=disk,file=disk-image,log=disk-log"
    return [
        *("-blockdev", f"driver=file,node-name=disk-image,filename={image.replace(',', ',,')}"),
        *("-blockdev", f"driver=file,node-name=disk-log,filename={log.replace(',', ',,')}"),
        *("-blockdev", log_driver),
        *("-device", "virtio-blk-pci,drive=disk"),
    ]


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def cache_directory() -> Path:
    """Return the project's directory for files that can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(
        os.environ.get("HOME", "/root"), ".cache"
    )
    return Path(base) / "northstar"


def run(image: Path, command: Sequence[str], timeout: float, devices: Sequence[str] = ()) -> int:
    """Run `command` in the machine and copy its output to stdout; `devices` are options of QEMU.

    Returns:
        Its exit code; TIMED_OUT or NO_EXIT_CODE with the console's last lines on stderr.
    """
    # Two virtio ports carry plain bytes: the job's output, and its exit code. A serial line would
    # change line ends, and carries the kernel's messages too.
    redirected = "</dev/null >/dev/vport0p1 2>&1"
    job = f"{_job(command)} {redirected}\necho $? >/dev/vport0p2\n/run/vm/busybox poweroff -f\n"
    with tempfile.TemporaryDirectory(prefix="northstar-vm-") as name:
        directory = Path(name)
        read, write = os.pipe()
        ports = [
            *("-chardev", f"file,id=output,path=/dev/fd/{write}"),
            *("-device", "virtserialport,chardev=output,nr=1"),
            *("-chardev", f"file,id=status,path={directory / 'status'}"),
            *("-device", "virtserialport,chardev=status,nr=2"),
            *("-serial", f"file:{directory / 'console'}"),
            *devices,
        ]
        with _machine(image, directory, job, ports, descriptor=write) as process:
            os.close(write)
            finished = _copy(read, time.monotonic() + timeout)
            if not finished:
                process.kill()
        os.close(read)
        status = directory / "status"
        code = status.read_text().strip() if status.exists() else ""
        if code and finished:
            return int(code)
        print(_tail(directory / "console"), file=sys.stderr)
        if not finished:
            print(f"error: the machine was stopped after {timeout:g} s", file=sys.stderr)
            return TIMED_OUT
        print("error: the machine ended without an exit code, see above", file=sys.stderr)
        return NO_EXIT_CODE


def shell(image: Path) -> int:
    """Run an interactive shell in the machine on this terminal; its end ends the machine."""
    if not sys.stdin.isatty():
        raise MachineError("a shell needs a terminal; give a command after --")
    size = shutil.get_terminal_size()
    setup = f"stty rows {size.lines} cols {size.columns}; exec bash"
    job = (
        f"/run/vm/busybox setsid -c {_job(['sh', '-c', setup])} </dev/hvc0 >/dev/hvc0 2>&1\n"
        "/run/vm/busybox poweroff -f\n"
    )
    ports = [
        *("-chardev", "stdio,id=terminal,signal=off"),
        *("-device", "virtconsole,chardev=terminal"),
    ]
    with tempfile.TemporaryDirectory(prefix="northstar-vm-") as name:
        directory = Path(name)
        ports += ["-serial", f"file:{directory / 'console'}"]
        with _machine(image, directory, job, ports) as process:
            return 0 if process.wait() == 0 else NO_EXIT_CODE


def _job(command: Sequence[str]) -> str:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment = [f"{name}={value}" for name, value in {**kept, "NORTHSTAR_VM": "1"}.items()]
    words = shlex.join(["env", "-i", f"--chdir={os.getcwd()}", *environment, *command])
    return f"/usr/bin/{words}"


@contextlib.contextmanager
def _machine(
    image: Path, directory: Path, job: str, ports: Iterable[str], descriptor: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run QEMU while the block runs; wait for its end, or kill it if the block fails."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise MachineError("QEMU is missing; run: apt-get install qemu-system-x86")
    initramfs = directory / "initramfs"
    with initramfs.open("wb") as file, (image / "initramfs").open("rb") as base:
        # The kernel unpacks one archive after the other.
        shutil.copyfileobj(base, file)
        file.write(
            cpio({"init": (0o755, (HERE / "init").read_bytes()), "job": (0o644, job.encode())})
        )
    command = [
        *("setpriv", "--pdeathsig", "KILL", qemu),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "4096"),
        *("-kernel", str(image / "vmlinux"), "-initrd", str(initramfs)),
        *("-append", _KERNEL),
        # The kernel numbers virtio devices in this order; /dev/vportXpY is port Y of device X.
        *("-device", "virtio-serial", *ports),
        *("-virtfs", "local,id=host,path=/,mount_tag=host,readonly=on," + _SHARED),
    ]
    passed = () if descriptor is None else (descriptor,)
    process = subprocess.Popen(command, pass_fds=passed)
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _copy(descriptor: int, deadline: float) -> bool:
    """Copy to stdout until the end (True) or the deadline (False)."""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([descriptor], [], [], left)
        if ready:
            data = os.read(descriptor, 65536)
            if not data:
                return True
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    return False


def _tail(path: Path, lines: int = 25) -> str:
    text = path.read_text(errors="replace") if path.exists() else ""
    # Without the stack trace of a panic, which contains no reason.
    before = text.partition("Kernel panic")[0].splitlines()
    return "\n".join(["the machine's console:", *before[-lines:]])


def prepare(cache: Path) -> Path:
    """Return a directory with `vmlinux` and `initramfs`, created at the first use.

    Raises:
        MachineError: a package cannot be downloaded, or this processor is not supported.
    """
    if platform.machine() != "x86_64":
        raise MachineError(f"there is no virtual machine for {platform.machine()} yet, only x86_64")
    digest = hashlib.sha256(repr((MODULES, 2)).encode()).hexdigest()[:12]
    image = cache / digest
    if (image / "initramfs").exists():
        return image
    print("Preparing the virtual machine (once)", file=sys.stderr)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="tmp-") as name:
        work = Path(name)
        root = work / "root"
        for package in _wanted_packages():
            _unpack(package, work, root)
        made = work / "image"
        made.mkdir()
        (kernel,) = root.glob("boot/vmlinuz-*")
        (made / "vmlinux").write_bytes(_vmlinux(kernel.read_bytes()))
        (made / "initramfs").write_bytes(_initramfs(root, kernel.name.removeprefix("vmlinuz-")))
        with contextlib.suppress(OSError):
            made.rename(image)  # fails if another process was faster
    for other in cache.iterdir():
        if other != image and not other.name.startswith("tmp-"):
            shutil.rmtree(other, ignore_errors=True)  # image of an earlier version of this module
    return image


def _wanted_packages() -> list[str]:
    entries = [line.split() for line in PACKAGES.read_text().splitlines()]
    return [entry[1] for entry in entries if entry and entry[0] == "fetch"]


def _unpack(package: str, work: Path, root: Path) -> None:
    """Download `package` and unpack it below `root`; for a kernel's metapackage, its kernel."""
    if package.startswith("linux-image-"):
        depends = _apt("apt-cache", "depends", "--important", package, cwd=work)
        names = [line.split()[-1] for line in depends.splitlines() if "Depends:" in line]
        package = next(name for name in names if name.startswith("linux-image-"))
    _apt("apt-get", "-q", "download", package, cwd=work)
    (archive,) = work.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
    archive.unlink()


def _apt(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MachineError(f"{' '.join(command)} failed ({reason}); try: apt-get update")
    return done.stdout


def _vmlinux(image: bytes) -> bytes:
    """Extract the ELF kernel from a compressed boot image (x86/boot.rst of the kernel).

    QEMU starts it directly at its PVH entry. The image's decompressor would take six seconds per
    boot in emulation; this takes half a second, once.
    """
    start = image.find(b"\xfd7zXZ\0")
    if start < 0:
        raise MachineError("the kernel's image is not compressed with xz")
    return lzma.LZMADecompressor().decompress(image[start:])


def _initramfs(root: Path, release: str) -> bytes:
    """Return the archive with busybox and the modules of kernel `release`."""
    (busybox,) = (path for path in root.glob("**/bin/busybox") if path.is_file())
    subprocess.run([busybox, "depmod", "-b", root, release], check=True)
    library = root / "lib" / "modules" / release
    files = {
        "bin/busybox": (0o755, busybox.read_bytes()),
        "modules": (0o644, "\n".join(MODULES).encode()),
        f"lib/modules/{release}/modules.dep": (0o644, (library / "modules.dep").read_bytes()),
    }
    for path in _closure(library):
        files[f"lib/modules/{release}/{path}"] = (0o644, (library / path).read_bytes())
    return cpio(files)


def _closure(library: Path) -> set[str]:
    """Return the files of MODULES and of their dependencies, relative to `library`."""
    needs = {}
    for line in (library / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).name.partition(".")[0].replace("-", "_"): path for path in needs}
    builtin = {
        Path(line).name.partition(".")[0].replace("-", "_")
        for line in (library / "modules.builtin").read_text().splitlines()
    }
    found: set[str] = set()
    for module in MODULES:
        name = module.replace("-", "_")
        if name in by_name:
            found |= {by_name[name], *needs[by_name[name]]}
        elif name not in builtin:
            raise MachineError(f"this kernel has no module {module}")
    return found


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return an archive of files, each with mode and content, and of their directories.

    The format is "newc" (the kernel's driver-api/early-userspace/buffer-format).
    """
    directories = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    directories |= {"proc", "sys", "dev"}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(directories)]
    entries += [(name, stat.S_IFREG | mode, data) for name, (mode, data) in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    archive = bytearray()
    for inode, (name, mode, data) in enumerate(entries, start=1):
        path = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


if __name__ == "__main__":
    sys.exit(main())
