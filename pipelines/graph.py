"""The main job as a Beam graph: from reading to committing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa

from ..schemas.aggregates.open_windows import Trigger
from ..schemas.aggregates.spec import AggregateSpec
from ..schemas.contract import Contract
from ..schemas.steps import RecordStep
from ..transforms import storage
from ..transforms.aggregate import Aggregate
from ..transforms.carry import Carry, SourceState
from ..transforms.dead_letters import Origin
from ..transforms.intervals.accumulate import Accumulate
from ..transforms.intervals.commit import CommitInterval, Commits
from ..transforms.intervals.slices import FACTS, AccumulateSlices, CommitSlices
from ..transforms.parse import Parse
from ..transforms.plan import Plan, Token
from ..transforms.read.json_lines import ReadFromJsonLines
from ..transforms.read.stamp import StampFiles
from ..transforms.read.streams.unbounded import Pace
from ..transforms.runs import RunRecord, RunStore
from ..transforms.stage_result import StageResult
from ..transforms.write.commit import CommitRun, refuse_shared
from ..transforms.write.destination import Output
from ..transforms.write.files import SPILL, live_files
from ..transforms.write.formats import BRIEF
from ..transforms.write.manifests import PRIVATE
from ..transforms.write.stage import Stage
from .job import Job

if TYPE_CHECKING:
    from ..transforms.intervals.keys import Horizon

RECORDS = "records"
DEAD_LETTERS = "dead_letters"
DUPLICATES = "duplicates"
LATE = "late"
Reads = Callable[[beam.Pipeline, "Run", Origin], tuple[StageResult, Any]]
"""Puts the reading of a stream into a pipeline: what is read, and how far."""

SHARDS = 4
"""Parts that an aggregate is merged in, where the job does not say."""


@dataclass(frozen=True)
class Endless:
    """How a run goes on for ever: by how many workers at once a stream is read, how, and after how
    many seconds what has been read is committed in any case. ``once`` says that the runner does
    nothing twice: with a bundle the whole pipeline fails."""

    parts: int
    pace: Pace
    every: float
    once: bool = False


@dataclass(frozen=True)
class GoesOn:
    """How a run goes on from the one before it: what it carries on, and what it reads."""

    commits: Commits
    carry: Carry
    read: Reads | None = None
    endless: Endless | None = None

    def trigger(self, spec: AggregateSpec) -> Trigger:
        """When an aggregate's windows are given."""
        return next(a.trigger for a in self.commits.aggregates if a.spec.name == spec.name)

    @property
    def states(self) -> dict[str, SourceState]:
        """Where partitions stand."""
        return self.carry.sources


@dataclass(frozen=True)
class Run:
    """A job made ready: everything the graph is built from.

    ``steps`` end with the one, if any, that adds the columns ``derived`` for the aggregates.
    ``outputs`` are committed in order.
    """

    job: Job
    contract: Contract
    steps: tuple[RecordStep, ...]
    derived: tuple[str, ...]
    aggregates: tuple[AggregateSpec, ...]
    plan: Plan
    store: RunStore
    token: Token
    outputs: tuple[Output, ...]
    ledger: Output
    goes_on: GoesOn | None = None

    def commit(self) -> beam.PTransform:
        """The end of the graph.

        Raises:
            DestinationError: two outputs have one name, or one place.
        """
        refuse_shared([*self.outputs, self.ledger])
        if self.goes_on and (endless := self.goes_on.endless):
            return CommitSlices(
                self.goes_on.commits,
                self.plan,
                self.goes_on.carry,
                slice_seconds=endless.pace.slice_seconds,
                every=endless.every,
            )
        if self.goes_on:
            going = self.goes_on
            return CommitInterval(
                going.commits, self.plan, self.token, going.carry, close=self.job.close_windows
            )
        return CommitRun(
            self.store,
            self.token,
            self.outputs,
            self.ledger.uri,
            patience=self.job.retry_seconds,
        )

    @property
    def is_endless(self) -> bool:
        """Whether it reads a stream for as long as it runs."""
        return self.goes_on is not None and self.goes_on.endless is not None

    @property
    def spill(self) -> str:
        """The folder for what waits while keys are compared."""
        return storage.join(self.store.home, PRIVATE, "staging", self.token.run_id, SPILL)

    @property
    def needs_watermarks(self) -> bool:
        """Whether it matters how far event time has come where a record was read."""
        return bool(self.aggregates) or self.job.deduplicate == "horizon"

    @property
    def keeps_payload(self) -> bool:
        """Whether a record's bytes are needed after it has been parsed: for the dead letters of
        steps, and of destinations that refuse rows; and for records that are late."""
        late = self.goes_on is not None and bool(self.aggregates)
        return (
            late
            or bool(self.steps)
            or any(output.destination.refuses for output in self.outputs if output.name == RECORDS)
        )


def build(pipeline: beam.Pipeline, run: Run) -> beam.PCollection[RunRecord]:
    """Put the job into a pipeline; gives its run record, once it has been committed."""
    flow = _Flow(run)
    records = _read_on(pipeline, run, flow) if run.goes_on else _read(pipeline, run, flow)
    if run.job.deduplicate != "no":
        records = _deduplicated(records, run, flow)
    for i, step in enumerate(run.steps):
        records = _stepped(records, step, i, run, flow)
    _write(records, run, flow)
    for spec in run.aggregates:
        if run.goes_on:
            _accumulate(records, spec, run.goes_on, run, flow)
        else:
            _aggregate(records, spec, run, flow)
    return tuple(flow.facts) | "Facts" >> beam.Flatten() | "CommitRun" >> run.commit()


class _Flow:
    """Gathers what the commit waits for: tallies, and receipts of what is staged on the way."""

    def __init__(self, run: Run) -> None:
        self.facts: list[Any] = []
        self._endless = run.is_endless
        self._outputs = {output.name: output for output in run.outputs}
        self._token = run.token
        self.origin = Origin("", run.job.name, run.token.run_id).of(run.contract)

    def stage(self, batches: Any, label: str, output: str, **options: Any) -> None:
        """Stage batches for an output, if the job has it."""
        if output in self._outputs:
            if self._endless:  # gathered into larger files when they are committed
                options |= {"format": BRIEF, "keep_identity": True}
            stage = Stage(self._outputs[output], self._token, **options)
            self.facts.append(batches | label >> stage)

    def dead(self, stage: str, letters: Any) -> None:
        """Stage a stage's own dead letters: brought together first, they would have to pass through
        the runner, which on the local one is memory."""
        self.stage(letters, f"StageDeadLettersOf{stage}", DEAD_LETTERS)


def _read(pipeline: beam.Pipeline, run: Run, flow: _Flow) -> Any:
    """Records that keep the contract."""
    job = run.job
    payload = run.keeps_payload
    if job.format != "jsonl":
        result = pipeline | "Read" >> _reader(run, payload, flow.origin._replace(stage="parse"))
        flow.facts.append(result.tallies)
        flow.dead("Read", result.dead_letters)
        return result.records
    lines = pipeline | "Read" >> ReadFromJsonLines(
        run.plan.inputs,
        max_record_bytes=job.max_record_bytes,
        compression=job.compression,
        origin=flow.origin._replace(stage="read"),
    )
    parsed = lines.records | "ParseAndValidate" >> Parse(
        run.contract,
        judge=True,
        payload=payload,
        unknown_fields=job.unknown_fields,
        origin=flow.origin._replace(stage="parse"),
    )
    flow.facts.append(lines.tallies)
    flow.dead("Read", lines.dead_letters)
    flow.dead("Parse", parsed.dead_letters)
    return parsed.records


def _read_on(pipeline: beam.Pipeline, run: Run, flow: _Flow) -> Any:
    """Records that keep the contract, each with its watermark if that matters."""
    going = run.goes_on
    assert going is not None
    if going.read is not None:
        result, reached = going.read(pipeline, run, flow.origin)
        flow.facts += [result.tallies, reached]
        flow.dead("Read", result.dead_letters)
        return result.records
    records = _read(pipeline, run, flow)
    if not run.needs_watermarks or run.contract.event_time is None:
        return records
    disorder_us = going.commits.disorder_us
    stamp = StampFiles(run.contract.event_time, disorder_us, going.states)
    stamped = records | "StampFiles" >> stamp
    flow.facts.append(stamped.reached)
    return stamped.records


def _reader(run: Run, payload: bool, origin: Origin) -> beam.PTransform:
    """What reads the job's format, where that is decoded as it is read."""
    job = run.job
    common: dict[str, Any] = {
        "judge": True,
        "payload": payload,
        "unknown_fields": job.unknown_fields,
        "origin": origin,
    }
    if job.format == "csv":
        from ..transforms.read.csv import ReadFromCsv

        return ReadFromCsv(
            run.plan.inputs,
            run.contract,
            options=job.csv,
            max_record_bytes=job.max_record_bytes,
            compression=job.compression,
            **common,
        )
    if job.format == "avro":
        from ..transforms.read.avro import ReadFromAvro

        return ReadFromAvro(
            run.plan.inputs, run.contract, max_record_bytes=job.max_record_bytes, **common
        )
    from ..transforms.read.parquet import ReadFromParquet

    return ReadFromParquet(
        run.plan.inputs, run.contract, max_record_bytes=job.max_record_bytes, **common
    )


def _deduplicated(records: Any, run: Run, flow: _Flow) -> Any:
    going = run.goes_on
    if going is not None and going.commits.horizon is not None:
        return _deduplicated_within(records, going.commits.horizon, going, run, flow)
    from ..transforms.deduplicate import Deduplicate

    taken = []
    if run.job.deduplicate == "committed":
        uri = next(output.uri for output in run.outputs if output.name == RECORDS)
        taken = live_files(uri, except_run=run.token.run_id)
    found = records | "Deduplicate" >> Deduplicate(
        run.contract.primary_key,
        event_time=run.contract.event_time,
        spill=run.spill,
        taken=taken,
        shards=run.job.shards or SHARDS,
    )
    flow.facts.append(found.tallies)
    flow.stage(found.duplicates, "StageDuplicates", DUPLICATES, keep_identity=True)
    return found.records


def _deduplicated_within(
    records: Any, horizon: Horizon, going: GoesOn, run: Run, flow: _Flow
) -> Any:
    chain, carry = going.commits.chain, going.carry
    found: Any
    if going.endless:
        from ..transforms.intervals.duplicates import DeduplicateSlices

        parts = going.endless.parts
        reader = str(run.token) if going.endless.once and parts == 1 else ""
        distinct = DeduplicateSlices(horizon, chain.carry, shards=parts, reader=reader)
        found = records | "Deduplicate" >> distinct
        flow.facts.append(found.facts)
    else:
        from ..transforms.deduplicate.within import DeduplicateWithin
        from ..transforms.intervals.keys import keys_folder

        found = records | "Deduplicate" >> DeduplicateWithin(
            horizon.key,
            event_time=horizon.event_time,
            horizon_us=horizon.us,
            spill=run.spill,
            folder=keys_folder(chain.store.home),
            kept=carry.keys.files if carry.keys else (),
            kinds=horizon.kinds,
            shards=carry.shards,
        )
        flow.facts += [found.tallies, found.keys]
    flow.stage(found.duplicates, "StageDuplicates", DUPLICATES, keep_identity=True)
    return found.records


def _stepped(records: Any, step: RecordStep, i: int, run: Run, flow: _Flow) -> Any:
    from ..transforms.step import Step

    origin = flow.origin._replace(stage="step")
    result = records | f"Step{i + 1}" >> Step(step, contract=run.contract, origin=origin)
    flow.facts.append(result.tallies)
    flow.dead(f"Step{i + 1}", result.dead_letters)
    return result.records


def _write(records: Any, run: Run, flow: _Flow) -> None:
    if run.derived:
        records = records | "DropDerived" >> beam.Map(_without, run.derived).with_output_types(
            pa.RecordBatch
        )
    # Tables keep where a row came from, or need it for what they refuse; files hold neither.
    tables = any(output.tables for output in run.outputs if output.name == RECORDS)
    flow.stage(records, "StageRecords", RECORDS, keep_identity=tables)


def _without(batch: pa.RecordBatch, columns: tuple[str, ...]) -> pa.RecordBatch:
    return batch.drop_columns(list(columns))


def _aggregate(records: Any, spec: AggregateSpec, run: Run, flow: _Flow) -> None:
    aggregated = records | f"Aggregate_{spec.name}" >> Aggregate(
        spec, shards=run.job.shards or SHARDS, contribution=str(run.token)
    )
    flow.facts.append(aggregated.tallies)
    flow.stage(aggregated.visible, f"StageVisible_{spec.name}", spec.name)
    flow.stage(aggregated.states, f"StageStates_{spec.name}", spec.name, part="states")


def _accumulate(records: Any, spec: AggregateSpec, going: GoesOn, run: Run, flow: _Flow) -> None:
    if going.endless:
        aggregate = next(a for a in going.commits.aggregates if a.spec.name == spec.name)
        slices = AccumulateSlices(aggregate, flow.origin)
        outputs = records | f"Accumulate_{spec.name}" >> beam.ParDo(slices).with_outputs(
            LATE, FACTS
        )
        outputs[LATE].element_type = pa.RecordBatch
        flow.facts.append(outputs[FACTS])
        flow.stage(outputs[LATE], f"StageLate_{spec.name}", LATE)
        return
    into = Accumulate(
        spec,
        going.trigger(spec),
        shards=going.carry.shards,
        contribution=str(run.token),
        origin=flow.origin,
    )
    accumulated = records | f"Accumulate_{spec.name}" >> into
    flow.facts.append(accumulated.facts)
    flow.stage(accumulated.late, f"StageLate_{spec.name}", LATE)
    flow.stage(accumulated.states, f"StageStates_{spec.name}", spec.name, part="states")
