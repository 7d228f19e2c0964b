"""``quality`` of a property → rules of its field, where not one bad value is allowed.

Every other check is about many records at once: it becomes a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..problems import Place, did_you_mean, list_names, say
from .rules import NOT_ENFORCED, add_pattern, add_valid_values
from .types import Draft

if TYPE_CHECKING:
    from open_data_contract_standard.model import DataQuality

METRICS = ("nullValues", "missingValues", "invalidValues", "duplicateValues", "rowCount")
_QUALITY_TYPES = ("text", "library", "sql", "custom")
_OPERATORS = (
    "mustBe", "mustNotBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeLessThan",
    "mustBeLessOrEqualTo", "mustBeBetween", "mustNotBeBetween",
)  # fmt: skip
_ADVISORY_SEVERITIES = ("info", "warning", "warn")


def read_quality(draft: Draft, checks: Sequence[DataQuality] | None, place: Place) -> None:
    """Read a property's quality checks: those that allow no bad value at all become rules.

    Raises:
        ContractError: an unknown type of check or metric, or an argument that cannot be.
    """
    for i, check in enumerate(checks or ()):
        at = place[i]
        read = _METRICS_READ.get(_metric(check, at) or "")
        if read is None or not _allows_none(check, at):
            find_quality(check, at)
        elif (check.severity or "").lower() in _ADVISORY_SEVERITIES:
            at.find(f"{_called(check)} of severity {check.severity}: {NOT_ENFORCED}")
        else:
            read(draft, at)


def find_quality(check: DataQuality, place: Place) -> None:
    """Note a quality check that the pipeline does not make."""
    _metric(check, place)
    place.find(f"{_called(check)}: {NOT_ENFORCED}")


def _metric(check: DataQuality, place: Place) -> str | None:
    """The metric that a check is of (``rule`` is its older name), or ``None``."""
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


def _allows_none(check: DataQuality, place: Place) -> bool:
    given = [name for name in _OPERATORS if getattr(check, name) is not None]
    if check.rule == "validValues" and not given:
        return True
    return given == ["mustBe"] and not isinstance(check.mustBe, bool) and check.mustBe == 0


def _null_values(draft: Draft, place: Place) -> None:
    draft.required = True


def _missing_values(draft: Draft, place: Place) -> None:
    listed = (place["arguments"].value or {}).get("missingValues")
    if not isinstance(listed, list) or None in listed:
        draft.required = True
    others = [v for v in listed if v is not None] if isinstance(listed, list) else []
    if others:
        words = ", ".join(map(say, others))
        place["arguments"].find(f"missingValues {words}: {NOT_ENFORCED}")


def _invalid_values(draft: Draft, place: Place) -> None:
    at = place["arguments"]
    arguments = at.value or {}
    known = ("validValues", "pattern")
    for name in arguments:
        if name not in known:
            hint = did_you_mean(name, known)
            at[name].find(f"no argument of invalidValues: {NOT_ENFORCED}{hint}")
    if not any(arguments.get(name) for name in known):
        place.find(f"invalidValues without validValues or pattern: {NOT_ENFORCED}")
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


_METRICS_READ: dict[str, Callable[[Draft, Place], None]] = {
    "nullValues": _null_values,
    "missingValues": _missing_values,
    "invalidValues": _invalid_values,
    "validValues": _valid_values_of_3_0,
}
