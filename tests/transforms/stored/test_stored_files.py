"""What is particular to files that are read back: folders, columns that differ, damage."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms import storage
from millstream.transforms.storage import StorageError
from millstream.transforms.stored import Compare, Filter, IsIn, open_stored
from millstream.transforms.write.destination import Output
from millstream.transforms.write.errors import DestinationError
from stored_support import batch, committed, counted

TABLE = Table(
    (
        Field("id", "string", required=True),
        Field("country", "string"),
        Field("n", "integer"),
        Field("day", "date"),
    ),
)
WEIRD = ("NO", "a/b=c", "ä", "", None, "__HIVE_DEFAULT_PARTITION__", "50%")


@pytest.fixture(params=["parquet", "jsonl", "csv", "avro"])
def output(request, tmp_path) -> Callable[..., Output]:
    def made(query: str = "", name: str = "rows") -> Output:
        return Output(name, f"{request.param}:{tmp_path}/out{query}", tables={"data": TABLE})

    return made


def rows(count: int = 28) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "country": WEIRD[n % 7], "n": n % 4} for n in range(count)]


def ids(output: Output, *conditions: Any) -> list[str]:
    found = open_stored(output).batches(["id"], Filter(conditions))
    return sorted(i for b in found for i in b["id"].to_pylist())


def test_columns_that_folders_hold_come_back(output):
    to = output("?partition_by=country,n")
    committed(to, {"data": [batch(rows(), TABLE)]}, "r1")
    assert counted(open_stored(to).batches()) == counted([batch(rows(), TABLE)])
    alone = pa.Table.from_batches(open_stored(to).batches(["n"]))
    assert alone.schema.types == [pa.int64()]
    assert sorted(alone["n"].to_pylist()) == sorted(row["n"] for row in rows())


@pytest.mark.parametrize(
    "condition",
    [
        Compare("country", "=", "a/b=c"),
        Compare("country", ">", "N"),
        IsIn("country", ("ä", "50%", "none")),
        Compare("n", ">=", 2),
        IsIn("n", (0, 3)),
    ],
)
def test_folders_are_judged_by_their_names(output, condition):
    to = output("?partition_by=country,n")
    committed(to, {"data": [batch(rows(), TABLE)]}, "r1")
    whole = batch(rows(), TABLE)
    assert ids(to, condition) == sorted(Filter((condition,)).kept(whole)["id"].to_pylist())


def test_files_that_lie_in_folders_that_do_not_matter_are_not_opened(output, monkeypatch):
    to = output("?partition_by=country")
    committed(to, {"data": [batch(rows(), TABLE)]}, "r1")
    opened: list[str] = []
    real = storage.open_read
    monkeypatch.setattr(storage, "open_read", lambda path: opened.append(path) or real(path))
    assert len(ids(to, Compare("country", "=", "NO"))) == 4
    assert {Path(p).parent.name for p in opened if "rows-" in p} == {"country=NO"}


def test_files_may_differ_in_their_columns(tmp_path):
    uri = f"parquet:{tmp_path}/out"
    old = Table(TABLE.fields[:2])
    committed(Output("rows", uri), {"data": [batch([{"id": "a", "country": "NO"}], old)]}, "r1")
    committed(Output("rows", uri), {"data": [batch([{"id": "b", "n": 1}], TABLE)]}, "r2")
    stored = open_stored(Output("rows", uri))
    assert stored.schema.names == ["id", "country", "n", "day"]
    found = {r["id"]: (r["country"], r["n"]) for b in stored.batches() for r in b.to_pylist()}
    assert found == {"a": ("NO", None), "b": (None, 1)}
    assert [b["id"].to_pylist() for b in stored.batches(where=Filter((Compare("n", "=", 1),)))] == [
        ["b"]
    ]


def test_a_column_that_any_file_or_folder_has_is_there(output):
    to = output("?partition_by=country,n")
    fewer = Table(tuple(field for field in TABLE.fields if field.name != "day"))
    for run, table in (("r1", fewer), ("r2", TABLE), ("r3", fewer)):
        committed(to, {"data": [batch(rows(3), table)]}, run)
    stored = open_stored(to)
    assert all(stored.has(name) for name in ("id", "country", "n", "day"))
    assert not stored.has("other")


def test_only_the_rows_of_the_output_that_is_named(output):
    committed(output(), {"data": [batch(rows(3), TABLE)]}, "r1")
    committed(output(name="other"), {"data": [batch(rows(5), TABLE)]}, "r1")
    assert len(ids(output())) == 3


def test_of_many_rows_some_ten_thousand_are_in_memory_at_a_time(tmp_path):
    to = Output("rows", f"parquet:{tmp_path}/out", tables={"data": TABLE})
    many = [{"id": f"r{n:06d}", "n": n} for n in range(300_000)]
    committed(to, {"data": [batch(many, TABLE)]}, "r1")
    found = list(open_stored(to).batches(["id"], Filter((Compare("n", "=", 299_999),))))
    assert [b["id"].to_pylist() for b in found] == [["r299999"]]
    assert sum(b.num_rows for b in open_stored(to).batches()) == 300_000
    assert max(b.num_rows for b in open_stored(to).batches()) <= 1 << 16


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe{]\na,b\n", b"PAR1nothing\na,b\n"])
def test_a_damaged_file_is_named(output, damage, tmp_path):
    to = output()
    committed(to, {"data": [batch(rows(), TABLE)]}, "r1")
    (path,) = Path(tmp_path, "out").glob("rows-*")
    path.write_bytes(damage)
    if not damage and path.suffix in (".jsonl", ".csv"):
        return  # an empty one has no rows, and no more can be said of it
    with pytest.raises(DestinationError, match="no file of the format, or is damaged") as raised:
        ids(to)
    assert str(path) in str(raised.value)


def test_a_file_that_is_gone_is_named(output, tmp_path):
    to = output()
    committed(to, {"data": [batch(rows(), TABLE)]}, "r1")
    (path,) = Path(tmp_path, "out").glob("rows-*")
    path.unlink()
    with pytest.raises(StorageError, match="not found"):
        ids(to)


@pytest.mark.cloud
def test_a_topic_of_pubsub_cannot_be_read_back(tmp_path):
    with pytest.raises(DestinationError, match="BigQuery or Cloud Storage subscription"):
        open_stored(Output("rows", "pubsub://project/topic", state=str(tmp_path)))


def test_every_type_comes_back_from_every_format(output, tmp_path):
    inner = (Field("x", "number"), Field("tags", "array", items=Field("item", "string")))
    table = Table(
        (
            Field("f", "number"),
            Field("small", "number", storage="float32"),
            Field("u", "integer", storage="uint64"),
            Field("t", "time"),
            Field("b", "boolean"),
            Field("json", "json"),
            Field("wide", "decimal", precision=38, scale=10),
            Field("o", "object", fields=inner),
            Field("deep", "array", items=Field("item", "array", items=Field("item", "integer"))),
            Field("at", "timestamp"),
        )
    )
    given = [
        {
            "f": f,
            "small": 0.5,
            "u": 2**64 - 1,
            "t": dt.time(23, 59, 59, 999_999),
            "b": f == math.inf,
            "json": '{"a": [1, null]}',
            "wide": Decimal("-1234567890123456789012345678.0123456789"),
            "o": {"x": f, "tags": ["a", None, '"', ""]},
            "deep": [[1, None], [], None],
            "at": dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, dt.UTC),
        }
        for f in (0.1, math.inf, -math.inf, -0.0, 1e-300)
    ]
    given += [{}, {"o": {}, "deep": [], "json": "", "at": dt.datetime(9999, 12, 31, tzinfo=dt.UTC)}]
    to = output()
    to = Output("rows", to.uri, tables={"data": table})
    committed(to, {"data": [batch(given, table)]}, "r1")
    assert counted(open_stored(to).batches()) == counted([batch(given, table)])
    committed(to, {"data": [batch([{"f": math.nan}], table)]}, "r2")
    assert sum(math.isnan(v or 0) for b in open_stored(to).batches() for v in b["f"].to_pylist())


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_names_that_json_escapes(form, tmp_path):
    """Contracts have none, but a step can make them."""
    inner = Field("in", "object", fields=(Field('a"b', "number"), Field("c\\d", "string")))
    table = Table(
        (
            Field("id", "string"),
            Field('say "n"', "integer"),
            Field("tab\t", "object", fields=(Field("é", "object", fields=inner.fields),)),
            Field("list", "array", items=inner),
        )
    )
    rows = [
        {"id": "r0", 'say "n"': 7, "tab\t": {"é": {'a"b': math.inf, "c\\d": 'x"'}}},
        {"id": "r1", "list": [{'a"b': 1.5, "c\\d": None}, None, {'a"b': None, "c\\d": "\\"}]},
        {"id": "r2", "tab\t": {"é": None}, "list": []},
    ]
    to = Output("rows", f"{form}:{tmp_path}/out", tables={"data": table})
    committed(to, {"data": [batch(rows, table)]}, "r1")
    stored = open_stored(to, "data", table.schema)
    assert counted(stored.batches()) == counted([batch(rows, table)])
