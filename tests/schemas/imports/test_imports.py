"""What others' schemas say becomes fields and rules; what a contract cannot say becomes a note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.imports.arrow_types import import_parquet
from millstream.schemas.imports.avro import import_avro
from millstream.schemas.imports.bigquery import import_bigquery
from millstream.schemas.imports.document import odcs_document
from millstream.schemas.imports.imported import CannotImport, Imported
from millstream.schemas.imports.json_schema import import_json_schema
from millstream.schemas.imports.sql import import_sql
from millstream.schemas.odcs import parse_contract


def _loaded(found: Imported) -> Contract:
    found.name = found.name or "made"
    return parse_contract(odcs_document(found), "made.yaml")


def _json(folder: Path, said: Any) -> str:
    file = folder / "schema.json"
    file.write_text(json.dumps(said), "utf-8")
    return str(file)


AVRO = {
    "type": "record",
    "name": "Order",
    "namespace": "com.shop",
    "doc": "An order.",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}, "doc": "Its key."},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "PAID"]}},
        {"name": "before", "type": ["null", "State"], "default": None},
        {"name": "count", "type": "int", "default": 1},
        {"name": "either", "type": ["string", "int"]},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
        {"name": "raw", "type": "bytes"},
        {
            "name": "node",
            "type": {
                "type": "record",
                "name": "Node",
                "fields": [{"name": "next", "type": ["null", "Node"]}],
            },
        },
    ],
}


def test_avro(tmp_path: Path):
    found = import_avro(_json(tmp_path, AVRO))
    made = _loaded(found)
    assert made.name == "Order"
    assert made.field("id") == Field(
        "id", "string", True, (Rule("format", "uuid"),), description="Its key."
    )
    assert made.field("local").zone == "UTC"
    assert made.field("state").rules == made.field("before").rules
    assert not made.field("before").required
    assert made.field("count").storage == "int32"
    assert [made.field(n).type for n in ("either", "tags", "raw")] == ["json", "json", "string"]
    assert made.field("node.next").type == "json"
    assert found.notes.of(()) == ["namespace com.shop"]
    assert found.notes.of(("at",)) == ["timestamp-millis: held in microseconds"]
    assert found.notes.of(("count",)) == ["default 1"]
    assert "a union of string, int" in found.notes.of(("either",))[0]
    assert "holds itself" in found.notes.of(("node", "next"))[0]


def test_avro_in_a_file(tmp_path: Path):
    fastavro = pytest.importorskip("fastavro")
    file = tmp_path / "rows.avro"
    schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}]}
    with file.open("wb") as stream:
        fastavro.writer(stream, schema, [{"n": 1}])
    assert _loaded(import_avro(str(file))).fields == (Field("n", "integer", True),)


def test_json_schema(tmp_path: Path):
    found = import_json_schema(_json(tmp_path, {
        "title": "orders",
        "description": "All orders.",
        "type": "object",
        "required": ["id", "ghost"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "at": {"type": "string", "format": "date-time"},
            "price": {"$ref": "#/$defs/money", "description": "In euro."},
            "size": {"const": 7},
            "state": {"enum": ["a", "b", None]},
            "either": {"type": ["string", "integer"]},
            "tree": {"$ref": "#/$defs/tree"},
            "pair": {"type": "array", "prefixItems": [{"type": "string"}]},
            "time": {"type": "string", "format": "time"},
            "if": {"type": "string", "not": {"const": "x"}},
        },
        "$defs": {
            "money": {"type": "number", "minimum": 0.01, "multipleOf": 0.01},
            "tree": {
                "type": "object",
                "properties": {"up": {"$ref": "#/$defs/tree"}},
            },
        },
    }))  # fmt: skip
    made = _loaded(found)
    assert made.field("id").required
    assert made.field("at").type == "timestamp"
    assert made.field("price") == Field(
        "price", "number", False, (Rule("minimum", 0.01), Rule("multipleOf", 0.01)),
        storage="float64", description="In euro.",
    )  # fmt: skip
    assert made.field("size").rules == (Rule("enum", (7,)),)
    assert made.field("state").rules == (Rule("enum", ("a", "b")),)
    assert [made.field(n).type for n in ("either", "tree.up", "pair")] == ["json"] * 3
    notes = {path: "; ".join(found.notes.of(path)) for path in [
        (), ("either",), ("tree", "up"), ("pair",), ("time",), ("if",)
    ]}  # fmt: skip
    assert "not held to required: ghost, which has no schema" in notes[()]
    assert "say unknown_fields: reject in the job" in notes[()]
    assert notes["either",] == "of the types string, integer: kept as JSON"
    assert notes["tree", "up"] == "#/$defs/tree holds itself: kept as JSON from here"
    assert "prefixItems" in notes["pair",]
    assert notes["time",] == "not held to format: time"
    assert notes["if",] == 'not held to not: {"const": "x"}'


def test_a_bound_of_draft_4(tmp_path: Path):
    bounds = {"minimum": 0, "exclusiveMinimum": True, "maximum": 9, "exclusiveMaximum": False}
    said = {"type": "object", "properties": {
        kind: {"type": kind, **bounds} for kind in ("integer", "number")
    }}  # fmt: skip
    made = _loaded(import_json_schema(_json(tmp_path, said)))
    for field in made.fields:
        assert set(field.rules) == {Rule("exclusiveMinimum", 0), Rule("maximum", 9)}


SQL = """\
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE customers (id int);
CREATE TABLE "orders" (
  id BIGINT PRIMARY KEY,
  name VARCHAR(20) NOT NULL UNIQUE,
  price NUMERIC(10, 2) CHECK (price >= 0.5 AND price < 1000),
  state TEXT DEFAULT 'open' CHECK (state IN ('open', 'paid')),
  code TEXT CHECK (length(code) = 3 OR code = ''),
  at TIMESTAMP,
  tags TEXT[],
  shape POINT,
  CONSTRAINT positive CHECK (id BETWEEN 1 AND 9999),
  CHECK (LENGTH(name) >= 2),
  CHECK (id > price),
  FOREIGN KEY (id) REFERENCES customers (id)
);
"""


def test_sql(tmp_path: Path):
    file = tmp_path / "tables.sql"
    file.write_text(SQL, "utf-8")
    found = import_sql(str(file), "postgresql", "orders")
    made = _loaded(found)
    assert made.primary_key == ("id",)
    assert made.field("id").rules == (Rule("minimum", 1), Rule("maximum", 9999))
    name = made.field("name")
    assert (name.required, name.unique) == (True, True)
    assert set(name.rules) == {Rule("maxLength", 20), Rule("minLength", 2)}
    price = made.field("price")
    assert (price.type, price.precision, price.scale) == ("decimal", 10, 2)
    assert [rule.kind for rule in price.rules] == ["minimum", "exclusiveMaximum"]
    assert made.field("state").rules == (Rule("enum", ("open", "paid")),)
    assert (made.field("at").zone, made.field("tags").type) == ("UTC", "array")
    assert found.notes.of(("state",)) == ["default 'open'"]
    assert any("not held to CHECK" in note for note in found.notes.of(("code",)))
    assert any("not held to CHECK (id > price)" in note for note in found.notes.of(("id",)))
    assert any("FOREIGN KEY" in note for note in found.notes.of(()))
    assert "no type of a contract, read as a string" in found.notes.of(("shape",))[0]


def test_bigquery(tmp_path: Path):
    said = {
        "tableReference": {"tableId": "orders"},
        "schema": {"fields": [
            {"name": "id", "type": "STRING", "mode": "REQUIRED", "maxLength": "36"},
            {"name": "at", "type": "DATETIME", "description": "When."},
            {"name": "price", "type": "NUMERIC"},
            {"name": "raw", "type": "BYTES", "policyTags": {"names": ["x"]}},
            {"name": "where", "type": "GEOGRAPHY"},
            {"name": "lines", "type": "RECORD", "mode": "REPEATED", "fields": [
                {"name": "sku", "type": "STRING"}
            ]},
        ]},
    }  # fmt: skip
    found = import_bigquery(_json(tmp_path, said))
    made = _loaded(found)
    assert made.name == "orders"
    assert made.field("id").rules == (Rule("maxLength", 36),)
    assert (made.field("at").zone, made.field("at").description) == ("UTC", "When.")
    assert (made.field("price").precision, made.field("price").scale) == (38, 9)
    assert made.field("raw").rules == (Rule("format", "byte"),)
    items = made.field("lines").items
    assert items is not None
    assert (items.type, items.required) == ("object", True)
    assert any("policyTags" in note for note in found.notes.of(("raw",)))
    assert found.notes.of(("where",)) == ["GEOGRAPHY: no type of a contract, read as a string"]


def test_parquet(tmp_path: Path):
    file = tmp_path / "rows.parquet"
    schema = pa.schema([
        pa.field("id", pa.int32(), nullable=False),
        pa.field("at", pa.timestamp("ms")),
        pa.field("kind", pa.dictionary(pa.int32(), pa.string())),
        pa.field("pairs", pa.map_(pa.string(), pa.int64())),
        pa.field("raw", pa.binary()),
    ])  # fmt: skip
    pq.write_table(schema.empty_table(), file)
    found = import_parquet(str(file))
    made = _loaded(found)
    assert made.field("id") == Field("id", "integer", True, storage="int32")
    assert made.field("at").zone == "UTC"
    assert [made.field(n).type for n in ("kind", "pairs", "raw")] == ["string", "json", "string"]
    assert "kept as JSON" in found.notes.of(("pairs",))[0]
    assert found.notes.of(("raw",)) == ["binary: no type of a contract, read as a string"]


IMPORTS = {
    "avro": import_avro,
    "json-schema": import_json_schema,
    "bigquery": import_bigquery,
    "sql": import_sql,
    "parquet": import_parquet,
}


@pytest.mark.parametrize("form", IMPORTS)
def test_what_nothing_can_be_made_of(tmp_path: Path, form: str):
    with pytest.raises(CannotImport, match=r"none: cannot be read: [Nn]o such file"):
        IMPORTS[form](str(tmp_path / "none"))
    for content in (b"\xff\xfe\x00", b"{", b"[]", b"{}", b'"x"', b"SELEKT ((", b'{"type": 5}'):
        file = tmp_path / "file"
        file.write_bytes(content)
        with pytest.raises(CannotImport, match=r"file"):
            IMPORTS[form](str(file))


def test_comments_cannot_break_out(tmp_path: Path):
    said = {**AVRO, "fields": [{"name": "n", "type": "int", "aliases": ["a\nid: other"]}]}
    found = import_avro(_json(tmp_path, said))
    assert _loaded(found).id == "Order"
    assert "# aliases a id: other" in odcs_document(found)
