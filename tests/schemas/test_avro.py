"""Avro schemas: each Arrow type has one, names are unique, what has none is named."""

import fastavro
import pyarrow as pa
import pytest
from millstream.schemas.avro.schema import avro_schema


def kind_of(kind, nullable=False):
    (field,) = avro_schema(pa.schema([pa.field("x", kind, nullable)]), "t")["fields"]
    return field["type"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.bool_(), "boolean"),
        (pa.int8(), "int"),
        (pa.uint16(), "int"),
        (pa.int32(), "int"),
        (pa.uint32(), "long"),
        (pa.int64(), "long"),
        (
            pa.uint64(),
            {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0},
        ),
        (pa.float16(), "float"),
        (pa.float32(), "float"),
        (pa.float64(), "double"),
        (
            pa.decimal128(9, 2),
            {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        ),
        (pa.string(), "string"),
        (pa.dictionary(pa.int32(), pa.large_string()), "string"),
        (pa.binary(), "bytes"),
        (pa.binary(16), "bytes"),
        (pa.timestamp("us", "UTC"), {"type": "long", "logicalType": "timestamp-micros"}),
        (pa.timestamp("us"), {"type": "long", "logicalType": "local-timestamp-micros"}),
        (pa.timestamp("s", "UTC"), {"type": "long", "logicalType": "timestamp-millis"}),
        (pa.timestamp("ns"), {"type": "long", "logicalType": "local-timestamp-nanos"}),
        (pa.date32(), {"type": "int", "logicalType": "date"}),
        (pa.time32("s"), {"type": "int", "logicalType": "time-millis"}),
        (pa.time64("us"), {"type": "long", "logicalType": "time-micros"}),
        (pa.list_(pa.int8()), {"type": "array", "items": ["null", "int"]}),
    ],
)
def test_types(kind, expected):
    assert kind_of(kind) == expected
    assert kind_of(kind, nullable=True) == ("null" if expected == "null" else ["null", expected])


def test_nullable_fields_have_a_default():
    schema = pa.schema([pa.field("a", pa.int8()), pa.field("b", pa.int8(), nullable=False)])
    assert avro_schema(schema, "t") == {
        "type": "record",
        "name": "t",
        "fields": [
            {"name": "a", "type": ["null", "int"], "default": None},
            {"name": "b", "type": "int"},
        ],
    }


def names(schema):
    """The full names of all records."""
    if isinstance(schema, list):
        return [name for kind in schema for name in names(kind)]
    if not isinstance(schema, dict):
        return []
    if schema["type"] == "array":
        return names(schema["items"])
    if schema["type"] != "record":
        return []
    own = ".".join(filter(None, [schema.get("namespace"), schema["name"]]))
    return [own, *(name for field in schema["fields"] for name in names(field["type"]))]


def test_records_are_named_by_their_path():
    inner = pa.struct([("c", pa.int8())])
    outer = pa.struct([("b", inner), ("string", inner), ("c", pa.list_(pa.list_(inner)))])
    schema = avro_schema(pa.schema([("a", outer), ("b", inner), ("record", outer)]), "t")
    assert names(schema) == [
        "t", "t.a", "t.a.b", "t.a.string.value", "t.a.c", "t.b",
        "t.record.value", "t.record.value.b", "t.record.value.string.value", "t.record.value.c",
    ]  # fmt: skip
    fastavro.parse_schema(schema)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dead-letters", "dead_letters"), ("1a", "_1a"), ("", "_"), ("ü.x", "__x"), ("int", "value")],
)
def test_the_name_is_made_an_avro_name(name, expected):
    schema = avro_schema(pa.schema([("a", pa.int8())]), name)
    assert schema["name"] == expected
    fastavro.parse_schema(schema)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (pa.field("a-b", pa.int8()), "column 'a-b': Avro allows only"),
        (pa.field("1", pa.int8()), "column '1': Avro allows only"),
        (pa.field("", pa.int8()), "column '': Avro allows only"),
        (pa.field("ü", pa.int8()), "column 'ü': Avro allows only"),
        (
            pa.field("a", pa.list_(pa.struct([("b c", pa.int8())]))),
            r"column 'a\[\]\.b c': Avro allows only",
        ),
    ],
)
def test_names_that_avro_has_not(field, message):
    with pytest.raises(ValueError, match=message):
        avro_schema(pa.schema([field]), "t")


def test_a_name_that_is_there_twice():
    with pytest.raises(ValueError, match="column 'a' is there twice"):
        avro_schema(pa.schema([("a", pa.int8()), ("a", pa.int8())]), "t")


@pytest.mark.parametrize(
    "kind",
    [
        pa.duration("s"), pa.time64("ns"), pa.decimal128(5, -2),
        pa.map_(pa.string(), pa.int8()), pa.month_day_nano_interval(),
    ],
)  # fmt: skip
def test_types_that_avro_has_not(kind):
    with pytest.raises(TypeError, match=r"column 'a\[\]': Arrow type .* cannot be written as Avro"):
        avro_schema(pa.schema([("a", pa.list_(kind))]), "t")
