"""One load of clicks into one destination: here, and by its fastest native way.

    python benchmarks/loading.py stage WORK.json COMMIT
    python benchmarks/loading.py commit COMMIT
    python benchmarks/loading.py native SCHEME WAY PLACE ROWS

Each is a process of its own, which prints as JSON what it took: the seconds, imports and reading
the rows into memory not counted, and the most memory that the process ever had (resident, bytes).
``stage`` does what a :class:`Work` says, and leaves in the file COMMIT what ``commit`` commits.
"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import columns
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What to stage.

    ``whole``: have all batches in memory before the clock starts; else they come from the file one
    by one, and the time says nothing.
    """

    uri: str
    state: str
    run_id: str
    count: int
    rows: columns.Rows = "all"
    whole: bool = True


def stage(work: Work, commit: Path) -> dict[str, Any]:
    from millstream.schemas.table import Table, table_of_schema
    from millstream.transforms.plan import Plan
    from millstream.transforms.receipts import Part, content_digest
    from millstream.transforms.runs import RunStore
    from millstream.transforms.write.destination import Commit, Output
    from millstream.transforms.write.stage import stage_batches

    fields = table_of_schema(columns.SCHEMA).fields
    table = Table(fields, (columns.KEY,), columns.TIME, has_identity=True)
    tables: dict[Part, Table] = {"data": table}
    output = Output("records", work.uri, tables=tables, state=work.state)
    store = RunStore(work.state)
    token = store.begin(Plan("clicks", "clicks", "1", work.run_id), work.run_id).token
    batches = columns.changed(columns.read(work.count, identity=True), work.rows)
    if not output.destination.refuses:  # then a pipeline keeps no bytes either
        batches = (batch.drop_columns(["_payload"]) for batch in batches)
    given = list(batches) if work.whole else batches
    start = time.perf_counter()
    receipts = stage_batches(output, token, given)
    seconds = time.perf_counter() - start
    staged = Commit(token, content_digest(receipts), tuple(receipts), tables, store.folder(token))
    commit.write_bytes(pickle.dumps((output.destination, staged)))
    return {"seconds": seconds}


def commit(path: Path) -> dict[str, Any]:
    destination, staged = pickle.loads(path.read_bytes())
    start = time.perf_counter()
    destination.commit(staged)
    seconds = time.perf_counter() - start
    refused = Path(staged.run.path).glob("refused-*.parquet")
    return {"seconds": seconds, "refused": sum(map(_rows, refused))}


def native(scheme: str, number: int, place: str, count: int) -> dict[str, Any]:
    way = importlib.import_module(f"native.{scheme}").WAYS[number]
    rows = pa.Table.from_batches(columns.read(count))
    load = way.begin(place, rows)
    start = time.perf_counter()
    load()
    return {"seconds": time.perf_counter() - start}


def _rows(file: Path) -> int:
    return pq.read_metadata(file).num_rows


def peak() -> int:
    """The most memory that this process has had, in bytes.

    Not ``getrusage``: what that says begins with the memory of the process that started this one.
    """
    said = Path("/proc/self/status").read_text()
    line = next(line for line in said.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(verb: str, *arguments: str) -> None:
    verbs: dict[str, Callable[[], dict[str, Any]]] = {
        "stage": lambda: stage(
            msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Work), Path(arguments[1])
        ),
        "commit": lambda: commit(Path(arguments[0])),
        "native": lambda: native(arguments[0], int(arguments[1]), arguments[2], int(arguments[3])),
    }
    took = verbs[verb]()
    print(json.dumps({**took, "peak": peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
