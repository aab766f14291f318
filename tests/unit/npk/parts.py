"""Packages from the ZIP writer of the standard library, independent of `northstar.npk`."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence

MANIFEST = b"name: app\nversion: 1.2.3\ninit: /bin/app\nuid: 1000\ngid: 1000\n"
COMMENT = b"version: 0.9.2\n"
IMAGE = b"hsqs" + bytes(4092)


def archive(
    entries: Sequence[tuple[str, bytes]] = (("manifest.yaml", MANIFEST), ("fs.img", IMAGE)),
    *,
    comment: bytes = COMMENT,
    align: int = 4096,
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    """Return an archive of these entries, fs.img aligned."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as writer:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if name == "fs.img":
                start = file.tell() + 30 + len(name) + 4
                info.extra = struct.pack("<HH", 0xA11E, -start % align) + bytes(-start % align)
            writer.writestr(info, data)
        writer.comment = comment
    return file.getvalue()
