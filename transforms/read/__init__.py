"""Sources: each gives batches of raw payloads with their positions.

What needs Beam is imported when it is asked for: a launcher looks for its input files, and starts
helper processes, before it imports Beam.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .avro import ReadFromAvro
    from .csv import ReadFromCsv
    from .json_lines import ReadFromJsonLines
    from .parquet import ReadFromParquet

__all__ = ["ReadFromAvro", "ReadFromCsv", "ReadFromJsonLines", "ReadFromParquet"]

_MODULES = {
    "ReadFromAvro": "avro",
    "ReadFromCsv": "csv",
    "ReadFromJsonLines": "json_lines",
    "ReadFromParquet": "parquet",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
