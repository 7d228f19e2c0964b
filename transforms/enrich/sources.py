"""Where references are read from: one module a kind of place, picked by the scheme of the URI.

A module has ``open_source(spec) -> Source``. It raises :class:`SourceError`, :class:`Unavailable`
and ``StorageError`` alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa

from ...schemas.arrow import field_of_arrow
from ...schemas.contract import Field
from ...schemas.problems import did_you_mean
from ...schemas.steps import StepError, plain_type
from ..errors import Unavailable as Unavailable
from ..read.errors import SourceError as SourceError
from .spec import ReferenceSpec


class Source(Protocol):
    """A reference that can be read."""

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        """The columns of ``spec.columns``, in their order.

        Args:
            expected: what columns should be, by name. Where types are not known, that is what they
                are; where they are, it is not looked at.
        """
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, of the columns of ``spec.fields``, in types that can be cast to theirs."""
        ...

    def version(self) -> str:
        """What is another text whenever the rows are others; empty if that is not known."""
        ...


_MODULES = {
    "parquet": "parquet",
    "avro": "records",
    "csv": "records",
    "jsonl": "records",
    "duckdb": "duckdb",
    "postgresql": "postgresql",
    "iceberg": "iceberg",
    "delta": "delta",
    "kafka": "kafka",
}
"""Scheme → the module of this package whose ``open_source`` makes it."""

_EXTRAS = {
    "duckdb": "sql",
    "postgresql": "postgresql",
    "iceberg": "iceberg",
    "delta": "delta",
    "kafka": "kafka",
}
"""Module → the extra of this package that installs what it imports."""


def open_source(spec: ReferenceSpec) -> Source:
    """The source of a reference.

    Raises:
        SourceError: the URI cannot be used, or what it needs is not installed.
        StorageError: files cannot be looked at.
    """
    scheme, colon, rest = spec.uri.partition(":")
    known = ", ".join(f"{name}:" for name in sorted(_MODULES))
    if not colon or scheme not in _MODULES:
        # What follows the scheme may hold a password: it stays out of the message.
        hint = did_you_mean(scheme, _MODULES) if colon else ""
        named = f"unknown scheme {scheme}:" if colon else "expected a scheme before the place"
        raise SourceError(f"from: {named}{hint}; known are {known}")
    if not rest:
        raise SourceError(f"from: {scheme}: names no place")
    module = _MODULES[scheme]
    try:
        found = importlib.import_module(f".{module}", __package__)
    except ImportError as exc:
        extra = _EXTRAS.get(module)
        if extra is None:
            raise
        raise SourceError(
            f"{scheme}: needs {exc.name}; install it with: pip install 'millstream[{extra}]'"
        ) from exc
    return found.open_source(spec)


@contextmanager
def as_source() -> Iterator[None]:
    """Say of what a destination's client refuses in the block that it is the source's."""
    from ..write.errors import DestinationError

    try:
        yield
    except DestinationError as error:
        raise SourceError(str(error)) from error.__cause__


def chosen(schema: pa.Schema, spec: ReferenceSpec) -> pa.Schema:
    """The columns that are needed.

    Raises:
        SourceError: one is not there.
    """
    for name in spec.columns:
        if name not in schema.names:
            hint = did_you_mean(name, schema.names)
            raise SourceError(f"{spec.place} has no column {name!r}{hint}")
    return pa.schema([schema.field(name) for name in spec.columns])


def fields_of(schema: pa.Schema, spec: ReferenceSpec) -> tuple[Field, ...]:
    """The fields that hold the values of the columns that are needed.

    Raises:
        SourceError: one is not there, or no field holds its values.
    """
    try:
        return tuple(
            field_of_arrow(column.name, plain_type(column.type, column.name))
            for column in chosen(schema, spec)
        )
    except StepError as error:
        raise SourceError(f"{spec.place}: {error}") from None


def shaped(batch: pa.RecordBatch, spec: ReferenceSpec) -> pa.RecordBatch:
    """The columns of ``spec.fields``, in their types.

    Raises:
        SourceError: a column has gone, or has become another since the start.
    """
    schema = spec.schema
    found = chosen(batch.schema, spec)
    arrays = []
    for column in schema:
        values, type = batch.column(column.name), found.field(column.name).type
        if type != column.type:
            try:
                values = values.cast(column.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                # Arrow's own words repeat a value.
                raise SourceError(
                    f"{spec.place}: {column.name} holds what is no {column.type}: it is of the "
                    f"type {type}"
                ) from None
        arrays.append(values)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def too_large(spec: ReferenceSpec, rows: int, held: int) -> SourceError:
    """What to raise where a reference takes more memory than it may.

    Args:
        rows: how many have been read.
        held: the bytes that they take.
    """
    return SourceError(
        f"{spec.place} is larger than max_bytes, {spec.max_bytes} bytes: its first {rows} rows "
        f"take {held}, of the columns that are needed. Give workers more memory and say a greater "
        "max_bytes, or have a reference with less in it"
    )
