"""The canonical JSON of Arrow columns: what a row of a columnar file is when it is taken alone.

A Parquet row has no bytes of its own. This form stands for them in dead letters, and says what a
value of a type that JSON does not have is read as:

- booleans and integers as JSON has them; a decimal as a number with all its digits;
- a float as the shortest number that gives the same double again, always with a fraction or an
  exponent (``3.0``): it is no integer. A 32-bit or 16-bit float is widened first. ``"NaN"``,
  ``"Infinity"`` and ``"-Infinity"`` are strings;
- strings as they are; binary as a string of the same bytes, so that what is not UTF-8 makes JSON
  that is not UTF-8; a UUID in its usual form;
- a date, a time and a time stamp in ISO 8601, with ``Z`` if the time stamp has a zone; a duration
  as the number of its units, and so what is no time of day or too far off to be written;
- lists as arrays; structs, and maps by the text of their keys, as objects;
- columns that hold JSON word for word;
- a union as the value that it holds; any other type as the text that Python gives it.

Keys stand in the order of the schema and none is left out: what is null is ``null``. There are no
spaces.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_key = msgspec.json.Encoder().encode
_is_json = msgspec.json.Decoder(msgspec.Raw).decode

_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x20)}
_CONTROLS |= {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
_NOT_NUMBERS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


def json_rows(batch: pa.RecordBatch) -> pa.Array:
    """Each row as a JSON object (binary)."""
    texts = _objects(batch.schema.names, list(map(json_texts, batch.columns)), batch.num_rows)
    return texts.cast(pa.binary())


def json_texts(array: pa.Array) -> pa.Array:
    """The JSON of each value (string); null where the value is null.

    The strings are not UTF-8 where binary, or strings that say to be, are not.
    """
    for matches, write in _KINDS:
        if matches(array.type):
            return write(array)
    return _others(array)


def utf8_unchecked(array: pa.Array) -> pa.Array:
    """Strings or binary of any kind as strings, with no look at what they hold."""
    if pt.is_string(array.type):
        return array
    binary = array.cast(pa.binary())
    return pa.Array.from_buffers(
        pa.string(), len(binary), binary.buffers(), binary.null_count, binary.offset
    )


def is_text(type: pa.DataType) -> bool:
    """Whether an Arrow type holds strings or binary."""
    return is_string(type) or (
        pt.is_binary(type)
        or pt.is_large_binary(type)
        or pt.is_binary_view(type)
        or pt.is_fixed_size_binary(type)
    )


def is_string(type: pa.DataType) -> bool:
    """Whether an Arrow type holds strings."""
    return pt.is_string(type) or pt.is_large_string(type) or pt.is_string_view(type)


def is_list(type: pa.DataType) -> bool:
    """Whether an Arrow type holds lists of any kind."""
    return (
        pt.is_list(type)
        or pt.is_large_list(type)
        or pt.is_fixed_size_list(type)
        or pt.is_list_view(type)
        or pt.is_large_list_view(type)
    )


def holds_json(type: pa.DataType) -> bool:
    """Whether a column holds JSON (the extension type ``arrow.json``)."""
    return isinstance(type, pa.JsonType)


def plain(array: pa.Array) -> pa.Array:
    """The array without dictionary, run-end, view or extension encoding; UUIDs as text."""
    type = array.type
    if pt.is_string_view(type):
        return array.cast(pa.string())  # of views nothing can be taken (pyarrow 25)
    if pt.is_binary_view(type):
        return array.cast(pa.binary())
    if pt.is_dictionary(type):
        return plain(array.dictionary).take(array.indices)
    if pt.is_run_end_encoded(type):
        return plain(pc.run_end_decode(array))
    if isinstance(type, pa.UuidType):
        return _uuids(array.storage)
    if isinstance(type, pa.Bool8Type):
        return array.storage.cast(pa.bool_())
    if isinstance(type, pa.BaseExtensionType) and not holds_json(type):
        return plain(array.storage)
    return array


def struct_columns(array: pa.Array) -> list[pa.Array]:
    """The fields of structs, null where a struct is.

    Arrow's own ``flatten`` ends the process where one is a union (pyarrow 25).
    """
    columns = [array.field(i) for i in range(array.type.num_fields)]
    return [_under(array, column) for column in columns] if array.null_count else columns


def _under(structs: pa.Array, column: pa.Array) -> pa.Array:
    if pt.is_union(column.type):
        return _union_under(structs, column)
    column = plain(column) if pt.is_run_end_encoded(column.type) else column
    mask = structs.is_null()
    return pa.StructArray.from_arrays([column], names=["field"], mask=mask).flatten()[0]


def _union_under(structs: pa.Array, column: pa.Array) -> pa.Array:
    """A union has no nulls of its own: here they are one more branch."""
    branches, places = _union_layout(column)
    null = structs.is_null().to_numpy(zero_copy_only=False)
    branches[null], places[null] = column.type.num_fields, 0
    parts = [column.field(i) for i in range(column.type.num_fields)]
    return pa.UnionArray.from_dense(
        pa.array(branches), pa.array(places, pa.int32()), [*parts, pa.nulls(1)]
    )


def list_parts(array: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The length of each list, 0 of a null, and all their items; of lists of any kind, and of maps.

    Arrow's own kernels for this know neither maps nor items of all types (pyarrow 25).
    """
    type = array.type
    values = array.values if is_list(type) else _entries(array)
    if pt.is_fixed_size_list(type):
        starts = (np.arange(len(array)) + array.offset) * type.list_size
        lengths = np.full(len(array), type.list_size)
    elif pt.is_list_view(type) or pt.is_large_list_view(type):
        starts, lengths = array.offsets.to_numpy(), array.sizes.to_numpy()
    else:
        offsets = array.offsets.to_numpy()
        starts, lengths = offsets[:-1], np.diff(offsets)
    if array.null_count:
        lengths = lengths * array.is_valid().to_numpy(zero_copy_only=False)
    before = np.cumsum(lengths) - lengths
    return lengths, _taken(values, np.repeat(starts - before, lengths) + np.arange(lengths.sum()))


def _entries(array: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([array.keys, array.items], names=["key", "value"])


def lists_from(array: pa.Array, lengths: np.ndarray, items: pa.Array, to: pa.DataType) -> pa.Array:
    """Lists of the type ``to``, null where ``array`` is, of what :func:`list_parts` gives."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    nulls = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=to, mask=nulls)


def union_parts(array: pa.Array) -> list[tuple[np.ndarray, pa.Array]]:
    """The branches of a union: which elements are of each, and their values."""
    branches, places = _union_layout(array)
    parts = []
    for branch in range(array.type.num_fields):
        elements = np.flatnonzero(branches == branch)
        parts.append((elements, _taken(array.field(branch), places[elements])))
    return parts


def _union_layout(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The branch of each element, and the place of its value in that.

    Not by ``type_codes`` and ``offsets``: those of a slice are of what it is cut from (pyarrow 25).
    """
    start, end = array.offset, array.offset + len(array)
    _, codes, offsets, *_ = [*array.buffers(), None]
    names = np.array(array.type.type_codes, np.int8)
    order = np.argsort(names)
    found = np.frombuffer(codes, np.int8)[start:end]
    branches = order[np.searchsorted(names, found, sorter=order)].astype(np.int8)
    if array.type.mode == "sparse":
        return branches, np.arange(len(array))
    return branches, np.frombuffer(offsets, np.int32)[start:end].copy()


def _taken(array: pa.Array, elements: np.ndarray) -> pa.Array:
    first = int(elements[0]) if len(elements) else 0
    if np.array_equal(elements, np.arange(first, first + len(elements))):
        return array.slice(first, len(elements))
    try:
        return array.take(pa.array(elements))
    except pa.ArrowNotImplementedError:  # of views, wherever they are
        return pa.concat_arrays([array.slice(i, 1) for i in elements.tolist()])


def scatter(parts: list[tuple[np.ndarray, pa.Array]], size: int) -> pa.Array:
    """An array of ``size`` elements put together from some of them each; null where none is."""
    places = np.full(size, -1, np.int64)
    start = 0
    for elements, values in parts:
        places[elements] = np.arange(start, start + len(values))
        start += len(values)
    indices = pa.array(places, mask=places < 0)
    return pa.concat_arrays([values for _, values in parts]).take(indices)


def _objects(names: list[str], columns: list[pa.Array], rows: int) -> pa.Array:
    parts: list[pa.Array | str] = []
    literal = "{"
    for i, (name, column) in enumerate(zip(names, columns, strict=True)):
        parts += [literal + ("," if i else "") + _key(name).decode() + ":", column]
        literal = ""
    if not parts:
        return pa.repeat(pa.scalar("{}"), rows)
    return pc.binary_join_element_wise(
        *parts, "}", "", null_handling="replace", null_replacement="null"
    )


def _structs(array: pa.Array) -> pa.Array:
    columns = list(map(json_texts, struct_columns(array)))
    names = [field.name for field in array.type]
    return _with_nulls_of(array, _objects(names, columns, len(array)))


def _lists(array: pa.Array) -> pa.Array:
    lengths, items = list_parts(array)
    return _joined("[", array, lengths, json_texts(items), "]")


def _maps(array: pa.Array) -> pa.Array:
    lengths, entries = list_parts(array)
    keys, items = struct_columns(entries)
    names = json_texts(keys)
    if not is_text(keys.type):
        names = quoted(pc.replace_substring(names, '"', ""))
    pairs = pc.binary_join_element_wise(names, pc.fill_null(json_texts(items), "null"), ":")
    return _joined("{", array, lengths, pairs, "}")


def _joined(
    begin: str, array: pa.Array, lengths: np.ndarray, items: pa.Array, end: str
) -> pa.Array:
    items = pc.fill_null(items, "null")
    joined = pc.binary_join(lists_from(array, lengths, items, pa.list_(pa.string())), ",")
    return pc.binary_join_element_wise(begin, joined, end, "")


def _with_nulls_of(array: pa.Array, texts: pa.Array) -> pa.Array:
    return pc.if_else(array.is_valid(), texts, None) if array.null_count else texts


def _unions(array: pa.Array) -> pa.Array:
    return scatter([(at, json_texts(values)) for at, values in union_parts(array)], len(array))


def _bare(array: pa.Array) -> pa.Array:
    return array.cast(pa.string())


def quoted(texts: pa.Array) -> pa.Array:
    """Strings in quotes."""
    return pc.binary_join_element_wise('"', texts, '"', "")


def float_texts(array: pa.Array) -> pa.Array:
    """The shortest decimal text of each float, widened to a double; ``nan``, ``inf``, ``-inf``."""
    return array.cast(pa.float64()).cast(pa.string())


def _floats(array: pa.Array) -> pa.Array:
    texts = float_texts(array)
    whole = pc.match_substring_regex(texts, "^-?[0-9]+$")
    if pc.any(whole).as_py():
        texts = pc.if_else(whole, pc.binary_join_element_wise(texts, ".0", ""), texts)
    for word, name in _NOT_NUMBERS.items():
        texts = pc.if_else(pc.equal(texts, word), name, texts)
    return texts


def _strings(array: pa.Array) -> pa.Array:
    texts = utf8_unchecked(array)
    present = _bytes_present(texts)
    if present[ord("\\")]:
        texts = pc.replace_substring(texts, "\\", "\\\\")
    if present[ord('"')]:
        texts = pc.replace_substring(texts, '"', '\\"')
    for code in np.flatnonzero(present[:0x20]).tolist():
        texts = pc.replace_substring(texts, chr(code), _CONTROLS[code])
    return quoted(texts)


def _bytes_present(texts: pa.Array) -> np.ndarray:
    """Which bytes occur in strings; perhaps more, that lie under nulls."""
    _, offsets, data = texts.buffers()
    if data is None:
        return np.zeros(256, bool)
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    counts = np.bincount(np.frombuffer(data, np.uint8)[ends[0] : ends[-1]], minlength=256)
    return counts > 0


def _timestamps(array: pa.Array) -> pa.Array:
    # Arrow counts from the epoch in UTC whatever the zone: without it, the cast needs no zone data.
    texts = array.cast(pa.timestamp(array.type.unit)).cast(pa.string())
    zoned = pc.replace_substring(texts, " ", "T", max_replacements=1)
    if array.type.tz:
        zoned = pc.binary_join_element_wise(zoned, "Z", "")
    return _quoted_times(zoned, texts)


def _quoted_times(texts: pa.Array, written: pa.Array) -> pa.Array:
    """Texts in quotes, but as numbers what Arrow could not write."""
    beyond = pc.starts_with(written, "<value out of range: ")
    if not pc.any(beyond).as_py():
        return quoted(texts)
    counts = pc.replace_substring_regex(written, "[^-0-9]", "")
    return pc.if_else(beyond, counts, quoted(texts))


def _dates(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.date32(), safe=False).cast(pa.string())
    return _quoted_times(texts, texts)


def _times(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    return _quoted_times(texts, texts)


def _uuids(storage: pa.Array) -> pa.Array:
    texts = [None if v is None else str(uuid.UUID(bytes=v)) for v in storage.to_pylist()]
    return pa.array(texts, pa.string())


def _json(array: pa.Array) -> pa.Array:
    texts = utf8_unchecked(array.storage)
    bad = np.array([v is not None and not _holds(v) for v in texts.cast(pa.binary()).to_pylist()])
    if bad.any():
        texts = pc.if_else(pa.array(bad, pa.bool_()), _strings(texts), texts)
    return pc.if_else(pc.equal(texts, "null"), None, texts)


def _holds(text: bytes) -> bool:
    try:
        _is_json(text)
    except Exception:
        return False
    return True


def _others(array: pa.Array) -> pa.Array:
    texts = [None if v is None else str(v) for v in array.to_pylist()]
    return _strings(pa.array(texts, pa.string()))


_KINDS: list[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]]] = [
    (holds_json, _json),
    (
        lambda t: (
            pt.is_dictionary(t) or pt.is_run_end_encoded(t) or isinstance(t, pa.BaseExtensionType)
        ),
        lambda array: json_texts(plain(array)),
    ),
    (pt.is_struct, _structs),
    (is_list, _lists),
    (pt.is_map, _maps),
    (pt.is_union, _unions),
    (lambda t: pt.is_null(t) or pt.is_boolean(t) or pt.is_integer(t) or pt.is_decimal(t), _bare),
    (pt.is_floating, _floats),
    (is_text, _strings),
    (pt.is_timestamp, _timestamps),
    (pt.is_date, _dates),
    (pt.is_time, _times),
    (pt.is_duration, lambda array: array.cast(pa.int64()).cast(pa.string())),
]
