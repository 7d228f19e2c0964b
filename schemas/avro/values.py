"""Avro data to Python values, strictly: the careful way, for what no fast reader takes.

Source: the Avro specification 1.12, "Data Serialization and Deserialization". Everything that the
specification does not allow is corrupt: a boolean that is neither 0 nor 1, a branch or symbol that
there is not, an integer that its type cannot hold, a negative length, an array that says to hold
more items than there are bytes. Lenient readers make other records of such bytes.

Values are what Arrow columns are built of: a record is a tuple, a map a list of pairs, a value of a
union a pair of its branch and itself, an enum its index.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .types import MAX_DEPTH, AvroSchema, AvroType

MAX_EMPTY_ITEMS = 1 << 16
"""How many items an array may hold that take no bytes: nothing else bounds them."""

Read = Callable[[bytes, int], tuple[Any, int]]
"""Reads a value from an offset; gives it and where it ends. ``IndexError``: the bytes end first."""


class CorruptDatum(ValueError):
    """Bytes that are no datum of the schema. The message goes on after "record 17"."""


def read_datums(read: Read, data: bytes, count: int) -> tuple[list[Any], list[int]]:
    """All data of a block: their values, and where each ends.

    Raises:
        CorruptDatum: the block is not just so many data.
    """
    values, ends = [], []
    at = 0
    for number in range(count):
        try:
            value, at = read(data, at)
        except (IndexError, struct.error):
            raise CorruptDatum(f"record {number} ends too early") from None
        except RecursionError:
            raise CorruptDatum(f"record {number} {_TOO_DEEP}") from None
        except CorruptDatum as error:
            raise CorruptDatum(f"record {number} {error}") from None
        values.append(value)
        ends.append(at)
    if at != len(data):
        raise CorruptDatum(f"{len(data) - at} bytes are left over after {count} records")
    return values, ends


_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"


def reader_of(schema: AvroSchema, finish: Callable[[AvroType, Any], Any]) -> Read:
    """The reader of a schema's records.

    Args:
        finish: makes of each value of a record that holds itself what is to stand in its place.
    """
    readers = _Readers(schema, finish)
    return _record([readers.of(field) for _, field in schema.record.fields])


class _Readers:
    def __init__(self, schema: AvroSchema, finish: Callable[[AvroType, Any], Any]) -> None:
        self._named = schema.named
        self._finish = finish
        self._inner: dict[str, Read] = {}  # of records that hold themselves, unfinished
        self._depth = 0

    def of(self, type: AvroType, inside: bool = False) -> Read:
        """The reader of a type; ``inside``: within a record that holds itself."""
        read = self._of(type, inside)
        return read if type.null_branch is None else _nullable(read, type.null_branch)

    def _of(self, type: AvroType, inside: bool) -> Read:
        match type.kind:
            case "record" if type.recursive:
                return self._finished(type, self._named_reader(type.name), inside)
            case "record":
                return _record([self.of(field, inside) for _, field in type.fields])
            case "named":
                named = self._named_reader(type.name)
                return named if inside else self._finished(self._named[type.name], named, inside)
            case "array" | "map":
                assert type.items is not None
                items = self.of(type.items, inside)
                if type.kind == "map":
                    return _items(_record([_bytes, items]), 1)
                return _items(items, type.items.least_bytes)
            case "union":
                return _union([self.of(branch, inside) for branch in type.branches])
            case "fixed":
                return _fixed(type.size)
            case "enum":
                return _enum(len(type.symbols))
            case scalar:
                return _SCALARS[scalar]

    def _finished(self, type: AvroType, read: Read, inside: bool) -> Read:
        if inside:
            return read

        def finished(data: bytes, at: int) -> tuple[Any, int]:
            self._depth = 0
            value, at = read(data, at)
            return self._finish(type, value), at

        return finished

    def _named_reader(self, name: str) -> Read:
        def named(data: bytes, at: int) -> tuple[Any, int]:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise CorruptDatum(_TOO_DEEP)
            found = self._inner[name](data, at)
            self._depth -= 1
            return found

        if name not in self._inner and name in self._named:
            self._inner[name] = named  # until the record's fields are known
            fields = self._named[name].fields
            self._inner[name] = _record([self.of(field, inside=True) for _, field in fields])
        return named


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag integer of variable length, of 64 bits."""
    byte = data[at]
    if byte < 128:  # most are so short
        return (byte >> 1) ^ -(byte & 1), at + 1
    value, shift = byte & 127, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise CorruptDatum("has an integer of more than 10 bytes")
    if value >> 64:
        raise CorruptDatum("has an integer of more than 64 bits")
    return (value >> 1) ^ -(value & 1), at + 1


def _int(data: bytes, at: int) -> tuple[int, int]:
    value, at = read_long(data, at)
    if not -(1 << 31) <= value < 1 << 31:
        raise CorruptDatum("has an int of more than 32 bits")
    return value, at


def _null(data: bytes, at: int) -> tuple[None, int]:
    return None, at


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise CorruptDatum(f"has the boolean {data[at]}")
    return data[at] == 1, at + 1


_read_float = struct.Struct("<f").unpack_from
_read_double = struct.Struct("<d").unpack_from


def _float(data: bytes, at: int) -> tuple[float, int]:
    return _read_float(data, at)[0], at + 4


def _double(data: bytes, at: int) -> tuple[float, int]:
    return _read_double(data, at)[0], at + 8


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_long(data, at)
    if size < 0:
        raise CorruptDatum(f"has a string of {size} bytes")
    end = at + size
    if end > len(data):
        raise IndexError
    return data[at:end], end


_SCALARS: dict[str, Read] = {
    "null": _null,
    "boolean": _boolean,
    "int": _int,
    "long": read_long,
    "float": _float,
    "double": _double,
    "bytes": _bytes,
}


def _fixed(size: int) -> Read:
    def read(data: bytes, at: int) -> tuple[bytes, int]:
        end = at + size
        if end > len(data):
            raise IndexError
        return data[at:end], end

    return read


def _index(data: bytes, at: int, size: int, what: str) -> tuple[int, int]:
    index, at = read_long(data, at)
    if not 0 <= index < size:
        raise CorruptDatum(f"has {what} {index} of {size}")
    return index, at


def _enum(size: int) -> Read:
    return lambda data, at: _index(data, at, size, "the symbol")


def _nullable(read: Read, null: int) -> Read:
    def nullable(data: bytes, at: int) -> tuple[Any, int]:
        branch, at = _index(data, at, 2, "the branch")
        return (None, at) if branch == null else read(data, at)

    return nullable


def _union(branches: list[Read]) -> Read:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        branch, at = _index(data, at, len(branches), "the branch")
        value, at = branches[branch](data, at)
        return (branch, value), at

    return read


def _record(fields: list[Read]) -> Read:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        values = []
        for field in fields:
            value, at = field(data, at)
            values.append(value)
        return tuple(values), at

    return read


def _items(item: Read, least_bytes: int) -> Read:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        values: list[Any] = []
        while True:
            count, at = read_long(data, at)
            size = None
            if count < 0:
                count = -count
                size, at = read_long(data, at)
            if not count:
                return values, at
            most = (len(data) - at) // least_bytes if least_bytes else MAX_EMPTY_ITEMS - len(values)
            if count > most:
                raise CorruptDatum(f"has an array or map of {count} items")
            start = at
            for _ in range(count):
                value, at = item(data, at)
                values.append(value)
            if size is not None and at - start != size:
                raise CorruptDatum(f"has {count} items of {at - start} bytes, not of {size}")

    return read
