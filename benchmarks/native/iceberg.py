"""Iceberg: pyiceberg's ``append``. Read back by pyarrow from the files of the current snapshot."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
from columns import SCHEMA
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table

from native import Held, Way


def append(place: str, rows: pa.Table) -> Callable[[], None]:
    return lambda: _table(place).append(rows)


WAYS = (Way("pyiceberg append", append),)


def prepare(place: str) -> None:
    catalog, table = _parts(place)
    load_catalog(catalog).create_table(table, SCHEMA)


def read(place: str) -> Held:
    table = _table(place)
    files = list(table.scan().plan_files())
    assert not any(file.delete_files for file in files), "pyarrow knows nothing of delete files"
    paths = [unquote(urlsplit(file.file.file_path).path) for file in files]
    types = {f.name: str(f.field_type) for f in table.schema().fields if f.name in SCHEMA.names}
    return Held(ds.dataset(paths).to_table(SCHEMA.names).cast(SCHEMA), types)


def drop(place: str) -> None:
    catalog, table = _parts(place)
    load_catalog(catalog).purge_table(table)


def _table(place: str) -> Table:
    catalog, table = _parts(place)
    return load_catalog(catalog).load_table(table)


def _parts(place: str) -> tuple[str, str]:
    catalog, _, table = place.removeprefix("iceberg:").partition("/")
    return catalog, table
