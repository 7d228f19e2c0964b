"""Schemas out of several parts, and schemas by their fingerprints."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.avro.fingerprints import KnownSchemas, rabin
from millstream.schemas.avro.framing import SINGLE_OBJECT
from millstream.schemas.avro.messages import AvroMessageDecoder
from millstream.schemas.avro.references import with_definitions
from millstream.schemas.avro.types import AvroSchemaError, parse_avro_schema
from millstream.schemas.contract import Contract, Field
from test_avro_datums import TREE, records

# ---------------------------------------------------------------------------------- references


def apart(schema: Any, chosen: st.DataObject, found: dict[str, Any]) -> Any:
    """A schema without some of the types that it defines, which are in ``found`` then."""
    if isinstance(schema, list):
        return [apart(branch, chosen, found) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    left = dict(schema)
    for inner in ("items", "values"):
        if inner in left:
            left[inner] = apart(left[inner], chosen, found)
    if "fields" in left:
        types = [apart(f["type"], chosen, found) for f in left["fields"]]
        left["fields"] = [{**f, "type": t} for f, t in zip(left["fields"], types, strict=True)]
    if "name" not in left or left["name"] == "Top" or not chosen.draw(st.booleans()):
        return left
    name = left["name"]
    if chosen.draw(st.booleans()):
        left |= {"namespace": "ns", "name": name.removeprefix("ns.")}
    found[name] = left
    return name


@given(st.data(), records())
def test_parts_are_put_together_to_what_they_were(data, made):
    found: dict[str, Any] = {}
    left = apart(made.schema, data, found)
    whole = parse_avro_schema(json.dumps(made.schema))
    assert parse_avro_schema(json.dumps(with_definitions(left, found))) == whole


def record(name: str, *types: Any, **more: Any) -> dict[str, Any]:
    fields = [{"name": f"f{i}", "type": type} for i, type in enumerate(types)]
    return {"type": "record", "name": name, "fields": fields, **more}


SIZE = {"type": "enum", "name": "Size", "symbols": ["S"]}


@pytest.mark.parametrize(
    ("schema", "definitions", "whole"),
    [
        (record("a.R", "Size", "Size"), {"a.Size": {**SIZE, "namespace": "a"}},
         record("a.R", {**SIZE, "namespace": "a"}, "Size")),
        # of no namespace, though it is named inside of one
        (record("a.R", "Size"), {"Size": SIZE}, record("a.R", {**SIZE, "namespace": ""})),
        # what the schema defines itself counts
        (record("a.R", SIZE, "Size"), {"a.Size": SIZE}, record("a.R", SIZE, "Size")),
        (record("R", {"type": "Size"}), {"Size": SIZE},
         record("R", {"type": {**SIZE, "namespace": ""}})),
        (TREE, {"Tree": SIZE}, TREE),
        # a type that is named by another, which is defined first
        (record("R", {"type": "array", "items": "b.B"}, "Size"),
         {"b.B": record("b.B", ["null", "b.B", "Size"]), "Size": SIZE},
         record("R", {"type": "array", "items": record(
             "b.B", ["null", "b.B", {**SIZE, "namespace": ""}], namespace="")}, "Size")),
        ({"type": "record"}, {"Size": SIZE}, {"type": "record"}),
        (7, {"Size": SIZE}, 7),
    ],
)  # fmt: skip
def test_what_is_put_where(schema, definitions, whole):
    assert with_definitions(schema, definitions) == whole


# -------------------------------------------------------------------------------- fingerprints

RECORD = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "n", "type": "int", "doc": "of no influence"}],
}


def test_a_fingerprint_is_that_of_the_specification():
    """Bit by bit, as the specification's own code does."""
    empty = 0xC15D213AA4D7A795
    canonical = b'{"name":"R","type":"record","fields":[{"name":"n","type":"int"}]}'
    value = empty
    for octet in canonical:
        value ^= octet
        for _ in range(8):
            value = (value >> 1) ^ (empty if value & 1 else 0)
    assert rabin(json.dumps(RECORD)) == value


def test_single_objects_are_read_by_the_schemas_that_are_known():
    text = json.dumps(RECORD)
    contract = Contract("c", "1", "c", (Field("n", "integer"),))
    decoder = AvroMessageDecoder(contract, KnownSchemas([text]), framing=SINGLE_OBJECT)
    good = b"\xc3\x01" + rabin(text).to_bytes(8, "little") + b"\x02"
    found = decoder.decode(pa.array([good, b"\xc3\x01" + b"\0" * 9], pa.binary()))
    assert found.records.to_pylist() == [{"n": 1}]
    assert [v.message for v in found.violations] == [
        "names the schema 0, which is none of those that are known"
    ]


@pytest.mark.parametrize(
    "text", ["{", '"int"', json.dumps(record("R", {**SIZE, "symbols": ["no symbol"]}))]
)
def test_what_is_no_schema_has_no_fingerprint(text):
    with pytest.raises(AvroSchemaError):
        KnownSchemas([text])
