"""Polled payloads to records that keep the contract, stamped with their partition's watermark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from ....schemas.arrow import PAYLOAD
from ....schemas.contract import Contract
from ....schemas.decoded import Decoded, UnknownFields
from ...carry import SourceState
from ...dead_letters import Origin, with_attributes
from ...decoding import Decoding, open_decoding
from ...event_clock import EventClock
from ...parse import with_identity
from ...progress import PROGRESS
from ...tallies import DEAD_LETTERS, TALLIES
from .source import Carried, Polled

if TYPE_CHECKING:
    from ...repair import Repair

DecoderOf = Callable[[Origin], Decoding]


@dataclass(frozen=True)
class Decodes:
    """How payloads become records. Picklable.

    Attributes:
        payload: keep each record's bytes beside it.
        disorder_us: by how many microseconds a record may come after a later one and be on time;
            ``None`` where nothing asks for watermarks.
        decoder: makes another decoding than that of JSON.
        repair: what is tried on records that are refused.
    """

    contract: Contract
    origin: Origin
    payload: bool = True
    unknown_fields: UnknownFields = "ignore"
    disorder_us: int | None = None
    decoder: DecoderOf | None = None
    repair: Repair | None = None

    def open(self) -> Decoding:
        """The decoding itself, for one worker."""
        decoding = self._open()
        return self.repair.over(decoding) if self.repair is not None else decoding

    def _open(self) -> Decoding:
        origin = self.origin._replace(stage="parse")
        if self.decoder is not None:
            return self.decoder(origin)
        return open_decoding(self.contract, self.unknown_fields, judge=True, origin=origin)

    def clock(self, states: dict[str, SourceState]) -> EventClock | None:
        """Where event time stands; ``None`` if nobody asks."""
        if self.disorder_us is None or self.contract.event_time is None:
            return None
        return EventClock(self.contract.event_time, self.disorder_us, states)


class Reading(NamedTuple):
    """The decoding of one worker, with the event time of what it has given so far.

    Outputs are batches of records, and tagged batches of dead letters, in the order of what was
    put in; and what was noticed of them, if it is asked for.
    """

    decodes: Decodes
    decoding: Decoding
    clock: EventClock | None

    def put(self, polled: Polled) -> Iterator[pa.RecordBatch | TaggedOutput]:
        """Take what was polled; give what is done of it, and of what came before."""
        PROGRESS.records += polled.batch.num_rows
        for (batch, carried), decoded in self.decoding.put((polled.batch, polled.carried)):
            yield from self._outputs(batch, carried, decoded)

    def drain(self) -> Iterator[pa.RecordBatch | TaggedOutput]:
        """Give all that is not done yet."""
        for (batch, carried), decoded in self.decoding.drain():
            yield from self._outputs(batch, carried, decoded)

    def _outputs(
        self, batch: pa.RecordBatch, carried: Carried | None, decoded: Decoded
    ) -> Iterator[pa.RecordBatch | TaggedOutput]:
        if decoded.records.num_rows:
            identity = batch if self.decodes.payload else batch.drop_columns([PAYLOAD])
            records = with_identity(decoded, identity)
            yield self.clock.stamp(records) if self.clock else records
        if decoded.letters is not None:
            PROGRESS.dead += decoded.letters.num_rows
            letters = _with_carried(decoded.letters, carried) if carried else decoded.letters
            yield TaggedOutput(DEAD_LETTERS, letters)
        if decoded.drift is not None:
            yield TaggedOutput(TALLIES, decoded.drift)


def _with_carried(letters: pa.RecordBatch, carried: Carried) -> pa.RecordBatch:
    """Dead letters of a batch with what their messages carried."""
    sources = letters.column("source").to_pylist()
    positions = list(map(int, letters.column("position").to_pylist()))
    return with_attributes(letters, carried.attributes(sources, positions))
