"""Contracts of samples: every row keeps the contract that was made of all."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow_decoder import ArrowDecoder
from millstream.schemas.contract import Contract, Rule
from millstream.schemas.csv.decoder import CsvDecoder, CsvRecords
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.imports.document import odcs_document
from millstream.schemas.imports.imported import CannotImport
from millstream.schemas.imports.samples import import_samples
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.odcs import parse_contract

from tests import strategies


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


def _contract(*files: Path, tight: bool = False) -> Contract:
    found = import_samples(list(map(str, files)), tight=tight)
    found.name = "samples"
    return parse_contract(odcs_document(found), "made.yaml")


@given(strategies.contracts(), st.booleans(), st.data())
@settings(max_examples=150)
def test_every_line_of_json_is_valid(
    folder: Path, contract: Contract, tight: bool, data: st.DataObject
):
    fields = tuple(replace(f, required=f.required and n > 0) for n, f in enumerate(contract.fields))
    contract = replace(contract, fields=fields)
    some = data.draw(st.lists(strategies.records(contract), min_size=1, max_size=12))
    lines = [record.payload for record in some]
    file = folder / "rows.jsonl"
    file.write_bytes(b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines))
    if not any(map(json.loads, lines)):
        return  # rows without one field
    made = _contract(file, tight=tight)
    assert not JsonDecoder(made, judge=True).decode(pa.array(lines, pa.binary())).violations


CELLS = (
    ["1", "-7", "0", "", "12345678901234567"],
    ["1", "0.5", "1e3", "-2.5E-3", ""],
    ["true", "False", ""],
    ["2026-11-24", ""],
    ["2026-11-24T10:00:00Z", "2026-11-24T10:00:00.123456+01:00"],
    ["2026-11-24T10:00:00Z", "2026-11-24 10:00:00"],
    ["10:30", "23:59:59.5", ""],
    ["1", "007", "0.5", "a", "true", "2026-11-24", "x@y.z", "10:30"],
)


@given(
    st.sampled_from(CELLS).flatmap(lambda c: st.lists(st.sampled_from(c), min_size=1)),
    st.booleans(),
)
@settings(max_examples=200)
def test_every_cell_of_csv_is_valid(folder: Path, cells: list[str], tight: bool):
    file = folder / "rows.csv"
    file.write_text("n,v\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(cells)), "utf-8")
    decoder = CsvDecoder(_contract(file, tight=tight), ["n", "v"], CsvOptions(), judge=True)
    starts = np.array([0, *itertools.accumulate(len(f"{n},{c}") + 1 for n, c in enumerate(cells))])
    lines = file.read_bytes().partition(b"\n")[2]
    records = CsvRecords(0, lines, starts[:-1], starts[1:] - 1, {})
    assert not decoder.decode(records).violations


@given(strategies.contracts(depth=2), st.booleans(), st.data())
@settings(max_examples=100)
def test_every_row_of_parquet_is_valid(
    folder: Path, contract: Contract, tight: bool, data: st.DataObject
):
    lines = [data.draw(strategies.records(contract)).payload for _ in range(5)]
    records = JsonDecoder(contract).decode(pa.array(lines, pa.binary())).records
    file = folder / "rows.parquet"
    try:
        pq.write_table(pa.table(records), file)
    except pa.ArrowNotImplementedError:
        return  # Parquet has no structs without fields
    made = _contract(file, tight=tight)
    (batch,) = pq.read_table(file).to_batches()
    assert not ArrowDecoder(made, judge=True).decode(batch).violations


ROWS = [
    {
        "order_id": f"ORD-{n:06}",
        "uid": f"00000000-0000-4000-8000-{n:012x}",
        "at": f"2026-11-24T10:{n % 60:02}:00Z",
        "day": "2026-11-24",
        "country": ["SE", "NO", "FI"][n % 3],
        "amount": n / 4,
        "count": n % 7,
        "tags": ["a"] * (n % 3),
        "address": {"zip": f"{n % 10_000:04}"},
        "note": None if n % 2 else f"n {n}",
        "odd": n if n % 2 else "n",
    }
    for n in range(1000)
]


def _write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def test_numbers_in_cells_have_a_range(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text("n,x\n1,0.5\n7,-2\n", "utf-8")
    made = _contract(file, tight=True)
    assert made.field("n").rules == (Rule("minimum", 1), Rule("maximum", 7))
    assert made.field("x").rules == (Rule("minimum", -2.0), Rule("maximum", 0.5))


def test_what_is_inferred(tmp_path: Path):
    made = _contract(_write(tmp_path / "rows.jsonl", ROWS))
    fields = {field.name: field for field in made.fields}
    assert {name: field.type for name, field in fields.items()} == {
        "order_id": "string", "uid": "string", "at": "timestamp", "day": "date",
        "country": "string", "amount": "number", "count": "integer", "tags": "array",
        "address": "object", "note": "string", "odd": "json",
    }  # fmt: skip
    assert fields["order_id"].rules == (Rule("pattern", r"^[A-Z]{3}\-[0-9]{6}$"),)
    assert fields["uid"].rules == (Rule("format", "uuid"),)
    assert fields["country"].rules == (Rule("enum", ("FI", "NO", "SE")),)
    assert fields["count"].rules == (Rule("minimum", 0),)
    assert made.event_time == "at"
    assert made.primary_key == ("order_id",)
    assert [name for name, field in fields.items() if not field.required] == ["note"]
    tight = _contract(tmp_path / "rows.jsonl", tight=True)
    assert set(tight.field("count").rules) == {Rule("minimum", 0), Rule("maximum", 6)}


def test_the_evidence_stands_beside_the_fields(tmp_path: Path):
    found = import_samples([str(_write(tmp_path / "rows.jsonl", ROWS))])
    found.name = "orders"
    text = odcs_document(found)
    assert "  # 1,000 of 1,000 rows\n  # 2 to 2 characters\n  # 3 different values\n" in text
    assert "# 500 of 1,000 rows" in text
    assert "500 integers" in text
    assert "500 strings: kept as JSON" in text


def test_a_pattern_holds_for_what_came_before_it_was_looked_for(tmp_path: Path):
    # Long times, which then prove to be none: their shapes are not known any more.
    rows = [{"v": "2026-11-24"}] * 30_000 + [{"v": f"X{n:07}"} for n in range(30_000)]
    made = _contract(_write(tmp_path / "rows.jsonl", rows))
    assert made.field("v").rules == ()


def test_lines_that_are_no_json_are_counted(tmp_path: Path):
    file = _write(tmp_path / "rows.jsonl", ROWS[:20])
    file.write_bytes(file.read_bytes() + b"{broken\n[1]\n" + b'{"count": 5}\n')
    found = import_samples([str(file)])
    assert "2 lines are no JSON objects: left out" in found.notes.of(())
    assert "21 rows" in found.notes.of(())


def test_a_header_of_csv_in_several_lines(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text('"the\nname",b\n01,2\n', "utf-8")
    found = import_samples([str(file)])
    assert [(f.name, f.type) for f in found.fields] == [("b", "integer")]
    assert r"'the\nname' cannot be the name of a field: left out" in found.notes.of(())


def test_a_header_of_csv_that_names_a_column_twice(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text("a,b,a\n1,2,x\n", "utf-8")
    with pytest.raises(CannotImport, match="the header names the column 'a' twice"):
        import_samples([str(file)])


def test_what_samples_cannot_be_made_of(tmp_path: Path):
    empty = tmp_path / "rows.jsonl"
    empty.write_bytes(b"")
    for file, message in (
        (empty, "no rows to make a contract of"),
        (tmp_path / "none.csv", "cannot be read: no such file"),
        (tmp_path / "rows.xml", "samples have one of the endings"),
    ):
        with pytest.raises(CannotImport, match=message):
            import_samples([str(file)])
