"""Measuring in a pipeline: the facts that come of it, and what is left on the disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.odcs import parse_contract
from millstream.schemas.quality.loading import parse_checks
from millstream.schemas.quality.measures import Measured, merged
from millstream.transforms.quality import measure as measuring
from millstream.transforms.quality.facts import Keys, SpilledRows
from millstream.transforms.quality.measure import MeasureRecords
from millstream.transforms.quality.repeated import repeated_keys
from millstream.transforms.write.partitions import parse_partitions

from tests.running import run

TEXT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: string, quality: [{metric: duplicateValues, mustBe: 0}]}
  - {name: n, logicalType: integer, quality: [{metric: nullValues, mustBeLessThan: 1}]}
  quality:
  - {metric: duplicateValues, mustBe: 0, arguments: {properties: [id, n]}}
"""
CONTRACT = parse_contract(TEXT, "c.yaml")
CHECKS = parse_checks(TEXT, "c.yaml", CONTRACT)
SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])

Row = tuple[str | None, int | None]


def batch(rows: list[Row]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"id": i, "n": n} for i, n in rows], SCHEMA)


def facts_of(batches: list[pa.RecordBatch], folder: Path, **options: Any) -> list[Any]:
    make = MeasureRecords(CHECKS, CONTRACT, folder=str(folder), **options)
    given = beam.Create(batches, reshuffle=False)
    return run(lambda p: {"facts": p | given | make})["facts"]


def of_kind(facts: list[Any], kind: type) -> list[Any]:
    return [fact for fact in facts if isinstance(fact, kind)]


def repeated(facts: list[Any], check: int) -> int:
    keys = [fact for fact in of_kind(facts, Keys) if fact.check == check]
    return repeated_keys(CHECKS[check].columns, keys)


def repeated_in_python(rows: list[Row], columns: tuple[int, ...]) -> int:
    keys = [tuple(row[i] for i in columns) for row in rows]
    counts = Counter(key for key in keys if None not in key)
    return sum(count > 1 for count in counts.values())


def test_facts_of_a_few_records(tmp_path):
    rows: list[Row] = [("a", 1), ("a", None), ("b", 1), (None, 1), ("a", 1)]
    facts = facts_of([batch(rows[:2]), batch(rows[2:])], tmp_path)
    whole = merged(of_kind(facts, Measured), len(CHECKS))
    assert (whole.rows, whole.counts) == (5, (0, 1, 0))
    assert (repeated(facts, 0), repeated(facts, 2)) == (1, 1)
    assert not list(tmp_path.iterdir())  # so few keys need no file


def test_no_records_no_facts(tmp_path):
    assert facts_of([batch([])], tmp_path, spills=True) == []
    assert repeated_keys(("id",), []) == 0


@pytest.mark.parametrize(("run_keys", "inline"), [(3, 2), (50, 0), (1000, 4)])
def test_keys_in_many_files(tmp_path, monkeypatch, run_keys: int, inline: int):
    monkeypatch.setattr(measuring, "RUN_KEYS", run_keys)
    monkeypatch.setattr(measuring, "INLINE_KEYS", inline)
    rows: list[Row] = [("alone", 1), (None, 1)]
    rows += [(str(i % 71), i % 3) for i in range(200)]
    facts = facts_of([batch(rows[i : i + 7]) for i in range(0, len(rows), 7)], tmp_path)
    assert repeated(facts, 0) == repeated_in_python(rows, (0,))
    assert repeated(facts, 2) == repeated_in_python(rows, (0, 1))
    files = [fact.file.file.path for fact in of_kind(facts, Keys) if fact.file]
    assert sorted(files) == sorted(map(str, tmp_path.glob("*.keys")))
    assert files


@pytest.mark.parametrize("at_once", [1, 5, 10**9])
def test_keys_are_compared_range_by_range(tmp_path, monkeypatch, at_once: int):
    from millstream.transforms.deduplicate import resolve

    monkeypatch.setattr(resolve, "RESOLVE_KEYS", at_once)
    monkeypatch.setattr(measuring, "INLINE_KEYS", 10)
    monkeypatch.setattr(measuring, "RUN_KEYS", 30)
    rows: list[Row] = [(str(i % 97), 1) for i in range(150)]
    facts = facts_of([batch(rows[i : i + 10]) for i in range(0, 150, 10)], tmp_path)
    assert repeated(facts, 0) == repeated_in_python(rows, (0,))


def test_a_column_of_few_values_is_hashed_once_a_value(tmp_path):
    rows: list[Row] = [("b", 1), (None, 1), (None, 1)]
    rows += [("a", 1)] * 1500
    facts = facts_of([batch(rows)], tmp_path)
    [keys] = [fact for fact in of_kind(facts, Keys) if fact.check == 0]
    assert len(keys.high) == 3 * 8
    assert repeated(facts, 0) == 1


def test_keys_of_two_kinds_cannot_be_compared():
    from millstream.schemas.keys import KeyColumnError

    with pytest.raises(KeyColumnError, match="cannot be compared"):
        repeated_keys(("id",), [Keys(0, ("string",), b"1" * 8), Keys(0, ("integer",), b"1" * 8)])


def test_records_are_counted_by_the_partition_that_they_go_to(tmp_path):
    rows: list[Row] = [("a", None), ("b", 1), ("a", 1)]
    facts = facts_of([batch(rows)], tmp_path, partitions=parse_partitions("id"))
    found = {fact.partition: (fact.rows, fact.counts) for fact in of_kind(facts, Measured)}
    assert found == {"id=a": (2, (0, 1, 0)), "id=b": (1, (0, 0, 0))}


def test_records_are_spilled_for_queries_without_their_identity(tmp_path):
    rows: list[Row] = [("a", None), ("b", 1)]
    given = batch(rows).append_column("_position", pa.array([1, 2]))
    [spilled] = of_kind(facts_of([given, given], tmp_path, spills=True), SpilledRows)
    assert spilled.rows == 4
    table = pq.read_table(spilled.path)
    assert table.to_pylist() == batch(rows * 2).to_pylist()


def test_what_a_bundle_left_that_was_never_finished_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "RUN_KEYS", 1)
    monkeypatch.setattr(measuring, "INLINE_KEYS", 0)
    make = MeasureRecords(CHECKS, CONTRACT, folder=str(tmp_path), spills=True)
    make._fn.start_bundle()
    make._fn.process(batch([("a", 1)]), timestamp=0)
    assert list(tmp_path.iterdir())
    make._fn.start_bundle()  # the bundle is repeated
    assert not list(tmp_path.iterdir())
    make._fn.process(batch([("a", 1)]), timestamp=0)
    facts = [value.value for value in make._fn.finish_bundle()]
    assert merged(of_kind(facts, Measured), len(CHECKS)).rows == 1


def test_records_of_two_slices_share_no_fact(tmp_path):
    make = MeasureRecords(CHECKS, CONTRACT, folder=str(tmp_path))
    make._fn.start_bundle()
    for time in (1, 2, 1):
        make._fn.process(batch([("a", time)]), timestamp=time)
    found = [(v.timestamp, v.value) for v in make._fn.finish_bundle()]
    rows = {time.micros // 10**6: v.rows for time, v in found if isinstance(v, Measured)}
    assert rows == {1: 2, 2: 1}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([None, *"abcdef"]), st.sampled_from([None, 1, 2]))),
        max_size=8,
    ),
    st.integers(1, 12),
)
def test_however_records_are_cut_the_same_keys_are_repeated(
    tmp_path_factory, pieces: list[list[Row]], run_keys: int
):
    folder = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "RUN_KEYS", run_keys)
        patch.setattr(measuring, "INLINE_KEYS", 2)
        make = MeasureRecords(CHECKS, CONTRACT, folder=str(folder))
        facts: list[Any] = []
        for piece in pieces:  # a bundle each
            make._fn.start_bundle()
            make._fn.process(batch(piece), timestamp=0)
            facts += [value.value for value in make._fn.finish_bundle()]
    rows = [row for piece in pieces for row in piece]
    assert repeated(facts, 0) == repeated_in_python(rows, (0,))
    assert repeated(facts, 2) == repeated_in_python(rows, (0, 1))
