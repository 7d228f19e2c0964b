"""Rows of many types, committed to a destination; filters of all kinds on them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.plan import Plan, Token
from millstream.transforms.receipts import Part, Receipt, content_digest
from millstream.transforms.runs import RunStore
from millstream.transforms.stored import AnyItem, Compare, Filter, IsIn, Stored, matching
from millstream.transforms.write.destination import Commit, Output
from millstream.transforms.write.stage import StagedFiles

NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
TEXTS = ("", "a", "A", "a.b", "a_b", "a%b", "a\\b", "a'b", 'a"b', "ä\nb", "items[0].price", "🦉")
CODES = ("TYPE", "RANGE", "ä'\\")

ROWS = Table(
    (
        Field("id", "string", required=True),
        Field("text", "string"),
        Field("n", "integer"),
        Field("small", "integer", storage="int16"),
        Field("flag", "boolean"),
        Field("at", "timestamp"),
        Field("day", "date"),
        Field("price", "decimal", precision=12, scale=2),
        Field("raw", "binary"),
        Field(
            "items",
            "array",
            items=Field(
                "item", "object", fields=(Field("field", "string"), Field("code", "string"))
            ),
        ),
    ),
    ("id",),
)


def row(n: int) -> dict[str, Any]:
    """A row like no other; of some, all that may be is null."""
    if n % 17 == 13:
        return {"id": f"r{n}", "items": []}
    return {
        "id": f"r{n}",
        "text": TEXTS[n % len(TEXTS)],
        "n": (n % 7) * (-1) ** n,
        "small": n % 5,
        "flag": n % 3 == 0,
        "at": NOON + dt.timedelta(microseconds=n % 11, days=n % 3),
        "day": NOON.date() + dt.timedelta(days=n % 4),
        "price": Decimal(n) / 4,
        "raw": bytes([n % 256, 0xFF]),
        "items": [
            {"field": TEXTS[(n + i) % len(TEXTS)], "code": CODES[(n * i) % 3]} for i in range(n % 3)
        ],
    }


def batch(rows: Iterable[Mapping[str, Any]], table: Table = ROWS) -> pa.RecordBatch:
    """Rows as they are staged."""
    given = list(rows)
    columns = [pa.array([r.get(f.name) for r in given], f.type) for f in table.schema]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def committed(output: Output, parts: Mapping[Part, Sequence[pa.RecordBatch]], run_id: str) -> None:
    """Commit batches, each in a file of its own."""
    store = RunStore(output.destination.home)
    token: Token = store.begin(Plan("job", "c", "1", run_id), run_id, reprocess=True).token
    receipts: list[Receipt] = []
    for part, batches in parts.items():
        for each in batches:
            files = StagedFiles(output, token, part)
            files.write(each)
            receipts += files.close()
    digest = content_digest(receipts)
    output.destination.commit(
        Commit(token, digest, tuple(receipts), output.tables, store.folder(token))
    )


def counted(batches: Iterable[pa.RecordBatch]) -> Counter[str]:
    """Rows, and how often each is there."""
    return Counter(repr(row) for each in batches for row in each.to_pylist())


def ids(stored: Stored, where: Filter) -> list[str]:
    """The ids of the rows that a filter lets through."""
    return sorted(i for b in stored.batches(["id"], where) for i in b.column("id").to_pylist())


def _compare(column: str, values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """A comparison with one of some values, or whether it is one of several."""
    compared = st.builds(
        Compare, st.just(column), st.sampled_from(["=", "<", "<=", ">", ">="]),
        st.sampled_from(values),
    )  # fmt: skip
    several = st.lists(st.sampled_from(values), min_size=1, max_size=4).map(tuple)
    return compared | st.builds(IsIn, st.just(column), several)


PATTERNS = ("*", "a*", "*b", "a*b", "a_*", "a%*", "*\\*", "items[*].price", "ä*b", "*'*", "A*")
_pattern = st.builds(matching, st.sampled_from(["text"]), st.sampled_from(PATTERNS + TEXTS[1:]))
_item = st.builds(matching, st.just("field"), st.sampled_from(PATTERNS + TEXTS[1:]))
_code = st.builds(Compare, st.just("code"), st.just("="), st.sampled_from((*CODES, "OTHER")))
_codes = st.builds(IsIn, st.just("code"), st.lists(st.sampled_from(CODES), min_size=1).map(tuple))
_items = st.lists(_item | _code | _codes, min_size=1, max_size=2).map(tuple)

CONDITIONS = st.one_of(
    _compare("text", TEXTS[1:]),
    _compare("n", (-5, -1, 0, 3, 6)),
    _compare("small", (0, 2, 4)),
    st.builds(Compare, st.just("flag"), st.just("="), st.booleans()),
    _compare("at", [NOON + dt.timedelta(microseconds=m, days=d) for m in (0, 5) for d in (0, 2)]),
    _compare("day", [NOON.date() + dt.timedelta(days=d) for d in (0, 1, 3)]),
    _compare("id", ["r1", "r2", "r30", "none"]),
    _pattern,
    st.builds(AnyItem, st.just("items"), _items),
)
FILTERS = st.lists(CONDITIONS, max_size=3).map(lambda found: Filter(tuple(found)))
