"""Places in memory, and what a comparison of two must come to, found row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
from millstream.transforms.reconcile import Compared, Reconciled, reconcile
from millstream.transforms.stored import Filter, Stored


class InMemory(Stored):
    """Batches as a place that is read back."""

    def __init__(self, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
        super().__init__("memory", schema)
        self._batches = batches

    def find(self) -> pa.Schema | None:
        return self.asked

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        return (batch.select(list(names)) for batch in self._batches)


def batch(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema)


def compared(
    source: Sequence[dict[str, Any]],
    destination: Sequence[dict[str, Any]],
    how: Compared,
    folder: Any,
    **options: Any,
) -> Reconciled:
    one, other = (InMemory([batch(r, how.schema)], how.schema) for r in (source, destination))
    return reconcile(one, other, how, str(folder), threads=1, **options)


def expected_kinds(
    source: Sequence[tuple[Any, Any]], destination: Sequence[tuple[Any, Any]]
) -> Counter[str]:
    """What becomes of rows that are a key and a value, one key after the other."""
    found: Counter[str] = Counter()
    for key in {key for key, _ in (*source, *destination)}:
        ours = Counter(value for k, value in source if k == key)
        theirs = Counter(value for k, value in destination if k == key)
        left, surplus = (ours - theirs).total(), (theirs - ours).total()
        changed = min(left, surplus)
        found["changed"] += changed
        found["fewer" if theirs else "missing"] += left - changed
        found["more" if ours else "extra"] += surplus - changed
    return +found
