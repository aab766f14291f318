"""Any bytes in any pieces: valid requests are answered in order, and the console continues."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from northstar.model import FULL, Permission
from tests.unit.runtime.console.harness import CONNECT, EXTENDED, Bench, run, serving, until

few = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def install(size: int, repository: str) -> tuple[bytes, str]:
    request = {"install": {"repository": repository, "size": size}}
    # Data that would be requests, if a byte too few were taken.
    return line({"request": request}) + (b'{"request":"list"}\n' * size)[:size], "install"


# A request with its package if it has one, and the key of its response.
valid = st.one_of(
    st.sampled_from(
        [
            (line({"request": "ident"}), "ident"),
            (b'  {"request" :"repositories"}\r\n', "repositories"),
            (line({"request": {"inspect": {"container": "a:1.0.0"}}}), "inspect"),
            (line({"request": {"kill": {"container": "x:1.0.0", "signal": 7}}}), "kill"),
            (line({"request": {"umount": {"containers": ["a:1.0.0", "x:0.0.0"]}}}), "umount"),
        ]
    ),
    st.builds(install, st.integers(0, 2000), st.sampled_from(["mem", "nope"])),
)
TERMINAL = {"rows": 1, "columns": 1}
cuts = st.lists(st.integers(1, 300), min_size=1, max_size=8)


executed = {"container": "a:1.0.0", "environment": {}, "stdin": True, "tty": None}
# Messages of an exec, in any order: each alone is valid.
streams = st.sampled_from(
    [
        {"request": {"exec": {**executed, "command": ["/bin/cat"]}}},
        {"request": {"exec": {**executed, "command": ["/bin/true"], "stdin": False}}},
        {"request": {"exec": {**executed, "command": ["/bin/cat"], "tty": TERMINAL}}},
        {"request": {"exec": {**executed, "command": ["/nowhere"]}}},
        {"request": "ident"},
        {"stream": {"stdin": "AAECAw=="}},
        {"stream": "stdin_end"},
        {"stream": {"resize": TERMINAL}},
        {"stream": {"signal": 15}},
        {"stream": {"stdout": "AAECAw=="}},
    ]
)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut `data` into pieces of these sizes, repeated as needed."""
    parts: list[bytes] = []
    while data:
        size = sizes[len(parts) % len(sizes)]
        parts.append(data[:size])
        data = data[size:]
    return parts


async def say(bench: Bench, parts: list[bytes]) -> list[bytes]:
    """Send the pieces, each received separately, and return all lines that are answered."""
    client = await bench.client()
    answers = asyncio.ensure_future(client.ended())
    for part in parts:
        client.send(part)
        await asyncio.sleep(0)
    if not client.writer.transport.is_closing():
        client.writer.write_eof()
    return (await answers).splitlines()


@few
@given(st.lists(valid, max_size=8), cuts)
def test_valid_requests_are_answered_in_order(
    requests: list[tuple[bytes, str]], sizes: list[int]
) -> None:
    async def test() -> None:
        async with serving() as bench:
            stream = line(CONNECT) + b"".join(raw for raw, _ in requests)
            ack, *answers = await say(bench, pieces(stream, sizes))
            assert json.loads(ack) == {"connect_ack": None}
            keys = [next(iter(json.loads(answer)["response"])) for answer in answers]
            assert keys == [key for _, key in requests]
            assert "list" not in bench.runtime.calls

    run(test())


@few
@given(st.lists(valid, max_size=3), st.binary(max_size=300), cuts, st.booleans())
def test_any_bytes_after_valid_requests(
    requests: list[tuple[bytes, str]], junk: bytes, sizes: list[int], connect: bool
) -> None:
    async def test() -> None:
        async with serving() as bench:
            stream = b"".join(raw for raw, _ in requests) + junk
            if connect:
                stream = line(CONNECT) + stream
            answers = await say(bench, pieces(stream, sizes))
            # A closed connection may lose answers, but never delivers other ones.
            keys = [next(iter(json.loads(answer).get("response", {}))) for answer in answers[1:]]
            assert keys == [key for _, key in requests][: len(keys)]
            assert connect or answers == []
            # The next client is not affected.
            other = await bench.connected()
            assert await other.ask("ident") == {"ident": "extern:0.0.0"}

    run(test())


@few
@given(st.lists(streams, max_size=12), st.binary(max_size=20), cuts)
def test_any_messages_of_an_exec(messages: list[Any], junk: bytes, sizes: list[int]) -> None:
    """Each process ends, and answers come in the order of their requests."""

    async def test() -> None:
        async with serving(FULL | {Permission.EXEC}) as bench:
            sent = line(EXTENDED) + b"".join(line(message) for message in messages) + junk
            # A closed connection may lose answers.
            found = [json.loads(answer) for answer in await say(bench, pieces(sent, sizes))]
            keys = [next(iter(one["response"])) for one in found if "response" in one]
            requests = [one["request"] for one in messages if "request" in one]
            expected = ["ident" if one == "ident" else "exec" for one in requests]
            assert keys == expected[: len(keys)]
            await until(lambda: all(process.closed for process in bench.runtime.processes))
            other = await bench.connected()
            assert await other.ask("ident") == {"ident": "extern:0.0.0"}

    run(test())
