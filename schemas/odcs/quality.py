"""``quality`` of a property or a table: which checks become rules of a field, and which are made of
all records of a run together.

A check that allows no null, missing or invalid value at all makes dead letters: it becomes a rule
of its field. The others are compiled by :mod:`..quality.loading`. What nobody makes is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..problems import Place, did_you_mean, list_names, say
from ..quality.checks import OPERATORS
from .rules import NOT_ENFORCED, add_pattern, add_valid_values
from .types import Draft

if TYPE_CHECKING:
    from open_data_contract_standard.model import DataQuality

METRICS = ("nullValues", "missingValues", "invalidValues", "duplicateValues", "rowCount")
ENGINE = "millstream"
"""``engine`` of a ``custom`` check whose ``implementation`` is an SQL expression over a record."""
_QUALITY_TYPES = ("text", "library", "sql", "custom")
_ADVISORY_SEVERITIES = ("info", "warning", "warn")


def read_quality(draft: Draft, checks: Sequence[DataQuality] | None, place: Place) -> None:
    """Read a property's quality checks: those that allow no bad value at all become rules.

    Raises:
        ContractError: an unknown type of check or metric, or an argument that cannot be.
    """
    for i, check in enumerate(checks or ()):
        at = place[i]
        if makes_rule(check, at):
            _RULES_OF[metric_of(check, at) or ""](draft, at)
        else:
            find_quality(check, at)


def makes_rule(check: DataQuality, place: Place) -> bool:
    """Whether a property's check allows no bad record at all, and so makes dead letters."""
    if metric_of(check, place) not in _RULES_OF or is_advisory(check):
        return False
    given = bounds_given(check)
    if check.rule == "validValues" and not given:
        return True
    return given == ["mustBe"] and not isinstance(check.mustBe, bool) and check.mustBe == 0


def find_quality(check: DataQuality, place: Place) -> None:
    """Note what of a quality check is not made, where it makes no rule.

    Raises:
        ContractError: an unknown type of check or metric.
    """
    if (reason := unmade(check, place)) is not None:
        place.find(f"{_called(check)}{reason}: {NOT_ENFORCED}")
    for name in ("schedule", "scheduler"):
        if getattr(check, name):
            place[name].find("checks are made with every run: ignored")


def unmade(check: DataQuality, place: Place) -> str | None:
    """Why a check is not made, in words that follow its name; ``None`` if it is.

    Raises:
        ContractError: an unknown type of check or metric.
    """
    metric = metric_of(check, place)
    if "items" in place.at:
        return " of what an array holds"
    if check.type == "text":
        return ""
    if check.type == "custom":
        return None if check.engine == ENGINE else f" of the engine {say(check.engine)}"
    if check.type != "sql" and metric not in METRICS:
        return ""
    return None if bounds_given(check) else ", without a mustBe or its like"


def is_advisory(check: DataQuality) -> bool:
    """Whether a check is only reported."""
    return (check.severity or "").lower() in _ADVISORY_SEVERITIES


def bounds_given(check: DataQuality) -> list[str]:
    """The operators that a check has."""
    return [name for name in OPERATORS if getattr(check, name) is not None]


def metric_of(check: DataQuality, place: Place) -> str | None:
    """The metric that a check is of (``rule`` is its older name), or ``None``.

    Raises:
        ContractError: an unknown type of check or metric.
    """
    if check.type is not None and check.type not in _QUALITY_TYPES:
        hint = did_you_mean(check.type, _QUALITY_TYPES)
        hint = hint or f"; expected {list_names(_QUALITY_TYPES)}"
        raise place["type"].error(f"no type of quality check {say(check.type)}{hint}")
    if check.metric is not None and check.metric not in METRICS:
        hint = did_you_mean(check.metric, METRICS) or f"; expected {list_names(METRICS)}"
        raise place["metric"].error(f"no metric {say(check.metric)}{hint}")
    if check.type in (None, "library"):
        return check.metric or check.rule
    return None


def _called(check: DataQuality) -> str:
    name = check.metric or check.rule or check.name
    return f"the quality check {name}" if name else f"a quality check of type {check.type}"


def _null_values(draft: Draft, place: Place) -> None:
    draft.required = True


def _missing_values(draft: Draft, place: Place) -> None:
    listed = (place["arguments"].value or {}).get("missingValues")
    if not isinstance(listed, list) or None in listed:
        draft.required = True


def _invalid_values(draft: Draft, place: Place) -> None:
    at = place["arguments"]
    arguments = at.value or {}
    known = ("validValues", "pattern")
    for name in arguments:
        if name not in known:
            hint = did_you_mean(name, known)
            at[name].find(f"no argument of invalidValues: {NOT_ENFORCED}{hint}")
    if (values := arguments.get("validValues")) is not None:
        _listed_values(draft, values, at["validValues"])
    if (pattern := arguments.get("pattern")) is not None:
        if draft.type == "string":
            add_pattern(draft, "pattern", pattern, at["pattern"])
        else:
            at["pattern"].find(f"a pattern on type {draft.type}: {NOT_ENFORCED}")


def _valid_values_of_3_0(draft: Draft, place: Place) -> None:
    """``rule: validValues`` with the values beside it, as ODCS 3.0 writes it."""
    _listed_values(draft, place["validValues"].value, place["validValues"])


def _listed_values(draft: Draft, values: Any, place: Place) -> None:
    if not isinstance(values, list):
        raise place.error(f"expected a list of values, found {say(values)}")
    add_valid_values(draft, [(v, place[i]) for i, v in enumerate(values)], place)


_RULES_OF: dict[str, Callable[[Draft, Place], None]] = {
    "nullValues": _null_values,
    "missingValues": _missing_values,
    "invalidValues": _invalid_values,
    "validValues": _valid_values_of_3_0,
}
"""Metric → what makes rules of a check of it."""
