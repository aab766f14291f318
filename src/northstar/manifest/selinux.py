"""`selinux`: security contexts of the image's files and of the payload."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from northstar.manifest import bounds
from northstar.manifest.kinds import Text
from northstar.manifest.records import Record

_CONTEXT: Final = re.compile(r"[0-9A-Za-z:_]+\Z")


class Selinux(msgspec.Struct, frozen=True):
    """Contexts, as `system_u:object_r:app_t:s0`.

    Attributes:
        mount_context: of the files of the mounted image (`context=` of mount(8)).
        exec: of the payload from its exec on.
    """

    mount_context: str | None = None
    exec: str | None = None


def _rule(text: str) -> str | None:
    if _CONTEXT.match(text) is None:
        return "is not an SELinux context (letters, digits, ':' and '_')"
    return None


_KIND = Text(
    "an SELinux context", least=1, most=bounds.CONTEXT_MAX, check=_rule, pattern="^[0-9A-Za-z:_]+$"
)

SELINUX = Record(Selinux, {"mount_context": _KIND, "exec": _KIND}, always=("mount_context", "exec"))
