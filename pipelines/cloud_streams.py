"""Streams that have no offsets as a job's input: subscriptions of Pub/Sub, streams of Kinesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..transforms.carry import Carry, SourceState
from ..transforms.plan import OPEN_END, Interval
from .job import Job, Places
from .reading import decodes, read_stream
from .sources import Planned

if TYPE_CHECKING:
    import apache_beam as beam

    from ..transforms.dead_letters import Origin
    from ..transforms.intervals.chain import Chain
    from ..transforms.read.bare_avro import BareAvroMessages
    from ..transforms.read.kinesis.inputs import KinesisInput
    from ..transforms.read.kinesis.stream import KinesisStream
    from ..transforms.read.pubsub.inputs import PubsubInput
    from ..transforms.read.pubsub.stream import PubsubStream
    from ..transforms.read.streams.reading import DecoderOf
    from ..transforms.stage_result import StageResult
    from .run import Run


def subscription_of(uri: str, job: Job, places: Places) -> PubsubSubscription:
    """The subscription that a job reads.

    Raises:
        SourceError: the URI cannot be used.
        ImportError: what it needs is not installed.
    """
    from ..transforms.intervals.chain import Chain
    from ..transforms.read.pubsub import client  # which needs what has to be installed  # noqa: F401
    from ..transforms.read.pubsub.inputs import parse_input
    from .outputs import job_outputs

    _, _, store = job_outputs(job, places)
    return PubsubSubscription(parse_input(uri), places, Chain(store))


def shards_of(uri: str, places: Places) -> KinesisShards:
    """The stream of Kinesis that a job reads.

    Raises:
        SourceError, ImportError: as :func:`subscription_of`.
    """
    from ..transforms.read.kinesis import client  # which needs what has to be installed  # noqa: F401
    from ..transforms.read.kinesis.inputs import parse_input

    return KinesisShards(parse_input(uri), places)


@dataclass(frozen=True)
class PubsubSubscription:
    """A subscription. What has come since the last run is known once it has been read."""

    input: PubsubInput
    places: Places
    chain: Chain

    def plan(self, carry: Carry) -> Planned:
        """All that the subscription holds.

        Raises:
            JobError: it cannot be read.
            Unavailable: the service does not answer.
        """
        from ..transforms.read.errors import SourceError
        from ..transforms.read.pubsub.begin import check
        from ..transforms.read.pubsub.stream import PubsubStream

        source = self.input.source
        held = carry.sources.get(source)
        try:
            check(self.input, is_new=held is None)
        except SourceError as error:
            raise self.places.error(("input",), str(error)) from None
        state = held or SourceState(floor=carry.watermark)
        stream = PubsubStream(self.input, self.chain)
        return Planned(
            intervals=(Interval(source, state.next, OPEN_END),),
            states={source: state},
            read=_Reads(stream, self.places),
            stream=stream,
        )


@dataclass(frozen=True)
class KinesisShards:
    """A stream of Kinesis, and which of its shards there is something to read of."""

    input: KinesisInput
    places: Places

    def plan(self, carry: Carry) -> Planned:
        """From where each shard stands, or begins.

        Raises:
            JobError: it cannot be gone on from there.
            Unavailable: the service does not answer.
        """
        from ..transforms.read.errors import SourceError
        from ..transforms.read.kinesis.client import DONE
        from ..transforms.read.kinesis.stream import KinesisStream, begin

        try:
            begun = begin(self.input, carry.sources, carry.watermark)
        except SourceError as error:
            raise self.places.error(("input",), str(error)) from None
        return Planned(
            intervals=tuple(
                Interval(source, state.next, state.next if state.cursor == DONE else OPEN_END)
                for source, state in begun.states.items()
            ),
            states=begun.states,
            read=_Reads(KinesisStream(self.input, begun.done), self.places),
        )


@dataclass(frozen=True)
class _Reads:
    """Reads a stream, when a run's pipeline is built."""

    stream: PubsubStream | KinesisStream
    places: Places

    def __call__(
        self, pipeline: beam.Pipeline, run: Run, origin: Origin
    ) -> tuple[StageResult, Any]:
        return read_stream(pipeline, run, self.stream, decodes(run, origin, self._decoder(run)))

    def _decoder(self, run: Run) -> DecoderOf | None:
        from ..transforms.read.kinesis.inputs import KinesisInput
        from ..transforms.read.kinesis.messages import KinesisMessages

        inner = bare_decoder(self.stream.input, run, self.places)
        if isinstance(self.stream.input, KinesisInput):
            return KinesisMessages(run.contract, run.job.unknown_mode, inner)
        return inner


def bare_decoder(
    input: PubsubInput | KinesisInput, run: Run, places: Places
) -> BareAvroMessages | None:
    """The decoding of single messages, if they are not JSON.

    Raises:
        JobError: the schema cannot be had.
    """
    if input.format != "avro":
        return None
    from ..transforms.read.bare_avro import bare_avro
    from ..transforms.read.errors import SourceError

    try:
        return bare_avro(input.schema, run.contract, run.job.unknown_mode)
    except SourceError as error:
        raise places.error(("input",), str(error)) from None
