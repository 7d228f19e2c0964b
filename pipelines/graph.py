"""The main job as a Beam graph: from reading to committing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from ..transforms.encrypt import Encrypt
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
from ..transforms.tallies import Tally
from ..transforms.write.commit import CommitRun, refuse_shared
from ..transforms.write.destination import Output
from ..transforms.write.files import SPILL, live_files
from ..transforms.write.formats import BRIEF
from ..transforms.write.manifests import PRIVATE
from ..transforms.write.stage import Stage
from .job import Job
from .reading import SELF_DESCRIBED, file_reader

if TYPE_CHECKING:
    from ..transforms.drift.watch import Watch
    from ..transforms.intervals.keys import Horizon
    from ..transforms.quality.gate import Gate
    from ..transforms.quality.judge import Judge
    from ..transforms.read.records import ReadRecords
    from ..transforms.repair import Repair
    from .replay import Replaying

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
    ``outputs`` are committed in order. ``unattended`` says that its launcher does not wait for it.
    ``gate`` judges what was staged, ``watch`` before it what drifted; ``row_rules`` refuse records
    before anything else does; ``repair`` is tried on those that do not keep the contract.
    With ``replay`` it reads dead letters in the place of the input.
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
    unattended: bool = False
    replay: Replaying | None = None
    gate: Gate | None = None
    watch: Watch | None = None
    row_rules: RecordStep | None = None
    repair: Repair | None = None

    def commit(self) -> beam.PTransform:
        """The end of the graph.

        Raises:
            DestinationError: two outputs have one name, or one place.
        """
        refuse_shared([*self.outputs, self.ledger])
        if self.replay:
            return self.replay.commit(self)
        if self.goes_on and (endless := self.goes_on.endless):
            return CommitSlices(
                replace(self.goes_on.commits, gate=self.judge),
                self.plan,
                self.goes_on.carry,
                slice_seconds=endless.pace.slice_seconds,
                every=endless.every,
            )
        if self.goes_on:
            going = self.goes_on
            commits = replace(going.commits, gate=self.judge)
            return CommitInterval(
                commits, self.plan, self.token, going.carry, close=self.job.close_windows
            )
        return CommitRun(
            self.store,
            self.token,
            self.outputs,
            self.ledger.uri,
            patience=self.job.retry_seconds,
            unattended=self.unattended,
            reprocess=self.job.reprocess,
            gate=self.judge,
        )

    @property
    def judge(self) -> Judge | None:
        """Who decides what may be committed."""
        if self.watch is None:
            return self.gate
        return replace(self.watch, gate=self.gate, tells=self.is_endless or self.unattended)

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
        return late or bool(self.steps) or self.row_rules is not None or self.refuses_rows

    @property
    def refuses_rows(self) -> bool:
        """Whether the destination of records may refuse some."""
        return any(out.destination.refuses for out in self.outputs if out.name == RECORDS)


def build(pipeline: beam.Pipeline, run: Run) -> beam.PCollection[RunRecord]:
    """Put the job into a pipeline; gives its run record, once it has been committed."""
    flow = _Flow(run)
    if run.replay and run.replay.late:
        _replay_late(pipeline, run, run.replay, flow)
        return tuple(flow.facts) | "Facts" >> beam.Flatten() | "CommitRun" >> run.commit()
    if run.replay:
        records = _read_letters(pipeline, run, run.replay, flow)
    else:
        records = _read_on(pipeline, run, flow) if run.goes_on else _read(pipeline, run, flow)
    if run.watch is not None and run.job.unknown_fields == "keep" and not run.replay:
        from ..transforms.drift.records import NoticeKept

        flow.facts.append(records | "NoticeKept" >> NoticeKept(run.contract))
    if run.row_rules is not None:
        records = _ruled(records, run.row_rules, run, flow)
    if run.repair is not None:
        _count_repaired(records, flow)
    if run.job.deduplicate != "no":
        records = _deduplicated(records, run, flow)
    if flow.gate is not None:
        _measure(records, flow.gate, run, flow)
    for i, step in enumerate(run.steps):
        records = _stepped(records, step, i, run, flow)
    _write(records, run, flow)
    if run.replay and run.aggregates and run.refuses_rows:
        records = _uncounted(records, run, run.replay, flow)
    for spec in run.aggregates:
        if run.goes_on:
            _accumulate(records, spec, run.goes_on, run, flow)
        else:
            _aggregate(records, spec, run, flow)
    return tuple(flow.facts) | "Facts" >> beam.Flatten() | "CommitRun" >> run.commit()


def build_records(pipeline: beam.Pipeline, run: Run) -> beam.PCollection[pa.RecordBatch]:
    """Put the job into a pipeline up to where its records leave the last step; nothing of it is
    committed, nor are dead letters kept."""
    run = replace(run, outputs=(), gate=None, watch=None)
    flow = _Flow(run)
    records = _read(pipeline, run, flow)
    if run.row_rules is not None:
        records = _ruled(records, run.row_rules, run, flow)
    if run.job.deduplicate != "no":
        records = _deduplicated(records, run, flow)
    for i, step in enumerate(run.steps):
        records = _stepped(records, step, i, run, flow)
    return records


class _Flow:
    """Gathers what the commit waits for: tallies, and receipts of what is staged on the way."""

    def __init__(self, run: Run) -> None:
        self.facts: list[Any] = []
        self._job = run.job
        self._endless = run.is_endless
        self._keys = run.job.encrypt_dead_letters
        self._outputs = {output.name: output for output in run.outputs}
        self._token = run.token
        self._replay = run.replay
        self.gate, self._store = (None if run.replay else run.gate), run.store
        self._watch, self._contract = (None if run.replay else run.watch), run.contract
        self.origin = Origin("", run.job.name, run.token.run_id).of(run.contract)

    def stage(self, batches: Any, label: str, output: str, **options: Any) -> None:
        """Stage batches for an output, if the job has it."""
        if output in self._outputs:
            if self._endless:  # gathered into larger files when they are committed
                options |= {"format": BRIEF, "keep_identity": True}
            if self._keys and output in (DEAD_LETTERS, LATE):
                batches = batches | f"Encrypt{label}" >> Encrypt(self._keys)
            stage = Stage(self._outputs[output], self._token, **options)
            self.facts.append(batches | label >> stage)

    def dead(self, stage: str, letters: Any, late_for: str = "") -> None:
        """Stage a stage's own dead letters: brought together first, they would have to pass through
        the runner, which on the local one is memory.

        Args:
            late_for: in a replay, the aggregate that their records were late for, and stay so.
        """
        if self._watch is not None and stage in ("Read", "Parse"):
            from ..transforms.drift.letters import NoticeLetters

            # Where unknown fields are no violation, any letter may have some.
            notice = NoticeLetters(self._contract, all_letters=self._watch.policy == "warn")
            self.facts.append(letters | f"NoticeDriftOf{stage}" >> notice)
        if self.gate is not None:
            letters = self._judged(self.gate, stage, letters)
        letters = self._described(letters, stage)
        output = DEAD_LETTERS
        if self._replay:
            letters, failed = self._replay.attempts(letters, stage, self._keys or "")
            self.facts.append(failed)
            if late_for:
                letters, tallies = self._replay.still_late(letters, stage, late_for)
                self.facts.append(tallies)
                output = LATE
        self.stage(letters, f"StageDeadLettersOf{stage}", output)

    def late(self, letters: Any, aggregate: str) -> None:
        """Stage records that are late for an aggregate."""
        letters = self._described(letters, f"Late_{aggregate}")
        self.stage(letters, f"StageLate_{aggregate}", LATE)

    def _described(self, letters: Any, stage: str) -> Any:
        """Letters that can be read again though their file be gone. Those of a replay take that
        over from the letters before."""
        is_read_here = stage in ("Read", "Parse")
        if self._replay or is_read_here or self._job.format not in SELF_DESCRIBED:
            return letters
        from ..transforms.read.described import Describe

        reader = file_reader(self._job, self._contract)
        return letters | f"DescribeLettersOf{stage}" >> Describe(reader)

    def _judged(self, gate: Gate, stage: str, letters: Any) -> Any:
        """Count a stage's dead letters: those of steps are of records that keep the contract."""
        if gate.checks and not stage.startswith("Step"):
            from ..transforms.quality.measure import MeasureLetters

            count = MeasureLetters(gate.checks)
            self.facts.append(letters | f"MeasureDeadLettersOf{stage}" >> count)
        if gate.budget is None or self._endless:
            return letters
        from ..transforms.quality.budget import WithinBudget

        within = WithinBudget(gate.budget, self._store, self._token)
        return letters | f"WithinBudget{stage}" >> within


def _read_letters(
    pipeline: beam.Pipeline, run: Run, replay: Replaying, flow: _Flow, late_for: str = ""
) -> Any:
    """Records of dead letters that keep the contract by now."""
    result = replay.read(pipeline, run, flow.origin, late_for)
    flow.facts.append(result.tallies)
    flow.dead(f"Read{late_for}", result.dead_letters, late_for)
    return result.records


def _replay_late(pipeline: beam.Pipeline, run: Run, replay: Replaying, flow: _Flow) -> None:
    """Late records, which have been written already, into the aggregates that went without."""
    assert run.goes_on is not None
    for spec in run.aggregates:
        records = _read_letters(pipeline, run, replay, flow, spec.name)
        if run.repair is not None:
            _count_repaired(records, flow, spec.name)
        for i, step in enumerate(run.steps):
            records = _stepped(records, step, i, run, flow, spec.name)
        _accumulate(records, spec, run.goes_on, run, flow)


def _read(pipeline: beam.Pipeline, run: Run, flow: _Flow) -> Any:
    """Records that keep the contract."""
    job = run.job
    payload = run.keeps_payload
    if job.format != "jsonl":
        reader = _reader(run, payload, flow.origin._replace(stage="parse"))
        if run.repair is not None:
            reader = reader.reading_by(run.repair.reading)
        result: Any = pipeline | "Read" >> reader
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
        unknown_fields=job.unknown_mode,
        repair=run.repair,
        origin=flow.origin._replace(stage="parse"),
    )
    flow.facts.append(lines.tallies)
    if parsed.tallies is not None:
        flow.facts.append(parsed.tallies)
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


def _reader(run: Run, payload: bool, origin: Origin) -> ReadRecords:
    """What reads the job's format, where that is decoded as it is read."""
    job = run.job
    common: dict[str, Any] = {
        "judge": True,
        "payload": payload,
        "unknown_fields": job.unknown_mode,
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


def _ruled(records: Any, rules: RecordStep, run: Run, flow: _Flow) -> Any:
    """Records that break no expression of the contract."""
    from ..transforms.step import Step

    origin = flow.origin._replace(stage="validate")
    result = records | "RowRules" >> Step(rules, contract=run.contract, origin=origin)
    flow.facts.append(result.tallies)
    flow.dead("RowRules", result.dead_letters)
    return result.records


def _count_repaired(records: Any, flow: _Flow, output: str = "") -> None:
    from ..transforms.repair import CountRepaired

    flow.facts.append(records | f"CountRepaired{output}" >> CountRepaired(output))


def _measure(records: Any, gate: Gate, run: Run, flow: _Flow) -> None:
    from ..transforms.quality.measure import MeasureRecords

    outputs = {output.name: output for output in run.outputs}
    layout = outputs[gate.partitioned].destination.layout if gate.partitioned else None
    measure = MeasureRecords(
        gate.checks,
        run.contract,
        folder=run.spill,
        partitions=layout.partition_by if layout else (),
        spills=gate.spills,
    )
    flow.facts.append(records | "MeasureRecords" >> measure)


def _deduplicated(records: Any, run: Run, flow: _Flow) -> Any:
    going = run.goes_on
    if going is not None and (horizon := going.commits.horizon) is not None:
        if not run.replay:
            return _deduplicated_within(records, horizon, going, run, flow)
        from ..transforms.replay.reached import KEPT, REACHED_BEFORE, SplitReached

        # Of what was kept before the key is remembered: it would be a duplicate of itself.
        split = records | "SplitKept" >> SplitReached(run.replay.letters, KEPT)
        records = _deduplicated_within(split.records, horizon, going, run, flow)
        return (records, split[REACHED_BEFORE]) | "WithKept" >> beam.Flatten()
    from ..transforms.deduplicate import Deduplicate

    taken = []
    if run.job.deduplicate == "committed":
        uri = next(output.uri for output in run.outputs if output.name == RECORDS)
        taken = live_files(uri, except_run=run.token.run_id)
    if run.replay:
        taken = list(run.replay.taken)
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


def _stepped(records: Any, step: RecordStep, i: int, run: Run, flow: _Flow, of: str = "") -> Any:
    from ..transforms.step import Step

    origin = flow.origin._replace(stage="step")
    label = f"Step{i + 1}{of}"
    result = records | label >> Step(step, contract=run.contract, origin=origin)
    tallies: Any = result.tallies
    if of:
        tallies = tallies | f"TalliesOf{label}" >> beam.Map(Tally.of_output, of)
    flow.facts.append(tallies)
    flow.dead(label, result.dead_letters, of)
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


def _uncounted(records: Any, run: Run, replay: Replaying, flow: _Flow) -> Any:
    """Records of a replay without those that aggregates hold already: that a destination refused
    them did not keep them out of these."""
    from ..transforms.replay.reached import COUNTED, SplitReached
    from ..transforms.tallies import TALLIES

    names = [spec.name for spec in run.aggregates]
    split = records | "SplitCounted" >> SplitReached(replay.letters, COUNTED, names)
    flow.facts.append(split[TALLIES])
    return split.records


def _aggregate(records: Any, spec: AggregateSpec, run: Run, flow: _Flow) -> None:
    aggregated = records | f"Aggregate_{spec.name}" >> Aggregate(
        spec, shards=run.job.shards or SHARDS, contribution=str(run.token)
    )
    flow.facts.append(aggregated.tallies)
    if not run.replay:  # which corrects results when it commits
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
        flow.late(outputs[LATE], spec.name)
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
    flow.late(accumulated.late, spec.name)
    flow.stage(accumulated.states, f"StageStates_{spec.name}", spec.name, part="states")
