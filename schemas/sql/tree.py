"""DuckDB's syntax trees: SQL text to tree and back, and what every reader of a tree needs."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import duckdb

TABLE = "records"
"""The name of the table that a statement selects from."""

Tree = dict[str, Any]
"""A node of a syntax tree, as ``json_serialize_sql`` gives it."""


class SqlError(ValueError):
    """SQL that is refused, or that fails on a record. The message says what, where, and why."""


class Statement(NamedTuple):
    """A statement that has been parsed."""

    sql: str
    tree: Tree

    @property
    def select(self) -> Tree:
        """The node of the ``SELECT``, inside of ``tree``."""
        return self.tree["statements"][0]["node"]

    def copy(self) -> Statement:
        """The same with a tree of its own, to be changed."""
        return Statement(self.sql, copy.deepcopy(self.tree))


@contextlib.contextmanager
def duckdb_errors() -> Iterator[None]:
    """Turn DuckDB's errors into :class:`SqlError`, without the text of the statement."""
    import duckdb

    try:
        yield
    except duckdb.Error as exc:
        raise SqlError(_short(str(exc))) from exc


def is_fatal(error: SqlError) -> bool:
    """Whether a defect of DuckDB made this error, after which the database is of no use."""
    import duckdb

    return isinstance(error.__cause__, duckdb.FatalException | duckdb.InternalException)


def _short(message: str) -> str:
    """What DuckDB says in its first line, and the names that it proposes."""
    first, *others = message.partition("\n\nLINE ")[0].splitlines()
    proposed = [line for line in others if line.startswith(("Candidate", "Did you mean"))]
    return " ".join([first, *proposed])


def syntax_tree(connection: duckdb.DuckDBPyConnection, sql: str) -> Tree:
    """The tree of a text, or what is wrong with it: ``error``, ``error_type``, ``error_message``.

    Raises:
        SqlError: DuckDB has no tree of it.
    """
    query = (
        "SELECT json_serialize_sql($1::VARCHAR, "
        "skip_null := false, skip_empty := false, skip_default := false)"
    )
    with duckdb_errors():
        [(text,)] = connection.sql(query, params=[sql]).fetchall()
    return json.loads(text)


def sql_text(connection: duckdb.DuckDBPyConnection, tree: Tree) -> str:
    """The SQL of a tree.

    Raises:
        SqlError: the tree is none of DuckDB's.
    """
    query, text = "SELECT json_deserialize_sql($1::JSON)", json.dumps(tree)
    with duckdb_errors():
        [(sql,)] = connection.sql(query, params=[text]).fetchall()
    return sql


def expressions(tree: Any) -> Iterator[Tree]:
    """Every expression of a tree, outer before inner."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = tree.values()
    elif not isinstance(tree, list):
        return
    for inner in tree:
        yield from expressions(inner)


def column(name: str) -> Tree:
    """The expression that is a column's value."""
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": [name]}


def hide_column(select: Tree, name: str) -> None:
    """Leave a column of the table out of what the stars of a ``SELECT`` stand for."""
    tables = {"", folded(select["from_table"]["alias"]), folded(TABLE)}
    for expression in expressions([select["select_list"], select["where_clause"]]):
        if expression["class"] == "STAR" and folded(expression["relation_name"]) in tables:
            expression["exclude_list"].append(name)


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def folded(name: str) -> str:
    """A name as DuckDB compares it: without the case of ASCII letters."""
    return name.encode().lower().decode()
