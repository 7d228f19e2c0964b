"""Where a statement fails, for many records at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .tree import Statement, Tree, column, expressions, hide_column, sql_text, syntax_tree

if TYPE_CHECKING:
    import duckdb

FAILING = "failing"
"""The column that names the part of the statement that fails, null where none is known to."""


def failure_query(connection: duckdb.DuckDBPyConnection, statement: Statement, row: str) -> str:
    """A query that gives the column ``row`` of each record, and :data:`FAILING`.

    Every part of the statement is wrapped: ``TRY`` turns its error into null, and a structure is
    null for no other reason. Of a ``WHERE`` DuckDB evaluates what it has to, in an order of its
    own; it is known to fail only where every order of its conditions does.

    Raises:
        SqlError: there is no such query, as when one result is made of another by its name.
    """
    probe = statement.copy()
    select = probe.select
    hide_column(select, row)
    conditions = list(_conditions(select["where_clause"]))
    results = list(_computed(select["select_list"]))
    wrapped = [*conditions, *(value for _, value in results)]
    tried = [_tried(connection, value, f"c{i}") for i, value in enumerate(wrapped)]
    select["where_clause"] = None
    select["select_list"] = [*_without_error(connection, tried, row), column(row)]
    cases = [_case_of_conditions(conditions)] if conditions else []
    cases += [
        f"WHEN c{i} IS NULL THEN '{name.replace(chr(39), chr(39) * 2)}'"
        for i, (name, _) in enumerate(results, len(conditions))
    ]
    failing = f"CASE {' '.join(cases)} END" if cases else "NULL::VARCHAR"
    return f"SELECT {failing} AS {FAILING}, {row} FROM ({sql_text(connection, probe.tree)})"


def _conditions(where: Tree | None) -> Iterator[Tree]:
    """What must all be true."""
    if where is None:
        return
    if where["type"] == "CONJUNCTION_AND":
        for child in where["children"]:
            yield from _conditions(child)
    else:
        yield where


def _computed(select_list: list[Tree]) -> Iterator[tuple[str, Tree]]:
    """The names and expressions of results that are not columns as they came."""
    for item in select_list:
        if item["class"] == "STAR":
            yield from ((replaced["key"], replaced["value"]) for replaced in item["replace_list"])
        elif item["class"] != "COLUMN_REF":
            yield item["alias"], item


def _case_of_conditions(conditions: list[Tree]) -> str:
    true = [f"c{i}.v IS TRUE" for i in range(len(conditions))]
    true_or_failing = [
        is_true if _has_parts(condition) else f"({is_true} OR c{i} IS NULL)"
        for i, (condition, is_true) in enumerate(zip(conditions, true, strict=True))
    ]
    fails = f"CASE WHEN {' AND '.join(true_or_failing)} THEN 'WHERE' END"
    return f"WHEN NOT ({' AND '.join(true)}) THEN {fails}"


def _has_parts(condition: Tree) -> bool:
    """Whether it is made of conditions, of which a filter may leave some unevaluated."""
    return any(expression["class"] == "CONJUNCTION" for expression in expressions(condition))


def _tried(connection: duckdb.DuckDBPyConnection, value: Tree, name: str) -> Tree:
    tried = _template(connection, f"TRY(struct_pack(v := 0)) AS {name}")
    tried["children"][0]["arguments"][0]["expression"] = value | {"alias": ""}
    return tried


def _without_error(connection: duckdb.DuckDBPyConnection, tree: Any, row: str) -> Any:
    """The same, but what calls ``error()``, which ``TRY`` does not take, fails in another way."""
    if isinstance(tree, list):
        return [_without_error(connection, inner, row) for inner in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.get("class") == "FUNCTION" and tree["function_name"].lower() == "error":
        return _template(connection, f"CAST(concat('no number ', {row}) AS INTEGER)")
    return {key: _without_error(connection, inner, row) for key, inner in tree.items()}


def _template(connection: duckdb.DuckDBPyConnection, sql: str) -> Tree:
    """The tree of one expression."""
    [expression] = Statement("", syntax_tree(connection, f"SELECT {sql}")).select["select_list"]
    return expression
