"""Accumulate: records to states of windows that may still be open, and what is late for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from ...schemas.aggregates.open_windows import Trigger, late_rows
from ...schemas.aggregates.spec import AggregateSpec
from ...schemas.aggregates.states import merge_states
from ...schemas.aggregates.windows import Session
from ...schemas.arrow import SOURCE
from ...schemas.codes import Code
from ...schemas.dead_letters import AGGREGATE
from ...schemas.rules import Violation
from ..aggregate import MAX_STATE_BYTES, Gathering, PartialStates, batches_of
from ..carry import Opened
from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..dead_letters import Origin, refused_batch
from ..tallies import TALLIES, Tally, count_sources

LATE = "late"
"""Tag of the output that carries late records."""

_BUCKETS = 64
"""Into so many parts of a gap the closing times of sessions are rounded up to be counted."""


class Accumulated(NamedTuple):
    """The outputs of :class:`Accumulate`.

    ``states`` are batches by :func:`~millstream.schemas.aggregates.states.state_schema`, each slice
    and group in one row; ``late`` are batches by ``millstream.schemas.dead_letters.SCHEMA``;
    ``facts`` are :class:`~.carry.Opened` of what went in, and tallies of what was late.
    """

    states: beam.PCollection[pa.RecordBatch]
    late: beam.PCollection[pa.RecordBatch]
    facts: beam.PCollection[Any]


class Accumulate(beam.PTransform):
    """Bring bounded batches of records into states of windows, for a commit to close them.

    A record with a watermark (``_watermark``) is late if a window of it has been closed by then,
    and, where the job allows lateness, has been for that long.

    Args:
        origin: what the rows of late records have in common.
        shards: see :class:`~..aggregate.Aggregate`.
    """

    def __init__(
        self,
        spec: AggregateSpec,
        trigger: Trigger,
        *,
        shards: int,
        contribution: str,
        origin: Origin,
        max_state_bytes: int = MAX_STATE_BYTES,
    ) -> None:
        super().__init__()
        self._enter = AccumulateFn(spec, trigger, shards, contribution, origin, max_state_bytes)
        self._merge = _Merge(spec, max_state_bytes)

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> Accumulated:
        entered: Any = (
            records
            | "Unwindow" >> beam.WindowInto(GlobalWindows())
            | "Enter" >> beam.ParDo(self._enter).with_outputs(LATE, TALLIES, main="states")
        )
        entered.states.element_type = beam.typehints.KV[int, pa.RecordBatch]
        entered[LATE].element_type = pa.RecordBatch
        states: Any = (
            entered.states | "ByShard" >> beam.GroupByKey() | "Merge" >> beam.ParDo(self._merge)
        )
        states.element_type = pa.RecordBatch
        return Accumulated(states, entered[LATE], entered[TALLIES])


class AccumulateFn(PartialStates):
    """Batches to (shard, batch of open states); beside them late records, and facts."""

    def __init__(
        self,
        spec: AggregateSpec,
        trigger: Trigger,
        shards: int,
        contribution: str,
        origin: Origin,
        max_state_bytes: int,
    ) -> None:
        super().__init__(spec, shards, contribution, max_state_bytes)
        self._trigger = trigger
        self._origin = origin._replace(stage="aggregate")

    def start_bundle(self) -> None:
        super().start_bundle()
        self._open: Counter[tuple[str, int]] = Counter()
        self._late: Counter[str] = Counter()

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        batch, late = without_late(batch, self._spec, self._trigger)
        if late is not None:
            self._late.update(count_sources(late, SOURCE))
            yield TaggedOutput(LATE, late_letters(late, self._spec, self._origin))
        if batch.num_rows:
            self._open.update(closing_counts(batch, self._spec))
        yield from super().process(batch)

    def finish_bundle(self) -> Iterator[Any]:
        for element in self._rest():
            yield GlobalWindows.windowed_value(element)
        name = self._spec.name
        facts: list[Opened | Tally] = [Opened(name, *at, n) for at, n in self._open.items()]
        facts += [Tally(source, "late", n, name) for source, n in self._late.items()]
        for fact in facts:
            yield TaggedOutput(TALLIES, GlobalWindows.windowed_value(fact))


class _Merge(beam.DoFn):
    """A shard's open states to batches of sealed states, each group once."""

    def __init__(self, spec: AggregateSpec, max_state_bytes: int) -> None:
        self._spec = spec
        self._max_state_bytes = max_state_bytes

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        gathering = Gathering(self._spec, self._max_state_bytes)
        gathering.add_all(element[1])
        yield from batches_of(merge_states(gathering.tables, self._spec))


def without_late(
    batch: pa.RecordBatch, spec: AggregateSpec, trigger: Trigger
) -> tuple[pa.RecordBatch, pa.RecordBatch | None]:
    """The records that an aggregate takes, and those that are late for it, if any are."""
    late = late_rows(batch, spec, trigger.lateness_us)
    if late is None:
        return batch, None
    return batch.filter(pa.array(~late)), batch.filter(pa.array(late))


def late_letters(records: pa.RecordBatch, spec: AggregateSpec, origin: Origin) -> pa.RecordBatch:
    """The rows of ``late`` for records that an aggregate no longer takes."""
    message = f"no window of {spec.name} that it belongs to is open any more"
    violations = [Violation(i, spec.event_time, Code.LATE, message) for i in range(len(records))]
    times = records.column(spec.event_time)
    attributes = {AGGREGATE: spec.name}
    return refused_batch(records, violations, origin, event_times=times, attributes=attributes)


def closing_counts(batch: pa.RecordBatch, spec: AggregateSpec) -> Counter[tuple[str, int]]:
    """How many records of which source are all given at which watermark.

    That is when the last window of a record's slice closes. Of sessions it is one gap after the
    record, rounded up, whatever session the record becomes part of.
    """
    times = batch.column(spec.event_time).view(pa.int64()).to_numpy()
    closes = spec.window.last_closed(spec.window.slices(times))
    if isinstance(spec.window, Session):
        step = max(spec.window.gap_us // _BUCKETS, 1)
        closes = -(-closes // step) * step
    sources = batch.column(SOURCE)
    indices = sources.indices.to_numpy()
    found: Counter[tuple[str, int]] = Counter()
    for i, name in enumerate(sources.dictionary.to_pylist()):
        those = closes if len(sources.dictionary) == 1 else closes[indices == i]
        for close, rows in _counts(those):
            found[name, close] += rows
    return found


def _counts(values: np.ndarray) -> Iterable[tuple[int, int]]:
    """Distinct values, with how often each is there."""
    if len(values) and (first := int(values[0])) == int(values.min()) == int(values.max()):
        return [(first, len(values))]  # as most batches are
    distinct, counts = np.unique(values, return_counts=True)
    return zip(distinct.tolist(), counts.tolist(), strict=True)
