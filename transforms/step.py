"""Step: batches of records to what a step of the job makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from ..schemas.arrow import IDENTITY, SOURCE
from ..schemas.codes import Code
from ..schemas.contract import Contract
from ..schemas.dead_letters import SCHEMA
from ..schemas.enrich.misses import Refused
from ..schemas.rules import Violation, has_restricted
from ..schemas.steps import Failure, RecordStep
from .coder import RecordBatchCoder  # registers it  # noqa: F401
from .dead_letters import Origin, refused_batch
from .error_handling import HandlesErrors
from .stage_result import StageResult
from .tallies import DEAD_LETTERS, TALLIES, Tally, count_sources


class Step(HandlesErrors):
    """Change records, leave some out: by SQL or by a Python function.

    Takes batches of records with their identity. Gives a
    :class:`~millstream.transforms.stage_result.StageResult`: ``records`` are batches of
    ``step.schema``, in their order; ``dead_letters`` are the records that the step failed on, of
    the code ``STEP``; ``tallies`` count the records that it left out, by source, as ``filtered``.

    Args:
        step: a :class:`~millstream.schemas.sql.step.SqlStep` or a
            :class:`~millstream.transforms.python_step.PythonStep`.
        contract: that of the records. Dead letters name it, and the event time by it. Where one of
            its fields is classified (``millstream.schemas.rules.RESTRICTED``), they tell the kind
            of an error but not its text, which may hold values.
        origin: what all dead letters have in common.

    Raises:
        ValueError: the batches lack a part of their identity.
    """

    def __init__(
        self, step: RecordStep, *, contract: Contract | None = None, origin: Origin | None = None
    ) -> None:
        super().__init__()
        missing = [name for name in IDENTITY if name not in step.schema.names]
        if missing:
            raise ValueError(
                f"a step needs batches with {', '.join(missing)}: a record that it fails on "
                "becomes a dead letter"
            )
        origin = origin or Origin("step")
        self._apply = _ApplyStep(step, contract, origin.of(contract) if contract else origin)

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> Any:
        outputs: Any = records | "Apply" >> beam.ParDo(self._apply).with_outputs(
            DEAD_LETTERS, TALLIES, main="records"
        )
        outputs[TALLIES].element_type = Tally
        return self.handled(StageResult.of(outputs, tallies=True))


class _ApplyStep(beam.DoFn):
    def __init__(self, step: RecordStep, contract: Contract | None, origin: Origin) -> None:
        self._step = step
        self._event_time = contract.event_time if contract else None
        self._with_text = not (contract and has_restricted(contract.fields))
        self._origin = origin

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        kept, failures = self._step.attempt(batch)
        if kept.num_rows:
            yield kept
        failed = batch.take(pa.array([failure.row for failure in failures], pa.int64()))
        if failures:
            yield TaggedOutput(DEAD_LETTERS, self._letters(batch, failed, failures))
        if kept.num_rows + len(failures) < batch.num_rows:
            gone = Counter(count_sources(batch, SOURCE))
            gone.subtract(count_sources(kept, SOURCE))
            gone.subtract(count_sources(failed, SOURCE))
            for source, rows in gone.items():
                if rows:
                    yield TaggedOutput(TALLIES, Tally(source, "filtered", rows))

    def _letters(
        self, batch: pa.RecordBatch, failed: pa.RecordBatch, failures: Iterable[Failure]
    ) -> pa.RecordBatch:
        violations = [_violation(row, error, self._with_text) for row, error in failures]
        return refused_batch(
            batch, violations, self._origin, event_times=_event_times(failed, self._event_time)
        )


def _violation(row: int, error: Exception, with_text: bool) -> Violation:
    if isinstance(error, Refused):
        return Violation(row, error.field, error.code, str(error))
    return Violation(row, "", Code.STEP, _message(error, with_text))


def _event_times(records: pa.RecordBatch, name: str | None) -> pa.Array | None:
    """The event times of records, unless an earlier step has made something else of them."""
    if name is None or name not in records.schema.names:
        return None
    times = records.column(name)
    return times if times.type == SCHEMA.field("event_time").type else None


_SHOWN = 200  # characters of an error that a message repeats


def _message(error: Exception, with_text: bool) -> str:
    kind = type(error).__name__
    if not with_text:
        return f"{kind}: its text is not shown, as records hold classified fields"
    text = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return f"{kind}: {text}" if text else kind
