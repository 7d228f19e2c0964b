"""What to aggregate: windows, keys and metrics, checked against the contract of the records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pyarrow as pa

from .arrow import IDENTITY, arrow_type
from .contract import Contract, Field
from .metric_functions import AggregateError, Function
from .metrics import FUNCTIONS, Metric, find_field, metric_field, parse_metric
from .problems import did_you_mean, list_names

# Columns of states and of results besides keys and metrics, which may not take their names.
SLICE_START = "slice_start"
CONTRIBUTION = "contribution"
ROWS = "rows"
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
    """A metric under its name in the results; ``field`` is none for ``count()``."""

    name: str
    metric: Metric
    field: Field | None

    @property
    def function(self) -> Function:
        return FUNCTIONS[self.metric.function]

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
    """What to aggregate: fixed UTC windows ``[start, end)`` of ``window_us`` microseconds, aligned
    to 1970-01-01, over the times in the column ``event_time``."""

    name: str
    window_us: int
    event_time: str
    keys: tuple[Key, ...]
    metrics: tuple[NamedMetric, ...]

    def described(self) -> dict[str, Any]:
        """The specification as JSON values, as state files carry it."""
        keys = [{"name": k.name, "path": k.path, "type": str(k.type)} for k in self.keys]
        return {
            "name": self.name,
            "window_us": self.window_us,
            "slice_us": self.window_us,  # windows that overlap will be made of narrower slices
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
        window: ``{"fixed": "1m"}``; see :func:`parse_duration`.
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
        window_us=_window_us(window),
        event_time=contract.event_time,
        keys=tuple(_key(path, contract) for path in by),
        metrics=tuple(_metric(name, text, contract) for name, text in metrics.items()),
    )
    _refuse_clashes(spec)
    return spec


def _window_us(window: Mapping[str, Any]) -> int:
    if not isinstance(window, Mapping) or not window:
        raise AggregateError(f"window: expected fixed: and a duration, got {window!r}")
    for key in window:
        if key != "fixed":
            hint = did_you_mean(str(key), ["fixed"])
            raise AggregateError(f"window: no such kind: {key!r}{hint or '; expected fixed'}")
    return parse_duration(window["fixed"], "window.fixed")


_UNITS = {"ms": 10**3, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_DURATION = re.compile(r"(\d+)\s*(ms|s|m|h|d)")
_LONGEST_US = 100_000 * _UNITS["d"]


def parse_duration(text: Any, place: str) -> int:
    """Microseconds of a duration such as ``30s``, ``1m``, ``2h``, ``1d``, ``500ms`` or ``PT1M``.

    Raises:
        AggregateError: not a duration, not positive, or above 100,000 days; the message begins
            with ``place``.
    """
    us = 0
    if isinstance(text, str) and (match := _DURATION.fullmatch(text.strip())):
        us = int(match[1]) * _UNITS[match[2]]
    elif isinstance(text, str) and text.startswith("P"):
        try:
            us = msgspec.convert(text, timedelta) // timedelta(microseconds=1)
        except msgspec.ValidationError:
            us = 0
    if not 0 < us <= _LONGEST_US:
        expected = "expected a duration such as 30s, 1m, 2h, 1d or PT1M, at most 100000d"
        raise AggregateError(f"{place}: {expected}, got {text!r}")
    return us


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
        return NamedMetric(name, metric, metric_field(metric, contract))
    except AggregateError as error:
        raise AggregateError(f"metrics.{name}: {error}") from None


def _refuse_clashes(spec: AggregateSpec) -> None:
    """Names that meet in the visible table or in the states; SQL tells no case apart."""
    visible: dict[str, str] = dict.fromkeys((WINDOW_START, WINDOW_END), "is taken")
    taken = dict(visible)
    taken.update(dict.fromkeys((SLICE_START, CONTRIBUTION, ROWS, *IDENTITY), "is taken"))
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
