"""References in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from ...schemas.contract import Field
from .. import storage
from .files import files_version, reference_files
from .sources import SourceError, chosen, fields_of
from .spec import ReferenceSpec

_BATCH_ROWS = 1 << 16


class ParquetSource:
    """Files of which the needed columns are read. They may differ in the others."""

    def __init__(self, spec: ReferenceSpec) -> None:
        self._spec = spec
        self._files = reference_files(spec)

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        with _opened(self._files[0].source) as file:
            return fields_of(file.schema_arrow, self._spec)

    def batches(self) -> Iterator[pa.RecordBatch]:
        columns = list(self._spec.columns)
        for listed in self._files:
            with _opened(listed.source) as file:
                chosen(file.schema_arrow, self._spec)
                yield from file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)

    def version(self) -> str:
        return files_version(self._files)


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with storage.named(path, "read"), storage.open_read(path) as file:
            yield pq.ParquetFile(
                pa.PythonFile(file, "r"),
                coerce_int96_timestamp_unit="us",
                page_checksum_verification=True,
            )
    except pa.ArrowException as error:
        raise SourceError(f"{path} is no Parquet file that can be read: {error}") from error


def open_source(spec: ReferenceSpec) -> ParquetSource:
    """The source of ``parquet:PATTERN``."""
    return ParquetSource(spec)
