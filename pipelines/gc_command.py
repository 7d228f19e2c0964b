"""``millstream gc``: delete what dead attempts of a job left behind.

The job's lock is held meanwhile, so that no run of it is under way.
"""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING, Any

from . import exit_codes, logs
from .arguments import add_ingest, job_flags
from .job import load_job
from .logs import ERROR, WARNING, say

if TYPE_CHECKING:
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import Output

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_parser(subparsers: Any) -> None:
    """Add the command ``gc`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "gc",
        help="delete what dead attempts of a job left behind",
        description="Delete staged files, half written files and files in no manifest that dead "
        "attempts of a job left in its outputs, and old manifests. Nothing that is committed is "
        "touched, and nothing that a restart could need. Give it the job as ingest gets it.",
        epilog="exit codes: 0 done; 1 a file could not be listed or deleted; 2 a mistake in flags "
        "or job; 5 another run of the job is at work, and nothing was deleted",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--older_than",
        type=_age,
        default="7d",
        metavar="AGE",
        help="leave alone what was written since, as 12h or 7d (the default): longer than a "
        "pipeline of the job can run on after the process that started it has died",
    )
    parser.add_argument("--dry_run", action="store_true", help="only say what would be deleted")
    add_ingest(parser)


def _age(text: str) -> int:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected an age as 12h or 7d, got {text!r}")
    return int(found[1]) * _SECONDS[found[2]]


def run(arguments: argparse.Namespace) -> int:
    """Run ``gc``; returns its exit code.

    Raises:
        JobError: the job cannot be used.
    """
    job, places = load_job(arguments.job, job_flags(arguments))
    logs.use(job.log_format)
    from .runners import quiet_beam

    quiet_beam()
    from ..transforms.lock import Locked, LockLost
    from ..transforms.storage import StorageError
    from .prepare import job_outputs

    outputs, ledger, store = job_outputs(job, places)
    try:
        if not store.runs():
            print(f"no run of this job was ever begun in {store.home}: nothing to delete")
            return exit_codes.OK
        with store.lock("gc", wait_seconds=job.wait) as lock:
            before = time.time() - arguments.older_than
            found = _sweep([*outputs, ledger], store, before, lock.check, arguments.dry_run)
    except Locked as error:
        say(str(error), ERROR)
        return exit_codes.REFUSED
    except (StorageError, LockLost) as error:
        say(str(error), ERROR)
        return exit_codes.FAILED
    word = "would delete" if arguments.dry_run else "deleted"
    print(f"{word} {len(found)} file{'s' if len(found) != 1 else ''}, {sum(found):,} bytes")
    return exit_codes.OK


def _sweep(
    outputs: list[Output], store: RunStore, before: float, check: Any, dry_run: bool
) -> list[int]:
    """Delete and print; gives the bytes of each file."""
    from ..transforms.write.garbage import delete_garbage, find_garbage, unknown_staged

    runs = store.runs()
    deleted: dict[str, int] = {}
    for output in outputs:
        to = output.destination
        for garbage in list(find_garbage(to, runs, before)):
            if garbage.path in deleted:
                continue  # two outputs can share a folder
            check()
            if not dry_run:
                delete_garbage(to, garbage)
            deleted[garbage.path] = garbage.bytes
            written = time.strftime("%Y-%m-%d %H:%M", time.gmtime(garbage.modified))
            print(f"{garbage.bytes:>14,}  {written}  {garbage.path} ({garbage.reason})")
        if unknown := unknown_staged(to, runs):
            say(
                f"left alone in {to.staging}: {len(unknown)} staged files of runs that this job's "
                "ledger does not know",
                WARNING,
            )
    _say_unfinished(runs)
    return list(deleted.values())


def _say_unfinished(runs: dict[str, bool]) -> None:
    for run_id, unfinished in sorted(runs.items()):
        if unfinished:
            say(
                f"run {run_id} has not committed all that it prepared, and keeps its files; run it "
                "again to complete it",
                WARNING,
            )
