"""ODCS documents → contracts: every rule, every error with its place, every finding."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import re
import textwrap
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import IDENTITY, UNKNOWN, batch_schema
from millstream.schemas.contract import Contract, ContractError, Field, Rule, digest_of
from millstream.schemas.documents import read_document
from millstream.schemas.integers import integer_range
from millstream.schemas.odcs import load_contract, parse_contract
from millstream.schemas.odcs.rules import OPTIONS
from millstream.schemas.odcs.types import LOGICAL_TYPES
from millstream.schemas.rules import KINDS

CONTRACTS = Path(__file__).parent / "contracts"

HEADING = """\
apiVersion: v3.1.0
kind: DataContract
id: c
version: "1"
schema:
- name: t
  properties:
"""
FIRST = HEADING.count("\n") + 1
"""The line of the first property."""


def parse(properties: str, **arguments: Any) -> Contract:
    """A contract of one table; ``properties`` are YAML list entries, from line ``FIRST`` on."""
    text = HEADING + textwrap.indent(textwrap.dedent(properties).strip(), "  ")
    return parse_contract(text, "c.yaml", **arguments)


def field(keys: str) -> Field:
    """A field from the keys of a flow mapping."""
    return parse(f"- {{name: f, {keys}}}").fields[0]


def rules(keys: str) -> dict[str, Any]:
    return {rule.kind: rule.value for rule in field(keys).rules}


def findings(keys: str) -> list[str]:
    return [f.message for f in parse(f"- {{name: f, {keys}}}").findings]


def error(properties: str, **arguments: Any) -> str:
    with pytest.raises(ContractError) as caught:
        parse(properties, **arguments)
    return str(caught.value)


def document_error(text: str) -> str:
    with pytest.raises(ContractError) as caught:
        parse_contract(textwrap.dedent(text), "c.yaml")
    return str(caught.value)


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[arg-type]


class TestWholeDocuments:
    def test_every_type_with_every_option(self):
        contract = load_contract(CONTRACTS / "all_options.yaml")
        assert (contract.id, contract.version, contract.name) == (
            "7c1f0f2e-orders",
            "2.1.0",
            "orders",
        )
        assert contract.primary_key == ("shop", "order_id")
        assert contract.event_time == "placed_at"
        assert {f.name: f.type for f in contract.fields} == {
            "order_id": "string", "shop": "string", "placed_at": "timestamp", "email": "string",
            "secret": "string", "picture": "string", "quantity": "integer", "huge": "decimal",
            "weight": "number", "price": "decimal", "rate": "decimal", "gift": "boolean",
            "deliver_on": "date", "deliver_at": "time", "address": "object", "lines": "array",
            "extra": "json", "attributes": "json", "embedding": "array", "untyped": "integer",
            "odd": "string", "status": "string",
        }  # fmt: skip
        assert [f.name for f in contract.fields if f.required] == [
            "order_id", "shop", "placed_at", "quantity", "status",
        ]  # fmt: skip
        lines = contract.field("lines")
        assert lines.items is not None
        assert lines.items.name == "item"
        assert lines.items.required
        assert lines.items.fields[0].rules == (Rule("pattern", "^[A-Z]+$"),)
        assert contract.field("address.zip").required
        assert not contract.field("address.city").required

    def test_its_findings_are_those_that_are_not_enforced_in_order(self):
        contract = load_contract(CONTRACTS / "all_options.yaml")
        assert [f.path for f in contract.findings] == [
            "orders",
            "secret.logicalTypeOptions.format",
            "huge.logicalTypeOptions.format",
            "rate.physicalType",
            "attributes.map",
            "embedding.logicalTypeOptions.normalized",
            "odd",
            "status.unique",
            "status.quality[4]",
            "status.quality[5]",
            "slaProperties",
        ]
        lines = (CONTRACTS / "all_options.yaml").read_text("utf-8").splitlines()
        for finding in contract.findings:
            key = re.split(r"[.\[]", finding.path)[-1].rstrip("]")
            assert key in lines[finding.line - 1] or key.isdigit()

    def test_odcs_3_0(self):
        contract = load_contract(CONTRACTS / "odcs_3_0.yaml")
        assert {f.name: (f.type, f.rules) for f in contract.fields} == {
            "value": ("number", (Rule("exclusiveMinimum", 0.0), Rule("maximum", 10.0))),
            "count": ("integer", ()),
            "unit": ("string", (Rule("enum", ("kg", "pounds")),)),
            "day": ("date", ()),
            "taken": ("timestamp", ()),
            "at": ("time", ()),
        }
        assert [f"{f.line} {f.path}: {f.message}" for f in contract.findings] == [
            "15 count.logicalTypeOptions.exclusiveMinimum: asks nothing without a minimum",
            "20 unit.quality[1].note: no such key in ODCS: ignored",
            "20 unit.quality[1]: the quality check duplicateCount: not enforced by the pipeline",
            "22 taken.logicalType: a date of ODCS 3.0, read as a timestamp since its physicalType "
            "is timestamp",
            "24 at.logicalType: a date of ODCS 3.0, read as a time since its format is HH:mm:ss",
        ]

    def test_a_date_of_odcs_3_1_is_a_date(self):
        assert field("logicalType: date, physicalType: timestamp").type == "date"

    def test_every_contract_has_an_arrow_schema_and_is_picklable(self):
        for path in CONTRACTS.glob("*.yaml"):
            contract = load_contract(path, schema="orders" if "two" in path.name else None)
            assert batch_schema(contract).names[-len(IDENTITY) :] == list(IDENTITY)
            assert pickle.loads(pickle.dumps(contract)) == contract

    def test_every_rule_can_be_judged(self):
        def kinds(fields: tuple[Field, ...]) -> set[str]:
            nested = (f.fields + ((f.items,) if f.items else ()) for f in fields)
            return {r.kind for f in fields for r in f.rules}.union(*map(kinds, nested))

        assert kinds(load_contract(CONTRACTS / "all_options.yaml").fields) == KINDS

    def test_the_options_are_those_of_the_standard(self):
        text = files("open_data_contract_standard").joinpath("schema.json").read_text("utf-8")
        standard = json.loads(text)["$defs"]
        base = standard["SchemaBaseProperty"]
        assert set(base["properties"]["logicalType"]["enum"]) == set(LOGICAL_TYPES)
        for branch in filter(lambda b: "if" in b, base["allOf"]):
            types = re.findall('"const": "([a-z]+)"', json.dumps(branch["if"]))
            options = branch["then"]["properties"].get("logicalTypeOptions", {})
            for logical in types:
                assert set(OPTIONS.get(logical, {})) == set(options.get("properties", {}))


class TestChoice:
    def test_the_only_schema_object(self):
        assert parse("- {name: a, logicalType: string}").name == "t"

    def test_one_of_several(self):
        contract = load_contract(CONTRACTS / "two_tables.yaml", schema="customers")
        assert (contract.name, len(contract.fields)) == ("customers", 1)

    def test_several_and_none_named(self):
        path = CONTRACTS / "two_tables.yaml"
        with pytest.raises(ContractError) as caught:
            load_contract(path)
        assert str(caught.value) == (
            f"{path}:5 schema: several schema objects, 'customers' or 'orders': "
            "say which with schema"
        )

    def test_none_of_that_name(self):
        path = CONTRACTS / "two_tables.yaml"
        with pytest.raises(ContractError, match="no schema object 'order'; did you mean 'orders'"):
            load_contract(path, schema="order")
        with pytest.raises(ContractError, match="no schema object 'xyz'; expected 'customers' or"):
            load_contract(path, schema="xyz")


class TestReading:
    def test_a_missing_file(self, tmp_path):
        with pytest.raises(ContractError, match=r"no\.yaml: cannot be read: No such file"):
            load_contract(tmp_path / "no.yaml")

    def test_a_directory(self, tmp_path):
        with pytest.raises(ContractError, match="cannot be read: "):
            load_contract(str(tmp_path))

    def test_not_utf_8(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_bytes(b"a: b\nc: \xff\n")
        with pytest.raises(ContractError, match=r"c\.yaml:2: not UTF-8$"):
            load_contract(path)

    def test_a_byte_order_mark(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text(HEADING + "  - {name: a, logicalType: string}", "utf-8-sig")
        assert load_contract(path).fields[0].name == "a"

    def test_json_is_yaml(self):
        value = read_document(HEADING + "  - {name: a, logicalType: string}", "x").value
        assert parse_contract(json.dumps(value, indent=2), "c.json").fields[0].name == "a"

    def test_aliases_and_merges_are_written_out(self):
        contract = parse("""\
            - &text
              name: a
              logicalType: string
              logicalTypeOptions: &options {minLength: 1, maxLength: 5}
            - <<: *text
              name: b
            - {name: c, logicalType: string, logicalTypeOptions: {<<: *options, maxLength: 9}}
            """)
        assert [f.name for f in contract.fields] == ["a", "b", "c"]
        assert contract.fields[1].rules == contract.fields[0].rules
        assert contract.fields[2].rules == (Rule("minLength", 1), Rule("maxLength", 9))


class TestHeading:
    @pytest.mark.parametrize("key", ["apiVersion", "kind", "id", "version"])
    def test_needed(self, key: str):
        text = re.sub(f"^{key}:.*\n", "", HEADING, flags=re.MULTILINE)
        assert document_error(text) == f"c.yaml:1: no {key}: expected an ODCS data contract"

    @pytest.mark.parametrize(
        ("line", "becomes", "message"),
        [
            (
                "kind: DataContract",
                "kind: DataProduct",
                "c.yaml:2 kind: expected 'DataContract', found 'DataProduct'",
            ),
            (
                "apiVersion: v3.1.0",
                "apiVersion: v2.2.2",
                "c.yaml:1 apiVersion: expected ODCS 3 (such as v3.1.0), found 'v2.2.2'",
            ),
            (
                "apiVersion: v3.1.0",
                "apiVersion: 3",
                "c.yaml:1 apiVersion: expected ODCS 3 (such as v3.1.0), found 3",
            ),
            (
                'version: "1"',
                "version: 1.0",
                "c.yaml:4 version: expected a string, found 1.0; write it in quotes",
            ),
            (
                "id: c",
                "id: c\nserver: []",
                "c.yaml:4 server: no such key in ODCS; did you mean 'servers'?",
            ),
            ("id: c", "id: c\ntags: some", "c.yaml:4 tags: expected a list, found 'some'"),
            (
                "id: c",
                "id: c\ndescription: some",
                "c.yaml:4 description: expected a mapping, found 'some'",
            ),
            ("id: c", "id: c\nteam: some", "c.yaml:4 team: expected a mapping, found 'some'"),
            (
                "- name: t",
                "- physicalName: t",
                "c.yaml:6 schema[0]: a schema object without a name",
            ),
            (
                "- name: t",
                "- name: t\n  logicalType: table",
                "c.yaml:7 t.logicalType: expected 'object', found 'table'",
            ),
            (
                "- name: t",
                "- name: t\n  proprties: []",
                "c.yaml:7 t.proprties: no such key in ODCS; did you mean 'properties'?",
            ),
            (
                "- name: t",
                "- name: t\n- name: t",
                "c.yaml:7 t.name: the schema object 't' is given twice",
            ),
        ],
    )
    def test_wrong(self, line: str, becomes: str, message: str):
        assert line in HEADING
        text = HEADING + "  - {name: a, logicalType: string}"
        assert document_error(text.replace(line, becomes)) == message

    @pytest.mark.parametrize("version", ["v3.0.0", "v3.0.1", "v3.0.2", "v3.1.0", "v3.2.0", "3.1.0"])
    def test_every_odcs_3_loads(self, version: str):
        text = (HEADING + "  - {name: a, logicalType: string}").replace("v3.1.0", version)
        assert parse_contract(text, "c.yaml").findings == ()

    def test_a_newer_one_loads_with_a_finding(self):
        text = (HEADING + "  - {name: a, logicalType: string}").replace("v3.1.0", "v3.9.0")
        (finding,) = parse_contract(text, "c.yaml").findings
        assert (finding.path, finding.line) == ("apiVersion", 1)

    def test_empty_schema(self):
        head = HEADING.partition("schema:")[0]
        none = "c.yaml:1: no schema: a contract needs at least one schema object"
        assert document_error(head) == none
        assert document_error(head + "schema: []") == none
        assert document_error(HEADING) == "c.yaml:6 t: a schema without properties"


class TestTypes:
    @pytest.mark.parametrize(
        ("keys", "expected"),
        [
            ("logicalType: string", Field("f", "string")),
            ("logicalType: integer", Field("f", "integer", storage="int64")),
            ("logicalType: integer, physicalType: SMALLINT", Field("f", "integer")),
            ("logicalType: number", Field("f", "number", storage="float64")),
            ("logicalType: boolean", Field("f", "boolean")),
            ("logicalType: date", Field("f", "date")),
            ("logicalType: timestamp", Field("f", "timestamp")),
            ("logicalType: time", Field("f", "time")),
            ("logicalType: object", Field("f", "json")),
            ("logicalType: object, properties: []", Field("f", "json")),
            ("logicalType: array", Field("f", "json")),
            ("logicalType: map", Field("f", "json")),
            (
                "logicalType: object, properties: [{name: a, logicalType: string}]",
                Field("f", "object", fields=(Field("a", "string"),)),
            ),
            (
                "logicalType: array, items: {logicalType: array, items: {logicalType: boolean}}",
                Field("f", "array", items=Field("item", "array", items=Field("item", "boolean"))),
            ),
            (
                "logicalType: number, physicalType: 'decimal(10,2)'",
                Field("f", "decimal", precision=10, scale=2),
            ),
            (
                "logicalType: number, physicalType: 'DEC ( 9 )'",
                Field("f", "decimal", precision=9, scale=0),
            ),
            (
                "logicalType: integer, physicalType: 'Number(20, 0)'",
                Field("f", "decimal", precision=20, scale=0),
            ),
            (
                "logicalType: number, physicalType: 'BIGNUMERIC(76, 38)'",
                Field("f", "decimal", precision=76, scale=38),
            ),
            ("physicalType: 'numeric(5,1)'", Field("f", "decimal", precision=5, scale=1)),
            (
                "logicalType: integer, physicalType: 'decimal(10,2)'",
                Field(
                    "f", "decimal", rules=(Rule("multipleOf", Decimal(1)),), precision=10, scale=2
                ),
            ),
            (
                "logicalType: string, required: true, unique: false, classification: pii, "
                "description: d",
                Field("f", "string", True, classification="pii", description="d"),
            ),
        ],
    )
    def test_type_without_findings(self, keys: str, expected: Field):
        assert field(keys) == expected
        assert findings(keys) == []

    @pytest.mark.parametrize(
        ("physical", "expected"),
        [
            ("VARCHAR(20)", "string"),
            ("text", "string"),
            ("STRING", "string"),
            ("int", "integer"),
            ("BIGINT", "integer"),
            ("DOUBLE PRECISION", "number"),
            ("float", "number"),
            ("BOOLEAN", "boolean"),
            ("DATE", "date"),
            ("TIMESTAMP WITH TIME ZONE", "timestamp"),
            ("TIMESTAMPTZ", "timestamp"),
            ("time", "time"),
            ("jsonb", "json"),
            ("ARRAY<STRING>", "json"),
        ],
    )
    def test_inferred_from_the_physical_type(self, physical: str, expected: str):
        assert field(f"physicalType: '{physical}'").type == expected
        assert findings(f"physicalType: '{physical}'") == []

    def test_inferred_from_the_shape(self):
        assert field("properties: [{name: a, logicalType: date}]").type == "object"
        assert field("items: {logicalType: date}").type == "array"

    def test_not_inferable_is_a_string_with_a_finding(self):
        assert field("physicalType: GEOGRAPHY").type == "string"
        assert findings("physicalType: GEOGRAPHY") == [
            "no logicalType and the physicalType 'GEOGRAPHY' is not known: read as a string"
        ]
        assert findings("required: true") == [
            "no logicalType and no physicalType: read as a string"
        ]

    @pytest.mark.parametrize(
        ("keys", "held"),
        [
            ("logicalType: number, physicalType: NUMERIC", (38, 9)),
            ("logicalType: number, physicalType: decimal", (38, 9)),
            ("logicalType: number, physicalType: BigNumeric", (76, 38)),
            ("logicalType: integer, physicalType: numeric", (38, 0)),
        ],
    )
    def test_bare_decimal(self, keys: str, held: tuple[int, int]):
        found = field(keys)
        assert (found.type, found.precision, found.scale) == ("decimal", *held)
        (message,) = findings(keys)
        assert message.endswith(f"names no precision: held as decimal({held[0]},{held[1]})")

    def test_a_double_does_not_hold_a_bigint(self):
        (message,) = findings("logicalType: number, physicalType: BIGINT")
        assert message.endswith("beyond 2^53; say logicalType: integer")

    @pytest.mark.parametrize(
        ("physical", "message"),
        [
            ("decimal(77,0)", "decimal(77,0): expected a precision of 1 to 76 digits"),
            ("decimal(0)", "decimal(0): expected a precision of 1 to 76 digits"),
            ("decimal(5,6)", "decimal(5,6): expected a scale of 0 to 5 digits"),
            ("NUMBER(5,-2)", "NUMBER(5,-2): expected a scale of 0 to 5 digits"),
        ],
    )
    def test_no_such_decimal(self, physical: str, message: str):
        keys = f"logicalType: number, physicalType: '{physical}'"
        assert error(f"- {{name: f, {keys}}}") == f"c.yaml:{FIRST} f.physicalType: {message}"

    @pytest.mark.parametrize("bits", [8, 16, 32, 64])
    def test_integer_formats(self, bits: int):
        for sign in ("i", "u"):
            found = field(f"logicalType: integer, logicalTypeOptions: {{format: {sign}{bits}}}")
            assert found.storage == f"{sign.replace('i', '')}int{bits}"

    def test_integers_of_128_bits(self):
        signed = field("logicalType: integer, logicalTypeOptions: {format: i128}")
        unsigned = field("logicalType: integer, logicalTypeOptions: {format: u128}")
        assert signed == Field("f", "decimal", precision=38, scale=0)
        assert unsigned.rules == (Rule("minimum", Decimal(0)),)

    def test_number_formats(self):
        for name, storage in {"f32": "float32", "f64": "float64"}.items():
            keys = f"logicalType: number, logicalTypeOptions: {{format: {name}}}"
            assert field(keys).storage == storage

    def test_a_vector(self):
        keys = "logicalType: vector, logicalTypeOptions: {dimensions: 3"
        assert field(keys + "}") == Field(
            "f",
            "array",
            rules=(Rule("minItems", 3), Rule("maxItems", 3)),
            items=Field("item", "number", True, storage="float32"),
        )
        bits = field(keys + ", elementType: binary}").items
        assert bits == Field("item", "integer", True, (Rule("maximum", 1),), storage="uint8")
        assert error("- {name: f, logicalType: vector}") == (
            f"c.yaml:{FIRST} f: a vector needs logicalTypeOptions.dimensions"
        )

    def test_a_map_is_not_looked_into(self):
        keys = "logicalType: map, map: {key: {logicalType: string}, value: {logicalType: date}}"
        assert findings(keys) == ["a map is kept as JSON: its keys and values are not looked into"]

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("strng", "; did you mean 'string'?"),
            ("Integer", "; did you mean 'integer'?"),
            ("datetime", "; did you mean 'timestamp'?"),
            ("decimal", "; did you mean 'number'?"),
            ("bool", "; did you mean 'boolean'?"),
            (
                "qqq",
                "; expected 'string', 'date', 'timestamp', 'time', 'number', 'integer', "
                "'object', 'array', 'boolean', 'map' or 'vector'",
            ),
        ],
    )
    def test_unknown_logical_type(self, name: str, hint: str):
        message = f"c.yaml:{FIRST + 1} f.logicalType: no logical type {name!r}{hint}"
        assert error(f"- name: f\n  logicalType: {name}") == message


class TestRules:
    @pytest.mark.parametrize(
        ("logical", "options", "expected"),
        [
            ("string", "minLength: 1, maxLength: 5", {"minLength": 1, "maxLength": 5}),
            ("string", "pattern: '^[a-z]+$'", {"pattern": "^[a-z]+$"}),
            ("string", "pattern: '(?=a)b'", {"pattern": "(?=a)b"}),
            ("string", "pattern: '(a)\\1'", {"pattern": "(a)\\1"}),
            *(
                ("string", f"format: {n}", {"format": n})
                for n in ("email", "uuid", "uri", "hostname", "ipv4", "ipv6", "byte")
            ),
            ("string", "format: binary", {"format": "byte"}),
            ("integer", "minimum: 1, maximum: 5", {"minimum": 1, "maximum": 5}),
            (
                "integer",
                "exclusiveMinimum: 1, exclusiveMaximum: 5",
                {"exclusiveMinimum": 1, "exclusiveMaximum": 5},
            ),
            ("integer", "minimum: 0.5, maximum: 2.5", {"minimum": 1, "maximum": 2}),
            (
                "integer",
                "exclusiveMinimum: 0.5, exclusiveMaximum: 2.5",
                {"minimum": 1, "maximum": 2},
            ),
            ("integer", "minimum: 5.0", {"minimum": 5}),
            ("integer", "minimum: -1e30, maximum: 1e30", {}),
            ("integer", "multipleOf: 5", {"multipleOf": 5}),
            ("integer", "multipleOf: 2.5", {"multipleOf": 5}),
            (
                "integer",
                "format: u64, maximum: 18446744073709551614",
                {"maximum": 18446744073709551614},
            ),
            ("number", "minimum: 1, maximum: 2.5", {"minimum": 1.0, "maximum": 2.5}),
            (
                "number",
                "exclusiveMinimum: 0, exclusiveMaximum: 1",
                {"exclusiveMinimum": 0.0, "exclusiveMaximum": 1.0},
            ),
            ("number", "multipleOf: 0.01", {"multipleOf": 0.01}),
            (
                "number",
                "format: f32, maximum: 0.1, minimum: -1e99, multipleOf: 0.1",
                {"minimum": -1e99, "maximum": 0.10000000149011612, "multipleOf": 0.1},
            ),
            ("number", "minimum: 1, exclusiveMinimum: true", {"exclusiveMinimum": 1.0}),
            ("number", "maximum: 1, exclusiveMaximum: false", {"maximum": 1.0}),
            ("integer", "maximum: 1.5, exclusiveMaximum: true", {"maximum": 1}),
            (
                "date",
                "minimum: 2020-01-01, exclusiveMaximum: '2021-01-01'",
                {"minimum": dt.date(2020, 1, 1), "exclusiveMaximum": dt.date(2021, 1, 1)},
            ),
            ("date", "format: dd/MM/yyyy, minimum: 03/02/2020", {"minimum": dt.date(2020, 2, 3)}),
            (
                "timestamp",
                "minimum: '2020-01-01T00:00:00+02:00'",
                {"minimum": utc(2019, 12, 31, 22)},
            ),
            (
                "timestamp",
                "exclusiveMaximum: '2020-01-01 00:00:00.5Z'",
                {"exclusiveMaximum": utc(2020, 1, 1, 0, 0, 0, 500_000)},
            ),
            (
                "timestamp",
                "defaultTimezone: Europe/Berlin, maximum: 2020-07-01",
                {"maximum": utc(2020, 6, 30, 22)},
            ),
            (
                "timestamp",
                "format: dd.MM.yyyy HH:mm, defaultTimezone: Europe/Berlin, "
                "minimum: 01.07.2020 02:30",
                {"minimum": utc(2020, 7, 1, 0, 30)},
            ),
            (
                "time",
                "minimum: 08:30, exclusiveMaximum: 20:00:00",
                {"minimum": dt.time(8, 30), "exclusiveMaximum": dt.time(20)},
            ),
            (
                "array",
                "minItems: 1, maxItems: 3, uniqueItems: true",
                {"minItems": 1, "maxItems": 3, "uniqueItems": True},
            ),
            ("array", "minItems: 0, uniqueItems: false", {}),
            (
                "object",
                "minProperties: 1, maxProperties: 3",
                {"minProperties": 1, "maxProperties": 3},
            ),
            ("string", "minLength: null", {}),
        ],
    )
    def test_options(self, logical: str, options: str, expected: dict[str, Any]):
        found = rules(f"logicalType: {logical}, logicalTypeOptions: {{{options}}}")
        assert found == expected
        assert list(map(type, found.values())) == list(map(type, expected.values()))

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (
                "minimum: 0.1, maximum: 99.99",
                {"minimum": Decimal("0.10"), "maximum": Decimal("99.99")},
            ),
            ("minimum: 0.005", {"minimum": Decimal("0.01")}),
            ("exclusiveMaximum: 0.005", {"maximum": Decimal("0.00")}),
            ("exclusiveMinimum: '1.10'", {"exclusiveMinimum": Decimal("1.10")}),
            ("maximum: 12345678.90", {"maximum": Decimal("12345678.90")}),
            ("maximum: 1e9", {}),
            ("multipleOf: 0.25", {"multipleOf": Decimal("0.25")}),
            ("multipleOf: 0.005", {"multipleOf": Decimal("0.01")}),
        ],
    )
    def test_options_of_a_decimal(self, options: str, expected: dict[str, Any]):
        keys = (
            f"logicalType: number, physicalType: 'decimal(10,2)', logicalTypeOptions: {{{options}}}"
        )
        assert rules(keys) == expected
        assert all(isinstance(v, Decimal) for v in rules(keys).values())

    def test_a_bound_of_many_digits_is_exact(self):
        text = "123456789012345678901234567890.123456789"
        keys = "logicalType: number, physicalType: 'decimal(76,9)', logicalTypeOptions: "
        assert rules(f"{keys}{{maximum: {text}}}") == {"maximum": Decimal(text)}

    def test_required_names_of_an_object(self):
        found = field(
            "logicalType: object, logicalTypeOptions: {required: [b]}, "
            "properties: [{name: a, logicalType: string}, {name: b, logicalType: string}]"
        )
        assert [f.required for f in found.fields] == [False, True]

    @pytest.mark.parametrize(
        ("keys", "values", "expected"),
        [
            ("logicalType: string", "[SE, NO, SE, null]", ("SE", "NO")),
            ("logicalType: integer", "[1, 2.0]", (1, 2)),
            ("logicalType: number", "[1, 2.5]", (1.0, 2.5)),
            (
                "logicalType: number, physicalType: 'decimal(5,2)'",
                "[1, 2.5, '0.10']",
                (Decimal("1.00"), Decimal("2.50"), Decimal("0.10")),
            ),
            ("logicalType: boolean", "[true]", (True,)),
            ("logicalType: date", "[2020-01-01]", (dt.date(2020, 1, 1),)),
            ("logicalType: timestamp", "['2020-01-01T00:00:00Z']", (utc(2020, 1, 1),)),
            ("logicalType: time", "[10:00]", (dt.time(10),)),
        ],
    )
    def test_valid_values(self, keys: str, values: str, expected: tuple[Any, ...]):
        entries = ", ".join(f"{{value: {v}}}" for v in values.strip("[]").split(", "))
        assert rules(f"{keys}, enum: [{entries}]") == {"enum": expected}
        quality = f"{{metric: invalidValues, mustBe: 0, arguments: {{validValues: {values}}}}}"
        assert rules(f"{keys}, quality: [{quality}]") == {"enum": expected}
        assert rules(f"{keys}, quality: [{quality}, {quality}]") == {"enum": expected}

    def test_valid_values_given_twice_are_those_of_both(self):
        keys = (
            "logicalType: string, enum: [{value: a}, {value: b}], quality: "
            "[{rule: invalidValues, mustBe: 0, arguments: {validValues: [b, c]}}]"
        )
        assert rules(keys) == {"enum": ("b",)}

    @pytest.mark.parametrize(
        ("check", "required", "expected"),
        [
            ("metric: nullValues, mustBe: 0", True, {}),
            ("rule: nullValues, mustBe: 0", True, {}),
            ("type: library, metric: nullValues, mustBe: 0, unit: percent", True, {}),
            ("metric: missingValues, mustBe: 0", True, {}),
            ("metric: missingValues, mustBe: 0, arguments: {missingValues: [null]}", True, {}),
            ("metric: invalidValues, mustBe: 0, arguments: {pattern: x}", False, {"pattern": "x"}),
            (
                "metric: invalidValues, mustBe: 0, severity: error, arguments: {pattern: x}",
                False,
                {"pattern": "x"},
            ),
        ],
    )
    def test_quality(self, check: str, required: bool, expected: dict[str, Any]):
        keys = f"logicalType: string, quality: [{{{check}}}]"
        assert (field(keys).required, rules(keys)) == (required, expected)
        assert findings(keys) == []

    @pytest.mark.parametrize(
        ("check", "message"),
        [
            (
                "metric: nullValues",
                "the quality check nullValues, without a mustBe or its like: "
                "not enforced by the pipeline",
            ),
            (
                "type: text, name: nice, description: d",
                "the quality check nice: not enforced by the pipeline",
            ),
            (
                "type: custom, engine: soda, implementation: x",
                "a quality check of type custom of the engine 'soda': not enforced by the pipeline",
            ),
        ],
    )
    def test_quality_that_is_not_enforced(self, check: str, message: str):
        keys = f"logicalType: string, quality: [{{{check}}}]"
        assert findings(keys) == [message]
        assert (field(keys).required, rules(keys)) == (False, {})

    @pytest.mark.parametrize(
        "check",
        [
            "metric: nullValues, mustBeLessThan: 1",
            "metric: nullValues, mustBe: 1",
            "metric: nullValues, mustBe: 0, severity: warning",
            "metric: duplicateValues, mustBe: 0",
            "type: sql, query: q, mustBe: 0",
            "metric: invalidValues, mustBe: 0",
            "metric: missingValues, mustBe: 0, arguments: {missingValues: ['', n/a]}",
        ],
    )
    def test_quality_that_is_made_of_all_records_together(self, check: str):
        keys = f"logicalType: string, quality: [{{{check}}}]"
        assert findings(keys) == []
        assert (field(keys).required, rules(keys)) == (False, {})

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            (
                "logicalType: string, logicalTypeOptions: {format: password}",
                "format password: not enforced by the pipeline",
            ),
            (
                "logicalType: string, logicalTypeOptions: {format: e-mail}",
                "format e-mail: not enforced by the pipeline; did you mean 'email'?",
            ),
            (
                "logicalType: boolean, logicalTypeOptions: {any: 1}",
                "no option of a boolean: not enforced by the pipeline",
            ),
            (
                "logicalType: integer, physicalType: dec(9), logicalTypeOptions: {format: i8}",
                "format i8 of a decimal: not enforced by the pipeline",
            ),
            (
                "logicalType: integer, logicalTypeOptions: {format: i128}",
                "i128 is held as decimal(38,0): integers of 39 digits are refused",
            ),
            (
                "logicalType: object, logicalTypeOptions: {required: [a]}",
                "an object without properties is not looked into: not enforced by the pipeline",
            ),
            (
                "logicalType: array, enum: [{value: 1}]",
                "valid values of type array: not enforced by the pipeline",
            ),
            (
                "logicalType: date, logicalTypeOptions: {format: MMMM d}",
                "the format MMMM d cannot be read: values must be ISO 8601",
            ),
            (
                "logicalType: timestamp, logicalTypeOptions: {format: yyyy-MM-dd}",
                "the format yyyy-MM-dd cannot be read: values must be ISO 8601",
            ),
            (
                "logicalType: timestamp, logicalTypeOptions: {format: 'yyyy-MM-dd HH:mm'}",
                "the format has no offset and there is no defaultTimezone: values are UTC",
            ),
            (
                "logicalType: timestamp, logicalTypeOptions: {timezone: false}",
                "no defaultTimezone: values without an offset are read as UTC",
            ),
            (
                "logicalType: timestamp, logicalTypeOptions: {minimum: 2020-01-01}",
                "2020-01-01 has no offset: read as UTC",
            ),
            (
                "logicalType: time, logicalTypeOptions: {timezone: true}",
                "a time of day is kept without a zone: not enforced by the pipeline",
            ),
            (
                "logicalType: time, logicalTypeOptions: {minimum: '10:00+02:00'}",
                "10:00+02:00 has an offset, which a time of day does not keep: not enforced",
            ),
            (
                "logicalType: string, unique: true",
                "uniqueness across records is not enforced on ingest",
            ),
            (
                "logicalType: number, semanticType: measure",
                "a measure is read as a field of the records",
            ),
            (
                "logicalType: integer, quality: [{metric: invalidValues, mustBe: 0, "
                "arguments: {pattern: x}}]",
                "a pattern on type integer: not enforced by the pipeline",
            ),
        ],
    )
    def test_findings(self, keys: str, message: str):
        assert findings(keys) == [message]

    @pytest.mark.parametrize(
        ("keys", "zone"),
        [
            ("", None),
            ("logicalTypeOptions: {timezone: true}", None),
            ("logicalTypeOptions: {timezone: false}", "UTC"),
            ("logicalTypeOptions: {timezone: false, defaultTimezone: Asia/Tokyo}", "Asia/Tokyo"),
            ("logicalTypeOptions: {defaultTimezone: Etc/UTC}", "Etc/UTC"),
            ("customProperties: [{property: timezone, value: Europe/Berlin}]", "Europe/Berlin"),
        ],
    )
    def test_zone_of_time_stamps_without_an_offset(self, keys: str, zone: str | None):
        assert field(f"logicalType: timestamp, {keys}").zone == zone

    def test_what_asks_nothing_of_a_record_has_no_findings(self):
        assert (
            findings(
                "logicalType: string, encryptedName: e, classification: c, relationships: "
                "[{to: a.b}], tags: [a], examples: [1], transformLogic: x, deprecated: true"
            )
            == []
        )


class TestErrors:
    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            (
                "logicalType: string, requierd: true",
                "f.requierd: no such key in ODCS; did you mean 'required'?",
            ),
            ("logicalType: string, zzz: true", "f.zzz: no such key in ODCS"),
            (
                "logicalType: string, required: maybe",
                "f.required: expected true or false, found 'maybe'",
            ),
            ("logicalType: string, enum: [a]", "f.enum[0]: expected a mapping, found 'a'"),
            (
                "logicalType: string, enum: [{valu: a}]",
                "f.enum[0].valu: no such key in ODCS; did you mean 'value'?",
            ),
            (
                "logicalType: string, properties: [{name: a}]",
                "f.properties: properties belong to the type object, not to string",
            ),
            (
                "logicalType: object, items: {logicalType: string}",
                "f[]: items belong to the type array, not to object",
            ),
            (
                "logicalType: string, logicalTypeOptions: {minLenght: 1}",
                "f.logicalTypeOptions.minLenght: string has no option 'minLenght'; "
                "did you mean 'minLength'?",
            ),
            (
                "logicalType: array, logicalTypeOptions: {pattern: x}",
                "f.logicalTypeOptions.pattern: array has no option 'pattern'; "
                "it has 'minItems', 'maxItems' or 'uniqueItems'",
            ),
            (
                "logicalType: string, logicalTypeOptions: {minLength: -1}",
                "f.logicalTypeOptions.minLength: expected a whole number from 0, found -1",
            ),
            (
                "logicalType: string, logicalTypeOptions: {minLength: true}",
                "f.logicalTypeOptions.minLength: expected a whole number from 0, found true",
            ),
            (
                "logicalType: string, logicalTypeOptions: {minLength: 3, maxLength: 2}",
                "f.logicalTypeOptions.minLength: minLength 3 and maxLength 2 leave no value",
            ),
            (
                "logicalType: array, logicalTypeOptions: {minItems: 3, maxItems: 2}",
                "f.logicalTypeOptions.minItems: minItems 3 and maxItems 2 leave no value",
            ),
            (
                "logicalType: string, logicalTypeOptions: {pattern: '('}",
                "f.logicalTypeOptions.pattern: '(' is no regular expression: missing ): (",
            ),
            (
                "logicalType: string, logicalTypeOptions: {pattern: 5}",
                "f.logicalTypeOptions.pattern: expected a string, found 5; write it in quotes",
            ),
            (
                "logicalType: integer, logicalTypeOptions: {minimum: x}",
                "f.logicalTypeOptions.minimum: expected an integer, found 'x'",
            ),
            (
                "logicalType: integer, logicalTypeOptions: {minimum: 5, maximum: 4}",
                "f.logicalTypeOptions.minimum: minimum 5 and maximum 4 leave no value",
            ),
            (
                "logicalType: number, logicalTypeOptions: {exclusiveMinimum: 5, maximum: 5}",
                "f.logicalTypeOptions.exclusiveMinimum: exclusiveMinimum 5.0 and maximum 5.0 "
                "leave no value",
            ),
            (
                "logicalType: integer, logicalTypeOptions: {format: i8, minimum: 128}",
                "f.logicalTypeOptions.minimum: no int8 can be at least 128",
            ),
            (
                "logicalType: integer, logicalTypeOptions: {format: u8, exclusiveMaximum: 0}",
                "f.logicalTypeOptions.exclusiveMaximum: no uint8 can be less than 0",
            ),
            (
                "logicalType: number, physicalType: 'decimal(3,1)', logicalTypeOptions: "
                "{minimum: 100}",
                "f.logicalTypeOptions.minimum: no decimal(3,1) can be at least 100",
            ),
            (
                "logicalType: integer, logicalTypeOptions: {format: i31}",
                "f.logicalTypeOptions.format: no format 'i31'; expected 'i8', 'i16', 'i32', 'i64', "
                "'i128', 'u8', 'u16', 'u32', 'u64' or 'u128'",
            ),
            (
                "logicalType: number, logicalTypeOptions: {format: double}",
                "f.logicalTypeOptions.format: no format 'double'; expected 'f32' or 'f64'",
            ),
            (
                "logicalType: number, logicalTypeOptions: {multipleOf: 0}",
                "f.logicalTypeOptions.multipleOf: expected a number above 0, found 0",
            ),
            (
                "logicalType: number, logicalTypeOptions: {maximum: .inf}",
                "f.logicalTypeOptions.maximum: expected a finite number, found inf",
            ),
            (
                "logicalType: number, logicalTypeOptions: {maximum: 1e999}",
                "f.logicalTypeOptions.maximum: expected a finite number, found inf",
            ),
            (
                "logicalType: date, logicalTypeOptions: {minimum: 2020-02-30}",
                "f.logicalTypeOptions.minimum: expected a date such as 2026-11-24, "
                "found '2020-02-30'",
            ),
            (
                "logicalType: date, logicalTypeOptions: {minimum: 20200101}",
                "f.logicalTypeOptions.minimum: expected a date such as 2026-11-24, found 20200101",
            ),
            (
                "logicalType: date, logicalTypeOptions: {format: dd.MM.yyyy, minimum: 1.1.2020}",
                "f.logicalTypeOptions.minimum: expected a date such as 2026-11-24 "
                "or in the format dd.MM.yyyy, found '1.1.2020'",
            ),
            (
                "logicalType: timestamp, logicalTypeOptions: {timezone: UTC}",
                "f.logicalTypeOptions.timezone: expected true or false, found 'UTC'",
            ),
            (
                "logicalType: object, properties: [{name: abc, logicalType: string}], "
                "logicalTypeOptions: {required: [abd]}",
                "f.logicalTypeOptions.required[0]: no property 'abd'",
            ),
            (
                "logicalType: object, properties: [{name: street, logicalType: string}], "
                "logicalTypeOptions: {required: [stret]}",
                "f.logicalTypeOptions.required[0]: no property 'stret'; did you mean 'street'?",
            ),
            (
                "logicalType: object, properties: [{name: a, logicalType: strin}]",
                "f.a.logicalType: no logical type 'strin'; did you mean 'string'?",
            ),
            (
                "logicalType: array, items: {logicalType: strin}",
                "f[].logicalType: no logical type 'strin'; did you mean 'string'?",
            ),
            (
                "logicalType: string, enum: [{value: 5}]",
                "f.enum[0].value: expected a string, found 5; write it in quotes",
            ),
            ("logicalType: integer, enum: [{value: 1.5}]", "f.enum[0].value: 1.5 is no int64"),
            (
                "logicalType: integer, enum: [{value: '1'}]",
                "f.enum[0].value: expected an integer, found '1'",
            ),
            (
                "logicalType: number, physicalType: 'decimal(3,1)', enum: [{value: 1.25}]",
                "f.enum[0].value: 1.25 is no decimal(3,1)",
            ),
            (
                "logicalType: boolean, enum: [{value: maybe}]",
                "f.enum[0].value: expected true or false, found 'maybe'",
            ),
            ("logicalType: string, enum: [{value: null}]", "f.enum: these valid values leave none"),
            (
                "logicalType: string, quality: [{metric: nullValue, mustBe: 0}]",
                "f.quality[0].metric: no metric 'nullValue'; did you mean 'nullValues'?",
            ),
            (
                "logicalType: string, quality: [{type: libary, metric: nullValues}]",
                "f.quality[0].type: no type of quality check 'libary'; did you mean 'library'?",
            ),
            (
                "logicalType: string, quality: [{metric: nullValues, mustBee: 0}]",
                "f.quality[0].mustBee: no such key in ODCS; did you mean 'mustBe'?",
            ),
            (
                "logicalType: string, quality: [{metric: invalidValues, mustBe: 0, "
                "arguments: {validValues: a}}]",
                "f.quality[0].arguments.validValues: expected a list of values, found 'a'",
            ),
            (
                "logicalType: string, quality: [{metric: invalidValues, mustBe: 0, "
                "arguments: {validValues: [a, 5]}}]",
                "f.quality[0].arguments.validValues[1]: expected a string, found 5; "
                "write it in quotes",
            ),
            (
                "logicalType: string, quality: [{metric: nullValues, mustBeBetween: [1]}]",
                "f.quality[0].mustBeBetween: expected a list of two numbers, found a list",
            ),
            (
                "logicalType: date, customProperties: [{property: eventTime, value: true}]",
                "f: the event time must be a timestamp, not of type date",
            ),
            (
                "logicalType: timestamp, customProperties: [{property: eventTime, value: yes}]",
                "f.customProperties: eventTime: expected true or false, found 'yes'",
            ),
            (
                "logicalType: object, properties: [{name: a, logicalType: timestamp, "
                "customProperties: [{property: eventTime, value: true}]}]",
                "f.a: eventTime must be a top-level field",
            ),
        ],
    )
    def test_message(self, keys: str, message: str):
        assert error(f"- {{name: f, {keys}}}") == f"c.yaml:{FIRST} {message}"

    @pytest.mark.parametrize(
        ("zone", "hint"),
        [
            ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
            ("Europe", "did you mean 'Europe/"),
            ("../etc/passwd", "expected a name such as Europe/Berlin"),
            ("UTC+2", "did you mean 'UTC'?"),
            ("", "expected a name such as Europe/Berlin"),
        ],
    )
    def test_time_zones(self, zone: str, hint: str):
        message = f"no time zone '{zone}'; {hint}"
        option = f"logicalTypeOptions: {{defaultTimezone: '{zone}'}}"
        found = error(f"- {{name: f, logicalType: timestamp, {option}}}")
        place = f"c.yaml:{FIRST} f.logicalTypeOptions.defaultTimezone: "
        assert found.startswith(place + message)
        custom = f"customProperties: [{{property: timezone, value: '{zone or 'x'}'}}]"
        found = error(f"- {{name: f, logicalType: timestamp, {custom}}}")
        assert found.startswith(f"c.yaml:{FIRST} f.customProperties: no time zone ")

    def test_the_line_is_that_of_the_key(self):
        message = error("""\
            - name: a
              logicalType: string
            - name: b
              logicalType: integer
              logicalTypeOptions:
                minimum: 1
                maximum: many
            """)
        assert message == (
            f"c.yaml:{FIRST + 6} b.logicalTypeOptions.maximum: expected an integer, found 'many'"
        )

    def test_names(self):
        assert error("- {logicalType: string}") == (
            f"c.yaml:{FIRST} properties[0]: a property without a name"
        )
        assert error("- {name: a}\n- {name: b}\n- {name: a}") == (
            f"c.yaml:{FIRST + 2} a.name: two properties are called 'a'"
        )
        assert error("- {name: 5}") == (
            f"c.yaml:{FIRST} properties[0].name: expected a string, found 5; write it in quotes"
        )

    def test_a_message_is_one_line_whatever_a_name_holds(self):
        found = error('- {name: "a\\nb\\e[0m", logicalType: strin}')
        assert found.startswith(f"c.yaml:{FIRST} a\\nb\\x1b[0m.logicalType: no logical type")

    @pytest.mark.parametrize("name", [*IDENTITY, UNKNOWN, "_source_of_truth"])
    def test_names_that_are_our_own(self, name: str):
        assert f"{name}.name: names that start with" in error(f"- {{name: {name}}}")
        nested = f"- {{name: a, properties: [{{name: {name}, logicalType: string}}]}}"
        assert parse(nested).fields[0].fields[0].name == name

    @pytest.mark.parametrize("name", ['a"b', "a\\b", "a\tb"])
    def test_names_that_json_would_have_to_escape(self, name: str):
        found = error(f"- {{name: {json.dumps(name)}, logicalType: string}}")
        assert "a name cannot hold" in found

    @pytest.mark.parametrize("name", ["a.b", "ä ö", "Select", "a'b", "名前", "-"])
    def test_names_are_kept_as_they_are(self, name: str):
        assert parse(f"- {{name: {json.dumps(name)}, logicalType: string}}").fields[0].name == name


class TestKeyAndEventTime:
    TIMES = """\
        - name: created
          logicalType: timestamp
          customProperties: [{property: eventTime, value: true}]
        - {name: updated, logicalType: timestamp}
        - {name: day, logicalType: date}
        """

    def test_event_time_is_required(self):
        contract = parse(self.TIMES)
        assert contract.event_time == "created"
        assert [f.required for f in contract.fields] == [True, False, False]

    def test_the_argument_overrides(self):
        contract = parse(self.TIMES, event_time="updated")
        assert contract.event_time == "updated"
        assert [f.required for f in contract.fields] == [False, True, False]

    def test_none(self):
        assert parse("- {name: a, logicalType: timestamp}").event_time is None

    def test_errors(self):
        assert error(self.TIMES, event_time="creatd") == (
            f"c.yaml:{FIRST - 2} t: no field 'creatd' to take the event time from; "
            "did you mean 'created'?"
        )
        assert error(self.TIMES, event_time="day") == (
            f"c.yaml:{FIRST + 4} day: the event time must be a timestamp, not of type date"
        )
        flag = "logicalType: timestamp, customProperties: [{property: eventTime, value: true}]"
        assert error(f"- {{name: a, {flag}}}\n- {{name: b, {flag}}}") == (
            f"c.yaml:{FIRST + 1} b.customProperties: two eventTime fields: 'a' and 'b'"
        )

    def test_primary_key(self):
        contract = parse("""\
            - {name: z, logicalType: string, primaryKey: true}
            - {name: b, logicalType: string, primaryKey: true, primaryKeyPosition: 2}
            - {name: a, logicalType: string, primaryKey: true, primaryKeyPosition: 1}
            - {name: o, logicalType: string, primaryKey: false, primaryKeyPosition: -1}
            """)
        assert contract.primary_key == ("a", "b", "z")
        assert [(f.primary_key, f.required) for f in contract.fields] == [(True, True)] * 3 + [
            (False, False)
        ]
        assert [f.message for f in contract.findings] == [
            "uniqueness of the primary key (a, b, z) across records is not enforced on ingest"
        ]

    def test_a_nested_key_is_no_key(self):
        keys = "logicalType: object, properties: [{name: a, logicalType: date, primaryKey: true}]"
        contract = parse(f"- {{name: f, {keys}}}")
        assert contract.primary_key == ()
        assert contract.fields[0].fields == (Field("a", "date"),)
        assert [f.path for f in contract.findings] == ["f.a.primaryKey"]


class TestDigest:
    TEXT = (CONTRACTS / "all_options.yaml").read_text("utf-8")

    def test_is_pinned(self):
        # the same on every machine; what changes it must raise DIGEST_FORMAT
        contract = parse("- {name: a, logicalType: string, logicalTypeOptions: {maxLength: 5}}")
        assert contract.digest == digest_of(contract)
        assert contract.digest == "9f2a478f5db9396639c6824bf6c5bad4eeaf67aa2305ddcfe56e363000f5f979"

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("description: Orders as they are placed.", "description: Other words."),
            ("status: active", "status: draft"),
            ("domain: sales", "domain: other"),
            ("classification: restricted", "classification: public"),
            ("physicalType: VARCHAR(8)", "physicalType: VARCHAR(9)"),
            ("mustBeGreaterThan: 10", "mustBeGreaterThan: 11"),
            ("- {property: latency, value: 4, unit: d}", "- {property: latency, value: 5}"),
            ("minLength: 3\n      maxLength: 254", "maxLength: 254\n      minLength: 3"),
            ("{minimum: 0.01, maximum", "{minimum: 0.010, maximum"),
        ],
    )
    def test_does_not_change_with_what_decides_nothing(self, old: str, new: str):
        assert self.TEXT.count(old) == 1
        changed = parse_contract(self.TEXT.replace(old, new), "c.yaml")
        assert changed.digest == parse_contract(self.TEXT, "c.yaml").digest

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("version: 2.1.0", "version: 2.1.1"),
            ("id: 7c1f0f2e-orders", "id: other"),
            ("- name: orders\n", "- name: orders2\n"),
            ("primaryKeyPosition: 1", "primaryKeyPosition: 3"),
            ("{format: uuid}", "{format: uri}"),
            ("value: NO", "value: DK"),
            ("Europe/Oslo", "Europe/Berlin"),
            ("minLength: 3", "minLength: 4"),
            ("maxLength: 254", "maxLength: 255"),
            ('pattern: "@"', 'pattern: "@."'),
            (
                "quantity\n    logicalType: integer\n    required: true",
                "quantity\n    logicalType: integer",
            ),
            ("format: u16", "format: u32"),
            ("minimum: 1,", "minimum: 2,"),
            ("exclusiveMinimum: 0,", "minimum: 0,"),
            ("multipleOf: 0.5", "multipleOf: 0.25"),
            ("format: f32", "format: f64"),
            ("DECIMAL(10, 2)", "DECIMAL(11, 2)"),
            ("DECIMAL(10, 2)", "DECIMAL(11, 3)"),
            ("maximum: 99999999.99", "maximum: 99999999.98"),
            ("format: dd.MM.yyyy", "format: MM.dd.yyyy"),
            ('"2099-12-31"', '"2099-12-30"'),
            ("minimum: 08:00", "minimum: 08:01"),
            ("required: [street, zip]", "required: [street]"),
            ("maxProperties: 3", "maxProperties: 4"),
            ("uniqueItems: true", "uniqueItems: false"),
            ("dimensions: 4", "dimensions: 5"),
            ("elementType: float64", "elementType: float32"),
            ("validValues: [open, paid, null]", "validValues: [open, payed, null]"),
            ("metric: nullValues\n      mustBe: 0", "metric: nullValues\n      mustBe: 1"),
            ("- name: gift", "- name: present"),
            ("- {name: city, logicalType: string}", "- {name: city, logicalType: integer}"),
        ],
    )
    def test_changes_with_everything_else(self, old: str, new: str):
        assert self.TEXT.count(old) == 1
        changed = parse_contract(self.TEXT.replace(old, new), "c.yaml")
        assert changed.digest != parse_contract(self.TEXT, "c.yaml").digest

    def test_changes_with_the_event_time(self):
        times = "- {name: a, logicalType: timestamp, required: true}\n"
        times += "- {name: b, logicalType: timestamp, required: true}"
        digests = {parse(times, event_time=name).digest for name in (None, "a", "b")}
        assert len(digests) == 3


NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.integers(-300, 300),
    st.decimals(-300, 300, places=3, allow_nan=False),
)


class TestLaws:
    @given(
        storage=st.sampled_from(["int8", "uint8", "int64", "uint64"]),
        kind=st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
        limit=NUMBERS,
        data=st.data(),
    )
    def test_an_integer_bound_means_what_was_written(self, storage, kind, limit, data):
        asked = _KEEPS[kind]
        low, high = integer_range(storage)
        value = data.draw(st.integers(low, high) | st.sampled_from([low, high]))
        name = storage.replace("uint", "u").replace("int", "i")
        options = f"{{format: {name}, {kind}: {limit}}}"
        try:
            found = rules(f"logicalType: integer, logicalTypeOptions: {options}")
        except ContractError:
            assert not asked(value, limit)
            return
        assert all(type(v) is int for v in found.values())
        assert all(_KEEPS[k](value, v) for k, v in found.items()) == asked(value, limit)

    @given(
        kind=st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
        limit=NUMBERS,
        value=st.decimals("-999.99", "999.99", places=2),
    )
    def test_a_decimal_bound_means_what_was_written(self, kind, limit, value):
        keys = "logicalType: number, physicalType: 'decimal(5,2)'"
        try:
            found = rules(f"{keys}, logicalTypeOptions: {{{kind}: {limit}}}")
        except ContractError:
            assert not _KEEPS[kind](value, limit)
            return
        assert all(_KEEPS[k](value, v) for k, v in found.items()) == _KEEPS[kind](value, limit)

    @given(
        kind=st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
        limit=st.floats(allow_nan=False, allow_infinity=False),
    )
    @example(kind="minimum", limit=-1.7976931348623157e308)
    @example(kind="maximum", limit=5e-324)
    def test_a_bound_of_a_double_is_that_double(self, kind, limit):
        found = rules(f"logicalType: number, logicalTypeOptions: {{{kind}: {limit!r}}}")
        assert found == {kind: limit}

    @given(
        step=st.decimals("0.001", "50", places=3).filter(lambda d: d > 0),
        value=st.integers(-500, 500),
    )
    def test_a_multiple_means_what_was_written(self, step, value):
        (whole,) = rules(
            f"logicalType: integer, logicalTypeOptions: {{multipleOf: {step}}}"
        ).values()
        assert (value % whole == 0) == (value % step == 0)

    @given(st.text(max_size=60) | st.text("[]{}&*!:-?|>'\"#%@, \n\tab<1", max_size=60))
    def test_any_text_is_a_contract_or_an_error_of_one_line(self, text):
        with pytest.raises(ContractError) as caught:
            parse_contract(text, "c.yaml")
        assert re.match(r"c\.yaml:\d+", str(caught.value))
        assert len(str(caught.value).splitlines()) == 1

    @settings(deadline=None)
    @given(st.data())
    def test_whatever_is_wrong_is_an_error_that_names_the_place(self, data):
        document = json.loads(_ALL_OPTIONS)
        *inside, last = data.draw(st.sampled_from(_PATHS))
        holder = document
        for step in inside:
            holder = holder[step]
        holder[last] = data.draw(st.sampled_from(_REPLACEMENTS))
        try:
            contract = parse_contract(json.dumps(document, indent=1), "c.json")
        except ContractError as caught:
            assert re.match(r"c\.json:\d+ [^ ]+: .", str(caught))  # noqa: PT017
        else:
            assert batch_schema(contract) is not None
            assert pickle.loads(pickle.dumps(contract)) == contract


_KEEPS = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
}
_ALL_OPTIONS = json.dumps(
    read_document((CONTRACTS / "all_options.yaml").read_text("utf-8"), "x").value
)
_REPLACEMENTS = [
    None, True, 0, 5, -1, 1.5, 1e300, 10**30, "x", "", "2020-01-01", "10:00", [], {}, [1], [None],
    {"a": 1}, [{"name": "x"}], [{"value": 3}], *LOGICAL_TYPES, "(", "decimal(5,9)", "NUMERIC",
]  # fmt: skip


def _paths(value: Any, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    deeper = [_paths(v, (*path, k)) for k, v in inside if isinstance(v, dict | list)]
    return [(*path, k) for k in (value if isinstance(value, dict) else range(len(value)))] + [
        p for paths in deeper for p in paths
    ]


_PATHS = [p for p in _paths(json.loads(_ALL_OPTIONS), ()) if p[:3] == ("schema", 0, "properties")]
