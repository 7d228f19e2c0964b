"""SQL of what makes a load visible: one script, one transaction.

Every name is quoted, no value is ever part of a statement. Nothing but ``DELETE`` and ``INSERT``
is used: what a ``MERGE`` would do to a key, they do in two steps of the same transaction.
"""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.cloud import bigquery

from ....schemas.forms.bigquery import bigquery_table_schema
from ...receipts import Span
from ..partitions import Partition
from ..tables import Load

TOMBSTONES_SUFFIX = "__deleted"
"""What the name of the table of deleted keys ends in."""
TURNS_SUFFIX = "__turns"
"""What the name of the table ends in that commits take turns by."""
_WINNERS = "_millstream_winners"
_NEW, _OLD = "S", "T"


@dataclass(frozen=True)
class Staged:
    """A load whose rows are in a stage: the stage's full name, and how many rows it has."""

    load: Load
    stage: str
    rows: int


NOTHING = "SELECT 0"
"""Changes nothing: the query of a load without rows, whose job holds the token all the same."""


def script(staged: Sequence[Staged], replacing: Sequence[Load] = ()) -> str:
    """What makes loads visible that are staged, all or none of them.

    Args:
        replacing: loads, staged or without rows, that take the place of others.
    """
    parts = [(_declared(each), _prepared(each), _put(each)) for each in staged]
    declared, prepared, put = ([s for part in parts for s in part[n]] for n in range(3))
    counted = [
        f"ASSERT (SELECT COUNT(*) FROM {quoted(each.stage)}) = {each.rows} "
        "AS 'the stage does not hold the rows that were put there'"
        for each in staged
    ]
    loads = {load.name: load for load in (*(each.load for each in staged), *replacing)}
    turns = [quoted(turns_name(load)) for load in loads.values() if takes_turns(load)]
    gone = [_delete_span(load.name, load.replaces) for load in replacing if load.replaces]
    statements = [
        *declared, *prepared, *map(_make_turn, turns), "BEGIN TRANSACTION",
        *map(_take_turn, turns), *counted, *gone, *put, "COMMIT TRANSACTION",
    ]  # fmt: skip
    return ";\n".join(statements) + ";"


# ------------------------------------------------------------------ turns


def takes_turns(load: Load) -> bool:
    """Whether commits of such loads have to come one after another.

    A transaction sees the table as it was when it began, and two that only insert do not conflict.
    So of two that find no row of a key, or of a partition, both would insert theirs. They conflict
    because both change the same row of a table beside it: the later one fails, and is tried again.
    """
    return load.mode != "append" or load.replaces is not None


def turns_name(load: Load) -> str:
    """The full name of the table whose one row commits change."""
    return f"{load.name}{TURNS_SUFFIX}"


def turns(load: Load) -> bigquery.Table:
    """The table that commits to a load's table take turns by."""
    return bigquery.Table(turns_name(load), [bigquery.SchemaField("turn", "INTEGER")])


def _make_turn(table: str) -> str:
    # Two at the same time make two rows: whoever begins later sees, and changes, both.
    return (
        f"INSERT INTO {table} (turn) "
        f"SELECT 0 FROM UNNEST([0]) WHERE NOT EXISTS (SELECT 1 FROM {table})"
    )


def _take_turn(table: str) -> str:
    return f"UPDATE {table} SET turn = turn + 1 WHERE TRUE"


def old_rows(table: str, column: str, before: float) -> str:
    """``FROM table WHERE``: the rows whose time stamp is before a time, in seconds."""
    return f"FROM {quoted(table)} WHERE {quoted(column)} < TIMESTAMP_MICROS({int(before * 1e6)})"


def _delete_span(table: str, span: Span) -> str:
    column = quoted(span.column)
    start, end = (f"TIMESTAMP_MICROS({instant})" for instant in (span.start, span.end))
    return f"DELETE FROM {quoted(table)} WHERE {column} >= {start} AND {column} < {end}"


def quoted(name: str) -> str:
    """A name as an identifier, whatever it holds."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _put(staged: Staged) -> list[str]:
    load = staged.load
    if load.mode == "upsert":
        return _upsert(staged)
    inserted = _insert(load, _rows(staged))
    return [_delete_partitions(staged), inserted] if load.mode == "replace" else [inserted]


def _insert(load: Load, source: str) -> str:
    return f"INSERT INTO {quoted(load.name)} ({_listed(load.schema.names)}) {source}"


def _rows(staged: Staged) -> str:
    """A query for the stage's rows, in the types of the table."""
    load = staged.load
    fields = bigquery_table_schema(load.table)
    columns = (f"{_read(quoted(f['name']), f)} AS {quoted(f['name'])}" for f in fields)
    return f"SELECT {', '.join(columns)} FROM {quoted(staged.stage)}"


# ------------------------------------------------------------------ what is said in text


def _read(value: str, field: dict[str, Any], depth: int = 0) -> str:
    """An expression for a staged value in the table's type."""
    if not _is_said_in_text(field):
        return value
    if field.get("mode") == "REPEATED":
        item, offset = f"e{depth}", f"o{depth}"
        read = _read(item, {**field, "mode": "NULLABLE"}, depth + 1)
        unnested = f"UNNEST({value}) AS {item} WITH OFFSET AS {offset}"
        return f"ARRAY(SELECT {read} FROM {unnested} ORDER BY {offset})"
    match field["type"]:
        case "TIME":
            return f"CAST({value} AS TIME)"
        case "JSON":
            return f"PARSE_JSON({value}, wide_number_mode => 'round')"
    inner = []
    for child in field["fields"]:
        name = quoted(child["name"])
        inner.append(f"{_read(f'{value}.{name}', child, depth)} AS {name}")
    return f"IF({value} IS NULL, NULL, STRUCT({', '.join(inner)}))"


def _is_said_in_text(field: dict[str, Any]) -> bool:
    return field["type"] in ("TIME", "JSON") or any(map(_is_said_in_text, field.get("fields", ())))


# ------------------------------------------------------------------ partitions


def _declared(staged: Staged) -> list[str]:
    """Variables for the range of time of the partitions to replace: constants, by which BigQuery
    knows which partitions of the table it need not read."""
    part = _time(staged.load)
    if part is None:
        return []
    column, unit = quoted(part.column), "HOUR" if part.function == "hour" else "DAY"
    first = f"TIMESTAMP_TRUNC(MIN({column}), {unit}, 'UTC')"
    length = {"HOUR": 3_600_000_000, "DAY": 86_400_000_000}[unit]
    last = (
        f"TIMESTAMP_ADD(TIMESTAMP_TRUNC(MAX({column}), {unit}, 'UTC'), "
        f"INTERVAL {length - 1} MICROSECOND)"
    )
    stage = quoted(staged.stage)
    return [
        f"DECLARE first_instant TIMESTAMP DEFAULT (SELECT {first} FROM {stage})",
        f"DECLARE last_instant TIMESTAMP DEFAULT (SELECT {last} FROM {stage})",
    ]


def _delete_partitions(staged: Staged) -> str:
    """Delete the rows that lie in a partition that the stage has rows of; null is one too."""
    parts = [_partition(part) for part in staged.load.partition_by]
    key = f"TO_JSON_STRING(STRUCT({', '.join(f'{p} AS p{n}' for n, p in enumerate(parts))}))"
    said = f"{key} IN (SELECT {key} FROM {quoted(staged.stage)})"
    time = _time(staged.load)
    if time is not None:
        column = quoted(time.column)
        within = f"{column} BETWEEN first_instant AND last_instant"
        said = f"({within} OR {column} IS NULL) AND {said}"
    return f"DELETE FROM {quoted(staged.load.name)} WHERE {said}"


def _time(load: Load) -> Partition | None:
    by = load.partition_by if load.mode == "replace" else ()
    return next((part for part in by if part.function), None)


def _partition(part: Partition) -> str:
    column = quoted(part.column)
    match part.function:
        case "date":
            return f"DATE({column}, 'UTC')"
        case "hour":
            return f"TIMESTAMP_TRUNC({column}, HOUR, 'UTC')"
    return column


# ------------------------------------------------------------------ keys


def _prepared(staged: Staged) -> list[str]:
    """For an upsert, a table of the rows that stand among those of the stage: one of each key."""
    load = staged.load
    if load.mode != "upsert":
        return []
    newest = ", ".join(f"{quoted(name)} DESC" for name in load.order)
    window = f"PARTITION BY {_listed(load.key)}{newest and f' ORDER BY {newest}'}"
    number = f"ROW_NUMBER() OVER ({window})"
    query = f"SELECT * FROM ({_rows(staged)}) WHERE {_has_key(load)} QUALIFY {number} = 1"
    return [f"CREATE TEMP TABLE {_WINNERS} AS {query}"]


def _upsert(staged: Staged) -> list[str]:
    load = staged.load
    table = quoted(load.name)
    same, newer = _same(load), _newer(load)
    names = _listed(load.schema.names)
    stands = f"NOT EXISTS (SELECT 1 FROM {table} {_OLD} WHERE {same})"
    done = [
        f"DELETE FROM {table} {_OLD} WHERE EXISTS "
        f"(SELECT 1 FROM {_WINNERS} {_NEW} WHERE {same} AND {newer})"
    ]
    kept = f"SELECT {names} FROM {_WINNERS} {_NEW} WHERE {stands}"
    keyless = f"SELECT {names} FROM ({_rows(staged)}) WHERE NOT ({_has_key(load)})"
    if load.deleted:
        graves = quoted(f"{load.name}{TOMBSTONES_SUFFIX}")
        alive = f"{quoted(load.deleted)} IS NOT TRUE"
        buried = f"SELECT 1 FROM {graves} {_OLD} WHERE {same} AND NOT ({newer})"
        kept += f" AND {alive} AND NOT EXISTS ({buried})"
        keyless += f" AND {alive}"
        done += _bury(load, graves)
    return [*done, _insert(load, kept), _insert(load, keyless)]


def _bury(load: Load, graves: str) -> list[str]:
    """Keep which keys are deleted, and as of when: an older row does not come back."""
    names = _listed((*load.key, *load.order))
    marked = f"{quoted(load.deleted or '')} IS TRUE"
    same = _same(load)
    return [
        f"DELETE FROM {graves} {_OLD} WHERE EXISTS "
        f"(SELECT 1 FROM {_WINNERS} {_NEW} WHERE {same} AND {marked} AND {_newer(load)})",
        f"INSERT INTO {graves} ({names}) SELECT {names} FROM {_WINNERS} {_NEW} "
        f"WHERE {marked} AND NOT EXISTS (SELECT 1 FROM {graves} {_OLD} WHERE {same})",
    ]


def tombstones(load: Load, fields: Sequence[bigquery.SchemaField]) -> bigquery.Table:
    """The table of the keys that a load's table has deleted."""
    names = (*load.key, *load.order)
    by_name = {field.name: field.to_api_repr() for field in fields}
    kept = [{**by_name[name], "mode": "NULLABLE"} for name in names]
    schema = [bigquery.SchemaField.from_api_repr(field) for field in kept]
    return bigquery.Table(f"{load.name}{TOMBSTONES_SUFFIX}", schema)


def _has_key(load: Load) -> str:
    return " AND ".join(f"{quoted(name)} IS NOT NULL" for name in load.key)


def _same(load: Load) -> str:
    return " AND ".join(f"{_NEW}.{quoted(name)} = {_OLD}.{quoted(name)}" for name in load.key)


def _newer(load: Load) -> str:
    """Whether the new row comes after the old one, or is its equal; nulls come first.

    The expression is never null itself, so that it can be negated.
    """
    said = "TRUE"
    for name in reversed(load.order):
        new, old = f"{_NEW}.{quoted(name)}", f"{_OLD}.{quoted(name)}"
        later = f"IFNULL({new} > {old}, {new} IS NOT NULL AND {old} IS NULL)"
        alike = f"IFNULL({new} = {old}, {new} IS NULL AND {old} IS NULL)"
        said = f"({later} OR ({alike} AND {said}))"
    return said


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))
