"""Writing: stage batches, wait for all of them, commit them once.

:class:`WriteTo` is for a pipeline of your own; a job that keeps a ledger stages each output with
:class:`Stage` and ends in :class:`CommitRun`. What needs Beam is imported when it is asked for:
commands that read what was written start a second earlier without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..receipts import Receipt
from .destination import (
    Commit,
    CommitConflict,
    Committed,
    Destination,
    DestinationError,
    Output,
    Unavailable,
)

if TYPE_CHECKING:
    from .commit import CommitRun, Unbalanced, clear_staging, commit_run, complete
    from .stage import Stage
    from .write_to import WriteTo, WriteToJsonLines, WriteToParquet

__all__ = [
    "Commit",
    "CommitConflict",
    "CommitRun",
    "Committed",
    "Destination",
    "DestinationError",
    "Output",
    "Receipt",
    "Stage",
    "Unavailable",
    "Unbalanced",
    "WriteTo",
    "WriteToJsonLines",
    "WriteToParquet",
    "clear_staging",
    "commit_run",
    "complete",
]

_LATER = {
    **dict.fromkeys(
        ("CommitRun", "Unbalanced", "clear_staging", "commit_run", "complete"), "commit"
    ),
    "Stage": "stage",
    **dict.fromkeys(("WriteTo", "WriteToJsonLines", "WriteToParquet"), "write_to"),
}
"""Name → the module of this package that has it, and imports Beam."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
