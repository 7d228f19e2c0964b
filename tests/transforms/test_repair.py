"""Repairs where records are decoded: of every format, in their order, and at no other's cost."""

from __future__ import annotations

import datetime as dt
import io
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from millstream.schemas.arrow import PAYLOADS, REPAIRED
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.repairs.spec import RepairJob
from millstream.transforms.carry import SourceState
from millstream.transforms.dead_letters import Origin
from millstream.transforms.parse import Parse
from millstream.transforms.progress import PROGRESS
from millstream.transforms.read.avro import ReadFromAvro
from millstream.transforms.read.csv import ReadFromCsv
from millstream.transforms.read.json_lines import ReadFromJsonLines
from millstream.transforms.read.parquet import ReadFromParquet
from millstream.transforms.read.streams.reading import Decodes, Reading
from millstream.transforms.read.streams.source import Polled
from millstream.transforms.repair import CountRepaired, Repair
from millstream.transforms.replay.decoders import Decoders
from millstream.transforms.tallies import Tally

from tests.running import rows, run

pytestmark = pytest.mark.slow

CONTRACT = Contract(
    "c",
    "1.0.0",
    "c",
    (
        Field("id", "string", required=True),
        Field("n", "integer", required=True, rules=(Rule("maximum", 100),)),
        Field("ts", "timestamp", required=True),
    ),
    event_time="ts",
)
REPAIR = Repair(
    CONTRACT,
    (
        RepairJob(field="n", cast=True),
        RepairJob(field="n", clamp=True),
        RepairJob(field="ts", date_format="%d/%m/%Y", timezone="UTC"),
    ),
)
TS = "2026-01-01T00:00:00Z"
MIDNIGHT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CAME: list[dict[str, Any]] = [
    {"id": "a", "n": 1, "ts": TS},
    {"id": "b", "n": "2", "ts": TS},
    {"id": "c", "n": "x", "ts": TS},
    {"id": "d", "n": 400, "ts": "01/01/2026"},
    {"id": "e", "n": 5, "ts": TS},
]
GOOD = [
    ("a", 1, None),
    ("b", 2, "n: cast"),
    ("d", 100, "n: clamp; ts: date format"),
    ("e", 5, None),
]


def seen(batches: list[pa.RecordBatch]) -> list[tuple[Any, ...]]:
    found = sorted(rows(batches), key=lambda row: row["_position"])
    assert {row["ts"] for row in found} == {MIDNIGHT}
    return [(row["id"], row["n"], row[REPAIRED]) for row in found]


def tallied(batches: list[pa.RecordBatch]) -> Counter[str]:
    tallies = run(lambda p: {"t": p | _create(batches) | CountRepaired()})["t"]
    assert {tally.outcome for tally in tallies} <= {"repaired"}
    return Counter({tally.source: tally.rows for tally in tallies})


def _create(batches: list[pa.RecordBatch]) -> Any:
    import apache_beam as beam

    return beam.Create(batches, reshuffle=False)


@pytest.mark.parametrize("payload", [True, False])
def test_json_lines(tmp_path, payload):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in CAME))

    def build(p: Any) -> dict[str, Any]:
        lines = p | ReadFromJsonLines(str(path))
        repair = pickle.loads(pickle.dumps(REPAIR))
        parsed = lines.records | Parse(CONTRACT, judge=True, payload=payload, repair=repair)
        return {"records": parsed.records, "letters": parsed.dead_letters}

    found = run(build)
    assert seen(found["records"]) == GOOD
    (letter,) = rows(found["letters"])
    assert json.loads(letter["payloadBytes"]) == CAME[2]
    assert letter["violations"][0]["field"] == "n"
    assert tallied(found["records"]) == {str(path): 2}
    assert [name for name in found["records"][0].schema.names if name[0] == "_"] == [
        REPAIRED, "_source", "_position", *(["_payload"] if payload else []),
    ]  # fmt: skip
    if payload:  # as it came
        assert json.loads(rows(found["records"])[1]["_payload"]) == CAME[1]


def csv_file(path: Path) -> Any:
    lines = ["id;n;ts", *(f"{row['id']};{row['n']};{row['ts']}" for row in CAME)]
    # a cell says 2 in any case: what needs a cast is a whole number with a fraction
    path.write_text("\n".join(lines).replace("b;2;", "b;2.0;"))
    return ReadFromCsv(str(path), CONTRACT, options=CsvOptions(delimiter=";"), judge=True)


def avro_file(path: Path) -> Any:
    schema = {"type": "record", "name": "R", "fields": [
        {"name": "id", "type": "string"}, {"name": "n", "type": ["long", "string"]},
        {"name": "ts", "type": "string"}, {"name": "more", "type": "bytes", "default": ""},
    ]}  # fmt: skip
    with path.open("wb") as file:
        fastavro.writer(file, schema, [{**row, "more": b"\xff"} for row in CAME])
    return ReadFromAvro(str(path), CONTRACT, judge=True)


def parquet_file(path: Path) -> Any:
    table = pa.table({
        "id": [row["id"] for row in CAME],
        "n": [str(row["n"]) for row in CAME],
        "ts": [row["ts"] for row in CAME],
        "more": [[1, 2]] * len(CAME),
    })  # fmt: skip
    pq.write_table(table, path)
    return ReadFromParquet(str(path), CONTRACT, judge=True, payload=False)


@pytest.mark.parametrize("made", [csv_file, avro_file, parquet_file])
def test_files_that_are_decoded_as_they_are_read(tmp_path, made):
    path = tmp_path / "in"

    def build(p: Any) -> dict[str, Any]:
        read = p | made(path).reading_by(REPAIR.reading)
        return {"records": read.records, "letters": read.dead_letters, "tallies": read.tallies}

    found = run(build)
    if made is parquet_file:  # all of whose numbers are text
        marks = ["n: cast", "n: cast", "n: cast; n: clamp; ts: date format", "n: cast"]
        expected = [(id, n, mark) for (id, n, _), mark in zip(GOOD, marks, strict=True)]
    else:
        expected = GOOD
    assert seen(found["records"]) == expected
    assert sum(tally.rows for tally in found["tallies"]) == len(CAME)
    (letter,) = rows(found["letters"])
    assert letter["violations"][0]["field"] == "n"
    # What is left comes back by a replay, with the same repairs and others that help.
    mended = Repair(CONTRACT, (*REPAIR.entries, RepairJob(field="n", map={"x": 3})))
    said = tuple(sorted((pair["key"], pair["value"]) for pair in letter["attributes"]))
    decoding = Decoders(CONTRACT, repair=mended).open(said, Origin("parse"))
    batch = pa.RecordBatch.from_pylist(
        [{"_source": "s", "_position": 0, "_payload": letter["payloadBytes"]}], PAYLOADS
    )
    ((_, decoded),) = decoding.put((batch,))
    assert decoded.records.to_pylist() == [{"id": "c", "n": 3, "ts": MIDNIGHT, REPAIRED: "n: map"}]
    assert decoded.letters is None


def polled(records: list[dict[str, Any]], at: int = 0) -> Polled:
    payloads = [
        {"_source": "s", "_position": at + i, "_payload": json.dumps(record).encode()}
        for i, record in enumerate(records)
    ]
    return Polled(pa.RecordBatch.from_pylist(payloads, PAYLOADS), {"s": at + len(records)})


def test_of_a_stream_a_rescued_record_is_judged_where_it_stands():
    days = ["2026-01-01T00:00:00Z", "09/01/2026", "2026-01-05T00:00:00Z", "junk"]
    records = [{"id": str(i), "n": i, "ts": ts} for i, ts in enumerate(days)]
    decodes = Decodes(CONTRACT, Origin("parse"), disorder_us=0, repair=REPAIR)
    states = {"s": SourceState()}
    reading = Reading(decodes, decodes.open(), decodes.clock(states))
    dead = PROGRESS.dead
    found: list[Any] = [*reading.put(polled(records)), *reading.drain()]
    batch = found[0]
    assert batch.column("id").to_pylist() == ["0", "1", "2"]
    marks = batch.column("_watermark").slice(1).to_pylist()
    assert marks == [MIDNIGHT, dt.datetime(2026, 1, 9, tzinfo=dt.UTC)]
    assert PROGRESS.dead - dead == 1  # which is what a circuit breaker goes by
    assert batch.schema.names[-5:] == [REPAIRED, "_source", "_position", "_payload", "_watermark"]


def test_counts_only_what_was_rescued():
    decoding = Decoders(CONTRACT, repair=REPAIR).open((), Origin("parse"))
    ((_, decoded),) = decoding.put((polled(CAME[:1]).batch,))
    assert decoded.records.column(REPAIRED).to_pylist() == [None]
    batch = decoded.records.append_column("_source", pa.array(["s"]))
    found = run(lambda p: {"t": p | _create([batch]) | CountRepaired("sums")})
    assert found["t"] == []
    marked = batch.set_column(3, REPAIRED, pa.array(["n: cast"]))
    found = run(lambda p: {"t": p | _create([marked]) | CountRepaired("sums")})
    assert found["t"] == [Tally("s", "repaired", 1, "sums")]


def test_a_datum_that_is_none_is_left_alone():
    text = json.dumps({"type": "record", "name": "R", "fields": [{"name": "n", "type": "string"}]})
    said = (("avro.schema", text), ("format", "avro"))
    contract = Contract("c", "1", "c", (Field("n", "integer", required=True),))
    repair = Repair(contract, (RepairJob(field="n", cast=True),))
    good = io.BytesIO()
    fastavro.schemaless_writer(good, json.loads(text), {"n": "7"})
    batch = pa.RecordBatch.from_pylist(
        [
            {"_source": "s", "_position": i, "_payload": payload}
            for i, payload in enumerate([b"\xff", good.getvalue(), b""])
        ],
        PAYLOADS,
    )
    ((_, decoded),) = Decoders(contract, repair=repair).open(said, Origin("parse")).put((batch,))
    assert decoded.records.to_pylist() == [{"n": 7, REPAIRED: "n: cast"}]
    assert decoded.refused == [0, 2]
    assert decoded.letters is not None
    assert decoded.letters.column("position").to_pylist() == ["0", "2"]


def test_unknown_fields_of_rescued_records_are_noticed_as_those_of_others():
    repair = Repair(CONTRACT, REPAIR.entries, "notice")
    records = [{**record, "new": i} for i, record in enumerate(CAME)]
    batch = polled(records).batch
    decoding = Decodes(CONTRACT, Origin("parse"), unknown_fields="notice", repair=repair).open()
    ((_, decoded),) = decoding.put((batch, None))
    assert decoded.drift is not None
    (place,) = decoded.drift.places.values()
    assert (decoded.drift.records, place.records) == (4, 4)  # the fifth is told by its letter
