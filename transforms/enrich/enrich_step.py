"""EnrichStep: records to records with columns from reference data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from ...schemas.arrow import arrow_type, field_of_arrow
from ...schemas.contract import Contract, Field
from ...schemas.enrich.misses import Misses, enriched, enriched_schema, is_left_out
from ...schemas.enrich.reference import NOT_THEN, BadReference, check_comparable
from ...schemas.enrich.spec import EnrichJob, Missing
from ...schemas.problems import did_you_mean
from ...schemas.steps import Attempt, Failure, StepError
from ..python_step import type_of_word
from .files import reference_files
from .references import HELD, HeldReference
from .shared import LAUNCH
from .sources import open_source
from .spec import FILE_SCHEMES, ReferenceSpec


class EnrichStep:
    """Columns of the reference's row whose key equals the record's, and is valid at its time.

    The reference is held in memory by every worker process; its columns must fit into
    ``job.max_bytes``, its index by key takes some 40 bytes a row besides, and while it is refreshed
    there are two of it. Files are those that were found at start, unless ``job.refresh`` is said.

    A record of whose key there is no row goes on with nulls, becomes a dead letter, or is left out,
    as ``job.missing`` says; a null in its key equals nothing. A record whose row has a value that
    no field can have (NaN, a time outside of the years 1 to 9999) becomes a dead letter.

    Args:
        job: what is added, from where.
        schema: of the batches that will come, identity columns included.
        contract: that of the records; its event time is that as of which rows are valid, and the
            values of its classified fields are not told.

    Raises:
        StepError: records and reference do not go together. The message says why.
        SourceError: the reference cannot be read as it is.
        StorageError: its files cannot be looked at.
        Unavailable: its service does not answer.
    """

    schema: pa.Schema
    """Of the batches that leave: the record's columns, those added, then the hidden ones."""

    def __init__(self, job: EnrichJob, schema: pa.Schema, contract: Contract | None = None) -> None:
        for name in job.on:
            if name not in schema.names:
                raise StepError(f"on: the records have no field {name}{_near(name, schema)}")
        self._on = list(job.on)
        self._add = dict(job.add)
        self._missing: Missing = job.missing
        self._refresh = job.refresh_seconds
        self._time = _event_time(contract, schema) if job.valid else None
        self._reference = _described(job, schema)
        types = dict(zip(self._reference.schema.names, self._reference.schema.types, strict=True))
        for ours, theirs in job.on.items():
            try:
                check_comparable(schema.field(ours), pa.field(theirs, types[theirs]))
            except BadReference as error:
                raise StepError(str(error)) from None
        self.schema = enriched_schema(schema, {new: types[old] for new, old in job.add.items()})
        self._misses = Misses(self._on, self._reference.place, contract, self._time)
        self._shared_as = (self._reference, self._refresh, LAUNCH)
        HELD.forget(self._shared_as)
        self._held: HeldReference | None = None

    @property
    def reference(self) -> ReferenceSpec:
        """What is read; see :func:`.references.reference_version`."""
        return self._reference

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}

    def attempt(self, batch: pa.RecordBatch) -> Attempt:
        """The records with their new columns, and those that failed.

        Raises:
            SourceError: the reference cannot be read as it is, when it is read first.
            StorageError: the same.
            Unavailable: the same, after some attempts.
        """
        if self._held is None:
            spec, refresh, _ = self._shared_as
            self._held = HELD.get(self._shared_as, lambda: HeldReference(spec, refresh))
        reference = self._held.get()
        times = batch[self._time] if self._time else None
        rows = reference.find(batch.select(self._on), times)
        missed = rows < 0
        failures = [Failure(row, error) for row, error in reference.errors(rows).items()]
        if self._missing == "dead" and missed.any():
            numbers = np.flatnonzero(missed)
            failures += self._misses.failures(batch, numbers, rows[numbers] == NOT_THEN)
        added = {new: reference.take(old, rows) for new, old in self._add.items()}
        return enriched(batch, added, self.schema, is_left_out(self._missing, missed), failures)


def _described(job: EnrichJob, schema: pa.Schema) -> ReferenceSpec:
    """The reference with the types of its columns, and its files if they are to stay the same."""
    spec = ReferenceSpec(
        uri=job.source,
        key=tuple(job.on.values()),
        held=tuple(dict.fromkeys(job.add.values())),
        validity=job.valid,
        csv=job.csv,
        max_bytes=job.max_bytes,
    )
    fields = open_source(spec).fields(_expected(job, schema, spec))
    files = None
    if job.refresh is None and spec.uri.partition(":")[0] in FILE_SCHEMES:
        files = reference_files(spec)
    return replace(spec, fields=fields, files=files)


def _expected(job: EnrichJob, schema: pa.Schema, spec: ReferenceSpec) -> Mapping[str, Field]:
    """What columns should be, where a format does not say: what is compared with a record's field
    is of its type."""
    fields = {name: Field(name, "timestamp") for name in (job.valid.columns if job.valid else ())}
    for ours, theirs in job.on.items():
        fields[theirs] = _like(schema.field(ours), theirs)
    if job.types and not spec.lacks_types:
        raise StepError(f"types: {spec.uri.partition(':')[0]}: has types of its own")
    for name, word in job.types.items():
        if name not in spec.columns:
            raise StepError(f"types: {name} is no column that is needed{_near(name, spec.columns)}")
        fields[name] = field_of_arrow(name, type_of_word("types", name, word))
    return fields


def _like(column: pa.Field, name: str) -> Field:
    """A field that can be equal to a column's values, and has others too."""
    try:
        found = field_of_arrow(name, column.type)
    except TypeError as error:
        raise StepError(f"on: {column.name} is {error}") from None
    if found.type == "integer" and found.storage != "uint64":
        return Field(name, "integer")
    return found


def _event_time(contract: Contract | None, schema: pa.Schema) -> str:
    name = contract.event_time if contract else None
    if name is None:
        raise StepError("valid: needs the records' event time, and the contract names none")
    expected = arrow_type(Field(name, "timestamp"))
    if name not in schema.names or schema.field(name).type != expected:
        raise StepError(f"valid: an earlier step does not leave {name}, the event time, as it is")
    return name


def _near(name: str, names: Any) -> str:
    return did_you_mean(name, names.names if isinstance(names, pa.Schema) else names)
