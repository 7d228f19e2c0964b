"""``millstream backfill``: windows of the past made anew, compared, and published."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from . import exit_codes, job_secrets, logs
from .arguments import add_ingest, job_flags
from .job import JobError, load_job
from .logs import ERROR, say

_EPILOG = """
The history is read part by part, on several processes, and what has been read stays read: after a
kill the same command goes on. Nothing that is live is touched before --publish, which replaces the
windows of one part after another, each at once for those who read. A window belongs to the part in
which it begins.

Of a job that goes on (until: now, or a stream) only windows that have been given for good can be
made anew. An aggregate that was added lately lacks, in the windows that were open then, what had
been read before: backfill it once more when these have closed, up to the end of the last of them.
A stream that runs holds the job's lock: stop it to publish.

exit codes: 0 done; 1 failed, run it again; 2 a mistake in flags, job or contract; 3 records are
unaccounted for; 5 a run of the job is at work
"""


def add_parser(subparsers: Any) -> None:
    """Add the command ``backfill`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "backfill",
        help="make windows of the past anew, and show what would change before it is published",
        description="Run a new or corrected aggregate over history.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",
        allow_abbrev=False,
    )
    add_ingest(parser)
    add = parser.add_argument
    add(
        "--from", dest="start", required=True, metavar="TIME", help=_TIME.format("the first window")
    )
    add("--to", dest="end", required=True, metavar="TIME", help=_TIME.format("what follows"))
    add("--aggregate", nargs="+", default=[], metavar="NAME", help="only these (default: all)")
    add(
        "--source",
        choices=("output", "input"),
        help="read the records that the job has written (default), or its input files anew",
    )
    add("--partition", metavar="DURATION", help=_PARTITION)
    add(
        "--parallel",
        type=_positive,
        metavar="N",
        help="parts at a time (default: the processors that there are)",
    )
    add("--rows_per_second", type=_positive, metavar="N", help="read no more, over all processes")
    add("--report", metavar="FILE.json", help="write the comparison to a file too")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry_run", action="store_true", help="only say what there is to do")
    what.add_argument(
        "--publish", action="store_true", help="then put the new windows in place of the old"
    )


_PARTITION = "of event time in a part (default: 1d, or what holds whole windows)"
_TIME = "where {} begins: a date, or ISO 8601 (UTC if it names no zone)"


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace, beam_flags: list[str]) -> int:
    """Run ``backfill``; returns its exit code.

    Raises:
        JobError: the job or a flag cannot be used.
    """
    from .runners import quiet_beam

    quiet_beam()
    from ..transforms import storage
    from ..transforms.backfill.parts import PartError
    from ..transforms.backfill.spread import Broken
    from ..transforms.plan import PlanError
    from ..transforms.storage import StorageError
    from .backfill import Asked, backfill
    from .execute import settled

    storage.use_options(beam_flags)
    asked = Asked(
        start=arguments.start,
        end=arguments.end,
        aggregates=tuple(arguments.aggregate),
        source=arguments.source,
        partition=arguments.partition,
        parallel=arguments.parallel or _processors(),
        rows_per_second=arguments.rows_per_second,
        report=arguments.report,
        dry_run=arguments.dry_run,
        publish=arguments.publish,
    )
    try:
        job, places = load_job(arguments.job, job_flags(arguments))
        logs.use(job.log_format)
        job_secrets.fetch(job, places)
        return settled(lambda: backfill(job, places, asked, beam_flags))
    except (PartError, PlanError) as error:
        raise JobError(str(error)) from None
    except (StorageError, Broken) as error:
        say(str(error), ERROR)
        return exit_codes.FAILED


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_YEARS = (1000, 9000)
"""Of times that flags may say: their windows' edges lie in years that Python knows."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def instant(text: str, flag: str, zone: str) -> int:
    """Microseconds since 1970-01-01 UTC of a time as a flag says it.

    Args:
        zone: in which dates begin.

    Raises:
        JobError: it is none.
    """
    import datetime as dt

    from ..schemas.aggregates.windows import Daily

    try:
        found = dt.datetime.fromisoformat(text)
        if not _YEARS[0] <= found.year <= _YEARS[1]:
            raise ValueError
    except ValueError:
        said = f"{flag}: expected a date or a time such as 2026-01-01T06:00Z, got {text!r}"
        raise JobError(said) from None
    if _DATE.fullmatch(text) and zone != "UTC":
        import numpy as np

        noon = found.replace(hour=12, tzinfo=dt.UTC)  # within the date, in nearly every zone
        near = np.array([_micros(noon) - 12 * _HOUR, _micros(noon), _micros(noon) + 12 * _HOUR])
        starts = {int(start) for start in Daily(zone).slices(near)}
        begins = [start for start in sorted(starts) if _date_in(start, zone) == found.date()]
        if not begins:
            raise JobError(f"{flag}: {text} was left out of the calendar of {zone}")
        return begins[0]
    return _micros(found if found.tzinfo else found.replace(tzinfo=dt.UTC))


_HOUR = 3_600_000_000


def _micros(time: Any) -> int:
    import datetime as dt

    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _date_in(instant: int, zone: str) -> Any:
    from zoneinfo import ZoneInfo

    from ..transforms.receipts import moment

    return moment(instant).astimezone(ZoneInfo(zone)).date()
