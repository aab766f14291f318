"""An example of each message, in the order of a session, and of each error.

The real codec reads and writes each line (tests/unit/test_reference_wire.py), and the requests are
sent to a real runtime, whose answers must be of the same kind (tests/system/test_protocol_page.py).
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from northstar import api
from northstar.api import Error, error
from northstar.model import Container, Exited, Name

SESSION: Final = (
    # The opening.
    '{"connect":{"version":"0.9.2","subscribe_notifications":true,"extended":true}}',
    '{"connect_ack":{"features":["service","exec","logs","update","keys"]}}',
    '{"connect_nack":"permission_denied"}',
    # What there is.
    '{"request":"ident"}',
    '{"response":{"ident":"extern:0.0.0"}}',
    '{"request":"repositories"}',
    '{"response":{"repositories":["apps"]}}',
    '{"request":{"install":{"repository":"apps","size":57344}}}',
    '{"notification":{"install":"hello:1.0.0"}}',
    '{"response":{"install":{"ok":{"container":"hello:1.0.0"}}}}',
    '{"request":"list"}',
    '{"response":{"list":["hello:1.0.0"]}}',
    '{"request":{"mount":{"containers":["hello:1.0.0"]}}}',
    '{"response":{"mount":[{"ok":{"container":"hello:1.0.0"}}]}}',
    '{"request":{"umount":{"containers":["hello:1.0.0"]}}}',
    '{"response":{"umount":[{"ok":{"container":"hello:1.0.0"}}]}}',
    # A run.
    '{"request":{"start":{"container":"hello:1.0.0","init":null,"arguments":[],"environment":{}}}}',
    '{"notification":{"started":"hello:1.0.0"}}',
    (
        '{"notification":{"state":["hello:1.0.0",{"wanted":"up","state":"ready","since":0,'
        '"reason":"","run":1,"restarts":0,"next":null,"text":null,"last":null}]}}'
    ),
    '{"response":{"start":{"ok":{"container":"hello:1.0.0"}}}}',
    '{"request":{"inspect":{"container":"hello:1.0.0"}}}',
    (
        '{"response":{"inspect":{"ok":{"container":"hello:1.0.0","data":{"manifest":{"name":"hello",'
        '"version":"1.0.0","init":"/hello","uid":1000,"gid":1000},"repository":"apps",'
        '"mounted":true,"process":{"pid":1234,"uptime":2000000000,"statistics":{}}}}}}}'
    ),
    '{"request":{"status":{"containers":["hello:1.0.0"]}}}',
    (
        '{"response":{"status":[{"ok":{"container":"hello:1.0.0","status":{"wanted":"up",'
        '"state":"ready","since":2000000000,"reason":"","run":1,"restarts":0,"next":null,'
        '"text":null,"last":null}}}]}}'
    ),
    (
        '{"request":{"logs":{"container":"hello:1.0.0","follow":false,"since":null,"lines":10,'
        '"cursor":null,"streams":["stdout"]}}}'
    ),
    (
        '{"log":{"container":"hello:1.0.0","run":1,"time":1796083200000000000,"stream":"stdout",'
        '"text":"hello","cursor":"1:6"}}'
    ),
    '{"log":{"container":"hello:1.0.0","run":1,"lost":8123}}',
    '{"response":{"logs":{"ok":{"container":"hello:1.0.0"}}}}',
    # A second program, which reads its input.
    (
        '{"request":{"exec":{"container":"hello:1.0.0","command":["/bin/cat"],'
        '"environment":{},"stdin":true,"tty":{"rows":24,"columns":80}}}}'
    ),
    '{"stream":{"resize":{"rows":50,"columns":132}}}',
    '{"stream":{"stdin":"aGVsbG8K"}}',
    '{"stream":"stdin_end"}',
    '{"stream":{"stdout":"aGVsbG8K"}}',
    '{"stream":{"stderr":"bm8K"}}',
    '{"stream":{"signal":15}}',
    '{"response":{"exec":{"ok":{"container":"hello:1.0.0","status":{"exit":{"code":0}}}}}}',
    # Tokens.
    '{"request":{"token_create":{"target":"extern","shared":"c2hhcmVk"}}}',
    '{"response":{"token":"AAAAAAAACZ4AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHw=="}}',
    (
        '{"request":{"token_verify":{"token":'
        '"AAAAAAAACZ4AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHw==","user":"extern",'
        '"shared":"c2hhcmVk"}}}'
    ),
    '{"response":{"token_verification":"Ok"}}',
    # A restart, and an update.
    '{"request":{"restart":{"container":"hello:1.0.0"}}}',
    '{"response":{"restart":{"ok":{"container":"hello:1.0.0"}}}}',
    '{"request":{"update":{"repository":"apps","size":57344}}}',
    (
        '{"notification":{"update":["hello:1.1.0",{"phase":"committed","previous":"hello:1.0.0",'
        '"reason":""}]}}'
    ),
    '{"response":{"update":{"ok":{"container":"hello:1.1.0","previous":"hello:1.0.0"}}}}',
    # The end.
    '{"request":{"stop":{"container":"hello:1.1.0","timeout":5000000000}}}',
    '{"notification":{"exit":["hello:1.1.0",{"signalled":{"signal":15}}]}}',
    '{"response":{"stop":{"ok":{"container":"hello:1.1.0","killed":false}}}}',
    '{"request":{"kill":{"container":"hello:1.1.0","signal":15}}}',
    (
        '{"response":{"kill":{"error":{"container":"hello:1.1.0","error":'
        '{"stop_container_not_started":{"container":"hello:1.1.0"}}}}}}'
    ),
    (
        '{"notification":{"c_group":["hello:1.1.0",{"memory":{"low":0,"high":0,"max":7,"oom":1,'
        '"oom_kill":1}}]}}'
    ),
    '{"request":{"keys":{"repository":"apps"}}}',
    (
        '{"response":{"keys":{"ok":{"repository":"apps","version":1,"keys":['
        '{"id":"34750f98bd59fcfc","use":"install"}]}}}}'
    ),
    '{"request":{"uninstall":{"container":"hello:1.1.0","wipe":false}}}',
    '{"notification":{"uninstall":"hello:1.1.0"}}',
    '{"response":{"uninstall":{"ok":{"container":"hello:1.1.0"}}}}',
    '{"request":"shutdown"}',
    '{"response":"shutdown"}',
    '{"notification":"shutdown"}',
    '{"response":{"permission_denied":"shutdown"}}',
    '{"notification":{"closing":{"reason":"request: \'lst\' is unknown"}}}',
)
"""Lines of an extended connection, without line feeds. A kind of message may have several."""

_HELLO: Final = Container.parse("hello:1.0.0")

ERRORS: Final[tuple[Error, ...]] = (
    error.Configuration("the console is disabled"),
    error.DuplicateContainer(_HELLO),
    error.InvalidContainer(_HELLO),
    error.InvalidArguments("the variable NORTHSTAR_NAME is reserved"),
    error.MountBusy(_HELLO),
    error.UmountBusy(_HELLO),
    error.StartContainerStarted(_HELLO),
    error.StartContainerResource(Container.parse("busybox:1.36.1")),
    error.StartContainerMissingResource(_HELLO, Name("busybox"), ">=1.36"),
    error.StartContainerFailed(_HELLO, "exec /hello: No such file or directory"),
    error.StopContainerNotStarted(_HELLO),
    error.InvalidRepository("apps"),
    error.InstallDuplicate(_HELLO),
    error.CriticalContainer(_HELLO, Exited(1)),
    error.Unexpected("repository apps is full (capacity: 2 packages); uninstall something first"),
)
"""An example of each error."""


class Line(NamedTuple):
    """A line of a session.

    Attributes:
        text: the line, without a line feed.
        message: what it means.
    """

    text: str
    message: api.Message


@functools.cache
def session() -> tuple[Line, ...]:
    """Return the lines of the session with their messages.

    Raises:
        ValueError: a line is not a message that this version knows.
    """
    lines = []
    for text in SESSION:
        message = api.decode_extended(text.encode())
        if message is None:
            raise ValueError(f"an unknown notification: {text}")
        lines.append(Line(text, message))
    return tuple(lines)


def example(kind: type) -> str:
    """Return the first line of the session with a kind of message.

    Raises:
        ValueError: there is none.
    """
    for line in session():
        if type(line.message) is kind:
            return line.text
    raise ValueError(f"{kind.__module__}.{kind.__name__} has no example in reference/examples.py")
