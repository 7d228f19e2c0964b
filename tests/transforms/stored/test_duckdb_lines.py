"""JSON lines of ours give the same rows whether DuckDB reads them or not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.stored import duckdb_lines, open_stored
from millstream.transforms.stored.files import open_folder
from millstream.transforms.write.destination import Output
from millstream.transforms.write.errors import DestinationError
from stored_support import batch, committed

PARTS = (Field("field", "string"), Field("code", "string"))
TABLE = Table(
    (
        Field("id", "string"),
        Field("n", "integer"),
        Field("small", "integer", storage="int32"),
        Field("at", "timestamp"),
        Field("items", "array", items=Field("item", "object", fields=PARTS)),
    )
)
TEXTS = st.text(max_size=4) | st.sampled_from(["null", "1", "2026-01-01", '"', "\\", "\x00", "é🦉"])
ROWS = st.fixed_dictionaries(
    {
        "id": st.none() | TEXTS,
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "small": st.none() | st.integers(-(2**31), 2**31 - 1),
        "at": st.none() | st.datetimes(timezones=st.just(None)),
        "items": st.none()
        | st.lists(st.none() | st.fixed_dictionaries({"field": TEXTS, "code": st.none() | TEXTS})),
    }
)


@pytest.fixture(scope="module", autouse=True)
def _any_size() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb_lines, "LEAST_BYTES", 0)
        yield


@pytest.fixture(params=[False, True])
def duckdb_reads(request, monkeypatch) -> Iterator[list[str]]:
    """The files that DuckDB was asked to read; or it reads none."""
    asked: list[str] = []
    plain = duckdb_lines.batches

    def noted(path: str, *rest: Any) -> Any:
        asked.append(path)
        return plain(path, *rest)

    monkeypatch.setattr(duckdb_lines, "batches", noted)
    if not request.param:
        monkeypatch.setattr(duckdb_lines, "reads", lambda *_: False)
    yield asked
    assert request.param or not asked


def written(folder: str, rows: list[dict[str, Any]]) -> Output:
    to = Output("rows", f"jsonl:{folder}", tables={"data": TABLE})
    committed(to, {"data": [batch(rows, TABLE)]}, "r1")
    return to


def read(to: Output) -> pa.Table:
    schema = batch([], TABLE).schema
    return pa.Table.from_batches(open_stored(to).batches(), schema)


@given(rows=st.lists(ROWS, min_size=1, max_size=20))
def test_what_was_written_is_read(rows):
    with tempfile.TemporaryDirectory() as folder:
        to = written(folder, rows)
        found = read(to)
        assert found.to_pylist() == batch(rows, TABLE).to_pylist()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(duckdb_lines, "reads", lambda *_: False)
            assert read(to) == found


def test_it_is_duckdb_that_reads(tmp_path, duckdb_reads, request):
    assert read(written(f"{tmp_path}/out", [{"id": "a"}]))["id"].to_pylist() == ["a"]
    assert len(duckdb_reads) == request.node.callspec.params["duckdb_reads"]


def test_files_that_are_small_are_not_worth_it(tmp_path, duckdb_reads, monkeypatch):
    monkeypatch.setattr(duckdb_lines, "LEAST_BYTES", 1000)
    assert read(written(f"{tmp_path}/out", [{"id": "a"}]))["id"].to_pylist() == ["a"]
    assert not duckdb_reads


@pytest.mark.parametrize("folder", ["a*", "a[b]", "a?", "it's", 'say "so"', "day=2026-11-30"])
def test_any_name_of_a_folder(tmp_path, duckdb_reads, folder):
    (tmp_path / "a").mkdir()
    assert read(written(f"{tmp_path}/{folder}", [{"id": "a"}]))["id"].to_pylist() == ["a"]


def test_lines_that_are_too_long_for_it(tmp_path, duckdb_reads):
    texts = [f"{n}" for n in range(100_000)]
    texts[90_000] = "x" * (20 << 20)
    found = read(written(f"{tmp_path}/out", [{"id": text} for text in texts]))
    assert found["id"].to_pylist() == texts


def test_of_others_files_a_text_is_no_number(tmp_path, duckdb_reads):
    (tmp_path / "others.jsonl").write_text('{"n": "5"}\n', "utf-8")
    to = Output("rows", f"jsonl:{tmp_path}").destination
    stored = open_folder(to, pa.schema([("n", pa.int64())]))  # type: ignore[arg-type]
    with pytest.raises(DestinationError, match=r"others\.jsonl cannot be read"):
        list(stored.batches())
    assert not duckdb_reads
