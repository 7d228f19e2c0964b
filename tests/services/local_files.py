"""Parquet files in a folder, read as their manifest says, without a line of ours."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_STATES = "__states"


@dataclass(frozen=True)
class Folder:
    """A folder of tables: see :class:`tests.services.peers.Peer`."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def uri(self, table: str, query: str = "") -> str:
        return f"parquet:{self.path}/{table}?{query}" if query else f"parquet:{self.path}/{table}"

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        """States lie in the same folder as the results that are made of them."""
        part = "states" if table.endswith(_STATES) else "data"
        place = self.path / table.removesuffix(_STATES)
        found = []
        for manifest in sorted(place.glob("_millstream/manifests/*.json"))[-1:]:
            newest = json.loads(manifest.read_bytes())
            older = [manifest.parent / "older" / name for name in newest.get("older", [])]
            parts = [*(json.loads(path.read_bytes()) for path in older), newest]
            entries = {(e["output"], e["run_id"]): e for p in parts for e in p["entries"]}
            for entry in entries.values():
                found += [place / f["path"] for f in entry["files"] if f["part"] == part]
        return pa.concat_tables(
            [_read(path, schema) for path in found] or [schema.empty_table()],
            promote_options="default",
        )

    def refuse_negative(self, table: str, column: str) -> None:
        raise NotImplementedError("files take every row")

    def interrupt_commit(self) -> tuple[str, str]:
        # What writes the manifest: until it is there, no reader knows of the files.
        return "millstream.transforms.storage", "write_once"


def why_not() -> str:
    """Files can be had everywhere."""
    return ""


@contextmanager
def running() -> Iterator[Folder]:
    """An empty folder, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="millstream-files-") as path:
        yield Folder(Path(path))


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    # As a file object: from a path, partition folders would be read as columns.
    with path.open("rb") as file:
        read = pq.read_table(file)
    kept = [column for column in schema if column.name in read.schema.names]
    return read.select([column.name for column in kept]).cast(pa.schema(kept))
