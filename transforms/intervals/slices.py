"""Slices of an endless stream: what each says of itself, and commits of many of them.

All facts of a slice (where each partition began and ended, what was counted, what was staged, the
states that its records made) come together by a keyed barrier over Beam's time, which here is the
time at which slices were read. From then on only facts count. They wait in the runner's state for a
commit; what a runner gives twice, after it has gone back to a checkpoint, begins before the
positions that are committed, and is passed over.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
import pyarrow as pa
from apache_beam.coders import BytesCoder, PickleCoder
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, GlobalWindows

from ...schemas.aggregates.open_windows import contributed
from ...schemas.aggregates.states import merge_states, partial_states
from ...schemas.aggregates.windows import Sliding
from ...schemas.arrow import SOURCE
from .. import storage
from ..aggregate import batches_of
from ..carry import Carry, NewKeys, Opened, Reached, Stopped, advanced
from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from ..dead_letters import Origin
from ..plan import Interval, Plan, Token
from ..receipts import Receipt
from ..runs import RunRecord
from ..tallies import Tally, count_sources
from ..write.stage import StagedFiles, restage
from .accumulate import LATE, closing_counts, late_letters, without_late
from .chain import Head, Overtaken
from .commit import Commits, Facts, commit_interval
from .judged_once import JudgedOnce
from .windows import HeldStates, OpenAggregate, StatesAtHand

FACTS = "facts"


class Missing(RuntimeError):
    """What a slice made has been lost on its way; nothing after it can be committed."""


class SliceStates(NamedTuple):
    """States of an aggregate that records of a slice made, as an Arrow IPC stream."""

    output: str
    stream: bytes


class AccumulateSlices(beam.DoFn):
    """Batches of records to the facts of an aggregate, and late records.

    Facts leave with the batch that they are of, and so with the time of its slice.
    """

    def __init__(self, aggregate: OpenAggregate, origin: Origin) -> None:
        self._aggregate = aggregate
        self._origin = origin._replace(stage="aggregate")

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        spec = self._aggregate.spec
        batch, late = without_late(batch, spec, self._aggregate.trigger)
        if late is not None:
            for source, rows in count_sources(late, SOURCE).items():
                yield TaggedOutput(FACTS, Tally(source, "late", rows, spec.name))
            yield TaggedOutput(LATE, late_letters(late, spec, self._origin))
        if batch.num_rows:
            states = partial_states(batch, spec, open=True)
            yield TaggedOutput(FACTS, SliceStates(spec.name, to_stream(states)))
            for place, rows in closing_counts(batch, spec).items():
                yield TaggedOutput(FACTS, Opened(spec.name, *place, rows))


def to_stream(table: pa.Table) -> bytes:
    """A table as bytes, which any coder of Beam's takes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def of_stream(data: bytes) -> pa.Table:
    """The table that :func:`to_stream` gave."""
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()


class CommitSlices(beam.PTransform):
    """Commit slices of a stream, for as long as it runs.

    ``PCollection`` of facts, each with its slice's time → ``PCollection[RunRecord]``, one a commit.

    Args:
        plan: what all commits' plans have in common.
        carry: of the commit that the pipeline goes on from.
        slice_seconds: facts whose time is in one such interval come together.
        every: seconds after which what has been read is committed in any case.

    Raises:
        Unbalanced: in the pipeline; what was committed before stays.
        Overtaken: in the pipeline, when another process commits for this job.
    """

    def __init__(
        self,
        commits: Commits,
        plan: Plan,
        carry: Carry,
        *,
        slice_seconds: float,
        every: float,
    ) -> None:
        super().__init__()
        self._slice_seconds = slice_seconds
        self._commit = CommitSlicesFn(commits, plan, carry, every)

    def expand(self, pcoll: beam.PCollection) -> Any:
        keyed: Any = (
            pcoll
            | "BySlice" >> beam.WindowInto(FixedWindows(self._slice_seconds))
            | "Key" >> beam.Map(_keyed)
        )
        keyed.element_type = beam.typehints.KV[int, Any]
        together: Any = (
            keyed
            | "Barrier" >> beam.GroupByKey()
            | "Listed" >> beam.Map(_listed)
            | "Unwindow" >> beam.WindowInto(GlobalWindows())
        )
        together.element_type = beam.typehints.KV[int, Any]
        return together | "Commit" >> beam.ParDo(self._commit)


def _keyed(fact: Any) -> tuple[int, Any]:
    return 0, fact


def _listed(group: tuple[int, Any]) -> tuple[int, list[Any]]:
    return group[0], list(group[1])


_PENDING_PARAM = beam.DoFn.StateParam(BagStateSpec("pending", PickleCoder()))
_VERSION_PARAM = beam.DoFn.StateParam(ReadModifyWriteStateSpec("version", BytesCoder()))
_PATIENCE_SECONDS = 600.0
"""How long slices wait for one that lies between them and what is committed."""
_EASE = 4
"""Commits that follow one another leave so many times as long for reading as they take, if that is
not longer than commits are to be apart."""


class CommitSlicesFn(beam.DoFn):
    """Gathers slices, and commits them when a window closes, or some time has passed."""

    def __init__(self, commits: Commits, plan: Plan, carry: Carry, every: float) -> None:
        self._make = (commits, plan, carry)
        self._every = every
        self._gathered: Gathered | None = None
        self._version = b""

    def process(
        self,
        element: tuple[int, list[Any]],
        pending: Any = _PENDING_PARAM,
        version: Any = _VERSION_PARAM,
    ) -> Iterator[RunRecord]:
        gathered, self._gathered = self._gathered, None
        if gathered is None or version.read() != self._version:
            # This worker is new to it, or what it did last has been undone.
            gathered = Gathered(*self._make)
            for facts in pending.read():
                gathered.add(facts)
        gathered.add(element[1])
        if gathered.is_due(self._every):
            yield from gathered.commit()
            pending.clear()
            left = gathered.slices
        else:
            left = [element[1]]
        for facts in left:
            pending.add(facts)
        self._version = uuid.uuid4().bytes
        version.write(self._version)
        self._gathered = gathered  # only now are the runner's state and ours alike


class Gathered:
    """Slices that wait to be committed, and the commit that they go on from."""

    def __init__(self, commits: Commits, plan: Plan, carry: Carry) -> None:
        self._commits = commits
        self._plan = plan
        head = commits.chain.head(patience=commits.patience)
        self._carry = head.carry if head and head.carry.sequence > carry.sequence else carry
        self._states = HeldStates()
        self._over: set[int] = set()  # parts of the stream that are read no more
        self._judged = JudgedOnce()
        self._committed_at = time.monotonic()
        self._took = 0.0
        self._stuck_since: float | None = None
        self.slices: list[list[Any]] = []
        """The facts of each slice that is not committed yet."""

    def add(self, facts: list[Any]) -> None:
        """Take in the facts of a slice."""
        self.slices.append(facts)
        for fact in facts:
            if isinstance(fact, NewKeys):
                self._judged.add(fact)

    def is_due(self, every: float) -> bool:
        """Whether it is time to commit."""
        if self._is_over():
            return True
        since = time.monotonic() - self._committed_at
        if since < min(_EASE * self._took, every):
            return False
        return (since >= every and self._has_new()) or self._closes_some()

    def commit(self) -> Iterator[RunRecord]:
        """Commit the slices that go on from what is committed; the others wait on.

        Raises:
            Overtaken: a part of a slice is committed already, or records were judged by two that
                know nothing of each other.
            Missing: slices wait for one that does not come.
        """
        self._judged.check()
        started = time.monotonic()
        over = self._is_over()
        is_worth_it = self._has_new() or self._closes_some() or (over and self._commits.close)
        taken, self.slices = self._ready()
        self._see_stuck(bool(taken))
        self._over |= {f.part for facts in taken for f in facts if isinstance(f, Stopped)}
        if taken and is_worth_it:
            yield self._commit(taken).record
        self._committed_at = time.monotonic()
        self._took = self._committed_at - started

    def _commit(self, taken: Sequence[list[Any]]) -> Head:
        commits, carry = self._commits, self._carry
        facts = [fact for slice in taken for fact in slice]
        reached = [fact for fact in facts if isinstance(fact, Reached)]
        plan = msgspec.structs.replace(self._plan, intervals=_intervals(reached), after=carry.token)
        token = commits.chain.begin(plan, carry.sequence + 1)
        ours = Facts.of(f for f in facts if not isinstance(f, SliceStates | Stopped))
        states = self._new_states([f for f in facts if isinstance(f, SliceStates)])
        receipts = [
            *self._restaged(ours.receipts, token),
            *self._staged_states(states, token),
        ]
        specs = {aggregate.spec.name: aggregate.spec for aggregate in commits.aggregates}
        head = commit_interval(
            commits,
            plan,
            token,
            carry,
            ours._replace(receipts=receipts),
            close=commits.close and len(self._over) >= commits.parts,
            states=self._states,
            new={n: StatesAtHand(t, specs[n], carry.shards) for n, t in states.items()},
        )
        for receipt in ours.receipts:
            storage.delete(receipt.path)
        self._carry = head.carry
        return head

    def _ready(self) -> tuple[list[list[Any]], list[list[Any]]]:
        """The slices that go on from what is committed, in their order, and those that do not yet.

        What is committed already is in neither.
        """
        at = {source: state.next for source, state in self._carry.sources.items()}
        taken: list[list[Any]] = []
        waiting, left = self.slices, []
        while waiting:
            for facts in waiting:
                bounds = _bounds(facts)
                behind = [s for s, (start, _) in bounds.items() if start < at.get(s, start)]
                if behind and all(end <= at.get(s, 0) for s, (_, end) in bounds.items()):
                    continue
                if behind:
                    raise Overtaken(
                        f"{behind[0]}: positions from {bounds[behind[0]][0]} on have been read "
                        f"again, and are committed up to {at[behind[0]]}"
                    )
                new = {f.source for f in facts if isinstance(f, Reached) and f.is_new}
                if any(
                    start > at[source] if source in at else source not in new
                    for source, (start, _) in bounds.items()
                ):
                    left.append(facts)
                    continue
                taken.append(facts)
                at.update({source: end for source, (_, end) in bounds.items()})
            if len(left) == len(waiting):
                break
            waiting, left = left, []
        return taken, left

    def _see_stuck(self, goes_on: bool) -> None:
        """A slice that a runner has lost would keep all after it from being committed, for ever."""
        now = time.monotonic()
        if goes_on or not self.slices:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > _PATIENCE_SECONDS:
            at = {source: state.next for source, state in self._carry.sources.items()}
            bounds = (b for facts in self.slices for b in _bounds(facts).items())
            gaps = [(s, at.get(s, 0), start) for s, (start, _) in bounds if start != at.get(s)]
            source, end, start = min(gaps, key=lambda gap: gap[2] - gap[1])
            raise Missing(
                f"{source}: positions {end} to {start} have been read and did not come to be "
                "committed: go on by the same command"
            )

    def _is_over(self) -> bool:
        return any(isinstance(fact, Stopped) for facts in self.slices for fact in facts)

    def _reached(self) -> list[Reached]:
        return [f for facts in self.slices for f in facts if isinstance(f, Reached)]

    def _has_new(self) -> bool:
        return any(part.start < part.end for part in self._reached())

    def _closes_some(self) -> bool:
        """Whether a window closes that holds something."""
        before, reached = self._carry.watermark, self._reached()
        _, watermark = advanced(self._carry, reached, self._commits.disorder_us)
        if watermark <= before:
            return False
        for aggregate in self._commits.aggregates:
            window = aggregate.spec.window
            if isinstance(window, Sliding):
                ends = (before - window.size_us) // window.every_us + 1
                if ends * window.every_us + window.size_us <= watermark:
                    return True
        return any(before < closes <= watermark for closes in self._closing())

    def _closing(self) -> Iterator[int]:
        for windows in self._carry.aggregates.values():
            for closing in windows.records.values():
                yield from (closes for closes, _ in closing)
        for facts in self.slices:
            yield from (fact.closes for fact in facts if isinstance(fact, Opened))

    def _new_states(self, states: Sequence[SliceStates]) -> dict[str, pa.Table]:
        """States by aggregate, each slice and group once."""
        found: dict[str, pa.Table] = {}
        for aggregate in self._commits.aggregates:
            spec = aggregate.spec
            tables = [of_stream(s.stream) for s in states if s.output == spec.name]
            if tables:
                found[spec.name] = merge_states(tables, spec)
        return found

    def _staged_states(self, states: Mapping[str, pa.Table], token: Token) -> list[Receipt]:
        outputs = {output.name: output for output in self._commits.outputs}
        receipts: list[Receipt] = []
        for aggregate in self._commits.aggregates:
            spec = aggregate.spec
            if spec.name in states:
                files = StagedFiles(outputs[spec.name], token, "states")
                for batch in batches_of(contributed(states[spec.name], spec, str(token))):
                    files.write(batch)
                receipts += files.close()
        return receipts

    def _restaged(self, receipts: Sequence[Receipt], token: Token) -> list[Receipt]:
        """What was staged slice by slice, in files of the size and format of the output."""
        found: list[Receipt] = []
        for output in self._commits.outputs:
            ours = [receipt for receipt in receipts if receipt.output == output.name]
            if ours:
                found += restage(ours, output, token)
        return found


def _bounds(facts: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """From where to where a slice goes, by source."""
    found: dict[str, tuple[int, int]] = {}
    for fact in facts:
        if isinstance(fact, Reached):
            start, end = found.get(fact.source, (fact.start, fact.end))
            found[fact.source] = min(start, fact.start), max(end, fact.end)
    return found


def _intervals(reached: Sequence[Reached]) -> tuple[Interval, ...]:
    bounds = _bounds(reached)
    return tuple(Interval(s, start, end) for s, (start, end) in bounds.items() if start < end)
