"""What to aggregate: windows, keys and metrics, checked against the contract of the records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..arrow import HIDDEN, arrow_type
from ..contract import Contract, Field
from ..problems import list_names
from ..rules import holds_restricted
from .functions import AggregateError, Function
from .metrics import (
    Metric,
    derived_column,
    find_field,
    is_expression,
    metric_field,
    parse_metric,
)
from .windows import Session, Window, parse_window

# Columns of states and of results besides keys and metrics, which may not take their names.
SLICE_START = "slice_start"
CONTRIBUTION = "contribution"
ROWS = "rows"
SESSION_END = "session_end"
WINDOW_START = "window_start"
WINDOW_END = "window_end"

_KEY_TYPES = ("string", "integer", "number", "decimal", "boolean", "date", "timestamp", "time")


@dataclass(frozen=True, slots=True)
class Key:
    """A column to group by: its name in the results, and the field at a dotted path."""

    name: str
    path: str
    field: Field

    @property
    def type(self) -> pa.DataType:
        return arrow_type(self.field)


@dataclass(frozen=True, slots=True)
class NamedMetric:
    """A metric under its name in the results; ``field`` is none for ``count()``.

    ``expression``: what the metric is of, if that is no field of the contract's.
    """

    name: str
    metric: Metric
    field: Field | None
    expression: str | None = None

    @property
    def function(self) -> Function:
        return self.metric.computed_by

    @property
    def is_hidden(self) -> bool:
        """Whether results may tell values of classified fields: all but counts of them."""
        counts = self.metric.function in ("count", "count_if", "approx_distinct")
        return self.field is not None and not counts and holds_restricted(self.field)

    @property
    def column(self) -> str | None:
        """The dotted path of the values in a batch of records."""
        return derived_column(self.expression) if self.expression else self.metric.field

    @property
    def parts(self) -> dict[str, pa.DataType]:
        """State columns, with their types."""
        parts = self.function.parts(self.field)
        return {f"{self.name}__{part}": type for part, type in parts.items()}

    @property
    def open_parts(self) -> dict[str, pa.DataType]:
        """Columns that open states have besides."""
        parts = self.function.open_parts(self.field)
        return {f"{self.name}__{part}": type for part, type in parts.items()}


@dataclass(frozen=True, slots=True)
class AggregateSpec:
    """What to aggregate, in windows over the times in the column ``event_time``."""

    name: str
    window: Window
    event_time: str
    keys: tuple[Key, ...]
    metrics: tuple[NamedMetric, ...]

    @property
    def derived(self) -> dict[str, str]:
        """Columns that batches of records must have besides the contract's: name → the SQL
        expression over the record that their values are of."""
        return {m.column: m.expression for m in self.metrics if m.column and m.expression}

    def described(self) -> dict[str, Any]:
        """The specification as JSON values, as state files carry it."""
        keys = [{"name": k.name, "path": k.path, "type": str(k.type)} for k in self.keys]
        return {
            "name": self.name,
            **self.window.described(),
            "event_time": self.event_time,
            "keys": keys,
            "metrics": [{"name": m.name, "metric": str(m.metric)} for m in self.metrics],
        }


def aggregate_spec(
    name: str,
    *,
    window: Mapping[str, Any],
    by: Sequence[str],
    metrics: Mapping[str, str],
    contract: Contract,
) -> AggregateSpec:
    """The specification of an aggregate as a job file writes it.

    Args:
        name: of the aggregate and its output.
        window: such as ``{"fixed": "1m"}``, as :func:`.windows.parse_window` reads it.
        by: dotted paths of the fields to group by; in results ``.`` becomes ``_``. May be empty.
        metrics: name → metric, as :func:`.metrics.parse_metric` reads it.
        contract: of the records.

    Raises:
        AggregateError: the specification cannot be used.
    """
    if contract.event_time is None:
        raise AggregateError(
            f"windows need an event time, and the contract {contract.name} names none: set "
            "event_time in the job, or the custom property eventTime of a field in the contract"
        )
    if not metrics:
        raise AggregateError("metrics: expected at least one, such as events: count()")
    spec = AggregateSpec(
        name=name,
        window=parse_window(window),
        event_time=contract.event_time,
        keys=tuple(_key(path, contract) for path in by),
        metrics=tuple(_metric(name, text, contract) for name, text in metrics.items()),
    )
    _refuse_clashes(spec)
    return spec


def _key(path: str, contract: Contract) -> Key:
    field = find_field(path, contract, "by")
    if field.type not in _KEY_TYPES:
        expected = list_names(_KEY_TYPES)
        raise AggregateError(f"by: {path} is of type {field.type}, expected {expected}")
    return Key(path.replace(".", "_"), path, field)


_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


def _metric(name: str, text: str, contract: Contract) -> NamedMetric:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AggregateError(f"metrics: {name!r} is no name: use letters, digits and _")
    try:
        metric = parse_metric(text)
        field = metric_field(metric, contract)
    except AggregateError as error:
        raise AggregateError(f"metrics.{name}: {error}") from None
    derived = metric.field is not None and is_expression(metric.field, contract)
    return NamedMetric(name, metric, field, metric.field if derived else None)


def _refuse_clashes(spec: AggregateSpec) -> None:
    """Names that meet in the visible table or in the states; SQL tells no case apart."""
    visible: dict[str, str] = dict.fromkeys((WINDOW_START, WINDOW_END), "is taken")
    taken = dict(visible)
    taken.update(dict.fromkeys((SLICE_START, CONTRIBUTION, ROWS, *HIDDEN), "is taken"))
    if isinstance(spec.window, Session):
        taken[SESSION_END] = "is taken"
    for key in spec.keys:
        lower = key.name.lower()
        if clash := taken.get(lower):
            raise AggregateError(f"by: {key.path}: the column name {key.name} {clash}")
        taken[lower] = visible[lower] = f"is taken by {key.path}"
    for metric in spec.metrics:
        where = f"metrics.{metric.name}: the column name"
        if clash := visible.get(metric.name.lower()):
            raise AggregateError(f"{where} {metric.name} {clash}")
        visible[metric.name.lower()] = f"is taken by metrics.{metric.name}"
        for part in (*metric.parts, *metric.open_parts):
            if clash := taken.get(part.lower()):
                raise AggregateError(f"{where} {part} {clash}")
            taken[part.lower()] = f"is taken by metrics.{metric.name}"
