"""Arrow columns of any types to the contract's types, strictly: the decoder of Avro and Parquet.

A value is what its JSON says (:mod:`.arrow_json` has the form), held to the very rules of
:class:`~millstream.schemas.json.decoder.JsonDecoder`. So nothing is made of a value that it is not:

- an integer is an integer, a number or a decimal, if it is in range; a decimal without a scale is
  an integer too, any decimal is a number and, if no digit is lost, a decimal of other digits;
- a float is a number and, by its shortest decimal text, a decimal (``19.99``), but no integer even
  if it is whole; NaN is no number (``TYPE``), an infinity one that no double holds (``RANGE``);
- strings and binary are strings if they are UTF-8 (``ENCODING``); so are dates, times and time
  stamps, as their text, if the contract asks for a string;
- dates, times and time stamps of any unit are what they are, and text is, by the contract's
  format, if it asks for them; nanoseconds are cut to microseconds as they are in text. A time stamp
  without a zone is an instant only where the contract says of which zone it is;
- structs and maps are objects, lists are arrays. For ``json`` anything is its JSON text, and text
  is JSON that is kept word for word (``FORMAT`` if it is none).

Fields are matched by name; a column that is missing is null, and null is the same as missing. Only
the typed ways are fast, but they are what files should hold. The rest is made JSON and decoded
as JSON.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from .arrow import arrow_type, record_schema
from .arrow_json import (
    float_texts,
    holds_json,
    is_list,
    is_text,
    json_texts,
    list_parts,
    lists_from,
    plain,
    scatter,
    struct_columns,
    union_parts,
    utf8_unchecked,
)
from .codes import Code
from .contract import Contract, Field
from .decoded import Decoded, UnknownFields, settle
from .drift.facts import Found, without
from .drift.unknown import note_unknown
from .integers import integer_range
from .json.columns import Number, column_builder, convert
from .json.decoder import JsonDecoder
from .json.nesting import MAX_NESTING, is_too_deep
from .json.refusals import walk
from .masking import Masking
from .paths import Paths
from .rules import Violation, shown
from .temporal import FIRST_INSTANT, LAST_INSTANT, expected, localise, rewrite_for

_key = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(float_hook=Number).decode
_raw = msgspec.json.Decoder(msgspec.Raw).decode

_INDEX = re.compile(r"\[\d+\]")
_FIRST, _LAST = FIRST_INSTANT // 10**6, LAST_INSTANT // 10**6  # seconds of years 1 to 9999
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 24 * 60 * 60


class ArrowDecoder:
    """Decodes record batches of any schema, one record a row, by a contract.

    Args:
        judge: hold what is well typed against the contract's rules too.

    >>> from millstream.schemas.contract import Contract, Field
    >>> decoder = ArrowDecoder(Contract("c", "1", "c", (Field("n", "integer", storage="int8"),)))
    >>> decoder.decode(pa.record_batch({"n": [1, 1000]})).refused
    [1]
    """

    def __init__(
        self, contract: Contract, unknown: UnknownFields = "ignore", *, judge: bool = False
    ) -> None:
        self._contract = contract
        self._unknown: UnknownFields = unknown
        self._judge = judge
        self._masking = Masking(contract)
        self._schema = record_schema(contract, keep_unknown=unknown == "keep")

    @property
    def schema(self) -> pa.Schema:
        """The schema of ``Decoded.records``."""
        return self._schema

    def decode(self, batch: pa.RecordBatch) -> Decoded:
        """Decode a batch. No schema and no content makes it raise."""
        fitting = _Fitting(self._unknown, self._masking)
        columns = fitting.fields(
            batch.schema.names, batch.columns, self._contract.fields, batch.num_rows, None
        )
        unknown = fitting.unknown_column(batch.num_rows) if self._unknown == "keep" else None
        decoded = settle(
            columns, self._contract, fitting.violations, judge=self._judge, unknown=unknown
        )
        return decoded._replace(noticed=without(fitting.noticed, set(decoded.refused)))


class _Unknown(NamedTuple):
    """Values that the contract does not name: their rows, the JSON of their paths and of them."""

    rows: np.ndarray
    keys: pa.Array
    texts: pa.Array


class _Fitting:
    """Makes the columns of one batch fit; notes what is wrong with them, and what is unknown."""

    def __init__(self, unknown: UnknownFields, masking: Masking) -> None:
        self.violations: list[Violation] = []
        self.noticed: Found = {}
        self._masking = masking
        self._mode: UnknownFields = unknown
        self._unknown: list[_Unknown] = []

    def fields(
        self,
        names: Iterable[str],
        columns: Iterable[pa.Array],
        fields: tuple[Field, ...],
        size: int,
        at: Paths | None,
    ) -> list[pa.Array]:
        """One column a field, of its type; null where there is none, and where a value is wrong.

        Args:
            at: the objects that the columns are of; ``None`` for whole records.
        """
        found = dict(zip(names, columns, strict=True))  # of a repeated name the last, as in JSON
        fitted = []
        for field in fields:
            column = found.pop(field.name, None)
            there = at.child(field.name) if at else Paths.of(field.name)
            fitted.append(
                pa.nulls(size, arrow_type(field))
                if column is None
                else self.fit(column, field, there)
            )
        if self._mode != "ignore":
            for name, column in found.items():
                self._note_unknown(column, at.child(name) if at else Paths.of(name))
        return fitted

    def fit(self, array: pa.Array, field: Field, at: Paths) -> pa.Array:
        """The values as the field's type; null where they are not, which is noted."""
        if array.null_count == len(array):
            return pa.nulls(len(array), arrow_type(field))
        if field.type == "json":
            return self._json(array, field, at)
        array = plain(array)
        if pt.is_union(array.type):
            parts = [
                (elements, self.fit(values, field, at.take(elements)))
                for elements, values in union_parts(array)
            ]
            return scatter(parts, len(array))
        fitted = _FITS[field.type](self, array, field, at)
        return self._by_json(array, field, at) if fitted is None else fitted

    # Each takes an array that is not all null and gives the column, or None: to be read as JSON.

    def _string(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        return self._utf8(array, at) if is_text(array.type) else None

    def _integer(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        to = arrow_type(field)
        if pt.is_decimal(array.type) and array.type.scale == 0:
            try:
                array = array.cast(pa.int64())
            except pa.ArrowInvalid:
                return None
        if not pt.is_integer(array.type):
            return None
        low, high = integer_range(field.storage)
        least, greatest = integer_range(str(array.type))
        for limit, outside, compare in (
            (low, low > least, pc.less),
            (high, high < greatest, pc.greater),
        ):
            if outside:
                what = f"an integer from {low} to {high}"
                wrong = compare(array, pa.scalar(limit, array.type))
                array = self._without(wrong, array, field, at, Code.RANGE, what)
        return array.cast(to)

    def _number(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        if pt.is_floating(array.type):
            numbers = self._finite(array.cast(pa.float64()), field, at)
        elif pt.is_integer(array.type):
            numbers = array.cast(pa.float64(), safe=False)  # to the nearest, as of a number's text
        elif pt.is_decimal(array.type):
            numbers = array.cast(pa.string()).cast(pa.float64())  # Arrow's own way is not exact
        else:
            return None
        return self._converted(numbers, field, at)

    def _decimal(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        if pt.is_floating(array.type):
            array = self._finite(array.cast(pa.float64()), field, at)
            return self._converted(float_texts(array), field, at)
        if not (pt.is_decimal(array.type) or pt.is_integer(array.type)):
            return None
        try:
            whole = pt.is_integer(array.type)
            return (array.cast(pa.decimal128(38, 0)) if whole else array).cast(arrow_type(field))
        except pa.ArrowInvalid:
            return self._converted(_shortest(array.cast(pa.string())), field, at)

    def _boolean(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        return array if pt.is_boolean(array.type) else None

    def _date(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        if is_text(array.type):
            return self._converted(self._utf8(array, at), field, at)
        if not pt.is_date(array.type):
            return None
        dates = array.cast(pa.date32(), safe=False)
        days = dates.view(pa.int32())
        within = (_FIRST // _DAY, _LAST // _DAY)
        return self._within(days, within, dates, field, at).view(pa.date32())

    def _time(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        if is_text(array.type):
            return self._converted(self._utf8(array, at), field, at)
        if not pt.is_time(array.type):
            return None
        unit = _UNITS[array.type.unit]
        since = array.view(pa.int32() if pt.is_time32(array.type) else pa.int64()).cast(pa.int64())
        since = self._within(since, (0, _DAY * unit - 1), array, field, at)
        return _microseconds(since, unit).view(pa.time64("us"))

    def _timestamp(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        if is_text(array.type):
            return self._converted(self._utf8(array, at), field, at)
        if not pt.is_timestamp(array.type):
            return None
        zone = "UTC" if array.type.tz else _zone_of_local(field)
        if zone is None:
            return None
        unit = _UNITS[array.type.unit]
        within = (_FIRST * unit, (_LAST + 1) * unit - 1)
        since = self._within(array.view(pa.int64()), within, array, field, at)
        local = _microseconds(since, unit).view(pa.timestamp("us"))
        if zone == "UTC":
            return local.cast(pa.timestamp("us", "UTC"))
        instants = localise(local, zone)
        within = (FIRST_INSTANT, LAST_INSTANT)
        return self._within(instants.view(pa.int64()), within, array, field, at).view(instants.type)

    def _object(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        if not pt.is_struct(array.type):
            return None
        names = [child.name for child in array.type]
        columns = self.fields(names, struct_columns(array), field.fields, len(array), at)
        nulls = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(columns, fields=list(arrow_type(field)), mask=nulls)

    def _array(self, array: pa.Array, field: Field, at: Paths) -> pa.Array | None:
        if not is_list(array.type):
            return None
        assert field.items is not None
        lengths, items = list_parts(array)
        fitted = self.fit(items, field.items, at.items(lengths))
        return lists_from(array, lengths, fitted, arrow_type(field))

    def _json(self, array: pa.Array, field: Field, at: Paths) -> pa.Array:
        bare = array.storage if holds_json(array.type) else plain(array)
        if isinstance(array.type, pa.UuidType) or not is_text(bare.type):
            return self._utf8(json_texts(array), at)
        texts: list[str | None] = []
        for i, text in enumerate(self._utf8(bare, at).to_pylist()):
            try:
                raw = None if text is None else _json_of(text)
            except ValueError as error:
                message = f"expected JSON{error}, got {shown(text, field)}"
                self.violations.append(Violation(at.row(i), at.path(i), Code.FORMAT, message))
                raw = None
            texts.append(raw)
        return pa.array(texts, pa.string())

    def _utf8(self, array: pa.Array, at: Paths) -> pa.Array:
        """Strings or binary as strings that are UTF-8; null where they are not, which is noted.

        A file may call strings what is not UTF-8: readers do not look.
        """
        binary = utf8_unchecked(array).cast(pa.binary())
        try:
            return binary.cast(pa.string())
        except pa.ArrowInvalid:
            texts = binary.to_pylist()
        for i, text in enumerate(texts):
            try:
                _ = text is not None and text.decode()
            except UnicodeDecodeError as error:
                message = f"is not UTF-8: {error.reason} at byte {error.start}"
                self.violations.append(Violation(at.row(i), at.path(i), Code.ENCODING, message))
                texts[i] = None
        return pa.array(texts, pa.binary()).cast(pa.string())

    def _finite(self, doubles: pa.Array, field: Field, at: Paths) -> pa.Array:
        if pc.all(pc.is_finite(doubles)).as_py():
            return doubles
        wrong = pc.is_nan(doubles)
        doubles = self._without(wrong, doubles, field, at, Code.TYPE, "a number")
        what = "a number that a double can hold"
        return self._without(pc.is_inf(doubles), doubles, field, at, Code.RANGE, what)

    def _within(
        self, counts: pa.Array, bounds: tuple[int, int], array: pa.Array, field: Field, at: Paths
    ) -> pa.Array:
        """Counts of a unit, null where they are outside of bounds, which is noted of ``array``."""
        low, high = pc.min_max(counts).as_py().values()
        if low is None or (bounds[0] <= low and high <= bounds[1]):
            return counts
        wrong = pc.or_(pc.less(counts, bounds[0]), pc.greater(counts, bounds[1]))
        self._without(wrong, array, field, at, Code.FORMAT, expected(field))
        return pc.if_else(wrong, None, counts)

    def _without(
        self,
        wrong: pa.Array,
        array: pa.Array,
        field: Field,
        at: Paths,
        code: Code,
        expected: str,
    ) -> pa.Array:
        """The values without those that are wrong, which is noted."""
        if not pc.any(wrong).as_py():
            return array
        bad = np.flatnonzero(wrong.fill_null(False).to_numpy(zero_copy_only=False))
        texts = json_texts(array.take(pa.array(bad))).to_pylist()
        for i, text in zip(bad.tolist(), texts, strict=True):
            is_string = text[0] == '"'
            value = text[1:-1] if is_string else Number(text)
            message = f"expected {expected}, got {shown(value, field)}"
            # a date so far off that its JSON is a number
            said = Code.TYPE if code is Code.FORMAT and not is_string else code
            self.violations.append(Violation(at.row(i), at.path(i), said, message))
        return pc.if_else(wrong, pa.scalar(None, array.type), array)

    def _converted(self, column: pa.Array, field: Field, at: Paths) -> pa.Array:
        """A column such as JSON gives as the field's type."""
        values, misfits = convert(column, field, at)
        for m in misfits:
            message = f"expected {m.expected}, got {shown(m.value, m.of)}"
            self.violations.append(Violation(m.row, m.field, m.code, message))
        return values

    def _by_json(self, array: pa.Array, field: Field, at: Paths) -> pa.Array:
        """Values as what their JSON is by the rules of JSON."""
        texts = json_texts(array)
        elements = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        values = texts.take(pa.array(elements)) if texts.null_count else texts
        key = _key(field.name).decode()
        records = pc.binary_join_element_wise(f"{{{key}:", values, "}", "").cast(pa.binary())
        decoded = _json_decoder(field, self._mode).decode(records)
        kept = elements if decoded.kept is None else elements[decoded.kept]
        parts = [(kept, decoded.records.column(0))]
        if decoded.refused:
            refused = elements[decoded.refused]
            parts.append((refused, _well_typed_parts(values, decoded.refused, field)))
        for v in decoded.violations:
            element = int(elements[v.row])
            path = at.path(element) + v.field[len(field.name) :]
            self.violations.append(Violation(at.row(element), path, v.code, v.message))
        if self._mode == "keep":
            self._note_unknown_texts(decoded.records.column(1), kept, field, at)
        for (_, path), seen in (decoded.noticed or {}).items():
            for row, value in (pair for pairs in seen.values() for pair in pairs):
                element = int(elements[row])
                self._notice(at.path(element) + path[len(field.name) :], at.row(element), value)
        return scatter(parts, len(array))

    def _note_unknown(self, array: pa.Array, at: Paths) -> None:
        elements = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
        if not len(elements):
            return
        there = at.take(elements)
        if self._mode == "reject":
            for i in range(len(elements)):
                message = "is not in the contract"
                violation = Violation(there.row(i), there.path(i), Code.UNKNOWN_FIELD, message)
                self.violations.append(violation)
            return
        texts = self._utf8(json_texts(array).take(pa.array(elements)), there)
        if self._mode == "notice":
            for i, text in enumerate(texts.to_pylist()):
                self._notice(there.path(i), there.row(i), (text or "null").encode())
            return
        if at.rows is None:  # not in a list: the path is the same for all
            keys = pa.repeat(pa.scalar(_key(there.path(0)).decode()), len(elements))
        else:
            paths = [_key(there.path(i)).decode() for i in range(len(elements))]
            keys = pa.array(paths, pa.string())
        rows = elements if at.rows is None else at.rows[elements]
        self._unknown.append(_Unknown(rows, keys, texts))

    def _notice(self, path: str, row: int, value: bytes) -> None:
        note_unknown(self.noticed, _INDEX.sub("[]", path), row, value, self._masking)

    def _note_unknown_texts(
        self, objects: pa.Array, elements: np.ndarray, field: Field, at: Paths
    ) -> None:
        """What the JSON decoder kept: objects from path, which begins with the field's name."""
        for i, text in enumerate(objects.to_pylist()):
            if text is None:
                continue
            element = int(elements[i])
            found = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
            paths = [at.path(element) + path[len(field.name) :] for path in found]
            keys = pa.array([_key(path).decode() for path in paths], pa.string())
            texts = pa.array([bytes(raw).decode() for raw in found.values()], pa.string())
            self._unknown.append(_Unknown(np.full(len(found), at.row(element)), keys, texts))

    def unknown_column(self, size: int) -> pa.Array:
        """What is unknown of each row: a JSON object from path to value, or null."""
        if not self._unknown:
            return pa.nulls(size, pa.string())
        rows = np.concatenate([u.rows for u in self._unknown])
        order = np.argsort(rows, kind="stable")
        pairs = pc.binary_join_element_wise(
            pa.concat_arrays([u.keys for u in self._unknown]),
            pc.fill_null(pa.concat_arrays([u.texts for u in self._unknown]), "null"),
            ":",
        ).take(pa.array(order))
        offsets = np.searchsorted(rows[order], np.arange(size + 1)).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pairs)
        objects = pc.binary_join_element_wise("{", pc.binary_join(lists, ","), "}", "")
        return pc.if_else(pa.array(np.diff(offsets) > 0), objects, None)


_Fit = Callable[[_Fitting, pa.Array, Field, Paths], pa.Array | None]
_FITS: dict[str, _Fit] = {
    "string": _Fitting._string,
    "integer": _Fitting._integer,
    "number": _Fitting._number,
    "decimal": _Fitting._decimal,
    "boolean": _Fitting._boolean,
    "date": _Fitting._date,
    "time": _Fitting._time,
    "timestamp": _Fitting._timestamp,
    "object": _Fitting._object,
    "array": _Fitting._array,
}


def _microseconds(counts: pa.Array, unit: int) -> pa.Array:
    """Counts of the ``unit``-th part of a second as microseconds, cut as the digits of text are."""
    if unit <= 10**6:
        return pc.multiply(counts, 10**6 // unit)
    per = unit // 10**6
    toward_zero = pc.divide(counts, per)
    cut_up = pc.less(counts, pc.multiply(toward_zero, per))
    return pc.subtract(toward_zero, pc.cast(cut_up, pa.int64()))


def _shortest(texts: pa.Array) -> pa.Array:
    """Decimal texts without the zeros that only fill up the scale of their column."""
    fraction = pc.match_substring_regex(texts, "^-?[0-9]+[.][0-9]+$")
    return pc.if_else(fraction, pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), "."), texts)


def _zone_of_local(field: Field) -> str | None:
    """The zone of time stamps without an offset, if the contract says so."""
    if field.zone is None and field.format:
        rewrite = rewrite_for(field.type, field.format)
        return "UTC" if rewrite is not None and not rewrite[2] else None
    return field.zone


def _json_of(text: str) -> str | None:
    """JSON text without space around it; ``None`` for ``null``.

    Raises:
        ValueError: it is none. The message goes on after "expected JSON".
    """
    if is_too_deep(text.encode()):
        raise ValueError(f" of at most {MAX_NESTING} levels")
    try:
        raw = bytes(_raw(text)).decode()
    except Exception:
        raise ValueError from None
    return None if raw == "null" else raw


@functools.lru_cache(maxsize=1024)
def _json_decoder(field: Field, unknown: UnknownFields) -> JsonDecoder:
    return JsonDecoder(Contract("", "", "", (_without_rules(field),)), unknown)


def _without_rules(field: Field) -> Field:
    return replace(
        field,
        required=False,
        rules=(),
        fields=tuple(map(_without_rules, field.fields)),
        items=field.items and _without_rules(field.items),
    )


def _well_typed_parts(texts: pa.Array, rows: list[int], field: Field) -> pa.Array:
    """Of values that are wrong somewhere what is not, so that the rest can be judged."""
    if field.type not in ("object", "array"):
        return pa.nulls(len(rows), arrow_type(field))
    cleaned: list[Any] = []
    for text in texts.cast(pa.binary()).take(pa.array(rows)).to_pylist():
        try:
            value = None if is_too_deep(text) else _decode(text)
        except Exception:
            value = None
        known = None if value is None else walk(value, field, "", False, lambda *_: None)
        cleaned.append(known)
    return convert(column_builder(field, attributes=False)(cleaned), field)[0]
