"""What SQL over records may not say, judged by DuckDB's own syntax tree.

A record's result must depend on that record alone, so that it is the same however records are
cut into batches and whenever the run is repeated. Everything is refused that is not known to keep
this rule; which functions do is read from DuckDB's own catalogue.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..problems import did_you_mean
from .tree import TABLE, SqlError, Statement, Tree, expressions, folded, syntax_tree

if TYPE_CHECKING:
    import duckdb


def parse_statement(
    connection: duckdb.DuckDBPyConnection, sql: str, columns: Iterable[str]
) -> Statement:
    """A statement over a table ``records`` of these columns.

    Raises:
        SqlError: it is no SQL, or says something that is refused.
    """
    if "\0" in sql:
        raise SqlError("the text holds a NUL character; write chr(0)")
    tree = syntax_tree(connection, sql)
    if tree["error"]:
        if tree["error_type"] == "parser":
            raise SqlError(tree["error_message"])
        raise SqlError(f"expected SELECT … FROM {TABLE}; other statements are refused")
    if len(tree["statements"]) != 1:
        raise SqlError(f"expected one statement, got {len(tree['statements'])}")
    statement = Statement(sql, tree)
    _check_clauses(statement.select)
    _Expressions(sql, statement.select["from_table"]["alias"], columns).check(statement.select)
    return statement


_ONE_BY_ONE = "a step sees one record at a time"
_SAMPLE = "SAMPLE is refused: a run that is repeated would keep other records"
_MODIFIERS = {
    "DISTINCT_MODIFIER": f"DISTINCT is refused: {_ONE_BY_ONE}; a job removes repeated keys by "
    "--deduplicate",
    "ORDER_MODIFIER": f"ORDER BY is refused: {_ONE_BY_ONE}, and keeps their order",
    "LIMIT_MODIFIER": f"LIMIT and OFFSET are refused: {_ONE_BY_ONE}",
    "LIMIT_PERCENT_MODIFIER": f"LIMIT and OFFSET are refused: {_ONE_BY_ONE}",
}
_GROUPS = f"is refused: {_ONE_BY_ONE}; the job's aggregates group them"
_CLAUSES = {
    "group_expressions": f"GROUP BY {_GROUPS}",
    "group_sets": f"GROUP BY {_GROUPS}",
    "having": f"HAVING {_GROUPS}",
    "qualify": f"QUALIFY is refused: {_ONE_BY_ONE}",
    "sample": _SAMPLE,
}
_SOURCES = {
    "EMPTY": f"expected FROM {TABLE}",
    "JOIN": f"a join is refused: {_ONE_BY_ONE}, and there is no table but {TABLE}",
    "SUBQUERY": f"a subquery is refused: select FROM {TABLE} itself",
    "TABLE_FUNCTION": f"a table function is refused: there is no table but {TABLE}",
}


def _check_clauses(select: Tree) -> None:
    if select["type"] != "SELECT_NODE":
        name = select.get("setop_type", "").replace("_", " ")
        raise SqlError(f"{name or 'this statement'} is refused: write one SELECT … FROM {TABLE}")
    if select["cte_map"]["map"]:
        raise SqlError(f"WITH is refused: write one SELECT … FROM {TABLE}")
    for modifier in select["modifiers"]:
        raise SqlError(_MODIFIERS.get(modifier["type"], f"{modifier['type']} is refused"))
    for key, reason in _CLAUSES.items():
        if select[key]:
            raise SqlError(reason)
    if select["aggregate_handling"] != "STANDARD_HANDLING":
        raise SqlError(f"GROUP BY ALL {_GROUPS}")
    _check_source(select["from_table"])


def _check_source(source: Tree) -> None:
    if source["type"] != "BASE_TABLE":
        raise SqlError(_SOURCES.get(source["type"], f"there is no table but {TABLE}"))
    path = [source["catalog_name"], source["schema_name"], source["table_name"]]
    name = ".".join(filter(None, path))
    if folded(name) != folded(TABLE):
        raise SqlError(f"there is no table {name!r}; expected FROM {TABLE}")
    if source["sample"]:
        raise SqlError(_SAMPLE)
    if source["at_clause"]:
        raise SqlError(f"AT is refused: {TABLE} has no versions")
    if source["column_name_alias"]:
        raise SqlError(f"other names for the columns of {TABLE} are refused: write SELECT … AS …")


_EXPRESSIONS = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT",
    "FUNCTION", "LAMBDA", "OPERATOR", "STAR", "TYPE",
}  # fmt: skip
_REFUSED_EXPRESSIONS = {
    "SUBQUERY": "a subquery is refused: a record is judged by itself",
    "WINDOW": f"a window function is refused: {_ONE_BY_ONE}",
    "PARAMETER": "a parameter is refused: there is nothing that fills it",
    "POSITIONAL_REFERENCE": "a column by its number is refused: write its name",
}
_NOT_ALONE = "is refused: it depends on more than the record"


_SCHEMAS = {"main", "memory", "pg_catalog", "system", "temp"}


class _Expressions:
    """The judge of a statement's expressions."""

    def __init__(self, sql: str, alias: str, columns: Iterable[str]) -> None:
        self._sql = sql.encode()
        self._columns = set(map(folded, columns))
        self._table = folded(alias or TABLE)

    def check(self, select: Tree) -> None:
        """Raise for the first expression that is refused."""
        for expression in expressions([select["select_list"], select["where_clause"]]):
            self._check(expression)
        for item in select["select_list"]:
            self._check_name(item)

    def _check(self, expression: Tree) -> None:
        match expression["class"]:
            case "FUNCTION":
                reason = _function_reason(expression)
            case "COLUMN_REF":
                reason = self._column_reason(expression["column_names"])
            case "STAR":
                reason = _star_reason(expression)
            case kind if kind not in _EXPRESSIONS:
                reason = _REFUSED_EXPRESSIONS.get(kind, f"{kind} is refused")
            case _:
                reason = None
        if reason:
            raise SqlError(f"{self._place(expression)}{reason}")

    def _check_name(self, item: Tree) -> None:
        named = item["alias"] or item["class"] == "COLUMN_REF"
        if not named and not any(e["class"] == "STAR" for e in expressions(item)):
            raise SqlError(f"{self._place(item)}an expression needs a name: write … AS name")

    def _column_reason(self, path: Sequence[str]) -> str | None:
        name = folded(path[0])
        if name in self._columns:
            return None
        if name in _SCHEMAS:
            return f"write the name of the column without {path[0]}"
        if len(path) == 1 and name in _VALUE_KEYWORDS:
            return f"{path[0]} {_NOT_ALONE}"
        if len(path) == 1 and name == self._table:
            return f"{path[0]} as a value is refused: write struct_pack(*COLUMNS(*))"
        return None

    def _place(self, expression: Tree) -> str:
        """Where in the text an expression is, as its first words."""
        start, length = expression["query_location"], expression["query_location_length"]
        text = self._sql[start : start + length].decode("utf-8", "replace")
        text = " ".join(text.split())
        return f"at {text[:40] + '…' * (len(text) > 40)!r}: " if text else ""


def _star_reason(star: Tree) -> str | None:
    chosen = star["columns"] and star["expr"]
    if chosen and not any(e["class"] == "STAR" for e in expressions(chosen)):
        return "COLUMNS(…) takes a star here: write * LIKE 'a%', or COLUMNS(* EXCLUDE (a))"
    return None


def _function_reason(function: Tree) -> str | None:
    name, functions = folded(function["function_name"]), known_functions()
    if name == "age" and len(function["arguments"]) == 1:
        return f"age() of one time stamp {_NOT_ALONE}; give it both"
    if name in functions.allowed:
        return None
    match functions.kinds.get(name):
        case None:
            return f"there is no function {name}{did_you_mean(name, functions.allowed)}"
        case "aggregate" | "window" as kind:
            name = name.removesuffix("_star")  # as count(*) is called inside
            return f"{kind} functions such as {name}() are refused: {_ONE_BY_ONE}"
        case "scalar" | "macro":
            return f"{name}() {_NOT_ALONE}"
        case _:
            return f"{name}() is refused: it gives rows of its own"


class Functions(NamedTuple):
    """DuckDB's functions by their folded names.

    ``allowed`` are those that depend on nothing but their arguments; ``kinds`` holds the kind of
    every function: ``scalar``, ``macro``, ``aggregate``, ``window``, ``table`` or ``pragma``.
    """

    allowed: frozenset[str]
    kinds: Mapping[str, str]


@functools.cache
def known_functions() -> Functions:
    """The functions of the DuckDB that is installed."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        rows = connection.sql(
            """
            SELECT lower(function_name), function_type, stability,
                json_serialize_sql('SELECT ' || macro_definition)::VARCHAR
            FROM duckdb_functions()
            """
        ).fetchall()
    kinds: dict[str, str] = {}
    for kind in ("pragma", "table_macro", "table", "window", "aggregate", "macro", "scalar"):
        kinds |= {name: kind for name, its_kind, *_ in rows if its_kind == kind}
    macros: dict[str, set[str]] = {}
    for name, kind, _, body in rows:
        if kind == "macro":
            macros.setdefault(name, set()).update(_named_in(json.loads(body)))
    allowed = {name for name, kind, stability, _ in rows if kind == "scalar" and stability == _PURE}
    allowed.add("error")  # volatile only so that it is not folded away: it always fails
    return Functions(_with_macros(allowed, macros), kinds)


_PURE = "CONSISTENT"
_VALUE_KEYWORDS = {
    "current_catalog", "current_date", "current_role", "current_schema", "current_time",
    "current_timestamp", "current_user", "localtime", "localtimestamp", "session_user", "user",
}  # fmt: skip
"""Functions that are written without parentheses, where no column has the name."""


def _named_in(macro: Tree) -> Iterator[str]:
    """What a macro's value is made of: names of functions, and what no function is named."""
    if macro["error"]:
        yield ""
    for expression in expressions(macro):
        match expression["class"]:
            case "FUNCTION":
                yield folded(expression["function_name"])
            case "COLUMN_REF" if folded(expression["column_names"][0]) in _VALUE_KEYWORDS:
                yield folded(expression["column_names"][0])
            case kind if kind not in _EXPRESSIONS:
                yield ""


def _with_macros(allowed: set[str], macros: Mapping[str, set[str]]) -> frozenset[str]:
    """The allowed functions, and those macros that are made of nothing else."""
    known = allowed - macros.keys()
    while True:
        more = {name for name, parts in macros.items() if parts <= known} - known
        if not more:
            return frozenset(known)
        known |= more
