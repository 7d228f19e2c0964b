"""``millstream reconcile``: whether two places hold the same rows, and which are missing."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from . import exit_codes, job_secrets, logs
from .arguments import add_ingest, job_flags
from .job import Job, JobError, Places, load_job
from .logs import ERROR, say

if TYPE_CHECKING:
    from .reconcile import Outcome, Question

DIFFERS = 1
"""Rows differ for no reason that is known, or it could not be found out."""
_OF_PLACES = {"contract", "schema", "event_time", "mask_key", "log_format", "secrets"}
"""Keys of a job that say something of two places that are no job's."""


def add_parser(subparsers: Any) -> None:
    """Add the command ``reconcile`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "reconcile",
        help="say whether source and destination hold the same rows, and name those that differ",
        description="Compare a job's input, read by its contract and steps as they are now, with "
        "what its output of records holds; or any two places. Partitions are compared by counts, "
        "sums and checksums, and rows only where these differ. Nothing is changed.",
        epilog="exit codes: 0 both hold the same, or there is a reason for every row that is "
        "missing; 1 they differ, or could not be read; 2 a mistake in flags, job or contract",
        allow_abbrev=False,
    )
    parser.add_argument(
        "places",
        nargs="*",
        metavar="URI",
        help="source and destination, in the place of a job, as parquet:DIR and duckdb:FILE/TABLE",
    )
    parser.add_argument(
        "--key",
        type=_list,
        default=(),
        metavar="COLUMNS",
        help="what tells rows apart; else the contract's",
    )
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN[:UNIT]",
        help="compare by partitions of this column, or by the hour, day or month of one; may be "
        "there again; else by the destination's own partitions, or by the day of the event time",
    )
    parser.add_argument(
        "--columns",
        type=_list,
        default=(),
        metavar="COLUMNS",
        help="compare these only; else all that both have",
    )
    parser.add_argument(
        "--from", dest="start", type=_moment, metavar="TIME", help="event times from here on (UTC)"
    )
    parser.add_argument(
        "--to", dest="end", type=_moment, metavar="TIME", help="event times before this (UTC)"
    )
    parser.add_argument(
        "--rows", type=int, default=10, metavar="N", help="rows of a kind to name (default: 10)"
    )
    parser.add_argument("--all", action="store_true", help="print every partition")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--report", metavar="FILE", help="write the report as JSON to this file")
    parser.add_argument(
        "--scratch",
        metavar="DIR",
        help="a folder for what waits meanwhile: of a job all its records, else 40 bytes a row",
    )
    add_ingest(parser)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _moment(text: str) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        said = f"expected a date or a time as 2026-11-29T12:00:00Z, got {text!r}"
        raise argparse.ArgumentTypeError(said) from None


def run(arguments: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run ``reconcile``; returns its exit code.

    Args:
        beam_flags: of the pipeline that reads a job's input.

    Raises:
        JobError: a flag, the job or its contract cannot be used, or a place cannot be compared.
    """
    from .runners import quiet_beam

    quiet_beam()
    from ..transforms.write.errors import DestinationError, Unavailable
    from .reconcile_source import Unread

    try:
        outcome = _outcome(arguments, beam_flags)
        _give(outcome, arguments)
    except (DestinationError, ValueError) as error:
        raise error if isinstance(error, JobError) else JobError(str(error)) from None
    except (OSError, Unavailable, Unread) as error:
        say(f"could not be compared: {error}", ERROR)
        return DIFFERS
    return exit_codes.OK if outcome.is_alike else DIFFERS


def _outcome(arguments: argparse.Namespace, beam_flags: list[str]) -> Outcome:
    from ..schemas.masking import Masking
    from .encryption import mask_key
    from .job_parts import job_contract
    from .reconcile import reconcile_places
    from .reconcile_job import reconcile_job

    if arguments.places:
        job, places = _of_places(arguments, beam_flags)
    else:
        job, places = load_job(arguments.job, job_flags(arguments))
    logs.use(job.log_format)
    job_secrets.fetch(job, places)
    contract = job_contract(job) if job.contract else None
    masking = Masking(contract, mask_key(job.mask_key, places)) if contract else None
    question = _question(arguments)
    if arguments.places:
        source, destination = arguments.places
        return reconcile_places(source, destination, question, contract, job.event_time, masking)
    assert masking is not None
    return reconcile_job(job, places, question, beam_flags, masking)


def _of_places(arguments: argparse.Namespace, beam_flags: list[str]) -> tuple[Job, Places]:
    """What flags say of two places, in the place of a job."""
    if len(arguments.places) != 2:
        raise JobError("name two places, source and destination, or a job with --job")
    if beam_flags:
        raise JobError(f"unrecognized arguments: {' '.join(beam_flags)}")
    flags = job_flags(arguments)
    if arguments.job or not flags.keys() <= _OF_PLACES:
        raise JobError("compare two places or a job, not both: leave out the job and its flags")
    said = {"name": "", "input": [], "contract": "", "dead_letters": "", "ledger": "", **flags}
    return Job(**said), Places(None, flags)


def _question(arguments: argparse.Namespace) -> Question:
    from ..transforms.reconcile import parse_by
    from .reconcile import Question

    try:
        by = tuple(map(parse_by, arguments.by))
    except ValueError as error:
        raise JobError(f"--by: {error}") from None
    return Question(
        tuple(arguments.key),
        by,
        tuple(arguments.columns),
        arguments.start,
        arguments.end,
        max(arguments.rows, 0),
        arguments.scratch,
    )


def _give(outcome: Outcome, arguments: argparse.Namespace) -> None:
    """Print the outcome, and write the report."""
    from .reconcile_text import as_report, print_text

    report = as_report(outcome) if arguments.json or arguments.report else None
    if arguments.report:
        from ..transforms import storage

        text = json.dumps(report, indent=2, ensure_ascii=False)
        storage.write_replace(storage.absolute(arguments.report), text.encode())
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print_text(outcome, everything=arguments.all)
