"""Records of whose key nothing is known: why, in words that may be shown, and what they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ..arrow import HIDDEN
from ..codes import Code
from ..contract import Contract, Field
from ..rules import classification_made_of, shown
from ..steps import Attempt, Failure, StepError
from .spec import Missing


class Refused(StepError):
    """Why a step refuses a record. The text holds no value that must not be shown.

    Attributes:
        code: the dead letter's.
        field: the path of the field that it is about; empty for the whole record.
    """

    def __init__(self, message: str, code: Code, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class Misses:
    """Says of records which values nothing is known of.

    Args:
        on: the fields of the key.
        place: what knows nothing, as a message names it.
        contract: tells which fields' values must not be shown.
        event_time: the field that says as of when something is known, if that matters.
    """

    def __init__(
        self,
        on: Sequence[str],
        place: str,
        contract: Contract | None = None,
        event_time: str | None = None,
    ) -> None:
        known = {field.name: field for field in contract.fields} if contract else {}
        made = classification_made_of(known.values())  # by a step
        self._fields = [known.get(name, Field(name, "string", classification=made)) for name in on]
        self._place = place
        self._time = known.get(event_time) if event_time else None

    def failures(
        self, batch: pa.RecordBatch, rows: np.ndarray, not_then: np.ndarray
    ) -> list[Failure]:
        """The failures of some rows of a batch.

        Args:
            not_then: of each of ``rows``, whether something is known at another time.
        """
        missed = batch.take(pa.array(rows))
        columns = [missed[field.name].to_pylist() for field in self._fields]
        times: Sequence[object] = [None] * len(rows)
        if self._time is not None:
            times = missed[self._time.name].to_pylist()
        said: dict[tuple[object, ...], Refused] = {}
        failures = []
        for row, then, time, *key in zip(
            rows.tolist(), not_then.tolist(), times, *columns, strict=True
        ):
            known = (then, time if then else None, *key)
            if known not in said:
                said[known] = self._refused(key, time, then)
            failures.append(Failure(row, said[known]))
        return failures

    def _refused(self, key: Sequence[object], time: object, not_then: bool) -> Refused:
        nulls = [f.name for f, value in zip(self._fields, key, strict=True) if value is None]
        if nulls:
            message = f"{' and '.join(nulls)} is null, so that {self._place} has nothing for it"
            return Refused(message, Code.UNMATCHED, self._path)
        values = ", ".join(
            f"{field.name} {shown(value, field)}"
            for field, value in zip(self._fields, key, strict=True)
        )
        then = ""
        if not_then and self._time is not None:
            then = f" at {shown(time, self._time)}"
            if time is None:
                then = ": the event time is null"
        return Refused(f"{self._place} has nothing for {values}{then}", Code.UNMATCHED, self._path)

    @property
    def _path(self) -> str:
        return self._fields[0].name if len(self._fields) == 1 else ""


def enriched_schema(schema: pa.Schema, added: Mapping[str, pa.DataType]) -> pa.Schema:
    """The columns of a batch, those that are added, then those that are hidden.

    Raises:
        StepError: an added column has a name that cannot be added.
    """
    for name in added:
        if name.startswith("_"):
            raise StepError(f"the name {name} is reserved: it begins with _")
        if name in schema.names:
            raise StepError(f"the records have a field {name} already: give the new one another")
    return pa.schema(
        [
            *(field for field in schema if field.name not in HIDDEN),
            *(pa.field(name, type) for name, type in added.items()),
            *(field for field in schema if field.name in HIDDEN),
        ]
    )


def enriched(
    batch: pa.RecordBatch,
    added: Mapping[str, pa.Array],
    schema: pa.Schema,
    left_out: np.ndarray,
    failures: Sequence[Failure],
) -> Attempt:
    """An attempt: the batch with its new columns, without the rows that failed or are left out.

    Args:
        added: the new columns, one value a row of the batch.
        schema: :func:`enriched_schema`.
        left_out: a mask of rows, to which those that failed are added.
    """
    for failure in failures:
        left_out[failure.row] = True
    arrays = [added[name] if name in added else batch[name] for name in schema.names]
    records = pa.RecordBatch.from_arrays(arrays, schema=schema)
    if left_out.any():
        records = records.filter(pa.array(~left_out))
    return Attempt(records, sorted(failures, key=lambda failure: failure.row))


def is_left_out(missing: Missing, missed: np.ndarray) -> np.ndarray:
    """A mask of the rows that do not go on, of those of which nothing is known."""
    return missed.copy() if missing != "keep" else np.zeros(len(missed), bool)
