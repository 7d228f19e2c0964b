"""Counts of drift: exact, bounded, and the same whatever they were counted in."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.drift import facts
from millstream.schemas.drift.facts import Drift, Found, Rows, Sample, drift_of, merged

Record = tuple[str, int, list[tuple[str, str, str, str]]]
"""Source, position, and what was noticed: kind, path, what was seen, value."""

NOTES = st.tuples(
    st.sampled_from(("field", "type", "value")),
    st.sampled_from(("a", "b", "c[]", "d[].e", "f")),
    st.sampled_from("pqrst"),
    st.sampled_from("12345678"),
)
RECORDS: st.SearchStrategy[list[Record]] = st.lists(
    st.tuples(st.sampled_from("xy"), st.integers(0, 200), st.lists(NOTES, max_size=5)),
    max_size=30,
    unique_by=lambda record: record[:2],
)


def counted(records: list[Record]) -> Drift:
    found: Found = {}
    for row, (_, _, notes) in enumerate(records):
        once = {note[:2] for note in notes if "[" not in note[1]}
        for kind, path, seen, value in notes:
            if "[" not in path and (kind, path) not in once:
                continue  # outside arrays a record has a field once
            once.discard((kind, path))
            key: Any = (kind, path)
            found.setdefault(key, {}).setdefault(seen, []).append((row, value))
    sources = pa.array([source for source, _, _ in records], pa.string())
    positions = pa.array([position for _, position, _ in records], pa.int64())
    return drift_of(found, Rows(sources, positions)) or facts.NOTHING


@pytest.fixture(scope="module", params=["few", "all"], autouse=True)
def bounds(request):
    """With bounds that are reached, and those that are not."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "few":
            patch.setattr(facts, "PLACES", 3)
            patch.setattr(facts, "SEEN", 2)
            patch.setattr(facts, "SAMPLES", 2)
        yield


@given(RECORDS, st.lists(st.integers(0, 30), max_size=4), st.randoms())
def test_counts_of_any_split_are_those_of_the_whole(records, cuts, random):
    bounds = [0, *sorted(cuts), len(records)]
    parts = [counted(records[a:b]) for a, b in itertools.pairwise(bounds) if a < b]
    random.shuffle(parts)
    assert merged(parts) == counted(records)


@given(RECORDS)
def test_the_order_of_records_does_not_matter(records):
    assert counted(records) == counted(sorted(records))


def test_records_are_counted_and_not_values():
    drift = counted([("x", 0, [("field", "l[].a", "string", "1"), ("field", "l[].a", "null", "")])])
    assert drift.records == 1
    assert drift.places[("field", "l[].a")].records == 1


def test_samples_are_the_first_and_values_are_cut_short():
    rows = Rows(pa.array(["f"] * 100), pa.array(range(100)))
    found: Found = {("field", "a"): {"string": [(i, b"x" * 200) for i in range(90, 0, -1)]}}
    drift = drift_of(found, rows)
    assert drift is not None
    samples = drift.places[("field", "a")].seen["string"].samples
    assert [s.position for s in samples] == [str(i + 1) for i in range(facts.SAMPLES)]
    assert samples[0] == Sample("f", "1", "x" * 80 + "…")


def test_a_drift_can_be_sent():
    drift = counted([("x", 0, [("field", "a", "p", "1")])])
    assert pickle.loads(pickle.dumps(drift)) == drift
