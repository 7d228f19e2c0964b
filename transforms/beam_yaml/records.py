"""Rows that are held against a contract, or changed by SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa

from ...schemas.arrow import HIDDEN
from ..dead_letters import Origin
from ..schema_rows.types import declared_schema
from ..stage_result import StageResult
from .errors import outputs
from .identity import Identified, Restamped
from .options import error_output, load, text_of


class Validate(beam.PTransform):
    """Hold rows against the types and rules of a contract.

    Fields that the contract does not name pass through.

    Args:
        contract: path of an ODCS document, or the document itself.
        table: the contract's table, if it has several.
        error_handling: where rows that break a rule go.
    """

    def __init__(
        self,
        contract: str | Mapping[str, Any],
        table: str | None = None,
        error_handling: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._contract = load(contract, table)
        self._errors = error_output(error_handling)

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        from ..validate import Validate as ValidateBatches

        identified = Identified(self._contract)
        batches = rows | identified
        judged = batches | "Judge" >> ValidateBatches(self._contract)
        required = {field.name: field for field in declared_schema(self._contract)}
        schema = pa.schema([required.get(field.name, field) for field in identified.records])
        return outputs(_restamped(judged), schema, self._errors)


class Step(beam.PTransform):
    """Change rows, and leave some out, by one SELECT of SQL over single rows.

    Args:
        sql: such as ``SELECT *, amount * quantity AS total FROM records WHERE page <> '/'``.
        contract: path of an ODCS document, or the document itself: its fields have its types.
        table: the contract's table, if it has several.
        error_handling: where rows go on which the statement fails.
    """

    def __init__(
        self,
        sql: str,
        contract: str | Mapping[str, Any] | None = None,
        table: str | None = None,
        error_handling: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._sql = text_of(sql, "sql")
        self._contract = None if contract is None else load(contract, table)
        self._errors = error_output(error_handling)

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        from ...schemas.sql.step import SqlStep
        from ..step import Step as StepOfBatches

        identified = Identified(self._contract)
        batches = rows | identified
        step = SqlStep(self._sql, identified.schema)
        origin = Origin("step")
        done = batches | "Apply" >> StepOfBatches(step, contract=self._contract, origin=origin)
        schema = pa.schema([field for field in step.schema if field.name not in HIDDEN])
        return outputs(_restamped(done), schema, self._errors)


def _restamped(result: Any) -> StageResult:
    return result._replace(records=result.records | "Restamp" >> Restamped())
