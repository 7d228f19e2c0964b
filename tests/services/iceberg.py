"""An Iceberg catalog of our own: pyiceberg's SQL catalog in a SQLite file, and a local folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

NAME = "millstream-test"
NAMESPACE = "lake"


@dataclass(frozen=True)
class Lake:
    """A catalog with one namespace, in a folder: see :class:`tests.services.peers.Peer`."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def uri(self, table: str, query: str = "") -> str:
        place = f"iceberg:{NAME}/{NAMESPACE}.{table}"
        return f"{place}?{query}" if query else place

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        with self.opened() as catalog:
            read = catalog.load_table(f"{NAMESPACE}.{table}").scan().to_arrow()
        kept = [column for column in schema if column.name in read.schema.names]
        columns = [read[column.name].cast(column.type) for column in kept]
        return pa.Table.from_arrays(columns, schema=pa.schema(kept))

    def refuse_negative(self, table: str, column: str) -> None:
        raise NotImplementedError("Iceberg has no constraints but NOT NULL")

    def interrupt_commit(self) -> tuple[str, str]:
        return "pyiceberg.table:Transaction", "commit_transaction"

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The catalog, by pyiceberg's own means."""
        from pyiceberg.catalog.sql import SqlCatalog

        with SqlCatalog(
            NAME, uri=self._uri, warehouse=(self.folder / "warehouse").as_uri()
        ) as made:
            yield made

    @property
    def _uri(self) -> str:
        return f"sqlite:///{self.folder / 'catalog.db'}"

    def configured(self) -> Lake:
        """The same with what a process needs to know of it."""
        begin = f"PYICEBERG_CATALOG__{NAME.upper().replace('-', '_')}__"
        environment = {
            f"{begin}TYPE": "sql",
            f"{begin}URI": self._uri,
            f"{begin}WAREHOUSE": (self.folder / "warehouse").as_uri(),
        }
        return Lake(self.folder, environment)


def why_not() -> str:
    """Why it cannot be had here, and what to do; empty if it can."""
    there = find_spec("pyiceberg") and find_spec("sqlalchemy")
    return "" if there else "pyiceberg is not installed; pip install -e '.[dev]'"


@contextmanager
def running() -> Iterator[Lake]:
    """A catalog with an empty namespace, for as long as the block lasts."""
    with (
        tempfile.TemporaryDirectory(prefix="millstream-iceberg-") as path,
        pytest.MonkeyPatch.context() as patch,
    ):
        lake = Lake(Path(path)).configured()
        for name, value in lake.environment.items():
            patch.setenv(name, value)
        with lake.opened() as catalog:
            catalog.create_namespace(NAMESPACE)
        yield lake
