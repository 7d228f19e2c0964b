"""What others' schemas say becomes fields and rules; what a contract cannot say becomes a note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from millstream.schemas.arrow_decoder import ArrowDecoder
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


def test_a_logical_type_of_another_avro_type_says_nothing(tmp_path: Path):
    """Avro's specification: readers ignore it, and read the type that is beneath."""
    said = {"type": "record", "name": "R", "fields": [
        {"name": "a", "type": {"type": "int", "logicalType": "timestamp-millis"}},
        {"name": "b", "type": {"type": "long", "logicalType": "date"}},
        {"name": "c", "type": {"type": "int", "logicalType": "local-timestamp-micros"}},
        {"name": "d", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "e", "type": {"type": "long", "logicalType": "time-micros"}},
    ]}  # fmt: skip
    found = import_avro(_json(tmp_path, said))
    types = [field.type for field in _loaded(found).fields]
    assert types == ["integer", "integer", "integer", "time", "time"]
    assert found.notes.of(("a",)) == ["logical type timestamp-millis: none of int, read as int"]


def test_an_avro_file_with_a_schema_that_is_none(tmp_path: Path):
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 5}
    fields = [{"name": "a", "type": decimal}]
    schema = json.dumps({"type": "record", "name": "R", "fields": fields})
    # A map of one entry, key and value with their lengths, as zigzag varints; then the marker.
    size = 2 * len(schema)
    entry = b"\x16avro.schema" + bytes([size & 127 | 128, size >> 7]) + schema.encode()
    file = tmp_path / "rows.avro"
    file.write_bytes(b"Obj\x01\x02" + entry + b"\x00" + b"m" * 16)
    with pytest.raises(CannotImport, match="no Avro file: decimal scale"):
        import_avro(str(file))


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


NULLS = {
    "type": "object",
    "required": ["either", "pydantic", "many", "any", "alone"],
    "$defs": {"place": {"type": "object", "required": ["zip"], "properties": {
        "zip": {"type": "string", "minLength": 2}
    }}},
    "properties": {
        "either": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/place"}], "title": "Either"},
        "pydantic": {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}], "default": 1},
        "many": {"anyOf": [{"type": "string"}, {"type": "integer"}, {"const": None}]},
        "any": True,
        "never": False,
        "alone": {"allOf": [{"$ref": "#/$defs/place"}], "description": "Where."},
        "more": {"anyOf": [{"type": "string"}, {"type": "null"}], "minLength": 3},
    },
}  # fmt: skip


def test_a_choice_of_one_schema_or_null(tmp_path: Path):
    found = import_json_schema(_json(tmp_path, NULLS))
    made = _loaded(found)
    zip = Field("zip", "string", True, (Rule("minLength", 2),))
    assert made.field("either") == Field("either", "object", False, fields=(zip,))
    alone = Field("alone", "object", True, fields=(zip,), description="Where.")
    assert made.field("alone") == alone
    assert made.field("pydantic") == Field("pydantic", "integer", False, (Rule("minimum", 3),))
    assert [(made.field(n).type, made.field(n).required) for n in ("many", "any", "more")] == [
        ("json", False),
        ("json", True),
        ("json", False),
    ]
    assert found.notes.of(("any",)) == ["of any type: must be there, and not be null"]
    assert found.notes.of(("never",)) == ["not held to false: that it is not there"]
    assert [note.partition(":")[0] for note in found.notes.of(("more",))] == [
        "not held to anyOf",
        "not held to minLength",
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"type": "string", "minLength": "x"}, 'minLength: expected a whole number, found "x"'),
        ({"type": "integer", "minimum": "5"}, 'minimum: expected a number, found "5"'),
        ({"type": "number", "maximum": None}, "maximum: expected a number, found null"),
        ({"type": "string", "enum": "abc"}, 'enum: expected a list, found "abc"'),
        ({"anyOf": {}}, "anyOf: expected a list, found {}"),
        ({"properties": {"b": {}}, "required": "b"}, 'required: expected a list, found "b"'),
    ],
)
def test_what_is_no_json_schema(tmp_path: Path, asked: Any, message: str):
    said = {"type": "object", "properties": {"a": asked}}
    with pytest.raises(CannotImport) as raised:
        import_json_schema(_json(tmp_path, said))
    assert str(raised.value).endswith(f"schema.json: a.{message}")


def test_a_bound_that_no_double_holds(tmp_path: Path):
    file = tmp_path / "schema.json"
    file.write_text('{"properties": {"n": {"type": "number", "minimum": 1, "maximum": 1e400}}}')
    found = import_json_schema(str(file))
    assert _loaded(found).field("n").rules == (Rule("minimum", 1),)
    assert found.notes.of(("n",)) == ["not held to maximum: 1E+400, which no double holds"]


def _table(folder: Path, sql: str, dialect: str) -> tuple[Contract, Imported]:
    file = folder / "table.sql"
    file.write_text(sql, "utf-8")
    found = import_sql(str(file), dialect)
    return _loaded(found), found


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("snowflake", "CREATE TABLE t (ID INT, Name VARCHAR(9), PRIMARY KEY (id), UNIQUE (NAME), "
         "CHECK (LENGTH(name) > 2))"),
        ("mysql", "CREATE TABLE t (`ID` INT, `Name` VARCHAR(9) CHECK (LENGTH(name) > 2), "
         "PRIMARY KEY (`id`), UNIQUE KEY u (`name`))"),
    ],
)  # fmt: skip
def test_names_in_sql_have_no_case(tmp_path: Path, dialect: str, sql: str):
    made, found = _table(tmp_path, sql, dialect)
    assert (made.primary_key, made.field("ID").required) == (("ID",), True)
    assert made.field("Name").unique
    assert set(made.field("Name").rules) == {Rule("maxLength", 9), Rule("minLength", 3)}
    assert not len(found.notes)


def test_quoted_names_in_sql_that_differ_in_case_alone(tmp_path: Path):
    sql = """CREATE TABLE t ("a" INT, "A" INT, PRIMARY KEY ("A"), CHECK ("a" > 3))"""
    made, _ = _table(tmp_path, sql, "postgresql")
    assert made.primary_key == ("A",)
    assert made.field("a").rules == (Rule("exclusiveMinimum", 3),)


@pytest.mark.parametrize("kind", ["CLUSTERED", "NONCLUSTERED"])
def test_the_key_of_t_sql(tmp_path: Path, kind: str):
    sql = f"CREATE TABLE t ([Id] INT, [B] BIT, CONSTRAINT k PRIMARY KEY {kind} ([Id] ASC, [B]))"
    made, found = _table(tmp_path, sql, "tsql")
    assert made.primary_key == ("Id", "B")
    assert made.field("B").type == "boolean"
    assert not len(found.notes)


def test_types_of_dialects(tmp_path: Path):
    made, found = _table(tmp_path, "CREATE TABLE t (a ARRAY, b ARRAY(INT))", "snowflake")
    assert [field.type for field in made.fields] == ["json", "array"]
    assert found.notes.of(("a",)) == ["ARRAY: kept as JSON"]
    made, found = _table(tmp_path, "CREATE TABLE t (a BIT(8), b BIT(1))", "mysql")
    assert [field.type for field in made.fields] == ["string", "boolean"]
    assert found.notes.of(("a",)) == ["BIT(8): no type of a contract, read as a string"]
    made, _ = _table(tmp_path, "CREATE TABLE t (a LowCardinality(UInt8))", "clickhouse")
    assert (made.field("a").type, made.field("a").storage) == ("integer", "uint8")


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


def test_lengths_of_time_in_parquet_are_numbers(tmp_path: Path):
    file = tmp_path / "rows.parquet"
    rows = pa.table({"took": pa.array([5, None], pa.duration("ms"))})
    pq.write_table(rows, file)
    found = import_parquet(str(file))
    made = _loaded(found)
    assert found.notes.of(("took",)) == ["duration[ms]: held as its number of ms"]
    assert not ArrowDecoder(made).decode(rows.to_batches()[0]).refused


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
