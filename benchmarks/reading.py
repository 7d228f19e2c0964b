"""Reading one file of clicks on one processor: here, and by the fastest library there is for it.

    python benchmarks/reading.py jsonl|csv|avro|parquet millstream|library FILE

Prints the rows and the seconds, imports not counted, as JSON. millstream reads, decodes, converts
to the contract's types, and judges every rule; the library reads, with nothing else done: of JSON
lines msgspec makes Structs and a list for each field, of CSV pyarrow makes strings, of Avro polars
and of Parquet pyarrow make columns.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["POLARS_MAX_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

HERE = Path(__file__).parent
FORMATS = ("jsonl", "csv", "avro", "parquet")
FIELDS = ("event_id", "user_id", "event_type", "page", "ts", "amount", "country")


def converted(lines: Path, form: str) -> Path:
    """The good records of a file of JSON lines in another format, made once and kept beside it.

    CSV is written as most write it: with quotes only where they are needed.
    """
    path = lines.with_suffix(f".{form}")
    if form == "jsonl" or path.exists():
        return path
    staged = path.with_name(f".{path.name}.staged")
    if form == "csv":
        _to_csv(converted(lines, "parquet"), staged)
    else:
        _encode(lines, form, staged)
    staged.rename(path)
    return path


def _to_csv(path: Path, out: Path) -> None:
    import duckdb

    time = "strftime(ts, '%Y-%m-%dT%H:%M:%S.%gZ')"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1; SET enable_progress_bar = false")
        rows = f"SELECT * REPLACE ({time} AS ts) FROM read_parquet('{path}')"
        connection.execute(f"COPY ({rows}) TO '{out}' (FORMAT csv)")


def _encode(lines: Path, form: str, path: Path) -> None:
    import pyarrow as pa
    from millstream.schemas.json.decoder import JsonDecoder
    from millstream.schemas.odcs import load_contract
    from millstream.transforms.write.formats import FORMATS as ENCODERS

    decoder = JsonDecoder(load_contract(HERE / "clicks.odcs.yaml"), judge=True)
    with lines.open("rb") as source, path.open("wb") as out:
        encoder = ENCODERS[form](out, decoder.schema)
        while found := source.readlines(8 << 20):
            payloads = pa.array([line.rstrip(b"\n") for line in found], pa.binary())
            encoder.write(decoder.decode(payloads).records)
        encoder.close()


def millstream(form: str, path: Path) -> Callable[[], int]:
    """Reads through the format's own reader, without a pipeline around it."""
    from millstream.schemas.odcs import load_contract
    from millstream.transforms.read.files import chunks, file_ranges, local_file

    contract = load_contract(HERE / "clicks.odcs.yaml")
    file = local_file(str(path))
    if form == "jsonl":
        from millstream.schemas.json.decoder import JsonDecoder
        from millstream.transforms.read.lines import Lines, cut_lines

        decoder = JsonDecoder(contract, judge=True)

        def read_lines() -> int:
            rows = 0
            for part in file_ranges([file]):
                for piece in cut_lines(chunks(part), part.start, part.end, 16 << 20):
                    if isinstance(piece, Lines):
                        rows += decoder.decode(piece.payloads).records.num_rows
            return rows

        return read_lines
    reader = _reader(form, contract)

    def read_records() -> int:
        return sum(
            getattr(piece, "decoded").records.num_rows  # noqa: B009 - a Piece, of a good file
            for part in reader.ranges([file])
            for piece in reader.read(part)
        )

    return read_records


def _reader(form: str, contract: Any) -> Any:
    if form == "csv":
        from millstream.schemas.csv.options import CsvOptions
        from millstream.transforms.read.csv import CsvReader

        return CsvReader(contract, CsvOptions(), judge=True)
    if form == "avro":
        from millstream.transforms.read.avro import AvroReader

        return AvroReader(contract, judge=True)
    from millstream.transforms.read.parquet import ParquetReader

    return ParquetReader(contract, judge=True)


def library(form: str, path: Path) -> Callable[[], int]:
    """Reads by the library that is fastest at it."""
    if form == "jsonl":
        return lambda: _msgspec(path)
    if form == "csv":
        import pyarrow as pa
        import pyarrow.csv as pv

        strings = pv.ConvertOptions(column_types=dict.fromkeys(FIELDS, pa.string()))
        one = pv.ReadOptions(use_threads=False)
        return lambda: len(pv.read_csv(path, read_options=one, convert_options=strings))
    if form == "avro":
        import polars

        return lambda: len(polars.read_avro(path))
    import pyarrow.parquet as pq

    return lambda: len(pq.read_table(path, use_threads=False))


def _msgspec(path: Path) -> int:
    from operator import attrgetter

    import msgspec

    fields = [(name, float | None if name == "amount" else str | None, None) for name in FIELDS]
    decode = msgspec.json.Decoder(msgspec.defstruct("Click", fields, gc=False)).decode
    rows = 0
    with path.open("rb") as file:
        while lines := file.readlines(176_000):
            clicks: list[Any] = list(map(decode, lines))
            for name in FIELDS:
                list(map(attrgetter(name), clicks))
            rows += len(clicks)
    return rows


def main() -> None:
    form, who, name = sys.argv[1:]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import pyarrow as pa

    pa.set_cpu_count(1)
    read = (millstream if who == "millstream" else library)(form, Path(name))
    read()  # what is imported when it is first used, and the file into the page cache
    start = time.perf_counter()
    rows = read()
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
