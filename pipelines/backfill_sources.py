"""Where a backfill's records come from: the output of records, or the input files read anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from . import runners
from .job import Places
from .job_parts import input_format, job_inputs, job_steps
from .logs import WARNING, event, say
from .names import RECORDS

if TYPE_CHECKING:
    from ..schemas.aggregates.spec import AggregateSpec
    from ..transforms.backfill.chunks import Chunk
    from ..transforms.backfill.history import History
    from ..transforms.backfill.parts import Part
    from ..transforms.backfill.spread import Processes
    from ..transforms.backfill.units import Unit
    from ..transforms.plan import InputFile
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import Output
    from .run import Run
    from .steps import Steps


class Source(Protocol):
    """Records of the past."""

    @property
    def place(self) -> str:
        """Where they lie, as the ledger says it."""
        ...

    @property
    def uris(self) -> tuple[str, ...]:
        """Outputs that are read."""
        ...

    @property
    def goes_on(self) -> bool:
        """Whether parts can be asked for that were not known at first."""
        ...

    def begin(self, parts: Sequence[Part], processes: Processes, rate: float | None) -> None:
        """Read what has to be read before units can be done.

        Args:
            rate: rows a second that each process may read.
        """
        ...

    def work(self, rate: float | None) -> Callable[[Part], Unit]:
        """What does a unit, unless it is done and its records are the same; can be pickled."""
        ...

    def version(self) -> int | None:
        """A number that changes with what is there; ``None`` where that cannot be told at once."""
        ...

    def is_unchanged(self, done: Sequence[Unit], version: int | None) -> bool:
        """Whether there is now what units that are done were made of.

        Args:
            version: from before they were.
        """
        ...


@dataclass(frozen=True)
class FromOutput:
    """The records that the job has written."""

    history: History
    specs: tuple[AggregateSpec, ...]
    folder: str
    patience: float
    goes_on: bool = True

    @property
    def place(self) -> str:
        return self.history.place

    @property
    def uris(self) -> tuple[str, ...]:
        return (self.history.output.uri,)

    def begin(self, parts: Sequence[Part], processes: Processes, rate: float | None) -> None:
        return

    def work(self, rate: float | None) -> Callable[[Part], Unit]:
        from ..transforms.backfill.units import Work

        return Work(self.folder, self.history, self.specs, rate, self.patience)

    def version(self) -> int | None:
        return self.history.version()

    def is_unchanged(self, done: Sequence[Unit], version: int | None) -> bool:
        if version is not None and version == self.version():
            return True
        return all(self.history.seen(unit.part) == unit.seen for unit in done)


def from_output(
    run: Run, steps: Steps, specs: tuple[AggregateSpec, ...], folder: str, places: Places
) -> FromOutput:
    """The output of records, as history.

    Raises:
        JobError: the job has none.
    """
    import pyarrow as pa

    from ..schemas.arrow import HIDDEN
    from ..transforms.backfill.history import History
    from ..transforms.backfill.units import needed_columns
    from .steps import derive

    output = next((output for output in run.outputs if output.name == RECORDS), None)
    if output is None:
        said = "the job has written no records that could be read back: say --source input"
        raise places.error_of_all(said)
    _warn_of_few(output)
    schema = pa.schema([field for field in steps.schema if field.name not in HIDDEN])
    derived = derive(specs, schema)
    columns = schema.names if derived else needed_columns(specs)
    output = replace(output, tables={})
    history = History(output, schema, specs[0].event_time, tuple(columns), derived)
    return FromOutput(history, specs, folder, run.job.retry_seconds)


def _warn_of_few(output: Output) -> None:
    """Tell where windows held records that the output does not."""
    from ..transforms.write.tables import TableDestination

    to = output.destination
    if isinstance(to, TableDestination) and to.options.mode != "append":
        said = f"mode={to.options.mode}: {to.place} holds no record that another has taken the "
        said += "place of, and what is made anew is without them; --source input reads files anew"
        say(said, WARNING)


class FromInput:
    """The job's input files, through contract, rules and steps.

    Args:
        known: the files that runs had read when those to read were chosen.
        windows_close: of a job that goes on: what its runs read later is in none of the parts'.
    """

    goes_on = False
    uris: tuple[str, ...] = ()

    def __init__(
        self,
        run: Run,
        specs: tuple[AggregateSpec, ...],
        folder: str,
        flags: list[str],
        known: set[InputFile],
        *,
        windows_close: bool,
    ) -> None:
        from ..transforms.backfill.chunks import chunks_of, digest_of

        self.place = ", ".join(run.job.input)
        self._run, self._specs, self._folder, self._flags = run, specs, folder, flags
        self._known, self._windows_close = known, windows_close
        whole = run.job.deduplicate != "no"
        self._chunks = {digest_of(c): c for c in chunks_of(run.plan.inputs, whole=whole)}

    def begin(self, parts: Sequence[Part], processes: Processes, rate: float | None) -> None:
        from ..transforms.backfill.chunks import Chunks

        known = Chunks(self._folder)
        todo = [digest for digest in self._chunks if known.find(digest) is None]
        starts = tuple(part.start for part in parts)
        read = _ReadChunk(
            self._run, self._specs, self._folder, self._flags, starts, parts[-1].end, rate
        )
        work = [(digest, self._chunks[digest]) for digest in todo]
        here = runners.is_single_process(self._flags)
        for n, _ in enumerate(processes.each(read, work) if here else map(read, work), 1):
            event(f"{n} of {len(todo)} chunks of the input read")

    def work(self, rate: float | None) -> Callable[[Part], Unit]:
        from ..transforms.backfill.chunks import ChunkWork

        return ChunkWork(self._folder, self._specs, tuple(self._read()))

    def version(self) -> int | None:
        return None

    def is_unchanged(self, done: Sequence[Unit], version: int | None) -> bool:
        return self._windows_close or _read_by_runs(self._run.store) == self._known

    def _read(self) -> Iterator[Chunk]:
        from ..transforms.backfill.chunks import Chunks

        known = Chunks(self._folder)
        for digest in self._chunks:
            chunk = known.find(digest)
            assert chunk is not None, f"chunk {digest} has not been read"
            yield chunk


class ReadFailed(RuntimeError):
    """A pipeline that read input has failed. The message says why."""


@dataclass(frozen=True)
class _ReadChunk:
    """Reads a chunk of files by a pipeline of its own. Can be pickled."""

    run: Run
    specs: tuple[AggregateSpec, ...]
    folder: str
    flags: list[str]
    starts: tuple[int, ...]
    end: int
    rate: float | None

    def __call__(self, chunk: tuple[str, tuple[InputFile, ...]]) -> None:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        from ..transforms import storage
        from ..transforms.backfill.chunks import WriteChunk
        from ..transforms.runs import RunStore
        from .graph import build_records

        runners.quiet_beam()
        digest, files = chunk
        plan = msgspec.structs.replace(self.run.plan, inputs=files)
        token = plan.token(f"backfill-{digest}")
        # What waits while keys are compared lies with the rest that gc knows by this folder.
        run = replace(self.run, plan=plan, token=token, store=RunStore(self.folder))
        write = WriteChunk(self.folder, digest, self.specs, self.starts, self.end, self.rate)
        try:
            with beam.Pipeline(options=PipelineOptions(self.flags)) as pipeline:
                _ = build_records(pipeline, run) | "WriteChunk" >> write
        except Exception as error:
            if runners.TRACEBACK in os.environ:
                raise
            raise ReadFailed(runners.root_message(error)) from None
        finally:
            if run.job.deduplicate != "no":
                storage.delete_folder(run.spill)
                storage.delete_folder(os.path.dirname(run.spill))


def from_input(
    run: Run,
    specs: tuple[AggregateSpec, ...],
    folder: str,
    flags: list[str],
    places: Places,
    *,
    windows_close: bool,
) -> FromInput:
    """The input files that runs of the job have read, as history.

    Args:
        windows_close: see :class:`FromInput`.

    Raises:
        JobError: there are none, or they cannot be read anew.
    """
    from .steps import derive

    job = run.job
    if job.stream is not None:
        raise places.error(("input",), "a stream is not read anew: say --source output")
    if job.deduplicate == "horizon":
        said = "which records are duplicates within a horizon is not found out anew: say --source "
        raise places.error(("deduplicate",), said + "output")
    files = tuple(job_inputs(job, places))
    known = _read_by_runs(run.store)
    inputs = _read_before(files, known, places)
    _warn_of_quarantine(run.store)
    deduplicate = "no" if job.deduplicate == "no" else "run"  # what is committed is read itself
    job = msgspec.structs.replace(
        job, late=None, format=input_format(job, inputs, places), deduplicate=deduplicate
    )
    steps = job_steps(job, run.contract, places)
    derived = derive(specs, steps.schema)
    plan = msgspec.structs.replace(run.plan, inputs=inputs)
    run = replace(
        run, job=job, plan=plan, steps=(*steps.steps, derived) if derived else steps.steps,
        outputs=(), gate=None, watch=None,
    )  # fmt: skip
    return FromInput(run, specs, folder, flags, known, windows_close=windows_close)


def _warn_of_quarantine(store: RunStore) -> None:
    """Tell that a gate's verdict is not found out anew."""
    from ..transforms.quality.gate import quarantine_name

    records = [record.rows.get(quarantine_name(RECORDS), 0) for record in store.committed()]
    if rows := sum(records):
        said = f"{rows:,} records are in quarantine, and in the input: what is made anew holds them"
        say(f"{said}; --source output is without", WARNING)


def _read_by_runs(store: RunStore) -> set[InputFile]:
    """The files that runs have committed."""
    from ..transforms.intervals.chain import Chain
    from ..transforms.intervals.seen import read_seen
    from ..transforms.plan import Token

    carry = Chain(store).carry()
    known = set(read_seen(carry.seen)) if carry else set()
    for record in store.committed():
        known.update(store.inputs(Token(record.run_id, record.plan_digest)))
    return known


def _read_before(
    files: Sequence[InputFile], known: set[InputFile], places: Places
) -> tuple[InputFile, ...]:
    """Those of the files that are history."""
    found = tuple(file for file in files if file in known)
    if not found:
        raise places.error(("input",), "no run of the job has read any of these files")
    if left := len(files) - len(found):
        say(f"{left:,} files that no run has read as they are now are left out", WARNING)
    if gone := len(known.difference(found)):
        said = "files that runs have read are not among the input, or not as they were: what is "
        say(f"{gone:,} {said}made anew is without their records", WARNING)
    return found
