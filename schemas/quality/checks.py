"""A quality check, compiled: what is counted, among which records, and what the count must be.

Two populations are told apart. ``read``: the records that came in, those that became dead letters
included, without duplicates that the job leaves out. ``kept``: of these, the records that keep the
contract. A value that is null, missing or invalid is counted among ``read``, since a contract's own
rules have made dead letters of the worst of them; rows, duplicates and queries are about ``kept``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, NamedTuple

Kind = Literal[
    "nullValues", "missingValues", "invalidValues", "duplicateValues", "rowCount", "sql", "records",
]  # fmt: skip
"""ODCS's metrics; ``sql``: what a query gives; ``records``: records that break an expression."""

Severity = Literal["critical", "error", "warning", "info"]
GATING: frozenset[str] = frozenset({"critical", "error"})
"""Severities of checks that stop a run; the others are reported."""

Population = Literal["read", "kept"]

DIMENSIONS = (
    "accuracy", "completeness", "conformity", "consistency", "coverage", "timeliness", "uniqueness",
)  # fmt: skip
"""ODCS's."""

DEFAULT_DIMENSION: dict[Kind, str] = {
    "nullValues": "completeness",
    "missingValues": "completeness",
    "invalidValues": "conformity",
    "duplicateValues": "uniqueness",
    "rowCount": "coverage",
    "sql": "consistency",
    "records": "consistency",
}
"""What a check is about, where the contract does not say."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One of ODCS's operators, and what it compares with: two numbers for ``…Between``."""

    operator: str
    limit: Any

    def holds(self, value: Any) -> bool:
        """Whether a value is as it must be. One that cannot be compared is not."""
        return _HOLDS[self.operator](value, self.limit)

    def __str__(self) -> str:
        return f"{self.operator} {self.limit}"


def _exact(value: Any) -> Fraction | None:
    """A number exactly, a fraction as its shortest text says; ``None`` for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | Fraction):
        return None
    if isinstance(value, float):
        return Fraction(repr(value)) if math.isfinite(value) else None
    if isinstance(value, Decimal) and not value.is_finite():
        return None
    return Fraction(value)


def _is_equal(value: Any, limit: Any) -> bool:
    number, other = _exact(value), _exact(limit)
    if number is not None and other is not None:
        return number == other
    if isinstance(value, dt.date | dt.time):
        return isinstance(limit, str) and _is_moment(value, limit)
    return type(value) is type(limit) and value == limit


def _is_moment(value: dt.date | dt.time, limit: str) -> bool:
    """Whether a text says this day or time; without an offset, in UTC."""
    try:
        said = type(value).fromisoformat(limit)
    except ValueError:
        return False
    return _in_utc(value) == _in_utc(said)


def _in_utc(moment: Any) -> Any:
    is_naive = isinstance(moment, dt.datetime) and moment.tzinfo is None
    return moment.replace(tzinfo=dt.UTC) if is_naive else moment


def _compare(value: Any, limit: Any) -> int | None:
    """Below, equal or above as -1, 0 and 1."""
    number, other = _exact(value), _exact(limit)
    if number is None or other is None:
        return None
    return (number > other) - (number < other)


def _is_between(value: Any, limits: Sequence[Any]) -> bool | None:
    least, most = (_compare(value, limit) for limit in limits)
    return None if least is None or most is None else least >= 0 >= most


_HOLDS = {
    "mustBe": _is_equal,
    "mustNotBe": lambda value, limit: value is not None and not _is_equal(value, limit),
    "mustBeGreaterThan": lambda value, limit: _compare(value, limit) == 1,
    "mustBeGreaterOrEqualTo": lambda value, limit: _compare(value, limit) in (0, 1),
    "mustBeLessThan": lambda value, limit: _compare(value, limit) == -1,
    "mustBeLessOrEqualTo": lambda value, limit: _compare(value, limit) in (0, -1),
    "mustBeBetween": lambda value, limits: _is_between(value, limits) is True,
    "mustNotBeBetween": lambda value, limits: _is_between(value, limits) is False,
}
OPERATORS = tuple(_HOLDS)
"""ODCS's. Both ends of ``mustBeBetween`` are inside."""


@dataclass(frozen=True, slots=True)
class Check:
    """One quality check.

    Attributes:
        name: what messages and the table of scores call it: its own, else field and metric.
        field: the dotted path of the field that it is about; empty: of whole records.
        bounds: what the value must be, all of them.
        percent: compare the value's share of the population, times 100.
        is_enforced: the contract's rules make a dead letter of each record that breaks it: it is
            scored, and stops nothing.
        columns: of ``duplicateValues``: the fields whose values together are compared.
        values: of ``missingValues`` what else counts as missing, of ``invalidValues`` all that is
            valid; of the field's own type.
        patterns: of ``invalidValues``: what a valid value matches, every one.
        text: the query of ``sql``, the expression of ``records``.
        is_hidden: records hold classified fields: a text that a query gives is not repeated.
        action: what a broken check does, where it is not its severity's.
        place: file, line and path in the contract.
    """

    name: str
    kind: Kind
    field: str = ""
    bounds: tuple[Bound, ...] = ()
    percent: bool = False
    severity: Severity = "error"
    dimension: str = ""
    population: Population = "read"
    is_enforced: bool = False
    columns: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    patterns: tuple[str, ...] = ()
    text: str = ""
    is_hidden: bool = False
    action: str = ""
    place: str = ""

    @property
    def threshold(self) -> str:
        """The bounds as text."""
        unit = " percent" if self.percent else ""
        return ", ".join(f"{bound}{unit}" for bound in self.bounds)

    @property
    def counts_rows(self) -> bool:
        """Whether the value is a number of bad rows, which has a share of the population."""
        return self.kind not in ("rowCount", "sql")


class Value(NamedTuple):
    """What was measured: ``value`` is ``None`` where that could not be, and ``error`` says why."""

    value: Any
    population: int
    error: str = ""


Judgement = Literal["kept", "broken", "enforced", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a check ended: ``kept``, ``broken``, ``enforced`` (what broke it are dead letters, and
    none is published) or ``unknown`` (it could not be measured, which counts as broken).

    ``partition`` is the partition of the output that it is about; empty: all.
    """

    check: Check
    value: Value
    judgement: Judgement
    partition: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether it is not as the contract says."""
        return self.judgement in ("broken", "unknown")

    @property
    def score(self) -> float:
        """From 0 to 1: the share of good rows, or, of what has none, whether the check is kept."""
        value, population, _ = self.value
        if not self.check.counts_rows or not population or value is None:
            return 0.0 if self.is_bad else 1.0
        return max(0.0, 1 - value / population)

    @property
    def shown(self) -> str:
        """The value as it is compared."""
        value, population, error = self.value
        if value is None:
            return error or "nothing"
        if self.check.is_hidden and not isinstance(value, int | float | Decimal):
            return "a value not shown"
        if not self.check.percent:
            return str(value)
        return f"{float(share(int(value), population)):.6g} percent ({value} of {population})"

    def __str__(self) -> str:
        where = f" in {self.partition}" if self.partition else ""
        said = f"{self.check.name}{where}: {self.shown}"
        said += f", {self.check.threshold}" if self.check.threshold else ""
        return f"{said} ({self.check.place})" if self.check.place else said


def share(value: int, population: int) -> Fraction:
    """Percent, exactly. Of nothing, nothing is bad."""
    return Fraction(100 * value, population) if population else Fraction(0)


def judge(check: Check, value: Value, partition: str = "") -> Verdict:
    """Hold what was measured against a check's bounds."""
    if check.is_enforced:
        return Verdict(check, value, "enforced" if value.value else "kept", partition)
    if value.error:
        return Verdict(check, value, "unknown", partition)
    seen = share(value.value, value.population) if check.percent else value.value
    is_kept = all(bound.holds(seen) for bound in check.bounds)
    return Verdict(check, value, "kept" if is_kept else "broken", partition)


def scores(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """The mean score by dimension, and of all, under the empty name; of whole runs alone."""
    by_dimension: dict[str, list[float]] = {}
    for verdict in verdicts:
        if not verdict.partition:
            for name in (verdict.check.dimension, ""):
                by_dimension.setdefault(name, []).append(verdict.score)
    return {name: sum(found) / len(found) for name, found in sorted(by_dimension.items())}


def digest_of(checks: Iterable[Check]) -> str:
    """The SHA-256 (hex) of what decides how checks end; where they are written decides nothing."""
    said = [{k: v for k, v in asdict(check).items() if k != "place"} for check in checks]
    text = json.dumps(said, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
