"""Dead letters made by hand, in millstream's shape and in those of others."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from millstream.schemas.codes import Code
from millstream.schemas.dead_letters import SCHEMA
from millstream.schemas.rules import Violation
from millstream.schemas.table import table_of_schema
from millstream.transforms.dead_letters import Origin, dead_letter_batch
from millstream.transforms.plan import Plan
from millstream.transforms.receipts import Receipt, content_digest
from millstream.transforms.runs import RunStore
from millstream.transforms.write.destination import Commit, Output
from millstream.transforms.write.stage import StagedFiles

NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
TABLES: Any = {"data": table_of_schema(SCHEMA, ("id",))}
CODES = (Code.TYPE, Code.RANGE, Code.MALFORMED)
FIELDS = ("amount", "items[3].price", "items[12].price", "page", "")
PAYLOADS = (b'{"amount": "x"}', b"\xff\xfe\x00", b"", "ä\n🦉".encode(), None, bytes(range(256)))
GOOGLE = pa.schema(list(SCHEMA)[:6])
"""The columns of Google's dead-letter tables."""


def letters(
    numbers: Iterable[int], run_id: str = "r1", payloads: Sequence[bytes | None] = PAYLOADS
) -> pa.RecordBatch:
    """Dead letters by their numbers, each like no other; every third has two violations, every
    sixth the second time the same."""
    given = list(numbers)
    violations = []
    for at, n in enumerate(given):
        field = FIELDS[n % 5]
        violations.append(Violation(at, field, CODES[n % 3], f"wrong {n}"))
        if n % 3 == 0:
            again = field if n % 6 == 0 else "other"
            violations.append(Violation(at, again, CODES[n % 3], "again"))
    return dead_letter_batch(
        pa.array([f"events/{n % 2}.jsonl" for n in given]),
        pa.array([str(n) for n in given]),
        pa.array([payloads[n % len(payloads)] for n in given], pa.binary()),
        violations,
        Origin("validate", "clicks", run_id, "clicks", f"1.{run_id[-1]}.0"),
        attributes={"format": "jsonl", "odd": "'\"\\"},
    )


def commit(output: Output, batches: Sequence[pa.RecordBatch], run_id: str) -> None:
    """Commit batches to an output, as a run does."""
    store = RunStore(output.destination.home)
    plan = Plan("job", "c", "1", f"{output.name}{run_id}")
    token = store.begin(plan, run_id, reprocess=True).token
    receipts: list[Receipt] = []
    for batch in batches:
        files = StagedFiles(output, token, "data")
        files.write(batch)
        receipts += files.close()
    digest = content_digest(receipts)
    tables = dict(output.tables)
    output.destination.commit(Commit(token, digest, tuple(receipts), tables, store.folder(token)))


def google_rows() -> pa.RecordBatch:
    """Rows of a table of six columns: as v2 templates fill them (no bytes), and as others do."""
    rows = [
        {
            "timestamp": NOON + dt.timedelta(minutes=n),
            "payloadString": f'{{"n": {n}}}' if n % 2 else None,
            "payloadBytes": None if n % 2 else bytes([0xFF, n]),
            "attributes": [{"key": "k", "value": str(n)}] if n % 3 else [],
            "errorMessage": f"cannot parse {n}",
            "stacktrace": "at com.google.Template.run",
        }
        for n in range(12)
    ]
    return pa.RecordBatch.from_pylist(rows, GOOGLE)


def comparable(batches: Iterable[pa.RecordBatch], *, null_lists: bool = True) -> list[str]:
    """Rows in an order of their own, in a form that can be compared.

    Args:
        null_lists: an empty list is not the same as none.
    """
    rows = [row for batch in batches for row in batch.to_pylist()]
    if not null_lists:
        rows = [{k: None if v == [] else v for k, v in row.items()} for row in rows]
    return sorted(map(repr, rows))
