"""Parquet files to records: each row once, and nothing that is corrupt goes in silence."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import record_schema
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.json.decoder import JsonDecoder
from millstream.transforms.dead_letters import Origin
from millstream.transforms.read import parquet
from millstream.transforms.read.files import local_file
from millstream.transforms.read.lines import Oversize, Unreadable
from millstream.transforms.read.parquet import ParquetReader, ReadFromParquet
from millstream.transforms.read.parquet_footer import row_group_bytes
from millstream.transforms.read.records import Piece
from millstream.transforms.storage import StorageError

from tests import strategies
from tests.running import rows, run

CONTRACT = Contract(
    "c",
    "1.0.0",
    "c",
    (
        Field("n", "integer", required=True, rules=(Rule("minimum", 0),)),
        Field("s", "string"),
        Field("l", "array", items=Field("item", "object", fields=(
            Field("d", "decimal", precision=9, scale=2),
        ))),
    ),
)  # fmt: skip


class Read(NamedTuple):
    """What came out of a file."""

    rows: list[dict[str, Any]]
    positions: list[int]
    payloads: dict[int, bytes]  # by position, of good and refused rows
    refused: dict[int, list[tuple[str, str]]]  # by position
    regions: list[Unreadable]
    oversize: list[Oversize]


def read(path: Path, contract: Contract = CONTRACT, **options: Any) -> Read:
    """Read all ranges of a file, in order."""
    found = Read([], [], {}, {}, [], [])
    reader = ParquetReader(contract, judge=True, **options)
    for part in reader.ranges([local_file(str(path))]):
        for piece in reader.read(part):
            match piece:
                case Unreadable():
                    found.regions.append(piece)
                case Oversize():
                    found.oversize.append(piece)
                case Piece():
                    _note(piece, found)
    return found


def _note(piece: Piece, found: Read) -> None:
    decoded, positions = piece.decoded, piece.positions.to_pylist()
    every = np.arange(len(positions))
    kept = every if decoded.kept is None else decoded.kept
    found.rows.extend(decoded.records.to_pylist())
    found.positions.extend(positions[i] for i in kept)
    payloads = piece.payloads(every)
    found.payloads.update(zip(positions, payloads.to_pylist(), strict=True))
    for some in (kept, every[1::2], np.array(decoded.refused, np.int64)):
        assert piece.payloads(some).equals(payloads.take(pa.array(some)))
    for v in decoded.violations:
        found.refused.setdefault(positions[v.row], []).append((v.field, v.code.value))


def record(i: int) -> dict[str, Any]:
    items = [{"d": Decimal(i * 10 + j) / 4} for j in range(i % 3)]
    return {"x": i % 2 == 0, "n": i, "s": None if i % 3 == 1 else f"é{i % 7}", "l": items}


TYPE = pa.schema(
    [
        pa.field("x", pa.bool_()),
        pa.field("n", pa.int32()),
        pa.field("s", pa.large_string()),
        pa.field("l", pa.large_list(pa.struct([pa.field("d", pa.decimal128(12, 4))]))),
    ]
)


def written(path: Path, count: int, **options: Any) -> Path:
    table = pa.Table.from_pylist(list(map(record, range(count))), TYPE)
    pq.write_table(table, path, **options)
    return path


def expected(i: int) -> dict[str, Any]:
    return {k: v for k, v in record(i).items() if k != "x"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("parquet")


# ------------------------------------------------------------------------------------- the laws


@given(st.data(), strategies.contracts(), st.integers(1, 4))
def test_records_are_what_json_lines_make_of_them(folder, data, contract, group):
    drawn = data.draw(st.lists(strategies.records(contract, lawful=False), max_size=4))
    table = pa.Table.from_pylist([r.values for r in drawn], record_schema(contract))
    pq.write_table(table, folder / "law.parquet", row_group_size=group)
    payloads = pa.array([r.payload for r in drawn], pa.binary())
    decoded = JsonDecoder(contract, judge=True).decode(payloads)
    got = read(folder / "law.parquet", contract)
    assert got.rows == decoded.records.to_pylist()
    assert not got.regions
    assert set(got.refused) == set(decoded.refused)
    for row in decoded.refused:
        said = {(v.field, v.code.value) for v in decoded.violations if v.row == row}
        assert set(got.refused[row]) == said
    if "json" in str(contract):
        return  # of text that holds JSON, JSON makes a string
    again = pa.array([got.payloads[row] for row in range(len(drawn))], pa.binary())
    replayed = JsonDecoder(contract, judge=True).decode(again)
    assert replayed.refused == decoded.refused
    assert replayed.records.equals(decoded.records)


@given(
    st.integers(0, 40),
    st.integers(1, 20),
    st.integers(300, 3000),
    st.sampled_from(["none", "snappy", "gzip", "brotli", "zstd", "lz4"]),
    st.booleans(),
    st.integers(1, 50),
)
def test_each_row_is_in_one_range(folder, count, group, range_bytes, codec, payload, batch):
    path = written(folder / "ranges.parquet", count, row_group_size=group, compression=codec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "_BATCH_ROWS", batch)
        got = read(path, range_bytes=range_bytes, payload=payload)
    assert got.rows == list(map(expected, range(count)))
    assert got.positions == list(range(count))
    assert not got.regions
    for i in range(count):
        assert json.loads(got.payloads[i])["n"] == i
        assert list(json.loads(got.payloads[i])) == TYPE.names


@given(st.data(), st.booleans(), st.integers(300, 3000), st.sampled_from(["none", "zstd"]))
def test_whatever_the_bytes_are_reading_ends_and_no_count_is_wrong_in_silence(
    folder, data, dictionary, range_bytes, codec
):
    options: dict[str, Any] = {"use_dictionary": dictionary, "compression": codec}
    path = written(folder / "any.parquet", 30, row_group_size=12, data_page_size=50, **options)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    got = read(path, range_bytes=range_bytes)
    assert len({*got.positions, *got.refused}) == len(got.rows) + len(got.refused)
    if not got.regions:
        assert {*got.positions, *got.refused} == set(range(30))


@given(st.data(), st.integers(300, 3000))
def test_of_pages_with_checksums_every_row_is_what_was_written(folder, data, range_bytes):
    path = written(
        folder / "checked.parquet", 30, row_group_size=12, data_page_size=50,
        write_page_checksum=True, compression="none", write_statistics=False,
    )  # fmt: skip
    whole = path.read_bytes()
    # a value that is there once, within a page
    at = whole.rindex(data.draw(st.sampled_from([b"\xc3\xa96", b"\xc3\xa93"])))
    path.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    got = read(path, range_bytes=range_bytes)
    assert got.regions
    assert got.rows == [expected(i) for i in got.positions]


@given(st.integers(0, 100_000), st.integers(300, 3000))
def test_a_file_that_is_cut_off_is_told_once(folder, cut, range_bytes):
    whole = written(folder / "cut.parquet", 20, row_group_size=9).read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: cut % len(whole)])
    got = read(folder / "cut.parquet", range_bytes=range_bytes)
    assert not got.rows
    [region] = got.regions
    assert (region.start, region.end) == (0, cut % len(whole))
    assert region.reason.startswith("cannot be read as Parquet: ")


# -------------------------------------------------------------------------------------- examples


def table_of(tmp_path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", **options)
    return tmp_path / "t.parquet"


AT = dt.datetime(1500, 1, 2, 3, 4, 5, 678901)
UTC = dt.UTC


@pytest.mark.parametrize(
    ("field", "column", "options", "value"),
    [
        (Field("f", "timestamp"), pa.array([AT], pa.timestamp("us", "UTC")), {},
         AT.replace(tzinfo=UTC)),
        (Field("f", "timestamp"), pa.array([1], pa.timestamp("ns", "Asia/Tokyo")), {},
         dt.datetime(1970, 1, 1, tzinfo=UTC)),
        (Field("f", "timestamp", zone="UTC"), pa.array([AT], pa.timestamp("us")),
         {"use_deprecated_int96_timestamps": True}, AT.replace(tzinfo=UTC)),
        (Field("f", "string"),
         pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(15) + b"\5"], pa.binary(16))),
         {"store_schema": False}, "00000000-0000-0000-0000-000000000005"),
        (Field("f", "object", fields=(Field("a", "decimal", precision=3, scale=2),)),
         pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1.50}'])),
         {"store_schema": False}, {"a": Decimal("1.50")}),
        (Field("f", "json"), pa.array(['{"a": 1.50}']), {}, '{"a": 1.50}'),
        (Field("f", "string"), pa.array(["a"]).dictionary_encode(), {}, "a"),
        (Field("f", "string"), pa.array(["a"], pa.string_view()), {}, "a"),
        (Field("f", "number"), pa.array([1.5], pa.float16()), {}, 1.5),
        (Field("f", "json"), pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), {},
         '{"k":1}'),
        (Field("f", "date"), pa.array([dt.date(2026, 1, 2)], pa.date64()), {},
         dt.date(2026, 1, 2)),
        (Field("f", "time"), pa.array([1_500], pa.time64("ns")), {}, dt.time(0, 0, 0, 1)),
    ],
)  # fmt: skip
def test_logical_types(tmp_path, field, column, options, value):
    path = table_of(tmp_path, {"f": column}, **options)
    got = read(path, Contract("c", "1", "c", (field,)))
    assert not got.refused
    assert got.rows == [{"f": value}]


def test_int96_has_no_zone(tmp_path):
    column = pa.array([AT], pa.timestamp("us"))
    path = table_of(tmp_path, {"f": column}, use_deprecated_int96_timestamps=True)
    got = read(path, Contract("c", "1", "c", (Field("f", "timestamp"),)))
    assert got.refused == {0: [("f", "FORMAT")]}


def test_strings_are_looked_at(tmp_path):
    binary = pa.array([b"ok", b"\xff", None], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    got = read(table_of(tmp_path, {"s": text, "n": [1, 2, 3]}))
    assert got.refused == {1: [("s", "ENCODING")]}
    assert got.payloads[1] == b'{"s":"\xff","n":2}'


@pytest.mark.parametrize("payload", [True, False])
def test_a_payload_has_all_columns(tmp_path, payload):
    columns = {"more": [{"a": None, "b": [1.0]}] * 3, "n": [-1, 1, None], "x": ["a", "b", None]}
    got = read(table_of(tmp_path, columns), payload=payload)
    assert got.payloads == {
        0: b'{"more":{"a":null,"b":[1.0]},"n":-1,"x":"a"}',
        1: b'{"more":{"a":null,"b":[1.0]},"n":1,"x":"b"}',
        2: b'{"more":{"a":null,"b":[1.0]},"n":null,"x":null}',
    }
    assert got.refused == {0: [("n", "RANGE")], 2: [("n", "REQUIRED")]}


def test_only_the_columns_of_the_contract_are_read(tmp_path, monkeypatch):
    path = table_of(tmp_path, {"x": [1], "n": [5], "y": ["a"]})
    asked = []
    iter_batches = pq.ParquetFile.iter_batches

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["columns"])
        return iter_batches(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    reader = ParquetReader(CONTRACT, judge=True)
    [part] = reader.ranges([local_file(str(path))])
    assert len(list(reader.read(part))) == 1
    assert asked == [["n"]]


def test_a_file_with_no_column_of_the_contract_has_its_rows_all_the_same(tmp_path):
    got = read(table_of(tmp_path, {"x": [1, 2], "y": ["a", "b"]}))
    assert got.refused == {0: [("n", "REQUIRED")], 1: [("n", "REQUIRED")]}
    assert got.payloads[1] == b'{"x":2,"y":"b"}'


@pytest.mark.parametrize(
    ("unknown", "kept"), [("keep", [None, '{"y.z":1,"x":"a"}']), ("reject", [None])]
)
def test_columns_that_the_contract_does_not_name(tmp_path, unknown, kept):
    fields = (Field("n", "integer"), Field("y", "object", fields=(Field("a", "integer"),)))
    columns = {"n": [1, 2], "x": [None, "a"], "y": [{"a": 1, "z": None}, {"a": 1, "z": 1}]}
    got = read(table_of(tmp_path, columns), Contract("c", "1", "c", fields), unknown_fields=unknown)
    assert [row.get("_unknown") for row in got.rows] == kept
    if unknown == "reject":
        assert got.refused == {1: [("y.z", "UNKNOWN_FIELD"), ("x", "UNKNOWN_FIELD")]}


def test_a_row_group_that_is_corrupt_is_told_by_its_bytes_and_the_others_go_on(tmp_path):
    path = written(tmp_path / "t.parquet", 30, row_group_size=10, compression="zstd")
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[-8:-4], "little")
    groups = row_group_bytes(bytes(data[-8 - size : -8]))
    data[groups[1][0] : groups[1][1]] = b"?" * (groups[1][1] - groups[1][0])
    path.write_bytes(data)
    got = read(path)
    assert got.positions == [*range(10), *range(20, 30)]
    [region] = got.regions
    assert (region.start, region.end) == groups[1]
    assert "has a row group (number 1) that cannot be read from its row 0 on: " in region.reason
    assert "\n" not in region.reason


def test_a_column_of_others_that_is_corrupt_hurts_nobody(tmp_path):
    """But for a payload: it has what there is."""
    columns = {"n": [1, -1], "x": ["abcdefgh" * 30, "b"]}
    path = table_of(tmp_path, columns, use_dictionary=False, write_page_checksum=True,
                    compression="none", write_statistics=False)  # fmt: skip
    data = path.read_bytes()
    at = data.rindex(b"abcdefgh")
    path.write_bytes(data[:at] + b"?" + data[at + 1 :])
    got = read(path)
    assert got.rows == [{"n": 1, "s": None, "l": None}]
    assert not got.regions
    assert got.payloads[1] == b'{"n":-1}'


NO_PARQUET = [
    (b"", "smaller than the minimum file footer|size is 0 bytes"),
    (b"PAR1", "smaller than the minimum file footer"),
    (b"x" * 100, "magic bytes not found"),
    (b"PAR1" + b"\0" * 20 + (1 << 31).to_bytes(4, "little") + b"PAR1", "footer|metadata"),
    (b"PARE" + b"\0" * 20 + b"PARE", "it is encrypted, and there is no key for it"),
]


@pytest.mark.parametrize(("data", "reason"), NO_PARQUET)
@pytest.mark.parametrize("range_bytes", [7, 1 << 20])
def test_a_file_that_is_none_is_told_once(tmp_path, data, reason, range_bytes):
    (tmp_path / "a.parquet").write_bytes(data)
    [region] = read(tmp_path / "a.parquet", range_bytes=range_bytes).regions
    assert any(part in region.reason for part in reason.split("|"))
    assert (region.start, region.end) == (0, len(data))


def test_rows_that_are_too_long_are_told_without_them(tmp_path):
    columns = {"n": [1, 2, 3, 4], "s": ["a", "x" * 5000, "b", "y" * 5000]}
    got = read(table_of(tmp_path, columns), max_record_bytes=1000)
    assert [row["n"] for row in got.rows] == [1, 3]
    assert got.positions == [0, 2]
    assert [one.start for one in got.oversize] == [1, 3]
    first = got.oversize[0]
    assert first.end - first.start == len(b'{"n":2,"s":""}') + 5000
    assert first.preview.startswith(b'{"n":2,"s":"xxx')
    assert len(first.preview) == 1024


def test_a_file_that_has_changed_since_it_was_planned_is_not_read(tmp_path):
    path = written(tmp_path / "t.parquet", 3)
    reader = ParquetReader(CONTRACT)
    [part] = reader.ranges([local_file(str(path))])
    os.utime(path, (1, 1))
    with pytest.raises(StorageError, match="has changed since the run was planned"):
        list(reader.read(part))


def test_what_the_store_says_while_reading_is_no_corrupt_file(tmp_path, monkeypatch):
    path = written(tmp_path / "t.parquet", 3)
    reader = ParquetReader(CONTRACT)
    [part] = reader.ranges([local_file(str(path))])
    original = parquet._Source.read

    def fails(self: Any, size: int) -> bytes:
        if self.at < 100:  # pages, not the footer
            raise StorageError("cannot read it: the store is away")
        return original(self, size)

    monkeypatch.setattr(parquet._Source, "read", fails)
    with pytest.raises(StorageError, match="the store is away"):
        list(reader.read(part))


def test_a_file_that_has_become_shorter_is_told(tmp_path):
    path = written(tmp_path / "t.parquet", 30, row_group_size=10)
    reader = ParquetReader(CONTRACT)
    [part] = reader.ranges([local_file(str(path))])
    path.write_bytes(path.read_bytes()[:-30])
    [region] = reader.read(part)
    assert isinstance(region, Unreadable)
    assert "before its planned end" in region.reason


def test_files_of_several_schemas(tmp_path):
    first = read(table_of(tmp_path, {"n": pa.array([1], pa.int8())}))
    second = read(table_of(tmp_path, {"s": ["a"], "n": pa.array([Decimal(2)])}))
    assert [*first.rows, *second.rows] == [
        {"n": 1, "s": None, "l": None},
        {"n": 2, "s": "a", "l": None},
    ]


def test_a_reader_travels():
    reader = pickle.loads(pickle.dumps(ParquetReader(CONTRACT, unknown_fields="keep")))
    assert reader.max_record_bytes == 16 << 20


@given(st.binary(max_size=200))
def test_a_footer_that_is_none_is_refused(data):
    try:
        row_group_bytes(data)
    except ValueError:
        return


# ------------------------------------------------------------------------------- the transform


@pytest.mark.slow
def test_each_source_balances(tmp_path):
    written(tmp_path / "good.parquet", 20, row_group_size=6)
    pq.write_table(pa.table({"n": [1, -1, None]}), tmp_path / "bad.parquet")
    (tmp_path / "none.parquet").write_bytes(b"nothing")

    def build(pipeline: Any) -> dict[str, Any]:
        result = pipeline | ReadFromParquet(
            str(tmp_path / "*"), CONTRACT, judge=True, range_bytes=900, origin=Origin("parse", "p")
        )
        return {
            "records": result.records,
            "dead_letters": result.dead_letters,
            "tallies": result.tallies,
        }

    found = run(build)
    read = Counter[str]()
    for tally in found["tallies"]:
        read[Path(tally.source).name] += tally.rows
    good = Counter(Path(row["_source"]).name for row in rows(found["records"]))
    dead = Counter(Path(row["source"]).name for row in rows(found["dead_letters"]))
    assert read == good + dead
    assert read == {"good.parquet": 20, "bad.parquet": 3, "none.parquet": 1}
    for row in rows(found["records"]):
        assert json.loads(row["_payload"])["n"] == row["n"]
    letters = {row["position"]: row for row in rows(found["dead_letters"])}
    assert set(letters) == {"1", "2", "0-7"}
    assert letters["1"]["stage"] == "validate"
    assert letters["1"]["payloadBytes"] == b'{"n":-1}'
    assert letters["0-7"]["stage"] == "read"
