"""``millstream contract check``: what it prints, and what it exits with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from millstream.pipelines.cli import main

CONTRACTS = Path(__file__).parents[1] / "schemas" / "contracts"

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: shop
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: integer, primaryKey: true, logicalTypeOptions: {minimum: 1}}
  - name: placed
    logicalType: timestamp
    logicalTypeOptions: {format: dd.MM.yyyy HH:mm, defaultTimezone: Europe/Oslo}
  - name: lines
    logicalType: array
    logicalTypeOptions: {uniqueItems: true}
    items:
      logicalType: object
      properties:
      - name: price
        logicalType: number
        physicalType: decimal(9,2)
        required: true
      - {name: unit, logicalType: string, enum: [{value: kg}, {value: l}]}
"""


@pytest.fixture
def contract(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("orders.yaml")
    path.write_text(CONTRACT, "utf-8")
    return path


def test_a_contract_is_shown_with_its_findings(contract, capsys):
    assert main(["contract", "check", "orders.yaml", "--event_time", "placed"]) == 0
    shown, said = capsys.readouterr()
    digest = next(line for line in shown.splitlines() if line.startswith("digest: "))
    assert said == ""
    assert (
        shown
        == f"""\
orders: contract shop, version 1.0.0
event time: placed
primary key: id
{digest}

field          type                                        rules
id             int64                                       required, minimum 1
placed         timestamp('dd.MM.yyyy HH:mm', Europe/Oslo)  required
lines          array                                       uniqueItems
lines[]        object
lines[].price  decimal(9,2)                                required
lines[].unit   string                                      enum kg|l

orders.yaml:6 orders: uniqueness of the primary key (id) across records is not enforced on ingest
orders.yaml: loads; 3 fields, 1 finding
"""
    )


def test_nothing_to_find(contract, capsys):
    contract.write_text(CONTRACT.replace("primaryKey: true, ", ""), "utf-8")
    assert main(["contract", "check", "orders.yaml", "--strict"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "orders.yaml: loads; 3 fields, all that it asks is enforced"


def test_strict_exits_1_with_findings(contract):
    assert main(["contract", "check", "orders.yaml", "--strict"]) == 1


@pytest.mark.parametrize("file", sorted(CONTRACTS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_contract_can_be_shown(file, capsys):
    assert main(["contract", "check", str(file), "--schema", "orders"]) in (0, 2)
    shown, said = capsys.readouterr()
    assert bool(shown) != bool(said)


def test_an_error_is_one_line_without_a_traceback(contract, capsys):
    contract.write_text(CONTRACT.replace("integer", "intger"), "utf-8")
    assert main(["contract", "check", "orders.yaml"]) == 2
    assert capsys.readouterr() == (
        "",
        "orders.yaml:8 id.logicalType: no logical type 'intger'; did you mean 'integer'?\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml: cannot be read: No such file or directory\n"),
        (
            ["orders.yaml", "--schema", "order"],
            "orders.yaml:5 schema: no schema object 'order'; did you mean 'orders'?\n",
        ),
        (
            ["orders.yaml", "--event_time", "place"],
            "orders.yaml:6 orders: no field 'place' to take the event time from; "
            "did you mean 'placed'?\n",
        ),
    ],
)
def test_mistakes_exit_2(contract, capsys, arguments, message):
    assert main(["contract", "check", *arguments]) == 2
    assert capsys.readouterr().err == message


@pytest.mark.slow
def test_beam_is_not_imported():
    code = (
        "import sys; from millstream.pipelines.cli import main; "
        f"main(['contract', 'check', {str(CONTRACTS / 'all_options.yaml')!r}]); "
        "sys.exit('apache_beam' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("arrow", "id: int64\nplaced: timestamp[us, tz=UTC]\n"),
        ("bigquery", '[\n  {\n    "name": "id",\n    "type": "INTEGER",\n'),
        ("jsonschema", '{\n  "$schema": "https://json-schema.org/draft/2020-12/schema",\n'),
        ("sql", 'CREATE TABLE "orders" (\n  "id" BIGINT NOT NULL,\n'),
        ("msgspec", '"""orders: made from contract shop, version 1.0.0."""\n'),
    ],
)
def test_a_contract_in_another_form(contract, capsys, form, begins):
    assert main(["contract", "show", "--as", form, "orders.yaml"]) == 0
    assert capsys.readouterr().out.startswith(begins)


def test_a_form_that_cannot_say_it(contract, capsys):
    assert main(["contract", "show", "--as", "sql", "--dialect", "oracle", "orders.yaml"]) == 2
    said = capsys.readouterr().err
    assert said == "orders.yaml: no SQL dialect 'oracle'; there are duckdb, postgresql\n"


def test_a_form_that_is_not_there(contract, capsys):
    assert main(["contract", "show", "--as", "xml", "orders.yaml"]) == 2
    assert "invalid choice: 'xml'" in capsys.readouterr().err
