"""Are two aggregate outputs the same?

    python benchmarks/compare.py A B [--dead A_DEAD B_DEAD]

An output is a Parquet file or a folder of them (names that start with ``_`` or ``.`` are not part
of it) with window_start, window_end, page, event_type, events, revenue; or CSV files with these
columns in this order and no header. Same keys, same counts, sums within 1e-9 of each other. A
group without any amount has no sum in SQL and 0 elsewhere: here the two are equal.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

TOLERANCE = 1e-9

DIFFERENCE = f"""
WITH a AS ({{a}}), b AS ({{b}})
SELECT count(b.start), count(*) FILTER (a.start IS NULL), count(*) FILTER (b.start IS NULL),
    count(*) FILTER (a.events <> b.events),
    count(*) FILTER (isnan(a.revenue) <> isnan(b.revenue) OR abs(a.revenue - b.revenue)
        > {TOLERANCE} * greatest(abs(a.revenue), abs(b.revenue), 1e-300)),
    coalesce(sum(a.events), 0), coalesce(sum(b.events), 0),
    (SELECT count(*) - count(DISTINCT (start, stop, page, event_type)) FROM b)
FROM a FULL JOIN b USING (start, stop, page, event_type)
"""
NORMAL = """
SELECT epoch_us(window_start::TIMESTAMPTZ) AS start, epoch_us(window_end::TIMESTAMPTZ) AS stop,
    {keys}, events::BIGINT AS events, coalesce(revenue::DOUBLE, 0) AS revenue
FROM {source}
"""
CSV = """
read_csv({files}, header = false, columns = {{'window_start': 'TIMESTAMPTZ',
    'window_end': 'TIMESTAMPTZ', 'page': 'VARCHAR', 'event_type': 'VARCHAR', 'events': 'BIGINT',
    'revenue': 'DOUBLE'}})
"""
PAGES = "page, event_type"
USERS = "user_id AS page, '' AS event_type"
"""By what the groups of an output are told apart; sessions are of users."""
EMPTY = """
SELECT 0 AS start, 0 AS stop, '' AS page, '' AS event_type, 0 AS events, 0.0 AS revenue WHERE false
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How output B differs from the reference A. ``groups`` are those of B."""

    groups: int
    surplus: int
    missing: int
    counts: int
    sums: int
    events_a: int
    events_b: int
    repeated: int

    @property
    def equal(self) -> bool:
        return not (self.surplus or self.missing or self.counts or self.sums or self.repeated)

    def __str__(self) -> str:
        if self.equal:
            return f"equal ({self.groups:,} groups)"
        parts = {
            "groups missing": self.missing,
            "groups too many": self.surplus,
            "groups repeated": self.repeated,
            "other counts": self.counts,
            "other sums": self.sums,
        }
        said = [f"{n:,} {what}" for what, n in parts.items() if n]
        more = self.events_b - self.events_a
        return ", ".join([*said, f"{more:+,} events"] if more else said)


def files(path: Path, suffix: str) -> list[Path]:
    """The files of an output, those of ``_millstream`` and the like left out.

    Raises:
        FileNotFoundError: there is no such output.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    if path.is_file():
        return [path]
    inside = (p for p in path.rglob(f"*{suffix}") if p.is_file())
    return sorted(
        p for p in inside if not any(s[0] in "_." for s in p.relative_to(path).parts if s)
    )


def normal(path: Path, keys: str = PAGES) -> str:
    """A query for an output in the one form that is compared."""
    for suffix, reader in ((".parquet", "read_parquet({files})"), (".csv", CSV)):
        found = [str(p) for p in files(path, suffix)]
        if found:
            return NORMAL.format(source=reader.format(files=found), keys=keys)
    return EMPTY


def ask(query: str) -> tuple[Any, ...]:
    """The one row that a query gives."""
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        row = con.execute(query).fetchone()
    assert row is not None
    return row


def compare(a: Path, b: Path, keys: str = PAGES) -> Comparison:
    """How the aggregate at ``b`` differs from the one at ``a``."""
    query = DIFFERENCE.format(a=normal(a, keys), b=normal(b, keys))
    return Comparison(*map(int, ask(query)))


def dead_letters(path: Path) -> int:
    """How many dead letters lie in a folder: lines of JSON, or rows of Parquet."""
    lines = sum(p.read_bytes().count(b"\n") for p in files(path, ".jsonl"))
    rows = [str(p) for p in files(path, ".parquet")]
    return lines + (int(ask(f"SELECT count(*) FROM read_parquet({rows})")[0]) if rows else 0)


def payloads(path: Path) -> str:
    """A query for the bytes of all dead letters: a column of Parquet, or base64 in JSON lines."""
    lines, rows = ([str(p) for p in files(path, suffix)] for suffix in (".jsonl", ".parquet"))
    if rows:
        return f"SELECT payload FROM read_parquet({rows})"
    if not lines:
        return "SELECT ''::BLOB AS payload WHERE false"
    columns = "{'payload': 'VARCHAR', 'payloadBytes': 'VARCHAR'}"
    source = f"read_json({lines}, format = 'newline_delimited', columns = {columns})"
    return f"SELECT from_base64(coalesce(payloadBytes, payload)) AS payload FROM {source}"


def other_bytes(a: Path, b: Path) -> int:
    """How many dead letters of A have not their exact bytes among those of B."""
    return int(ask(f"SELECT count(*) FROM (({payloads(a)}) EXCEPT ALL ({payloads(b)}))")[0])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("a", type=Path, help="the reference")
    parser.add_argument("b", type=Path)
    parser.add_argument("--dead", type=Path, nargs=2, default=[], metavar=("A", "B"))
    args = parser.parse_args(argv)
    result = compare(args.a, args.b)
    counts = [dead_letters(path) for path in args.dead]
    print(result)
    if counts:
        print(f"dead letters: {counts[0]:,} and {counts[1]:,}")
    return 0 if result.equal and len(set(counts)) < 2 else 1


if __name__ == "__main__":
    sys.exit(main())
