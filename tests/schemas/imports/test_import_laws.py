"""show(import(show(contract))) = show(contract), in each form; what is written is read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import record_schema
from millstream.schemas.avro.schema import avro_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.evolution.compatible import judge
from millstream.schemas.forms.bigquery import bigquery_schema
from millstream.schemas.forms.ddl import create_table
from millstream.schemas.forms.json_schema import json_schema
from millstream.schemas.imports.arrow_types import import_parquet
from millstream.schemas.imports.avro import import_avro
from millstream.schemas.imports.bigquery import import_bigquery
from millstream.schemas.imports.document import odcs_document
from millstream.schemas.imports.imported import Imported
from millstream.schemas.imports.json_schema import import_json_schema
from millstream.schemas.imports.sql import import_sql
from millstream.schemas.odcs import parse_contract

from tests import strategies

pytestmark = pytest.mark.filterwarnings("ignore:.*:hypothesis.errors.NonInteractiveExampleWarning")


def _loaded(found: Imported) -> Contract:
    found.name = found.name or "c"
    return parse_contract(odcs_document(found, heading=["Made."]), "made.yaml")


def _without_comments(said: Any) -> Any:
    if isinstance(said, dict):
        kept = {k: v for k, v in said.items() if k != "$comment" and (k, v) not in _NOTHING}
        made = {k: _without_comments(v) for k, v in kept.items()}
        if isinstance(enum := made.get("enum"), list):
            made["enum"] = list(dict.fromkeys(enum))
        return made
    return [_without_comments(v) for v in said] if isinstance(said, list) else said


_NOTHING = [("minItems", 0), ("minProperties", 0), ("minLength", 0)]


def _structure(field: Field) -> Any:
    return (
        field.name, field.type, field.required, field.storage if field.type != "decimal" else "",
        field.precision, field.scale, field.zone, field.format,
        [_structure(f) for f in field.fields], field.items and _structure(field.items),
    )  # fmt: skip


@given(strategies.contracts())
@settings(max_examples=200)
def test_a_contract_that_is_written_is_read_back(contract: Contract):
    # In a document, numbers have at most 307 digits before the point.
    assume("e+307" not in repr(contract.fields) and "e+308" not in repr(contract.fields))
    read = _loaded(Imported("c", contract.fields, id="c", version="1.0.0"))
    assert [_structure(f) for f in read.fields] == [_structure(f) for f in contract.fields]
    assert judge(contract, read) == ()
    assert judge(read, contract) == ()
    assert not read.findings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imports")


def _plain_names(contract: Contract) -> Contract:
    """The contract with names that every form takes, and decimals that every system holds."""

    def plain(field: Field, number: int) -> Field:
        fields = tuple(plain(f, n) for n, f in enumerate(field.fields))
        items = field.items and replace(plain(field.items, 0), name="item")
        held = {}
        if field.type == "decimal":
            held = {"precision": min(field.precision, 29), "scale": 0, "rules": ()}
        return replace(field, name=f"f{number}", fields=fields, items=items, **held)

    return replace(contract, fields=tuple(plain(f, n) for n, f in enumerate(contract.fields)))


@given(strategies.contracts())
@settings(max_examples=150)
def test_json_schema(folder: Path, contract: Contract):
    file = folder / "schema.json"
    file.write_text(json.dumps(json_schema(contract)), "utf-8")
    again = _loaded(import_json_schema(str(file)))
    assert _without_comments(json_schema(again)) == _without_comments(json_schema(contract))


@given(strategies.contracts())
@settings(max_examples=150)
def test_avro(folder: Path, contract: Contract):
    contract = _plain_names(contract)
    file = folder / "schema.avsc"
    said = avro_schema(record_schema(contract), contract.name)
    file.write_text(json.dumps(said), "utf-8")
    assert avro_schema(record_schema(_loaded(import_avro(str(file)))), "c") == said


@given(strategies.contracts())
@settings(max_examples=150)
def test_bigquery(folder: Path, contract: Contract):
    contract = _plain_names(contract)
    file = folder / "schema.bq.json"
    said = bigquery_schema(contract)
    file.write_text(json.dumps(said), "utf-8")
    assert _scaled(bigquery_schema(_loaded(import_bigquery(str(file))))) == _scaled(said)


def _scaled(said: Any) -> Any:
    """With the scale that BigQuery means where none is said."""
    if isinstance(said, dict):
        scale = {"scale": "0"} if said.get("type") == "NUMERIC" else {}
        return {**scale, **{k: _scaled(v) for k, v in said.items()}}
    return [_scaled(v) for v in said] if isinstance(said, list) else said


@pytest.mark.parametrize("dialect", ["duckdb", "postgresql"])
@given(contract=strategies.contracts(), data=st.data())
@settings(max_examples=150)
def test_sql(folder: Path, dialect: str, contract: Contract, data: st.DataObject):
    names = [f.name for f in contract.fields]
    if dialect == "duckdb":
        contract = _plain_decimals(contract)
    key = data.draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    fields = tuple(replace(f, required=f.required or f.name in key) for f in contract.fields)
    contract = replace(contract, fields=fields, primary_key=tuple(key))
    file = folder / "table.sql"
    said = create_table(contract, dialect)
    file.write_text(said, "utf-8")
    assert create_table(_loaded(import_sql(str(file), dialect)), dialect) == said


def _plain_decimals(contract: Contract) -> Contract:
    def plain(field: Field) -> Field:
        if field.type == "decimal":
            scale = min(field.scale, 38)
            return replace(field, precision=min(field.precision, 38), scale=scale, rules=())
        items = field.items and plain(field.items)
        return replace(field, fields=tuple(map(plain, field.fields)), items=items)

    return replace(contract, fields=tuple(map(plain, contract.fields)))


@given(strategies.contracts())
@settings(max_examples=150)
def test_parquet(folder: Path, contract: Contract):
    schema = record_schema(contract)
    file = folder / "rows.parquet"
    try:
        pq.write_table(schema.empty_table(), file)
    except pa.ArrowNotImplementedError:
        assume(False)
    assert record_schema(_loaded(import_parquet(str(file)))) == schema
