"""What measuring tells the gate, through the data plane."""

from __future__ import annotations

from typing import NamedTuple

from ...schemas.drift.facts import Drift
from ...schemas.quality.measures import Measured, Refusals
from ..deduplicate.index import Slice


class Keys(NamedTuple):
    """A run of hashes of the keys of a check of duplicates: here, or in a file."""

    check: int
    kinds: tuple[str, ...]
    high: bytes = b""
    low: bytes = b""
    file: Slice | None = None


class SpilledRows(NamedTuple):
    """A Parquet file of records, for queries."""

    path: str
    rows: int


MEASURED = (Measured, Refusals, Keys, SpilledRows, Drift)
"""What measuring tells."""
