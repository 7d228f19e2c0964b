"""Streams as a job's input: which they are, and what of them is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..transforms.carry import Carry, SourceState
from ..transforms.plan import Interval
from .job import Job, Places
from .reading import decodes, read_stream
from .sources import Planned, Source

if TYPE_CHECKING:
    import apache_beam as beam

    from ..transforms.dead_letters import Origin
    from ..transforms.read.generated.inputs import GeneratedInput
    from ..transforms.read.kafka.bounds import TopicState
    from ..transforms.read.kafka.inputs import KafkaInput
    from ..transforms.read.streams.reading import DecoderOf
    from ..transforms.stage_result import StageResult
    from .run import Run

EXTRAS = {"pubsub": "gcp", "kinesis": "s3"}
"""The extra of the package that a scheme needs, where it has another name."""


def stream_of(job: Job, streaming: bool, places: Places) -> Source:
    """The stream that a job reads.

    Raises:
        JobError: it reads something else too; or it does not say how far; or the URI cannot be
            used, or what it needs is not installed.
    """
    if len(job.input) > 1:
        raise places.error(("input",), f"{job.stream} is a stream: give it a job of its own")
    if not job.until and not streaming:
        said = "a stream has no end: say until: now, to go on from where the last run stopped, or "
        said += "--streaming, to go on for ever"
        raise places.error(("input",), said)
    from ..transforms.read.errors import SourceError

    uri = job.input[0]
    scheme = uri.partition("://")[0]
    try:
        if scheme == "generate":
            from ..transforms.read.generated.inputs import parse_input as parse_generated

            return Generated(parse_generated(uri), places, ends=bool(job.until))
        if scheme == "pubsub":
            from .cloud_streams import subscription_of

            return subscription_of(uri, job, places)
        if scheme == "kinesis":
            from .cloud_streams import shards_of

            return shards_of(uri, places)
        from ..transforms.read.kafka.inputs import parse_input

        return KafkaTopic(parse_input(uri), places)
    except ImportError as error:
        extra = EXTRAS.get(scheme, scheme)
        said = f"{scheme}: needs {error.name}; install it with: pip install 'millstream[{extra}]'"
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
        from ..transforms.read.kafka.stream import KafkaStream

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
            # What a partition that is new brings is judged by what has been closed.
            states={
                part.source: SourceState(next=part.start, floor=carry.watermark)
                for part in intervals
            },
            topics={self.input.topic: state.topic_id},
            read=_Intervals(self.input, state.topic_id),
            stream=KafkaStream(self.input, state.topic_id),
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

        stream = KafkaStream(self.input, self.topic_id)
        return read_stream(
            pipeline, run, stream, decodes(run, origin, kafka_decoder(self.input, run))
        )


def kafka_decoder(input: KafkaInput, run: Run) -> DecoderOf | None:
    """The decoding of a topic's messages, if they are not JSON."""
    if input.format == "json":
        return None
    from ..transforms.read.kafka.avro_messages import AvroMessages

    return AvroMessages(input, run.contract, run.job.unknown_mode, run.job.retry_seconds)


@dataclass(frozen=True)
class Generated:
    """Made-up records, and which have become due since the last run.

    Attributes:
        ends: whether it is read to an end.
    """

    input: GeneratedInput
    places: Places
    ends: bool

    def plan(self, carry: Carry) -> Planned:
        """From where each partition stands to what is due now.

        Raises:
            JobError: it has no end, or its records are other ones than those of the last run.
        """
        from ..transforms.read.generated import inputs, stream

        known = carry.topics.get(inputs.SCHEME)
        if known not in (None, self.input.identity):
            said = f"the options of {inputs.SCHEME}:// have changed since the last run, and with "
            said += "them all records: give the job another state folder"
            raise self.places.error(("input",), said)
        now = stream.now_us()
        began = now if (at := stream.began_us(carry.sources)) is None else at
        due = self.input.due(began, now)
        if self.ends and due == inputs.ENDLESS:
            said = f"{inputs.SCHEME}: rate=0 has no end: say count=… too, or a rate"
            raise self.places.error(("input",), said)
        intervals = []
        for partition in range(self.input.partitions):
            source = self.input.source_name(partition)
            begin = carry.sources.get(source, SourceState()).next
            intervals.append(Interval(source, begin, max(begin, self.input.due_of(partition, due))))
        state = SourceState(cursor=str(began))
        return Planned(
            intervals=tuple(intervals),
            states={part.source: state for part in intervals},
            topics={inputs.SCHEME: self.input.identity},
            read=_Generates(self.input, began),
        )


@dataclass(frozen=True)
class _Generates:
    """Makes up planned records, when a run's pipeline is built."""

    input: GeneratedInput
    began_us: int

    def __call__(
        self, pipeline: beam.Pipeline, run: Run, origin: Origin
    ) -> tuple[StageResult, Any]:
        from ..transforms.read.generated.samples import GeneratedLines
        from ..transforms.read.generated.stream import GeneratedStream

        # What no record can be made of is told now, and not by a worker.
        GeneratedLines(run.contract, self.input, self.began_us)
        stream = GeneratedStream(self.input, run.contract)
        return read_stream(pipeline, run, stream, decodes(run, origin))
