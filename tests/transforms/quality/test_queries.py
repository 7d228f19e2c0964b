"""``sql`` checks: what queries see, what they give, and what they cannot reach."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from millstream.schemas.odcs import parse_contract
from millstream.schemas.quality.checks import Check, Value
from millstream.transforms.quality.queries import answers

CONTRACT = parse_contract(
    """
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: the "orders"
  properties:
  - {name: id, logicalType: integer}
  - {name: at, logicalType: timestamp}
""",
    "c.yaml",
)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for part in range(2):
        path = tmp_path / f"it's {part}.parquet.staged"
        rows = [{"id": part * 3 + i, "at": i, "_position": i} for i in range(3)]
        schema = pa.schema(
            [("id", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("_position", pa.int64())]
        )
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
        paths.append(str(path))
    return paths


def ask(text: str, files: list[str]) -> Value:
    query = text.replace("{object}", '"the ""orders"""')
    return answers({7: Check("q", "sql", text=query)}, files, CONTRACT, 6)[7]


def test_a_query_sees_all_files(files):
    assert ask("SELECT count(*) FROM {object}", files) == Value(6, 6)
    assert ask("SELECT sum(id) FROM {object}", files).value == 15
    assert ask("SELECT strftime(max(\"at\"), '%Y %f') FROM {object}", files).value == "1970 000002"


def test_no_records_are_a_table_without_rows(files):
    assert ask("SELECT count(id) FROM {object}", []).value == 0


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("SELECT nonsense FROM {object}", "the query fails: Binder Error"),
        ("SELECT", "the query fails"),
        ("SELECT CAST(concat('x', max(id)) AS INTEGER) FROM {object}", "the query fails: Conv"),
        ("SELECT max(id) FROM {object} WHERE id > 99", "the query gives null"),
        ("SELECT id FROM {object}", "the query gives no single value"),
        ("SELECT 1, 2", "the query gives no single value"),
        ("SELECT 1 FROM {object} WHERE false", "the query gives no single value"),
    ],
)
def test_a_query_that_gives_no_value_says_why_and_stops_no_other(files, query: str, error: str):
    good = Check("good", "sql", text="SELECT 1")
    bad = Check("bad", "sql", text=query.replace("{object}", '"the ""orders"""'))
    found = answers({0: bad, 1: good}, files, CONTRACT, 6)
    assert found[0].value is None
    assert found[0].error.startswith(error)
    assert "x5" not in found[0].error  # a value of a record
    assert found[1] == Value(1, 6)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM read_csv('{other}')",
        "SELECT count(*) FROM read_parquet('{other}')",
        "COPY (SELECT 1) TO '{other}.out'",
        "ATTACH '{other}.db' AS other",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ],
)
def test_a_query_reaches_nothing_else(files, tmp_path, query: str):
    other = tmp_path / "other"
    other.write_text("a\n1\n")
    found = ask(query.replace("{other}", str(other)), files)
    assert found.error.startswith("the query fails")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "it's 0.parquet.staged",
        "it's 1.parquet.staged",
        "other",
    ]


def test_no_queries_no_database():
    assert answers({}, ["no such file"], CONTRACT, 1) == {}
