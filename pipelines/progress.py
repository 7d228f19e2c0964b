"""A line that shows how far a job is, on a terminal, while it runs in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..transforms.progress import PROGRESS


@contextmanager
def shown(total_bytes: int, *, wanted: bool) -> Iterator[None]:
    """Show progress while the body runs, if it is wanted and standard error is a terminal.

    Args:
        total_bytes: the size of all input files.
    """
    if not wanted or not sys.stderr.isatty() or not total_bytes:
        yield
        return
    with _line(total_bytes):
        yield


def _line(total_bytes: int) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    class Line(Progress):
        """Looks at the counts whenever it is drawn, so that nobody has to tell it of them."""

        def get_renderables(self) -> Any:
            for task in self.tasks:
                self.update(
                    task.id,
                    completed=PROGRESS.bytes,
                    records=f"{PROGRESS.records:,}",
                    dead=f"{PROGRESS.dead:,}",
                )
            return super().get_renderables()

    line = Line(
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[records]} records, {task.fields[dead]} dead letters"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,
    )
    line.add_task("", total=total_bytes, records="0", dead="0")
    return line
