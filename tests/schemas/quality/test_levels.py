"""``slaProperties``: the levels that runs and data can tell, and mistakes in them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from millstream.schemas.contract import ContractError
from millstream.schemas.odcs import parse_contract
from millstream.schemas.quality.levels import Level, load_levels, parse_levels

HEAD = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: integer}
  - {name: at, logicalType: timestamp}
- {name: other, properties: [{name: at, logicalType: timestamp}]}
slaProperties:
"""
CONTRACT = parse_contract(HEAD.removesuffix("slaProperties:\n"), "c.yaml", schema="orders")


def levels(*said: str) -> tuple[Level, ...]:
    text = HEAD + "".join(f"- {{{one}}}\n" for one in said)
    return parse_levels(text, "c.yaml", CONTRACT)


@pytest.mark.parametrize(
    ("said", "kind", "limit"),
    [
        ("property: latency, value: 4, unit: d", "latency", 4 * 86400),
        ("property: frequency, value: 1.5, unit: hours", "frequency", 5400),
        ("property: freshness, value: 90, unit: m", "freshness", 5400),
        ("property: freshness, value: '90', unit: min", "freshness", 5400),
        ("property: freshness, value: PT1M", "freshness", 60),
        ("property: freshness, value: 36h", "freshness", 36 * 3600),
        ("property: retention, value: 3, unit: y", "retention", 3 * 365 * 86400),
        ("property: retention, value: 2", "retention", 2 * 86400),
        ("property: errorRate, value: 0.1, unit: percent", "errorRate", Fraction(1, 1000)),
        ("property: errorRate, value: 0.25", "errorRate", Fraction(1, 4)),
        ("property: ERRORRATE, value: 1", "errorRate", 1),
    ],
)
def test_a_level(said: str, kind: str, limit: Fraction):
    [level] = levels(said)
    assert (level.kind, level.limit, level.field) == (kind, limit, "")
    assert level.place == "c.yaml:12 slaProperties[0]"


def test_the_element_says_which_field_and_other_objects_are_left_out():
    found = levels(
        "property: freshness, value: 1, element: orders.at",
        "property: freshness, value: 1, element: other.at",
        "property: freshness, value: 1, element: 'other.at, orders.at'",
        "property: freshness, value: 1, element: orders",
    )
    assert [level.field for level in found] == ["at", "at", ""]


def test_what_nobody_can_tell_is_left_out():
    assert levels("property: availability, value: 99.9", "property: endOfLife, value: x") == ()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("property: latency, value: 4, unit: fortnight", "unit: no unit of time 'fortnight'"),
        ("property: latency, value: soon", "value: expected a duration such as 30s"),
        ("property: latency, value: true", "value: expected a number, found true"),
        ("property: latency, value: -1", "value: expected at least 0, found -1"),
        ("property: errorRate, value: 5", "expected a part of 1, found 5; say unit: percent"),
        ("property: errorRate, value: 1, unit: d", "no unit of a rate 'd'"),
        (
            "property: freshness, value: 1, element: orders.id",
            "element: expected a top-level timestamp, and of 'id' it is of type integer",
        ),
        (
            "property: freshness, value: 1, element: orders.no",
            "element: expected a top-level timestamp, and of 'no' there is none",
        ),
    ],
)
def test_a_mistake_names_its_place(said: str, message: str):
    with pytest.raises(ContractError) as raised:
        levels(said)
    assert str(raised.value).startswith("c.yaml:12 slaProperties[0]")
    assert message in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ContractError, match="cannot be read"):
        load_levels(tmp_path / "no.yaml", CONTRACT)
