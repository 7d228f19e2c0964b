"""Which staged rows break a constraint of their table, asked of all rows at once.

Only what can be known beforehand: ``NOT NULL`` and ``CHECK``, of a table where no trigger changes a
row first. Whatever else the table refuses, it says of the row itself.
"""

from __future__ import annotations

from ....schemas.forms.ddl import quoted
from ..tables import ROW
from .session import ROW_PATTERNS, literal, refusal
from .table import LoadedTable

_NOT_NULL, _CHECK = "23502", "23514"

_CONSTRAINTS = """
SELECT state, name, field, broken FROM (
    SELECT $2::text AS state, ''::text AS name, attname::text AS field,
        format('%I IS NULL', attname) AS broken, attnum
    FROM pg_attribute
    WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attnotnull
    UNION ALL
    SELECT $3::text, conname::text, '', format('(%s) IS FALSE', pg_get_expr(conbin, conrelid)), NULL
    FROM pg_constraint
    WHERE conrelid = to_regclass($1) AND contype = 'c'
        AND to_jsonb(pg_constraint)->>'conenforced' IS DISTINCT FROM 'false'
        AND 0 < ALL (conkey) AND conkey <@ array(
            SELECT attnum FROM pg_attribute
            WHERE attrelid = conrelid AND attnum > 0 AND attname::text = ANY ($4::text[])
        )
) AS found
WHERE field = '' OR field = ANY ($4::text[])
ORDER BY attnum, name
"""
"""In the order in which PostgreSQL looks at them; a check only if the load has all its columns."""

_ORDINARY = """
SELECT relkind = 'r' AND NOT EXISTS (
    SELECT FROM pg_trigger
    WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 3 = 3
) FROM pg_class WHERE oid = to_regclass($1)
"""
"""Whether rows are put into the table as they are: no trigger ``BEFORE`` … ``FOR EACH ROW``."""


def take_broken(table: LoadedTable, stage: str) -> dict[int, str]:
    """Delete the rows of the staging table that break a constraint; gives the reason of each by its
    number.

    Nothing is deleted if a row cannot be judged, as one that a ``CHECK`` divides by zero for.
    The statement is a function's, which can catch that: the driver takes no savepoints.
    """
    db, load = table.db, table.load
    if not db.one(_ORDINARY, table.quoted):
        return {}
    names = "{" + ",".join(map(_element, load.schema.names)) + "}"
    constraints = db.run(_CONSTRAINTS, table.quoted, _NOT_NULL, _CHECK, names)
    if not constraints:
        return {}
    types = table.types()
    columns = [
        f"CAST({quoted(name)} AS {types[name]}) AS {quoted(name)}" for name in load.schema.names
    ]
    cases = " ".join(f"WHEN {broken} THEN {i}" for i, (*_, broken) in enumerate(constraints))
    # A row that deletes is never put into the table.
    stays = f"WHERE {quoted(load.deleted)} IS NOT TRUE" if load.deleted else ""
    row = quoted(ROW)
    judge = f"pg_temp._millstream_{load.part}_judge"
    db.run(
        f"CREATE FUNCTION {judge}() RETURNS TABLE (number BIGINT, breaks INT) LANGUAGE plpgsql AS "
        + literal(
            f"""
            #variable_conflict use_column
            BEGIN
                RETURN QUERY WITH judged AS (
                    SELECT {row}, CASE {cases} END AS breaks
                    FROM (SELECT {", ".join(columns)}, {row} FROM {stage} {stays}) AS staged
                )
                DELETE FROM {stage} AS s USING judged
                WHERE judged.breaks IS NOT NULL AND s.{row} = judged.{row}
                RETURNING judged.{row}, judged.breaks;
            EXCEPTION WHEN OTHERS THEN
                IF NOT SQLSTATE LIKE ANY (ARRAY[{ROW_PATTERNS}]) THEN
                    RAISE;
                END IF;
            END
            """
        )
    )
    found = db.run(f"SELECT number, breaks FROM {judge}()")
    said = [refusal(state, name, field) for state, name, field, _ in constraints]
    return {n: said[breaks] for n, breaks in found}


def _element(text: str) -> str:
    """A text as an element of an array's literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
