"""``millstream contract import``: the document it writes, and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from millstream.pipelines.cli import main
from millstream.schemas.contract import Rule
from millstream.schemas.odcs import load_contract

TABLE = """\
CREATE TABLE orders (
  id BIGINT PRIMARY KEY,
  price DECIMAL(9, 2) NOT NULL CHECK (price > 0)
);
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("orders.sql").write_text(TABLE, "utf-8")


def test_a_contract_of_a_table():
    assert main(["contract", "import", "--from", "sql", "orders.sql", "-o", "made.yaml"]) == 0
    made = load_contract("made.yaml")
    assert (made.id, made.version, made.name) == ("orders", "1.0.0", "orders")
    assert made.primary_key == ("id",)
    assert made.field("price").rules[0].kind == "exclusiveMinimum"
    assert main(["contract", "check", "made.yaml"]) == 0


def test_names_are_given(capsys: pytest.CaptureFixture[str]):
    asked = ["contract", "import", "--from", "sql", "orders.sql", "--name", "sales"]
    assert main([*asked, "--id", "shop", "--version", "3.0.0"]) == 0
    Path("made.yaml").write_text(capsys.readouterr().out, "utf-8")
    made = load_contract("made.yaml")
    assert (made.id, made.version, made.name) == ("shop", "3.0.0", "sales")


def test_what_show_writes_is_imported_again(capsys: pytest.CaptureFixture[str]):
    main(["contract", "import", "--from", "sql", "orders.sql", "-o", "made.yaml"])
    for shown, form in (("avro", "avro"), ("bigquery", "bigquery"), ("jsonschema", "json-schema")):
        capsys.readouterr()
        assert main(["contract", "show", "--as", shown, "made.yaml"]) == 0
        said = capsys.readouterr().out
        Path("shown.json").write_text(said, "utf-8")
        again = ["contract", "import", "--from", form, "shown.json", "-o", "again.yaml"]
        assert main([*again, "--name", "orders", "--id", "orders"]) == 0
        assert main(["contract", "show", "--as", shown, "again.yaml"]) == 0
        now = json.loads(capsys.readouterr().out)
        then = json.loads(said)
        if form == "json-schema":  # of a decimal it can only say that it is a number
            del then["properties"]["price"]["$comment"]
        assert now == then


def test_a_contract_of_several_files_of_samples():
    Path("a.jsonl").write_text('{"n": 1, "s": "x"}\n' * 20, "utf-8")
    Path("b.csv").write_text("n,s\n5,y\n", "utf-8")
    Path("c.jsonl").write_text('{"n": -2}\n', "utf-8")
    files = ["a.jsonl", "c.jsonl"]
    asked = ["contract", "import", "--from", "samples", *files, "--tight", "-o", "made.yaml"]
    assert main(asked) == 0
    made = load_contract("made.yaml")
    assert set(made.field("n").rules) == {Rule("minimum", -2), Rule("maximum", 1)}
    assert (made.field("n").required, made.field("s").required) == (True, False)
    assert "# Made of a.jsonl, c.jsonl (samples)." in Path("made.yaml").read_text("utf-8")
    assert main(["contract", "import", "--from", "samples", "b.csv", "-o", "made.yaml"]) == 0
    assert load_contract("made.yaml").field("n").type == "integer"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sql", "none.sql"], "none.sql: cannot be read: No such file or directory\n"),
        (["sql", "orders.sql", "orders.sql"], "orders.sql: of sql, one file makes a contract\n"),
        (
            ["sql", "orders.sql", "--schema", "order"],
            "orders.sql: creates no table 'order'; did you mean 'orders'?\n",
        ),
        (["avro", "orders.sql"], "orders.sql:1: no JSON: Expecting value\n"),
        pytest.param(
            ["bigquery", "bigquery:project.table"],
            "bigquery:project.table: write bigquery:PROJECT.DATASET.TABLE\n",
            marks=pytest.mark.cloud,
        ),
        (["samples", "orders.sql"], "orders.sql: samples have one of the endings .jsonl, .ndjson, "
         ".json, .csv, .parquet\n"),
    ],
)  # fmt: skip
def test_mistakes_exit_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str):
    assert main(["contract", "import", "--from", *arguments]) == 2
    assert capsys.readouterr().err == said


def test_a_field_that_no_contract_has(capsys: pytest.CaptureFixture[str]):
    Path("bad.sql").write_text('CREATE TABLE t ("_source" TEXT)', "utf-8")
    assert main(["contract", "import", "--from", "sql", "bad.sql"]) == 2
    assert "names that start with '_source' are millstream's own" in capsys.readouterr().err


@pytest.mark.service
@pytest.mark.cloud
def test_a_table_in_bigquery(monkeypatch: pytest.MonkeyPatch):
    from tests.services.destinations import DESTINATIONS

    with DESTINATIONS["bigquery"].running_or_skip() as warehouse:
        for name, value in warehouse.environment.items():
            monkeypatch.setenv(name, value)
        table = warehouse.name("imported")
        warehouse.run(f"CREATE TABLE `{table}` (id INT64 NOT NULL, tags ARRAY<STRING>, at DATE)")
        place = f"bigquery:{table}"
        assert main(["contract", "import", "--from", "bigquery", place, "-o", "made.yaml"]) == 0
        made = load_contract("made.yaml")
        assert made.name == "imported"
        assert [f.type for f in made.fields] == ["integer", "array", "date"]
        assert made.field("id").required
        missing = f"{place}_none"
        assert main(["contract", "import", "--from", "bigquery", missing]) == 2
