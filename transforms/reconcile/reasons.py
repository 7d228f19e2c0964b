"""Why records of a job's input are not in its output: what became of them instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ..letters import Letters, Marks
from ..letters.marks import OPEN
from ..stored.stored import Stored
from .columns import Compared
from .differences import CHANGED, FEWER
from .hashes import Hashes, hash_column, hash_rows
from .side import hashed, large
from .spill import KEYED

DEAD = {
    OPEN: "dead letters (open)",
    "failed": "dead letters (a replay has failed again)",
    "discarded": "dead letters (discarded)",
}
"""Status of a letter → the reason. That one was replayed is none: its record should be there."""
NOT_LOADED = "in files that no run has loaded yet"
DUPLICATES = "duplicates"
QUARANTINED = "in quarantine"


class Lookup:
    """128-bit hashes, sorted, and what is known of each: 17 bytes of memory for each."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._names: dict[str, int] = {}

    def add(self, hashes: Hashes, names: Sequence[str]) -> None:
        """Add hashes, each with its name."""
        codes = [self._names.setdefault(name, len(self._names)) for name in names]
        self._parts.append((hashes.high, hashes.low, np.array(codes, np.int8)))

    def find(self, hashes: Hashes) -> list[str]:
        """The name of each hash; empty for those that have not been added."""
        if not self._parts:
            return [""] * len(hashes.high)
        high, low, codes = self._sorted()
        places = np.minimum(np.searchsorted(high, hashes.high), len(high) - 1)
        is_held = (high[places] == hashes.high) & (low[places] == hashes.low)
        names = [*self._names, ""]
        return [names[code] for code in np.where(is_held, codes[places], -1)]

    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(self._parts) > 1 or not _is_sorted(self._parts[0][0]):
            high, low, codes = (np.concatenate(part) for part in zip(*self._parts, strict=True))
            order = np.argsort(high)
            self._parts = [(high[order], low[order], codes[order])]
        return self._parts[0]


def _is_sorted(values: np.ndarray) -> bool:
    return bool(np.all(values[:-1] <= values[1:]))


def letters_by_place(letters: Letters, marks: Marks) -> Lookup:
    """The status of dead letters by their source and position; those that stand no more, since a
    later attempt has been made, are left out.

    Raises:
        DestinationError: there are no dead letters to be read there.
        Unavailable: the service does not answer.
        StorageError: a file cannot be read.
    """
    found = Lookup()
    for batch in letters.batches(columns=("id", "attempt", "source", "position")):
        statuses = marks.statuses(batch["id"], batch["attempt"])
        standing = statuses.is_valid()
        rows = batch.filter(standing)
        if rows.num_rows:
            found.add(
                _of_places(rows["source"], rows["position"]), statuses.drop_null().to_pylist()
            )
    return found


def quarantined_rows(stored: Stored, compared: Compared) -> Lookup:
    """Rows that are kept in quarantine."""
    found = Lookup()
    for batch in large(stored.batches(compared.schema.names, compared.where)):
        hashes = hashed(batch, compared)
        rows = Hashes(hashes.rows.low, hashes.keys.high)
        found.add(rows, [QUARANTINED] * batch.num_rows)
    return found


def _of_places(sources: Any, positions: Any) -> Hashes:
    return hash_rows([hash_column(sources.cast(pa.string())), hash_column(positions)])


@dataclass
class Reasons:
    """Gives the reasons of a job; see :class:`.compare.Explains`.

    Attributes:
        letters: what :func:`letters_by_place` has found.
        loaded: sources that runs have committed; ``None`` if that is not known.
        surplus: why there may be fewer rows of a key than came in; empty if that is no reason.
        upserts: of a row that is to take another's place, that one is still there for its reasons.
        quarantine: what :func:`quarantined_rows` has found.
    """

    letters: Lookup
    loaded: Collection[str] | None = None
    surplus: str = ""
    upserts: bool = False
    quarantine: Lookup = field(default_factory=Lookup)

    def __call__(self, rows: np.ndarray, kinds: np.ndarray, sources: Sequence[str]) -> list[str]:
        places = np.where(rows["source"] < 0, len(sources), rows["source"])
        names = pa.array([*sources, None], pa.string()).take(pa.array(places))
        found = self.of_places(names, pa.array(rows["position"]).cast(pa.string()))
        kept = self.quarantine.find(Hashes(rows["row"], rows["high"]))
        has_key = (rows["low"] & KEYED) == KEYED
        is_surplus = (kinds == FEWER) & has_key & bool(self.surplus)
        may_have = (kinds != CHANGED) | self.upserts
        return [
            (reason or held or (self.surplus if more else "")) if may else ""
            for reason, held, more, may in zip(found, kept, is_surplus, may_have, strict=True)
        ]

    def of_places(self, sources: pa.Array, positions: pa.Array) -> list[str]:
        """Reasons by what is known of sources and positions alone; positions are texts."""
        statuses = self.letters.find(_of_places(sources, positions))
        loaded = self.loaded
        return [
            DEAD.get(status, "")
            or (NOT_LOADED if loaded is not None and source not in loaded and not status else "")
            for status, source in zip(statuses, sources.to_pylist(), strict=True)
        ]

    def of_refused(self, letters: Letters) -> Refused:
        """What became of records that the job refuses as it is now."""
        found = Refused()
        for batch in letters.batches(columns=("source", "position", "codes")):
            reasons = self.of_places(batch["source"], batch["position"])
            found.reasons.update(reason for reason in reasons if reason)
            bare = [not reason for reason in reasons]
            found.bare += sum(bare)
            found.rows += _shown(batch.filter(pa.array(bare)), Refused.MOST - len(found.rows))
        return found


@dataclass
class Refused:
    """Records that are refused: those with a reason, and how many have none, with some of them as
    source, position and codes."""

    MOST = 10
    reasons: Counter[str] = field(default_factory=Counter)
    bare: int = 0
    rows: list[tuple[str, str, list[str]]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All of them."""
        return self.reasons.total() + self.bare


def _shown(batch: pa.RecordBatch, most: int) -> Iterator[tuple[str, str, list[str]]]:
    for row in batch.slice(0, max(most, 0)).to_pylist():
        yield row["source"], row["position"], row["codes"]
