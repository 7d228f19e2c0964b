"""The main job as a Beam graph: from reading to committing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa

from ..schemas.aggregates.spec import AggregateSpec
from ..schemas.steps import RecordStep
from ..transforms.aggregate import Aggregate
from ..transforms.dead_letters import Origin
from ..transforms.intervals.accumulate import Accumulate
from ..transforms.intervals.slices import FACTS, AccumulateSlices
from ..transforms.parse import Parse
from ..transforms.read.json_lines import ReadFromJsonLines
from ..transforms.read.stamp import StampFiles
from ..transforms.runs import RunRecord
from ..transforms.tallies import Tally
from ..transforms.write.files import live_files
from .flow import Flow
from .names import DUPLICATES, LATE, RECORDS
from .run import SHARDS, GoesOn, Run

if TYPE_CHECKING:
    from ..transforms.intervals.keys import Horizon
    from ..transforms.quality.gate import Gate
    from ..transforms.read.records import ReadRecords
    from .replay import Replaying


def build(pipeline: beam.Pipeline, run: Run) -> beam.PCollection[RunRecord]:
    """Put the job into a pipeline; gives its run record, once it has been committed."""
    flow = Flow(run)
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
    flow = Flow(run)
    records = _read(pipeline, run, flow)
    if run.row_rules is not None:
        records = _ruled(records, run.row_rules, run, flow)
    if run.job.deduplicate != "no":
        records = _deduplicated(records, run, flow)
    for i, step in enumerate(run.steps):
        records = _stepped(records, step, i, run, flow)
    return records


def _read_letters(
    pipeline: beam.Pipeline, run: Run, replay: Replaying, flow: Flow, late_for: str = ""
) -> Any:
    """Records of dead letters that keep the contract by now."""
    result = replay.read(pipeline, run, flow.origin, late_for)
    flow.facts.append(result.tallies)
    flow.dead(f"Read{late_for}", result.dead_letters, late_for)
    return result.records


def _replay_late(pipeline: beam.Pipeline, run: Run, replay: Replaying, flow: Flow) -> None:
    """Late records, which have been written already, into the aggregates that went without."""
    assert run.goes_on is not None
    for spec in run.aggregates:
        records = _read_letters(pipeline, run, replay, flow, spec.name)
        if run.repair is not None:
            _count_repaired(records, flow, spec.name)
        for i, step in enumerate(run.steps):
            records = _stepped(records, step, i, run, flow, spec.name)
        _accumulate(records, spec, run.goes_on, run, flow)


def _read(pipeline: beam.Pipeline, run: Run, flow: Flow) -> Any:
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


def _read_on(pipeline: beam.Pipeline, run: Run, flow: Flow) -> Any:
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


def _ruled(records: Any, rules: RecordStep, run: Run, flow: Flow) -> Any:
    """Records that break no expression of the contract."""
    from ..transforms.step import Step

    origin = flow.origin._replace(stage="validate")
    result = records | "RowRules" >> Step(rules, contract=run.contract, origin=origin)
    flow.facts.append(result.tallies)
    flow.dead("RowRules", result.dead_letters)
    return result.records


def _count_repaired(records: Any, flow: Flow, output: str = "") -> None:
    from ..transforms.repair import CountRepaired

    flow.facts.append(records | f"CountRepaired{output}" >> CountRepaired(output))


def _measure(records: Any, gate: Gate, run: Run, flow: Flow) -> None:
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


def _deduplicated(records: Any, run: Run, flow: Flow) -> Any:
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
    records: Any, horizon: Horizon, going: GoesOn, run: Run, flow: Flow
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


def _stepped(records: Any, step: RecordStep, i: int, run: Run, flow: Flow, of: str = "") -> Any:
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


def _write(records: Any, run: Run, flow: Flow) -> None:
    if run.derived:
        records = records | "DropDerived" >> beam.Map(_without, run.derived).with_output_types(
            pa.RecordBatch
        )
    # Tables keep where a row came from, or need it for what they refuse; files hold neither.
    tables = any(output.tables for output in run.outputs if output.name == RECORDS)
    flow.stage(records, "StageRecords", RECORDS, keep_identity=tables)


def _without(batch: pa.RecordBatch, columns: tuple[str, ...]) -> pa.RecordBatch:
    return batch.drop_columns(list(columns))


def _uncounted(records: Any, run: Run, replay: Replaying, flow: Flow) -> Any:
    """Records of a replay without those that aggregates hold already: that a destination refused
    them did not keep them out of these."""
    from ..transforms.replay.reached import COUNTED, SplitReached
    from ..transforms.tallies import TALLIES

    names = [spec.name for spec in run.aggregates]
    split = records | "SplitCounted" >> SplitReached(replay.letters, COUNTED, names)
    flow.facts.append(split[TALLIES])
    return split.records


def _aggregate(records: Any, spec: AggregateSpec, run: Run, flow: Flow) -> None:
    aggregated = records | f"Aggregate_{spec.name}" >> Aggregate(
        spec, shards=run.job.shards or SHARDS, contribution=str(run.token)
    )
    flow.facts.append(aggregated.tallies)
    if not run.replay:  # which corrects results when it commits
        flow.stage(aggregated.visible, f"StageVisible_{spec.name}", spec.name)
    flow.stage(aggregated.states, f"StageStates_{spec.name}", spec.name, part="states")


def _accumulate(records: Any, spec: AggregateSpec, going: GoesOn, run: Run, flow: Flow) -> None:
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
