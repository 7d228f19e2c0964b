"""``millstream contract``: what a contract says and what of it is not enforced (``check``), and its
schema as others write one (``show``).

What compares versions is in :mod:`.contract_evolution`, what talks to a schema registry in
:mod:`.contract_registry`, what makes contracts of others' schemas in :mod:`.contract_import`.

Beam is not imported here: the check starts fast enough for an editor or a commit hook.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..schemas.contract import Contract, ContractError, Field, Rule
from . import contract_evolution, contract_import, contract_registry, exit_codes

FINDINGS = 1
"""The exit code of ``--strict`` where the contract asks what is not enforced."""

_RULES_SHOWN = 100  # characters of a value


def add_parser(subparsers: Any) -> None:
    """Add the command ``contract`` to the subparsers of ``millstream``."""
    contract = subparsers.add_parser("contract", help="look at a data contract")
    commands = contract.add_subparsers(dest="contract_command", metavar="COMMAND", required=True)
    check = commands.add_parser(
        "check",
        help="load a contract and say what of it is not enforced",
        description="Load an ODCS contract; print its fields, types and rules, then everything "
        "that it asks and the pipeline does not enforce.",
        epilog="exit codes: 0 it loads; 1 with --strict, something is not enforced; "
        "2 it does not load",
    )
    check.add_argument("--strict", action="store_true", help="exit 1 if there are findings")
    show = commands.add_parser(
        "show",
        help="write a contract's schema as others have it",
        description="Write the schema of a contract in another form, to standard output.",
        epilog="exit codes: 0 written; 2 it does not load, or cannot be said in that form",
    )
    show.add_argument(
        "--as", dest="form", metavar="FORM", required=True, choices=FORMS, help=", ".join(FORMS)
    )
    show.add_argument(
        "--dialect", metavar="NAME", default="duckdb", help="of sql: duckdb (default), postgresql"
    )
    for command in (check, show):
        command.add_argument("file", metavar="FILE", help="an ODCS 3 document (YAML)")
        command.add_argument(
            "--schema", metavar="NAME", help="the schema object to take, where there are several"
        )
        command.add_argument(
            "--event_time", metavar="FIELD", help="the field that holds the event time"
        )
    for module in (contract_evolution, contract_registry, contract_import):
        module.add_parsers(commands)


def run(args: argparse.Namespace) -> int:
    """Run one of the commands; returns its exit code."""
    if other := _OTHERS.get(args.contract_command):
        return other(args)
    from ..schemas.odcs import load_contract

    try:
        contract = load_contract(args.file, schema=args.schema, event_time=args.event_time)
    except ContractError as error:
        print(error, file=sys.stderr)
        return exit_codes.USAGE
    return _show(contract, args) if args.contract_command == "show" else _check(contract, args)


_OTHERS: dict[str, Callable[[argparse.Namespace], int]] = {
    **contract_evolution.COMMANDS,
    **contract_registry.COMMANDS,
    **contract_import.COMMANDS,
}


def _show(contract: Contract, args: argparse.Namespace) -> int:
    try:
        print(FORMS[args.form](contract, args.dialect))
    except ValueError as error:
        print(f"{args.file}: {error}", file=sys.stderr)
        return exit_codes.USAGE
    return exit_codes.OK


def _arrow(contract: Contract, dialect: str) -> str:
    from ..schemas.arrow import record_schema

    return record_schema(contract).to_string()


def _avro(contract: Contract, dialect: str) -> str:
    from ..schemas.arrow import record_schema
    from ..schemas.avro.schema import avro_schema

    return _json(avro_schema(record_schema(contract), contract.name))


def _bigquery(contract: Contract, dialect: str) -> str:
    from ..schemas.forms.bigquery import bigquery_schema

    return _json(bigquery_schema(contract))


def _iceberg(contract: Contract, dialect: str) -> str:
    from ..schemas.forms.iceberg import iceberg_schema

    return _json(iceberg_schema(contract))


def _json_schema(contract: Contract, dialect: str) -> str:
    from ..schemas.forms.json_schema import json_schema

    return _json(json_schema(contract))


def _sql(contract: Contract, dialect: str) -> str:
    from ..schemas.forms.ddl import create_table

    return create_table(contract, dialect)


def _msgspec(contract: Contract, dialect: str) -> str:
    from ..schemas.forms.struct_source import struct_source

    return struct_source(contract).rstrip()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


FORMS: dict[str, Callable[[Contract, str], str]] = {
    "arrow": _arrow,
    "avro": _avro,
    "bigquery": _bigquery,
    "iceberg": _iceberg,
    "jsonschema": _json_schema,
    "sql": _sql,
    "msgspec": _msgspec,
}
"""Form → what writes a contract in it, given an SQL dialect."""


def _check(contract: Contract, args: argparse.Namespace) -> int:
    print(*describe(contract), sep="\n")
    for finding in contract.findings:
        print(f"{args.file}:{finding.line} {finding.path}: {finding.message}")
    print(_verdict(args.file, contract))
    return FINDINGS if args.strict and contract.findings else exit_codes.OK


def describe(contract: Contract) -> Iterator[str]:
    """A contract as lines of text: a heading, then a table of fields."""
    yield f"{contract.name}: contract {contract.id}, version {contract.version}"
    if contract.event_time:
        yield f"event time: {contract.event_time}"
    if contract.primary_key:
        yield f"primary key: {', '.join(contract.primary_key)}"
    yield f"digest: {contract.digest}"
    yield ""
    yield from _table([("field", "type", "rules"), *_rows(contract.fields, "")])
    yield ""


def _table(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for name, kind, rules in rows:
        yield f"{name:{widths[0]}}  {kind:{widths[1]}}  {rules}".rstrip()


def _rows(fields: Iterable[Field], prefix: str) -> Iterator[tuple[str, str, str]]:
    for field in fields:
        yield from _row(field, prefix + field.name)


def _row(field: Field, path: str) -> Iterator[tuple[str, str, str]]:
    rules = ["required"] if field.required else []
    rules += map(_rule_text, field.rules)
    shown = path if path.isprintable() else repr(path)
    yield shown, _type_text(field), ", ".join(rules)
    yield from _rows(field.fields, f"{path}.")
    if field.items is not None:
        yield from _row(field.items, f"{path}[]")


def _type_text(field: Field) -> str:
    match field.type:
        case "integer" | "number":
            return field.storage
        case "decimal":
            return f"decimal({field.precision},{field.scale})"
    details = [repr(field.format)] if field.format else []
    details += [field.zone] if field.zone else []
    return f"{field.type}({', '.join(details)})" if details else field.type


def _rule_text(rule: Rule) -> str:
    if rule.value is True:
        return rule.kind
    value = rule.value
    text = "|".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = text if text.isprintable() else repr(text)
    text = text if len(text) <= _RULES_SHOWN else f"{text[:_RULES_SHOWN]}…"
    return f"{rule.kind} {text}"


def _verdict(file: str, contract: Contract) -> str:
    fields = f"{len(contract.fields)} field{'s' if len(contract.fields) != 1 else ''}"
    count = len(contract.findings)
    if not count:
        return f"{file}: loads; {fields}, all that it asks is enforced"
    return f"{file}: loads; {fields}, {count} finding{'s' if count != 1 else ''}"
