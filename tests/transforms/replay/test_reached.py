"""How far records have come before: what failed again is not taken the same way twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from millstream.schemas.arrow import POSITION, SOURCE
from millstream.transforms.replay.frozen import FROZEN, FrozenLetters, freeze
from millstream.transforms.replay.reached import (
    COUNTED,
    KEPT,
    REACHED_BEFORE,
    SplitReached,
    farthest,
)
from millstream.transforms.tallies import TALLIES, Tally

from tests.running import run


def said(stage: str) -> list[dict[str, Any]]:
    return [{"key": "csv.header", "value": "step"}, {"key": "reached", "value": stage}]


@pytest.mark.parametrize(
    ("stage", "attributes", "now", "wanted"),
    [
        ("parse", None, "parse", ""),
        ("step", None, "step", ""),
        ("step", None, "parse", "step"),
        ("write", None, "step", "write"),
        ("write", None, "validate", "write"),
        ("parse", said("step"), "parse", "step"),
        ("parse", said("step"), "write", ""),
        ("step", said("write"), "parse", "write"),
        ("write", said("step"), "parse", "write"),
        (None, [], "read", ""),
    ],
)
def test_a_letter_says_the_farthest_stage_that_its_own_does_not_tell(
    stage, attributes, now, wanted
):
    assert farthest(stage, attributes, now) == wanted


LETTERS = [
    ("a", "0", "parse", None),
    ("a", "1", "step", None),
    ("a", "2", "write", None),
    ("a", "3", "validate", said("step")),
    ("b", "1", "parse", said("write")),
    ("b", "2", "parse", []),
    ("b", "4-9", "step", None),
    (None, None, "write", None),
]


def letters(folder: Path) -> FrozenLetters:
    names = ("source", "position", "stage", "attributes")
    rows = [dict(zip(names, row, strict=True)) | {"id": str(i)} for i, row in enumerate(LETTERS)]
    return freeze([pa.RecordBatch.from_pylist(rows, FROZEN)], str(folder))


def records(*places: tuple[str, int | None]) -> pa.RecordBatch:
    sources = pa.array([source for source, _ in places]).dictionary_encode()
    return pa.RecordBatch.from_arrays(
        [sources, pa.array([position for _, position in places], pa.int64())], [SOURCE, POSITION]
    )


PLACES = [("a", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2), ("c", 1), ("b", None)]


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        (KEPT, {("a", 1), ("a", 2), ("a", 3), ("b", 1)}),
        (COUNTED, {("a", 2), ("b", 1)}),
    ],
)
def test_records_are_told_apart_by_their_places(stage, wanted, tmp_path):
    batches = [records(*PLACES), records(*PLACES[:1]), records(*PLACES[1:3])]

    def build(pipeline: Any) -> dict[str, Any]:
        split = SplitReached(letters(tmp_path), stage, ("sums", "means"))
        outputs = pipeline | beam.Create(batches) | split
        return {
            "new": outputs.records, "before": outputs[REACHED_BEFORE], "told": outputs[TALLIES]
        }  # fmt: skip

    found = run(build)
    every = [place for some in (PLACES, PLACES[:1], PLACES[1:3]) for place in some]
    key = repr
    assert sorted(places_of(found["before"]), key=key) == sorted(
        (place for place in every if place in wanted), key=key
    )
    assert sorted(places_of(found["new"]), key=key) == sorted(
        (place for place in every if place not in wanted), key=key
    )
    for output in ("sums", "means"):
        counts = [tally for tally in found["told"] if tally.output == output]
        assert {tally.outcome for tally in counts} == {"filtered"}
        assert sum(tally.rows for tally in counts) == len(places_of(found["before"]))
        assert all(isinstance(tally, Tally) for tally in counts)


def places_of(batches: list[pa.RecordBatch]) -> list[tuple[str, int | None]]:
    return [(row[SOURCE], row[POSITION]) for batch in batches for row in batch.to_pylist()]


def test_without_such_letters_all_is_new(tmp_path):
    folder = str(tmp_path)
    none = freeze([pa.RecordBatch.from_pylist([], FROZEN)], folder)
    found = run(
        lambda pipeline: {
            "new": (pipeline | beam.Create([records(*PLACES)]) | SplitReached(none, KEPT)).records
        }
    )
    assert places_of(found["new"]) == PLACES
