"""The same records in every format and compression: the same tables, dead letters and ledger."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from millstream.pipelines import exit_codes

from tests.pipelines.clicks import rows_of

CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: string, required: true, primaryKey: true}
  - name: at
    logicalType: timestamp
    required: true
    customProperties: [{property: eventTime, value: true}]
  - {name: day, logicalType: date}
  - {name: country, logicalType: string, logicalTypeOptions: {minLength: 2, maxLength: 2}}
  - {name: count, logicalType: integer, logicalTypeOptions: {minimum: 1, maximum: 99}}
  - {name: weight, logicalType: number, logicalTypeOptions: {exclusiveMaximum: 1000}}
  - {name: price, logicalType: number, physicalType: "decimal(9,2)"}
  - {name: paid, logicalType: boolean}
  - name: lines
    logicalType: array
    logicalTypeOptions: {maxItems: 3}
    items:
      logicalType: object
      properties:
      - {name: sku, logicalType: string, required: true}
      - {name: pieces, logicalType: integer, logicalTypeOptions: {minimum: 1}}
"""
JOB = """
name: orders
contract: orders.odcs.yaml
output: parquet:out/orders
dead_letters: jsonl:out/dead_letters
ledger: jsonl:out/ledger
aggregates:
- name: hourly
  window: {fixed: 1h}
  by: [country]
  metrics: {orders: count(), value: sum(price), heaviest: max(weight), mean: mean(count)}
  output: parquet:out/hourly
"""
ARROW = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("at", pa.timestamp("ms", "UTC")),
        pa.field("day", pa.date32()),
        pa.field("country", pa.dictionary(pa.int16(), pa.string())),
        pa.field("count", pa.int32()),
        pa.field("weight", pa.float64()),
        pa.field("price", pa.decimal128(12, 4)),
        pa.field("paid", pa.bool_()),
        pa.field(
            "lines",
            pa.large_list(
                pa.struct([pa.field("sku", pa.string()), pa.field("pieces", pa.int64())])
            ),
        ),
    ]
)
"""Types as other systems choose them, not those of the contract."""
AVRO = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": ["null", "string"]},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {"name": "country", "type": ["null", "string"]},
        {"name": "count", "type": ["null", "int"]},
        {"name": "weight", "type": ["null", "double"]},
        {
            "name": "price",
            "type": [
                "null",
                {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 4},
            ],
        },
        {"name": "paid", "type": ["null", "boolean"]},
        {
            "name": "lines",
            "type": [
                "null",
                {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Line",
                        "fields": [
                            {"name": "sku", "type": ["null", "string"]},
                            {"name": "pieces", "type": ["null", "long"]},
                        ],
                    },
                },
            ],
        },
    ],
}

Order = dict[str, Any]


def orders(count: int = 4000) -> list[Order]:
    """Records, a tenth of which breaks rules (types cannot be broken in every format)."""
    rng = random.Random(4)
    start = datetime(2026, 11, 24, tzinfo=UTC)
    found = []
    for n in range(count):
        at = start + timedelta(milliseconds=rng.randrange(86_400_000))
        lines = [
            {
                "sku": rng.choice(["a", 'b"q', "c,d", "e\nf", "é"]),
                "pieces": rng.choice([None, 1, 7]),
            }
            for _ in range(rng.randrange(4))
        ]
        order: Order = {
            "id": f"o{n}",
            "at": at,
            "day": rng.choice([None, at.date()]),
            "country": rng.choice(["DE", "FR", "", None, 'x"', "XX"]) if n % 2 else "DE",
            "count": rng.choice([None, 1, 5, 99]),
            "weight": rng.choice([None, 0.0, -1.5, 1e-7, 999.999, rng.random()]),
            "price": rng.choice([None, Decimal("0.01"), Decimal(rng.randrange(10**9)) / 100]),
            "paid": rng.choice([None, True, False]),
            "lines": rng.choice([None, lines]),
        }
        if rng.random() < 0.1:
            rng.choice(BREAKS)(order)
        found.append(order)
    return found


BREAKS: list[Callable[[Order], None]] = [
    lambda o: o.update(id=None),
    lambda o: o.update(at=None, count=0),
    lambda o: o.update(country="DEU"),
    lambda o: o.update(count=100, weight=1000.0),
    lambda o: o.update(price=Decimal("0.005")),
    lambda o: o.update(price=Decimal("12345678.01")),
    lambda o: o.update(lines=[{"sku": "a", "pieces": 1}] * 4),
    lambda o: o.update(lines=[{"sku": "a", "pieces": 0}, {"sku": None, "pieces": 2}]),
]


def _text(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def as_json_lines(found: list[Order]) -> bytes:
    def line(order: Order) -> str:
        said = {name: _text(value) for name, value in order.items()}
        price = order["price"]
        said["price"] = None if price is None else 0.25  # which is then replaced by its exact text
        text = json.dumps(said, ensure_ascii=False)
        return text if price is None else text.replace('"price": 0.25', f'"price": {price:f}')

    return "".join(f"{line(order)}\n" for order in found).encode()


def as_csv(found: list[Order]) -> bytes:
    # by hand: Python's writer cannot tell null from the empty string before 3.12
    names = list(reversed(ARROW.names))
    lines = [",".join(names)]
    for order in found:
        cells = []
        for name in names:
            value = order[name]
            if isinstance(value, list):
                value = json.dumps(value)
            elif isinstance(value, bool):
                value = str(value).lower()
            cells.append("" if value is None else _cell(str(_text(value))))
        lines.append(",".join(cells))
    return "".join(f"{line}\r\n" for line in lines).encode()


def _cell(text: str) -> str:
    plain = text and not set(text) & set('",\r\n')
    return text if plain else '"' + text.replace('"', '""') + '"'


def as_parquet(found: list[Order]) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(found, ARROW)
    pq.write_table(table, out, row_group_size=700, write_page_checksum=True)
    return out.getvalue()


def as_avro(codec: str) -> Callable[[list[Order]], bytes]:
    def encode(found: list[Order]) -> bytes:
        out = io.BytesIO()
        fastavro.writer(out, fastavro.parse_schema(AVRO), found, codec, sync_interval=20_000)
        return out.getvalue()

    return encode


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
}
FORMS: dict[str, tuple[str, Callable[[list[Order]], bytes]]] = {
    **{
        f"orders.{ending}{packed}": (packed, encode)
        for ending, encode in (("jsonl", as_json_lines), ("csv", as_csv))
        for packed in COMPRESSIONS
    },
    "orders.parquet": ("", as_parquet),
    "null.avro": ("", as_avro("null")),
    "deflate.avro": ("", as_avro("deflate")),
    "bzip2.avro": ("", as_avro("bzip2")),
    "xz.avro": ("", as_avro("xz")),
}


class Outcome:
    """What a job made: everything that must not depend on the format of its input."""

    def __init__(self, folder: Path) -> None:
        self.records = _counted(rows_of(f"parquet:{folder}/out/orders"))
        self.hourly = _counted(rows_of(f"parquet:{folder}/out/hourly"))
        self.letters = Counter(
            (
                row["stage"],
                row["event_time"],
                tuple((v["field"], v["code"], v["message"]) for v in row["violations"]),
            )
            for row in rows_of(f"jsonl:{folder}/out/dead_letters")
        )
        self.ledger = [
            (row["output"], row["read"], row["written"], row["dead"])
            for row in rows_of(f"jsonl:{folder}/out/ledger")
        ]


def _counted(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(repr(sorted(row.items())) for row in rows)


def run(folder: Path, name: str, cli: Callable[..., Any]) -> Outcome:
    folder.mkdir(exist_ok=True)
    (folder / "orders.odcs.yaml").write_text(CONTRACT)
    (folder / "job.yaml").write_text(JOB)
    packed, encode = FORMS[name]
    (folder / name).write_bytes(COMPRESSIONS[packed](encode(orders())))
    done = cli("ingest", "--job", folder / "job.yaml", "--input", folder / name)
    assert done.code == exit_codes.OK, done.err
    return Outcome(folder)


_PLAIN: list[Outcome] = []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FORMS if name != "orders.jsonl"])
def test_the_same_as_plain_json_lines(name, tmp_path, cli):
    if not _PLAIN:
        _PLAIN.append(run(tmp_path / "plain", "orders.jsonl", cli))
    (plain,) = _PLAIN
    assert sum(plain.records.values()) > 3000
    assert sum(plain.letters.values()) > 300
    found = run(tmp_path / "other", name, cli)
    assert found.records == plain.records
    assert found.letters == plain.letters
    assert found.hourly == plain.hourly
    assert found.ledger == plain.ledger


@pytest.mark.slow
@pytest.mark.parametrize("name", ["orders.csv", "orders.csv.gz"])
def test_a_csv_dead_letter_holds_its_bytes(name, tmp_path, cli):
    run(tmp_path, name, cli)
    data = as_csv(orders())
    letters = rows_of(f"jsonl:{tmp_path}/out/dead_letters")
    assert len(letters) > 300
    for row in letters:
        at, payload = int(row["position"]), row["payloadBytes"]
        assert data[at : at + len(payload) + 2] == payload + b"\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["orders.csv", "deflate.avro", "orders.parquet"])
def test_a_dead_letter_can_be_read_again(name, tmp_path, cli):
    """Its payload and its attributes are all that it takes."""
    run(tmp_path, name, cli)
    refused = [order for order in orders() if order["price"] == Decimal("0.005")]
    found = []
    for row in rows_of(f"jsonl:{tmp_path}/out/dead_letters"):
        attributes = {pair["key"]: pair["value"] for pair in row["attributes"]}
        if "PRECISION" in row["codes"]:
            found.append(READERS[attributes["format"]](row["payloadBytes"], attributes))
    ids = {row["id"] for row in found if Decimal(str(row["price"])) == Decimal("0.005")}
    assert len(ids) > 20
    assert ids == {order["id"] for order in refused}


def _from_avro(payload: bytes, attributes: dict[str, str]) -> Any:
    schema = fastavro.parse_schema(json.loads(attributes["avro.schema"]))
    return fastavro.schemaless_reader(io.BytesIO(payload), schema, None)


def _from_csv(payload: bytes, attributes: dict[str, str]) -> Any:
    assert json.loads(attributes["csv.options"])["delimiter"] == ","
    return next(csv.DictReader([attributes["csv.header"], payload.decode()]))


READERS: dict[str, Callable[[bytes, dict[str, str]], Any]] = {
    "avro": _from_avro,
    "csv": _from_csv,
    "json": lambda payload, attributes: json.loads(payload, parse_float=Decimal),
}


@pytest.mark.slow
def test_files_of_several_formats_are_refused(tmp_path, cli):
    run(tmp_path, "orders.csv", cli)
    (tmp_path / "orders.jsonl.gz").write_bytes(b"")
    done = cli("ingest", "--job", tmp_path / "job.yaml", "--input", tmp_path / "orders.*s*")
    assert done.code == exit_codes.USAGE
    assert "orders.csv looks like csv" in done.err
    assert "orders.jsonl.gz like jsonl: read each with a job of its own, or say format" in done.err


@pytest.mark.slow
def test_csv_of_another_dialect(tmp_path, cli):
    run(tmp_path, "orders.csv", cli)
    text = "id;at;country\nö1;2026-11-24T10:00:00Z;DE\nö2;2026-11-24T10:00:00Z;\\N\n"
    (tmp_path / "other.txt").write_bytes(text.encode("latin-1"))
    done = cli(
        *("ingest", "--job", tmp_path / "job.yaml", "--input", tmp_path / "other.txt"),
        *("--format", "csv", "--csv", "{delimiter: ';', encoding: latin-1, 'null': ['\\N']}"),
    )
    assert done.code == exit_codes.OK, done.err
    rows = rows_of(f"parquet:{tmp_path}/out/orders")
    assert [(r["id"], r["country"]) for r in rows if r["id"][0] == "ö"] == [
        ("ö1", "DE"),
        ("ö2", None),
    ]


def _broken_block(data: bytes) -> bytes:
    """The Avro file with a byte flipped in the middle of its second block."""
    marker = data[-16:]
    first = data.index(marker)
    second = data.index(marker, first + 16)
    third = data.index(marker, second + 16)
    return _flipped(data, (second + third) // 2)


def _broken_group(data: bytes) -> bytes:
    """The Parquet file with a byte of its second row group flipped."""
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    column = metadata.row_group(1).column(0)
    return _flipped(data, column.data_page_offset + column.total_compressed_size // 2)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage", "lost"),
    [
        ("deflate.avro", _broken_block, 1000),
        ("orders.parquet", _broken_group, 700),
        ("orders.jsonl.gz", lambda data: data[:-2000], 1000),
        ("orders.csv.xz", lambda data: data[:-2000], 4000),
    ],
)
def test_what_can_be_read_goes_on(name, damage, lost, tmp_path, cli):
    """Damage costs its own region alone: one dead letter, which names its bytes."""
    whole = run(tmp_path / "whole", name, cli)
    data = (tmp_path / "whole" / name).read_bytes()
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "orders.odcs.yaml").write_text(CONTRACT)
    (folder / "job.yaml").write_text(JOB)
    (folder / name).write_bytes(damage(data))
    done = cli("ingest", "--job", folder / "job.yaml", "--input", folder / name)
    assert done.code == exit_codes.INCOMPLETE, done.err
    assert f"millstream: could not be read to its end: {folder / name} @ " in done.err
    found = Outcome(folder)
    assert found.records <= whole.records
    read, letters = sum(found.records.values()), rows_of(f"jsonl:{folder}/out/dead_letters")
    total = sum(whole.records.values())
    assert 0 < total - read <= lost
    (region,) = [row for row in letters if row["codes"] == ["UNREADABLE"]]
    start, _, end = region["position"].partition("-")
    assert int(start) >= 0
    assert not end or int(start) < int(end) <= len(data)
    for output, rows, written, dead in found.ledger:
        assert rows == written + dead == read + len(letters), output
