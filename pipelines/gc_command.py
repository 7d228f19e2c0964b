"""``millstream gc``: delete what dead attempts of a job left behind, and what is kept no longer.

The job's lock is held meanwhile, so that no run of it is under way.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from . import exit_codes, job_secrets, logs
from .arguments import add_ingest, job_flags
from .job import Job, Places, load_job
from .logs import ERROR, WARNING, say

if TYPE_CHECKING:
    from ..transforms.runs import RunStore
    from ..transforms.write.destination import Output
    from ..transforms.write.files import FilesDestination
    from ..transforms.write.garbage import Garbage
    from ..transforms.write.tables import TableDestination

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 36_500 * 86_400
"""Seconds. What is older is a slip, and its time one that not every service can hold."""


def add_parser(subparsers: Any) -> None:
    """Add the command ``gc`` to the subparsers of ``millstream``."""
    parser = subparsers.add_parser(
        "gc",
        help="delete what dead attempts of a job left behind, and what is kept no longer",
        description="Delete staged files, half written files and files in no manifest that dead "
        "attempts of a job left in its outputs and its state folder, and old manifests. Nothing "
        "that is committed is touched unless a flag below says from which age on, and nothing "
        "that a restart could need. Give it the job as ingest gets it.",
        epilog="exit codes: 0 done; 1 a file or a row could not be looked at or deleted; 2 a "
        "mistake in flags or job; 5 another run of the job is at work, and nothing was deleted",
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
    for flag, text in (
        (
            "--tokens_older_than",
            "also delete what was held or kept so that a commit happens once, of runs that were "
            "recorded before: tokens in tables, prepared.json, rows that were refused. Their plans "
            "and records stay. No shorter than --older_than needs to be",
        ),
        (
            "--states_older_than",
            "also delete partial states of time slices (of sessions: those that ended) before: "
            "what arrives later for them can correct no result any more. Files go as a whole",
        ),
        (
            "--dead_letters_older_than",
            "also delete dead letters that were made before, of tables whoever wrote them. Files "
            "go as a whole, with the run that was recorded before",
        ),
    ):
        parser.add_argument(flag, type=_age, metavar="AGE", help=text)
    parser.add_argument("--dry_run", action="store_true", help="only say what would be deleted")
    add_ingest(parser)


def _age(text: str) -> int:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected an age as 12h or 7d, got {text!r}")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if seconds > _LONGEST:
        raise argparse.ArgumentTypeError(f"expected an age of at most 36500d, got {text!r}")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Run ``gc``; returns its exit code.

    Raises:
        JobError: the job cannot be used.
    """
    job, places = load_job(arguments.job, job_flags(arguments))
    logs.use(job.log_format)
    job_secrets.fetch(job, places)
    from .runners import quiet_beam

    quiet_beam()
    from ..transforms.lock import Locked, LockLost
    from ..transforms.storage import StorageError
    from .outputs import job_outputs
    from .quarantine import quarantine_outputs

    outputs, ledger, store = job_outputs(job, places)
    aside = quarantine_outputs(job, outputs, places)
    sessions = _session_windows(job, places)
    try:
        if not store.runs():
            print(f"no run of this job was ever begun in {store.home}: nothing to delete")
            return exit_codes.OK
        with store.lock("gc", wait_seconds=job.wait) as lock:
            sweep = _Sweep(store, lock.check, arguments.dry_run, job.retry_seconds)
            sweep.garbage([*outputs, *aside, ledger], _before(arguments.older_than))
            if (age := arguments.tokens_older_than) is not None:
                sweep.tokens([*outputs, ledger], _before(age))
            if (age := arguments.states_older_than) is not None:
                sweep.states(outputs, sessions, _before(age))
            if (age := arguments.dead_letters_older_than) is not None:
                sweep.dead_letters(outputs, _before(age))
    except Locked as error:
        say(str(error), ERROR)
        return exit_codes.REFUSED
    except (StorageError, LockLost) as error:
        say(str(error), ERROR)
        return exit_codes.FAILED
    print(sweep.summary())
    return exit_codes.FAILED if sweep.failed else exit_codes.OK


def _before(age: int) -> float:
    return time.time() - age


def _session_windows(job: Job, places: Places) -> set[str]:
    """The aggregates whose windows are sessions.

    Raises:
        JobError: a window cannot be used.
    """
    from ..schemas.aggregates.functions import AggregateError
    from ..schemas.aggregates.windows import Session, parse_window

    found = set()
    for i, aggregate in enumerate(job.aggregates):
        try:
            if isinstance(parse_window(aggregate.window), Session):
                found.add(aggregate.name)
        except AggregateError as error:
            raise places.error(("aggregates", i), str(error)) from None
    return found


class _Sweep:
    """Deletes and prints, or prints only. ``failed``: a service did not do what it was asked.

    All methods raise ``StorageError`` when a file cannot be looked at or deleted, and ``LockLost``.
    """

    def __init__(
        self, store: RunStore, check: Callable[[], None], dry_run: bool, patience: float
    ) -> None:
        from ..transforms.write.attempts import Attempts

        self.failed = False
        self._store = store
        self._runs = store.runs()
        self._check = check
        self._dry_run = dry_run
        self._attempts = Attempts(patience)
        self._deleted: dict[str, int] = {}  # path → bytes
        self._counts = {"row": 0, "token": 0}

    def summary(self) -> str:
        """What was deleted, in one line."""
        found = [_number(len(self._deleted), "file"), f"{sum(self._deleted.values()):,} bytes"]
        found += [_number(count, word) for word, count in self._counts.items() if count]
        return f"{'would delete' if self._dry_run else 'deleted'} {', '.join(found)}"

    def garbage(self, outputs: Sequence[Output], before: float) -> None:
        """What dead attempts left behind."""
        from ..transforms.intervals.keys import find_unnamed
        from ..transforms.write.files import FilesDestination
        from ..transforms.write.garbage import (
            find_garbage,
            find_leftovers,
            staging_of,
            unknown_staged,
        )

        home = self._store.home
        self._delete(home, find_leftovers(home, self._runs, before))
        self._delete(home, find_unnamed(self._store, before))
        folders = [staging_of(home)]
        for output in outputs:
            to = output.destination
            if isinstance(to, FilesDestination):
                self._delete(to.home, find_garbage(to, self._runs, before))
                folders.append(to.staging)
        for folder in dict.fromkeys(folders):
            if unknown := unknown_staged(folder, self._runs):
                say(
                    f"left alone in {folder}: {len(unknown)} staged files of runs that this job's "
                    "ledger does not know",
                    WARNING,
                )
        _say_unfinished(self._runs)

    def tokens(self, outputs: Sequence[Output], before: float) -> None:
        """What made sure that runs which are long recorded were committed once."""
        from ..transforms.write.retention import find_completed, forget_tokens, settled_runs
        from ..transforms.write.tables import TableDestination

        settled = settled_runs(self._store, before)
        self._delete(self._store.home, find_completed(self._store, settled))
        for output in outputs:
            to = output.destination
            if isinstance(to, TableDestination):
                self._rows(
                    to,
                    lambda to=to: forget_tokens(to, settled, before, dry_run=self._dry_run),
                    "token",
                    f"{to.place} (of runs recorded before {_minute(before)})",
                    "tokens stay as long as the service keeps them",
                )

    def states(self, outputs: Sequence[Output], sessions: set[str], before: float) -> None:
        """Partial states."""
        from ..schemas.aggregates.spec import SESSION_END, SLICE_START
        from ..transforms.write.files import FilesDestination
        from ..transforms.write.retention import old_states
        from ..transforms.write.tables import STATES_SUFFIX, TableDestination

        for output in outputs:
            to = output.destination
            if output.kind != "aggregates":
                continue
            if isinstance(to, FilesDestination):
                self._withdraw(to, old_states(to, self._runs, before))
            elif isinstance(to, TableDestination):
                column = SESSION_END if output.name in sessions else SLICE_START
                self._expire(to, STATES_SUFFIX, column, before, "partial states")

    def dead_letters(self, outputs: Sequence[Output], before: float) -> None:
        """Dead letters."""
        from ..transforms.write.files import FilesDestination
        from ..transforms.write.retention import LETTER_TIME, old_letters, settled_runs
        from ..transforms.write.tables import TableDestination

        for output in outputs:
            to = output.destination
            if output.kind != "dead_letters":
                continue
            if isinstance(to, FilesDestination):
                self._withdraw(to, old_letters(to, settled_runs(self._store, before)))
            elif isinstance(to, TableDestination):
                self._expire(to, "", LETTER_TIME, before, "dead letters")

    def _delete(self, home: str, found: Iterable[Garbage]) -> None:
        from ..transforms.write.garbage import delete_garbage

        for garbage in list(found):
            if garbage.path in self._deleted:
                continue  # two outputs can share a folder
            self._check()
            if not self._dry_run:
                delete_garbage(home, garbage)
            self._deleted[garbage.path] = garbage.bytes
            modified = _minute(garbage.modified)
            print(f"{garbage.bytes:>14,}  {modified}  {garbage.path} ({garbage.reason})")

    def _withdraw(self, to: FilesDestination, found: Sequence[Garbage]) -> None:
        """Delete committed files."""
        from ..transforms.write.retention import withdraw

        if found and not self._dry_run:
            self._check()
            withdraw(to, found)
        self._delete(to.home, found)

    def _expire(
        self, to: TableDestination, suffix: str, column: str, before: float, what: str
    ) -> None:
        self._rows(
            to,
            lambda: to.expire(f"{to.target}{suffix}", column, before, dry_run=self._dry_run),
            "row",
            f"{to.place}{suffix} ({what} before {_minute(before)})",
            f"{what} stay, since the service does not delete rows by their age for millstream; it "
            "may have a retention of its own",
        )

    def _rows(
        self,
        to: TableDestination,
        delete: Callable[[], int | None],
        word: str,
        told: str,
        refused: str,
    ) -> None:
        """Have a service delete something, and count it. One that fails does not stop others."""
        from ..transforms.write.errors import DestinationError, Unavailable

        self._check()
        try:
            count = self._attempts.call(to.service, delete)
        except (DestinationError, Unavailable) as error:
            say(str(error), ERROR)
            self.failed = True
            return
        if count is None:
            say(f"{to.place}: {refused}")
        elif count:
            self._counts[word] += count
            print(f"{count:>14,}  {word + 's':<16}  {told}")


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' if count != 1 else ''}"


def _say_unfinished(runs: dict[str, bool]) -> None:
    for run_id, unfinished in sorted(runs.items()):
        if unfinished:
            say(
                f"run {run_id} has not committed all that it prepared, and keeps its files; run it "
                "again to complete it",
                WARNING,
            )
