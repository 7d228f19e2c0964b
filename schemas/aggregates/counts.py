"""Counts of rows, of values, and of rows for which a condition holds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ..contract import Field
from .functions import Function, Groups, add_counts, count_present


class Count(Function):
    """``count()``: rows. ``count(field)``: rows in which the field is not null. int64."""

    takes = (
        "string", "integer", "number", "decimal", "boolean",
        "date", "timestamp", "time", "object", "array", "json",
    )  # fmt: skip
    optional = True

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {"count": pa.int64()}

    def result(self, field: Field | None) -> pa.DataType:
        return pa.int64()

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        return [pa.array(groups.sizes if field is None else count_present(groups, column))]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return [pa.array(add_counts(groups, states[0]))]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return states[0]


class CountIf(Count):
    """``count_if(condition)``: rows for which it is true: neither false nor null. int64."""

    takes = ("boolean",)
    optional = False
    wanted = "a condition"
    example = "amount > 10"

    def partial(
        self, groups: Groups, column: pa.Array, field: Field | None, times: pa.Array
    ) -> list[pa.Array]:
        true = column.fill_null(False).to_numpy(zero_copy_only=False)
        return [pa.array(np.bincount(groups.ids[true], minlength=groups.count))]
