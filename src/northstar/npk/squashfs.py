"""The names in a squashfs image, checked before unsquashfs makes files of them.

Since squashfs-tools 4.5.1 unsquashfs refuses names like `../../x`, and two files of one name
(CVE-2021-40153, CVE-2021-41072). An older one writes where they lead. The metadata is compressed,
partly in ways that Python does not know, so the listing of the tool itself is checked.
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
    """Check what `unsquashfs -ll` has printed: no path leads out of the root, or through a link.

    Each one is in a directory that is listed, and none is listed twice. A line feed in a name makes
    a line of its own, which can be told from an entry as long as it has no slash.

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
                raise _harmful(line)
            continue
        kind, path = match.groups()
        if path is None:
            continue  # the root
        if kind == "l":
            # Where the name ends and the target begins is open if they hold an arrow themselves.
            parts = path.split(_ARROW)
            links.update(_ARROW.join(parts[:end]) for end in range(1, len(parts)))
            path = parts[0]
        above, _, name = path.rpartition("/")
        if name in ("", ".", "..") or (above and above not in directories):
            raise _harmful(path)
        if kind != "l":
            if path in directories or path in others:
                raise _harmful(path)
            (directories if kind == "d" else others).add(path)
    if both := links & (directories | others):
        raise _harmful(min(both))


def _harmful(path: str) -> PackageError:
    return PackageError(
        "the squashfs image is damaged or was made to do harm: "
        f"{path[:100]!r} is no path in it, or is there twice",
        hint="do not use this package",
    )
