"""The kernel refuses one system call: the operation fails with a message, leaves nothing, and the
next one succeeds. Each call of an operation is refused in turn, with a possible errno.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from northstar import api
from northstar.api import response
from northstar.client import ConnectError, DisconnectedError, blocking
from tests.system.containers import PIPES
from tests.system.faults.intercept import Call, Decide, Interceptor
from tests.system.harness import PATIENCE, RuntimeProcess, manifest, pack, wait_until
from tests.system.host import Snapshot

pytestmark = pytest.mark.root

REFUSALS = {
    "openat": (errno.EMFILE, errno.ENOMEM),
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO,),
    "rename": (errno.ENOSPC,),
    "mkdir": (errno.EROFS,),
    "mount": (errno.ENOMEM, errno.EIO),
    "ioctl": (errno.ENOMEM,),
    "memfd_create": (errno.ENFILE,),
    "clone3": (errno.EAGAIN, errno.ENOMEM),
    "socket": (errno.EMFILE,),
    "socketpair": (errno.ENFILE,),
    "bind": (errno.EROFS,),
    "pipe2": (errno.EMFILE,),
    "chmod": (errno.EIO,),
    "fchmod": (errno.EROFS,),
    "fchown": (errno.EDQUOT,),
    "sendmsg": (errno.ENOBUFS,),
    "fcntl": (errno.EMFILE,),
    "sendfile": (errno.EIO,),
    "pread64": (errno.EIO,),
    "umount2": (errno.EBUSY,),
    "unlink": (errno.EROFS,),
    "epoll_ctl": (errno.ENOSPC,),
}
"""The errno for each call: calls that acquire something, or whose failure is reported."""

EPOLL_CTL_ADD = 1
"""linux/eventpoll.h."""

LOOP_SET_FD, LOOP_CONFIGURE, LOOP_CTL_ADD = 0x4C00, 0x4C0A, 0x4C80
"""linux/loop.h."""

APP = "app:1.0.0"


class Refusal(NamedTuple):
    """A call, by number, and the errno of its refusal."""

    number: int
    name: str
    error: int


class Setting(NamedTuple):
    """A runtime whose system calls can be refused."""

    runtime: RuntimeProcess
    interceptor: Interceptor
    package: bytes
    store: Path


@pytest.fixture
def setting(make_runtime: Callable[..., Any], tmp_path: Path, payload: Path) -> Iterator[Setting]:
    """A runtime that has done every operation once."""
    store = tmp_path / "store"
    store.mkdir()
    text = manifest(
        "app",
        args=["pause"],
        io=PIPES,
        sockets={"a": {"type": "stream", "mode": 0o600}},
        mounts={"/data": {"type": "persist"}},
        console={"permissions": "full"},
    )
    package = pack(tmp_path, text, {"payload": payload}).read_bytes()
    with Interceptor(REFUSALS) as interceptor:
        runtime = make_runtime(
            repositories={"fs": f'type = {{ fs = {{ dir = "{store}" }} }}'},
            wrap=interceptor.wrap,
            pass_fds=interceptor.pass_fds,
        )
        yield Setting(runtime, interceptor, package, store)
        assert "Traceback" not in runtime.text()
        runtime.stop()


def install(setting: Setting, client: blocking.Client) -> None:
    client.install(setting.package, "fs")


def mount(_setting: Setting, client: blocking.Client) -> None:
    told(client.mount(APP))


def start(_setting: Setting, client: blocking.Client) -> None:
    client.start(APP)


def end(_setting: Setting, client: blocking.Client) -> None:
    client.kill(APP, 9)
    wait_until(lambda: client.inspect(APP).process is None, "it has ended")


def umount(_setting: Setting, client: blocking.Client) -> None:
    told(client.umount(APP))


def uninstall(_setting: Setting, client: blocking.Client) -> None:
    client.uninstall(APP)


def told(results: tuple[response.Ok | response.Failed, ...]) -> None:
    for result in results:
        if isinstance(result, response.Failed):
            raise api.RefusedError(result.error)


Act = Callable[[Setting, blocking.Client], None]
CYCLE: tuple[tuple[Act, Act], ...] = (
    (install, uninstall),
    (mount, umount),
    (start, end),
    (umount, mount),
    (uninstall, install),
)
"""The operations, and those that undo them."""


@contextlib.contextmanager
def calls(setting: Setting) -> Iterator[list[str]]:
    """Collect the names of the calls that can be refused."""
    seen: list[str] = []

    def decide(call: Call) -> None:
        if matters(call):
            seen.append(call.name)

    setting.interceptor.decide = decide
    yield seen
    setting.interceptor.decide = lambda _call: None


@contextlib.contextmanager
def refused(setting: Setting, refusal: Refusal) -> Iterator[None]:
    seen = 0

    def decide(call: Call) -> int | None:
        nonlocal seen
        seen += matters(call)
        hit = matters(call) and seen == refusal.number and call.name == refusal.name
        return refusal.error if hit else None

    setting.interceptor.decide = decide
    try:
        yield
    finally:
        setting.interceptor.decide = lambda _call: None


def refusing(errors: Mapping[str, int]) -> Decide:
    """Return a decision that refuses the calls of these names."""
    return lambda call: errors.get(call.name)


def matters(call: Call) -> bool:
    """Leave out calls of log lines, and calls that release."""
    if call.name == "epoll_ctl":
        return call.arguments[1] == EPOLL_CTL_ADD
    return call.name != "write" or call.arguments[0] != 2


def possible(setting: Setting, act: Act, client: blocking.Client) -> list[Refusal]:
    with calls(setting) as seen:
        act(setting, client)
    numbered = enumerate(seen, start=1)
    return [Refusal(n, name, e) for n, name in numbered for e in REFUSALS[name]]


def same(setting: Setting, before: Snapshot) -> None:
    """Wait until the runtime holds the same objects as before, on any loop device."""

    def anonymous(snapshot: Snapshot) -> Snapshot:
        return snapshot._replace(mounts=[re.sub(r"loop\d+", "loop", m) for m in snapshot.mounts])

    def difference() -> str:
        return anonymous(before).difference(anonymous(setting.runtime.snapshot()))

    deadline = time.monotonic() + 3 * PATIENCE
    while left := difference():
        assert time.monotonic() < deadline, left
        time.sleep(0.005)


def sweep(setting: Setting, choose: Callable[[list[Refusal]], list[Refusal]]) -> tuple[int, int]:
    """Refuse calls of each operation; return their number, and the number of failures."""
    tried = failed = 0
    with setting.runtime.client() as client:
        # Once without a refusal, for objects that are created only once.
        for step in (install, mount, start, end, umount, uninstall):
            step(setting, client)
        for act, undo in CYCLE:
            before = setting.runtime.snapshot()
            refusals = possible(setting, act, client)
            undo(setting, client)
            same(setting, before)
            for refusal in choose(refusals):
                tried += 1
                try:
                    with refused(setting, refusal):
                        act(setting, client)
                except api.RefusedError as answer:
                    # A refused operation changes nothing: the container still works.
                    failed += 1
                    words = str(answer)
                    assert os.strerror(refusal.error) in words, (
                        f"{act.__name__}, {refusal}: {words}"
                    )
                else:
                    undo(setting, client)
                try:
                    same(setting, before)
                except AssertionError as failure:
                    failure.add_note(f"after {act.__name__} with {refusal}")
                    raise
            act(setting, client)
            if act is start:
                end(setting, client)
    return tried, failed


def test_no_free_loop_device(make_runtime: Any, tmp_path: Path, payload: Path) -> None:
    """Another process takes each free loop device, and there are no more."""
    taken = dict.fromkeys((LOOP_SET_FD, LOOP_CONFIGURE, LOOP_CTL_ADD), errno.EBUSY)
    with Interceptor(["ioctl"]) as interceptor:
        runtime = make_runtime(
            top='loop_device_timeout = "150ms"',
            wrap=interceptor.wrap,
            pass_fds=interceptor.pass_fds,
        )
        package = pack(tmp_path, manifest("app", args=["pause"]), {"payload": payload})
        with runtime.client() as client:
            client.install(package, "mem")
            before = runtime.snapshot()
            interceptor.decide = lambda call: taken.get(call.arguments[1])
            (result,) = client.mount(APP)
            assert isinstance(result, response.Failed)
            with pytest.raises(api.RefusedError) as caught:
                client.start(APP)
            for answer in (result.error, caught.value):
                assert "no loop device became free in 0.15 s" in str(answer)
            interceptor.decide = lambda _call: None
            runtime.assert_no_leak(before)
            client.start(APP)
        runtime.stop()


def test_a_connection_that_cannot_be_watched(setting: Setting) -> None:
    """The runtime closes it at once, and does not keep it unwatched."""
    setting.runtime.client().close()
    before = setting.runtime.snapshot()

    def decide(call: Call) -> int | None:
        adds = call.name == "epoll_ctl" and matters(call)
        return errno.ENOSPC if adds else None

    setting.interceptor.decide = decide
    for _ in range(3):
        with pytest.raises((ConnectError, DisconnectedError)):
            setting.runtime.client()
    setting.interceptor.decide = lambda _call: None
    setting.runtime.client().close()
    same(setting, before)
    refusal = "cannot watch the connection: No space left"
    wait_until(lambda: setting.runtime.text().count(refusal) == 3, "each is logged")


SPAWNING = ("clone3", "clone", "vfork")
"""posix_spawn(3) uses one of them, depending on the C library and the kernel."""


def test_no_process_or_descriptor_for_a_debug_command(make_runtime: Any, payload: Path) -> None:
    """The container starts without it, and a warning says so."""
    with Interceptor([*SPAWNING, "pidfd_open"]) as interceptor:
        runtime = make_runtime(
            tables='[debug]\ncommands = ["sleep 1000"]\n',
            wrap=interceptor.wrap,
            pass_fds=interceptor.pass_fds,
        )
        package = pack(runtime.directory, manifest("app", args=["pause"]), {"payload": payload})
        with runtime.client() as client:
            client.install(package, "mem")
            client.mount(APP)
            before = runtime.snapshot()
            for decide, error in (
                (refusing(dict.fromkeys(SPAWNING, errno.EAGAIN)), errno.EAGAIN),
                (refusing({"pidfd_open": errno.EMFILE}), errno.EMFILE),
            ):
                interceptor.decide = decide
                client.start(APP)
                reason = os.strerror(error)
                runtime.wait_log(f"WARN.*debug command 'sleep 1000'.*{reason}")
                client.kill(APP, 9)
                runtime.assert_no_leak(before)
        runtime.stop()


def test_a_few_calls_refused_in_turn(setting: Setting) -> None:
    """A few calls of each operation, always the same."""
    generator = random.Random(0)
    tried, failed = sweep(setting, lambda all_: generator.sample(all_, min(len(all_), 5)))
    assert failed >= 0.9 * tried
    assert tried >= 18


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_call_refused_in_turn(setting: Setting) -> None:
    tried, failed = sweep(setting, lambda all_: all_)
    print(f"{tried} calls were refused, {failed} operations failed")
    # A removal that is not yet on the disk is a removal all the same.
    assert failed >= 0.9 * tried
    assert tried > 60
