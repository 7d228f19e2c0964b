"""Delta tables in a folder, written and read by deltalake: the format needs no server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True)
class Lake:
    """A folder of tables: see :class:`tests.services.peers.Peer`."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def uri(self, table: str, query: str = "") -> str:
        place = f"delta:{self.path}/{table}"
        return f"{place}?{query}" if query else place

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        from deltalake import DeltaTable

        read = DeltaTable(self.path / table).to_pyarrow_table()
        kept = [column for column in schema if column.name in read.schema.names]
        return read.select([column.name for column in kept]).cast(pa.schema(kept))

    def refuse_negative(self, table: str, column: str) -> None:
        from deltalake import DeltaTable

        DeltaTable(self.path / table).alter.add_constraint(
            {"not_negative": f"{column} >= 0 OR {column} IS NULL"}
        )

    def interrupt_commit(self) -> tuple[str, str]:
        # What calls either of deltalake's two functions that add an entry with rows to the log.
        return "millstream.transforms.write.delta.commit:TableCommit", "make_visible"


def why_not() -> str:
    """Why it cannot be used here, and what to do; empty if it can."""
    return "" if find_spec("deltalake") else "deltalake is not installed; pip install -e '.[delta]'"


@contextmanager
def running() -> Iterator[Lake]:
    """An empty folder, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="millstream-delta-") as path:
        yield Lake(Path(path))
