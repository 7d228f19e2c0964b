"""Reading in a run's pipeline: a stream, of whatever kind it is; what files say of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import apache_beam as beam

    from ..schemas.contract import Contract
    from ..transforms.dead_letters import Origin
    from ..transforms.read.records import RecordReader
    from ..transforms.read.streams.reading import DecoderOf, Decodes
    from ..transforms.read.streams.source import StreamSource
    from ..transforms.stage_result import StageResult
    from .job import Job
    from .run import Run

SELF_DESCRIBED = ("csv", "avro")
"""Formats whose records can be read only by what their file says."""


def read_stream(
    pipeline: beam.Pipeline, run: Run, stream: StreamSource, decodes: Decodes
) -> tuple[StageResult, Any]:
    """Put the reading of a stream into a pipeline: to an end, or without one."""
    from ..transforms.read.streams.bounded import ReadIntervals
    from .gates import guarded

    assert run.goes_on is not None
    carry = run.goes_on.carry
    if endless := run.goes_on.endless:
        from ..transforms.read.streams.unbounded import ReadStream

        read_on = ReadStream(
            guarded(stream, run.job),
            decodes,
            carry.sources,
            parts=endless.parts,
            pace=endless.pace,
            committed=run.goes_on.commits.chain.carry,
        )
        return pipeline | "Read" >> read_on
    read = ReadIntervals(stream, run.plan.intervals, decodes, carry.sources, workers=carry.shards)
    return pipeline | "Read" >> read


def decodes(run: Run, origin: Origin, decoder: DecoderOf | None = None) -> Decodes:
    """How payloads become records of a run."""
    from ..transforms.read.streams.reading import Decodes

    going = run.goes_on
    assert going is not None
    return Decodes(
        contract=run.contract,
        origin=origin,
        payload=run.keeps_payload,
        unknown_fields=run.job.unknown_mode,
        disorder_us=going.commits.disorder_us if run.needs_watermarks else None,
        decoder=decoder,
        repair=run.repair,
    )


def file_reader(job: Job, contract: Contract) -> RecordReader:
    """What reads files of a job whose format is of :data:`SELF_DESCRIBED`."""
    if job.format == "csv":
        from ..transforms.read.csv import CsvReader

        return CsvReader(contract, job.csv, compression=job.compression)
    from ..transforms.read.avro import AvroReader

    return AvroReader(contract)
