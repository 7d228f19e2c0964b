"""Streams as a job's input: which they are, and what of them is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..transforms.carry import Carry, SourceState
from ..transforms.plan import Interval
from .incremental import Planned
from .job import Job, Places

if TYPE_CHECKING:
    import apache_beam as beam

    from ..transforms.dead_letters import Origin
    from ..transforms.read.kafka.bounds import TopicState
    from ..transforms.read.kafka.inputs import KafkaInput
    from ..transforms.read.streams.reading import DecoderOf, Decodes
    from ..transforms.stage_result import StageResult
    from .graph import Run

SCHEMES = ("kafka",)


def is_stream(job: Job, places: Places) -> bool:
    """Whether a job reads a stream.

    Raises:
        JobError: it reads files too, or several streams.
    """
    streams = [uri for uri in job.input if uri.partition("://")[0] in SCHEMES]
    if streams and len(job.input) > 1:
        said = f"{streams[0]} is a stream: give it a job of its own"
        raise places.error(("input",), said)
    return bool(streams)


def topic_of(job: Job, places: Places) -> KafkaTopic:
    """The topic that a job reads.

    Raises:
        JobError: the URI cannot be used, or what it needs is not installed.
    """
    from ..transforms.read.errors import SourceError

    try:
        from ..transforms.read.kafka.inputs import parse_input

        return KafkaTopic(parse_input(job.input[0]), places)
    except ImportError as error:
        said = f"kafka: needs {error.name}; install it with: pip install 'millstream[kafka]'"
        raise places.error(("input",), said) from None
    except SourceError as error:
        raise places.error(("input",), str(error)) from None


@dataclass(frozen=True)
class KafkaTopic:
    """A topic, and which of its offsets have come since the last run."""

    input: KafkaInput
    places: Places

    def plan(self, carry: Carry) -> Planned:
        """From where each partition stands, or begins, to where it ends now.

        Raises:
            JobError: it cannot be gone on from there.
            Unavailable: no broker answers.
        """
        from ..transforms.read.errors import SourceError
        from ..transforms.read.kafka.bounds import ends, topic_state

        try:
            state = topic_state(self.input)
            self._check_topic(carry, state)
            begins = self._begins(carry, state)
            stops = ends(self.input, state)
        except SourceError as error:
            raise self.places.error(("input",), str(error)) from None
        intervals = tuple(
            Interval(source, begin, max(begin, stops[partition]))
            for partition, (source, begin) in begins.items()
        )
        return Planned(
            intervals=intervals,
            states={part.source: SourceState(next=part.start) for part in intervals},
            topics={self.input.topic: state.topic_id},
            read=_Intervals(self.input, state.topic_id),
        )

    def _check_topic(self, carry: Carry, state: TopicState) -> None:
        known = carry.topics.get(self.input.topic)
        if known is not None and known != state.topic_id:
            said = f"the topic {self.input.topic} has been deleted and made again since the last "
            said += "run: its offsets mean other messages now. Give the job another state folder"
            raise self.places.error(("input",), said)

    def _begins(self, carry: Carry, state: TopicState) -> dict[int, tuple[str, int]]:
        from ..transforms.read.kafka.bounds import starts
        from ..transforms.read.kafka.inputs import source_name

        known = carry.topics.get(self.input.topic) is not None
        first = {} if known else starts(self.input, state)
        begins = {}
        for partition, (low, high) in sorted(state.partitions.items()):
            source = source_name(self.input.topic, partition)
            held = carry.sources.get(source)
            # A partition that has been added since the last run is read from its first message.
            begin = held.next if held else first.get(partition, low)
            if held and not low <= begin <= high:
                raise self.places.error(("input",), _gap(source, begin, low, high))
            begins[partition] = source, begin
        return begins


def _gap(source: str, begin: int, low: int, high: int) -> str:
    if begin > high:
        return f"{source} ends at offset {high}, before {begin}, up to which it has been read"
    return (
        f"{source} begins at offset {low}, and has been read to {begin}: {low - begin} offsets are "
        "gone, by the topic's retention. To go on from what is left, give the job another state "
        "folder and start=earliest"
    )


@dataclass(frozen=True)
class _Intervals:
    """Reads planned intervals of a topic, when a run's pipeline is built."""

    input: KafkaInput
    topic_id: str

    def __call__(
        self, pipeline: beam.Pipeline, run: Run, origin: Origin
    ) -> tuple[StageResult, Any]:
        from ..transforms.read.kafka.stream import KafkaStream
        from ..transforms.read.streams.bounded import ReadIntervals

        assert run.goes_on is not None
        if endless := run.goes_on.endless:
            from ..transforms.read.streams.unbounded import ReadStream

            read_on = ReadStream(
                KafkaStream(self.input, self.topic_id),
                decodes(run, origin, self._decoder(run)),
                run.goes_on.carry.sources,
                parts=endless.parts,
                pace=endless.pace,
            )
            return pipeline | "Read" >> read_on
        read = ReadIntervals(
            KafkaStream(self.input, self.topic_id),
            run.plan.intervals,
            decodes(run, origin, self._decoder(run)),
            run.goes_on.carry.sources,
            workers=run.goes_on.carry.shards,
        )
        return pipeline | "Read" >> read

    def _decoder(self, run: Run) -> DecoderOf | None:
        if self.input.format == "json":
            return None
        from ..transforms.read.kafka.avro_messages import AvroMessages

        job = run.job
        return AvroMessages(self.input, run.contract, job.unknown_fields, job.retry_seconds)


def decodes(run: Run, origin: Origin, decoder: DecoderOf | None) -> Decodes:
    """How payloads become records of a run."""
    from ..transforms.read.streams.reading import Decodes

    going = run.goes_on
    assert going is not None
    return Decodes(
        contract=run.contract,
        origin=origin,
        payload=run.keeps_payload,
        unknown_fields=run.job.unknown_fields,
        disorder_us=going.commits.disorder_us if run.aggregates else None,
        decoder=decoder,
    )


def refuse_without_end(job: Job, streaming: bool, places: Places) -> None:
    """See that a job that reads a stream says how far.

    Raises:
        JobError: it does not.
    """
    if not job.until and not streaming:
        said = "a stream has no end: say until: now, to go on from where the last run stopped, or "
        said += "--streaming, to go on for ever"
        raise places.error(("input",), said)
