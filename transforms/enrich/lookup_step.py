"""LookupStep: records to records with columns that a service gives which is asked."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from ...schemas.codes import Code
from ...schemas.contract import Contract
from ...schemas.enrich.misses import (
    Misses,
    Refused,
    enriched,
    enriched_schema,
    is_left_out,
)
from ...schemas.enrich.reference import hash_in_pieces
from ...schemas.enrich.spec import LookupJob
from ...schemas.keys import KeyColumnError, KeyHashes
from ...schemas.problems import did_you_mean
from ...schemas.rules import has_restricted
from ...schemas.steps import Attempt, Failure, StepError
from ..python_step import type_of_word
from .service import PermanentError as PermanentError
from .service import Service
from .shared import LAUNCH, Shared

_SHOWN = 200  # characters of an error that a message repeats


class LookupStep:
    """Columns that a function gives for the record's key.

    The function takes a ``pyarrow.RecordBatch`` of the fields ``job.on``, of keys that are all
    different and have no nulls, at most ``job.batch`` of them, and gives a batch or table of the
    same columns and those of ``job.adds``, for all of the keys or some: of the others it knows
    nothing. It is called again if it raises, up to ``job.attempts`` times, unless it raises
    :class:`PermanentError`. It may be called by several threads at once.

    A record of whose key nothing is known goes on with nulls, becomes a dead letter, or is left
    out, as ``job.missing`` says. One whose key could not be asked for becomes a dead letter, or the
    run fails, as ``job.on_failure`` says.

    Args:
        job: what is asked for, and how.
        schema: of the batches that will come, identity columns included.
        contract: that of the records. The values of its classified fields are not told, and if it
            has some, texts of errors are not either.

    Raises:
        StepError: there is no such function or field, or what is needed is not installed.
    """

    schema: pa.Schema
    """Of the batches that leave: the record's columns, those added, then the hidden ones."""

    def __init__(self, job: LookupJob, schema: pa.Schema, contract: Contract | None = None) -> None:
        for name in job.on:
            if name not in schema.names:
                hint = did_you_mean(name, schema.names)
                raise StepError(f"on: the records have no field {name}{hint}")
        self._job = job
        self._keys = pa.schema([schema.field(name) for name in job.on])
        try:
            hash_in_pieces(self._keys.empty_table(), job.on)
        except KeyColumnError as error:
            raise StepError(f"on: {error}") from None
        added = {name: type_of_word(job.python, name, word) for name, word in job.adds.items()}
        self._added = pa.schema(list(added.items()))
        self.schema = enriched_schema(schema, added)
        self._misses = Misses(job.on, job.python, contract)
        self._with_text = not (contract and has_restricted(contract.fields))
        self._shared_as = (msgspec.json.encode(job), self._keys, LAUNCH)
        SERVICES.forget(self._shared_as)
        self._service: Service | None = SERVICES.get(self._shared_as, self._made)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_service": None}

    def attempt(self, batch: pa.RecordBatch) -> Attempt:
        """The records with their new columns, and those that failed.

        Raises:
            Unavailable: the service fails, and the run is to fail then.
            StepError: it refuses keys, or gives what is no answer, and the run is to fail then.
        """
        keys = batch.select(self._job.on)
        distinct = _distinct(hash_in_pieces(keys, self._job.on), batch.num_rows)
        known = self._shared().know(keys.take(pa.array(distinct.firsts)), distinct.ids)
        columns = {
            field.name: pa.array(
                [values and values[i] for values in known.values], field.type
            ).take(distinct.places)
            for i, field in enumerate(self._added)
        }
        has_values = np.array([values is not None for values in known.values] + [False])
        missed = ~has_values[distinct.numbers]
        failures = self._failures(known.errors, distinct)
        for failure in failures:
            missed[failure.row] = False  # of it, nobody can say
        if self._job.missing == "dead" and missed.any():
            rows = np.flatnonzero(missed)
            failures += self._misses.failures(batch, rows, np.zeros(len(rows), bool))
        left_out = is_left_out(self._job.missing, missed)
        return enriched(batch, columns, self.schema, left_out, failures)

    def _failures(self, errors: dict[int, Exception], distinct: _Distinct) -> list[Failure]:
        if not errors:
            return []
        said = {number: self._refused(error) for number, error in errors.items()}
        rows = np.flatnonzero(np.isin(distinct.numbers, list(errors)))
        return [Failure(row, said[int(distinct.numbers[row])]) for row in rows.tolist()]

    def _refused(self, error: Exception) -> Refused:
        kind = type(error).__name__
        text = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
        text = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
        if not self._with_text:
            text = "its text is not shown, as records hold classified fields"
        message = f"{self._job.python} fails with {kind}{': ' if text else ''}{text}"
        return Refused(message, Code.SERVICE)

    def _shared(self) -> Service:
        if self._service is None:
            self._service = SERVICES.get(self._shared_as, self._made)
        return self._service

    def _made(self) -> Service:
        return Service(self._job, self._keys, self._added)


SERVICES: Shared[Service] = Shared()
"""The services that this process asks."""


class _Distinct(NamedTuple):
    """Keys of a batch, each once.

    ``firsts`` are the rows that have each first, ``ids`` its hash; ``numbers`` the number of the
    key of each row of the batch, -1 where it has a null.
    """

    firsts: np.ndarray
    ids: list[bytes]
    numbers: np.ndarray

    @property
    def places(self) -> pa.Array:
        """``numbers`` with null for -1."""
        return pa.array(self.numbers, mask=self.numbers < 0)


def _distinct(hashes: KeyHashes, size: int) -> _Distinct:
    rows = np.arange(size) if hashes.rows is None else hashes.rows
    order = np.lexsort((hashes.low, hashes.high))
    high, low = hashes.high[order], hashes.low[order]
    first = np.ones(len(order), bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    numbers = np.full(size, -1)
    numbers[rows[order]] = np.cumsum(first) - 1
    whole = np.stack([high[first], low[first]], axis=1).tobytes()
    ids = [whole[at : at + 16] for at in range(0, len(whole), 16)]
    return _Distinct(rows[order][first], ids, numbers)
