"""The two places of a comparison, opened for the columns that they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pyarrow as pa

from ..stored.stored import Stored, open_stored
from ..write.destination import Output
from ..write.errors import DestinationError
from ..write.files import FilesDestination
from .columns import Compared, in_common
from .side import IDENTITY_SCHEMA

_UNTYPED = ("jsonl", "csv", "avro", "kafka")
"""Schemes of places that do not say the types of their columns."""


@dataclass(frozen=True)
class Place:
    """A place that can be read back.

    Attributes:
        any_name: of files, also those that other outputs have committed, or nobody.
        has_identity: rows have the columns ``_source`` and ``_position``, and are read with them.
        may_lack: there need not be anything yet.
    """

    output: Output
    any_name: bool = False
    has_identity: bool = False
    may_lack: bool = False

    @property
    def scheme(self) -> str:
        """What it is, as URIs say it."""
        return self.output.uri.partition(":")[0]

    def open(self, schema: pa.Schema | None) -> Stored:
        """The rows.

        Args:
            schema: the columns to give; ``None`` for all, as they are stored.

        Raises:
            DestinationError: it cannot be read back.
            StorageError: files cannot be listed.
        """
        if self.any_name and isinstance(self.output.destination, FilesDestination):
            from ..stored.files import open_folder

            return open_folder(self.output.destination, schema)
        bare = replace(self.output, tables={})  # whose columns are those of the output as it is now
        return open_stored(bare, "data", schema)

    def columns(self) -> pa.Schema | None:
        """The columns that there are; ``None`` if there is nothing yet, which may be.

        Raises:
            DestinationError: there is no such place, or no file, and should be.
        """
        stored = self.open(None)
        if stored.found is None and not self.may_lack:
            raise DestinationError(f"{stored.place}: there is nothing to read: it does not exist")
        return stored.found

    def columns_among(self, schema: pa.Schema) -> pa.Schema:
        """Those of some columns that there are, of a place that does not say their types. Of JSON
        lines and topics these are all: what is null may be left out there."""
        if self.scheme in ("jsonl", "kafka"):
            return schema
        stored = self.open(schema)
        return pa.schema([field for field in schema if stored.has(field.name)])


class Opened(NamedTuple):
    """Both places, and what of them is compared."""

    source: Stored
    destination: Stored
    compared: Compared


def open_places(
    source: Place,
    destination: Place,
    *,
    typed: pa.Schema | None = None,
    columns: Sequence[str] | None = None,
) -> Opened:
    """Open two places for the columns that they have in common.

    Args:
        typed: the types of columns as a contract has them: those of places that do not say any.
        columns: those to compare; else all that both have.

    Raises:
        ValueError: nobody knows the types of columns, or a column is missing.
        DestinationError: a place cannot be read back.
        Unavailable: a service does not answer.
        StorageError: files cannot be listed.
    """
    places = (source, destination)
    known = [place.columns() if place.scheme not in _UNTYPED else None for place in places]
    types = typed or next((found for found in known if found is not None), None)
    if types is None:
        raise ValueError(
            "neither side says the types of its columns: name the contract that does, with "
            "--contract FILE"
        )
    ours, theirs = (
        place.columns_among(types) if found is None else found
        for place, found in zip(places, known, strict=True)
    )
    # BigQuery does not tell them apart.
    null_is_empty = "bigquery" in (source.scheme, destination.scheme)
    compared = replace(in_common(ours, theirs, columns), null_is_empty=null_is_empty)
    wanted = [
        pa.schema([*compared.schema, *(IDENTITY_SCHEMA if place.has_identity else ())])
        for place in places
    ]
    return Opened(source.open(wanted[0]), destination.open(wanted[1]), compared)
