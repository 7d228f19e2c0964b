"""``millstream contract diff`` and ``contract compatible``: what changed between versions of a
contract, and whether what was written under one is read under another."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..schemas.contract import Contract, ContractError
from ..schemas.problems import one_line
from . import exit_codes

if TYPE_CHECKING:
    from ..schemas.evolution.changes import Change
    from ..schemas.evolution.compatible import Verdict
    from ..schemas.evolution.witness import Found

BREAKS = 1
"""The exit code where something breaks, or where it cannot be decided that nothing does."""

_SHOWN = 400  # characters of an example
_UNKNOWN = ("ignore", "keep", "reject")


def add_parsers(commands: Any) -> None:
    """Add ``diff`` and ``compatible`` to the subparsers of ``millstream contract``."""
    codes = (
        "exit codes: 0 nothing breaks; 1 something does, or it cannot be decided; "
        "2 a contract does not load"
    )
    diff = commands.add_parser(
        "diff",
        help="name what changed between two versions, and whom it breaks",
        description="Name every change from OLD to NEW. Each is judged for writers (is what they "
        "wrote under OLD refused under NEW?) and for readers of the tables that are written (is a "
        "column gone or of another type, or may it hold what OLD ruled out?).",
        epilog=codes,
    )
    diff.add_argument("old", metavar="OLD", help="an ODCS 3 document (YAML)")
    diff.add_argument("new", metavar="NEW", help="the version after it")
    compatible = commands.add_parser(
        "compatible",
        help="whether data written under one version are read under another",
        description="Judge versions of a contract as a schema registry does, the oldest first. "
        "backward: data of the last OLD are read under NEW; forward: data of NEW are read under "
        "the last OLD; full: both; transitive: with every OLD.",
        epilog=codes,
    )
    compatible.add_argument("old", metavar="OLD", nargs="+", help="versions, the oldest first")
    compatible.add_argument("new", metavar="NEW", help="the version to judge")
    modes = [f"{m}{t}" for t in ("", "_transitive") for m in ("backward", "forward", "full")]
    compatible.add_argument("--mode", choices=modes, default="backward", help="%(default)s")
    for command in (diff, compatible):
        command.add_argument("--json", action="store_true", help="write JSON")
        command.add_argument(
            "--schema", metavar="NAME", help="the schema object to take, where there are several"
        )
        command.add_argument(
            "--unknown_fields",
            choices=_UNKNOWN,
            default="ignore",
            help="what jobs do with fields that the contract does not name (ignore)",
        )


def run_diff(args: argparse.Namespace) -> int:
    """Run ``contract diff``; returns its exit code."""
    from ..schemas.evolution.changes import changes

    try:
        old, new = (_load(path, args.schema) for path in (args.old, args.new))
    except ContractError as error:
        print(error, file=sys.stderr)
        return exit_codes.USAGE
    found = changes(old, new, unknown=args.unknown_fields)
    if args.json:
        print(_json({"changes": [_change_said(c) for c in found], **_whole_said(old, new, found)}))
    else:
        _print_changes(old, new, found)
    return BREAKS if any(change.breaking for change in found) else exit_codes.OK


def _load(path: str, schema: str | None) -> Contract:
    from ..schemas.odcs import load_contract

    return load_contract(path, schema=schema)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _change_said(change: Change) -> dict[str, Any]:
    return {
        "path": change.place,
        "change": change.kind,
        "before": change.before,
        "after": change.after,
        "writers": change.writers,
        "readers": change.readers,
        "note": change.note,
        "writers_example": _text(change.writers_example),
        "readers_example": _text(change.readers_example),
    }


def _text(example: bytes | None) -> str | None:
    return None if example is None else example.decode()


def _whole_said(old: Contract, new: Contract, found: Sequence[Change]) -> dict[str, Any]:
    return {
        "old": {"id": old.id, "version": old.version, "digest": old.digest},
        "new": {"id": new.id, "version": new.version, "digest": new.digest},
        "breaking": sum(change.breaking for change in found),
    }


def _print_changes(old: Contract, new: Contract, found: Sequence[Change]) -> None:
    print(f"{new.name}: contract {old.id}, version {old.version} → {new.version}")
    if not found:
        print("no change")
        return
    rows = [("field", "change", "before", "after", "writers", "readers")]
    rows += [(c.place, c.kind, c.before, c.after, c.writers, c.readers) for c in found]
    print_table(rows)
    for change in found:
        place = change.place or new.name
        if change.note:
            print(f"{place}: {change.kind}: {change.note}")
        if change.writers_example:
            print(f"{place}: refused from now on: {_short(change.writers_example)}")
        if change.readers_example:
            print(f"{place}: not known to readers: {_short(change.readers_example)}")
    breaking = sum(change.breaking for change in found)
    count = f"{len(found)} change{'s' if len(found) != 1 else ''}"
    print(f"{count}, {breaking or 'none'} breaking")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first of which are headings, as a table without lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows[1:]:
        # not markup, whatever a contract holds
        table.add_row(*(Text(one_line(cell), _COLOURS.get(cell, "")) for cell in row))
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDE)
    console.print(table)


_WIDE = 200  # characters of a line that goes into a file
_COLOURS = {"breaks": "red", "may break": "yellow"}


def _short(example: bytes) -> str:
    text = one_line(example.decode())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def run_compatible(args: argparse.Namespace) -> int:
    """Run ``contract compatible``; returns its exit code."""
    from ..schemas.evolution.compatible import verdicts

    try:
        olds = [_load(path, args.schema) for path in args.old]
        new = _load(args.new, args.schema)
    except ContractError as error:
        print(error, file=sys.stderr)
        return exit_codes.USAGE
    found = list(verdicts(olds, new, args.mode, unknown=args.unknown_fields))
    compatible = all(verdict.compatible for verdict in found)
    if args.json:
        said = {"mode": args.mode, "compatible": compatible}
        print(_json({**said, "verdicts": [_verdict_said(v) for v in found]}))
    else:
        for verdict in found:
            _print_verdict(verdict, args.unknown_fields)
        print(f"{'compatible' if compatible else 'not compatible'} ({args.mode})")
    return exit_codes.OK if compatible else BREAKS


def _verdict_said(verdict: Verdict) -> dict[str, Any]:
    return {
        "direction": verdict.direction,
        "written_under": verdict.writer.version,
        "read_under": verdict.reader.version,
        "compatible": verdict.compatible,
        "issues": [
            {
                "path": one.issue.place,
                "aspect": one.issue.aspect,
                "message": one.issue.message,
                "decided": one.decided,
                "example": _text(one.example),
            }
            for one in verdict.found
        ],
    }


def _print_verdict(verdict: Verdict, unknown: str) -> None:
    from ..schemas.evolution.compatible import new_fields

    pair = f"written under {verdict.writer.version}, read under {verdict.reader.version}"
    print(f"{pair}: {'every record is read' if verdict.compatible else 'not every record is read'}")
    for one in verdict.found:
        print(f"  {one_line(one.issue.place)}: {one_line(one.issue.message)}")
        print(f"    {_shown(one)}")
    if added := new_fields(verdict.writer, verdict.reader):
        print(
            f"  note: {one_line(', '.join(added))}: only {verdict.reader.version} names it; of a "
            "record that held it before, unread, it is judged now"
        )
    gone = new_fields(verdict.reader, verdict.writer)
    if gone and unknown != "reject":
        print(f"  note: {one_line(', '.join(gone))}: not read (unknown_fields: {unknown})")


def _shown(found: Found) -> str:
    if found.example is None:
        return "cannot be decided: no record was found that shows it"
    return f"for example {_short(found.example)}"


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "diff": run_diff,
    "compatible": run_compatible,
}
