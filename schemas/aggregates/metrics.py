"""Metrics as they are written, such as ``sum(amount)``, and the values that they are of.

What every function keeps to is said in :mod:`.functions`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..arrow import field_of_arrow, record_schema
from ..contract import Contract, Field
from ..problems import did_you_mean, list_names
from ..rules import classification_made_of
from .counts import Count, CountIf
from .extremes import AtExtremeTime, Extreme
from .functions import AggregateError, Function
from .moments import Stddev, Variance
from .quantiles import Quantile
from .sketches import ApproxDistinct
from .sums import Mean, Sum

FUNCTIONS: dict[str, Function] = {
    "count": Count(),
    "count_if": CountIf(),
    "sum": Sum(),
    "min": Extreme("min"),
    "max": Extreme("max"),
    "first": AtExtremeTime("min"),
    "last": AtExtremeTime("max"),
    "mean": Mean(),
    "variance": Variance(),
    "stddev": Stddev(),
    "quantile": Quantile(),
    "approx_distinct": ApproxDistinct(),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A function of :data:`FUNCTIONS`, and what it is of, if anything: ``field`` is the dotted
    path of a field or a SQL expression, as it is written. ``parameter`` is a quantile's share."""

    function: str
    field: str | None = None
    parameter: float | None = None

    def __str__(self) -> str:
        parameter = "" if self.parameter is None else f", {self.parameter!r}"
        return f"{self.function}({self.field or ''}{parameter})"

    @property
    def computed_by(self) -> Function:
        """The function, with its parameter."""
        function = FUNCTIONS[self.function]
        return function if self.parameter is None else function.at(self.parameter)


_METRIC = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
_PATH = re.compile(r"[^\W\d]\w*(\.\w+)*")


def parse_metric(text: str) -> Metric:
    """A metric as it is written: ``count()``, ``sum(amount)``, ``approx_distinct(device.os)``,
    ``quantile(amount / quantity, 0.95)``.

    Raises:
        AggregateError: not of that form, or no such function.
    """
    match = _METRIC.fullmatch(text) if isinstance(text, str) else None
    commas = None if match is None else _commas(match[2])
    if match is None or commas is None:
        raise AggregateError(f"expected a metric such as count() or sum(amount), got {text!r}")
    name, field = match[1], match[2]
    if name not in FUNCTIONS:
        hint = did_you_mean(name, FUNCTIONS) or f"; expected {list_names(FUNCTIONS)}"
        raise AggregateError(f"{text}: no function {name!r}{hint}")
    function = FUNCTIONS[name]
    wanted = f"expected {function.wanted}, as in {name}({function.example})"
    parameter = None
    if function.parameter and field.strip():
        if not commas:
            raise AggregateError(f"{text}: {wanted}")
        parameter = _parameter(function, field[commas[-1] + 1 :].strip(), text)
        field = field[: commas[-1]]
    field = field.strip()
    if field == "*":
        raise AggregateError(f"{text}: '*' is no field" + "; write count()" * (name == "count"))
    if not field and not function.optional:
        raise AggregateError(f"{text}: {wanted}")
    return Metric(name, field or None, parameter)


def _commas(text: str) -> list[int] | None:
    """Where commas stand outside of all parentheses and quotes; None if those are not closed."""
    found, depth = [], 0
    for place, character in _unquoted(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and not depth:
            found.append(place)
        if depth < 0 or character in "'\"":
            return None
    return None if depth else found


def _unquoted(text: str) -> Iterator[tuple[int, str]]:
    """The characters outside of quotes, and a quote that is never closed.

    A doubled quote, as SQL writes one inside quotes, ends a text and begins another.
    """
    place = 0
    while place < len(text):
        character = text[place]
        end = text.find(character, place + 1) if character in "'\"" else -1
        if end < 0:
            yield place, character
        place = max(place, end) + 1


def _parameter(function: Function, text: str, metric: str) -> float:
    try:
        parameter = float(text)
        function.at(parameter)
    except ValueError:
        raise AggregateError(f"{metric}: expected {function.parameter}, got {text!r}") from None
    return parameter


def metric_field(metric: Metric, contract: Contract) -> Field | None:
    """The field that a metric is of; for an expression a field of its type and of the name that
    :func:`derived_column` gives it.

    Raises:
        AggregateError: the contract has no such field, the expression is refused, or the function
            does not take the type.
    """
    if metric.field is None:
        return None
    function = FUNCTIONS[metric.function]
    if is_expression(metric.field, contract):
        field = _derived_field(metric, contract)
    else:
        field = find_field(metric.field, contract, str(metric))
    if field.type not in function.takes:
        takes = list_names(function.takes)
        raise AggregateError(f"{metric}: {metric.field} is of type {field.type}, expected {takes}")
    if reason := function.refusal(field):
        raise AggregateError(f"{metric}: {reason}")
    return field


def is_expression(text: str, contract: Contract) -> bool:
    """Whether what a metric is of is a SQL expression: neither a field's dotted path nor anything
    that looks like one, which would be a field's name misspelt."""
    return _PATH.fullmatch(text) is None and text not in contract.paths()


def derived_column(expression: str) -> str:
    """The name of the column that holds an expression's values; equal expressions share it."""
    return f"derived_{hashlib.sha256(expression.encode()).hexdigest()[:16]}"


def _derived_field(metric: Metric, contract: Contract) -> Field:
    from ..sql.step import SqlError, expression_type

    assert metric.field is not None
    try:
        type = expression_type(metric.field, record_schema(contract))
        field = field_of_arrow(derived_column(metric.field), type)
    except SqlError as error:
        raise AggregateError(f"{metric}: {error}") from None
    except TypeError as error:
        raise AggregateError(f"{metric}: the value of the expression is {error}") from None
    return replace(field, classification=classification_made_of(contract.fields))


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
