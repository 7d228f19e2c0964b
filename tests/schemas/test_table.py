"""Tables made of contracts and of Arrow schemas, and stored with what a run has prepared."""

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from millstream.schemas import dead_letters
from millstream.schemas.arrow import record_schema
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.table import Table, table_of_contract, table_of_schema

from tests.strategies import contracts


@given(contracts())
def test_a_contracts_table_has_the_columns_of_its_records(contract):
    table = table_of_contract(contract)
    assert table.schema.names == record_schema(contract).names
    assert table.schema.types == record_schema(contract).types
    assert [f.nullable for f in table.schema] == [not f.required for f in contract.fields]
    assert (table.key, table.event_time) == (contract.primary_key, contract.event_time)
    assert table.has_identity


@given(contracts())
def test_a_table_is_stored_and_read_back(contract):
    table = table_of_contract(contract)
    assert msgspec.json.decode(msgspec.json.encode(table), type=Table) == table


def test_rules_decide_nothing_about_a_table():
    field = Field("n", "integer", True, rules=(Rule("minimum", 1),), primary_key=True)
    assert table_of_contract(Contract("c", "1", "c", (field,))).fields == (
        Field("n", "integer", required=True),
    )


def test_a_key_that_is_not_there_whole_is_none():
    contract = Contract(
        "c", "1", "c", (Field("a", "string"), Field("b", "string"), Field("t", "timestamp")),
        event_time="t", primary_key=("a", "b"),
    )  # fmt: skip
    table = table_of_contract(contract, ["a", "t"])
    assert ([f.name for f in table.fields], table.key, table.event_time) == (["a", "t"], (), "t")
    assert table_of_contract(contract, ["a", "b"]).event_time is None


def test_dead_letters_are_a_table():
    table = table_of_schema(dead_letters.SCHEMA, ("id",))
    assert table.schema.names == dead_letters.SCHEMA.names
    assert table.field("payloadBytes").type == "binary"
    assert table.field("timestamp").required
    assert not table.has_identity


def test_a_dictionary_is_what_it_stands_for():
    schema = pa.schema([pa.field("d", pa.dictionary(pa.int32(), pa.string()), nullable=False)])
    assert table_of_schema(schema).fields == (Field("d", "string", required=True),)


def test_what_no_table_has_is_named():
    with pytest.raises(TypeError, match="d is of the Arrow type duration"):
        table_of_schema(pa.schema([pa.field("d", pa.duration("s"))]))


def test_the_columns_that_order_rows_come_last():
    table = table_of_schema(pa.schema([pa.field("a", pa.string())])).ordered()
    assert table.schema.names == ["a", "_source", "_position"]
    with pytest.raises(KeyError):
        table.field("b")
