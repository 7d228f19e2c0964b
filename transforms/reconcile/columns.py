"""Which columns of two places are compared, and as which types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from ...schemas.arrow import HIDDEN
from ...schemas.problems import did_you_mean
from ..stored.filter import ALL, Filter
from .hashes import can_hash
from .parts import By


@dataclass(frozen=True)
class Compared:
    """What of two places is compared.

    Attributes:
        schema: the columns, each of the one type that both sides are read in.
        key: those that tell rows apart; none if only a whole row does.
        by: what rows are divided by; none if they are not.
        where: which rows, by columns of ``schema``.
        null_is_empty: a null in the place of a list is like an empty one, where a side holds no
            such nulls.
        source_only, destination_only: columns that only one side has, and nobody compares.
    """

    schema: pa.Schema
    key: tuple[str, ...] = ()
    by: tuple[By, ...] = ()
    where: Filter = ALL
    null_is_empty: bool = False
    source_only: tuple[str, ...] = ()
    destination_only: tuple[str, ...] = ()

    def check(self) -> None:
        """See that rows can be compared so.

        Raises:
            ValueError: they cannot; the message says what of it is wrong.
        """
        if not self.schema.names:
            raise ValueError("the two sides have no column in common")
        for field in self.schema:
            if not can_hash(field.type):
                said = f"{field.name} is {field.type}, which is not compared"
                raise ValueError(f"{said}: name the columns to compare, with --columns")
        for name in (*self.key, *self.where.columns):
            if name not in self.schema.names:
                hint = did_you_mean(name, self.schema.names)
                raise ValueError(f"both sides have no column {name!r}{hint}")
        for each in self.by:
            each.check(self.schema)


def in_common(
    source: pa.Schema, destination: pa.Schema, columns: Sequence[str] | None = None
) -> Compared:
    """The columns that both sides have, or those that are asked for.

    Raises:
        ValueError: a column that is asked for is not on both sides.
    """
    ours = [name for name in source.names if name not in HIDDEN]
    theirs = [name for name in destination.names if name not in HIDDEN]
    wanted = list(columns) if columns else [name for name in ours if name in theirs]
    for name in wanted:
        if name not in ours or name not in theirs:
            side = "source" if name not in ours else "destination"
            raise ValueError(f"the {side} has no column {name!r}{did_you_mean(name, ours)}")
    fields = [
        pa.field(name, common_type(source.field(name).type, destination.field(name).type))
        for name in wanted
    ]
    return Compared(
        pa.schema(fields),
        source_only=tuple(name for name in ours if name not in theirs),
        destination_only=tuple(name for name in theirs if name not in ours),
    )


def common_type(source: pa.DataType, destination: pa.DataType) -> pa.DataType:
    """The type in which the values of both can be compared: of numbers one that holds them all, of
    floats, and of floats and decimals, the narrower, which a value that was stored in it has; of a
    day and a time that, so that no hour is lost; of a text and something else that something; where
    there is nothing in common, the source's."""
    a, b = _whole(source), _whole(destination)
    if a == b:
        return a
    if pt.is_string(a) or pt.is_string(b):
        return b if pt.is_string(a) else a
    if _is_exact(a) and _is_exact(b):
        return _exact(a, b)
    if pt.is_floating(a) and pt.is_floating(b):
        return a if a.bit_width < b.bit_width else b
    if pt.is_decimal(a) and pt.is_floating(b):
        return b
    if pt.is_date(a) and pt.is_timestamp(b):
        return b
    if pt.is_timestamp(a) and pt.is_timestamp(b):
        return pa.timestamp("ns" if "ns" in (a.unit, b.unit) else "us", "UTC")
    return a


def _whole(type: Any) -> Any:
    """The type without what says only how values are held in memory."""
    if pt.is_dictionary(type):
        return _whole(type.value_type)
    if pt.is_large_string(type) or pt.is_string_view(type):
        return pa.string()
    if pt.is_large_binary(type) or pt.is_binary_view(type) or pt.is_fixed_size_binary(type):
        return pa.binary()
    if pt.is_timestamp(type):
        return pa.timestamp("ns" if type.unit == "ns" else "us", "UTC")
    if pt.is_date(type):
        return pa.date32()
    if pt.is_time(type):
        return pa.time64("ns" if type.unit == "ns" else "us")
    if pt.is_float16(type):
        return pa.float32()
    if pt.is_decimal(type) and type.bit_width < 128:
        return pa.decimal128(type.precision, type.scale)
    if pt.is_list(type) or pt.is_large_list(type):
        return pa.list_(pa.field("item", _whole(type.value_type)))
    if pt.is_struct(type):
        return pa.struct([pa.field(field.name, _whole(field.type)) for field in type])
    return type


def _is_exact(type: pa.DataType) -> bool:
    return pt.is_integer(type) or pt.is_decimal(type)


def _exact(a: Any, b: Any) -> pa.DataType:
    if pt.is_integer(a) and pt.is_integer(b) and pt.is_signed_integer(a) == pt.is_signed_integer(b):
        return a if a.bit_width > b.bit_width else b
    sizes = [(t.precision - t.scale, t.scale) if pt.is_decimal(t) else (20, 0) for t in (a, b)]
    whole, scale = (max(part) for part in zip(*sizes, strict=True))
    make = pa.decimal128 if whole + scale <= 38 else pa.decimal256
    return make(min(whole + scale, 76), scale)
