"""Rules across the fields of a record: SQL expressions, each true (or null) of a good record.

ODCS writes one as a check of the table or of a property::

    - {type: custom, engine: millstream, implementation: "amount <= total"}

A record that breaks it is a dead letter, unless the check has bounds (``mustBeLessThan: 5``) or is
only a warning: then such records are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..codes import Code
from ..enrich.misses import Refused
from ..sql.step import TABLE, SqlError, SqlStep
from ..steps import Attempt, Failure
from .checks import Check

BROKEN = Code.STEP
"""The code of a record that breaks an expression, whose dead letter is of stage ``validate``."""


def message_of(check: Check) -> str:
    """What the dead letter of a record that breaks an expression says."""
    return f"{check.name}: expected {' '.join(check.text.split())}"


def says(message: str, check: Check) -> bool:
    """Whether a dead letter's message says that an expression was broken, perhaps among others."""
    return f"{_AND}{message_of(check)}{_AND}" in f"{_AND}{message}{_AND}"


_AND = "; "


class RowRules:
    """A step that leaves records as they are, and fails on those that break an expression.

    An expression that is null of a record is kept by it, as in SQL's own ``CHECK``; one that fails
    on it (a division, a cast) is broken. See :class:`~..steps.RecordStep`.

    Raises:
        SqlError: an expression is refused, or DuckDB is not installed; the message names the check.
    """

    schema: pa.Schema

    def __init__(self, checks: Sequence[Check], schema: pa.Schema) -> None:
        self._arguments = tuple(checks), schema
        self.schema = schema
        self._checks = tuple(checks)
        self._alone: list[RowRules] = []
        for check in checks:  # one by one, so that the message can name it
            _see_boolean(check, schema)
        columns = (f'(\n{check.text}\n) AS "rule {i}"' for i, check in enumerate(checks))
        self._step = SqlStep(f"SELECT {', '.join(columns)} FROM {TABLE}", schema)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowRules, self._arguments

    def attempt(self, batch: pa.RecordBatch) -> Attempt:
        """The records that break nothing, and failures of the others."""
        broken = self._broken(batch)
        bad = np.flatnonzero(broken.any(axis=0))
        if not len(bad):
            return Attempt(batch, [])
        failures = [Failure(row, self._refusal(broken[:, row])) for row in bad.tolist()]
        good = np.ones(batch.num_rows, bool)
        good[bad] = False
        return Attempt(batch.filter(pa.array(good)), failures)

    def counts(self, batch: pa.RecordBatch) -> list[int]:
        """By expression, how many records of a batch break it."""
        return self._broken(batch).sum(axis=1).tolist()

    def _refusal(self, broken: np.ndarray) -> Refused:
        checks = [self._checks[i] for i in np.flatnonzero(broken)]
        return Refused(_AND.join(map(message_of, checks)), BROKEN, checks[0].field)

    def _broken(self, batch: pa.RecordBatch) -> np.ndarray:
        """By expression and row, whether it is broken."""
        kept, failures = self._step.attempt(batch)
        broken = np.zeros((len(self._checks), batch.num_rows), bool)
        failed = [failure.row for failure in failures]
        sound = np.delete(np.arange(batch.num_rows), failed) if failed else slice(None)
        for i in range(len(self._checks)):
            column = kept.column(f"rule {i}")
            if column.null_count:
                column = column.fill_null(True)
            broken[i, sound] = ~column.to_numpy(zero_copy_only=False)
        for row in failed:
            broken[:, row] = self._failing(batch.slice(row, 1))
        return broken

    def _failing(self, record: pa.RecordBatch) -> np.ndarray:
        """Which expressions a record breaks on which one fails."""
        if len(self._checks) == 1:
            return np.ones(1, bool)
        if not self._alone:
            self._alone = [RowRules([check], self.schema) for check in self._checks]
        return np.array([bool(rules.counts(record)[0]) for rules in self._alone])


def _see_boolean(check: Check, schema: pa.Schema) -> None:
    from ..sql.step import expression_type

    try:
        type = expression_type(check.text, schema)
    except SqlError as error:
        raise SqlError(f"{check.place} {check.name}: {error}") from None
    if type != pa.bool_():
        said = f"{check.place} {check.name}: expected an expression that is true or false"
        raise SqlError(f"{said}, found one of type {type}: {check.text!r}")
