"""Checks the names in a squashfs image before unsquashfs extracts it.

Since squashfs-tools 4.5.1 unsquashfs refuses names like `../../x`, and two files with one name
(CVE-2021-40153, CVE-2021-41072). Older versions write outside of the target directory. The metadata
is compressed, partly with algorithms that Python lacks, so the listing of unsquashfs is checked.
"""

from __future__ import annotations

import re
from typing import Final

from northstar.model import PackageError

_LINE: Final = re.compile(
    # Kind and mode, owner and group, size or device, date and time, path.
    r"([-dlcbps])[-rwxsStT]{9} +[^ ]+ +(?:[0-9]+|[0-9]+, *[0-9]+) "
    r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2} squashfs-root(?:/(.*))?\Z"
)
_ARROW: Final = " -> "


def check_names(listing: str) -> None:
    """Check the output of `unsquashfs -ll`: no path leads out of the root, or through a link.

    Each path must be in a listed directory, and must be listed once. A line feed in a name starts a
    new line. It is accepted if it has no slash, because each entry below the root has one.

    Raises:
        PackageError: a path is refused.
    """
    directories: set[str] = set()
    others: set[str] = set()
    links: set[str] = set()
    for line in listing.split("\n"):
        match = _LINE.match(line)
        if match is None:
            if "/" in line:
                raise _unsafe(line)
            continue
        kind, path = match.groups()
        if path is None:
            continue  # the root
        if kind == "l":
            # If name or target contain an arrow, the end of the name is ambiguous: all are tried.
            parts = path.split(_ARROW)
            links.update(_ARROW.join(parts[:end]) for end in range(1, len(parts)))
            path = parts[0]
        above, _, name = path.rpartition("/")
        if name in ("", ".", "..") or (above and above not in directories):
            raise _unsafe(path)
        if kind != "l":
            if path in directories or path in others:
                raise _unsafe(path)
            (directories if kind == "d" else others).add(path)
    if both := links & (directories | others):
        raise _unsafe(min(both))


def _unsafe(path: str) -> PackageError:
    return PackageError(
        "the squashfs image is damaged or malicious: "
        f"{path[:100]!r} is not a path in it, or is duplicated",
        hint="do not use this package",
    )
