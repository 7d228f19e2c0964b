"""Arrow types of fields, and back."""

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import arrow_type, field_of_arrow
from millstream.schemas.contract import Field, LogicalType

STORAGES = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]

SCALARS: tuple[LogicalType, ...] = ("string", "boolean", "date", "timestamp", "time")

scalars = st.one_of(
    st.sampled_from(SCALARS).map(lambda type: Field("f", type)),
    st.sampled_from(STORAGES).map(lambda storage: Field("f", "integer", storage=storage)),
    st.sampled_from(["float32", "float64"]).map(lambda s: Field("f", "number", storage=s)),
    st.tuples(st.integers(1, 76), st.integers(0, 76)).map(
        lambda p: Field("f", "decimal", precision=p[0], scale=min(p))
    ),
)


def with_more(inner):
    """Arrays and objects of such fields."""
    arrays = inner.map(lambda items: Field("f", "array", items=items))
    members = st.lists(inner, min_size=1, max_size=3).map(
        lambda fields: tuple(replace(f, name=f"f{i}") for i, f in enumerate(fields))
    )
    return arrays | members.map(lambda fields: Field("f", "object", fields=fields))


fields = st.recursive(scalars, with_more, max_leaves=6)


@given(fields)
def test_a_field_is_found_for_every_type_that_fields_have(field):
    found = field_of_arrow("other", arrow_type(field))
    assert (found.name, found.type) == ("other", field.type)
    assert arrow_type(found) == arrow_type(field)


@pytest.mark.parametrize(
    "type",
    [
        pa.null(),
        pa.binary(),
        pa.large_string(),
        pa.float16(),
        pa.timestamp("us"),
        pa.timestamp("ns", "UTC"),
        pa.time32("s"),
        pa.duration("us"),
        pa.month_day_nano_interval(),
        pa.decimal256(20, 2),
        pa.dictionary(pa.int32(), pa.string()),
        pa.map_(pa.string(), pa.string()),
        pa.list_(pa.binary()),
        pa.struct([pa.field("a", pa.null())]),
    ],
)
def test_a_type_that_no_field_has_is_refused(type):
    with pytest.raises(TypeError, match=r"of the Arrow type .*, which is no type of a contract"):
        field_of_arrow("f", type)
