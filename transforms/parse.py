"""Parse: raw payloads to batches of typed columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from ..schemas.arrow import PAYLOAD
from ..schemas.contract import Contract
from ..schemas.decoded import Decoded, UnknownFields
from .coder import RecordBatchCoder  # registers it  # noqa: F401
from .dead_letters import Origin
from .decoding import Decoding, open_decoding
from .error_handling import HandlesErrors
from .progress import PROGRESS
from .stage_result import StageResult
from .tallies import DEAD_LETTERS, TALLIES

if TYPE_CHECKING:
    from .repair import Repair


class Parse(HandlesErrors):
    """Decode batches of JSON payloads by a contract.

    Takes batches with the columns of ``millstream.schemas.arrow.PAYLOADS``. Gives a
    :class:`~millstream.transforms.stage_result.StageResult` whose ``records`` have the contract's
    columns, then ``_source``, ``_position`` and ``_payload``. Types are strict: see
    :class:`~millstream.schemas.json.decoder.JsonDecoder`. A record that does not fit is one dead
    letter with all that is wrong with it, rules of other fields included.

    Args:
        judge: hold records against the contract's rules at once, where they are decoded; it does
            what :class:`~millstream.transforms.validate.Validate` after it would do, and saves a
            second pass. Records that only break rules are then dead letters of stage ``validate``.
        payload: keep each record's bytes beside it, in ``_payload``, for what comes later and may
            refuse it. A dead letter has them in any case.
        unknown_fields: what to do with fields that the contract does not name: ``ignore``,
            ``keep`` (in a column ``_unknown``, as JSON), ``reject``, or ``notice``: ignore them,
            and give what was noticed (:class:`~millstream.schemas.drift.facts.Drift`) as tallies.
        repair: what to try on records that break the contract, with ``judge`` alone. Records then
            have a column ``_repaired`` behind the contract's.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        judge: bool = False,
        payload: bool = True,
        unknown_fields: UnknownFields = "ignore",
        repair: Repair | None = None,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        if repair is not None and not judge:
            raise ValueError("repair: only records that are judged as they are parsed are repaired")
        self._contract = contract
        self._judge = judge
        self._payload = payload
        self._unknown_fields: UnknownFields = unknown_fields
        self._repair = repair
        self._origin = (origin or Origin("parse")).of(contract)

    def expand(self, payloads: beam.PCollection[pa.RecordBatch]) -> Any:
        decode = _ParseBatches(
            self._contract,
            self._unknown_fields,
            self._judge,
            self._payload,
            self._repair,
            self._origin,
        )
        notices = self._unknown_fields == "notice"
        tags = (DEAD_LETTERS, TALLIES) if notices else (DEAD_LETTERS,)
        outputs = payloads | "Decode" >> beam.ParDo(decode).with_outputs(*tags, main="records")
        return self.handled(StageResult.of(outputs, tallies=notices))


class _ParseBatches(beam.DoFn):
    """Decodes batches, several at a time where helper processes are attached.

    Batches leave in the order in which they came. What is still being decoded when the bundle
    ends is waited for there.
    """

    def __init__(
        self,
        contract: Contract,
        unknown_fields: UnknownFields,
        judge: bool,
        payload: bool,
        repair: Repair | None,
        origin: Origin,
    ) -> None:
        self._contract = contract
        self._unknown_fields: UnknownFields = unknown_fields
        self._judge = judge
        self._payload = payload
        self._repair = repair
        self._origin = origin

    def setup(self) -> None:
        self._decoding: Decoding = open_decoding(
            self._contract, self._unknown_fields, judge=self._judge, origin=self._origin
        )
        if self._repair is not None:
            self._decoding = self._repair.over(self._decoding)

    def process(
        self,
        batch: pa.RecordBatch,
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[Any]:
        for done in self._decoding.put((batch, timestamp, window)):
            yield from self._outputs(*done)

    def finish_bundle(self) -> Iterator[Any]:
        for done in self._decoding.drain():
            yield from self._outputs(*done)

    def _outputs(self, task: tuple[pa.RecordBatch, Any, Any], decoded: Decoded) -> Iterator[Any]:
        batch, timestamp, window = task
        if decoded.records.num_rows:
            identity = batch if self._payload else batch.drop_columns([PAYLOAD])
            records = with_identity(decoded, identity)
            yield WindowedValue(records, timestamp, (window,))
        if decoded.letters is not None:
            PROGRESS.dead += decoded.letters.num_rows
            value = WindowedValue(decoded.letters, timestamp, (window,))
            yield TaggedOutput(DEAD_LETTERS, value)
        if decoded.drift is not None:
            yield TaggedOutput(TALLIES, WindowedValue(decoded.drift, timestamp, (window,)))


def with_identity(decoded: Decoded, identity: pa.RecordBatch) -> pa.RecordBatch:
    """The records of a batch that were kept, with the identity of its rows beside them."""
    if decoded.kept is not None:
        identity = identity.take(pa.array(decoded.kept))
    return pa.RecordBatch.from_arrays(
        [*decoded.records.columns, *identity.columns],
        schema=pa.schema([*decoded.records.schema, *identity.schema]),
    )
