"""A progress bar on a terminal. Import this only to draw one: importing rich takes 80 ms."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from northstar.cli.common import colours
from northstar.model import printable


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on stderr; yield a function that takes the bytes done and their total."""
    console = Console(stderr=True, no_color=not colours(sys.stderr), highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(Text(printable(title)).plain, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
