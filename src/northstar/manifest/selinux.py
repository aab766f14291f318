"""`selinux`: security contexts of the image's files and of the payload."""

from typing import Annotated, Final

import msgspec

from northstar.manifest import bounds
from northstar.model.pattern import Pattern
from northstar.schema.records import Field, Record
from northstar.schema.scalars import Text

_CONTEXT: Final = Pattern(r"[0-9A-Za-z:_]+\Z")


def _rule(text: str) -> str | None:
    if _CONTEXT.match(text) is None:
        return "is not an SELinux context (letters, digits, ':' and '_')"
    return None


_KIND: Final = Text(
    "an SELinux context", least=1, most=bounds.CONTEXT_MAX, check=_rule, pattern="^[0-9A-Za-z:_]+$"
)


class Selinux(msgspec.Struct, frozen=True):
    """SELinux contexts, such as `system_u:object_r:app_t:s0`."""

    mount_context: Annotated[
        str | None,
        Field(
            _KIND,
            "Context of the files of the mounted image (`context=` of mount(8)).",
            "none",
            always=True,
            example="system_u:object_r:app_t:s0",
        ),
    ] = None
    exec: Annotated[
        str | None,
        Field(
            _KIND,
            "Context of the payload after execve(2).",
            "none",
            always=True,
            example="system_u:system_r:app_t:s0",
        ),
    ] = None


SELINUX = Record(Selinux)
