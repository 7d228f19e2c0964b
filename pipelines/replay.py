"""Replays: dead letters through the job as it is now, to where they would have gone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..transforms import storage
from ..transforms.plan import REPLAY, PlanError
from . import exit_codes, job_secrets, logs, runners
from .execute import execute, settled
from .incremental import check_keys, check_windows, commits_of
from .job import Job, JobError, Places, check_going_on
from .job_parts import (
    input_format,
    job_aggregates,
    job_contract,
    job_duration,
    job_horizon,
    job_steps,
    job_triggers,
)
from .letter_choice import LetterChoice
from .logs import say
from .names import RECORDS
from .prepare import prepare

if TYPE_CHECKING:
    import apache_beam as beam

    from ..schemas.aggregates.open_windows import Trigger
    from ..transforms.dead_letters import Origin
    from ..transforms.intervals.windows import OpenAggregate
    from ..transforms.letters import Letters, Where
    from ..transforms.lock import RunLock
    from ..transforms.read.streams.reading import DecoderOf
    from ..transforms.replay.decoders import Decoders
    from ..transforms.replay.frozen import FrozenLetters
    from ..transforms.runs import RunStore
    from ..transforms.stage_result import StageResult
    from ..transforms.write.destination import Output
    from .run import Run


@dataclass(frozen=True)
class Replaying:
    """What a run replays. ``taken`` are files of keys that the output holds already; ``late`` says
    that the letters are records that came too late for an aggregate."""

    letters: FrozenLetters
    decoders: Decoders
    aggregates: tuple[OpenAggregate, ...]
    taken: tuple[str, ...] = ()
    late: bool = False

    def read(
        self, pipeline: beam.Pipeline, run: Run, origin: Origin, late_for: str = ""
    ) -> StageResult:
        """Put the reading of letters into a pipeline; of late ones, of those for an aggregate."""
        from ..transforms.replay.reading import ReadLetters

        read = ReadLetters(
            self.letters,
            self.decoders,
            origin,
            payload=run.keeps_payload,
            late_for=late_for,
            keys=run.job.encrypt_dead_letters or "",
            watermark=bool(run.job.late and run.job.aggregates),
        )
        return pipeline | f"Read{late_for}" >> read

    def attempts(self, letters: Any, stage: str, keys: str) -> tuple[Any, Any]:
        """Letters of a stage as further attempts, and which have failed again.

        Args:
            keys: the environment variable with the keys of letters that are encrypted.
        """
        import apache_beam as beam
        import pyarrow as pa

        from ..transforms.replay.reading import FAILED, NextAttempt

        numbered = beam.ParDo(NextAttempt(self.letters, keys)).with_outputs(FAILED, main="letters")
        outputs = letters | f"NextAttempt{stage}" >> numbered
        outputs["letters"].element_type = pa.RecordBatch
        return outputs["letters"], outputs[FAILED]

    def still_late(self, letters: Any, stage: str, aggregate: str) -> tuple[Any, Any]:
        """Letters of a stage as late ones of an aggregate, and how many."""
        import apache_beam as beam
        import pyarrow as pa

        from ..transforms.replay.reading import StillLate
        from ..transforms.tallies import TALLIES

        late = beam.ParDo(StillLate(aggregate)).with_outputs(TALLIES, main="letters")
        outputs = letters | f"StillLate{stage}" >> late
        outputs["letters"].element_type = pa.RecordBatch
        return outputs["letters"], outputs[TALLIES]

    def commit(self, run: Run) -> beam.PTransform:
        """The end of the graph."""
        from ..transforms.replay.commit import CommitReplay, Replay
        from ..transforms.replay.going_on import CommitReplayOn

        if going := run.goes_on:
            replay = Replay(self.letters)
            return CommitReplayOn(going.commits, run.token, going.carry, replay)
        return CommitReplay(
            run.store,
            run.token,
            run.outputs,
            run.ledger.uri,
            Replay(self.letters, self.aggregates),
            patience=run.job.retry_seconds,
        )


def replay(
    job: Job,
    places: Places,
    letters: Letters,
    where: Where,
    beam_flags: list[str],
    *,
    late: bool = False,
    dry_run: bool = False,
) -> int:
    """Replay the dead letters that are meant, and open; gives the exit code.

    Args:
        late: they are records that were late for an aggregate: these alone take them.

    Raises:
        JobError: the job cannot be run as it is written.
    """
    started = time.monotonic()
    flags = runners.chosen(runners.bounded(beam_flags))
    flags = job_secrets.for_workers(job, runners.ready(flags, False, job.name), places)
    if beam_flags:
        runners.refuse_unknown(flags, [])
    if runners.is_single_process(flags):
        runners.keep_freed_memory()
        job = msgspec.structs.replace(job, shards=job.shards or 1)
    prepared = _prepared(job, places)

    def work() -> int:
        with prepared.run.store.lock("replay", wait_seconds=job.wait) as lock:
            complete_others(prepared.run.store, lock, job)
            choice = LetterChoice(letters, where, prepared.run)
            return _replay(prepared, choice, flags, started, late=late, dry_run=dry_run)

    try:
        return settled(work)
    except PlanError as error:
        raise JobError(str(error)) from None


class _Prepared(NamedTuple):
    """A job made ready, without input. ``triggers`` are those of one that goes on."""

    run: Run
    places: Places
    triggers: dict[str, Trigger] | None


def _prepared(job: Job, places: Places) -> _Prepared:
    contract = job_contract(job)
    goes_on = bool(job.until or job.late or job.horizon or job.stream)
    check_going_on(job, goes_on and not job.until, places)
    job = msgspec.structs.replace(job, format=input_format(job, (), places))
    steps = job_steps(job, contract, places)
    aggregates = tuple(job_aggregates(job, steps.contract, places))
    triggers = job_triggers(job, aggregates, goes_on, places) if goes_on else None
    run = prepare(job, contract, steps, aggregates, (), places, triggers)
    outputs = tuple(_correctable(run, places, triggers))
    return _Prepared(replace(run, outputs=outputs), places, triggers)


def _correctable(
    run: Run, places: Places, triggers: Mapping[str, Trigger] | None
) -> Iterator[Output]:
    """The outputs, those of aggregates with the columns of corrected results.

    Raises:
        JobError: the results of one cannot be corrected.
    """
    from ..schemas.aggregates.open_windows import Trigger
    from ..transforms.replay.corrections import corrected_output, corrected_schema
    from ..transforms.write.tables import TableDestination

    specs = {spec.name: (i, spec) for i, spec in enumerate(run.aggregates)}
    for output in run.outputs:
        if output.name not in specs or not isinstance(output.destination, TableDestination):
            yield output
            continue
        i, spec = specs[output.name]
        if output.destination.options.mode == "replace":
            said = (
                "mode=replace holds the rows of one run alone, and cannot be corrected by another"
            )
            raise places.error(("aggregates", i, "output"), said)
        trigger = triggers[spec.name] if triggers else Trigger()
        columns = corrected_schema(spec, trigger, output)
        yield corrected_output(output, columns)


def complete_others(store: RunStore, lock: RunLock, job: Job) -> bool:
    """Complete what other runs have prepared: a correction is made of what is committed. Gives
    whether there was any.

    After that nobody needs the letters of replays that did not end.
    """
    from ..transforms.intervals.chain import Chain
    from ..transforms.write.commit import complete

    before = store.runs()
    Chain(store).head(check=lock.check, patience=job.retry_seconds)
    for run_id, unfinished in store.runs().items():
        if unfinished and (prepared := store.standing(run_id)):
            say(f"completing what run {run_id} had prepared")
            complete(store, prepared, check=lock.check, patience=job.retry_seconds)
    left = storage.list_files(_letters_folder(store), deep=True)
    for folder in {path.rpartition("/")[0] for path in left}:
        storage.delete_folder(folder)
    return any(before.values())


def _letters_folder(store: RunStore) -> str:
    return storage.join(store.home, "_millstream", "replays")


def _replay(
    prepared: _Prepared,
    choice: LetterChoice,
    flags: list[str],
    started: float,
    *,
    late: bool,
    dry_run: bool,
) -> int:
    from ..transforms.replay.decoders import Decoders
    from ..transforms.replay.frozen import freeze

    run = prepared.run
    folder = storage.join(_letters_folder(run.store), f"{time.time_ns():020d}")
    frozen = freeze(choice.batches(), folder)
    choice.say_left()
    if not frozen.rows or dry_run:
        storage.delete_folder(folder)
        verb = "would replay" if dry_run else "nothing to replay:"
        print(f"{verb} {frozen.rows:,} dead letters")
        return exit_codes.OK
    settings = {**run.plan.settings, REPLAY: frozen.digest}
    run = replace(run, plan=msgspec.structs.replace(run.plan, inputs=(), settings=settings))
    run = _going_on(run, prepared) if prepared.triggers else _begun(run)
    aggregates = _open_aggregates(run, prepared.triggers or {})
    decoders = Decoders(
        run.contract, run.job.unknown_fields, _decoder(run, prepared.places), run.repair
    )
    taken = () if run.goes_on else _taken(run, prepared.places)
    logs.of_run(run.token.run_id)
    say(f"replaying {frozen.rows:,} dead letters")
    try:
        replaying = Replaying(frozen, decoders, aggregates, taken, late)
        return execute(replace(run, replay=replaying), flags, started)
    finally:
        if run.store.standing(run.token.run_id) is None:  # no restart needs them
            storage.delete_folder(folder)


def _decoder(run: Run, places: Places) -> DecoderOf | None:
    """The decoding of letters that say nothing of how they are read, if it is not JSON."""
    uri = run.job.stream or ""
    match uri.partition(":")[0]:
        case "kafka":
            from ..transforms.read.kafka.inputs import parse_input
            from .streams import kafka_decoder

            return kafka_decoder(parse_input(uri), run)
        case "pubsub":
            from ..transforms.read.pubsub.inputs import parse_input as parse_subscription
            from .cloud_streams import bare_decoder

            return bare_decoder(parse_subscription(uri), run, places)
        case "kinesis":
            from ..transforms.read.kinesis.inputs import parse_input as parse_shards
            from .cloud_streams import bare_decoder

            return bare_decoder(parse_shards(uri), run, places)
    return None


def _open_aggregates(run: Run, triggers: Mapping[str, Trigger]) -> tuple[OpenAggregate, ...]:
    from ..schemas.aggregates.open_windows import Trigger
    from ..transforms.intervals.windows import OpenAggregate

    return tuple(OpenAggregate(spec, triggers.get(spec.name, Trigger())) for spec in run.aggregates)


def _begun(run: Run) -> Run:
    """A run beside others of its job."""
    token = run.plan.token(f"replay-{run.plan.digest[:16]}")
    run.store.begin(run.plan, token.run_id, reprocess=True)
    return replace(run, token=token)


def _going_on(run: Run, prepared: _Prepared) -> Run:
    """The next commit of a job that goes on.

    Raises:
        JobError: it has not begun.
    """
    from ..transforms.intervals.chain import Chain
    from .run import GoesOn

    assert prepared.triggers is not None
    job, places = run.job, prepared.places
    chain = Chain(run.store)
    head = chain.head(patience=job.retry_seconds)
    if head is None:
        raise places.error_of_all("the job has not made a commit yet, and so has no dead letters")
    carry = head.carry
    aggregates = _open_aggregates(run, prepared.triggers)
    horizon = job_horizon(job, run.contract, places)
    check_windows(carry, aggregates, places)
    check_keys(carry, horizon, places)
    plan = msgspec.structs.replace(run.plan, after=carry.token)
    token = chain.begin(plan, carry.sequence + 1)
    disorder_us = job_duration(job, "disorder", places)
    commits = commits_of(run, chain, aggregates, disorder_us, horizon)
    return replace(run, plan=plan, token=token, goes_on=GoesOn(commits, carry))


def _taken(run: Run, places: Places) -> tuple[str, ...]:
    """Files with the keys that the output of records holds, where they are to be compared."""
    import pyarrow.parquet as pq

    from ..schemas.arrow import batch_schema
    from ..transforms.stored import open_stored

    if run.job.deduplicate == "no":
        return ()
    output = next((output for output in run.outputs if output.name == RECORDS), None)
    if output is None:
        said = "the keys that were kept are in the output, and the job has none"
        raise places.error(("deduplicate",), said)
    schema = batch_schema(run.contract)
    columns = schema.empty_table().select(list(run.contract.primary_key)).schema
    stored = open_stored(output, "data", columns)
    for name in columns.names:
        if not stored.has(name):
            said = f"the keys that were kept cannot be compared: the output has no {name}, a field "
            said += "of the key; with deduplicate: no, records come back that repeat one"
            raise places.error(("deduplicate",), said)
    path = storage.join(run.spill, "taken.parquet")
    with (
        storage.named(path, "write"),
        storage.open_write(path) as file,
        pq.ParquetWriter(file, columns) as writer,
    ):
        for batch in stored.batches():
            writer.write_batch(batch)
    return (path,)
