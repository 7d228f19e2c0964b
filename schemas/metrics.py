"""Metrics as they are written, such as ``sum(amount)``, and the fields that they are of.

What every function keeps to is said in :mod:`.metric_functions`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from .arrow import arrow_type
from .contract import Contract, Field
from .metric_functions import (
    AggregateError,
    Function,
    Groups,
    add_counts,
    by_arrow,
    count_present,
    no_values,
    to_numpy,
)
from .problems import did_you_mean, list_names
from .sketches import ApproxDistinct
from .sums import Mean, Sum


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

    def partial(self, groups: Groups, column: pa.Array, field: Field | None) -> list[pa.Array]:
        return [pa.array(groups.sizes if field is None else count_present(groups, column))]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return [pa.array(add_counts(groups, states[0]))]

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return states[0]


class Extreme(Function):
    """``min(field)`` and ``max(field)``: of the field's own type; strings by their UTF-8 bytes."""

    takes = ("integer", "number", "decimal", "string", "date", "timestamp", "time")

    def __init__(self, which: str) -> None:
        self._which = which

    def parts(self, field: Field | None) -> dict[str, pa.DataType]:
        return {self._which: self.result(field)}

    def result(self, field: Field | None) -> pa.DataType:
        assert field is not None
        return arrow_type(field)

    def partial(self, groups: Groups, column: pa.Array, field: Field | None) -> list[pa.Array]:
        if not (pt.is_integer(column.type) or pt.is_floating(column.type)):
            return [by_arrow(groups, column, self._which)]
        ids, values = groups.present(column)
        numbers = to_numpy(values)
        if pt.is_floating(column.type):
            numbers = numbers + numbers.dtype.type(0)  # of -0.0 and 0.0 neither is less
            least, greatest = -np.inf, np.inf
        else:
            least, greatest = np.iinfo(numbers.dtype).min, np.iinfo(numbers.dtype).max
        low = self._which == "min"
        found = np.full(groups.count, greatest if low else least, numbers.dtype)
        (np.minimum if low else np.maximum).at(found, ids, numbers)
        return [pa.array(found, column.type, mask=no_values(groups, ids))]

    def merge(self, groups: Groups, states: list[pa.Array]) -> list[pa.Array]:
        return self.partial(groups, states[0], None)

    def finalise(self, states: list[pa.Array], field: Field | None) -> pa.Array:
        return states[0]


FUNCTIONS: dict[str, Function] = {
    "count": Count(),
    "sum": Sum(),
    "min": Extreme("min"),
    "max": Extreme("max"),
    "mean": Mean(),
    "approx_distinct": ApproxDistinct(),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A function of :data:`FUNCTIONS`, and the dotted path of the field that it is of, if any."""

    function: str
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.function}({self.field or ''})"


_METRIC = re.compile(r"\s*(\w+)\s*\(\s*(.*?)\s*\)\s*")


def parse_metric(text: str) -> Metric:
    """A metric as it is written: ``count()``, ``sum(amount)``, ``approx_distinct(device.os)``.

    Raises:
        AggregateError: not of that form, or no such function.
    """
    match = _METRIC.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise AggregateError(f"expected a metric such as count() or sum(amount), got {text!r}")
    function, field = match[1], match[2]
    if function not in FUNCTIONS:
        hint = did_you_mean(function, FUNCTIONS) or f"; expected {list_names(FUNCTIONS)}"
        raise AggregateError(f"{text}: no function {function!r}{hint}")
    if field == "*":
        raise AggregateError(f"{text}: '*' is no field" + "; write count()" * (function == "count"))
    if not field and not FUNCTIONS[function].optional:
        raise AggregateError(f"{text}: expected the field, as in {function}(amount)")
    return Metric(function, field or None)


def metric_field(metric: Metric, contract: Contract) -> Field | None:
    """The field that a metric is of.

    Raises:
        AggregateError: the contract has no such field, or the function does not take its type.
    """
    if metric.field is None:
        return None
    function = FUNCTIONS[metric.function]
    field = find_field(metric.field, contract, str(metric))
    if field.type not in function.takes:
        takes = list_names(function.takes)
        raise AggregateError(f"{metric}: {metric.field} is of type {field.type}, expected {takes}")
    if reason := function.refusal(field):
        raise AggregateError(f"{metric}: {reason}")
    return field


def find_field(path: str, contract: Contract, wanted_by: str) -> Field:
    """The field at a dotted path.

    Raises:
        AggregateError: no such field; the message begins with ``wanted_by``.
    """
    try:
        return contract.field(path)
    except KeyError:
        hint = did_you_mean(path, contract.paths())
        where = f"{wanted_by}: the contract {contract.name} has no field {path!r}{hint}"
        raise AggregateError(where) from None
