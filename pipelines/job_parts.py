"""The parts of a job, each made of what its file says: contract, input, steps, aggregates.

Nothing here needs Beam: helper processes start before it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..schemas.contract import Contract, ContractError
from ..transforms import storage
from ..transforms.plan import InputFile
from ..transforms.storage import StorageError
from .drift import contract_path
from .job import Format, Job, JobError, Places, read_text

if TYPE_CHECKING:
    from ..schemas.aggregates.open_windows import Trigger
    from ..schemas.aggregates.spec import AggregateSpec
    from ..transforms.intervals.keys import Horizon
    from .steps import Steps


_Said = TypeVar("_Said")


def job_contract(job: Job) -> Contract:
    """The contract that a job names.

    Raises:
        JobError: it cannot be loaded.
    """
    from ..schemas.odcs import load_contract, parse_contract

    how = {"schema": job.schema, "event_time": job.event_time}
    return of_contract(job, load_contract, parse_contract, **how)


def of_contract(
    job: Job, load: Callable[..., _Said], parse: Callable[..., _Said], *given: Any, **how: Any
) -> _Said:
    """Something that the document of a job's contract says, wherever it lies.

    Args:
        load: takes the path of a local document, and what else is given.
        parse: takes the text of one and where it comes from, and what else is given.

    Raises:
        JobError: the document cannot be read, or used.
    """
    path = contract_path(job)
    try:
        if not storage.is_remote(path):
            return load(path, *given, **how)
        return parse(read_text(path, "the contract"), path, *given, **how)
    except ContractError as error:
        raise JobError(str(error)) from None


def job_steps(job: Job, contract: Contract, places: Places) -> Steps:
    """The opened steps of a job, and what they make of its records.

    Raises:
        JobError: a step cannot work, or leaves out what is needed later.
    """
    from .steps import open_steps

    if job.deduplicate != "no" and not contract.primary_key:
        raise places.error(("deduplicate",), f"the contract {contract.name} has no primary key")
    if job.deduplicate == "horizon" and not contract.event_time:
        said = f"the contract {contract.name} has no event time, by which a horizon is measured"
        raise places.error(("deduplicate",), said)
    if job.duplicates and job.deduplicate == "no":
        raise places.error(("duplicates",), "nothing is a duplicate without deduplicate: run")
    if job.deduplicate == "committed" and not (job.output or "").startswith("parquet:"):
        said = "committed keys are read from Parquet: the job needs output: parquet:DIR"
        raise places.error(("deduplicate",), said)
    steps = open_steps(job, contract, places)
    if job.aggregates and contract.event_time and not steps.contract.event_time:
        said = f"the steps do not leave {contract.event_time}, the event time, as a time stamp"
        raise places.error(("steps",), f"{said}, and the aggregates need it")
    return steps


_ENDINGS: dict[str, Format] = {"csv": "csv", "tsv": "csv", "avro": "avro", "parquet": "parquet"}


def input_format(job: Job, inputs: tuple[InputFile, ...], places: Places) -> Format:
    """The format of the input: the job's, or what the names of its files say.

    Raises:
        JobError: they say several things.
    """
    if job.format != "auto":
        return job.format
    found: dict[Format, str] = {}
    for source in [file.source for file in inputs] or job.input:  # of files that are still to come
        name = source.lower()
        for ending in (".gz", ".bz2", ".zst", ".zstd", ".xz"):
            name = name.removesuffix(ending)
        found.setdefault(_ENDINGS.get(name.rpartition(".")[2], "jsonl"), source)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        said = f"{first} looks like {one}, {second} like {other}: read each with a job of its own"
        raise places.error(("input",), f"{said}, or say format")
    return next(iter(found)) if found else "jsonl"


def job_aggregates(job: Job, contract: Contract, places: Places) -> list[AggregateSpec]:
    """The aggregates of a job, over records of ``contract``.

    Raises:
        JobError: one cannot be computed as it is written.
    """
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.spec import aggregate_spec

    specs = []
    for i, aggregate in enumerate(job.aggregates):
        try:
            specs.append(
                aggregate_spec(
                    aggregate.name,
                    window=aggregate.window,
                    by=aggregate.by,
                    metrics=aggregate.metrics,
                    contract=contract,
                )
            )
        except AggregateError as error:
            raise places.error(("aggregates", i), str(error)) from None
    return specs


def job_triggers(
    job: Job, aggregates: Sequence[AggregateSpec], going_on: bool, places: Places
) -> dict[str, Trigger]:
    """When each aggregate's windows are given, in a job that goes on.

    Raises:
        JobError: that cannot be had.
    """
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.open_windows import trigger

    found = {}
    for i, (aggregate, spec) in enumerate(zip(job.aggregates, aggregates, strict=True)):
        asked = (aggregate.allowed_lateness, aggregate.early, aggregate.panes == "discarding")
        if not going_on and any(asked):
            said = "allowed_lateness, early and panes are for jobs that go on: say until: now"
            raise places.error(("aggregates", i), said)
        try:
            found[spec.name] = trigger(spec, *asked)
        except AggregateError as error:
            raise places.error(("aggregates", i), str(error)) from None
    return found


def job_duration(job: Job, key: str, places: Places) -> int:
    """Microseconds of a key that is a duration, or ``0s``.

    Raises:
        JobError: it is none.
    """
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.windows import parse_duration

    text = getattr(job, key)
    if text in ("0", "0s"):
        return 0
    try:
        return parse_duration(text, key)
    except AggregateError as error:
        raise places.error((key,), str(error).removeprefix(f"{key}: ")) from None


def job_horizon(job: Job, contract: Contract, places: Places) -> Horizon | None:
    """Which records of a job are duplicates, if it goes by a horizon.

    Raises:
        JobError: it is no duration, or keys cannot be made of the contract's.
    """
    if job.deduplicate != "horizon" or contract.event_time is None:
        return None
    import pyarrow as pa

    from ..schemas.arrow import batch_schema
    from ..schemas.keys import KeyColumnError, hash_keys
    from ..transforms.intervals.keys import Horizon

    us = job_duration(job, "horizon", places)
    if us < 1:
        raise places.error(("horizon",), f"expected more than nothing, got {job.horizon!r}")
    try:
        nothing = pa.RecordBatch.from_pylist([], batch_schema(contract))
        hashes = hash_keys(nothing, contract.primary_key)
    except KeyColumnError as error:
        raise places.error(("deduplicate",), str(error)) from None
    return Horizon(contract.primary_key, hashes.kinds, contract.event_time, us)


def job_inputs(job: Job, places: Places) -> list[InputFile]:
    """The files that a job reads.

    Raises:
        JobError: a pattern matches none, or they cannot be looked at.
    """
    from ..transforms.read.files import NoFiles, match_files

    try:
        return match_files(job.input, job.allow_no_input)
    except NoFiles as error:
        raise places.error(("input",), f"{error} (--allow_no_input lets that pass)") from None
    except StorageError as error:
        raise places.error(("input",), str(error)) from None
