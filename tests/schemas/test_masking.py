"""Masking: what is classified, or what nobody has classified, is hidden; all else stays."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import fastavro
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field
from millstream.schemas.csv.decoder import CsvDecoder, HeaderError
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.enrich.misses import Misses
from millstream.schemas.json.masked import MAX_NESTING, masked_json
from millstream.schemas.masking import NOT_SHOWN, Masking
from millstream.schemas.odcs import parse_contract
from millstream.schemas.rules import shown

PII: Any = {"classification": "PII"}
FIELDS = (
    Field("id", "string"),
    Field("n", "integer"),
    Field("mail", "string", **PII),
    Field("free", "json"),
    Field("o", "object", fields=(Field("id", "string"), Field("mail", "string", **PII))),
    Field("plain", "object", fields=(Field("id", "string"),)),
    Field("secret", "object", fields=(Field("id", "string"),), **PII),
    Field("l", "array", items=Field("item", "object", fields=(Field("mail", "string", **PII),))),
    Field("ids", "array", items=Field("item", "string")),
)
CONTRACT = Contract("c", "1", "c", FIELDS)
OPEN = Contract("c", "1", "c", (Field("id", "string"),))
NAMES = st.sampled_from([*(f.name for f in FIELDS), "other", 'odd"\\ name'])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5))
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(NAMES, v, max_size=4), max_leaves=12
)
RECORDS = st.dictionaries(NAMES, VALUES, max_size=6)


def expected(value: Any, field: Field | None) -> Any:
    """What is shown of a value, the plain way."""
    if value is None:
        return None
    if field is None or field.classification:
        return "***"
    if field.type == "json":
        return value
    if field.type == "object" and isinstance(value, dict):
        known = {f.name: f for f in field.fields}
        return {k: expected(v, known.get(k)) for k, v in value.items()}
    if field.type == "array" and isinstance(value, list):
        return [expected(v, field.items) for v in value]
    return "***" if isinstance(value, dict | list) or "PII" in repr(field) else value


@given(RECORDS, st.sampled_from([None, 2]))
def test_json_is_masked_field_by_field(record, indent):
    payload = json.dumps(record, indent=indent).encode()
    shown = Masking(CONTRACT).payload(payload)
    assert json.loads(shown) == expected(record, Field("", "object", fields=FIELDS))


@given(VALUES, st.sampled_from([None, 0, 3]))
def test_what_is_not_hidden_stays_word_for_word(value, indent):
    text = f' {{"free" :\t{json.dumps(value, indent=indent, ensure_ascii=False)}\r\n}} '
    assert Masking(CONTRACT).payload(text.encode()) == text


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ('{"n": 1.50e+3, "mail": 1.50}', '{"n": 1.50e+3, "mail": "***"}'),
        ('{"mail": "a", "mail": "b"}', '{"mail": "***", "mail": "***"}'),
        ('{"m\\u0061il": "a", "id": "\\u0061"}', '{"m\\u0061il": "***", "id": "\\u0061"}'),
        ('{"mail": null, "other": null}', '{"mail": null, "other": null}'),
        ('{"mail": {"a": [1, {}]}}', '{"mail": "***"}'),
        ('{"o": "street", "plain": "x"}', '{"o": "***", "plain": "x"}'),
        ('{"id": {"mail": "x"}, "ids": {"a": 1}}', '{"id": "***", "ids": "***"}'),
        ("[1]", '"***"'),
        ('"a"', '"***"'),
        ("{}", "{}"),
    ],
)
def test_examples(payload, shown):
    assert Masking(CONTRACT).payload(payload.encode()) == shown


@pytest.mark.parametrize(
    "payload",
    [b'{"id": "a"', b"a", b"", b'{"id": "a"} x', b'{"id": "a",}', b'{"id" "a"}', b"[1,]", b"[,1]",
     b'{"id": "a\xff"}', b'{"id": 01}', b'{"id": NaN}', b"{'id': 1}", b'{"id": "a\nb"}',
     b'{"id": ,}', b'{"id"}', b'{1: 2}', b"{,}", b"[1 2]", b"[}", b'{"free":',
     b'{"free": ' + b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1) + b"}"],
)  # fmt: skip
def test_what_is_no_json_is_not_shown_at_all(payload):
    assert Masking(CONTRACT).payload(payload) == NOT_SHOWN
    assert Masking(OPEN).payload(payload) == payload.decode("utf-8", "backslashreplace")


@given(st.text(alphabet='{}[]",: \\n1e+-.truefalsnmai', max_size=30))
def test_what_is_taken_for_json_is_json(text):
    try:
        shown = masked_json(text, FIELDS, lambda value: "***")
    except (ValueError, RecursionError):
        return
    json.loads(text)
    json.loads(shown)


def test_csv_by_its_header():
    said = {"format": "csv", "csv.header": "id,mail,other,n", "csv.options": "{}"}
    masking = Masking(CONTRACT)
    assert masking.payload(b'"a,""b",x@y,"z",5', said) == '"a,""b",***,"***",5'
    assert masking.payload(b"a,,,", said) == "a,,,"
    for other in (b"a,x@y", b"a,x@y,z,5,6", b'"a,x@y,z'):
        assert masking.payload(other, said) == NOT_SHOWN
    assert masking.payload(b"a,x@y,z,5", {"format": "csv"}) == NOT_SHOWN
    options = CsvOptions(delimiter=";", quote="", header=("mail", "id"))
    said = {"format": "csv", "csv.options": msgspec.json.encode(options).decode()}
    assert masking.payload(b"x@y;a", said) == "***;a"


def test_avro_by_its_schema():
    schema: Any = {"type": "record", "name": "r", "fields": [
        {"name": "id", "type": "string"}, {"name": "mail", "type": ["null", "string"]},
        {"name": "other", "type": {"type": "int", "logicalType": "date"}}]}  # fmt: skip
    data = io.BytesIO()
    fastavro.schemaless_writer(data, schema, {"id": "a", "mail": "x@y", "other": 5})
    said = {"format": "avro", "avro.schema": json.dumps(schema)}
    masking = Masking(CONTRACT)
    shown = masking.payload(data.getvalue(), said)
    assert json.loads(shown) == {"id": "a", "mail": "***", "other": "***"}
    for payload, attributes in (
        (data.getvalue() + b"x", said),
        (data.getvalue()[:-1], said),
        (data.getvalue(), {"format": "avro", "avro.framing": "confluent"}),
        (data.getvalue(), {**said, "avro.schema": "{"}),
    ):
        assert masking.payload(payload, attributes) == NOT_SHOWN


@pytest.mark.parametrize(
    ("path", "hidden"),
    [("id", False), ("mail", True), ("o", True), ("o.id", False), ("o.mail", True), ("l", True),
     ("secret.id", True), ("secret.what", True), ("l[3].mail", True), ("ids[0]", False),
     ("other", True), ("", True), ("id.x", True), ("id[0]", True), ("free", False),
     ("plain", False)],
)  # fmt: skip
def test_values_by_their_paths(path, hidden):
    assert Masking(CONTRACT).value(path, 5) == ("***" if hidden else "5")
    assert Masking(CONTRACT).value(path, None) == "None"
    assert Masking(OPEN).value(path, 5) == "5"


def test_attributes_of_messages():
    masking = Masking(CONTRACT)
    assert masking.attribute("kafka.key", "x@y") == "***"
    assert masking.attribute("kafka.header.user", "x@y") == "***"
    assert masking.attribute("format", "csv") == "csv"
    assert Masking(OPEN).attribute("kafka.key", "x@y") == "x@y"


@given(st.text(), st.text(), st.sampled_from([b"k" * 16, b"k" * 64, b"k" * 100]))
def test_hashes_tell_equal_values_equal_and_others_apart(one, other, key):
    masking = Masking(CONTRACT, key)
    assert (masking.mark(one) == masking.mark(other)) == (one == other)
    assert masking.mark(one) != Masking(CONTRACT, key + b"k").mark(one)
    payload = json.dumps({"mail": one, "other": one})
    shown = json.loads(masking.payload(payload.encode()))
    assert set(shown.values()) == {masking.mark(one)} == {masking.value("mail", one)}


def test_a_key_that_can_be_guessed():
    with pytest.raises(ValueError, match="at least 16 bytes, this one has 15"):
        Masking(CONTRACT, b"k" * 15)


def test_what_is_within_a_classified_field_is_classified():
    contract = parse_contract(
        """
apiVersion: v3.1.0
kind: DataContract
id: c
version: 1.0.0
schema:
- name: c
  properties:
  - name: o
    logicalType: object
    classification: restricted
    properties:
    - {name: a, logicalType: string, classification: public}
    - {name: b, logicalType: string, classification: pii}
    - name: l
      logicalType: array
      items: {logicalType: string}
  - {name: p, logicalType: string, classification: public}
""",
        "c.yaml",
    )
    found = contract.field("o")
    assert [f.classification for f in found.fields] == ["restricted", "pii", "restricted"]
    assert found.fields[2].items == replace(Field("item", "string"), classification="restricted")
    assert contract.field("p").classification == "public"


# ------------------------------------------------------------------ messages


def test_a_message_repeats_no_value_that_holds_a_classified_one():
    hidden = {field.name for field in FIELDS if shown("x", field) == "a value not shown"}
    assert hidden == {"mail", "o", "secret", "l"}


@pytest.mark.parametrize("header", [["x@y", "z"], ["id", "x@y", "x@y"]])
def test_what_is_taken_for_a_header_may_be_a_record(header):
    with pytest.raises(HeaderError) as raised:
        CsvDecoder(CONTRACT, header, CsvOptions())
    assert "x@y" not in str(raised.value)
    with pytest.raises(HeaderError, match="x@y"):
        CsvDecoder(OPEN, header, CsvOptions())


@pytest.mark.parametrize(("contract", "said"), [(CONTRACT, "a value not shown"), (OPEN, "'x@y'")])
def test_a_key_that_a_step_has_made_may_be_made_of_what_is_classified(contract, said):
    misses = Misses(["contact"], "the reference", contract)
    batch = pa.record_batch({"contact": ["x@y"]})
    (failure,) = misses.failures(batch, np.array([0]), np.array([False]))
    assert str(failure.error) == f"the reference has nothing for contact {said}"
