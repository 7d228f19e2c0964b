"""Contracts of samples: JSON lines, CSV with a header, Parquet; millions of rows.

Every row is looked at, a batch at a time, a column at a time. What is inferred holds for every row:
what the rows of a batch rule out is never considered again. The evidence stands beside each field
as a note.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import msgspec
import pyarrow as pa

from ..contract import Field
from .imported import CannotImport, Imported, Notes
from .profile import Columns, CsvText, Profile, columns_of

_LINES = 20_000  # at a time
_BYTES = 8 << 20
_FORMATS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
    ".csv": "csv", ".parquet": "parquet",
}  # fmt: skip

_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass
class _Counts:
    rows: int = 0
    bad: int = 0
    files: list[str] = field(default_factory=list)


def import_samples(files: Sequence[str], *, tight: bool = False) -> Imported:
    """The contract that all rows of some files keep.

    Args:
        files: with the endings ``.jsonl``, ``.ndjson``, ``.json``, ``.csv`` or ``.parquet``.
        tight: the ranges and lengths that were seen become rules; else they are only noted.

    Raises:
        CannotImport: a file cannot be read, has another ending, or there are no rows.
    """
    whole = Profile()
    counts = _Counts()
    for file in files:
        for columns, rows in _batches(file, counts):
            whole.add_rows(columns, rows)
            counts.rows += rows
    if not counts.rows:
        raise CannotImport(f"{', '.join(files)}: no rows to make a contract of")
    notes = Notes()
    fields = whole.fields((), notes, tight=tight)
    notes.add((), f"{counts.rows:,} rows")
    if counts.bad:
        notes.add((), f"{counts.bad:,} lines are no JSON objects: left out")
    event_time = _event_time(fields)
    if event_time:
        notes.add((event_time,), "taken for the event time")
    key = whole.key(fields)
    for name in key:
        notes.add((name,), f"{counts.rows:,} different values: taken for the key")
    return Imported("", fields, event_time=event_time, primary_key=key, notes=notes)


def _batches(file: str, counts: _Counts) -> Iterator[tuple[Columns, int]]:
    kind = _FORMATS.get(File(file).suffix.lower())
    if kind is None:
        endings = ", ".join(_FORMATS)
        raise CannotImport(f"{file}: samples have one of the endings {endings}")
    try:
        if kind == "parquet":
            yield from _parquet(file)
        elif kind == "csv":
            yield from _csv(file)
        else:
            yield from _json(file, counts)
    except FileNotFoundError as error:
        raise CannotImport(f"{file}: cannot be read: no such file") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise CannotImport(f"{file}: cannot be read: {error}") from error


def _json(file: str, counts: _Counts) -> Iterator[tuple[Columns, int]]:
    with open(file, "rb") as stream:
        while lines := stream.readlines(_BYTES):
            for start in range(0, len(lines), _LINES):
                rows = list(_objects(lines[start : start + _LINES], counts))
                if rows:
                    yield columns_of(rows), len(rows)


def _objects(lines: list[bytes], counts: _Counts) -> Iterator[dict[str, Any]]:
    remaining = iter(lines)
    while True:
        found: list[dict[str, Any]] = []
        try:
            found.extend(map(_decode, remaining))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            counts.bad += 1
            # extend() has kept what came before the culprit
            yield from found
            continue
        yield from found
        return


def _csv(file: str) -> Iterator[tuple[Columns, int]]:
    import pyarrow.csv as pc

    with open(file, encoding="utf-8-sig", newline="") as stream:
        header = next(csv.reader(stream), [])  # a quoted name may have several lines
    if not header:
        raise CannotImport(f"{file}: no header")
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise CannotImport(f"{file}: the header names the column {twice!r} twice: no job reads it")
    # Cells are taken as text: what they are is found out here, as the decoder will.
    convert = pc.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=False,
    )
    parse = pc.ParseOptions(newlines_in_values=True)
    with pc.open_csv(file, convert_options=convert, parse_options=parse) as reader:
        for batch in reader:
            columns: Columns = dict(
                zip(batch.schema.names, map(CsvText, batch.columns), strict=True)
            )
            yield columns, batch.num_rows


def _parquet(file: str) -> Iterator[tuple[Columns, int]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as source:
        for batch in source.iter_batches(_LINES * 5):
            named = zip(batch.schema.names, batch.columns, strict=True)
            yield dict(named), batch.num_rows


_TIMES = ("event_time", "eventtime", "event_timestamp", "occurred_at", "timestamp", "time", "ts",
          "created_at", "at")  # fmt: skip


def _event_time(fields: Iterable[Field]) -> str | None:
    """The time stamp that is always there, if there is but one, or one that is called so."""
    fields = list(fields)
    found = [f.name for f in fields if f.type == "timestamp" and f.required]
    if len(found) == 1:
        return found[0]
    named = [name for word in _TIMES for name in found if name.lower() == word]
    return named[0] if named else None
