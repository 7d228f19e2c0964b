"""Delta: deltalake's ``write_deltalake``. Read back by pyarrow from the files of the log."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
from columns import SCHEMA
from deltalake import DeltaTable, Schema, write_deltalake

from native import Held, Way


def write(place: str, rows: pa.Table) -> Callable[[], None]:
    return lambda: write_deltalake(_path(place), rows, mode="append")


WAYS = (Way("write_deltalake", write),)


def prepare(place: str) -> None:
    DeltaTable.create(_path(place), Schema.from_arrow(SCHEMA))


def read(place: str) -> Held:
    table = DeltaTable(_path(place))
    paths = [unquote(urlsplit(uri).path) for uri in table.file_uris()]
    types = {f.name: str(f.type) for f in table.schema().fields if f.name in SCHEMA.names}
    return Held(ds.dataset(paths).to_table(SCHEMA.names).cast(SCHEMA), types)


def drop(place: str) -> None:
    shutil.rmtree(_path(place))


def _path(place: str) -> str:
    return place.removeprefix("delta:")
