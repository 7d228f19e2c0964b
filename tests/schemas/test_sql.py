"""SQL steps: what they give is what DuckDB gives of the whole table, and what they refuse."""

from __future__ import annotations

import datetime as dt
import functools
import pickle
import sys
from decimal import Decimal
from itertools import pairwise

import duckdb
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import batch_schema, record_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.sql import step as module
from millstream.schemas.sql.refusals import known_functions
from millstream.schemas.sql.step import SqlError, SqlStep, expression_type
from millstream.schemas.steps import StepError

from tests import strategies

UTC = pa.timestamp("us", "UTC")
CONTRACT = Contract(
    "id",
    "1",
    "sales",
    (
        Field("n", "integer"),
        Field("text", "string"),
        Field("amount", "number"),
        Field("price", "decimal", precision=10, scale=2),
        Field("ok", "boolean"),
        Field("day", "date"),
        Field("ts", "timestamp"),
        Field("clock", "time"),
        Field("extra", "json"),
        Field(
            "device",
            "object",
            fields=(
                Field("os", "string"),
                Field("sizes", "array", items=Field("item", "integer", storage="int32")),
            ),
        ),
        Field("tags", "array", items=Field("item", "string")),
    ),
)
RECORDS = record_schema(CONTRACT)
SCHEMA = batch_schema(CONTRACT)
RECORD = {
    "n": 5,
    "text": "12",
    "amount": 1.5,
    "price": Decimal("9.99"),
    "ok": True,
    "day": dt.date(1969, 12, 31),
    "ts": dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC),
    "clock": dt.time(23, 59, 59),
    "extra": '{"a": 1}',
    "device": {"os": "linux", "sizes": [1, None]},
    "tags": ["a", None],
}


def batch_of(records, schema=SCHEMA):
    identity = ({"_source": "a.jsonl", "_position": 10 * i} for i in range(len(records)))
    rows = [r | i | {"_payload": b"{}"} for r, i in zip(records, identity, strict=True)]
    return pa.RecordBatch.from_pylist(rows, schema)


@functools.cache
def step_of(sql):
    return SqlStep(sql, SCHEMA)


@functools.cache
def plain_database():
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'").fetchall()
    return connection


def record_columns(batch):
    return batch.drop_columns(["_source", "_position", "_payload"]).to_pylist()


# ---------------------------------------------------------------------------------- the law

_FIELDS = [next(f for f in CONTRACT.fields if f.name == name) for name in RECORDS.names]
_SOME = {
    "n": st.none() | st.integers(-3, 3),
    "text": st.none() | st.sampled_from(["", "1", "-2", "x", "XX", "ü\0"]),
    "amount": st.none() | st.sampled_from([0.0, 1.0, -2.5]),
}
ROWS = st.lists(
    st.fixed_dictionaries({f.name: _SOME.get(f.name, strategies.values(f)) for f in _FIELDS}),
    max_size=12,
)

STATEMENTS = [
    "SELECT * FROM records",
    "SELECT *, amount * 0.9 AS net FROM records WHERE text <> 'XX'",
    "FROM records r SELECT r.n AS a, a + 1 AS b, r.* EXCLUDE (n) WHERE b > 1 OR n IS NULL",
    "select N, TEXT as \"a b\" from RECORDS where ts < '1970-01-01' -- comment; here\n;",
    "SELECT * REPLACE (upper(text) AS text) RENAME (n AS m) FROM records",
    "SELECT COLUMNS(* EXCLUDE (device, tags))::VARCHAR FROM records WHERE TRY(1 // n) IS NOT NULL",
    "SELECT device.*, list_transform(tags, lambda t: t || '!') AS t FROM records",
    "SELECT date_trunc('hour', ts) AS h, epoch(ts) AS e, strftime(ts, '%c') AS f FROM records",
    "SELECT struct_pack(a := price, b := [n, 1]) AS s, try_cast(text AS INT) AS i FROM records",
    "SELECT ok AND n > 0 AS x, clock, day + 1 AS d FROM records WHERE ok",
    "SELECT [x::BIGINT * 2 FOR x IN device.sizes IF x > 0] AS l, extra->>'a' AS e FROM records",
    "SELECT text NOT ILIKE 'x%' ESCAPE '$' AS l, n NOT IN (1, 2) AS i FROM records WHERE n < 2",
]


@settings(max_examples=30)
@given(st.data())
def test_in_pieces_it_is_what_duckdb_gives_of_the_whole(data):
    check_pieces(data.draw(st.sampled_from(STATEMENTS)), data.draw(ROWS), data)


@pytest.mark.slow
@given(rows=ROWS, data=st.data())
@pytest.mark.parametrize("sql", STATEMENTS)
def test_in_pieces_every_statement_is_what_duckdb_gives_of_the_whole(sql, rows, data):
    check_pieces(sql, rows, data)


def check_pieces(sql, rows, data):
    # a day beyond the last has no answer, in pieces or as a whole
    assume(not any(r["day"] == dt.date.max for r in rows))
    assume(not any("extra" in r and r["extra"] and "\0" in r["extra"] for r in rows))
    batch = batch_of(rows)
    step = step_of(sql)
    bounds = data.draw(strategies.cuts(len(rows)))
    pieces = [step.apply(batch.slice(a, b - a)) for a, b in pairwise(bounds)]
    assert all(piece.schema == step.schema for piece in pieces)

    connection = plain_database()
    connection.register("records", batch.select(RECORDS.names))
    whole = connection.sql(sql).to_arrow_table()
    assert [r for piece in pieces for r in record_columns(piece)] == whole.to_pylist()
    if "WHERE" not in sql.upper():
        positions = [p for piece in pieces for p in piece["_position"].to_pylist()]
        assert positions == batch["_position"].to_pylist()


@settings(max_examples=30)
@given(st.data())
def test_columns_that_are_left_alone_are_as_they_were(data):
    contract = data.draw(strategies.contracts(rules=False))
    assume(not any(wide(field) for field in contract.fields))
    names = st.fixed_dictionaries({f.name: strategies.values(f) for f in contract.fields})
    schema = batch_schema(contract)
    batch = batch_of(data.draw(st.lists(names, max_size=5)), schema)
    step = SqlStep("SELECT * FROM records", schema)
    assert step.schema == schema
    assert step.apply(batch) == batch


def wide(field):
    inner = (*field.fields, *((field.items,) if field.items else ()))
    return (field.type == "decimal" and field.precision > 38) or any(map(wide, inner))


def test_rows_keep_their_identity_and_order(monkeypatch):
    batch = batch_of([RECORD | {"n": n} for n in (3, 1, 2, 0)])
    step = SqlStep("SELECT n FROM records WHERE n <> 1", SCHEMA)
    expected = [(3, "a.jsonl", 0), (2, "a.jsonl", 20), (0, "a.jsonl", 30)]
    found = step.apply(batch)
    assert [tuple(r.values())[:3] for r in found.to_pylist()] == expected
    assert found.schema.field("_source").type == SCHEMA.field("_source").type

    execute = SqlStep._execute
    monkeypatch.setattr(SqlStep, "_execute", lambda *args: execute(*args)[::-1])
    assert step.apply(batch) == found


@pytest.mark.parametrize("identity", [[], ["_position"], ["_source", "_position", "_payload"]])
def test_identity_travels_as_far_as_it_is_there(identity):
    batch = batch_of([RECORD, RECORD | {"n": 1}]).select(["n", *identity])
    found = SqlStep("SELECT n + 1 AS m FROM records WHERE n > 1", batch.schema).apply(batch)
    assert found.schema.names == ["m", *identity]
    assert found.num_rows == 1


def test_of_no_records_there_is_nothing():
    step = SqlStep("SELECT n, text FROM records", SCHEMA)
    assert step.apply(batch_of([])) == pa.RecordBatch.from_pylist([], step.schema)
    assert step.attempt(batch_of([])).records.num_rows == 0


def test_a_step_is_picklable():
    step = pickle.loads(pickle.dumps(SqlStep("SELECT n AS m FROM records", SCHEMA)))
    assert record_columns(step.apply(batch_of([RECORD]))) == [{"m": 5}]


# -------------------------------------------------------------------------------- refusals

ALONE = "depends on more than the record"
NO_TABLE = "expected FROM records"
REFUSED = {
    # aggregates and other rows
    "SELECT count(*) AS n FROM records": "at 'count(*)': aggregate functions such as count() are",
    "SELECT sum(n) AS n FROM records": "aggregate functions such as sum() are refused",
    "SELECT count(*) FILTER (WHERE n > 1) AS c FROM records": "such as count() are refused",
    "SELECT lag(n) OVER () AS n FROM records": "at 'lag(n) OVER ()': a window function is refused",
    "SELECT row_number() AS n FROM records": "window functions such as row_number() are refused",
    "SELECT weighted_avg(n, n) AS n FROM records": f"weighted_avg() is refused: it {ALONE}",
    "SELECT DISTINCT n FROM records": "DISTINCT is refused: a step sees one record at a time",
    "SELECT DISTINCT ON (n) n FROM records": "DISTINCT is refused",
    "SELECT n FROM records GROUP BY n": "GROUP BY is refused",
    "SELECT n FROM records GROUP BY ALL": "GROUP BY ALL is refused",
    "SELECT n FROM records HAVING n > 1": "HAVING is refused",
    "SELECT n FROM records QUALIFY n > 1": "QUALIFY is refused",
    "SELECT n FROM records ORDER BY n": "ORDER BY is refused",
    "SELECT n FROM records LIMIT 1": "LIMIT and OFFSET are refused",
    "SELECT n FROM records LIMIT 10%": "LIMIT and OFFSET are refused",
    "SELECT n FROM records OFFSET 1": "LIMIT and OFFSET are refused",
    "SELECT n FROM records USING SAMPLE 10%": "SAMPLE is refused",
    "SELECT n FROM records TABLESAMPLE 10%": "SAMPLE is refused",
    "SELECT unnest(tags) AS t FROM records": "unnest() is refused: it gives rows of its own",
    # other tables
    "SELECT 1 AS n": NO_TABLE,
    "SELECT n FROM record": "there is no table 'record'; expected FROM records",
    "SELECT n FROM main.records": NO_TABLE,
    "SELECT n FROM records r, other": "a join is refused",
    "SELECT n FROM records JOIN records s USING (n)": "a join is refused",
    "SELECT n FROM (SELECT n FROM records)": "a subquery is refused",
    "SELECT (SELECT 1) AS n FROM records": "at '(SELECT 1)': a subquery is refused",
    "SELECT n FROM records WHERE n IN (SELECT 1)": "a subquery is refused",
    "SELECT n FROM records WHERE EXISTS (SELECT 1)": "a subquery is refused",
    "WITH x AS (SELECT 1) SELECT n FROM records": "WITH is refused",
    "SELECT n FROM records UNION ALL SELECT n FROM records": "UNION is refused",
    "SELECT n FROM records EXCEPT SELECT n FROM records": "EXCEPT is refused",
    "SELECT n FROM records r(a, b)": "other names for the columns of records are refused",
    "SELECT n FROM records AT (VERSION => 1)": "records has no versions",
    "VALUES (1)": "there is no table but records",
    "UNPIVOT records ON n INTO NAME a VALUE b": "there is no table but records",
    "SELECT * FROM range(10)": "a table function is refused",
    "SELECT * FROM query('SELECT 1')": "a table function is refused",
    # chance, the clock, the session
    "SELECT random() AS n FROM records": f"at 'random()': random() is refused: it {ALONE}",
    'SELECT "RANDOM"() AS n FROM records': ALONE,
    "SELECT main.random() AS n FROM records": ALONE,
    "SELECT n.random() AS n FROM records": ALONE,
    "SELECT 'é€😀' AS é, random() AS 😀 FROM records": "at 'random()'",
    "SELECT n FROM records WHERE random() < 0.5": ALONE,
    "SELECT * REPLACE (uuid() AS text) FROM records": ALONE,
    "SELECT list_transform([1], lambda x: random()) AS l FROM records": ALONE,
    "SELECT now() AS t FROM records": ALONE,
    "SELECT current_timestamp AS t FROM records": f"current_timestamp is refused: it {ALONE}",
    'SELECT "current_date" AS t FROM records': ALONE,
    "SELECT ago(INTERVAL 1 DAY) AS t FROM records": ALONE,
    "SELECT epoch(age(ts)) AS t FROM records": "age() of one time stamp is refused",
    "SELECT nextval('s') AS n FROM records": ALONE,
    "SELECT pg_sleep(1) AS n FROM records": ALONE,
    "SELECT current_setting('threads') AS n FROM records": ALONE,
    "SELECT current_user AS n FROM records": ALONE,
    "SELECT getenv('HOME') AS n FROM records": "there is no function getenv",
    # the outside
    "SELECT * FROM read_parquet('/etc/passwd')": "a table function is refused",
    "SELECT * FROM '/etc/passwd'": "there is no table '/etc/passwd'",
    "SELECT read_text('/etc/passwd') AS n FROM records": "read_text() is refused",
    "COPY records TO '/tmp/x'": "other statements are refused",
    "SELECT n FROM records; COPY records TO '/tmp/x'": "other statements are refused",
    "SELECT n FROM records; DROP TABLE records": "other statements are refused",
    "SELECT n FROM records; SELECT n FROM records": "expected one statement, got 2",
    "ATTACH '/tmp/x'": "other statements are refused",
    "PRAGMA version": "other statements are refused",
    "SET threads = 4": "other statements are refused",
    "SHOW TABLES": "there is no table but records",
    "SUMMARIZE records": "there is no table but records",
    "": "expected one statement, got 0",
    # names
    "SELECT n + 1 FROM records": "an expression needs a name: write … AS name",
    "SELECT n, text AS N FROM records": "two columns are named N",
    "SELECT *, n + 1 AS n FROM records": "two columns are named n",
    "SELECT n AS _x FROM records": "the name _x is reserved",
    "SELECT n AS _source FROM records": "the name _source is reserved",
    "SELECT _position FROM records": 'column "_position" not found',
    "SELECT _row FROM records": 'column "_row" not found',
    "SELECT amuont FROM records": 'Candidate bindings: "amount"',
    "SELECT records AS r FROM records": "records as a value is refused",
    "SELECT to_json(r) AS r FROM records r": "r as a value is refused",
    "SELECT main.records AS r FROM records": "write the name of the column without main",
    "SELECT COLUMNS('.*') FROM records": "COLUMNS(…) takes a star here",
    "SELECT #1 AS n FROM records": "a column by its number is refused",
    "SELECT ? AS n FROM records": "a parameter is refused",
    "SELECT $n AS n FROM records": "a parameter is refused",
    # types
    "SELECT NULL AS n FROM records": "n is of the type NULL, which no field has; write NULL::",
    "SELECT ts - ts AS n FROM records": "n is of the type INTERVAL, which no field has; write",
    "SELECT MAP {1: 2} AS n FROM records": "which no field has; write map_entries(…)",
    "SELECT text::BLOB AS n FROM records": "write base64(…)",
    "SELECT (n, n) AS n FROM records": "name its parts",
    "SELECT [{'a': NULL}] AS n FROM records": "n[].a is of the type NULL",
    "SELECT '1'::BIT AS n FROM records": "n is of the type BIT, which no field has",
    # what DuckDB says
    "selct n from records": 'syntax error at or near "selct"',
    "SELECT n /* FROM records": "unterminated /* comment",
    "SELECT uper(text) AS n FROM records": "there is no function uper; did you mean 'upper'?",
    "SELECT text + 1 AS n FROM records": "No function matches",
    "SELECT n::no_such AS n FROM records": "Type with name no_such does not exist",
    "SELECT device.nope FROM records": 'Could not find key "nope"',
    "SELECT 'a\0b' AS n FROM records": "a NUL character",
}


@pytest.mark.parametrize("sql", REFUSED)
def test_it_is_refused(sql):
    with pytest.raises(SqlError) as caught:
        SqlStep(sql, SCHEMA)
    message = str(caught.value)
    assert REFUSED[sql] in message
    assert "\n" not in message


ALLOWED = [
    "TABLE records",
    'SELECT n AS "records", text AS "count(*)" FROM records -- ; DROP TABLE records',
    "SELECT 'SELECT random(); COPY x' AS t FROM records /* ; ATTACH 'x' */",
    "SELECT n AS random, random + 1 AS now FROM records",
    "SELECT 'it''s' AS \"we\"\"ird\", $$x$$ AS y, E'\\n' AS z FROM records",
    "SELECT struct_pack(*COLUMNS(*)) AS s FROM records",
    "SELECT age(ts, ts) > INTERVAL 1 DAY AS x, list_sum([n]) AS y, year(ts) AS z FROM records",
    "SELECT CASE WHEN n > 100 THEN error('too many') ELSE n END AS n FROM records",
    "SELECT n AS 日本 FROM records",
]


@pytest.mark.parametrize("sql", ALLOWED)
def test_it_is_allowed(sql):
    [found] = record_columns(SqlStep(sql, SCHEMA).apply(batch_of([RECORD])))
    assert "_row" not in str(found)


def test_which_functions_are_allowed():
    allowed, kinds = known_functions()
    assert {"upper", "round", "split_part", "date_trunc", "list_sum", "error"} <= allowed
    assert not {"random", "now", "today", "sum", "unnest", "read_csv", "geomean"} & allowed
    assert {kinds[name] for name in allowed} == {"scalar", "macro"}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Field("N", "integer"), "cannot tell the fields n and N apart"),
        (Field("_row", "integer"), "the column name _row is reserved"),
        (Field("wide", "decimal", precision=39), "wide has 39 digits, and SQL steps hold at most"),
        (
            Field("o", "object", fields=(Field("a", "string"), Field("A", "string"))),
            "cannot tell the fields o.a and o.A apart",
        ),
        (
            Field("l", "array", items=Field("item", "decimal", precision=76)),
            "l[] has 76 digits",
        ),
    ],
)
def test_columns_that_sql_cannot_hold(field, message):
    schema = record_schema(Contract("c", "1", "c", (Field("n", "integer"), field)))
    with pytest.raises(SqlError) as caught:
        SqlStep("SELECT n FROM records", schema)
    assert message in str(caught.value)


def test_the_database_reaches_nothing_outside():
    connection = SqlStep("SELECT n FROM records", SCHEMA)._connection
    local = pa.table({"a": [1]})  # noqa: F841
    for sql in (
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM local",
        "COPY (SELECT 1) TO '/tmp/millstream-must-not-exist'",
        "ATTACH '/tmp/millstream-must-not-exist'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
    ):
        with pytest.raises(duckdb.Error):
            connection.sql(sql).fetchall()


def test_without_duckdb_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(
        SqlError, match=r"SQL steps need duckdb; .* pip install 'millstream\[sql\]'"
    ):
        SqlStep("SELECT n FROM records", SCHEMA)


# ----------------------------------------------------------------------------------- types

TYPES = {
    "n": (pa.int64(), 5),
    "n + 1::TINYINT": (pa.int64(), 6),
    "n > 1": (pa.bool_(), True),
    "n::UTINYINT": (pa.uint8(), 5),
    "amount::FLOAT": (pa.float32(), 1.5),
    "price * 2": (pa.decimal128(18, 2), Decimal("19.98")),
    "n::HUGEINT * 1000000000000": (pa.decimal128(38, 0), 5 * 10**12),
    "factorial(20)": (pa.decimal128(38, 0), 2432902008176640000),
    "text || '!'": (pa.string(), "12!"),
    "'6f8a2c0e-0000-4000-8000-000000000000'::UUID": (
        pa.string(),
        "6f8a2c0e-0000-4000-8000-000000000000",
    ),
    "'a'::ENUM ('a', 'b')": (pa.string(), "a"),
    "json_object('n', n)": (pa.string(), '{"n":5}'),
    "day": (pa.date32(), dt.date(1969, 12, 31)),
    "ts": (UTC, RECORD["ts"]),
    "TIMESTAMP '2020-01-01 01:00:00'": (UTC, dt.datetime(2020, 1, 1, 1, tzinfo=dt.UTC)),
    "'2020-01-01'::TIMESTAMP_NS": (UTC, dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
    "'2020-01-01'::TIMESTAMP_S": (UTC, dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
    "ts AT TIME ZONE 'Europe/Berlin'": (UTC, RECORD["ts"] + dt.timedelta(hours=1)),
    "(ts AT TIME ZONE 'UTC')::TIME": (pa.time64("us"), dt.time(23, 59, 59, 999999)),
    "'01:00'::TIME_NS": (pa.time64("us"), dt.time(1)),
    "[n, NULL]": (pa.list_(pa.field("item", pa.int64())), [5, None]),
    "[1, 2]::INT[2]": (pa.list_(pa.field("item", pa.int32())), [1, 2]),
    "{'a': 1::HUGEINT, 'B b': ['x'::ENUM ('x')]}": (
        pa.struct(
            [
                ("a", pa.decimal128(38, 0)),
                ("B b", pa.list_(pa.field("item", pa.string()))),
            ]
        ),
        {"a": 1, "B b": ["x"]},
    ),
    "NULL::DATE": (pa.date32(), None),
}


@pytest.mark.parametrize("text", TYPES)
def test_types_of_results(text):
    expected, value = TYPES[text]
    assert expression_type(text, SCHEMA) == expected
    step = SqlStep(f"SELECT {text} AS v FROM records", SCHEMA)
    assert step.schema.field("v").type == expected
    assert record_columns(step.apply(batch_of([RECORD]))) == [{"v": value}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n, n", "value is of the type TUPLE"),
        ("n) AS a, (n", "expected one expression"),
        ("n) AS a FROM records WHERE (n > 1", "syntax error"),
        ("n) AS a FROM records --", "syntax error"),
        ("COLUMNS(*)", "expected one value, got 11"),
        ("*", "expected one value, got 11"),
        (" ", "expected an expression, got none"),
        ("sum(n)", "at 'sum(n)': aggregate functions such as sum() are refused"),
        ("_source", 'column "_source" not found'),
    ],
)
def test_what_is_no_expression(text, message):
    with pytest.raises(SqlError) as caught:
        expression_type(text, SCHEMA)
    assert message in str(caught.value)


# -------------------------------------------------------------------------------- failures

FAILING = [
    "SELECT text::INT AS i FROM records",
    "SELECT n, 10 // n AS x, text::INT AS i FROM records WHERE amount >= 0",
    "SELECT * REPLACE (10 // n AS n) FROM records",
    "SELECT COLUMNS([c for c in (*) if c in ('n', 'text')])::VARCHAR::INT FROM records",
    "SELECT n FROM records WHERE text::INT > 0",
    "SELECT n FROM records WHERE 10 // n > 1 AND text::INT > 0 AND ok",
    "SELECT n FROM records WHERE n <> 0 AND 10 // n > 1",
    "SELECT n FROM records WHERE n = 0 OR (10 // n > 1 AND text::INT > 0)",
    "SELECT 10 // n AS x, x + 1 AS y FROM records",
    "SELECT CASE WHEN n > 0 THEN error('n is ' || n) ELSE n END AS x FROM records",
    "SELECT CASE WHEN n > 0 THEN error('no') ELSE device END AS x FROM records",
    "SELECT amount / n AS x, [amount / n] AS y FROM records",
    "SELECT CASE WHEN n = 0 THEN 170141183460469231731687303715884105727 ELSE n END AS x "
    "FROM records",
    "SELECT CASE WHEN n = 0 THEN 'infinity'::TIMESTAMP WHEN n = 1 THEN ts END AS x FROM records",
    "SELECT {'d': CASE WHEN n = 0 THEN 'infinity'::DATE END} AS x FROM records",
    "SELECT CASE WHEN n = 0 THEN '24:00:00'::TIME ELSE clock END AS x FROM records",
]


_LIMITS = st.sampled_from([0, 2, 32])


@settings(max_examples=30)
@given(sql=st.sampled_from(FAILING), rows=ROWS, said=_LIMITS)
def test_exactly_the_records_fail_that_fail_alone(sql, rows, said):
    check_failures(sql, rows, said)


@pytest.mark.slow
@given(rows=ROWS, said=_LIMITS)
@pytest.mark.parametrize("sql", FAILING)
def test_of_every_statement_the_records_fail_that_fail_alone(sql, rows, said):
    check_failures(sql, rows, said)


def check_failures(sql, rows, said):
    batch = batch_of(rows)
    step = step_of(sql)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SAID", said)
        records, failures = step.attempt(batch)
    kept, failed = [], []
    for row in range(len(rows)):
        try:
            kept += step.apply(batch.slice(row, 1)).to_pylist()
        except (SqlError, StepError):
            failed.append(row)
    assert [row for row, _ in failures] == failed
    assert records.to_pylist() == kept
    assert records.schema == step.schema


@pytest.mark.slow
def test_failures_are_said_in_duckdbs_words_as_long_as_they_are_few():
    batch = batch_of([RECORD | {"text": f"x{i}"} for i in range(100)])
    step = SqlStep("SELECT text::INT AS i FROM records", SCHEMA)
    messages = [str(error) for _, error in step.attempt(batch).failures]
    assert messages[31].startswith("Conversion Error: Could not convert string 'x31' to INT32")
    assert messages[32] == "i fails on this record, as on others of its batch"
    where = SqlStep("SELECT n FROM records WHERE text::INT > 1", SCHEMA).attempt(batch)
    assert str(where.failures[99].error) == "WHERE fails on this record, as on others of its batch"


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2, 100])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT *, 10 // n AS x FROM records",
        "SELECT * FROM records WHERE 10 // n >= 0",
        "SELECT *, CASE WHEN n = 0 THEN error('no') ELSE n END AS x, text::INT AS y FROM records",
        "SELECT *, 1 / n AS x FROM records",
    ],
)
def test_many_failures_take_few_queries(monkeypatch, sql, every):
    batch = batch_of([RECORD | {"n": i % every} for i in range(3000)])
    step = SqlStep(sql, SCHEMA)
    queries = []
    execute = SqlStep._execute
    monkeypatch.setattr(SqlStep, "_execute", lambda *args: queries.append(1) or execute(*args))
    records, failures = step.attempt(batch)
    assert [row for row, _ in failures] == list(range(0, 3000, every))
    assert records.num_rows == 3000 - len(failures)
    assert len(queries) <= module._SAID + 3


class Broken:
    """A database that has met a defect of its own."""

    def register(self, name, table):
        pass

    def sql(self, query):
        raise duckdb.FatalException("FATAL Error: database has been invalidated")


def test_a_defect_of_duckdb_costs_no_other_records(monkeypatch):
    step = SqlStep("SELECT n FROM records", SCHEMA)
    monkeypatch.setattr(step, "_connection", Broken())
    records, failures = step.attempt(batch_of([RECORD, RECORD]))
    assert (records.num_rows, failures) == (2, [])
