"""Steps in Python: a function of one's own over batches, or over single records."""

from __future__ import annotations

import datetime as dt
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ..schemas.arrow import HIDDEN, arrow_type
from ..schemas.contract import Field
from ..schemas.problems import did_you_mean, list_names
from ..schemas.steps import (
    Attempt,
    Failure,
    Part,
    StepError,
    attempt_of,
    in_pieces,
    plain_type,
)

ROW = "_row"
"""What tells a record from the others of its batch: int64, in what a function over batches gets."""

Over = Literal["batch", "row"]


class PythonStep:
    """A function named ``package.module:function``.

    Over batches it takes a ``pyarrow.RecordBatch`` of the record's columns and ``_row``, and gives
    one (or a table) of any columns and ``_row``: each row at most once, others are left out. What
    it does with a record must not depend on the other records of the batch. Columns and their
    types are found by calling it with an empty batch.

    Over rows it takes a record as a dict and gives the dict of the record that goes on, or
    ``None`` to leave it out. Time stamps are aware ``datetime`` objects, decimals ``Decimal``. It
    is called for each record, which costs what Python costs.

    Args:
        target: the function; its module must be importable wherever the job runs.
        schema: of the batches that will come, identity columns included.
        adds: over rows, fields that the function adds or gives another type, by name: ``string``,
            ``integer``, ``number``, ``decimal(10,2)``, ``boolean``, ``date``, ``timestamp`` or
            ``time``. One that is missing in a result is null.

    Raises:
        StepError: there is no such function, or it does not work on an empty batch.
    """

    schema: pa.Schema
    """Of the batches that leave: the result's columns, then the identity columns there are."""

    def __init__(
        self,
        target: str,
        schema: pa.Schema,
        over: Over = "batch",
        adds: Mapping[str, str] | None = None,
    ) -> None:
        self._arguments = target, schema, over, adds
        self._columns = [name for name in schema.names if name not in HIDDEN]
        records = pa.schema([schema.field(name) for name in self._columns])
        if over == "row":
            self._calls: _Calls = _OverRows(target, records, adds or {})
        elif over == "batch":
            if adds:
                raise StepError(f"{target}: adds is for over: row; of batches it is found out")
            self._calls = _OverBatches(target, records)
        else:
            raise StepError(f"{target}: over is {over!r}, expected {list_names(get_args(Over))}")
        identity = [field for field in schema if field.name in HIDDEN]
        self.schema = pa.schema([*self._calls.result, *identity])

    def __reduce__(self) -> tuple[Any, ...]:
        return PythonStep, self._arguments

    def attempt(self, batch: pa.RecordBatch) -> Attempt:
        """The records that the function keeps, and those that it fails on."""
        parts, failures = self._calls.attempt(batch.select(self._columns))
        return attempt_of(batch, parts, failures, self.schema)


class _Calls(Protocol):
    """How a function is called."""

    result: pa.Schema

    def attempt(self, records: pa.RecordBatch) -> tuple[list[Part], list[Failure]]: ...


def load_function(target: str) -> Callable[[Any], Any]:
    """The function named ``package.module:function``.

    Raises:
        StepError: there is none.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise StepError(f"{target!r}: expected package.module:function")
    try:
        found = importlib.import_module(module)
    except Exception as exc:  # a module runs whatever its author wrote
        raise StepError(
            f"{target}: {module} cannot be imported: {type(exc).__name__}: {exc}; it must be "
            "importable wherever the job runs, so ship it as an installed package"
        ) from exc
    function = getattr(found, name, None)
    if function is None:
        hint = did_you_mean(name, [n for n in vars(found) if callable(getattr(found, n))])
        raise StepError(f"{target}: the module {module} has no {name!r}{hint}")
    if not callable(function):
        raise StepError(f"{target}: {name} is {_kind(function)}, no function")
    return function


# ------------------------------------------------------------------------------ over batches


class _OverBatches:
    def __init__(self, target: str, records: pa.Schema) -> None:
        if ROW in records.names:
            raise StepError(f"{target}: the column name {ROW} is reserved")
        self._function = load_function(target)
        try:
            given = self._call(pa.RecordBatch.from_pylist([], records))
        except Exception as exc:
            said = exc if isinstance(exc, StepError) else f"{type(exc).__name__}: {exc}"
            raise StepError(f"{target} fails on an empty batch: {said}") from exc
        names = [name for name in given.schema.names if name != ROW]
        _check_names(target, names, records.names)
        try:
            types = [plain_type(given.schema.field(name).type, name) for name in names]
        except StepError as exc:
            raise StepError(f"{target}: {exc}") from None
        self.result = pa.schema(list(zip(names, types, strict=True)))

    def attempt(self, records: pa.RecordBatch) -> tuple[list[Part], list[Failure]]:
        def run(row: int, size: int) -> Part:
            kept, rows = self._run(records.slice(row, size))
            return Part(kept, rows + row)

        return in_pieces(records.num_rows, run)

    def _run(self, records: pa.RecordBatch) -> Part:
        given = self._call(records)
        rows = _checked_rows(given[ROW], records.num_rows)
        _check_same_names(given.schema.names, [*self.result.names, ROW])
        arrays = [_as_type(given[field.name], field) for field in self.result]
        kept = pa.RecordBatch.from_arrays(arrays, schema=self.result)
        if (rows[1:] < rows[:-1]).any():
            order = np.argsort(rows)
            kept, rows = kept.take(pa.array(order)), rows[order]
        return Part(kept, rows)

    def _call(self, records: pa.RecordBatch) -> pa.Table:
        numbers = pa.array(np.arange(records.num_rows))
        given = self._function(records.append_column(ROW, numbers))
        if not isinstance(given, pa.RecordBatch | pa.Table):
            raise StepError(f"expected a pyarrow.RecordBatch, got {_kind(given)}")
        table = pa.table(given)
        if ROW not in table.schema.names:
            raise StepError(f"the result has no column {ROW}; keep it beside the record's")
        return table


def _checked_rows(column: pa.ChunkedArray, size: int) -> np.ndarray:
    if not pt.is_integer(column.type) or column.null_count:
        raise StepError(f"{ROW} must stay as it came: its values are no numbers of records")
    rows = column.to_numpy().astype(np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < size:
        raise StepError(f"{ROW} must stay as it came: it names records that are not of the batch")
    if len(np.unique(rows)) < len(rows):
        raise StepError(f"{ROW} must stay as it came: it names a record more than once")
    return rows


def _as_type(column: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    whole = column.combine_chunks()
    if pt.is_null(whole.type):  # of an empty or small batch no values may be known
        return pa.nulls(len(whole), field.type)
    if plain_type(whole.type, field.name) != field.type:
        raise StepError(
            f"{field.name} is of the type {whole.type}, and of an empty batch it is {field.type}"
        )
    return whole.cast(field.type)


def _check_same_names(names: Sequence[str], expected: Sequence[str]) -> None:
    for name in expected:
        if name not in names:
            raise StepError(f"the column {name} is missing, which the result of an empty batch has")
    for name in names:
        if name not in expected:
            raise StepError(f"the column {name} is not in the result of an empty batch")
    if len(names) > len(expected):
        raise StepError("two columns have one name")


def _check_names(target: str, names: Sequence[str], columns: Sequence[str]) -> None:
    for name in names:
        if name.startswith("_") and name not in columns:
            raise StepError(f"{target}: the name {name} is reserved: it begins with _")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StepError(f"{target}: two columns are named {twice}")


# --------------------------------------------------------------------------------- over rows


class _OverRows:
    def __init__(self, target: str, records: pa.Schema, adds: Mapping[str, str]) -> None:
        self._function = load_function(target)
        _check_names(target, list(adds), records.names)
        added = {name: type_of_word(target, name, word) for name, word in adds.items()}
        types = dict(zip(records.names, records.types, strict=True)) | added
        self.result = pa.schema(list(types.items()))
        self._must_have = [name for name in records.names if name not in adds]
        self._checks = [_checker(field.type, field.name) for field in self.result]

    def attempt(self, records: pa.RecordBatch) -> tuple[list[Part], list[Failure]]:
        kept: list[dict[str, Any]] = []
        rows: list[int] = []
        failures: list[Failure] = []
        for row, record in enumerate(records.to_pylist()):
            try:
                given = self._call(record)
            except Exception as exc:
                failures.append(Failure(row, exc))
                continue
            if given is not None:
                kept.append(given)
                rows.append(row)
        numbers = np.array(rows, np.int64)

        def build(first: int, size: int) -> Part:
            part = slice(first, first + size)
            return Part(self._batch(kept[part]), numbers[part])

        parts, unfit = in_pieces(len(kept), build)
        failures += [Failure(rows[row], error) for row, error in unfit]
        return parts, failures

    def _call(self, record: dict[str, Any]) -> dict[str, Any] | None:
        given = self._function(record)
        if given is None:
            return None
        if not isinstance(given, dict):
            raise StepError(f"expected a dict or None, got {_kind(given)}")
        for name in given.keys() - set(self.result.names):
            hint = did_you_mean(str(name), self.result.names)
            raise StepError(f"the key {name!r} is neither a field nor in adds{hint}")
        for name in self._must_have:
            if name not in given:
                raise StepError(f"the key {name!r} is missing; for no value give None")
        return given

    def _batch(self, records: list[dict[str, Any]]) -> pa.RecordBatch:
        arrays = []
        for field, check in zip(self.result, self._checks, strict=True):
            values = [record.get(field.name) for record in records]
            for value in values:
                check(value)
            arrays.append(_array(values, field))
        return pa.RecordBatch.from_arrays(arrays, schema=self.result)


def _array(values: list[Any], field: pa.Field) -> pa.Array:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, ValueError) as exc:
        raise StepError(f"{field.name}: {exc}") from exc


class _Scalar(NamedTuple):
    """A kind of type: what a message calls its values, their classes, and subclasses of those that
    Arrow would convert although they are something else."""

    is_kind: Callable[[pa.DataType], bool]
    said: str
    classes: Any
    but: Any = ()


_SCALARS = (
    _Scalar(pt.is_string, "a str", str),
    _Scalar(pt.is_boolean, "a bool", bool),
    _Scalar(pt.is_integer, "an int", int, bool),
    _Scalar(pt.is_floating, "a float", (float, int), bool),
    _Scalar(pt.is_decimal, "a Decimal", (Decimal, int), bool),
    _Scalar(pt.is_date, "a date", dt.date, dt.datetime),
    _Scalar(pt.is_timestamp, "a datetime with a zone", dt.datetime),
    _Scalar(pt.is_time, "a time", dt.time),
)


def _checker(type: pa.DataType, path: str) -> Callable[[Any], None]:
    """What raises for a value that is not of the type: Arrow alone would convert some."""
    if pt.is_struct(type):
        return _struct_checker(type, path)
    if pt.is_list(type):
        return _list_checker(type, path)
    _, said, classes, but = next(scalar for scalar in _SCALARS if scalar.is_kind(type))

    def check(value: Any) -> None:
        if value is None or (isinstance(value, classes) and not isinstance(value, but)):
            return
        raise StepError(f"{path}: expected {said}, got {_kind(value)}")

    def check_zone(value: Any) -> None:
        check(value)
        if value is not None and value.tzinfo is None:
            raise StepError(f"{path}: expected {said}, got one without")

    return check_zone if pt.is_timestamp(type) else check


def _struct_checker(type: pa.StructType, path: str) -> Callable[[Any], None]:
    checks = {field.name: _checker(field.type, f"{path}.{field.name}") for field in type.fields}

    def check(value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            raise StepError(f"{path}: expected a dict, got {_kind(value)}")
        for name, inner in value.items():
            if name not in checks:
                raise StepError(f"{path}: there is no field {name!r}{did_you_mean(name, checks)}")
            checks[name](inner)

    return check


def _list_checker(type: pa.ListType, path: str) -> Callable[[Any], None]:
    check_item = _checker(type.value_type, f"{path}[]")

    def check(value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, list | tuple):
            raise StepError(f"{path}: expected a list, got {_kind(value)}")
        for item in value:
            check_item(item)

    return check


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of the type {type(value).__name__}"


_WORDS = ("string", "integer", "number", "boolean", "date", "timestamp", "time")
_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def type_of_word(target: str, name: str, word: str) -> pa.DataType:
    """The Arrow type that a job calls by a word, as ``decimal(10,2)``.

    Raises:
        StepError: none; the message begins with ``target``.
    """
    if word in _WORDS:
        return arrow_type(Field(name, word))  # pyright: ignore[reportArgumentType]
    digits = _DECIMAL.fullmatch(word)
    if digits:
        precision, scale = int(digits[1]), int(digits[2])
        if 1 <= precision <= 76 and scale <= precision:
            return arrow_type(Field(name, "decimal", precision=precision, scale=scale))
    expected = [*_WORDS, "decimal(10,2)"]
    hint = did_you_mean(word, expected) or f"; expected {list_names(expected)}"
    raise StepError(f"{target}: adds: {name} is of the type {word!r}, which there is not{hint}")
