"""SQL of tables that are committed to in one transaction, for the dialects that have ``MERGE``.

Every name is quoted, no value is ever part of a statement. Source tables are those that a load was
staged in: the columns of the load, and :data:`.tables.ROW`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...schemas.arrow import POSITION, SOURCE
from ...schemas.contract import Field
from ...schemas.forms.ddl import TYPES, quoted
from .partitions import Partition
from .tables import ROW, Load

TOKENS = "_millstream_commits"
"""The table of tokens: one row for each table and run id."""
TOMBSTONES_SUFFIX = "__deleted"
"""What the name of the table of deleted keys ends in."""


@dataclass(frozen=True)
class Dialect:
    """What differs from one database to the other.

    ``by_bytes`` follows a text that is to be compared by its bytes; ``date`` and ``hour`` are
    patterns for the UTC date and hour of a time stamp.
    """

    name: str
    by_bytes: str
    date: str
    hour: str

    def type(self, field: Field) -> str:
        """The type of a field's column.

        Raises:
            ValueError: the database has none.
        """
        return TYPES[self.name](field)


DUCKDB = Dialect(
    "duckdb",
    by_bytes="",
    # Without the time zone extension, which is not in every build.
    date="CAST(make_timestamp(epoch_us({0})) AS DATE)",
    hour="date_trunc('hour', make_timestamp(epoch_us({0})))",
)
POSTGRESQL = Dialect(
    "postgresql",
    by_bytes=' COLLATE "C"',
    date="CAST({0} AT TIME ZONE 'UTC' AS DATE)",
    hour="date_trunc('hour', {0} AT TIME ZONE 'UTC')",
)


def create_tokens(tokens: str, dialect: Dialect) -> str:
    """The table of tokens, if it is not there. ``tokens`` is its name, quoted."""
    text = dialect.type(Field("", "string"))
    time = dialect.type(Field("", "timestamp"))
    return (
        f"CREATE TABLE IF NOT EXISTS {tokens} (table_name {text} NOT NULL, run_id {text} NOT NULL, "
        f"held {text} NOT NULL, committed_at {time} NOT NULL DEFAULT now(), "
        "PRIMARY KEY (table_name, run_id))"
    )


def create_table(table: str, fields: Iterable[Field], dialect: Dialect) -> str:
    """The table, if it is not there. ``table`` is its name, quoted.

    It has no primary key: rows whose key is null would have no place in it, and an upsert compares
    keys by itself.
    """
    columns = [
        f"{quoted(f.name)} {dialect.type(f)}{' NOT NULL' if f.required else ''}" for f in fields
    ]
    return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)})"


def create_tombstones(table: str, load: Load, dialect: Dialect) -> str:
    """The table of deleted keys, if it is not there."""
    names = (*load.key, *load.order)
    fields = [load.table.field(name) for name in names]
    return create_table(table, fields, dialect)


def add_column(table: str, name: str, type: str) -> str:
    """A column more, which is null in the rows that are there."""
    return f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {type}"


def insert(table: str, source: str, load: Load) -> str:
    """All rows of the source."""
    names = columns(load)
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM {source}"


def columns(load: Load) -> str:
    """The load's columns, quoted, in order."""
    return ", ".join(map(quoted, load.schema.names))


def delete_partitions(table: str, source: str, by: Sequence[Partition], dialect: Dialect) -> str:
    """Delete the rows that lie in a partition that the source has rows of."""
    parts = [_partition(partition, dialect) for partition in by]
    keys = ", ".join(f"{part} AS k{i}" for i, part in enumerate(parts))
    same = " AND ".join(f"{part} IS NOT DISTINCT FROM p.k{i}" for i, part in enumerate(parts))
    return (
        f"DELETE FROM {table} WHERE EXISTS "
        f"(SELECT 1 FROM (SELECT DISTINCT {keys} FROM {source}) AS p WHERE {same})"
    )


def delete_span(table: str, column: str, start: str, end: str) -> str:
    """Delete the rows whose time stamp lies between two, of which the first is one of them; these
    are expressions of placeholders."""
    name = quoted(column)
    return f"DELETE FROM {table} WHERE {name} >= {start} AND {name} < {end}"


def winners(source: str, load: Load) -> str:
    """A query for the rows of the source that stand among those of the source: of each key the
    last, and every row that has no key.

    They are sorted by the columns themselves, so that the database carries nothing else along:
    where texts have a collation, the source's column :data:`SOURCE` must compare by bytes.
    """
    key = ", ".join(map(quoted, load.key))
    newest = [f"{quoted(name)} DESC NULLS LAST" for name in (*load.order, ROW)]
    order = ", ".join([*map(quoted, load.key), *newest])
    names = columns(load)
    whole = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in load.key)
    latest = f"SELECT DISTINCT ON ({key}) {names} FROM {source} WHERE {whole} ORDER BY {order}"
    if all(load.table.field(name).required for name in load.key):
        return latest
    return f"({latest}) UNION ALL (SELECT {names} FROM {source} WHERE NOT ({whole}))"


def without_buried(source: str, tombstones: str, load: Load, dialect: Dialect) -> str:
    """A query for the rows of the source that are not older than the deletion of their key."""
    newer = _compare("d", ">", "s", load, dialect) if load.order else "FALSE"
    return (
        f"SELECT {_of('s', load.schema.names)} FROM {source} AS s WHERE NOT EXISTS "
        f"(SELECT 1 FROM {tombstones} AS d WHERE {_same('d', 's', load.key)} AND {newer})"
    )


def merge(table: str, source: str, load: Load, dialect: Dialect) -> str:
    """Upsert rows of which no two have one key; a row that is marked deletes instead."""
    names = load.schema.names
    gone = f"s.{quoted(load.deleted)} IS TRUE" if load.deleted else ""
    newer = _compare("s", ">=", "t", load, dialect) if load.order else ""
    said = [f"MERGE INTO {table} AS t USING {source} AS s ON {_same('t', 's', load.key)}"]
    if gone:
        said.append(f"WHEN MATCHED AND {_and(newer, gone)} THEN DELETE")
    changed = ", ".join(f"{quoted(name)} = s.{quoted(name)}" for name in names)
    said.append(f"WHEN MATCHED{newer and f' AND {newer}'} THEN UPDATE SET {changed}")
    kept = f" AND NOT ({gone})" if gone else ""
    said.append(f"WHEN NOT MATCHED{kept} THEN INSERT ({columns(load)}) VALUES ({_of('s', names)})")
    return " ".join(said)


def bury(tombstones: str, source: str, load: Load, dialect: Dialect) -> str:
    """Keep which keys the source's marked rows delete, and as of when."""
    assert load.deleted
    names = (*load.key, *load.order)
    whole = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in load.key)
    marked = (
        f"SELECT {', '.join(map(quoted, names))} FROM {source} "
        f"WHERE {quoted(load.deleted)} IS TRUE AND {whole}"
    )
    newer = _compare("s", ">", "t", load, dialect) if load.order else "FALSE"
    changed = ", ".join(f"{quoted(name)} = s.{quoted(name)}" for name in load.order)
    update = f"WHEN MATCHED AND {newer} THEN UPDATE SET {changed} " if load.order else ""
    listed = ", ".join(map(quoted, names))
    return (
        f"MERGE INTO {tombstones} AS t USING ({marked}) AS s ON {_same('t', 's', load.key)} "
        f"{update}WHEN NOT MATCHED THEN INSERT ({listed}) VALUES ({_of('s', names)})"
    )


def _partition(partition: Partition, dialect: Dialect) -> str:
    column = quoted(partition.column)
    patterns = {"": "{0}", "date": dialect.date, "hour": dialect.hour}
    return patterns[partition.function].format(column)


def _same(left: str, right: str, key: Sequence[str]) -> str:
    return " AND ".join(f"{left}.{quoted(name)} = {right}.{quoted(name)}" for name in key)


def _compare(left: str, operator: str, right: str, load: Load, dialect: Dialect) -> str:
    """Whether the left row comes after the right one."""
    ours, theirs = (", ".join(_order(f"{side}.", load, dialect)) for side in (left, right))
    return f"({ours}) {operator} ({theirs})"


def _order(prefix: str, load: Load, dialect: Dialect) -> list[str]:
    """What orders rows of one key, the weightiest first; nothing is ever null."""
    return [f"COALESCE({prefix}{quoted(name)}, {_LEAST[_kind(name, load)]})"
            + (dialect.by_bytes if name == SOURCE else "") for name in load.order]  # fmt: skip


_LEAST = {SOURCE: "''", POSITION: "-1", "integer": "-1", "time": "'-infinity'"}


def _kind(name: str, load: Load) -> str:
    """What of :data:`_LEAST` comes before all values of a column: results are ordered by revisions,
    which are integers."""
    if name in (SOURCE, POSITION):
        return name
    return "integer" if load.table.field(name).type == "integer" else "time"


def _of(side: str, names: Iterable[str]) -> str:
    return ", ".join(f"{side}.{quoted(name)}" for name in names)


def _and(*conditions: str) -> str:
    return " AND ".join(condition for condition in conditions if condition)
