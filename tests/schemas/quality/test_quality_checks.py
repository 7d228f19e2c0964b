"""What checks compare with, how they end, and what scores come of it."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.quality.checks import (
    OPERATORS,
    Bound,
    Check,
    Value,
    digest_of,
    judge,
    scores,
    share,
)


@pytest.mark.parametrize(
    ("operator", "limit", "holding", "breaking"),
    [
        ("mustBe", 0, [0, 0.0, Decimal(0)], [1, -1, None, False, "0", math.nan]),
        ("mustBe", 0.1, [0.1, Fraction(1, 10)], [Fraction(1, 9)]),
        ("mustBe", "OK", ["OK"], ["ok", 0, None]),
        ("mustBe", True, [True], [1, False]),
        ("mustBe", "2026-01-05", [date(2026, 1, 5)], [date(2026, 1, 6), "5"]),
        ("mustNotBe", "2026-01-05", [date(2026, 1, 6)], [date(2026, 1, 5), None]),
        (
            "mustBe",
            "2026-01-05T01:00:00+01:00",
            [datetime(2026, 1, 5), datetime(2026, 1, 5, tzinfo=UTC)],
            [datetime(2026, 1, 5, 1), date(2026, 1, 5)],
        ),
        ("mustBe", "09:30:00", [time(9, 30)], [time(9, 31)]),
        ("mustBe", 5, [5], [date(2026, 1, 5)]),
        ("mustNotBe", 0, [1, -1, "0"], [0, None]),
        ("mustBeGreaterThan", 5, [6, 5.1], [5, 4, None, "6", math.inf]),
        ("mustBeGreaterOrEqualTo", 5, [5, 6], [4, None]),
        ("mustBeLessThan", 5, [4, Decimal("4.9")], [5, 6, None, math.nan]),
        ("mustBeLessOrEqualTo", 5, [5, 4], [6, None]),
        ("mustBeBetween", (1, 3), [1, 2, 3], [0, 4, None]),
        ("mustNotBeBetween", (1, 3), [0, 4], [1, 2, 3, None]),
    ],
)
def test_every_operator(operator: str, limit: Any, holding: list[Any], breaking: list[Any]):
    bound = Bound(operator, limit)
    assert [value for value in holding if not bound.holds(value)] == []
    assert [value for value in breaking if bound.holds(value)] == []


def test_no_operator_of_the_standard_is_missing():
    from open_data_contract_standard.model import DataQuality

    assert set(OPERATORS) == {n for n in DataQuality.model_fields if n.startswith("must")}


def check(kind: Any = "nullValues", **rest: Any) -> Check:
    rest.setdefault("bounds", (Bound("mustBeLessThan", 5),))
    return Check("c", kind, dimension=rest.pop("dimension", "completeness"), **rest)


def test_a_share_is_exact():
    whole = 3 * 10**17
    least = check(percent=True, bounds=(Bound("mustBeLessThan", 10),))
    assert judge(least, Value(whole // 10, whole)).judgement == "broken"
    assert judge(least, Value(whole // 10 - 1, whole)).judgement == "kept"


def test_nothing_is_bad_of_nothing():
    assert share(0, 0) == 0
    assert judge(check(percent=True), Value(0, 0)).judgement == "kept"
    assert judge(check(percent=True), Value(0, 0)).score == 1


def test_what_could_not_be_measured_counts_as_bad():
    verdict = judge(check("sql"), Value(None, 10, "the query fails: no"))
    assert (verdict.judgement, verdict.is_bad, verdict.score) == ("unknown", True, 0)
    assert "the query fails: no" in str(verdict)


def test_a_text_that_a_query_gives_is_not_repeated_where_fields_are_classified():
    bounds = (Bound("mustBe", "x"),)
    open_ = judge(check("sql", bounds=bounds), Value("me@here", 9))
    hidden = judge(check("sql", bounds=bounds, is_hidden=True), Value("me@here", 9))
    assert (open_.shown, hidden.shown) == ("me@here", "a value not shown")
    assert judge(check("sql", bounds=bounds, is_hidden=True), Value(7, 9)).shown == "7"


def test_what_a_rule_enforces_is_scored_and_never_bad():
    verdict = judge(check(is_enforced=True, bounds=(Bound("mustBe", 0),)), Value(25, 100))
    assert (verdict.judgement, verdict.is_bad, verdict.score) == ("enforced", False, 0.75)


def test_several_bounds_must_all_hold():
    both = check("rowCount", bounds=(Bound("mustBeGreaterThan", 1), Bound("mustBeLessThan", 5)))
    found = [judge(both, Value(n, n)).judgement for n in (1, 2, 5)]
    assert found == ["broken", "kept", "broken"]


def test_scores_are_means_by_dimension_and_of_all():
    verdicts = [
        judge(check(), Value(0, 10)),
        judge(check(), Value(5, 10)),
        judge(check("rowCount", dimension="coverage"), Value(7, 7)),
        judge(check(), Value(10, 10), "country=NO"),  # a part of what is counted already
    ]
    assert scores(verdicts) == {"": 0.5, "completeness": 0.75, "coverage": 0.0}


def test_a_digest_says_what_decides():
    one = check(place="a.yaml:1")
    assert digest_of([one]) == digest_of([check(place="b.yaml:9")])
    assert digest_of([one]) != digest_of([check(severity="warning")])
    assert digest_of([one]) != digest_of([one, one])


@given(st.integers(0, 10**12), st.integers(1, 10**12), st.floats(0, 100))
def test_percent_is_what_exact_arithmetic_says(bad: int, rows: int, limit: float):
    verdict = judge(
        check(percent=True, bounds=(Bound("mustBeLessOrEqualTo", limit),)), Value(bad, rows)
    )
    kept = Decimal(repr(limit)) * rows >= 100 * bad
    assert (verdict.judgement == "kept") is bool(kept)
