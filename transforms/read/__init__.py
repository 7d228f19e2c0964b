"""Sources: each gives batches of raw payloads with their positions.

What needs Beam is imported when it is asked for: a launcher looks for its input files, and starts
helper processes, before it imports Beam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .json_lines import ReadFromJsonLines

__all__ = ["ReadFromJsonLines"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import json_lines

        return getattr(json_lines, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
