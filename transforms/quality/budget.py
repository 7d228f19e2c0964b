"""The failure budget: how many records may become dead letters before a run is stopped.

A number is seen to while the pipeline runs: a worker that has met more dead letters than that
stops, and with it the run. A ratio is judged at the end, when it is known what it is a part of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import apache_beam as beam
import pyarrow as pa

from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..ledger import LedgerRow
from ..plan import Token
from ..runs import RunStore
from .report import record_failure

EARLY = 1_000_000
"""Dead letters up to which a worker remembers which it has met; a budget beyond is judged at the
end."""


class OverBudget(RuntimeError):
    """More records than may are dead letters. The message says how many; nothing was committed."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many dead letters, and at most this part of what was read; ``None``: any."""

    dead: int | None = None
    ratio: float | None = None

    def exceeded(self, dead: int, read: int) -> str:
        """What is wrong with so many, in words; empty if nothing."""
        if self.dead is not None and dead > self.dead:
            return f"{dead:,} dead letters, {self.dead:,} are allowed"
        if self.ratio is not None and dead > Fraction(repr(float(self.ratio))) * read:
            part = f"{100 * dead / read:.6g} percent" if read else "all"
            return f"{dead:,} of {read:,} records are dead letters, {part}; {self.ratio} is allowed"
        return ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may lose in all, and of each of its sources."""

    run: Limit = Limit()
    source: Limit = Limit()

    def exceeded(self, rows: Iterable[LedgerRow]) -> str:
        """What is over budget by a ledger, in words; empty if nothing."""
        by_source: dict[str, tuple[int, int]] = {}
        for row in rows:  # every output has rows of all sources
            dead, read = by_source.get(row.source, (0, 0))
            by_source[row.source] = max(dead, row.dead), max(read, row.read)
        total = [sum(counts) for counts in zip(*by_source.values(), strict=True)] or [0, 0]
        if said := self.run.exceeded(*total):
            return said
        for source, (dead, read) in sorted(by_source.items()):
            if said := self.source.exceeded(dead, read):
                return f"{source or '(no source)'}: {said}"
        return ""


class WithinBudget(beam.PTransform):
    """Pass dead letters on, up to the budget.

    A dead letter that comes again, since its bundle is repeated, is known by its id: only what is
    certain stops a run. Each worker process counts what it meets itself.

    Raises:
        OverBudget: in the pipeline, once a worker has met too many; the run is recorded as failed.
    """

    def __init__(self, budget: Budget, store: RunStore, token: Token) -> None:
        super().__init__()
        self._fn = _WithinBudget(budget, store, token)

    def expand(self, pcoll: beam.PCollection[pa.RecordBatch]) -> Any:
        return pcoll | "Count" >> beam.ParDo(self._fn).with_output_types(pa.RecordBatch)


class _Met:
    """The dead letters of a run that this process has met: by source, the hashes of their ids."""

    def __init__(self) -> None:
        self.sources: defaultdict[str, set[int]] = defaultdict(set)
        self.total = 0

    def add(self, letters: pa.RecordBatch) -> set[str]:
        touched = set()
        sources, ids = (letters.column(name).to_pylist() for name in ("source", "id"))
        for source, id in zip(sources, ids, strict=True):
            held = self.sources[source or ""]
            before = len(held)
            held.add(int(id, 16))
            self.total += len(held) - before
            touched.add(source or "")
        return touched


_MET: dict[Token, _Met] = {}
"""Of this process: a run's dead letters come from several stages."""
_RUNS = 4


class _WithinBudget(beam.DoFn):
    def __init__(self, budget: Budget, store: RunStore, token: Token) -> None:
        self._budget = budget
        self._store = store
        self._token = token

    def setup(self) -> None:
        while len(_MET) > _RUNS:  # of a process that makes one run after another
            del _MET[next(iter(_MET))]

    def process(self, letters: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if said := self._over(letters):
            self._stop(said)
        yield letters

    def _over(self, letters: pa.RecordBatch) -> str:
        run, source = self._early(self._budget.run), self._early(self._budget.source)
        if run is None and source is None:
            return ""
        met = _MET.setdefault(self._token, _Met())
        touched = met.add(letters)
        if run is not None and met.total > run:
            return f"more than {run:,} dead letters, which is all that are allowed"
        for name in sorted(touched):
            if source is not None and len(met.sources[name]) > source:
                said = f"more than {source:,} dead letters, which is all that are allowed"
                return f"{name or '(no source)'}: {said}"
        return ""

    def _early(self, limit: Limit) -> int | None:
        return limit.dead if limit.dead is not None and limit.dead <= EARLY else None

    def _stop(self, said: str) -> None:
        error = f"over budget, and nothing was committed: {said}"
        record_failure(self._store, self._token, error, [], over_budget=said)
        raise OverBudget(error)
