"""``millstream generate``: made-up records of a contract, to try a job before there is data."""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, cast

from ..schemas.contract import Contract, ContractError
from . import exit_codes
from .job import JobError

_FORMATS = ("jsonl", "csv", "avro", "parquet")


def add_parser(subparsers: Any) -> None:
    """Add the command ``generate`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "generate",
        help="make up records of a contract",
        description="Write made-up records of a contract: JSON lines (.jsonl, .jsonl.gz), of "
        "which some are broken; or good records alone as .csv, .avro or .parquet.",
        epilog="exit codes: 0 written; 1 no file could be written; 2 a mistake in the arguments, "
        "or no record can keep the contract",
    )
    parser.add_argument("contract", metavar="CONTRACT", help="an ODCS 3 document (YAML)")
    parser.add_argument("count", metavar="N", type=_count, help="how many records")
    parser.add_argument(
        "--out", metavar="FILE", help="where to; the ending says the format. Else standard output"
    )
    parser.add_argument(
        "--broken", metavar="PART", type=_part, help="of JSON lines: the part, 0 to 1; 0.01 if not"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same records")
    parser.add_argument(
        "--start", metavar="TIME", type=_moment, default=datetime(2026, 1, 1, tzinfo=UTC),
        help="event time of the first record (ISO 8601); 2026-01-01T00:00:00Z if not said",
    )  # fmt: skip
    parser.add_argument(
        "--hours", type=float, default=24.0, help="event time from the first to the last record"
    )
    parser.add_argument("--schema", metavar="NAME", help="the schema object, of several")
    parser.add_argument("--event_time", metavar="FIELD", help="the field of the event time")


def run(args: argparse.Namespace) -> int:
    """Run ``generate``; returns its exit code.

    Raises:
        JobError: the arguments cannot be used.
    """
    from ..schemas.odcs import load_contract
    from ..schemas.samples import CannotGenerate, Samples

    form = _format(args.out)
    if form != "jsonl" and args.broken:
        raise JobError(f"--broken: {form} files hold good records alone; write JSON lines")
    broken = 0.0 if form != "jsonl" else 0.01 if args.broken is None else args.broken
    try:
        contract = load_contract(args.contract, schema=args.schema, event_time=args.event_time)
        samples = Samples(
            contract,
            args.count,
            seed=args.seed,
            broken=broken,
            start=args.start,
            span=timedelta(hours=args.hours),
        )
        with _output(args.out) as file:
            if form == "jsonl":
                for lines in samples.batches():
                    file.write(b"\n".join(lines) + b"\n")
            else:
                _encode(contract, samples.batches(), form, file)
    except (ContractError, CannotGenerate) as error:
        raise JobError(str(error)) from None
    except OSError as error:
        if args.out is None:
            raise  # the command line knows what becomes of standard output
        print(f"millstream: cannot write {args.out}: {error.strerror}", file=sys.stderr)
        return exit_codes.FAILED
    return exit_codes.OK


def _encode(contract: Contract, batches: Iterator[list[bytes]], form: str, file: BinaryIO) -> None:
    import pyarrow as pa

    from ..schemas.json.decoder import JsonDecoder
    from .runners import quiet_beam

    quiet_beam()
    from ..transforms.write.formats import FORMATS

    decoder = JsonDecoder(contract)
    encoder = FORMATS[form](file, decoder.schema)
    for lines in batches:
        encoder.write(decoder.decode(pa.array(lines, pa.binary())).records)
    encoder.close()


@contextmanager
def _output(path: str | None) -> Iterator[BinaryIO]:
    """The file, under another name until it is whole."""
    if path is None:
        yield sys.stdout.buffer
        return
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            if path.endswith(".gz"):
                import gzip

                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                    yield cast(BinaryIO, packed)
            else:
                yield file
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _format(path: str | None) -> str:
    if path is None:
        return "jsonl"
    ending = path.removesuffix(".gz").rpartition(".")[2]
    form = "jsonl" if ending in ("json", "ndjson") else ending
    if form not in _FORMATS or (form != "jsonl" and path.endswith(".gz")):
        known = ", ".join(f".{f}" for f in _FORMATS)
        raise JobError(f"--out: {path}: expected a name that ends with {known} or .jsonl.gz")
    return form


def _count(text: str) -> int:
    if not text.replace("_", "").isdigit():
        raise argparse.ArgumentTypeError(f"expected a number of records, got {text!r}")
    return int(text)


def _part(text: str) -> float:
    try:
        part = float(text)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise argparse.ArgumentTypeError(f"expected a part from 0 to 1, got {text!r}")
    return part


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a time such as 2026-01-01T00:00:00Z, got {text!r}"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
