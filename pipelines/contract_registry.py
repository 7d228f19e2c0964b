"""``millstream contract publish`` and ``contract fetch``: contracts in a schema registry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.contract import Contract, ContractError
from . import exit_codes

if TYPE_CHECKING:
    from ..transforms.kafka.subjects import Subjects

REFUSED = 1
"""The exit code where the registry does not hold the contract for compatible."""


def add_parsers(commands: Any) -> None:
    """Add ``publish`` and ``fetch`` to the subparsers of ``millstream contract``."""
    publish = commands.add_parser(
        "publish",
        help="register a contract in a schema registry",
        description="Register the contract's schema, with the whole document in it, as the next "
        "version of a subject, if the registry holds it for compatible. Published twice, it is "
        "there once.",
        epilog="exit codes: 0 it is there; 1 the registry refuses it, or does not answer; "
        "2 a mistake",
    )
    publish.add_argument("file", metavar="FILE", help="an ODCS 3 document (YAML)")
    publish.add_argument("--format", choices=("avro", "json"), default="avro", help="%(default)s")
    publish.add_argument(
        "--schema", metavar="NAME", help="the schema object to take, where there are several"
    )
    publish.add_argument(
        "--dry_run", action="store_true", help="ask the registry, and register nothing"
    )
    fetch = commands.add_parser(
        "fetch",
        help="write a contract that was published, to the letter",
        description="Write the document of a contract that was published.",
        epilog="exit codes: 0 written; 1 the registry does not answer; 2 a mistake",
    )
    fetch.add_argument("--version", type=int, metavar="N", help="the newest by default")
    fetch.add_argument("-o", dest="output", metavar="FILE", help="standard output by default")
    for command in (publish, fetch):
        command.add_argument(
            "--registry",
            metavar="URL",
            required=True,
            help="with Confluent's API; USER:PASSWORD in SCHEMA_REGISTRY_BASIC_AUTH",
        )
        command.add_argument("--subject", metavar="NAME", required=True)


def run_publish(args: argparse.Namespace) -> int:
    """Run ``contract publish``; returns its exit code."""
    from ..schemas.odcs import parse_contract

    try:
        document = Path(args.file).read_text("utf-8-sig")
        contract = parse_contract(document, args.file, schema=args.schema)
    except (OSError, UnicodeDecodeError) as error:
        print(f"{args.file}: cannot be read: {error}", file=sys.stderr)
        return exit_codes.USAGE
    except ContractError as error:
        print(error, file=sys.stderr)
        return exit_codes.USAGE
    return _asked(args, lambda subjects: _publish(subjects, contract, document, args))


def _asked(args: argparse.Namespace, ask: Callable[[Subjects], int]) -> int:
    """Ask the registry, and say what is wrong with it in one line."""
    try:
        from ..transforms.kafka.subjects import SubjectError, Subjects
    except ImportError as error:
        print(f"{error.name} is not installed; pip install 'millstream[kafka]'", file=sys.stderr)
        return exit_codes.USAGE
    from ..transforms.errors import Unavailable

    try:
        with Subjects(args.registry) as subjects:
            return ask(subjects)
    except SubjectError as error:
        print(error, file=sys.stderr)
        return exit_codes.USAGE
    except Unavailable as error:
        print(error, file=sys.stderr)
        return exit_codes.FAILED


def _publish(
    subjects: Subjects, contract: Contract, document: str, args: argparse.Namespace
) -> int:
    from ..transforms.kafka.subjects import registered_schema

    subject = args.subject
    try:
        schema = registered_schema(contract, document, args.format)
    except ValueError as error:
        print(f"{args.file}: {error}", file=sys.stderr)
        return exit_codes.USAGE
    if found := subjects.find(subject, schema):
        print(f"{subject}: is there already: version {found.version}, schema {found.number}")
        return exit_codes.OK
    newest = subjects.newest(subject)
    if newest is not None:
        fine = subjects.takes(subject, schema)
        verdict = "compatible" if fine else "not compatible"
        print(f"{subject}: the registry's verdict: {verdict} with version {newest}")
        if not fine:
            _explain(subjects, subject, newest, contract)
            return REFUSED
    if args.dry_run:
        print(f"{subject}: not registered: --dry_run")
        return exit_codes.OK
    made = subjects.register(subject, schema)
    print(f"{subject}: registered as version {made.version}, schema {made.number}")
    return exit_codes.OK


def _explain(subjects: Subjects, subject: str, version: int, new: Contract) -> None:
    """Say what is in the way, if the version that is there was published from a contract."""
    from ..schemas.evolution.compatible import judge
    from ..schemas.odcs import parse_contract
    from ..transforms.kafka.subjects import SubjectError

    try:
        fetched = subjects.fetch(subject, version)
        old = parse_contract(fetched.document, subject, schema=fetched.schema)
    except (SubjectError, ContractError):
        return
    for found in (*judge(old, new), *judge(new, old)):
        print(f"  {found.issue.place}: {found.issue.message}")


def run_fetch(args: argparse.Namespace) -> int:
    """Run ``contract fetch``; returns its exit code."""
    return _asked(args, lambda subjects: _fetch(subjects, args))


def _fetch(subjects: Subjects, args: argparse.Namespace) -> int:
    fetched = subjects.fetch(args.subject, args.version)
    if args.output is None:
        sys.stdout.write(fetched.document)
        return exit_codes.OK
    try:
        Path(args.output).write_bytes(fetched.document.encode())
    except OSError as error:
        print(f"{args.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return exit_codes.USAGE
    print(f"{args.output}: version {fetched.version} of {args.subject}", file=sys.stderr)
    return exit_codes.OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "publish": run_publish,
    "fetch": run_fetch,
}
