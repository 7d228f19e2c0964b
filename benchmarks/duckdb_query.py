"""The clicks job in DuckDB, as someone who knows DuckDB well would write it: our yardstick.

    python benchmarks/duckdb_query.py --input FILE --out DIR [--threads 2] [--sessions]

Writes ``DIR/page_views/part.parquet`` and ``DIR/dead_letters/*.parquet`` (the exact bytes of each
bad line and the list of what is wrong with it). ``--sessions`` writes sessions of five minutes by
user instead, to ``DIR/sessions/part.parquet``.

How it is fast: the lines are read once, as a one-column CSV whose delimiter never occurs; each is
parsed twice (``json_valid``, without which a bad line fails the whole query, and
``json_transform``); every field stays JSON text, so that its type can be told from its first
character and nothing is coerced; and one aggregate holds both outcomes, keyed by what is good
(window, page, event type) or by the bad line itself, so that no table of all rows is kept. The
reasons are worked out afterwards, for bad lines only.

Invalid UTF-8 never reaches the query: the CSV reader rejects such lines into ``reject_errors`` with
question marks for the bad bytes, so their exact bytes are cut out of the file by their position.

What it cannot do, or does in another way than the contract says:

* its JSON parser takes NaN, Infinity and trailing commas. In ``amount`` the range check catches the
  former; in a field that nobody checks they pass, and a trailing comma passes everywhere;
* a JSON ``\\u`` escape of a lone surrogate is refused, a repeated key is not;
* ``country`` counts escaped quotes and backslashes as two characters;
* one file at a time, and no memory of what was read before: it is a query, not a pipeline.
"""

from __future__ import annotations

import argparse
import mmap
import sys
from pathlib import Path

import duckdb

FIELDS = ("event_id", "user_id", "event_type", "page", "ts", "amount", "country")
TEXT = "{" + ",".join(f'"{name}":"JSON"' for name in FIELDS) + "}"
"""What ``json_transform`` is to take out of a line: each field as the JSON text that it is."""

MACROS = r"""
-- JSON text: is it a string; is it missing or null
CREATE MACRO is_string(j) AS prefix(j, '"');
CREATE MACRO is_none(j) AS j IS NULL OR j = 'null';
CREATE MACRO bare(j) AS substr(j, 2, length(j) - 2);
CREATE MACRO id_ok(j) AS regexp_full_match(j, '"[0-9a-f]{16}"');
CREATE MACRO known_type(j) AS j IN ('"view"', '"click"', '"cart"', '"buy"', '"scroll"');
-- the cast proves that the date exists, but it would take a time without an offset for UTC
CREATE MACRO has_offset(j) AS j LIKE '"____-__-__T__:__:__%'
    AND CASE WHEN suffix(j, 'Z"') THEN true ELSE regexp_matches(j, '[+-]\d\d:\d\d"$') END;
CREATE MACRO two_letters(j) AS is_string(j) AND length(j) = 4;
"""

READ = """
CREATE VIEW events AS
WITH lines AS (
    SELECT line
    FROM read_csv($path, columns = {{'line': 'VARCHAR'}}, auto_detect = false, header = false,
        delim = E'\\x1c\\x1d\\x1e', quote = '', escape = '', new_line = '\\n',
        ignore_errors = true, store_rejects = true, rejects_limit = 0)
), parsed AS (
    SELECT line, CASE WHEN json_valid(line) THEN json_transform(line, '{text}') END AS j FROM lines
)
SELECT line, {fields},
    TRY_CAST(bare(j.ts::VARCHAR) AS TIMESTAMPTZ) AS at_time,
    TRY_CAST(j.amount::VARCHAR AS DOUBLE) AS number
FROM parsed
"""

JUDGE = """
CREATE TEMP TABLE judged AS
SELECT
    CASE WHEN NOT good THEN line END AS line,
    CASE WHEN good THEN epoch_us(at_time) // {window} END AS slot,
    CASE WHEN good THEN {keys[0]} END AS page,
    CASE WHEN good THEN {keys[1]} END AS event_type,
    count(*) AS events,
    sum(number) AS revenue
FROM (
    SELECT *, coalesce(
        id_ok(event_id) AND is_string(user_id) AND known_type(event_type) AND is_string(page)
        AND has_offset(ts) AND at_time IS NOT NULL
        -- NaN is greater than everything in DuckDB
        AND (is_none(amount) OR number BETWEEN 0 AND 1000000)
        AND (is_none(country) OR two_letters(country)),
        false) AS good
    FROM events
)
GROUP BY ALL
"""

AGGREGATE = """
COPY (
    SELECT make_timestamptz(slot * {window}) AS window_start,
        make_timestamptz((slot + 1) * {window}) AS window_end,
        page::JSON->>'$' AS page, event_type::JSON->>'$' AS event_type, events, revenue
    FROM judged WHERE line IS NULL
) TO '{out}/page_views/part.parquet'
"""

SESSIONS = """
COPY (
    WITH marked AS (
        SELECT slot, page::JSON->>'$' AS user_id, events, revenue,
            coalesce(slot - lag(slot) OVER (PARTITION BY page ORDER BY slot) >= {gap}, true)
                AS opens
        FROM judged WHERE line IS NULL
    ), numbered AS (
        SELECT *, sum(opens::INTEGER) OVER (PARTITION BY user_id ORDER BY slot) AS session
        FROM marked
    )
    SELECT make_timestamptz(min(slot)) AS window_start,
        make_timestamptz(max(slot) + {gap}) AS window_end,
        user_id, sum(events)::BIGINT AS events, sum(revenue) AS revenue
    FROM numbered GROUP BY user_id, session
) TO '{out}/sessions/part.parquet'
"""
SESSION_GAP = 300_000_000
"""Microseconds."""

REASONS = """
CREATE TEMP TABLE reasons AS
WITH bad AS (
    SELECT line, json_valid(line) AND left(ltrim(line), 1) = '{{' AS whole, unnest(range(events))
    FROM judged WHERE line IS NOT NULL
), parsed AS (
    SELECT line, whole, CASE WHEN whole THEN json_transform(line, '{text}') END AS j FROM bad
), fields AS (
    SELECT line, whole, {fields},
        TRY_CAST(bare(j.ts::VARCHAR) AS TIMESTAMPTZ) AS at_time,
        TRY_CAST(j.amount::VARCHAR AS DOUBLE) AS number
    FROM parsed
)
SELECT encode(line) AS payload, list_filter([
    CASE WHEN NOT whole THEN {{'field': '', 'code': 'MALFORMED'}} END,
    {checks}
    CASE WHEN is_string(event_id) AND NOT id_ok(event_id)
        THEN {{'field': 'event_id', 'code': 'PATTERN'}} END,
    CASE WHEN is_string(event_type) AND NOT known_type(event_type)
        THEN {{'field': 'event_type', 'code': 'ENUM'}} END,
    CASE WHEN is_string(ts) AND (at_time IS NULL OR NOT has_offset(ts))
        THEN {{'field': 'ts', 'code': 'FORMAT'}} END,
    CASE WHEN NOT is_none(amount) AND number IS NULL
        THEN {{'field': 'amount', 'code': 'TYPE'}} END,
    CASE WHEN NOT isfinite(number) THEN {{'field': '', 'code': 'MALFORMED'}} END,
    CASE WHEN isfinite(number) AND number NOT BETWEEN 0 AND 1000000
        THEN {{'field': 'amount', 'code': 'RANGE'}} END,
    CASE WHEN NOT is_none(country) AND NOT is_string(country)
        THEN {{'field': 'country', 'code': 'TYPE'}} END,
    CASE WHEN is_string(country) AND NOT two_letters(country)
        THEN {{'field': 'country', 'code': 'LENGTH'}} END
], lambda reason: reason IS NOT NULL) AS violations
FROM fields
"""
REQUIRED = """
    CASE WHEN whole AND is_none({0}) THEN {{'field': '{0}', 'code': 'REQUIRED'}} END,
    CASE WHEN NOT is_none({0}) AND NOT is_string({0})
        THEN {{'field': '{0}', 'code': 'TYPE'}} END,"""

ENCODING = """
CREATE TEMP TABLE encoding AS
SELECT unnest($1::BLOB[]) AS payload, [{'field': '', 'code': 'ENCODING'}] AS violations
"""


def connect(threads: int) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute(f"SET threads = {threads}")
    con.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    con.execute(MACROS)
    return con


def rejected_lines(con: duckdb.DuckDBPyConnection, path: Path) -> list[bytes]:
    """The exact bytes of the lines that are not UTF-8."""
    # positions count from 1
    starts = con.execute("SELECT line_byte_position - 1 FROM reject_errors").fetchall()
    if not starts:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        ends = ((start, whole.find(b"\n", start)) for (start,) in starts)
        return [whole[start : end if end >= 0 else None] for start, end in ends]


def run(path: Path, out: Path, threads: int, window_seconds: int, *, sessions: bool) -> None:
    """The whole job: one pass over the lines, then the two outputs."""
    dead = out / "dead_letters"
    for folder in (out / ("sessions" if sessions else "page_views"), dead):
        folder.mkdir(parents=True, exist_ok=True)
    window = 1 if sessions else window_seconds * 1_000_000
    keys = ("user_id", "''") if sessions else ("page", "event_type")
    fields = ", ".join(f"j.{name}::VARCHAR AS {name}" for name in FIELDS)
    con = connect(threads)
    quoted = "'" + str(path).replace("'", "''") + "'"
    con.execute(READ.format(text=TEXT, fields=fields).replace("$path", quoted))
    con.execute(JUDGE.format(window=window, keys=keys))
    if sessions:
        con.execute(SESSIONS.format(gap=SESSION_GAP, out=out))
    else:
        con.execute(AGGREGATE.format(window=window, out=out))
    checks = "".join(REQUIRED.format(name) for name in FIELDS[:5])
    con.execute(REASONS.format(text=TEXT, fields=fields, checks=checks))
    con.execute(f"COPY reasons TO '{dead}/lines.parquet'")
    con.execute(ENCODING, [rejected_lines(con, path)])
    con.execute(f"COPY encoding TO '{dead}/encoding.parquet'")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--window-seconds", type=int, default=60)
    parser.add_argument("--sessions", action="store_true")
    args = parser.parse_args(argv)
    run(args.input, args.out, args.threads, args.window_seconds, sessions=args.sessions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
