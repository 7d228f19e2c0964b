"""What is counted of records: against plain Python, and the law that pieces add up to the whole."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import batch_schema, record_schema
from millstream.schemas.codes import Code
from millstream.schemas.dead_letters import SCHEMA
from millstream.schemas.keys import hash_keys
from millstream.schemas.odcs import parse_contract
from millstream.schemas.quality import duplicates
from millstream.schemas.quality.duplicates import KeyRun
from millstream.schemas.quality.loading import parse_checks
from millstream.schemas.quality.measures import (
    NEVER,
    Measure,
    Measured,
    Refusals,
    merged,
    merged_refusals,
    refusals_of,
)

TEXT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - name: status
    logicalType: string
    quality:
    - {metric: nullValues, mustBeLessThan: 5}
    - {metric: missingValues, mustBeLessThan: 5, arguments: {missingValues: ["", n/a]}}
    - {metric: invalidValues, mustBeLessThan: 5, arguments: {validValues: [open, paid]}}
    - {metric: invalidValues, mustBeLessThan: 5, arguments: {pattern: "^[a-z]+$"}}
    - {metric: invalidValues, mustBeLessThan: 5, arguments: {pattern: "^(?!n/a)"}}
  - name: amount
    logicalType: integer
    quality:
    - {metric: invalidValues, mustBeLessThan: 5, arguments: {validValues: [1, 2]}}
    - {metric: nullValues, mustBe: 0, severity: info}
  - name: ts
    logicalType: timestamp
    required: true
    customProperties: [{property: eventTime, value: true}]
  - name: place
    logicalType: object
    properties:
    - {name: zip, logicalType: string, quality: [{metric: nullValues, mustBeLessThan: 5}]}
  quality:
  - {metric: rowCount, mustBeGreaterThan: 1}
  - {type: custom, engine: millstream, implementation: "amount < 10", mustBeLessThan: 5}
  - {type: custom, engine: millstream, name: rate, implementation: "100 // amount > 1",
     severity: info}
"""
CONTRACT = parse_contract(TEXT, "c.yaml")
CHECKS = parse_checks(TEXT, "c.yaml", CONTRACT)
COLUMNS = record_schema(CONTRACT)

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "status": st.sampled_from([None, "", "n/a", "open", "paid", "Odd", "odd"]),
            "amount": st.sampled_from([None, 0, 1, 2, 50, 200]),
            "ts": st.integers(0, 10**9),
            "place": st.sampled_from([None, {"zip": None}, {"zip": "1"}]),
        }
    ),
    max_size=30,
)


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, COLUMNS)


def measure() -> Measure:
    return Measure(CHECKS, CONTRACT, COLUMNS)


MEASURE = measure()


def counted_in_python(rows: list[dict[str, Any]]) -> list[int]:
    def count(holds: Any) -> int:
        return sum(map(bool, map(holds, rows)))

    return [
        count(lambda r: r["status"] is None),
        count(lambda r: r["status"] in (None, "", "n/a")),
        count(lambda r: r["status"] is not None and r["status"] not in ("open", "paid")),
        count(lambda r: r["status"] is not None and not re.search("^[a-z]+$", r["status"])),
        count(lambda r: r["status"] is not None and not re.search("^(?!n/a)", r["status"])),
        count(lambda r: r["amount"] is not None and r["amount"] not in (1, 2)),
        count(lambda r: r["amount"] is None),
        count(lambda r: r["place"] is None or r["place"]["zip"] is None),
        0,
        count(lambda r: r["amount"] is not None and not r["amount"] < 10),
        count(lambda r: r["amount"] == 0 or (r["amount"] and not 100 // r["amount"] > 1)),
    ]


@given(ROWS)
def test_counts_are_those_of_plain_python(rows: list[dict[str, Any]]):
    found = MEASURE.of(batch_of(rows), "day=1")
    assert list(found.counts) == counted_in_python(rows)
    assert (found.rows, found.partition) == (len(rows), "day=1")
    assert found.newest == max((row["ts"] for row in rows), default=NEVER)


@given(ROWS, st.lists(st.integers(0, 30), max_size=5))
def test_the_counts_of_pieces_are_those_of_the_whole(rows: list[dict[str, Any]], cuts: list[int]):
    bounds = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    batch = batch_of(rows)
    pieces = [batch.slice(a, b - a) for a, b in pairwise(bounds)]
    parts = [MEASURE.of(piece) for piece in pieces]
    whole = MEASURE.of(batch)
    assert merged(parts, len(CHECKS)) == whole
    assert merged(reversed(parts), len(CHECKS)) == whole
    halves = [merged(parts[::2], len(CHECKS)), merged(parts[1::2], len(CHECKS))]
    assert merged(halves, len(CHECKS)) == whole


def test_nothing_adds_up_to_nothing():
    assert merged([], 2) == Measured(0, (0, 0))
    assert merged_refusals([], 2) == Refusals(0, (0, 0))


def test_columns_of_identity_are_in_nobodys_way():
    schema = batch_schema(CONTRACT)
    row = {"status": None, "amount": 70, "ts": 5, "place": None}
    identity = {"_source": "a", "_position": 1, "_payload": b"x"}
    batch = pa.RecordBatch.from_pylist([{**row, **identity}], schema)
    assert list(Measure(CHECKS, CONTRACT, schema).of(batch).counts) == counted_in_python([row])


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_enforced_checks_count_nothing_of_what_is_kept(rows: int):
    text = TEXT.replace("metric: nullValues, mustBeLessThan: 5", "metric: nullValues, mustBe: 0", 1)
    contract = parse_contract(text, "c.yaml")
    checks = parse_checks(text, "c.yaml", contract)
    batch = batch_of([{"status": None, "ts": 1}] * rows)
    assert Measure(checks, contract, COLUMNS).of(batch).counts[0] == 0


LETTERS: list[tuple[list[tuple[str, Code]], dict[str, int]]] = [
    ([("status", Code.REQUIRED)], {"status nullValues": 1, "status missingValues": 1}),
    ([("status", Code.TYPE)], {"status invalidValues": 1}),
    ([("status", Code.TYPE), ("status", Code.ENUM)], {"status invalidValues": 1}),
    ([("status", Code.REQUIRED), ("amount", Code.RANGE)],
     {"status nullValues": 1, "status missingValues": 1, "amount invalidValues": 1}),
    ([("", Code.MALFORMED)], {"status invalidValues": 1, "amount invalidValues": 1}),
    ([("", Code.STEP)], {}),
    ([("statuses", Code.TYPE)], {}),
    ([("place.zip", Code.REQUIRED)], {"place.zip nullValues": 1}),
]  # fmt: skip


def letters(found: list[list[tuple[str, Code]]]) -> pa.RecordBatch:
    rows = [
        {
            "timestamp": 0,
            "violations": [{"field": f, "code": c.value, "message": "m"} for f, c in violations],
        }
        for violations in found
    ]
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


def by_name(refusals: Refusals) -> dict[str, int]:
    found: dict[str, int] = {}
    for check, count in zip(CHECKS, refusals.counts, strict=True):
        if count:
            found.setdefault(check.name.partition(" #")[0], count)
    return found


@pytest.mark.parametrize(("violations", "expected"), LETTERS)
def test_what_a_dead_letter_counts_as(violations: Any, expected: dict[str, int]):
    assert by_name(refusals_of(letters([violations]), CHECKS)) == expected


def test_the_counts_of_dead_letters_add_up():
    all_of_them = [violations for violations, _ in LETTERS]
    whole = refusals_of(letters(all_of_them), CHECKS)
    parts = [refusals_of(letters([one]), CHECKS) for one in all_of_them]
    assert merged_refusals(parts, len(CHECKS)) == whole
    assert whole.rows == len(LETTERS)
    assert by_name(whole)["status invalidValues"] == 3


def test_dead_letters_of_an_expression_are_told_apart_from_others():
    from millstream.schemas.quality.row_rules import message_of

    text = TEXT.replace(", mustBeLessThan: 5}\n  - {type: custom", "}\n  - {type: custom")
    checks = parse_checks(text, "c.yaml", parse_contract(text, "c.yaml"))
    [ours] = [check for check in checks if check.kind == "records" and check.is_enforced]
    said = [message_of(ours), f"another; {message_of(ours)}", message_of(ours) + "0", "another"]
    rows = [
        {"timestamp": 0, "violations": [{"field": "", "code": "STEP", "message": message}]}
        for message in said
    ]
    found = refusals_of(pa.RecordBatch.from_pylist(rows, SCHEMA), checks)
    assert found.counts[checks.index(ours)] == 2


def run_of(keys: list[str | None]) -> KeyRun:
    hashes = hash_keys(pa.record_batch({"k": pa.array(keys, pa.string())}), ["k"])
    return KeyRun.of(hashes.high, hashes.low)


def in_order(run: KeyRun) -> list[tuple[int, int]]:
    return sorted(zip(run.high.tolist(), run.low.tolist(), strict=True))


KEYS = st.lists(st.sampled_from([None, *"abcdefgh"]), max_size=40)


@given(KEYS)
def test_repeated_keys_are_those_that_plain_python_counts(keys: list[str | None]):
    counts = Counter(key for key in keys if key is not None)
    run = run_of(keys)
    assert run.repeated == sum(count > 1 for count in counts.values())
    assert len(run.high) == sum(min(count, 2) for count in counts.values())


@given(st.lists(KEYS, max_size=6))
def test_the_repeated_keys_of_pieces_are_those_of_the_whole(pieces: list[list[str | None]]):
    whole = run_of([key for piece in pieces for key in piece])
    runs = [run_of(piece) for piece in pieces]
    assert duplicates.repeated_in(runs) == whole.repeated
    halves = [duplicates.merged(runs[::2]), duplicates.merged(runs[1::2])]
    for together in (duplicates.merged(runs), duplicates.merged(halves)):
        assert together.repeated == whole.repeated
        assert in_order(together) == in_order(whole)
        buckets = duplicates.buckets_of(together.high).tolist()
        assert buckets == sorted(buckets)


def test_keys_that_share_half_of_their_hash_are_not_equal():
    high = np.array([7, 7, 7, 7, 9], np.uint64)
    run = KeyRun.of(high, np.array([2, 1, 2, 3, 9], np.uint64))
    assert in_order(run) == [(7, 1), (7, 2), (7, 2), (7, 3), (9, 9)]
    assert run.repeated == 1


def test_of_a_key_that_is_there_often_two_are_kept():
    half = np.array([5] * 4 + [6] + [5] * 3, np.uint64)
    run = KeyRun.of(half, half)
    assert in_order(run) == [(5, 5), (5, 5), (6, 6)]
    assert run.repeated == 1
    assert duplicates.repeated_in([]) == duplicates.merged([]).repeated == 0


@pytest.mark.parametrize("format", ["f32", "f64"])
def test_zero_is_zero_whatever_its_sign(format: str):
    text = f"""\
apiVersion: v3.1.0
kind: DataContract
id: c
version: 1.0.0
schema:
- name: c
  properties:
  - name: x
    logicalType: number
    logicalTypeOptions: {{format: {format}}}
    quality:
    - {{metric: missingValues, mustBeLessThan: 1, arguments: {{missingValues: [0]}}}}
    - {{metric: invalidValues, mustBeLessThan: 1, arguments: {{validValues: [0, 0.1]}}}}
"""
    contract = parse_contract(text, "c.yaml")
    columns = record_schema(contract)
    rows = [{"x": x} for x in (0.0, -0.0, 0.1, 5.0)]
    found = Measure(parse_checks(text, "c.yaml", contract), contract, columns)
    assert found.of(pa.RecordBatch.from_pylist(rows, columns)).counts == (2, 1)
