"""Which reference data is read, and how: small, hashable and picklable."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from ...schemas.arrow import arrow_field
from ...schemas.contract import Contract, Field
from ...schemas.csv.options import CsvOptions
from ...schemas.enrich.spec import MAX_BYTES, Validity
from ..plan import InputFile

FILE_SCHEMES = ("parquet", "avro", "csv", "jsonl")
"""Schemes whose place is a pattern of files."""
_TYPELESS = ("csv", "jsonl", "kafka")


@dataclass(frozen=True)
class ReferenceSpec:
    """A reference, and what of it is needed.

    Attributes:
        uri: where it is: ``parquet:…``, ``csv:…``, ``jsonl:…``, ``avro:…`` and a pattern of files;
            ``duckdb:FILE/TABLE``, ``postgresql://…/TABLE``, ``iceberg:CATALOG/NAMESPACE.TABLE``,
            ``delta:PATH``; or ``kafka://HOST:PORT/TOPIC``.
        key: the columns that rows are found by.
        held: the columns that are taken.
        validity: the columns that say when a row is valid.
        fields: the columns that are read, with their types. Of formats that know no types, they are
            what is expected; of others, what was found at start.
        files: the files that were found at start, if no others are to be read.
    """

    uri: str
    key: tuple[str, ...]
    held: tuple[str, ...] = ()
    validity: Validity | None = None
    fields: tuple[Field, ...] = ()
    csv: CsvOptions = field(default_factory=CsvOptions)
    max_bytes: int = MAX_BYTES
    files: tuple[InputFile, ...] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        valid = self.validity.columns if self.validity else ()
        return tuple(dict.fromkeys((*self.key, *self.held, *valid)))

    @property
    def schema(self) -> pa.Schema:
        """The columns with their types."""
        return pa.schema([arrow_field(field) for field in self.fields])

    @property
    def contract(self) -> Contract:
        """What the rows of files that know no types must be."""
        return Contract("reference", "1", "reference", self.fields)

    @property
    def lacks_types(self) -> bool:
        """Whether its format does not say of which types columns are."""
        return self.uri.partition(":")[0] in _TYPELESS

    @property
    def place(self) -> str:
        """What messages call it: the URI without its options."""
        if self.uri.partition(":")[0] in FILE_SCHEMES:
            return self.uri  # a question mark is a part of the pattern
        return self.uri.partition("?")[0]
