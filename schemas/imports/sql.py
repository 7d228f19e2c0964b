"""Contracts of SQL: one CREATE TABLE statement, in any dialect that ``sqlglot`` knows.

Needs the package ``sqlglot``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path as File
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError, TokenError

from ..contract import Field, Rule
from ..problems import did_you_mean, list_names
from .imported import ITEM, CannotImport, Imported, Notes, Path

_DIALECTS = {"postgresql": "postgres"}

_T = exp.DataType.Type
_INTEGERS = {
    _T.TINYINT: "int8", _T.SMALLINT: "int16", _T.MEDIUMINT: "int32", _T.INT: "int32",
    _T.BIGINT: "int64", _T.UTINYINT: "uint8", _T.USMALLINT: "uint16", _T.UMEDIUMINT: "uint32",
    _T.UINT: "uint32", _T.UBIGINT: "uint64", _T.SERIAL: "int32", _T.SMALLSERIAL: "int16",
    _T.BIGSERIAL: "int64", _T.YEAR: "int16",
}  # fmt: skip
_SCALARS: dict[Any, dict[str, Any]] = {
    _T.BOOLEAN: {"type": "boolean"},
    _T.BIT: {"type": "boolean"},  # of one bit
    _T.ARRAY: {"type": "json"},  # of anything
    _T.FLOAT: {"type": "number", "storage": "float32"},
    _T.DOUBLE: {"type": "number"},
    _T.DATE: {"type": "date"},
    _T.DATE32: {"type": "date"},
    _T.TIME: {"type": "time"},
    _T.TIMETZ: {"type": "time"},
    _T.TIMESTAMPTZ: {"type": "timestamp"},
    _T.TIMESTAMPLTZ: {"type": "timestamp"},
    _T.JSON: {"type": "json"},
    _T.JSONB: {"type": "json"},
    _T.VARIANT: {"type": "json"},
    _T.OBJECT: {"type": "json"},
    _T.MAP: {"type": "json"},
    _T.UUID: {"type": "string", "rules": (Rule("format", "uuid"),)},
}
_NAIVE = {
    _T.TIMESTAMP, _T.TIMESTAMPNTZ, _T.DATETIME, _T.DATETIME2, _T.DATETIME64, _T.TIMESTAMP_S,
    _T.TIMESTAMP_MS, _T.TIMESTAMP_NS, _T.SMALLDATETIME,
}  # fmt: skip
_TEXTS = {_T.TEXT, _T.VARCHAR, _T.CHAR, _T.NCHAR, _T.NVARCHAR, _T.BPCHAR, _T.NAME}
_DECIMALS = {_T.DECIMAL: (38, 9), _T.BIGDECIMAL: (76, 38)}


def import_sql(file: str, dialect: str = "duckdb", table: str | None = None) -> Imported:
    """The contract of a table that a file of SQL creates.

    Args:
        table: its name, where the file creates several.

    Raises:
        CannotImport: the file cannot be read, is no SQL of the dialect, or creates no such table.
    """
    try:
        text = File(file).read_text("utf-8-sig")
    except OSError as error:
        raise CannotImport(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CannotImport(f"{file}: not UTF-8") from error
    creates = list(_creates(text, file, dialect))
    create = _choose(creates, table, file)
    return _Table(create, _DIALECTS.get(dialect, dialect), file).read()


def _creates(text: str, file: str, dialect: str) -> Iterator[exp.Create]:
    try:
        statements = sqlglot.parse(text, dialect=_DIALECTS.get(dialect, dialect))
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        line = first.get("line") or 1
        said = first.get("description") or str(error).splitlines()[0]
        raise CannotImport(f"{file}:{line}: no SQL of {dialect}: {said}") from error
    except (TokenError, SqlglotError, ValueError, RecursionError) as error:
        raise CannotImport(f"{file}: no SQL of {dialect}: {str(error).splitlines()[0]}") from error
    for statement in statements:
        if isinstance(statement, exp.Create) and isinstance(statement.this, exp.Schema):
            yield statement


def _choose(creates: list[exp.Create], table: str | None, file: str) -> exp.Create:
    names = [create.this.this.name for create in creates]
    if not creates:
        raise CannotImport(f"{file}: creates no table with columns: expected CREATE TABLE")
    if table is None and len(creates) > 1:
        raise CannotImport(f"{file}: creates {list_names(names)}: say which with --schema")
    if table is not None and table not in names:
        hint = did_you_mean(table, names) or f"; it creates {list_names(names)}"
        raise CannotImport(f"{file}: creates no table {table!r}{hint}")
    return creates[names.index(table) if table else 0]


class _Table:
    def __init__(self, create: exp.Create, dialect: str, file: str) -> None:
        self._create = create
        self._dialect = dialect
        self._file = file
        self.notes = Notes()
        self._rules: dict[str, list[Rule]] = {}
        self._required: set[str] = set()
        self._unique: set[str] = set()
        self._key: tuple[str, ...] = ()
        self._described: dict[str, str] = {}
        self._names: list[str] = []

    def read(self) -> Imported:
        schema = self._create.this
        columns = [part for part in schema.expressions if isinstance(part, exp.ColumnDef)]
        if not columns:
            raise CannotImport(f"{self._file}: {schema.this.name} has no columns")
        self._names = [column.name for column in columns]
        fields = []
        for column in columns:
            name = column.name
            fields.append(self._typed(name, column.args.get("kind"), (name,)))
            for constraint in column.args.get("constraints") or ():
                self._of_column(name, constraint.args.get("kind"))
        for part in schema.expressions:
            if not isinstance(part, exp.ColumnDef):
                self._of_table(part)
        described = self._create.find(exp.SchemaCommentProperty)
        return Imported(
            schema.this.name,
            tuple(map(self._done, fields)),
            description=described.this.name if described else None,
            primary_key=self._key,
            notes=self.notes,
        )

    def _named(self, column: Any) -> str:
        """The name of a column as it is defined: without quotes, SQL's names have no case."""
        while isinstance(column, exp.Ordered | exp.ColumnPrefix):
            column = column.this
        name = column.name
        if name in self._names:
            return name
        alike = [known for known in self._names if known.lower() == name.lower()]
        return alike[0] if len(alike) == 1 else name

    def _done(self, field: Field) -> Field:
        rules = []
        for rule in self._rules.get(field.name, ()):
            if _fits(rule, field):
                rules.append(rule)
            else:
                self.notes.add((field.name,), f"not held to a CHECK: {rule.kind} {rule.value}")
        return replace(
            field,
            required=field.name in self._required or field.name in self._key,
            unique=field.name in self._unique,
            rules=(*field.rules, *rules),
            description=self._described.get(field.name),
        )

    # ------------------------------------------------------------------------ types

    def _typed(self, name: str, kind: exp.DataType | None, path: Path) -> Field:
        if kind is None:
            self.notes.add(path, "no type: read as a string")
            return Field(name, "string")
        made = self._known(name, kind, path)
        if made is not None:
            return made
        self.notes.add(path, f"{self._sql(kind)}: no type of a contract, read as a string")
        return Field(name, "string")

    def _known(self, name: str, kind: exp.DataType, path: Path) -> Field | None:
        of = kind.this
        if of in (_T.ARRAY, _T.LIST) and kind.expressions:
            item = self._typed("item", kind.expressions[0], (*path, ITEM))
            return Field(name, "array", items=item)
        if of in (_T.STRUCT, _T.OBJECT) and kind.expressions:
            return Field(name, "object", fields=tuple(self._inside(kind, path)))
        if of == _T.LOWCARDINALITY and kind.expressions:  # ClickHouse's way of storing it
            return self._typed(name, kind.expressions[0], path)
        if of in _INTEGERS:
            return Field(name, "integer", storage=_INTEGERS[of])
        if of in (_T.INT128, _T.UINT128, _T.INT256, _T.UINT256):
            self.notes.add(path, f"{self._sql(kind)}: held in 38 digits")
            return Field(name, "decimal", precision=38)
        if of in _DECIMALS:
            return self._decimal(name, kind, path)
        if of in _NAIVE:
            self.notes.add(path, f"{self._sql(kind)}, without a zone: read as UTC")
            return Field(name, "timestamp", zone="UTC")
        if of in _TEXTS:
            sizes = _numbers(kind)
            rules = (Rule("maxLength", sizes[0]),) if sizes else ()
            return Field(name, "string", rules=rules)
        if of in (_T.ENUM, _T.ENUM8, _T.ENUM16) and kind.expressions:
            values = tuple(value.name for value in kind.expressions)
            return Field(name, "string", rules=(Rule("enum", values),))
        if of == _T.BIT and _numbers(kind) not in ([], [1]):
            return None
        if of in _SCALARS:
            if of in (_T.MAP, _T.ARRAY):
                self.notes.add(path, f"{self._sql(kind)}: kept as JSON")
            return Field(name, **_SCALARS[of])
        if of in (_T.BINARY, _T.VARBINARY, _T.BLOB):
            self.notes.add(path, f"{self._sql(kind)}: read as a string, which must be UTF-8")
            return Field(name, "string")
        return None

    def _inside(self, kind: exp.DataType, path: Path) -> Iterator[Field]:
        for number, part in enumerate(kind.expressions):
            name = part.name if isinstance(part, exp.ColumnDef) else f"f{number}"
            inner = part.args.get("kind") if isinstance(part, exp.ColumnDef) else part
            yield self._typed(name, inner, (*path, name))

    def _decimal(self, name: str, kind: exp.DataType, path: Path) -> Field:
        sizes = _numbers(kind)
        precision, scale = _DECIMALS[kind.this]
        if sizes:
            precision, scale = sizes[0], sizes[1] if len(sizes) > 1 else 0
        else:
            self.notes.add(path, f"no precision: held as decimal({precision},{scale})")
        if not 1 <= precision <= 76 or not 0 <= scale <= precision:
            self.notes.add(path, f"{self._sql(kind)}: no decimal of a contract, held as a double")
            return Field(name, "number")
        return Field(name, "decimal", precision=precision, scale=scale)

    # -------------------------------------------------------------------- constraints

    def _of_column(self, name: str, kind: Any) -> None:
        match kind:
            case exp.NotNullColumnConstraint():
                if not kind.args.get("allow_null"):
                    self._required.add(name)
            case exp.PrimaryKeyColumnConstraint():
                self._key = (*self._key, name)
            case exp.UniqueColumnConstraint():
                self._unique.add(name)
            case exp.CommentColumnConstraint():
                self._described[name] = kind.this.name
            case exp.CheckColumnConstraint():
                self._check(kind.this)
            case exp.DefaultColumnConstraint():
                self.notes.add((name,), f"default {self._sql(kind.this)}")
            case None:
                pass
            case _:
                self.notes.add((name,), f"not held to {self._sql(kind)}")

    def _of_table(self, part: Any) -> None:
        if isinstance(part, exp.Constraint):
            for inner in _joined(part.expressions):
                self._of_table(inner)
        elif isinstance(part, exp.PrimaryKey):
            self._key = tuple(map(self._named, part.expressions))
        elif isinstance(part, exp.UniqueColumnConstraint) and part.this is not None:
            columns = list(map(self._named, getattr(part.this, "expressions", ())))
            if len(columns) == 1:
                self._unique.add(columns[0])
            else:
                self.notes.add((), f"not held to {self._sql(part)}")
        elif isinstance(part, exp.CheckColumnConstraint):
            self._check(part.this)
        else:
            self.notes.add((), f"not held to {self._sql(part)}")

    def _check(self, condition: Any) -> None:
        """Take the conditions that are rules of one column; note the others."""
        while isinstance(condition, exp.Paren):
            condition = condition.this
        if isinstance(condition, exp.And):
            self._check(condition.left)
            self._check(condition.right)
            return
        column = condition.find(exp.Column)
        name = self._named(column) if column is not None else ""
        found = _rule_of(condition)
        if found is not None and name in self._names:
            self._rules.setdefault(name, []).extend(found[1])
            return
        path = (name,) if name in self._names else ()
        self.notes.add(path, f"not held to CHECK ({self._sql(condition)})")

    def _sql(self, expression: Any) -> str:
        return expression.sql(dialect=self._dialect)


def _joined(parts: list[Any]) -> list[Any]:
    """T-SQL's ``PRIMARY KEY CLUSTERED (a)``, which is parsed as two parts, as one."""
    match parts:
        case [exp.PrimaryKeyColumnConstraint(), exp.ClusteredColumnConstraint() as of]:
            return [exp.PrimaryKey(expressions=of.this)]
        case [exp.PrimaryKeyColumnConstraint(), exp.NonClusteredColumnConstraint() as of]:
            return [exp.PrimaryKey(expressions=of.this)]
    return parts


def _numbers(kind: exp.DataType) -> list[int]:
    """The numbers in a type's brackets."""
    sizes = [part.name for part in kind.expressions if isinstance(part, exp.DataTypeParam)]
    return [int(size) for size in sizes if size.isdigit()]


def _fits(rule: Rule, field: Field) -> bool:
    """Whether fields of this type have such rules."""
    if rule.kind == "enum":
        kinds = {"string": str, "integer": int, "number": (int, Decimal), "decimal": (int, Decimal)}
        kind = kinds.get(field.type)
        return kind is not None and all(isinstance(value, kind) for value in rule.value)
    if rule.kind.endswith("Length"):
        return field.type == "string" and rule.value >= 0
    return field.type in ("integer", "number", "decimal")


_COMPARED = {
    exp.GTE: "minimum", exp.GT: "exclusiveMinimum", exp.LTE: "maximum", exp.LT: "exclusiveMaximum",
}  # fmt: skip
_TURNED = {exp.GTE: exp.LTE, exp.GT: exp.LT, exp.LTE: exp.GTE, exp.LT: exp.GT}


def _rule_of(condition: Any) -> tuple[str, list[Rule]] | None:
    """The column and rules that a condition is, if it is of one column and of literals."""
    if type(condition) in _COMPARED:
        kind: Any = type(condition)
        column, value = condition.left, condition.right
        if isinstance(value, exp.Column):
            kind, column, value = _TURNED[kind], value, column
        return _bound(_COMPARED[kind], column, value)
    if isinstance(condition, exp.Between) and isinstance(condition.this, exp.Column):
        low, high = (_literal(condition.args[end]) for end in ("low", "high"))
        if low is None or high is None or isinstance(low, str) or isinstance(high, str):
            return None
        return condition.this.name, [Rule("minimum", low), Rule("maximum", high)]
    if isinstance(condition, exp.In) and isinstance(condition.this, exp.Column):
        values = [_literal(value) for value in condition.expressions]
        if values and None not in values:
            return condition.this.name, [Rule("enum", tuple(values))]
    return None


def _bound(kind: str, column: Any, value: Any) -> tuple[str, list[Rule]] | None:
    limit = _literal(value)
    if limit is None or isinstance(limit, str):
        return None
    if isinstance(column, exp.Length) and isinstance(column.this, exp.Column):
        if limit != int(limit):
            return None
        size = {
            "minimum": Rule("minLength", int(limit)),
            "exclusiveMinimum": Rule("minLength", int(limit) + 1),
            "maximum": Rule("maxLength", int(limit)),
            "exclusiveMaximum": Rule("maxLength", int(limit) - 1),
        }[kind]
        return column.this.name, [size]
    return (column.name, [Rule(kind, limit)]) if isinstance(column, exp.Column) else None


def _literal(value: Any) -> Any:
    """A number or string, or ``None`` for whatever else."""
    sign = 1
    if isinstance(value, exp.Neg):
        sign, value = -1, value.this
    if not isinstance(value, exp.Literal):
        return None
    if value.is_string:
        return value.name if sign == 1 else None
    try:
        number = Decimal(value.name)
    except InvalidOperation:
        return None
    return sign * (int(number) if number == int(number) else number)
