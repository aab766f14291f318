"""The lines of the log: format, levels, and messages that must not break them."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from northstar.model import ConfigurationError, Container
from northstar.runtime import logs
from northstar.runtime.writer import Writer

A = Container.parse("a:1.0.0")
runtime = logging.getLogger("northstar.runtime.console")
Setup = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def setup() -> Iterator[Setup]:
    """Set the log up on a pipe; yield a function that returns the logged lines."""
    reader, output = os.pipe()
    os.set_blocking(reader, False)
    levels = {name: logging.getLogger(name).level for name in logs.LOGGERS.values()}

    def begin(level: str | None = None, **environment: str) -> Callable[[], list[str]]:
        logs.setup(level, environment=environment, descriptor=output)
        return lines

    def lines() -> list[str]:
        try:
            return os.read(reader, 2**16).decode().split("\n")[:-1]
        except BlockingIOError:
            return []

    yield begin
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logs.Handler):
            root.removeHandler(handler)
            handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    os.close(reader)
    os.close(output)


def test_format(setup: Setup) -> None:
    lines = setup()
    runtime.info("Started %s", A)
    runtime.warning("so so")
    logs.ContainerLog(A).log(logging.DEBUG, "hello %d", 1)
    logging.getLogger("asyncio").error("oh")
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    patterns = [
        rf"{stamp} INFO  runtime\.console: Started a:1\.0\.0",
        rf"{stamp} WARN  runtime\.console: so so",
        rf"{stamp} DEBUG a:1\.0\.0: hello 1",
        rf"{stamp} ERROR asyncio: oh",
    ]
    for line, pattern in zip(lines(), patterns, strict=True):
        assert re.fullmatch(pattern, line)


def test_the_journal_is_recognised_by_its_stream() -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    status = os.fstat(descriptor)
    stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    assert logs.is_journal(descriptor, stream)
    assert not logs.is_journal(descriptor, {})
    assert not logs.is_journal(descriptor, {"JOURNAL_STREAM": f"{status.st_dev}:0"})
    assert not logs.is_journal(descriptor, {"JOURNAL_STREAM": "x"})
    os.close(descriptor)
    assert not logs.is_journal(descriptor, stream)


def test_journal_priorities() -> None:
    reader, output = os.pipe()
    handler = logs.Handler(Writer(output), journal=True)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        handler.emit(logging.LogRecord("northstar.runtime", level, "", 0, "text", (), None))
    assert os.read(reader, 1000).decode().splitlines() == [
        "<7>runtime: text",
        "<6>runtime: text",
        "<4>runtime: text",
        "<3>runtime: text",
        "<3>runtime: text",
    ]
    handler.close()
    os.close(reader)
    os.close(output)


@pytest.mark.parametrize(
    ("level", "environment", "shown"),
    [
        (None, "", ["r info", "c info", "c debug"]),
        ("debug", "", ["r info", "r debug", "c info", "c debug"]),
        ("ERROR", "", ["c info", "c debug"]),
        (None, "runtime=debug,container=info", ["r info", "r debug", "c info"]),
        (None, " container=warn ,", ["r info"]),
        (None, "error", []),
        ("info", "runtime=error,container=error", ["r info"]),
    ],
)
def test_levels(setup: Setup, level: str | None, environment: str, shown: list[str]) -> None:
    lines = setup(level, NORTHSTAR_LOG=environment)
    runtime.info("r info")
    runtime.debug("r debug")
    logs.ContainerLog(A).log(logging.INFO, "c info")
    logs.ContainerLog(A).log(logging.DEBUG, "c debug")
    assert [line.partition(": ")[2] for line in lines()] == shown


@pytest.mark.parametrize(
    ("level", "environment", "message"),
    [
        ("loud", "", "'loud' is not a log level"),
        (None, "runtime=loud", "'loud' is not a log level"),
        (None, "nobody=info", "there is no logger 'nobody'"),
        (None, "=info", "there is no logger ''"),
    ],
)
def test_unknown_levels(level: str | None, environment: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        logs.setup(level, environment={"NORTHSTAR_LOG": environment})
    assert caught.value.hint


def test_a_later_setup_replaces_the_first(setup: Setup) -> None:
    setup()
    lines = setup("error")
    runtime.info("no")
    runtime.error("once")
    assert len(lines()) == 1


def test_a_traceback_is_logged_as_separate_lines(setup: Setup) -> None:
    lines = setup()
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        runtime.exception("it failed")
    texts = [line.partition(" runtime.console: ")[2] for line in lines()]
    assert texts[0] == "it failed"
    assert texts[1] == "Traceback (most recent call last):"
    assert texts[-2:] == ["ValueError: bad", "value"]


def test_a_message_stays_one_line(setup: Setup) -> None:
    lines = setup()
    runtime.info("%s", "a\nb\r\x1b[31mred\x07\x9b\x7f\tü€\u2028\udcff")
    (line,) = lines()
    assert line.endswith(": a\\nb\\r\\x1b[31mred\\x07\\x9b\\x7f\tü€\\u2028\\udcff")


def test_a_message_keeps_its_order(setup: Setup) -> None:
    lines = setup()
    logs.ContainerLog(A).log(logging.INFO, "%s", "\u202eoken\u2066 \u200b\U000e0041")
    try:
        raise ValueError("\u202ebad")
    except ValueError:
        runtime.exception("it failed")
    line, *trace = lines()
    assert line.endswith(" a:1.0.0: \\u202eoken\\u2066 \\u200b\\U000e0041")
    assert trace[-1].endswith("ValueError: \\u202ebad")


def test_a_process_ends_while_its_stderr_is_stuck() -> None:
    script = (
        "import logging\n"
        "from northstar.runtime import logs\n"
        "logs.setup()\n"
        "for number in range(5000): logging.getLogger('northstar.runtime').info('x' * 200)\n"
        "print('done', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        # Its stderr is not read, and the pipe holds a tenth of its output.
        assert process.stdout.read() == b"done\n"
        assert process.wait(timeout=20) == 0


def test_a_long_message_is_cut(setup: Setup) -> None:
    lines = setup()
    runtime.error("cannot open %s: %s", "x" * 2**20, "No such file")
    (line,) = lines()
    assert len(line) < 17_000
    assert line.endswith("xxx: No such file")
    assert f"({2**20 + len('cannot open : No such file') - 16384} characters)" in line


def test_a_line_of_a_container_is_never_cut(setup: Setup) -> None:
    lines = setup()
    logs.ContainerLog(A).log(logging.DEBUG, "%s", "\\x80" * 4096)
    (line,) = lines()
    assert line.endswith(" a:1.0.0: " + "\\x80" * 4096)


def test_a_long_traceback_is_cut(setup: Setup) -> None:
    lines = setup()

    def fail(depth: int) -> None:
        if depth == 0:
            raise ValueError("the end")
        try:
            fail(depth - 1)
        except ValueError as error:
            raise ValueError(f"level {depth}") from error

    try:
        fail(100)
    except ValueError:
        runtime.exception("it failed")
    found = lines()
    assert len(found) < 210
    assert found[1].endswith("Traceback (most recent call last):")
    assert found[-1].endswith("ValueError: level 100")
    assert sum("lines left out)" in line for line in found) == 1


def test_only_the_first_of_many_similar_lines_are_logged(setup: Setup) -> None:
    lines = setup()
    for count in (0, 5, 45):
        with logs.first_few(logging.WARNING, "%d more bad files of %s", "/100%s") as warn:
            for number in range(count):
                warn("bad file %d", number)
    texts = [line.partition(" runtime: ")[2] for line in lines()]
    first = [f"bad file {number}" for number in range(5)]
    assert texts == [*first, *first, "40 more bad files of /100%s"]


def test_a_record_that_cannot_be_written_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The default of logging is a traceback on sys.stderr, whose reader may be stuck."""
    reader, output = os.pipe()
    handler = logs.Handler(Writer(output), journal=False)
    handler.handle(logging.LogRecord("northstar.runtime", 20, "", 0, "%d", ("no number",), None))
    assert os.read(reader, 1000) == b"a message of northstar.runtime cannot be written: TypeError\n"
    assert capsys.readouterr().err == ""
    handler.close()
    os.close(reader)
    os.close(output)


def test_output_of_python_itself_to_stderr_is_logged() -> None:
    script = """if True:
        import sys, threading, warnings
        from northstar.runtime import logs
        logs.setup("info", environment={})
        logs.capture_streams()
        warnings.warn("deprecated\\x1b", stacklevel=1)
        class Fails:
            def __del__(self): raise ValueError("unraisable")
        Fails()
        def fail(): raise ValueError("in a thread")
        thread = threading.Thread(target=fail, name="pool")
        thread.start()
        thread.join()
        print("as it", "is", file=sys.stderr)
        print("without an end", end="", file=sys.stderr, flush=True)
        raise ValueError("uncaught")
        """
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1
    said = done.stderr
    stamp = r"\d{4}-\d\d-\d\dT\S+Z"
    for pattern in (
        rf"{stamp} WARN  py\.warnings: .*UserWarning: deprecated\\x1b",
        rf"{stamp} ERROR runtime: Exception ignored in.* <function Fails\.__del__",
        rf"{stamp} ERROR runtime: ValueError: unraisable",
        rf"{stamp} ERROR runtime: Uncaught exception in pool",
        rf"{stamp} ERROR runtime: ValueError: in a thread",
        r"as it is\n",
        rf"without an end{stamp} ERROR runtime: Uncaught exception\n",
        rf"{stamp} ERROR runtime: ValueError: uncaught",
    ):
        assert re.search(pattern, said), (pattern, said)
