"""Avro files to records: however a file is cut, each record once, and no block goes in silence."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.json.decoder import JsonDecoder
from millstream.transforms.dead_letters import Origin
from millstream.transforms.read.avro import AvroReader, ReadFromAvro
from millstream.transforms.read.files import local_file
from millstream.transforms.read.lines import Oversize, Unreadable
from millstream.transforms.read.records import Piece
from millstream.transforms.storage import StorageError

from tests import strategies
from tests.avro_support import (
    CHECKED,
    CODECS,
    MARKER,
    container,
    datum_of,
    encoded,
    header,
    long,
    schema_of,
)
from tests.running import rows, run

SCHEMA = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "n", "type": "long"},
        {"name": "s", "type": ["null", "string"]},
        {"name": "extra", "type": "boolean"},
    ],
}
CONTRACT = Contract(
    "c",
    "1.0.0",
    "c",
    (Field("n", "integer", required=True, rules=(Rule("minimum", 0),)), Field("s", "string")),
)


class Read(NamedTuple):
    """What came out of a file."""

    rows: list[dict[str, Any]]
    positions: list[int]
    payloads: list[bytes]
    refused: dict[int, list[tuple[str, str]]]  # by position
    regions: list[Unreadable]
    oversize: list[Oversize]


def read(path: Path, contract: Contract = CONTRACT, **options: Any) -> Read:
    """Read all ranges of a file, in order."""
    found = Read([], [], [], {}, [], [])
    reader = AvroReader(contract, judge=True, **options)
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
    found.payloads.extend(piece.payloads(every).take(kept).to_pylist())
    assert piece.payloads(kept).equals(piece.payloads(every).take(kept))
    for v in decoded.violations:
        found.refused.setdefault(positions[v.row], []).append((v.field, v.code.value))


def datum(i: int) -> bytes:
    return encoded(SCHEMA, {"n": i, "s": None if i % 3 else f"é{i}", "extra": i % 2 == 0})


def written(path: Path, sizes: list[int], codec: str = "null") -> Path:
    """A file of numbered records, in blocks of so many."""
    numbers = itertools.count()
    blocks = [(n, b"".join(datum(next(numbers)) for _ in range(n))) for n in sizes]
    path.write_bytes(container(SCHEMA, blocks, codec))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("avro")


# ------------------------------------------------------------------------------------- the laws


@given(st.data(), strategies.contracts())
def test_records_are_what_json_lines_make_of_them(folder, data, contract):
    drawn = data.draw(st.lists(strategies.records(contract, lawful=False), max_size=4))
    schema = schema_of(contract)
    whole = Field("whole", "object", fields=contract.fields)
    blocks = [(1, encoded(schema, datum_of(record.values, whole))) for record in drawn]
    path = folder / "law.avro"
    path.write_bytes(container(schema, blocks, "deflate"))
    payloads = [record.payload for record in drawn]
    expected = JsonDecoder(contract, judge=True).decode(pa.array(payloads, pa.binary()))
    got = read(path, contract)
    assert got.rows == expected.records.to_pylist()
    assert not got.regions
    starts = sorted({*got.positions, *got.refused})
    said = {row: set(got.refused.get(at, ())) for row, at in enumerate(starts)}
    for row, codes in said.items():
        assert codes == {(v.field, v.code.value) for v in expected.violations if v.row == row}


@given(
    st.lists(st.integers(0, 5), max_size=8),
    st.integers(1, 400),
    st.sampled_from(list(CODECS)),
)
def test_each_record_is_in_one_range(folder, sizes, range_bytes, codec):
    path = written(folder / "ranges.avro", sizes, codec)
    got = read(path, range_bytes=range_bytes)
    assert [row["n"] for row in got.rows] == list(range(sum(sizes)))
    assert got.payloads == [datum(i) for i in range(sum(sizes))]
    assert not got.regions
    assert got.positions == sorted(set(got.positions))
    assert got == read(path)  # the same positions, however it is cut
    data = path.read_bytes()
    for (n, at), number in zip(_counted(sizes), got.positions, strict=True):
        assert number & 0xFFFFFF == at
        assert data[: number >> 24].endswith(MARKER)
        assert data.count(MARKER, 0, number >> 24) == n + 1


def _counted(sizes: list[int]) -> list[tuple[int, int]]:
    return [(n, at) for n, size in enumerate(sizes) for at in range(size)]


@given(st.data(), st.sampled_from(CHECKED), st.integers(1, 600))
def test_what_is_corrupt_goes_in_no_silence(folder, data, codec, range_bytes):
    """Every record is read as it was written, or in bytes that are told not to be readable."""
    sizes = [3, 1, 4, 2, 5]
    path = written(folder / "corrupt.avro", sizes, codec)
    whole = path.read_bytes()
    first = whole.index(MARKER) + len(MARKER)
    starts = [p >> 24 for p in read(path).positions]
    broken = data.draw(_broken(whole, first))
    path.write_bytes(broken)
    got = read(path, range_bytes=range_bytes)
    assert not got.refused
    numbers = [row["n"] for row in got.rows]
    assert numbers == sorted(set(numbers))
    assert set(got.payloads) <= {datum(i) for i in range(sum(sizes))}
    ends = [*starts[1:], len(whole)]
    lost = set(range(sum(sizes))) - set(numbers)
    for n in lost:
        start = starts[n]
        end = next((e for e in ends if e > start), len(whole))
        assert any(_overlap(region, start, end, len(broken)) for region in got.regions)
    if broken != whole:
        assert got.regions or not lost


def _overlap(region: Unreadable, start: int, end: int, size: int) -> bool:
    stop = size if region.end is None else region.end
    return region.start < end and (start < stop or region.start == size <= start)


@st.composite
def _broken(draw: st.DrawFn, whole: bytes, first: int) -> bytes:
    at = draw(st.integers(first, len(whole) - 1))
    kind = draw(st.sampled_from(["flip", "flip", "zeros", "drop", "insert"]))
    if kind == "flip":
        flipped = whole[at] ^ draw(st.integers(1, 255))
        return whole[:at] + bytes([flipped]) + whole[at + 1 :]
    size = draw(st.integers(1, 60))
    if kind == "zeros":
        return whole[:at] + bytes(len(whole[at : at + size])) + whole[at + size :]
    if kind == "drop":  # within a block: a whole one that is gone leaves no trace
        return whole[:at] + whole[at + draw(st.integers(1, 10)) :]
    return whole[:at] + draw(st.binary(min_size=1, max_size=5)) + whole[at:]


@given(st.data(), st.sampled_from(list(CODECS)), st.integers(1, 600))
def test_whatever_the_bytes_are_reading_ends(folder, data, codec, range_bytes):
    path = written(folder / "any.avro", [3, 2, 4], codec)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    got = read(path, range_bytes=range_bytes)
    if not got.regions and not got.refused and len(got.rows) != 9:
        pytest.fail("a count is wrong, and nothing says so")


@given(st.integers(0, 10_000), st.integers(1, 600), st.sampled_from(list(CODECS)))
def test_of_a_file_that_is_cut_off_the_whole_blocks_are_read(folder, cut, range_bytes, codec):
    sizes = [3, 1, 4]
    whole = written(folder / "cut.avro", sizes, codec).read_bytes()
    cut %= len(whole)
    (folder / "cut.avro").write_bytes(whole[:cut])
    got = read(folder / "cut.avro", range_bytes=range_bytes)
    ends = [i + len(MARKER) for i in range(len(whole)) if whole.startswith(MARKER, i)]
    blocks = sum(end <= cut for end in ends[1:])
    assert len(got.rows) == sum(sizes[:blocks])
    if cut not in ends:
        assert len(got.regions) == 1


# -------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_files_of_fastavro(tmp_path, codec):
    schema = fastavro.parse_schema(SCHEMA)
    records = [{"n": i, "s": "ü" * (i % 50), "extra": True} for i in range(1000)]
    out = io.BytesIO()
    fastavro.writer(out, schema, records, codec, sync_interval=3000)
    (tmp_path / "f.avro").write_bytes(out.getvalue())
    got = read(tmp_path / "f.avro", range_bytes=5000)
    assert got.rows == [{"n": r["n"], "s": r["s"]} for r in records]


def test_a_frame_of_zstandard_need_not_say_its_length(tmp_path):
    import zstandard

    data = b"".join(map(datum, range(1000)))
    packer = zstandard.ZstdCompressor().compressobj()
    packed = packer.compress(data) + packer.flush()
    block = long(1000) + long(len(packed)) + packed + MARKER
    (tmp_path / "z.avro").write_bytes(header(SCHEMA, "zstandard") + block)
    assert len(read(tmp_path / "z.avro").rows) == 1000


NO_AVRO = [
    (b"", "is no Avro file"),
    (b"PAR1", "is no Avro file"),
    (b"Obj\x01\x02", "it ends within its header"),
    (b"Obj\x01\x02\x01", "its header has a string of -1 bytes"),
    (header(SCHEMA, "lz4"), "is compressed with 'lz4', not with one of null, deflate, snappy"),
    (header("int"), "has a schema that is of kind int: only records can be read"),
    (header({"type": "record", "name": "R"}), "has a schema that is no Avro schema"),
    (b"Obj\x01\x00" + MARKER, "its header has no schema"),
]


@pytest.mark.parametrize(("data", "reason"), NO_AVRO)
@pytest.mark.parametrize("range_bytes", [7, 1 << 20])
def test_a_file_that_is_none_is_told_once(tmp_path, data, reason, range_bytes):
    (tmp_path / "a.avro").write_bytes(data)
    got = read(tmp_path / "a.avro", range_bytes=range_bytes)
    [region] = got.regions
    assert reason in region.reason
    assert (region.start, region.end) == (0, len(data))
    assert not got.rows


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "a.avro").write_bytes(header(SCHEMA))
    assert read(tmp_path / "a.avro") == Read([], [], [], {}, [], [])


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (long(2) + long(3) + b"\x02\x00\x01", "it says to hold 2 records in 3 bytes"),
        (long(-1) + long(0), "it says to hold -1 records in 0 bytes"),
        (long(1) + long(2**40), "it says to hold 1 records in 1099511627776 bytes"),
        (long(1) + long(4) + b"\x02\x00\x01\x00", "1 bytes are left over after 1 records"),
        (long(1) + long(3) + b"\x02\x04\x01", "record 0 has the branch 2 of 2"),
        (b"\xff" * 12, "it has an integer of more than 10 bytes"),
    ],
)
def test_a_corrupt_block_is_told_by_its_bytes_and_the_others_go_on(tmp_path, block, reason):
    good = long(2) + long(len(datum(0) + datum(1))) + datum(0) + datum(1) + MARKER
    data = header(SCHEMA) + good + block + MARKER + good
    (tmp_path / "a.avro").write_bytes(data)
    got = read(tmp_path / "a.avro")
    start = len(header(SCHEMA) + good)
    [region] = got.regions
    assert (region.start, region.end) == (start, start + len(block) + len(MARKER))
    assert region.reason == f"has a block that cannot be read: {reason}"
    assert [row["n"] for row in got.rows] == [0, 1, 0, 1]


def test_a_checksum_is_looked_at(tmp_path):
    data = bytearray(written(tmp_path / "a.avro", [3, 2], "snappy").read_bytes())
    data[-len(MARKER) - 1] ^= 1
    (tmp_path / "a.avro").write_bytes(data)
    got = read(tmp_path / "a.avro")
    assert [row["n"] for row in got.rows] == [0, 1, 2]
    assert "its checksum does not match" in got.regions[0].reason


def test_records_that_are_too_long_are_told_without_their_bytes(tmp_path):
    values = [{"n": i, "s": "x" * size, "extra": True} for i, size in enumerate((1, 3000, 2))]
    data = [encoded(SCHEMA, value) for value in values]
    (tmp_path / "a.avro").write_bytes(container(SCHEMA, [(3, b"".join(data))], "deflate"))
    got = read(tmp_path / "a.avro", max_record_bytes=1000)
    assert [row["n"] for row in got.rows] == [0, 2]
    [long_one] = got.oversize
    block = got.positions[0] >> 24
    assert long_one.start == (block << 24) + 1
    assert long_one.end - long_one.start == len(data[1])
    assert long_one.preview == data[1][:1024]


@pytest.mark.slow
def test_blocks_of_many_records_come_in_pieces(tmp_path):
    path = written(tmp_path / "a.avro", [70_000, 1])
    reader = AvroReader(CONTRACT)
    [part] = reader.ranges([local_file(str(path))])
    pieces = [piece for piece in reader.read(part) if isinstance(piece, Piece)]
    assert [len(piece.positions) for piece in pieces] == [65_536, 4_465]
    numbers = [n for piece in pieces for n in piece.decoded.records.column("n").to_pylist()]
    assert numbers == list(range(70_001))


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [("keep", ['{"extra":true}', '{"extra":false}']), ("reject", [])],
)
def test_fields_that_the_contract_does_not_name(tmp_path, unknown, expected):
    got = read(written(tmp_path / "a.avro", [2]), unknown_fields=unknown)
    assert [row["_unknown"] for row in got.rows] == expected
    assert [v for found in got.refused.values() for v in found] == (
        [("extra", "UNKNOWN_FIELD")] * 2 if unknown == "reject" else []
    )


def test_a_file_that_has_changed_since_it_was_planned_is_not_read(tmp_path):
    path = written(tmp_path / "a.avro", [2])
    reader = AvroReader(CONTRACT)
    [part] = reader.ranges([local_file(str(path))])
    os.utime(path, (1, 1))
    with pytest.raises(StorageError, match="has changed since the run was planned"):
        list(reader.read(part))


def test_a_file_that_has_become_shorter_is_told(tmp_path):
    path = written(tmp_path / "a.avro", [2, 3])
    reader = AvroReader(CONTRACT)
    [part] = reader.ranges([local_file(str(path))])
    path.write_bytes(path.read_bytes()[:-30])
    found = list(reader.read(part))
    assert any(isinstance(f, Unreadable) and "before its planned end" in f.reason for f in found)


def test_a_reader_travels():
    reader = pickle.loads(pickle.dumps(AvroReader(CONTRACT, unknown_fields="keep")))
    assert reader.max_record_bytes == 16 << 20


# ------------------------------------------------------------------------------- the transform


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> tuple[Path, dict[str, list[Any]]]:
    folder = tmp_path_factory.mktemp("files")
    bad = {"n": -1, "s": None, "extra": True}
    written(folder / "good.avro", [4, 3], "deflate")
    (folder / "bad.avro").write_bytes(container(SCHEMA, [(1, encoded(SCHEMA, bad)), (1, b"\x02")]))
    (folder / "none.avro").write_bytes(b"nothing")

    def build(pipeline: Any) -> dict[str, Any]:
        result = pipeline | ReadFromAvro(
            str(folder / "*"), CONTRACT, judge=True, range_bytes=90, origin=Origin("parse", "p")
        )
        return {
            "records": result.records,
            "dead_letters": result.dead_letters,
            "tallies": result.tallies,
        }

    return folder, run(build)


@pytest.mark.slow
def test_each_source_balances(out):
    _, found = out
    read = Counter[str]()
    for tally in found["tallies"]:
        read[Path(tally.source).name] += tally.rows
    good = Counter(Path(row["_source"]).name for row in rows(found["records"]))
    dead = Counter(Path(row["source"]).name for row in rows(found["dead_letters"]))
    assert read == good + dead
    assert read == {"good.avro": 7, "bad.avro": 2, "none.avro": 1}
    assert good == {"good.avro": 7}


def test_dead_letters_have_stage_position_and_datum(out):
    _, found = out
    letters = {row["stage"]: row for row in rows(found["dead_letters"]) if "bad" in row["source"]}
    first = len(header(SCHEMA))
    judged = letters["validate"]
    assert judged["codes"] == [Code.RANGE.value]
    assert judged["position"] == str(first << 24)
    assert judged["payloadBytes"] == encoded(SCHEMA, {"n": -1, "s": None, "extra": True})
    region = letters["read"]
    assert region["codes"] == [Code.UNREADABLE.value]
    start, _, end = region["position"].partition("-")
    assert (folder_bytes(out, "bad.avro")[int(start) : int(end)]).endswith(MARKER)


def folder_bytes(out: Any, name: str) -> bytes:
    return (out[0] / name).read_bytes()


def test_records_carry_their_datum(out):
    _, found = out
    for row in rows(found["records"]):
        assert row["_payload"] == datum(row["n"])


def test_the_support_writes_what_fastavro_reads():
    data = container(SCHEMA, [(1, datum(0)), (2, datum(1) + datum(2))], "deflate")
    assert [r["n"] for r in fastavro.reader(io.BytesIO(data)) if isinstance(r, dict)] == [0, 1, 2]
    assert json.loads(json.dumps(SCHEMA))["name"] == "R"
