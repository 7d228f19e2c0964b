"""Corrected windows: the windows that are touched are as if all had come at once, others stay."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.aggregates.open_windows import Trigger, of_one
from millstream.schemas.aggregates.spec import AggregateSpec, aggregate_spec
from millstream.schemas.aggregates.states import (
    finalise,
    merge_states,
    partial_states,
    state_schema,
    visible_schema,
)
from millstream.schemas.contract import Contract, Field
from millstream.schemas.table import table_of_schema
from millstream.transforms.plan import Token
from millstream.transforms.receipts import content_digest
from millstream.transforms.replay.corrections import Correcting, corrected_schema
from millstream.transforms.stored import open_stored
from millstream.transforms.write.destination import Commit, Output
from millstream.transforms.write.stage import StagedFiles

CONTRACT = Contract(
    "c",
    "1",
    "c",
    (
        Field("at", "timestamp", required=True),
        Field("page", "string"),
        Field("amount", "integer"),
    ),
    event_time="at",
)
EPOCH = dt.datetime(2026, 11, 29, tzinfo=dt.UTC)
WINDOWS: list[dict[str, Any]] = [
    {"fixed": "1m"},
    {"sliding": "3m", "every": "1m"},
    {"session": "1m"},
    {"daily": "Europe/Berlin"},
]
Record = tuple[int, str | None, int | None]
RECORDS = st.lists(
    st.tuples(
        st.integers(0, 1200),
        st.sampled_from(["a", "b", None]),
        st.none() | st.integers(-5, 5),
    ),
    max_size=8,
)


def spec_of(window: dict[str, Any]) -> AggregateSpec:
    metrics = {"n": "count()", "s": "sum(amount)", "last": "last(amount)"}
    return aggregate_spec("views", window=window, by=["page"], metrics=metrics, contract=CONTRACT)


def states_of(records: list[Record], spec: AggregateSpec, token: Token) -> pa.Table:
    schema = pa.schema(
        [("at", pa.timestamp("us", "UTC")), ("page", pa.string()), ("amount", pa.int64())]
    )
    rows = [
        {"at": EPOCH + dt.timedelta(seconds=at), "page": page, "amount": amount}
        for at, page, amount in records
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema)
    return merge_states([partial_states(batch, spec, str(token))], spec)


class Views:
    """An output of results, and what was committed to it."""

    def __init__(self, uri: str, spec: AggregateSpec, state: str = "") -> None:
        tables: Any = {
            "states": table_of_schema(state_schema(spec)),
            "data": table_of_schema(visible_schema(spec)),
        }
        self.output = Output(spec.name, uri, "aggregates", tables=tables, state=state)
        self.spec = spec
        self.columns = corrected_schema(spec, Trigger(), self.output)
        self.runs = 0
        self.states: list[pa.Table] = []

    def token(self) -> Token:
        self.runs += 1
        return Token(f"r{self.runs}", f"{self.runs:064x}")

    def run(self, records: list[Record]) -> None:
        """A run's own results, beside those of others."""
        token = self.token()
        states = states_of(records, self.spec, token)
        self.states.append(states)
        self._commit(token, states, self._staged(token, finalise(states, self.spec)))

    def correct(self, records: list[Record]) -> None:
        """Records that come later."""
        token = self.token()
        states = states_of(records, self.spec, token)
        came = of_one(states, self.spec)
        made = Correcting(self.output, self.spec, Trigger(), token, came).corrections()
        self.states.append(states)
        tables: Any = {**self.output.tables, "data": table_of_schema(self.columns)}
        self._commit(token, states, made.receipts, made.withdrawn, tables)

    def _staged(self, token: Token, table: pa.Table, part: Any = "data") -> list[Any]:
        files = StagedFiles(self.output, token, part)
        for batch in table.to_batches():
            files.write(batch)
        return files.close()

    def _commit(
        self,
        token: Token,
        states: pa.Table,
        receipts: list[Any],
        withdrawn: tuple[str, ...] = (),
        tables: Any = None,
    ) -> None:
        receipts = [*receipts, *self._staged(token, states, "states")]
        digest = content_digest(receipts)
        tables = tables or self.output.tables
        commit = Commit(token, digest, tuple(receipts), tables, None, withdrawn)
        self.output.destination.commit(commit)
        self.output.destination.commit(commit)  # which may be repeated

    def rows(self) -> list[dict[str, Any]]:
        stored = open_stored(self.output, "data", self.columns)
        found = [] if stored.found is None else stored.batches()
        return [row for batch in found for row in batch.to_pylist()]

    def standing(self) -> list[dict[str, Any]]:
        """The rows that stand, where rows carry revisions."""
        names = ("window_start", "window_end", *(key.name for key in self.spec.keys))
        newest: dict[Any, int] = {}
        for row in self.rows():
            window = tuple(row[name] for name in names)
            newest[window] = max(newest.get(window, 0), row.get("revision") or 0)
        kept = []
        for row in self.rows():
            window = tuple(row[name] for name in names)
            stands = (row.pop("revision", None) or 0) == newest[window]
            if row.pop("pane", None) != "retracted" and stands:
                kept.append(row)
        return kept


def counted(rows: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row.values()) for row in rows)


def at_once(views: Views) -> list[dict[str, Any]]:
    """The results of all that came, as one run would give them."""
    states = pa.concat_tables([state_schema(views.spec).empty_table(), *views.states])
    return finalise(states, views.spec).to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["parquet", "jsonl"])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: next(iter(window)))
@settings(max_examples=20)
@given(first=RECORDS, replayed=st.lists(RECORDS, min_size=1, max_size=3))
def test_corrected_results_are_those_of_one_run(
    window: dict[str, Any], scheme: str, first: list[Record], replayed: list[list[Record]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        views = Views(f"{scheme}:{folder}/views", spec_of(window))
        views.run(first)
        for records in replayed:
            views.correct(records)
            assert counted(views.rows()) == counted(at_once(views))
        seen = sorted(str(path) for path in Path(folder, "views").glob(f"*.{scheme}"))
        assert len(seen) <= len(replayed) + 1, "files that are out of use are deleted"


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: next(iter(window)))
@settings(max_examples=15)
@given(first=RECORDS, replayed=st.lists(RECORDS, min_size=1, max_size=2))
def test_in_a_table_the_greatest_revision_stands(
    window: dict[str, Any], first: list[Record], replayed: list[list[Record]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        views = Views(f"duckdb:{folder}/lake.duckdb/views", spec_of(window), f"{folder}/state")
        views.run(first)
        for records in replayed:
            views.correct(records)
        assert counted(views.standing()) == counted(at_once(views))


def test_windows_that_nothing_came_for_are_left_alone(tmp_path: Path) -> None:
    views = Views(f"parquet:{tmp_path}/views", spec_of({"fixed": "1m"}))
    views.run([(0, "a", 1), (600, "a", 2)])
    views.run([(600, "a", 4)])
    before = counted(views.rows())
    views.correct([(1, "a", 5)])
    after = counted(views.rows())
    assert sum((before - after).values()) == 1
    (new,) = (after - before).elements()
    assert new[2:] == ("a", 2, 6, 5)
    views.correct([(601, "a", 8)])
    rows = [row for row in views.rows() if row["window_start"] > EPOCH]
    assert [(row["n"], row["s"]) for row in rows] == [(3, 14)], "of both runs, one row is made"


def test_nothing_that_came_corrects_nothing(tmp_path: Path) -> None:
    views = Views(f"parquet:{tmp_path}/views", spec_of({"fixed": "1m"}))
    views.run([(0, "a", 1)])
    before = views.rows()
    views.correct([])
    assert views.rows() == before
