"""CSV, Avro and Parquet: what is noticed is what would be kept."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import UNKNOWN
from millstream.schemas.arrow_decoder import ArrowDecoder
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.csv.decoder import CsvDecoder, CsvRecords
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.decoded import Decoded
from millstream.schemas.drift.facts import Found

CONTRACT = Contract(
    "c",
    "1",
    "c",
    (
        Field("n", "integer", rules=(Rule("minimum", 0),)),
        Field("o", "object", fields=(Field("a", "string"),)),
        Field("l", "array", items=Field("item", "object", fields=(Field("b", "boolean"),))),
    ),
)


def told(noticed: Found | None) -> dict[int, dict[str, list[str]]]:
    by_row: dict[int, dict[str, list[str]]] = {}
    for (_, path), seen in (noticed or {}).items():
        for pairs in seen.values():
            for row, text in pairs:
                by_row.setdefault(row, {}).setdefault(path, []).append(text.decode())
    return {row: {p: sorted(v) for p, v in found.items()} for row, found in by_row.items()}


def kept(decoded: Decoded, size: int) -> dict[int, dict[str, list[str]]]:
    """What a decoder has kept, by row and path, as JSON."""
    rows = range(size) if decoded.kept is None else decoded.kept.tolist()
    found: dict[int, dict[str, list[str]]] = {}
    for row, text in zip(rows, decoded.records.column(UNKNOWN).to_pylist(), strict=True):
        for path, value in (json.loads(text) if text else {}).items():
            there = found.setdefault(row, {})
            there.setdefault(re.sub(r"\[\d+\]", "[]", path), []).append(json.dumps(value))
    return {row: {p: sorted(v) for p, v in paths.items()} for row, paths in found.items()}


def without_unknown(decoded: Decoded) -> Any:
    records = decoded.records
    return records.drop_columns([UNKNOWN]) if UNKNOWN in records.schema.names else records


CELLS = st.sampled_from(["", "1", "-7", "1.5", "true", "x", '"q"', "2026-01-01"])


@settings(max_examples=60)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8))
def test_csv_columns_that_no_field_has(records):
    lines = [",".join(cells).encode() for cells in records]
    starts = np.cumsum([0, *(len(line) + 1 for line in lines[:-1])])
    ends = starts + np.array([len(line) for line in lines])
    given_ = CsvRecords(0, b"\n".join(lines), starts, ends, {})
    noticing, keeping = (
        CsvDecoder(CONTRACT, ["n", "u", "v"], CsvOptions(), mode, judge=True).decode(given_)
        for mode in ("notice", "keep")
    )
    assert noticing.refused == keeping.refused
    assert noticing.records == without_unknown(keeping)
    texts = {
        row: {path: [json.loads(t) if t[0] == '"' else t for t in v] for path, v in found.items()}
        for row, found in told(noticing.noticed).items()
    }
    cells = {
        row: {path: [json.loads(t) for t in v] for path, v in found.items()}
        for row, found in kept(keeping, len(records)).items()
    }
    assert texts == cells


def test_csv_cells_that_hold_json():
    lines = [b'1,"{""a"":""x"",""u"":1}"', b'-1,"{""u"":2}"', b"2,"]
    starts = np.cumsum([0, *(len(line) + 1 for line in lines[:-1])])
    ends = starts + np.array([len(line) for line in lines])
    records = CsvRecords(0, b"\n".join(lines), starts, ends, {})
    decoded = CsvDecoder(CONTRACT, ["n", "o"], CsvOptions(), "notice", judge=True).decode(records)
    assert decoded.refused == [1]
    assert decoded.noticed == {("field", "o.u"): {"integer": [(0, b"1")]}}


EXTRA = st.none() | st.integers(0, 9)
ROWS = st.fixed_dictionaries(
    {
        "n": st.integers(-2, 5),
        "u": EXTRA,
        "o": st.none() | st.fixed_dictionaries({"a": st.none() | st.text("ab"), "w": EXTRA}),
        "l": st.lists(st.fixed_dictionaries({"b": st.booleans(), "x": EXTRA}), max_size=3),
    }
)
SCHEMA = pa.schema(
    {
        "n": pa.int64(),
        "u": pa.int64(),
        "o": pa.struct({"a": pa.string(), "w": pa.int64()}),
        "l": pa.list_(pa.struct({"b": pa.bool_(), "x": pa.int64()})),
    }
)


@settings(max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=8))
def test_columns_of_files_that_no_field_has(records):
    batch = pa.RecordBatch.from_pylist(records, SCHEMA)
    noticing, keeping = (
        ArrowDecoder(CONTRACT, mode, judge=True).decode(batch) for mode in ("notice", "keep")
    )
    assert noticing.refused == keeping.refused
    assert noticing.records == without_unknown(keeping)
    assert told(noticing.noticed) == kept(keeping, len(records))


def test_what_is_read_as_json_is_noticed_too():
    maps = pa.array([[("a", "x"), ("z", "y")], None], pa.map_(pa.string(), pa.string()))
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2]), maps], names=["n", "o"])
    decoded = ArrowDecoder(CONTRACT, "notice").decode(batch)
    assert decoded.noticed == {("field", "o.z"): {"string": [(0, b'"y"')]}}
