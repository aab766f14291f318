"""Verified mounts: signed packages run, and no altered byte is ever returned as data.

The tests use both methods of verification: `dm` where the kernel has device-mapper (in the virtual
machine), and `full` everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from northstar import api, npk
from northstar.api import error
from northstar.devices import image_mount
from northstar.linux import devicemapper, mountinfo
from northstar.model import Container, HostError, NorthstarError, VerificationError, Verity
from northstar.npk import hash_tree, signature
from tests import vectors
from tests.system import host
from tests.system.containers import OK, exit_of, refused
from tests.system.harness import RuntimeProcess, manifest, pack, wait_until
from tests.unit.npk import parts

LACKS = "this kernel has no device-mapper"
HAS = "this kernel has device-mapper"
MAY_SKIP = (LACKS, HAS)
MAY_SKIP_IN_VM = (HAS,)

PRESENT = "device-mapper" in Path("/proc/misc").read_text()
DM = pytest.param(
    "dm", marks=[pytest.mark.vm, pytest.mark.skipif(not PRESENT, reason=LACKS)], id="dm"
)

pytestmark = pytest.mark.root

KEY = (vectors.DIRECTORY / "npk/good.key").read_bytes()
PUBLIC = vectors.DIRECTORY / "npk/good.pub"
KEY_PUBLIC = PUBLIC.read_bytes()
BLOB = random.Random(1).randbytes(700_000)
"""Too long for a hash tree of one level, and without equal blocks."""

APP = Container.parse("app:1.0.0")
ALTERED = "the image of app:1.0.0 is not what was signed"

Make = Callable[..., RuntimeProcess]
Pack = Callable[..., Path]


@pytest.fixture(params=[DM, "full"])
def how(request: pytest.FixtureRequest) -> Verity:
    """The method of verification."""
    method: Verity = request.param
    return method


@pytest.fixture
def make(make_runtime: Callable[..., Any], store: Path, how: Verity) -> Make:
    """Make a runtime with repositories `mem` and `fs` (in `store`), both with the key."""

    def runtime(lines: str = "", **options: Any) -> RuntimeProcess:
        keyed = f'key = "{PUBLIC}"\nverity = "{how}"\n{lines}'
        types = {"fs": f'{{ fs = {{ dir = "{store}" }} }}', "mem": '"mem"'}
        tables = {name: f"type = {kind}\n{keyed}" for name, kind in types.items()}
        made: RuntimeProcess = make_runtime(repositories=tables, **options)
        return made

    return runtime


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> Pack:
    """Return the signed package of app:1.0.0 with `/payload` and `/blob`; made once per kind."""
    directory = tmp_path_factory.mktemp("signed")

    @functools.cache
    def made(fs: str = "squashfs") -> Path:
        return pack(
            directory,
            manifest("app", args=["exit", "0"]),
            {"payload": payload, "blob": BLOB},
            key=KEY,
            fs=fs,
            compression="none",
        )

    return made


@pytest.fixture
def no_stale_devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Check, for tests that mount in this process, that no loop device is left."""
    yield
    loops = functools.partial(host.loops, os.getpid(), tmp_path_factory.getbasetemp())
    wait_until(lambda: not loops(), "no loop devices are left")


def devices(run_dir: Path) -> list[str]:
    """Return the device-mapper devices of the runtime in `run_dir`, as sysfs shows them."""
    status = run_dir.stat()
    found = []
    for path in Path("/sys/block").glob("dm-*/dm/name"):
        with contextlib.suppress(OSError):  # removed meanwhile
            found.append(path.read_text().strip())
    prefix = f"northstar-{status.st_dev:x}-{status.st_ino:x}-"
    return [name for name in found if name.startswith(prefix)]


def mount_of(runtime: RuntimeProcess, container: Container = APP) -> mountinfo.MountInfo:
    """Return the mount of a container in the runtime's mount namespace."""
    target = str(runtime.run_dir / str(container))
    found = mountinfo.read(f"/proc/{runtime.pid}/mountinfo")
    (mount,) = [mount for mount in found if mount.mount_point == target]
    return mount


def inside(runtime: RuntimeProcess, path: str, container: Container = APP) -> Path:
    """Return the path of a file in a container's image, through the runtime's mount namespace."""
    return Path(f"/proc/{runtime.pid}/root{runtime.run_dir}/{container}/{path}")


def mount(runtime: RuntimeProcess) -> str | None:
    """Mount app:1.0.0; return the reason of a refusal, or None."""
    with runtime.client() as client:
        (answer,) = client.mount(APP)
    if isinstance(answer, api.response.Ok):
        return None
    assert isinstance(answer.error, error.Unexpected)
    return str(answer.error)


def umount(runtime: RuntimeProcess) -> None:
    with runtime.client() as client:
        assert client.umount(APP) == (api.response.Ok(APP),)


def install(runtime: RuntimeProcess, path: Path, repository: str = "fs") -> None:
    with runtime.client() as client:
        assert client.install(path, repository) == APP


@contextlib.contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """Alter a byte of a file in place, and restore it at the end."""
    with path.open("r+b", buffering=0) as file:
        (byte,) = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte ^ 0x10]), offset)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), bytes([byte]), offset)


def signed(image: bytes) -> bytes:
    """Return a package with these bytes as its image, and a valid signature."""
    image = image.ljust(-(-len(image) // hash_tree.BLOCK_SIZE) * hash_tree.BLOCK_SIZE, b"\0")
    blocks, salt = len(image) // hash_tree.BLOCK_SIZE, b"s" * 32
    tree = bytearray(hash_tree.tree_size(blocks))

    def sink(offset: int, block: bytes) -> None:
        tree[offset : offset + len(block)] = block

    chunks = [image[at : at + 2**20] for at in range(0, len(image), 2**20)]
    root = hash_tree.build(chunks, blocks, salt, sink)
    superblock = npk.Superblock(bytes(16), blocks, salt).encode()
    hashes = npk.Hashes(_sha256(parts.MANIFEST), _sha256(parts.COMMENT), root.hex(), len(image))
    return parts.archive(
        [
            ("manifest.yaml", parts.MANIFEST),
            ("signature.yaml", signature.render(hashes, KEY)),
            ("fs.img", image + superblock + bytes(tree)),
        ]
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Signed packages.


@pytest.mark.parametrize("fs", ["squashfs", "erofs"])
@pytest.mark.parametrize("repository", ["fs", "mem"])
def test_a_signed_container_runs(
    make: Make, package: Pack, how: Verity, repository: str, fs: str
) -> None:
    runtime = make()
    before = runtime.snapshot()
    install(runtime, package(fs), repository)
    with runtime.client(subscribe=True) as client:
        client.start(APP)
        assert exit_of(client, str(APP)) == OK
    found = mount_of(runtime)
    assert found.fstype == fs
    assert {"ro", "nosuid", "nodev"} <= set(found.options)
    assert inside(runtime, "blob").read_bytes() == BLOB
    assert found.source.startswith("/dev/dm-" if how == "dm" else "/dev/loop")
    assert len(devices(runtime.run_dir)) == (how == "dm")
    if how == "full" and repository == "fs":
        # Only the mount keeps the copy open: the unmount frees its memory.
        assert not [link for link in host.descriptors(runtime.pid) if "northstar-image" in link]
    elif how == "full":
        # A package in a sealed memfd is not copied.
        (backing,) = runtime.loops()
        assert "northstar-npk" in backing

    umount(runtime)
    wait_until(lambda: not runtime.loops(), "the loop device is gone")
    wait_until(lambda: devices(runtime.run_dir) == [], "the device-mapper device is gone")
    with runtime.client() as client:
        client.uninstall(APP)
    runtime.assert_no_leak(before)
    runtime.stop()


def test_a_shutdown_frees_the_devices_of_mounted_images(
    make: Make, package: Pack, store: Path
) -> None:
    shutil.copy(package(), store)
    runtime = make("mount_on_start = true")
    assert inside(runtime, "blob").read_bytes() == BLOB
    runtime.stop()
    wait_until(lambda: devices(runtime.run_dir) == [], "the device-mapper device is gone")


def test_an_image_of_a_single_block(make: Make, tmp_path: Path, store: Path) -> None:
    """It has no tree: the root digest is that of the block."""
    path = pack(tmp_path, manifest("app", init=None), {}, key=KEY)
    with npk.open(path, KEY_PUBLIC) as opened:
        assert opened.hashes is not None
        assert opened.hashes.verity_offset == hash_tree.BLOCK_SIZE
        offset = opened.fsimg_offset
    runtime = make()
    install(runtime, path)
    assert mount(runtime) is None
    assert list(inside(runtime, ".").iterdir()) == []
    umount(runtime)
    (stored,) = store.iterdir()
    with flipped(stored, offset + 100):
        assert ALTERED in (mount(runtime) or "")
    runtime.stop()


@pytest.mark.timeout(180)
def test_many_mounts_in_parallel(make: Make, how: Verity, store: Path, tmp_path: Path) -> None:
    number = 50 if how == "dm" else 20
    root = tmp_path / "root"
    root.mkdir()
    (root / "blob").write_bytes(BLOB)
    text = tmp_path / "manifest.yaml"
    text.write_text(manifest("app", init=None))
    for clone in range(number):
        # One package each, so that no two mounts share an image.
        text.write_text(manifest(f"app-{clone}", init=None))
        npk.pack(text, root, store, key=KEY, compression="none")
    runtime = make()
    before = runtime.snapshot()
    with runtime.client() as client:
        containers = client.list()
        assert len(containers) == number
        every = tuple(api.response.Ok(container) for container in containers)
        for _ in range(2):
            assert client.mount(*containers) == every
            assert len(runtime.loops()) == number
            assert len(devices(runtime.run_dir)) == (number if how == "dm" else 0)
            sources = {mount_of(runtime, container).source for container in containers}
            assert len(sources) == number
            for container in containers[:: number // 10]:
                assert inside(runtime, "blob", container).read_bytes() == BLOB
            assert client.umount(*containers) == every
            wait_until(lambda: not runtime.loops(), "all loop devices are gone")
            wait_until(lambda: devices(runtime.run_dir) == [], "all devices are gone")
    runtime.assert_no_leak(before)
    runtime.stop()


@pytest.mark.timeout(180)
def test_mounting_again_and_again(make: Make, package: Pack) -> None:
    """Right after an unmount the kernel still removes the old device."""
    runtime = make()
    install(runtime, package())
    before = runtime.snapshot()
    with runtime.client() as client:
        for _ in range(60):
            assert client.mount(APP) == (api.response.Ok(APP),)
            assert client.umount(APP) == (api.response.Ok(APP),)
    runtime.assert_no_leak(before)
    runtime.stop()


# Altered packages.


def test_any_altered_byte_is_an_error_and_never_wrong_data(
    make: Make, package: Pack, how: Verity, store: Path
) -> None:
    runtime = make()
    install(runtime, package())
    (stored,) = store.iterdir()
    with npk.open(stored, KEY_PUBLIC) as opened:
        assert opened.hashes is not None
        start, size = opened.fsimg_offset, opened.fsimg_size
        data = opened.hashes.verity_offset
    middle = stored.read_bytes().find(BLOB[300_000:300_100]) - start
    chosen = random.Random(2)
    tree = data + hash_tree.SUPERBLOCK_SIZE
    offsets = [0, middle, data - 1, tree, tree + 4096, size - 1]
    offsets += [chosen.randrange(size) for _ in range(6)]
    wrong = {}
    for offset in offsets:
        with flipped(stored, start + offset):
            wrong[offset] = outcome(runtime)
    assert "wrong data" not in wrong.values(), wrong
    assert outcome(runtime) == "right"
    if how == "full":
        assert all(wrong[at] == "refused" for at in offsets if at < data), wrong
    else:
        assert wrong[0] == wrong[tree] == "refused", wrong
        assert wrong[middle] == "input/output error", wrong
    runtime.stop()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_thousand_altered_bytes(make: Make, package: Pack, how: Verity, store: Path) -> None:
    """Each is detected, at the mount or when its block is read."""
    runtime = make()
    install(runtime, package())
    (stored,) = store.iterdir()
    with npk.open(stored, KEY_PUBLIC) as opened:
        assert opened.hashes is not None
        start, size, data = opened.fsimg_offset, opened.fsimg_size, opened.hashes.verity_offset
    # The padding of the superblock's block is never read, and with `full` neither is the tree.
    offsets = list(range(data))
    if how == "dm":
        offsets += range(data + hash_tree.SUPERBLOCK_SIZE, size)
    detected = 0
    for offset in random.Random(3).sample(offsets, 1000):
        with flipped(stored, start + offset):
            reason = mount(runtime)
            if reason is not None:
                assert ALTERED in reason, reason
                detected += 1
                continue
            device = Path(mount_of(runtime).source)
            with pytest.raises(OSError, match="Input/output error"):
                device.read_bytes()
            detected += 1
            umount(runtime)
    assert detected == 1000
    assert mount(runtime) is None
    runtime.stop()


def outcome(runtime: RuntimeProcess) -> str:
    """Mount, read everything, unmount; return the result in words."""
    reason = mount(runtime)
    if reason is not None:
        assert ALTERED in reason, reason
        assert not (runtime.run_dir / str(APP)).exists()
        return "refused"
    try:
        whole = inside(runtime, "blob").read_bytes() == BLOB
        return "right" if whole else "wrong data"
    except OSError as failure:
        assert failure.errno == errno.EIO
        return "input/output error"
    finally:
        umount(runtime)


def test_altering_the_file_of_a_mounted_image(
    make: Make, package: Pack, how: Verity, store: Path
) -> None:
    runtime = make()
    install(runtime, package())
    (stored,) = store.iterdir()
    assert mount(runtime) is None
    position = stored.read_bytes().find(BLOB[300_000:300_100])
    with flipped(stored, position):
        if how == "full":
            assert inside(runtime, "blob").read_bytes() == BLOB
        else:
            with pytest.raises(OSError, match="Input/output error"):
                inside(runtime, "blob").read_bytes()
    umount(runtime)
    runtime.stop()


def test_a_file_that_is_truncated_after_its_installation(
    make: Make, package: Pack, store: Path
) -> None:
    runtime = make()
    install(runtime, package())
    (stored,) = store.iterdir()
    os.truncate(stored, 3 * 4096)
    reason = mount(runtime)
    assert reason is not None
    assert "cannot mount app:1.0.0: " in reason
    runtime.stop()


def test_a_package_file_that_another_program_replaces(
    make: Make, package: Pack, tmp_path: Path, store: Path, payload: Path
) -> None:
    runtime = make()
    install(runtime, package())
    (stored,) = store.iterdir()
    held = tmp_path / "held"
    held.hardlink_to(stored)
    text = manifest("app", args=["exit", "0"])
    files: dict[str, Path | bytes | str] = {"payload": payload, "blob": BLOB[::-1]}
    other = pack(tmp_path, text, files, key=KEY, compression="none")
    # Another file with that name: the runtime has the first one open.
    shutil.copy(other, tmp_path / "other")
    os.rename(tmp_path / "other", stored)
    assert outcome(runtime) == "right"
    # Other content in the same file, with a valid signature too.
    held.write_bytes(other.read_bytes())
    assert outcome(runtime) == "refused"
    runtime.stop()


FORGED: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "root": lambda h, s: (h._replace(verity="0" * 64), s),
    "salt": lambda h, s: (h, s._replace(salt=b"x" * 32)),
    "no salt": lambda h, s: (h, s._replace(salt=b"")),
    "offset": lambda h, s: (h._replace(verity_offset=h.verity_offset - 4096), s),
    "offset at the end": lambda h, s: (h._replace(verity_offset=h.verity_offset * 2), s),
}


@pytest.mark.usefixtures("no_stale_devices")
@pytest.mark.parametrize("case", FORGED)
def test_a_forged_root_salt_or_offset(
    package: Pack, how: Verity, tmp_path: Path, case: str
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with npk.open(package(), KEY_PUBLIC) as opened:
        opened.hashes, opened.superblock = FORGED[case](opened.hashes, opened.superblock)
        with pytest.raises((NorthstarError, OSError)) as caught:
            image_mount.mount_image(opened, str(tmp_path / "target"), how=how)
    if case != "offset at the end":
        assert isinstance(caught.value, VerificationError), caught.value
    assert not (tmp_path / "target").exists()
    wait_until(lambda: devices(tmp_path) == [], "no device-mapper device is left")
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.usefixtures("no_stale_devices")
def test_a_signed_image_that_cannot_be_mounted(how: Verity, tmp_path: Path) -> None:
    """A mistake of the signer: the verification succeeds, and mount(2) fails."""
    path = tmp_path / "broken.npk"
    path.write_bytes(signed(b"hsqs" + bytes(200_000)))
    descriptors = len(os.listdir("/proc/self/fd"))
    with (
        npk.open(path, KEY_PUBLIC) as opened,
        pytest.raises(OSError, match="Invalid argument") as caught,
    ):
        image_mount.mount_image(opened, str(tmp_path / "target"), how=how)
    assert caught.value.filename2 == str(tmp_path / "target")
    assert not (tmp_path / "target").exists()
    wait_until(lambda: devices(tmp_path) == [], "no device-mapper device is left")
    assert len(os.listdir("/proc/self/fd")) == descriptors


# Devices of a killed runtime.


@pytest.mark.parametrize("how", [DM], indirect=True)
def test_devices_of_a_killed_runtime_are_removed(make: Make, package: Pack) -> None:
    runtime = make()
    install(runtime, package())
    assert mount(runtime) is None
    assert len(devices(runtime.run_dir)) == 1
    prefix = devices(runtime.run_dir)[0].rpartition("-")[0]
    runtime.kill()
    wait_until(lambda: devices(runtime.run_dir) == [], "the kernel removed the device")
    # A kill between the steps leaves a device, too. Devices of other runtimes must stay.
    stale, foreign = f"{prefix}-left", f"northstar-0-0-{os.urandom(8).hex()}"
    with devicemapper.Control() as control:
        for name in (stale, foreign):
            control.create(name)
        try:
            runtime.start()
            assert stale not in control.devices()
            assert foreign in control.devices()
        finally:
            for name in {stale, foreign} & set(control.devices()):
                control.remove(name, deferred=False)
    assert mount(runtime) is None
    runtime.stop()


# A kernel without device-mapper.


@pytest.mark.skipif(PRESENT, reason=HAS)
def test_without_device_mapper_the_error_names_the_option(
    make_runtime: Callable[..., Any], package: Pack, store: Path
) -> None:
    shutil.copy(package(), store)
    table = f'type = {{ fs = {{ dir = "{store}" }} }}\nkey = "{PUBLIC}"\nmount_on_start = true'
    runtime: RuntimeProcess = make_runtime(repositories={"fs": table})
    runtime.wait_log('Cannot mount app:1.0.0: .* set verity = "full" for the repository')
    before = runtime.snapshot()
    reason = mount(runtime)
    assert reason is not None
    assert "verified by dm-verity, which this kernel does not have" in reason
    assert 'verity = "full"' in reason
    with runtime.client() as client:
        answer = refused(lambda: client.start(APP))
    assert isinstance(answer, error.StartContainerFailed)
    assert 'verity = "full"' in str(answer)
    runtime.assert_no_leak(before)
    assert host.files(runtime.run_dir) == []
    runtime.stop()
    with npk.open(package(), KEY_PUBLIC) as opened, pytest.raises(HostError):
        image_mount.mount_image(opened, str(store / "target"))


def test_a_signed_example_runs(make: Make, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "hello"
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["gcc", "-static", "-o", root / "main", example / "main.c"], check=True)
    path = tmp_path / "hello.npk"
    npk.pack(example / "manifest.yaml", root, path, key=KEY)
    runtime = make()
    with runtime.client(subscribe=True) as client:
        container = client.install(path, "mem")
        client.start(container)
        assert exit_of(client, str(container)) == OK
    runtime.wait_log(r"DEBUG hello:1.0.0: \S+")
    runtime.stop()
