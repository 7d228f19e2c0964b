"""``quality`` of ODCS documents: the checks that are made, and what is said of the others."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from millstream.schemas.contract import ContractError
from millstream.schemas.odcs import parse_contract
from millstream.schemas.quality.checks import Bound, Check
from millstream.schemas.quality.loading import filled_in, load_checks, parse_checks

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
  - {name: place, logicalType: object, properties: [{name: zip, logicalType: string}]}
"""


def loaded(field: str = "", table: str = "") -> tuple[Check, ...]:
    """The checks of a document with one more property, or checks of the table."""
    text = HEAD
    text += f"  - {{name: f, {field}}}\n" if field else ""
    text += f"  quality:\n  - {{{table}}}\n" if table else ""
    return parse_checks(text, "c.yaml", parse_contract(text, "c.yaml"))


def only(field: str = "", table: str = "") -> Check:
    [check] = loaded(field, table)
    return check


def string(quality: str) -> str:
    return f"logicalType: string, quality: [{{{quality}}}]"


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (
            "metric: nullValues, mustBeLessThan: 5, unit: percent",
            Check("f nullValues", "nullValues", "f", (Bound("mustBeLessThan", 5),), True),
        ),
        (
            "type: library, metric: missingValues, mustBeBetween: [1, 2.5], severity: warning, "
            "arguments: {missingValues: [null, '', n/a]}",
            Check(
                "f missingValues",
                "missingValues",
                "f",
                (Bound("mustBeBetween", (1, 2.5)),),
                severity="warning",
                values=("", "n/a"),
            ),
        ),
        (
            "metric: invalidValues, mustBeLessOrEqualTo: 1, name: the ' name, dimension: accuracy, "
            "arguments: {validValues: [a, null], pattern: '^a'}",
            Check(
                "the ' name",
                "invalidValues",
                "f",
                (Bound("mustBeLessOrEqualTo", 1),),
                dimension="accuracy",
                values=("a",),
                patterns=("^a",),
            ),
        ),
        (
            "metric: duplicateValues, mustNotBe: 3, severity: critical, "
            "customProperties: [{property: action, value: quarantine}]",
            Check(
                "f duplicateValues",
                "duplicateValues",
                "f",
                (Bound("mustNotBe", 3),),
                severity="critical",
                population="kept",
                columns=("f",),
                action="quarantine",
            ),
        ),
        (
            "type: sql, query: 'SELECT max(length({property})) FROM ${object}', mustBe: 3",
            Check(
                "f query",
                "sql",
                "f",
                (Bound("mustBe", 3),),
                population="kept",
                text='SELECT max(length("f")) FROM "orders"',
            ),
        ),
    ],
)
def test_a_check_of_a_property(quality: str, expected: Check):
    from dataclasses import replace

    found = only(string(quality))
    defaults = {"nullValues": "completeness", "missingValues": "completeness", "sql": "consistency"}
    dimension = expected.dimension or defaults.get(expected.kind, "uniqueness")
    place = "c.yaml:11 f.quality[0]"
    assert found == replace(expected, dimension=dimension, place=place)


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        ("metric: nullValues, mustBe: 0", ("nullValues", "read", True)),
        ("metric: missingValues, mustBe: 0", ("missingValues", "read", True)),
        ("rule: nullValues, mustBe: 0", ("nullValues", "read", True)),
        (
            "metric: invalidValues, mustBe: 0, arguments: {validValues: [a]}",
            ("invalidValues", "read", True),
        ),
        ("rule: validValues, validValues: [a]", ("invalidValues", "read", True)),
        # the words are no rule of a field: they are counted among the records that are left
        (
            "metric: missingValues, mustBe: 0, arguments: {missingValues: ['', null]}",
            ("missingValues", "kept", False),
        ),
        ("metric: nullValues, mustBe: 0, severity: info", ("nullValues", "read", False)),
    ],
)
def test_what_allows_nothing_bad_is_enforced_by_rules(quality: str, expected: Any):
    found = only(string(quality))
    assert (found.kind, found.population, found.is_enforced) == expected


def test_values_are_of_the_fields_own_type():
    moment = "2026-01-01T00:00:00Z"
    check = only(
        "logicalType: timestamp, quality: [{metric: invalidValues, mustBeLessThan: 2, "
        f"arguments: {{validValues: ['{moment}']}}}}]"
    )
    assert check.values == (dt.datetime(2026, 1, 1, tzinfo=dt.UTC),)
    check = only(
        "logicalType: number, physicalType: 'decimal(9,2)', quality: [{metric: missingValues, "
        "mustBeLessThan: 2, arguments: {missingValues: [-1, n/a]}}]"
    )
    assert check.values == (Decimal("-1.00"),)  # no number is n/a


def test_checks_of_the_table():
    assert only(table="metric: rowCount, mustBeGreaterThan: 0").kind == "rowCount"
    check = only(table="metric: duplicateValues, mustBe: 0, arguments: {properties: [id, at]}")
    assert (check.name, check.columns) == ("duplicateValues", ("id", "at"))
    check = only(table="type: custom, engine: millstream, implementation: id > 0")
    assert (check.kind, check.text, check.is_enforced) == ("records", "id > 0", True)
    counted = "type: custom, engine: millstream, implementation: id > 0, "
    assert not only(table=counted + "mustBeLessThan: 5").is_enforced
    assert not only(table=counted + "severity: warning").is_enforced


def test_checks_inside_of_objects_have_their_path():
    text = HEAD.replace(
        "{name: zip, logicalType: string}",
        "{name: zip, logicalType: string, quality: [{metric: nullValues, mustBeLessThan: 1}]}",
    )
    [check] = parse_checks(text, "c.yaml", parse_contract(text, "c.yaml"))
    assert (check.field, check.name) == ("place.zip", "place.zip nullValues")


def test_checks_of_one_name_are_told_apart():
    twice = "{metric: nullValues, mustBeLessThan: 5}, {metric: nullValues, mustNotBe: 2}"
    names = [c.name for c in loaded(f"logicalType: string, quality: [{twice}]")]
    assert names == ["f nullValues", "f nullValues #2"]


@pytest.mark.parametrize(
    ("field", "table", "finding"),
    [
        (string("type: text, description: nice"), "", "a quality check of type text"),
        (string("metric: nullValues"), "", "nullValues, without a mustBe or its like"),
        (string("type: custom, engine: soda, implementation: x"), "", "of the engine 'soda'"),
        (
            "logicalType: array, items: {logicalType: string, "
            "quality: [{metric: nullValues, mustBeLessThan: 1}]}",
            "",
            "nullValues of what an array holds",
        ),
        ("", "type: text, name: good", "the quality check good"),
    ],
)
def test_what_nobody_makes_is_a_finding(field: str, table: str, finding: str):
    text = HEAD
    text += f"  - {{name: f, {field}}}\n" if field else ""
    text += f"  quality:\n  - {{{table}}}\n" if table else ""
    contract = parse_contract(text, "c.yaml")
    assert parse_checks(text, "c.yaml", contract) == ()
    [found] = [f for f in contract.findings if "not enforced by the pipeline" in f.message]
    assert finding in found.message


def test_a_schedule_is_a_finding_and_the_check_is_made():
    text = HEAD + f"  - {{name: f, {string('metric: nullValues, mustNotBe: 1, schedule: x')}}}\n"
    contract = parse_contract(text, "c.yaml")
    assert [f.path for f in contract.findings if "every run" in f.message] == [
        "f.quality[0].schedule"
    ]
    assert len(parse_checks(text, "c.yaml", contract)) == 1


@pytest.mark.parametrize(
    ("field", "table", "message"),
    [
        (
            string("metric: nullValues, mustBeLessThan: 1, unit: percents"),
            "",
            "c.yaml:11 f.quality[0].unit: no unit 'percents'; did you mean 'percent'?",
        ),
        (
            "",
            "metric: rowCount, mustBe: 1, unit: percent",
            "c.yaml:12 orders.quality[0].unit: rowCount has no whole that it could be a part of",
        ),
        (
            "",
            "metric: nullValues, mustBeLessThan: 1",
            "orders.quality[0]: nullValues is about one property: write it in the quality of that",
        ),
        (
            "",
            "metric: duplicateValues, mustBe: 0, arguments: {properties: [ids]}",
            "arguments.properties[0]: no top-level property 'ids'; did you mean 'id'?",
        ),
        (
            "",
            "metric: duplicateValues, mustBe: 0",
            "duplicateValues of whole records: say of which, as arguments: {properties: [a]}",
        ),
        (
            "",
            "metric: duplicateValues, mustBe: 0, arguments: {properties: [place]}",
            "place is nested: it has no duplicates",
        ),
        (
            string("metric: missingValues, mustBeLessThan: 1, arguments: {missingValue: [a]}"),
            "",
            "missingValues takes no argument 'missingValue'; did you mean 'missingValues'?",
        ),
        (
            string("metric: invalidValues, mustBeLessThan: 1, arguments: {pattern: '['}"),
            "",
            "'[' is no regular expression",
        ),
        (
            "logicalType: integer, quality: [{metric: invalidValues, mustBeLessThan: 1, "
            "arguments: {validValues: [a]}}]",
            "",
            "arguments.validValues[0]: expected an integer, found 'a'",
        ),
        (
            "logicalType: array, items: {logicalType: string}, quality: [{metric: invalidValues, "
            "mustBeLessThan: 1, arguments: {validValues: [a]}}]",
            "",
            "arguments.validValues: values of type array are not compared with a list",
        ),
        (string("type: sql, mustBe: 1"), "", "a check of type sql needs a query"),
        (
            string("metric: nullValues, mustBe: few"),
            "",
            "f.quality[0].mustBe: expected a number, found 'few'",
        ),
        ("", "type: custom, engine: millstream", "expected an SQL expression over a record"),
        (
            string(
                "metric: nullValues, mustNotBe: 1, "
                "customProperties: [{property: action, value: stop}]"
            ),
            "",
            "value: expected 'warn', 'quarantine' or 'fail', found 'stop'",
        ),
    ],
)
def test_a_mistake_names_its_place(field: str, table: str, message: str):
    with pytest.raises(ContractError) as raised:
        loaded(field, table)
    assert message in str(raised.value)
    assert str(raised.value).startswith("c.yaml:1")


def test_placeholders_are_quoted_and_others_stay():
    names = {"object": 'or"ders', "property": "place.zip"}
    query = "SELECT '{other}' FROM `{object}` WHERE \"{property}\" = $1"
    filled = 'SELECT \'{other}\' FROM "or""ders" WHERE "place"."zip" = $1'
    assert filled_in(query, names) == filled


def test_a_file_that_is_not_there(tmp_path):
    contract = parse_contract(HEAD, "c.yaml")
    with pytest.raises(ContractError, match="cannot be read"):
        load_checks(tmp_path / "no.yaml", contract)
