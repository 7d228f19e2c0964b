"""Avro container files (Avro 1.11), encoded column by column: no Python object is made for a value.

:mod:`...schemas.avro` says which Avro type an Arrow type becomes. Blocks are compressed by
``deflate``, the one codec besides none that every reader must have.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ...schemas.avro.schema import UINT64, avro_schema
from .gathering import GatheringEncoder
from .json_text import bytes_of, fields_of, with_nulls_of

RECORD = "row"
"""The name of the record in the schema of a file."""
LEVEL = 1
"""Of deflate: level 6 takes four times as long to save an eighth."""


class AvroEncoder(GatheringEncoder):
    """Writes rows to blocks of an object container file.

    Raises:
        TypeError: a column of a type that Avro has not; the message names it.
        ValueError: a column's name is no Avro name; or, on writing, a null lies where the schema
            allows none.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        super().__init__(file)
        self._schema = json.dumps(avro_schema(schema, RECORD), separators=(",", ":")).encode()
        self._kernels = [_field_kernel(field) for field in schema]
        self._names = schema.names
        self._marker = b""

    def encoded(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        parts: list[_Part] = []
        for name, kernel, column in zip(self._names, self._kernels, batch, strict=True):
            found = kernel(column)
            if any(not isinstance(part, bytes) and part.null_count for part in found):
                raise ValueError(f"column {name!r}: a null where the schema allows none")
            parts += found
        data = bytes_of(_joined(parts, batch.num_rows))
        if not self._marker:
            yield self._header(data)
        block = _deflated(data)
        yield b"".join([_varint(batch.num_rows), _varint(len(block)), block, self._marker])

    def close(self) -> None:
        self.flush()
        if not self._marker:
            self._file.write(self._header(b""))

    def _header(self, data: Any) -> bytes:
        # The marker must be bytes that no data holds by chance or intent. A hash of the first block
        # is as good as random ones, and the same rows give the same file.
        digest = hashlib.sha256(self._schema)
        digest.update(data)
        self._marker = digest.digest()[:16]
        meta = {b"avro.schema": self._schema, b"avro.codec": b"deflate"}
        entries = [b"".join(_with_length(part) for part in entry) for entry in meta.items()]
        return b"".join([b"Obj\x01", _varint(len(meta)), *entries, b"\0", self._marker])


def _deflated(data: Any) -> bytes:
    compress = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    return compress.compress(data) + compress.flush()


def _varint(number: int) -> bytes:
    return bytes(bytes_of(_varints(np.array([number], np.int64))))


def _with_length(data: bytes) -> bytes:
    return _varint(len(data)) + data


_Part = pa.Array | bytes
"""What is written of each row: an array of binary, or the same bytes for all."""
_Kernel = Callable[[pa.Array], list[_Part]]
"""Takes an array of one type and gives its values' encoding, in parts; null where a value is."""


def _joined(parts: list[_Part], rows: int) -> pa.Array:
    if not any(isinstance(part, pa.Array) for part in parts):
        return pa.repeat(pa.scalar(b"".join(parts), pa.binary()), rows)  # pyright: ignore[reportArgumentType]
    return pc.binary_join_element_wise(*parts, b"")


def _field_kernel(field: pa.Field) -> _Kernel:
    """A field's values; of a nullable one, behind the number of the branch of its union."""
    kernel = _kernel(field.type)
    if not field.nullable or pt.is_null(_plain(field.type)):
        return kernel

    def write(array: pa.Array) -> list[_Part]:
        parts: list[_Part] = [b"\x02", *kernel(array)]
        if not array.null_count:
            return parts
        # Not fill_null: a null inside a value that is there must stay one, and be refused.
        return [pc.if_else(array.is_valid(), _joined(parts, len(array)), b"\0")]

    return write


def _plain(type: pa.DataType) -> pa.DataType:
    return type.value_type if pt.is_dictionary(type) else type


def _kernel(type: pa.DataType) -> _Kernel:
    if pt.is_dictionary(type):
        inner = _kernel(type.value_type)
        return lambda array: inner(array.dictionary_decode())
    if pt.is_struct(type):
        return _struct_kernel(type)
    if pt.is_list(type) or pt.is_large_list(type) or pt.is_fixed_size_list(type):
        return _list_kernel(type)
    return next(kernel for matches, kernel in _KERNELS if matches(type))


def _struct_kernel(type: pa.DataType) -> _Kernel:
    kernels = [_field_kernel(field) for field in type]

    def write(array: Any) -> list[_Part]:
        columns = zip(kernels, fields_of(array), strict=True)
        parts = [part for kernel, column in columns for part in kernel(column)]
        return [with_nulls_of(array, _joined(parts, len(array)))]

    return write


def _list_kernel(type: pa.DataType) -> _Kernel:
    kernel = _field_kernel(type.value_field)

    def write(array: pa.Array) -> list[_Part]:
        values = array.flatten()
        items = _joined(kernel(values), len(values))
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = np.zeros(len(array) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), items), b"")
        # One block of all items, then the end, a block of none: an empty list is that alone.
        end = pc.if_else(pa.array(lengths > 0), b"\0", b"")
        return [with_nulls_of(array, _varints(lengths.astype(np.int64))), joined, end]

    return write


def _nothing(array: pa.Array) -> list[_Part]:
    return []


def _booleans(array: pa.Array) -> list[_Part]:
    values = pc.fill_null(array.cast(pa.uint8()), 0).to_numpy()
    return [with_nulls_of(array, _fixed(values.reshape(-1, 1)))]


def _integers(array: pa.Array) -> list[_Part]:
    values = pc.fill_null(array.cast(pa.int64()), 0).to_numpy()
    return [with_nulls_of(array, _varints(values))]


def _floats(array: pa.Array) -> list[_Part]:
    array = array if pt.is_float64(array.type) else array.cast(pa.float32())
    values = pc.fill_null(array, 0).to_numpy()
    little_endian = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return [with_nulls_of(array, _fixed(little_endian.view(np.uint8).reshape(-1, values.itemsize)))]


def _decimals(array: pa.Array) -> list[_Part]:
    """Two's complement, big-endian, in as many bytes as the precision can need."""
    width = ((10**array.type.precision - 1).bit_length() + 8) // 8
    stored = array.type.byte_width
    size = len(array) * stored
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8, size, array.offset * stored)
    values = np.ascontiguousarray(data.reshape(-1, stored)[:, :width][:, ::-1])
    return [_varint(width), with_nulls_of(array, _fixed(values))]


def _binaries(array: pa.Array) -> list[_Part]:
    array = array.cast(pa.binary())
    lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy()
    return [_varints(lengths.astype(np.int64)), array]


def _timestamps(array: pa.Array) -> list[_Part]:
    unit = "ms" if array.type.unit == "s" else array.type.unit
    return _integers(array.cast(pa.timestamp(unit, array.type.tz)).view(pa.int64()))


def _times(array: pa.Array) -> list[_Part]:
    if pt.is_time32(array.type):
        return _integers(array.cast(pa.time32("ms")).view(pa.int32()))
    return _integers(array.view(pa.int64()))


def _fixed(values: np.ndarray) -> pa.Array:
    """Rows of a matrix of bytes as binary."""
    count, width = values.shape
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    return pa.Array.from_buffers(
        pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    )


def _varints(numbers: np.ndarray) -> pa.Array:
    """Each int64 in Avro's zigzag coding of variable length: 7 bits a byte, the low ones first."""
    zigzag = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    width = max(1, -(-int(zigzag.max(initial=0)).bit_length() // 7))
    shifted = zigzag[:, None] >> np.arange(0, 7 * width, 7, dtype=np.uint64)
    more = np.zeros(shifted.shape, bool)  # whether another byte follows
    more[:, :-1] = shifted[:, 1:] != 0
    data = (shifted & np.uint64(0x7F)).astype(np.uint8) | (more.view(np.uint8) << 7)
    if width == 1:
        return _fixed(data)
    used = np.ones(shifted.shape, bool)
    used[:, 1:] = more[:, :-1]
    offsets = np.zeros(len(numbers) + 1, np.int32)
    np.cumsum(used.sum(axis=1), out=offsets[1:])
    return pa.Array.from_buffers(
        pa.binary(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(data[used])]
    )


_KERNELS: list[tuple[Callable[[pa.DataType], bool], _Kernel]] = [
    (pt.is_null, _nothing),
    (pt.is_boolean, _booleans),
    (pt.is_uint64, lambda array: _decimals(array.cast(UINT64))),
    (pt.is_integer, _integers),
    (pt.is_floating, _floats),
    (pt.is_decimal, _decimals),
    (pt.is_timestamp, _timestamps),
    (pt.is_date, lambda array: _integers(array.cast(pa.date32()).view(pa.int32()))),
    (pt.is_time, _times),
    (lambda _: True, _binaries),  # text and binary of any kind
]
