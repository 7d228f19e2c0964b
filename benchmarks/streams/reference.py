"""What the stream's job must give, by one DuckDB query over the same lines, and how others differ.

The judging of a line is that of ``duckdb_query.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import compare
import duckdb
import duckdb_query

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WRITE = """
COPY (
    SELECT make_timestamptz(slot * {window}) AS window_start,
        make_timestamptz((slot + 1) * {window}) AS window_end, {names}, events, revenue
    FROM judged WHERE line IS NULL
) TO '{out}'
"""
WHOLE = "SELECT * FROM ({0}) WHERE start >= {1} AND stop <= {2}"


@dataclass(frozen=True, slots=True)
class By:
    """How results are grouped: the fields, in DuckDB and as :mod:`compare` takes them."""

    keys: tuple[str, str]
    names: str
    compared: str
    window_seconds: int

    @property
    def window(self) -> timedelta:
        return timedelta(seconds=self.window_seconds)


VIEWS = By(
    ("event_type", "country"),
    "page::JSON->>'$' AS event_type, event_type::JSON->>'$' AS country",
    "event_type AS page, country AS event_type",
    10,
)
USERS = By(("user_id", "''"), "page::JSON->>'$' AS user_id", compare.USERS, 300)


@dataclass(frozen=True, slots=True)
class Reference:
    """Right results: where they are, how many groups and bad lines, and from when to when in
    microseconds."""

    path: str
    groups: int
    dead: int
    start_us: int
    end_us: int

    @property
    def end(self) -> datetime:
        """When the last window ends."""
        return EPOCH + timedelta(microseconds=self.end_us)


def kept(lines: Path, by: By) -> Reference:
    """The reference of a file that stays, made once and kept beside it."""
    facts = lines.with_suffix(f".{by.window_seconds}s.json")
    if not facts.exists():
        found = reference(lines, lines.with_suffix(f".{by.window_seconds}s.parquet"), by)
        facts.write_text(json.dumps(asdict(found)))
    return Reference(**json.loads(facts.read_text()))


def reference(lines: Path, out: Path, by: By) -> Reference:
    """The right results of the lines, written to a Parquet file."""
    con = duckdb_query.connect(2)
    fields = ", ".join(f"j.{name}::VARCHAR AS {name}" for name in duckdb_query.FIELDS)
    read = duckdb_query.READ.format(text=duckdb_query.TEXT, fields=fields)
    con.execute(read.replace("$path", "'" + str(lines).replace("'", "''") + "'"))
    window = by.window_seconds * 1_000_000
    con.execute(duckdb_query.JUDGE.format(window=window, keys=by.keys))
    con.execute(WRITE.format(window=window, names=by.names, out=out))
    groups, first, last = _row(
        con, "SELECT count(*), min(slot), max(slot) + 1 FROM judged WHERE line IS NULL"
    )
    (bad,) = _row(con, "SELECT coalesce(sum(events), 0) FROM judged WHERE line IS NOT NULL")
    dead = int(bad) + len(duckdb_query.rejected_lines(con, lines))
    con.close()
    return Reference(str(out), groups, dead, first * window, last * window)


def differences(wanted: Reference, out: Path, by: By) -> Iterator[str]:
    """In what an alternative's output is not what it should be. Windows after the last one of the
    reference are those of events that are there only to close the others."""
    views = out / "page_views"
    is_csv = bool(compare.files(views, ".csv"))
    ours = compare.normal(views, compare.PAGES if is_csv else by.compared)
    ours = WHOLE.format(ours, wanted.start_us, wanted.end_us)
    theirs = compare.normal(Path(wanted.path), by.compared)
    found = compare.Comparison(*map(int, compare.ask(compare.DIFFERENCE.format(a=theirs, b=ours))))
    if not found.equal:
        yield str(found)
    dead = compare.dead_letters(out / "dead_letters")
    if dead != wanted.dead:
        yield f"{dead:,} dead letters instead of {wanted.dead:,}"


def _row(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = con.execute(query).fetchone()
    assert row is not None
    return row
