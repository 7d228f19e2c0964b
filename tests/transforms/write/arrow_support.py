"""Arrow columns of many types, drawn; and when two values of them are the same."""

import datetime as dt
import math
from decimal import Decimal

import pyarrow as pa
from hypothesis import strategies as st


def same(left, right):
    """Equal, where NaN equals NaN and -0.0 does not equal 0.0."""
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or repr(left) == repr(right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right and type(left) is type(right)


def integers(kind):
    bits = kind.bit_width
    signed = pa.types.is_signed_integer(kind)
    low = -(2 ** (bits - 1)) if signed else 0
    return st.integers(low, low + 2**bits - 1)


def decimals(kind):
    limit = 10**kind.precision - 1
    return st.integers(-limit, limit).map(lambda n: Decimal(f"{n}E-{kind.scale}"))


SCALARS = {
    pa.string(): st.text(st.characters(exclude_categories=["Cs"])),
    pa.bool_(): st.booleans(),
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(dt.UTC)),
    pa.timestamp("us"): st.datetimes(),
    pa.time64("us"): st.times(),
    pa.binary(): st.binary(),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["a", 'q"', "b\n"]),
    **{
        kind: integers(kind)
        for kind in (
            pa.int8(), pa.int16(), pa.int32(), pa.int64(),
            pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
        )
    },
    **{
        kind: decimals(kind)
        for kind in (
            pa.decimal128(1, 0), pa.decimal128(9, 2), pa.decimal128(38, 38), pa.decimal256(76, 40),
        )
    },
}  # fmt: skip


def nested(children, names):
    def lists(child):
        kind, values = child
        return pa.list_(pa.field("item", kind)), st.lists(values, max_size=4)

    def structs(fields):
        kind = pa.struct([pa.field(name, kind) for name, (kind, _) in fields.items()])
        return kind, st.fixed_dictionaries({name: values for name, (_, values) in fields.items()})

    fields = st.dictionaries(st.sampled_from(names), children, min_size=1, max_size=3)
    return children.map(lists) | fields.map(structs)


def nullable(child):
    kind, values = child
    return kind, st.none() | values


@st.composite
def batches(draw, names=("a", "b", 'q"', "ü", "string")):
    """Slices of batches with columns of any types; ``names`` are those of nested fields too."""
    scalars = st.sampled_from(sorted(SCALARS.items(), key=str)).map(nullable)
    types = st.recursive(scalars, lambda children: nested(children, names))
    size = draw(st.integers(1, 12))
    columns = draw(
        st.dictionaries(st.sampled_from(names), types.map(nullable), min_size=1, max_size=4)
    )
    arrays = [
        pa.array(draw(st.lists(values, min_size=size, max_size=size)), kind)
        for kind, values in columns.values()
    ]
    batch = pa.RecordBatch.from_arrays(arrays, list(columns))
    start = draw(st.integers(0, size - 1))
    return batch.slice(start, draw(st.integers(1, size - start)))
