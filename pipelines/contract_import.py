"""``millstream contract import``: a contract made of somebody else's schema, or of samples."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.contract import ContractError
from . import exit_codes

if TYPE_CHECKING:
    from ..schemas.imports.imported import Imported

_TABLE = "bigquery:"


def add_parsers(commands: Any) -> None:
    """Add ``import`` to the subparsers of ``millstream contract``."""
    command = commands.add_parser(
        "import",
        help="make a contract of somebody else's schema, or of samples",
        description="Write an ODCS 3.1 document. What a contract cannot say, and the evidence for "
        "what was inferred, stand in it as comments.",
        epilog="exit codes: 0 written; 1 a service does not answer; 2 nothing to make one of",
    )
    command.add_argument(
        "file", metavar="FILE", nargs="+", help="several of samples; or bigquery:PROJECT.DATA.TABLE"
    )
    command.add_argument(
        "--from", dest="form", metavar="FORM", required=True, choices=FORMS, help=", ".join(FORMS)
    )
    command.add_argument("--name", help="of the schema object; by default, what the source says")
    command.add_argument("--id", help="of the contract; by default its name")
    command.add_argument("--version", help="of the contract; by default 1.0.0")
    command.add_argument("--schema", metavar="TABLE", help="of sql: the table, if it makes several")
    command.add_argument(
        "--dialect", default="duckdb", metavar="NAME", help="of sql: duckdb (default), postgresql, "
        "mysql, snowflake, tsql, …"
    )  # fmt: skip
    command.add_argument(
        "--tight", action="store_true", help="of samples: ranges and lengths become rules"
    )
    command.add_argument("-o", dest="output", metavar="FILE", help="standard output by default")


def run_import(args: argparse.Namespace) -> int:
    """Run ``contract import``; returns its exit code."""
    from ..schemas.imports.imported import CannotImport

    try:
        found = _import(args)
        text = _written(found, args)
    except ImportError as error:
        extra = "gcp" if error.name and error.name.startswith("google") else "import"
        print(f"{error.name} is not installed; pip install 'millstream[{extra}]'", file=sys.stderr)
        return exit_codes.USAGE
    except (CannotImport, ContractError) as error:
        print(error, file=sys.stderr)
        return exit_codes.USAGE
    except ConnectionError as error:
        print(error, file=sys.stderr)
        return exit_codes.FAILED
    if args.output is None:
        sys.stdout.write(text)
        return exit_codes.OK
    try:
        Path(args.output).write_text(text, "utf-8")
    except OSError as error:
        print(f"{args.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return exit_codes.USAGE
    return exit_codes.OK


def _import(args: argparse.Namespace) -> Imported:
    from ..schemas.imports.imported import CannotImport

    if len(args.file) > 1 and args.form != "samples":
        raise CannotImport(f"{args.file[1]}: of {args.form}, one file makes a contract")
    return FORMS[args.form](args)


def _written(found: Imported, args: argparse.Namespace) -> str:
    """The document, which is loaded once before anybody gets it.

    Raises:
        ContractError: no contract can be loaded of it, as of a field with a reserved name.
    """
    from ..schemas.imports.document import odcs_document
    from ..schemas.odcs import parse_contract

    source = args.file[0].removeprefix(_TABLE)
    stem = os.path.basename(source).partition(".")[0] or "records"
    found.name = args.name or found.name or stem
    found.id = args.id or found.id
    found.version = args.version or found.version
    files = ", ".join(args.file[:3]) + (", …" if len(args.file) > 3 else "")
    text = odcs_document(found, heading=[f"Made of {files} ({args.form})."])
    parse_contract(text, f"the contract of {args.file[0]}")
    return text


def _avro(args: argparse.Namespace) -> Imported:
    from ..schemas.imports.avro import import_avro

    return import_avro(args.file[0])


def _json_schema(args: argparse.Namespace) -> Imported:
    from ..schemas.imports.json_schema import import_json_schema

    return import_json_schema(args.file[0])


def _sql(args: argparse.Namespace) -> Imported:
    from ..schemas.imports.sql import import_sql

    return import_sql(args.file[0], args.dialect, args.schema)


def _bigquery(args: argparse.Namespace) -> Imported:
    if args.file[0].startswith(_TABLE):
        from .contract_bigquery import table_schema

        return table_schema(args.file[0].removeprefix(_TABLE))
    from ..schemas.imports.bigquery import import_bigquery

    return import_bigquery(args.file[0])


def _parquet(args: argparse.Namespace) -> Imported:
    from ..schemas.imports.arrow_types import import_parquet

    return import_parquet(args.file[0])


def _samples(args: argparse.Namespace) -> Imported:
    from ..schemas.imports.samples import import_samples

    return import_samples(args.file, tight=args.tight)


FORMS: dict[str, Callable[[argparse.Namespace], Imported]] = {
    "avro": _avro,
    "json-schema": _json_schema,
    "sql": _sql,
    "bigquery": _bigquery,
    "parquet": _parquet,
    "samples": _samples,
}
"""Form → what makes a contract of it."""

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"import": run_import}
