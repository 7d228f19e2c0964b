"""A contract in the forms that others have, each held against the tool that reads it."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from decimal import Decimal
from typing import Any

import duckdb
import jsonschema
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.forms.bigquery import bigquery_schema
from millstream.schemas.forms.ddl import create_table
from millstream.schemas.forms.iceberg import iceberg_schema
from millstream.schemas.forms.json_schema import json_schema
from millstream.schemas.forms.struct_source import struct_source

from tests import strategies

ORDERS = Contract(
    "shop",
    "1.0.0",
    "orders",
    (
        Field("id", "string", required=True, primary_key=True),
        Field("placed", "timestamp", required=True),
        Field("total", "decimal", precision=10, scale=2, description="in euro"),
        Field("count", "integer", storage="uint64", rules=(Rule("minimum", 1),)),
        Field(
            "lines",
            "array",
            items=Field(
                "item",
                "object",
                required=True,
                fields=(Field("sku", "string", required=True), Field("weight", "number")),
            ),
        ),
        Field("matrix", "array", items=Field("item", "array", items=Field("item", "integer"))),
        Field("extra", "json"),
    ),
    primary_key=("id",),
)


def _narrow(contract: Contract) -> Contract:
    """The contract with decimals that every system holds."""

    def narrow(field: Field) -> Field:
        items = field.items and narrow(field.items)
        fields = tuple(map(narrow, field.fields))
        if field.type == "decimal":
            rules = tuple(r for r in field.rules if r.kind == "never")
            return replace(field, precision=min(field.precision, 38), scale=0, rules=rules)
        return replace(field, items=items, fields=fields)

    return replace(contract, fields=tuple(map(narrow, contract.fields)))


def test_bigquery():
    fields = {f["name"]: f for f in bigquery_schema(ORDERS)}
    assert fields["id"] == {"name": "id", "type": "STRING", "mode": "REQUIRED"}
    assert fields["total"] == {
        "name": "total",
        "type": "NUMERIC",
        "mode": "NULLABLE",
        "precision": "10",
        "scale": "2",
        "description": "in euro",
    }
    assert fields["count"]["type"] == "NUMERIC"
    assert fields["lines"]["mode"] == "REPEATED"
    assert [f["name"] for f in fields["lines"]["fields"]] == ["sku", "weight"]
    # an array of arrays, which BigQuery does not have
    assert fields["matrix"]["type"] == "RECORD"
    assert fields["matrix"]["fields"] == [{"type": "INTEGER", "name": "item", "mode": "REPEATED"}]


def test_a_decimal_that_bigquery_cannot_hold():
    wide = Contract("c", "1", "c", (Field("n", "decimal", precision=76, scale=0),))
    with pytest.raises(ValueError, match=r"^n: BigQuery's BIGNUMERIC holds 38 digits"):
        bigquery_schema(wide)
    scaled = Contract("c", "1", "c", (Field("n", "decimal", precision=38, scale=20),))
    assert bigquery_schema(scaled)[0]["type"] == "BIGNUMERIC"


def test_iceberg_by_its_own_library():
    schema_module = pytest.importorskip("pyiceberg.schema", reason="pyiceberg is not installed")
    schema = schema_module.Schema.model_validate_json(json.dumps(iceberg_schema(ORDERS)))
    assert schema.identifier_field_names() == {"id"}
    assert str(schema.find_type("count")) == "decimal(20, 0)"
    assert str(schema.find_type("lines.element.weight")) == "double"
    assert schema.find_field("id").required
    ids = [field_id for field_id, _ in schema._lazy_id_to_name.items()]
    assert len(ids) == len(set(ids))


def test_what_iceberg_does_not_take():
    loose = replace(ORDERS, fields=(Field("id", "string"), *ORDERS.fields[1:]))
    with pytest.raises(ValueError, match=r"^id: an identifier field of Iceberg must be required"):
        iceberg_schema(loose)


@pytest.mark.filterwarnings("ignore")
@given(strategies.contracts(), st.data())
@settings(max_examples=150)
def test_good_records_keep_the_json_schema(contract: Contract, data: st.DataObject):
    record = data.draw(strategies.records(contract))
    schema = json_schema(contract)
    jsonschema.Draft202012Validator.check_schema(schema)
    value = json.loads(record.payload)
    # JSON Schema knows no long integer, and takes 1.0 and 1 for alike
    assume(not _has_alike(value))
    jsonschema.validate(value, schema)


def _has_alike(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_alike, value.values()))
    if not isinstance(value, list):
        return False
    seen = [json.dumps(v, sort_keys=True) for v in value]
    alike = any(value[i] == value[j] for i in range(len(value)) for j in range(i))
    return (alike and len(set(seen)) == len(seen)) or any(map(_has_alike, value))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        (Field("f", "string", required=True), {}),
        (Field("f", "string"), {"f": 1}),
        (Field("f", "integer", storage="int8"), {"f": 128}),
        (Field("f", "integer", rules=(Rule("minimum", 3),)), {"f": 2}),
        (Field("f", "string", rules=(Rule("pattern", "^a"),)), {"f": "b"}),
        (Field("f", "string", rules=(Rule("enum", ("a", "b")),)), {"f": "c"}),
        (Field("f", "decimal", rules=(Rule("maximum", Decimal("1.5")),)), {"f": 1.6}),
        (Field("f", "array", items=Field("i", "string"), rules=(Rule("maxItems", 1),)),
         {"f": ["a", "b"]}),
        (Field("f", "object", fields=(Field("g", "boolean", required=True),)), {"f": {}}),
    ],
)  # fmt: skip
def test_broken_records_break_the_json_schema(field: Field, bad: dict[str, Any]):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, json_schema(Contract("c", "1", "c", (field,))))


def test_what_json_schema_cannot_say_is_named():
    field = Field("at", "timestamp", format="dd.MM.yyyy", rules=(Rule("minimum", "2026"),))
    said = json_schema(Contract("c", "1", "c", (field,)))["properties"]["at"]
    assert said == {
        "type": ["string", "null"],
        "$comment": "also held to: format dd.MM.yyyy, minimum",
    }


@given(strategies.contracts())
@settings(max_examples=60)
def test_duckdb_makes_the_table(contract: Contract):
    contract = _narrow(contract)
    assume(len({f.name.lower() for f in contract.fields}) == len(contract.fields))
    with duckdb.connect() as connection:
        try:
            connection.execute(create_table(contract))
        except duckdb.Error as error:  # two inner names that differ in case alone
            assume("uplicate" not in str(error))
            raise
        described = connection.execute('DESCRIBE "c"').fetchall()
    assert [(row[0], row[2]) for row in described] == [
        (f.name, "NO" if f.required else "YES") for f in contract.fields
    ]


def test_a_table_with_hostile_names():
    fields = (Field('a"); DROP TABLE x; --', "string", required=True),)
    contract = Contract("c", "1", 'ta"ble', fields, primary_key=(fields[0].name,))
    with duckdb.connect() as connection:
        connection.execute(create_table(contract))
        assert connection.execute("SHOW TABLES").fetchall() == [('ta"ble',)]


def test_postgresql():
    assert create_table(ORDERS, "postgresql").splitlines() == [
        'CREATE TABLE "orders" (',
        '  "id" TEXT NOT NULL,',
        '  "placed" TIMESTAMPTZ NOT NULL,',
        '  "total" NUMERIC(10,2),',
        '  "count" NUMERIC(20,0),',
        '  "lines" JSONB,',
        '  "matrix" JSONB,',
        '  "extra" JSONB,',
        '  PRIMARY KEY ("id")',
        ");",
    ]
    with pytest.raises(ValueError, match=r"^no SQL dialect 'oracle'; there are duckdb, postgresql"):
        create_table(ORDERS, "oracle")


@given(strategies.contracts(), st.data())
@settings(max_examples=80)
def test_structs_read_good_records(contract: Contract, data: st.DataObject):
    module = types.ModuleType("made")
    exec(compile(struct_source(contract), "made", "exec", dont_inherit=True), module.__dict__)
    sys.modules["made"] = module  # where msgspec looks for the names in annotations
    record = data.draw(strategies.records(contract))
    found = msgspec.json.decode(_plain(record, contract), type=module.C, strict=True)
    encoded = json.loads(msgspec.json.encode(found))
    assert set(encoded) == {f.name for f in contract.fields}


def _plain(record: strategies.Record, contract: Contract) -> bytes:
    """The record with what has a format of the contract's own left out: Structs know ISO alone."""

    def strip(value: Any, field: Field) -> Any:
        if field.type in ("timestamp", "date", "time"):
            return None if not field.required else _ISO[field.type]
        if field.type == "object" and value is not None:
            return {f.name: strip(value.get(f.name), f) for f in field.fields}
        if field.type == "array" and value is not None:
            assert field.items is not None
            return [strip(v, field.items) for v in value]
        return value

    value = json.loads(record.payload)
    return json.dumps({f.name: strip(value.get(f.name), f) for f in contract.fields}).encode()


_ISO = {"timestamp": "2026-11-24T00:00:00Z", "date": "2026-11-24", "time": "12:00:00"}
